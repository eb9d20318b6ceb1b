"""Physion v1.5 (neuroailab/physion_evaluator): clips of the unpacked archive, whole or as its evaluation shows them.

Its labels, frames and scores can't be compared with those of version 1 (:mod:`dias_video.data.physion`): never put
numbers of the two side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Literal, NamedTuple

from dias_video.checks import one_of
from dias_video.data.listed import ListedVideos
from dias_video.data.paths import files_in
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import VideoInfo
from dias_video.data.video_file import Decoder, VideoFiles
from dias_video.stores.files import read_json

Split = Literal["train", "test"]
Task = Literal["predict", "detect"]
SCENARIOS = ("collision", "drop", "towers", "link", "roll", "contain", "dominoes")
CLIPS = {"train": 5608, "test": 1035}  # number of clips in the archive
LABELS = "all_video_labels.json"
DOWNLOAD = "unpack https://storage.googleapis.com/physion-dataset/physion_dataset.zip there, or check data.root"


class Label(NamedTuple):
    """What the table of labels says about a clip."""

    contact: bool
    frame: int  # the frame of the first contact; without contact the middle of the clip


class Physion15Videos(ListedVideos):
    """One split of Physion v1.5, in natural order of the file names, with labels (1.0: there is contact).

    With a ``task``, a video is the few frames of a clip that the official evaluation shows (:func:`shown_frames`), in
    the same order and with the same repeats. Detection shows them backwards in time.

    Args:
        root: folder that holds ``physion_mp4s/{train,test}/*.mp4``, each folder with its ``all_video_labels.json``.
        split: ``train``, on which probes are fitted, or ``test``.
        task: ``predict`` (contact comes after the shown frames) or ``detect`` (contact is shown); None = whole clips.
        frame_gap: distance between shown frames, in tenths of a frame, rounded up to whole frames.
        num_frames: the least number of frames shown.
        scenarios: only these, of ``SCENARIOS``; None = all.
        exclude_bad: leave out the 41 test clips that the official evaluation leaves out.
        on_error: ``raise``, or ``skip_and_report`` to leave out clips that can't be used (``problems`` lists them).
        decoder: what decodes the videos (:class:`~dias_video.data.video_file.VideoFiles`).

    Raises:
        ValueError: folder or labels are missing or damaged, an option has an unknown value, or (with ``raise``) a clip
            can't be used.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split = "train",
        task: Task | None = None,
        frame_gap: int = 150,
        num_frames: int = 4,
        scenarios: Sequence[str] | None = None,
        exclude_bad: bool = True,
        on_error: OnError = "raise",
        decoder: Decoder = "pyav",
    ) -> None:
        self.split = one_of("split", split, Split)
        self.task = None if task is None else one_of("task", task, Task)
        self.frame_gap, self.num_frames = frame_gap, num_frames
        if unknown := set(scenarios or ()) - set(SCENARIOS):
            raise ValueError(f"unknown scenario {min(unknown)!r}; choose from {', '.join(SCENARIOS)}")
        self.folder = Path(root) / "physion_mp4s" / split
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is missing; {DOWNLOAD}")
        self.problems = Problems(on_error)
        labels = read_labels(self.folder / LABELS)
        found = files_in(self.folder, (".mp4",))
        if len(found) != CLIPS[split]:
            sentence = f"{self.folder} holds {len(found)} clips, the archive has {CLIPS[split]:,}"
            self.problems.note(str(self.folder), sentence, harmless=True)
        wanted = scenarios or SCENARIOS
        left_out = bad_stimuli() if split == "test" and exclude_bad else frozenset[str]()
        chosen = [f for f in self._labelled(found, labels, left_out) if scenarios_of(stem_of(f))[0] in wanted]
        self._videos = VideoFiles(decoder)
        self._paths = self._videos.indexed(self.folder, chosen, self.problems)
        if not self._paths:
            raise ValueError(f"{self.folder} leaves no clip; check data.root and data.scenarios")
        self._labels = [labels[stem_of(file)] for file in self._paths]
        self._infos = [self._facts(file, label) for file, label in zip(self._paths, self._labels, strict=True)]

    def _facts(self, file: Path, label: Label) -> VideoInfo:
        """Id (split/scenario/stem), length, label, scenario and, with a task, which frames of the clip are shown."""
        stem, length, shown = stem_of(file), self._videos.num_frames(file), None
        if self.task is not None:
            shown = tuple(shown_frames(self.task, stem, length, label.frame, self.frame_gap, self.num_frames))
        scenario = scenarios_of(stem)[0]
        count = length if shown is None else len(shown)
        return VideoInfo(f"{self.split}/{scenario}/{stem}", count, float(label.contact), scenario, shown)

    def times(self, index: int = 0) -> None:
        """None: clips are shown by their numbers of frames."""

    def label(self, index: int) -> Label:
        """What the table of labels says about a clip."""
        return self._labels[index]

    def _labelled(self, files: Sequence[Path], labels: dict[str, Label], left_out: frozenset[str]) -> list[Path]:
        """The clips to use; what is wrong with the others goes to ``problems``."""
        kept: dict[str, Path] = {}
        for file in files:
            stem = stem_of(file)
            if stem in left_out:
                self.problems.note(str(file), f"{file} is left out by the official evaluation", harmless=True)
            elif stem in kept:
                self.problems.found(str(file), f"{file} and {kept[stem].name} have one label; remove one")
            elif stem not in labels:
                self.problems.found(str(file), f"{file} has no label in {LABELS}; {DOWNLOAD}")
            elif not scenarios_of(stem):
                self.problems.found(str(file), f"the name of {file} tells no scenario ({', '.join(SCENARIOS)})")
            else:
                kept[stem] = file
        there = {stem_of(file) for file in files}
        for name in labels.keys() - there:
            self.problems.note(name, f"the label of {name} has no clip")
        return list(kept.values())


def stem_of(file: Path) -> str:
    """The name of a clip in the table of labels: its file name up to the first dot."""
    return file.name.partition(".")[0]


def scenarios_of(stem: str) -> tuple[str, ...]:
    """The scenarios that a clip belongs to: those named in its file name. A rolling object's collision is ``roll``.

    The official code looks at the whole path, so there the name of a folder can change scenarios and frames. Here it
    can't.
    """
    words = tuple(word for word in SCENARIOS if word in stem)
    return tuple(word for word in words if word != "collision" or "roll" not in words)


def shown_frames(
    task: Task, stem: str, length: int, contact: int, frame_gap: int = 150, num_frames: int = 4
) -> list[int]:
    """The frames of a clip that the official evaluation shows, in its order.

    Args:
        task: ``predict`` shows frames up to 45 (15 in collisions), ``detect`` frames around the contact, latest first.
        stem: the clip's name, which says whether it is a collision.
        length: number of frames of the clip; a frame outside of the clip is replaced by the nearest one.
        contact: the frame of the contact.
        frame_gap: distance from one to the next, in tenths of a frame, rounded up.
        num_frames: at least this many are shown, and at least 450 // ``frame_gap`` + 1; if there are fewer, the first
            is repeated in front.

    Raises:
        ValueError: a gap or number below 1, or a gap so wide that detection shows nothing.
    """
    if min(frame_gap, num_frames) < 1:
        raise ValueError(f"data.frame_gap={frame_gap} and data.num_frames={num_frames} must be at least 1")
    step = -(-frame_gap // 10)
    if task == "predict":
        last = 15 if "collision" in scenarios_of(stem) else 45
        wanted = list(range(last, -1, -step))[::-1]
    else:
        wanted = list(range(contact + 15, contact - 31, -step))[:-1]
        if not wanted:
            raise ValueError(f"data.frame_gap={frame_gap} leaves no frame to detect contact in; use 450 or less")
    shown = [min(max(frame, 0), length - 1) for frame in wanted]
    missing = max(num_frames, 450 // frame_gap + 1) - len(shown)
    return [shown[0]] * missing + shown


def bad_stimuli() -> frozenset[str]:
    """The test clips that the official evaluation leaves out."""
    text = (package_files("dias_video.data") / "physion15_bad_stimuli.txt").read_text()
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def read_labels(file: Path) -> dict[str, Label]:
    """Labels by clip.

    Raises:
        ValueError: the file is missing, or is no json object of objects with ``label`` (0 or 1) and
            ``contact_frame_label`` (0, 1, …).
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing; {DOWNLOAD}")
    labels = {}
    for name, row in read_json(file, DOWNLOAD).items():
        contact, frame = (row.get(key) for key in ("label", "contact_frame_label")) if isinstance(row, dict) else (2, 0)
        if contact not in (0, 1) or type(frame) is not int or frame < 0:
            raise ValueError(f"{file}: {name} must have label 0 or 1 and contact_frame_label 0, 1, …; {DOWNLOAD}")
        labels[name] = Label(bool(contact), frame)
    return labels
