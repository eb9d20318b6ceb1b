"""What "val" means: named splits of public data sets, by rule and number of videos.

Papers use the same words for different videos: YouTube-VIS publishes no masks for its own validation set, for instance,
so that "YTVIS validation" is a part of the training set, cut in different ways. A split is named here only as far as
it is a public fact; where no count is given, none could be confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """A set of videos that a score can refer to."""

    rule: str  # which videos
    videos: int | None  # how many; None: not confirmed
    fact: str  # where it is stated


_MOVI = (
    "TensorFlow Datasets movi_{} 1.0.0 as Kubric publishes it; its page: about 9,750 for training, 250 for validation"
)
_YTVIS = "YouTube-VIS 2021 release notes: 2,985 training, 421 validation and 453 test videos, masks of training only"
_VIDEOSAUR = "data preparation of VideoSAUR (Zadaianchuk et al., 2023)"
_HQ = "HQ-YTVIS (Ke et al., 2022): YouTube-VIS 2019's 2,238 training videos with finer masks, cut anew"
_PHYSION = "Physion (Bear et al., 2021), its label tables"

SPLITS = {
    **{f"movi_{v}/train": Split("all records of `train`", None, _MOVI.format(v)) for v in "cde"},
    **{f"movi_{v}/validation": Split("all records of `validation`", 250, _MOVI.format(v)) for v in "cde"},
    **{f"movi_{v}/test": Split("all records of `test`: held-out objects", None, _MOVI.format(v)) for v in "cde"},
    "ytvis_2021/train": Split("all videos of train/instances.json", 2985, _YTVIS),
    "ytvis_2021/train-but-300": Split(
        "videos of train/instances.json in file order but the last 300", 2685, _VIDEOSAUR
    ),
    "ytvis_2021/last-300": Split("the last 300 videos of train/instances.json in file order", 300, _VIDEOSAUR),
    "ytvis_hq/train": Split("all videos of the training file", 1678, _HQ),
    "ytvis_hq/validation": Split("all videos of the validation file", 280, _HQ),
    "ytvis_hq/test": Split("all videos of the test file", 280, _HQ),
    "physion/readout": Split("all rows of readout_labels.csv", 8005, _PHYSION),
    "physion/test": Split("150 a scenario (eight), half of them in contact", 1200, _PHYSION),
    "physion/test-clean": Split("physion/test without the official list of bad stimuli (26)", 1174, _PHYSION),
}


def check_split(name: str, num_videos: int) -> Split:
    """The split of this name, if the data at hand can be it.

    Raises:
        ValueError: no split has this name, or it has another number of videos.
    """
    if name not in SPLITS:
        raise ValueError(f"no split is called {name!r}; known are {', '.join(SPLITS)}")
    split = SPLITS[name]
    if split.videos is not None and split.videos != num_videos:
        raise ValueError(
            f"{name} has {split.videos} videos ({split.rule}), the data has {num_videos}; use the whole split"
        )
    return split
