"""ClevrTex as downloaded: scenes of textured objects, as videos of one frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from dias_video.checks import one_of
from dias_video.data.annotated import AnnotatedVideos, Clip, MaskPictures
from dias_video.data.paths import Choice, files_under
from dias_video.data.pictures import read_ids
from dias_video.data.problems import OnError, Problems

SCENES = {"full": 50_000, "outd": 10_000, "pbg": 20_000, "vbg": 20_000, "grassbg": 20_000, "camo": 20_000}
PICTURE = re.compile(r"(?:.*/)?CLEVRTEX_[a-z]+_(\d{6})\.png", re.ASCII)
Split = Literal["train", "val", "test", "all"]
SHARES = {"test": (0.0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1.0), "all": (0.0, 1.0)}  # of the scenes' numbers


class ClevrTexImages(AnnotatedVideos):
    """Scenes of ClevrTex or one of its variants (Karazija et al., 2021), with masks of up to 10 objects.

    The archives ``clevrtex_full_part1..5.tar.gz`` are parts of one: ``cat clevrtex_full_part*.tar.gz | tar xzi``.

    Args:
        root: folder that holds ``clevrtex_<variant>/<number>/CLEVRTEX_*.png``, or the folder ``clevrtex_<variant>``.
        variant: ``full``, ``outd`` (other shapes and materials; meant for tests only), ``pbg``, ``vbg``, ``grassbg``
            or ``camo``.
        split: ``test`` is the first tenth of the scenes, ``val`` the second and ``train`` the rest, by the authors'
            rule; ``all`` is every scene.
        on_error: ``raise``, or ``skip_and_report`` to leave out scenes without a mask.

    Raises:
        ValueError: there is no scene, an option has an unknown value, or (with ``raise``) scenes or masks are missing.
    """

    def __init__(
        self,
        root: str | Path,
        variant: str = "full",
        split: Split = "train",
        on_error: OnError = "raise",
    ) -> None:
        one_of("variant", variant, SCENES)
        low, high = SHARES[one_of("split", split, Split)]
        folder = _folder(Path(root), variant)
        files = files_under(folder, (".png",), Choice("CLEVRTEX_*.png"))
        found = {int(match[1]): match[0] for file in files if (match := PICTURE.fullmatch(file))}
        if not found:
            raise ValueError(f"{folder} holds no CLEVRTEX_{variant}_*.png; {_unpack(folder, variant)}")
        masks, total = set(files), max(found) + 1
        problems = Problems(on_error)
        if total != SCENES[variant]:
            sentence = f"{folder} holds {total} of {SCENES[variant]} scenes; splits are parts of what is there"
            problems.note(str(folder), sentence, harmless=True)
        names = []
        for number in range(int(low * total), int(high * total)):
            if number not in found:
                problems.found(str(number), f"{folder} has no scene {number:06d}; {_unpack(folder, variant)}")
            elif (mask := _mask_of(found[number])) not in masks:
                problems.found(found[number], f"{folder / mask} is missing; {_unpack(folder, variant)}")
            else:
                names.append(found[number])
        clips = [Clip(Path(name).stem, folder, [name]) for name in names]
        read = MaskPictures([[folder / _mask_of(name)] for name in names], read_ids)
        super().__init__(clips, read, folder, problems)


def _folder(root: Path, variant: str) -> Path:
    """The folder in which a variant was unpacked.

    Raises:
        ValueError: there is no such folder.
    """
    name = f"clevrtex_{variant}"
    for place in [root / name, *([root] if root.resolve().name == name else [])]:
        if place.is_dir():
            return place
    raise ValueError(f"{root / name} is not a folder; check data.root, or {_unpack(root / name, variant)}")


def _unpack(folder: Path, variant: str) -> str:
    parts = f"clevrtex_{variant}_part*.tar.gz" if variant == "full" else f"clevrtex_{variant}.tar.gz"
    return f"unpack the archives in {folder.parent}: cat {parts} | tar xzi"


def _mask_of(picture: str) -> str:
    return picture.removesuffix(".png") + "_flat.png"
