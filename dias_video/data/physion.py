"""Physion (Bear et al., NeurIPS 2021): training, readout and test videos, as the official archives unpack them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files as package_files
from pathlib import Path

from dias_video.checks import one_of
from dias_video.data.listed import ListedVideos
from dias_video.data.paths import files_in
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import VideoInfo
from dias_video.data.text import read_table
from dias_video.data.video_file import Decoder, VideoFiles

SPLITS = ("training", "readout", "test")
SCENARIOS = ("collide", "contain", "dominoes", "drape", "drop", "link", "roll", "support")
# By the start of a stimulus' name: some names contain the word of a second scenario later on.
PREFIXES = {
    "pilot_it2_collision": "collide",
    "pilot-containment": "contain",
    "pilot_dominoes": "dominoes",
    "test": "drape",
    "pilot_it2_drop": "drop",
    "pilot_linking": "link",
    "pilot_it2_rollingSliding": "roll",
    "pilot_towers": "support",
}
LABELS = {"readout": "readout_labels.csv", "test": "labels.csv"}
DOWNLOAD = {  # of each table of labels
    "readout": "it is in no archive but in github.com/cogtoolslab/physics-benchmarking-neurips2021, data/",
    "test": "it lies in the archive of the test videos",
}


class PhysionVideos(ListedVideos):
    """One subset of Physion. ``readout`` and ``test`` have labels (1.0: red touches yellow before the end).

    Videos of ``readout`` and ``test`` without a label are left out. ``problems`` lists them, the labels without a
    video, and the stimuli on the authors' list of bad ones.

    Args:
        root: folder with ``PhysionTrainMP4s/<Scenario>_{training,readout}_MP4s/*.mp4`` and
            ``PhysionTestMP4s/<Scenario>/mp4s-redyellow/*.mp4`` (or ``Physion/<Scenario>/…`` as the archive has it).
        split: ``training``, ``readout`` or ``test``.
        scenarios: only these, of ``collide contain dominoes drape drop link roll support``; None = all.
        labels: the table of labels inside ``root``; None = ``readout_labels.csv`` or ``labels.csv`` beside the videos.
        exclude_bad: leave out the 26 test stimuli that the authors found faulty.
        on_error: ``raise``, or ``skip_and_report`` to leave out videos that can't be opened.
        decoder: what decodes the videos (:class:`~dias_video.data.video_file.VideoFiles`).

    Raises:
        ValueError: folders or labels are missing or damaged, or (with ``raise``) a video can't be opened.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "training",
        scenarios: Sequence[str] | None = None,
        labels: str | None = None,
        exclude_bad: bool = True,
        on_error: OnError = "raise",
        decoder: Decoder = "pyav",
    ) -> None:
        unknown = set(scenarios or ()) - set(SCENARIOS)
        if unknown:
            raise ValueError(f"unknown scenario {sorted(unknown)[0]!r}; choose from {', '.join(SCENARIOS)}")
        self.root, self.split = Path(root), one_of("split", split, SPLITS)
        self.problems = Problems(on_error)
        folder, found = self._find()
        if split in LABELS:
            table = read_labels(self._labels_file(folder, labels))
            found = self._matched(found, table)
        if split == "test" and exclude_bad:
            found = self._without_bad(found)
        if scenarios is not None:
            found = [(file, scenario) for file, scenario in found if scenario in scenarios]
        self._videos = VideoFiles(decoder)
        self._paths = self._videos.indexed(self.root, [file for file, _ in found], self.problems)
        if not self._paths:
            raise ValueError(f"{folder} leaves no {split} video; check data.root and data.scenarios")
        names = dict(found)
        self._infos = [
            VideoInfo(
                f"{split}/{names[file]}/{file.stem}",
                self._videos.num_frames(file),
                table[stimulus(file.stem)] if split in LABELS else None,
                names[file],
            )
            for file in self._paths
        ]

    def _find(self) -> tuple[Path, list[tuple[Path, str]]]:
        """The folder of the subset, and its videos with their scenarios, in natural order.

        Raises:
            ValueError: no such folder.
        """
        if self.split == "test":
            names, pattern = ["PhysionTestMP4s", "PhysionTestMP4s/Physion", "Physion", "."], "*/mp4s-redyellow"
        else:
            names, pattern = ["PhysionTrainMP4s", "videos", "."], f"*_{self.split}_MP4s"
        for name in names:
            folders = sorted((self.root / name).glob(pattern))
            if folders:
                break
        else:
            raise ValueError(f"{self.root} holds no {names[0]}/{pattern}; unpack the archive there or check data.root")
        videos: list[tuple[Path, str]] = []
        for folder in folders:
            place = (folder.parent.name if self.split == "test" else folder.name.split("_")[0]).lower()
            for file in files_in(folder, (".mp4",)):
                scenario = scenario_of(file.stem) or place
                if scenario != place:
                    self.problems.note(str(file), f"{file} lies in {folder} but is named as {scenario}; taken as that")
                videos.append((file, scenario))
        return self.root / name, videos

    def _labels_file(self, folder: Path, labels: str | None) -> Path:
        name = LABELS[self.split]
        places = [self.root / labels] if labels else [folder / name, folder.parent / name, self.root / name]
        for place in places:
            if place.is_file():
                return place
        raise ValueError(
            f"{places[0]} is missing, without it {self.split} videos have no labels; {DOWNLOAD[self.split]}"
        )

    def _matched(self, found: list[tuple[Path, str]], table: dict[str, float]) -> list[tuple[Path, str]]:
        """The videos that have a label. Mismatches are noted; a stimulus with two videos is a problem."""
        seen: dict[str, Path] = {}
        kept = []
        for file, scenario in found:
            name = stimulus(file.stem)
            if name in seen:
                self.problems.found(str(file), f"{file} and {seen[name]} are one stimulus; remove one")
            elif name not in table:
                self.problems.note(str(file), f"{file} has no label; it is left out")
            else:
                kept.append((file, scenario))
            seen.setdefault(name, file)
        for name in table:
            if name not in seen:
                self.problems.note(name, f"the label of {name} has no video")
        return kept

    def _without_bad(self, found: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
        bad = bad_stimuli()
        for file, _ in found:
            if stimulus(file.stem) in bad:
                sentence = f"{file} is on the authors' list of bad stimuli; it is left out"
                self.problems.note(str(file), sentence, harmless=True)
        return [(file, scenario) for file, scenario in found if stimulus(file.stem) not in bad]


def stimulus(name: str) -> str:
    """The stimulus named by a file stem or a row of a label table: the name without ``-redyellow`` and ``_img``."""
    return re.sub(r"-redyellow(?=_\d+$)", "", name.strip().removesuffix("_img"))


def scenario_of(name: str) -> str | None:
    """The scenario, by the start of a stimulus' name; None where no rule fits."""
    return next((scenario for prefix, scenario in PREFIXES.items() if name.startswith(prefix)), None)


def bad_stimuli() -> frozenset[str]:
    """The test stimuli that the authors found faulty."""
    text = (package_files("dias_video.data") / "physion_bad_stimuli.txt").read_text()
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def read_labels(file: Path) -> dict[str, float]:
    """Labels by stimulus, from a table whose first column names it; a column of row numbers may stand before it.

    The label is in the column ``ground truth outcome`` or ``label``, as True or False.

    Raises:
        ValueError: the table is missing or has another layout, a label is neither True nor False, or a stimulus has two
            labels.
    """
    rows = read_table(file)
    header = rows[0][1] if rows else []
    columns = [header.index(name) for name in ("ground truth outcome", "label") if name in header]
    if not columns:
        raise ValueError(f"{file} has no column 'ground truth outcome' in its first line; correct the table")
    numbered = all(row[0].isdecimal() for _, row in rows[1:])
    table: dict[str, float] = {}
    for line, row in rows[1:]:
        if len(row) <= max(columns[0], numbered):
            raise ValueError(f"{file}, line {line} has {len(row)} of {len(header)} columns; correct the table")
        value = {"true": 1.0, "false": 0.0}.get(row[columns[0]].strip().lower())
        name = stimulus(row[numbered])
        if value is None:
            raise ValueError(f"{file}, line {line}: the label must be True or False; correct the table")
        if table.setdefault(name, value) != value:
            raise ValueError(f"{file}, line {line}: {name} has two labels; correct the table")
    return table
