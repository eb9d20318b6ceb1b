"""Named splits of public data sets, and a check whether given videos are one of them.

Papers use the same words for different videos. For example, YouTube-VIS publishes no masks for its validation set, so
"YTVIS validation" is a part of the training set, and different papers use different parts. A split is listed here only
if it is a public fact. Where the number of videos is missing, it could not be confirmed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dias_video.data.chosen import places
from dias_video.data.physion import PhysionVideos, stimulus
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.source import FileSource, VideoSource


@dataclass(frozen=True)
class Split:
    """A set of videos that a score can refer to."""

    rule: str  # which videos belong to it
    videos: int | None  # number of videos; None: not confirmed
    fact: str  # the publication that states it
    sources: tuple[str, ...]  # classes that read it
    options: Mapping[str, Any] = field(default_factory=dict)  # options that the source must have
    file: str = ".*"  # name of the json of masks, or of a video's first file, as a regular expression
    part: tuple[int | None, int | None] = (None, None)  # slice of the videos in the file's order
    total: int | None = None  # number of videos in the file, where the split is a part of them
    fingerprint: str | None = None  # fingerprint of the videos' names, where these are public


class Certified(NamedTuple):
    """What is known about the videos that were scored."""

    fingerprint: str  # see ``fingerprint_of``
    verified: bool  # whether it equals the public fingerprint; False: none is known


def _movi(variant: str, split: str, videos: int | None) -> Split:
    rule = f"all records of `{split}`" + (": held-out objects" if split == "test" else "")
    fact = (
        f"TensorFlow Datasets movi_{variant} 1.0.0 as Kubric publishes it; its page: about 9,750 for training, 250 for"
    )
    return Split(rule, videos, f"{fact} validation", ("MoviVideos",), {"split": split}, rf"movi_{variant}-{split}\..*")


def _ytvis(rule: str, videos: int, part: tuple[int | None, int | None] = (None, None)) -> Split:
    fact = "YouTube-VIS 2021 release notes: 2,985 training, 421 validation and 453 test videos, masks of training only"
    fact += "" if part == (None, None) else "; data preparation of VideoSAUR (Zadaianchuk et al., 2023)"
    file = r"(instances(_train)?|train)\.json"
    return Split(rule, videos, fact, ("YouTubeVIS",), {"split": "train"}, file, part, total=2985)


def _hq(name: str, videos: int) -> Split:
    fact = "HQ-YTVIS (Ke et al., 2022): YouTube-VIS 2019's 2,238 training videos with finer masks, cut anew"
    return Split(f"all videos of ytvis_hq-{name}.json", videos, fact, ("YouTubeVIS",), {}, rf"ytvis_hq-{name}\.json")


def _davis(year: int, split: str, videos: int, fingerprint: str) -> Split:
    fact = f"ImageSets of DAVIS-{year}"
    options = {"year": year, "split": split}
    return Split(f"the list {split}.txt", videos, fact, ("DavisVideos",), options, fingerprint=fingerprint)


def _physion(rule: str, videos: int, split: str, fingerprint: str) -> Split:
    fact = "Physion (Bear et al., 2021), its label tables"
    return Split(rule, videos, fact, ("PhysionVideos",), {"split": split}, fingerprint=fingerprint)


def _recipe(name: str, split: str, videos: int, fingerprint: str) -> Split:
    fact = f"configs/recipe/{name}.yaml"
    variant = name.partition("-")[0]
    rule = f"clips 0 to {videos - 1} that recipe={name} makes"
    options = {"split": f"{variant}/{split}"}
    return Split(rule, videos, fact, ("SimulatedVideos",), options, part=(0, videos), fingerprint=fingerprint)


_COCO = Split(
    "all images of val2017", 5000, "COCO 2017", ("CocoImages", "PanopticImages"), {"split": "val2017"}, r".*val2017.*"
)
SPLITS = {
    **{f"movi_{variant}/train": _movi(variant, "train", None) for variant in "cde"},
    **{f"movi_{variant}/validation": _movi(variant, "validation", 250) for variant in "cde"},
    **{f"movi_{variant}/test": _movi(variant, "test", None) for variant in "cde"},
    "ytvis_2021/train": _ytvis("all videos of train/instances.json", 2985),
    "ytvis_2021/train-but-300": _ytvis("videos of train/instances.json but the last 300", 2685, (None, -300)),
    "ytvis_2021/last-300": _ytvis("the last 300 videos of train/instances.json", 300, (-300, None)),
    "ytvis_2021/first-200-of-last-300": _ytvis("the first 200 of its last 300 videos", 200, (-300, -100)),
    "ytvis_hq/train": _hq("train", 1678),
    "ytvis_hq/validation": _hq("val", 280),
    "ytvis_hq/test": _hq("test", 280),
    "coco/val2017": _COCO,
    "clevrtex/outd": Split(
        "all scenes of clevrtex_outd", 10_000, "ClevrTex", ("ClevrTexImages",), {"variant": "outd", "split": "all"}
    ),
    "voc_2012/val": Split(
        "the list val.txt of objects' masks", 1449, "PASCAL VOC2012", ("VocImages",), {"year": 2012, "split": "val"}
    ),
    "davis_2016/train": _davis(2016, "train", 30, "77a3594a75032318"),
    "davis_2016/val": _davis(2016, "val", 20, "8f88371af3a203d3"),
    "davis_2017/train": _davis(2017, "train", 60, "9c4355388e0395d9"),
    "davis_2017/val": _davis(2017, "val", 30, "58cf6fd34d5f2a51"),
    "physion/readout": _physion("all rows of readout_labels.csv", 8005, "readout", "5b12032dec72917c"),
    "physion/test": _physion("150 a scenario (eight), half of them in contact", 1200, "test", "2062f71f09408cfd"),
    "physion/test-clean": _physion(
        "physion/test without the official list of bad stimuli (26)", 1174, "test", "232927de7c009f3e"
    ),
    "toss-A/train": _recipe("toss-A", "train", 1400, "b126a4216b6c8480"),
    "toss-A/val": _recipe("toss-A", "val", 48, "d421c597f679221e"),
    "toss-A/test": _recipe("toss-A", "test", 64, "f53cfa03f67f4974"),
    "toss-D/train": _recipe("toss-D", "train", 400, "52cc570fe10e4310"),
    "toss-D/val": _recipe("toss-D", "val", 48, "571e47e1deded6e2"),
    "toss-D/test": _recipe("toss-D", "test", 64, "a581a1ca506d055c"),
    "contact/train": _recipe("contact", "train", 2002, "1ae0cf4fa3db03b0"),
    "contact/readout": _recipe("contact", "readout", 1050, "0545f66d0d48a989"),
    "contact/test": _recipe("contact", "test", 504, "62412e638a87f588"),
}


def fingerprint_of(source: VideoSource) -> str:
    """Hash (hex, 64 bits) of the videos' names in any order; for simulated videos also of the simulator's settings."""
    whole, _ = places(source)
    names = [source.info(index).video_id for index in range(len(source))]
    if isinstance(whole, PhysionVideos):  # the names of its files differ between releases
        names = [stimulus(name.rpartition("/")[2]) for name in names]
    made = whole.made_with() if isinstance(whole, SimulatedVideos) else ""
    return hashlib.sha256("\n".join([made, *sorted(names)]).encode()).hexdigest()[:16]


def certify(source: VideoSource, name: str | None = None) -> Certified:
    """Compare videos with the split called ``name``, as far as possible; without a name nothing is compared.

    Raises:
        ValueError: no split has this name, or the videos are not the split's: source, options, file, slice, number or
            names differ.
    """
    found = fingerprint_of(source)
    if name is None:
        return Certified(found, False)
    if name not in SPLITS:
        raise ValueError(f"no split is called {name!r}; known are {', '.join(SPLITS)}")
    split = SPLITS[name]
    difference = _difference(source, split)
    if difference is None and split.fingerprint not in (None, found):
        difference = "its videos have other names, or were made otherwise"
    if difference is not None:
        raise ValueError(
            f"the data is not {name} ({split.rule}): {difference}; "
            "give the videos of that split and no others, or set frozen_split=null"
        )
    return Certified(found, split.fingerprint is not None)


def _difference(source: VideoSource, split: Split) -> str | None:
    """The first difference between the videos and a split, apart from the videos' names; None if there is none."""
    whole, indices = places(source)
    config: dict[str, Any] = getattr(whole, "config", {})
    kind = type(whole).__name__
    if kind not in split.sources:
        return f"it is read by {kind}, not by {' or '.join(split.sources)}"
    for option, wanted in split.options.items():
        if config.get(option) != wanted:
            return f"{option} is {config.get(option)!r}, not {wanted!r}"
    annotations = getattr(whole, "annotations", None)
    file = annotations or (whole.files(0)[0] if isinstance(whole, FileSource) else None)
    if file is not None and not re.fullmatch(split.file, file.name):
        return f"it is made of {file}"
    if split.total not in (None, len(whole)):
        return f"the number of videos in {file} is {len(whole)}, not {split.total}"
    if sorted(indices) != list(range(len(whole)))[slice(*split.part)]:
        return f"these are other videos of it, or not all (its slice is data.eval.videos={_written(split.part)})"
    if split.videos not in (None, len(source)):
        return f"the number of videos is {len(source)}, not {split.videos}"
    return None


def _written(part: tuple[int | None, int | None]) -> str:
    """A slice as the option ``videos`` writes it."""
    return "null" if part == (None, None) else ":".join("" if end is None else str(end) for end in part)
