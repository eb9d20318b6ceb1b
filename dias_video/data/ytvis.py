"""YouTube-VIS 2019, 2021, 2022 and HQ-YTVIS, or other data in their layout: folders of frames and one json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dias_video.data.annotated import AnnotatedVideos, Clip
from dias_video.data.annotations import Annotations, Crowds, Overlap, Video
from dias_video.data.problems import OnError

OTHER_NAMES = {"valid": "val", "val": "valid"}  # the releases use different names for one split
JSON_PLACES: tuple[str, ...] = (
    "{split}/instances.json",
    "{split}.json",
    "{split}/{split}.json",
    "instances_{split}.json",
)
JSON_PLACES += ("annotations/{split}.json", "annotations/instances_{split}.json")
JSON_PLACES += ("annotations/instances_{split}_sub.json", "annotations/ytvis_hq-{split}.json")
JSON_PLACES += ("ytvis_hq-{split}.json", "{split}/ytvis_hq-{split}.json")


class YouTubeVIS(AnnotatedVideos):
    """A split of YouTube-VIS where it was unpacked.

    Args:
        root: folder that holds ``<split>/JPEGImages`` (or ``<split>_all_frames/JPEGImages``, or ``JPEGImages`` itself).
            HQ-YTVIS has the frames of all its splits in ``train/JPEGImages``.
        split: ``train``, ``valid`` (also called ``val``) or ``test``.
        annotations: the json, by its path in ``root`` or by its name in ``root``, ``annotations`` or ``<split>``.
            None = the one with a usual name, such as ``<split>/instances.json`` or
            ``annotations/ytvis_hq-<split>.json``.
        overlap, crowds: as for :class:`~dias_video.data.annotations.Annotations`.
        at_least: as for :class:`~dias_video.data.annotated.AnnotatedVideos`.
        on_error: ``raise``, or ``skip_and_report`` to leave out videos that the json describes wrongly.

    Where the json has no masks at all (validation sets of a challenge), samples have neither masks nor boxes.

    Raises:
        ValueError: a folder or file is missing, several jsons have a usual name, or the json can't be used.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        annotations: str | None = None,
        overlap: Overlap = "top",
        crowds: Crowds = "void",
        at_least: Sequence[int] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        file = _json_of(Path(root), split, annotations)
        read = Annotations(file, overlap, crowds, on_error)
        folder = _pictures_of(Path(root), split, read.videos[:1])
        clips = [Clip(video.name, folder, video.files) for video in read.videos]
        super().__init__(clips, read if read.annotated else None, file, read.problems, at_least)


def _json_of(root: Path, split: str, named: str | None) -> Path:
    """The json of a split.

    Raises:
        ValueError: no json has a usual name, or several have, and they may differ.
    """
    if named is not None:
        places = [root / named, root / "annotations" / named, root / split / named]
        found = [place for place in places if place.is_file()][:1]
    else:
        names = [place.format(split=name) for name in _names_of(split) for place in JSON_PLACES]
        found = [root / name for name in [*names, "instances.json"] if (root / name).is_file()]
    if not found:
        missing = named or f"annotations of {split} (such as {JSON_PLACES[0].format(split=split)})"
        raise ValueError(f"{root} holds no {missing}; name the json with data.annotations")
    if len(found) > 1:
        several = ", ".join(str(file.relative_to(root)) for file in found)
        raise ValueError(
            f"{root} holds several annotations of {split}: {several}; name one of them with data.annotations.train= "
            "(or .eval=)"
        )
    return found[0]


def _names_of(split: str) -> list[str]:
    return [split, *([OTHER_NAMES[split]] if split in OTHER_NAMES else [])]


def _pictures_of(root: Path, split: str, videos: Sequence[Video]) -> Path:
    """The folder of frames that a json describes: the one that holds the first frame of its ``videos``.

    Raises:
        ValueError: there is no folder of frames.
    """
    names = [*_names_of(split), "train"]
    places = [root / place / "JPEGImages" for name in names for place in (name, f"{name}_all_frames")]
    found = [place for place in [*places, root / "JPEGImages"] if place.is_dir()]
    if not found:
        raise ValueError(f"{root} holds no {split}/JPEGImages; check data.root and the split")
    holding = [place for place in found if any((place / video.files[0]).is_file() for video in videos)]
    return (holding or found)[0]
