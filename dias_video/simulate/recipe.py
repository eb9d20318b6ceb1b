"""Recipes: simulated splits of fixed content, known to the bit by a checksum and up to rounding by a sketch.

Physics and renderer compute with floats, and the last bits of these differ from CPU to CPU (vector instructions, the C
library). A checksum can't tell that from other content; a sketch can: what each clip looks like, coarsely.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dias_video.data.simulated import REMEDY, SimulatedVideos, read_masks
from dias_video.stores.files import read_json
from dias_video.stores.tensors import save_tensors

CELLS = 2  # a side of the grid that a frame is averaged over
TOLERANCE = 6  # of 255, that a number of a sketch may be off: encoders and rounding; other clips differ by tens
OTHER_COURSE = 0.05  # of the clips, that may differ by more: bodies that touch or miss by the last bit


def split_checksum(folder: Path, num_videos: int) -> str:
    """sha256 (hex) of clips 0..num_videos-1 of a split: their masks, states, boxes, labels and cameras.

    Masks are compared by their ids and records by their values, so that another build of zlib changes nothing. The mp4
    is left out, since x264 may encode the same pictures differently from build to build; :func:`sketch` has them.

    Raises:
        ValueError: a clip is missing or damaged.
    """
    source = SimulatedVideos(folder.parents[1], f"{folder.parent.name}/{folder.name}")
    digest = hashlib.sha256()
    for index in range(num_videos):
        _, zipped, described = source.files(index)
        record = read_json(described, REMEDY)
        masks = read_masks(zipped, range(source.info(index).num_frames))
        digest.update(json.dumps(record, sort_keys=True).encode())
        digest.update(masks.numpy().astype(np.uint8).tobytes())  # (T,H,W)
    return digest.hexdigest()


def sketch(folder: Path, num_videos: int) -> Tensor:
    """What clips 0..num_videos-1 look like, (N,34) uint8, a row a clip.

    Of the first and the last frame the mean colour of each quarter and how much of it bodies cover; then the number of
    bodies and the label.

    Raises:
        ValueError: a clip is missing or damaged, its pictures too.
    """
    source = SimulatedVideos(folder.parents[1], f"{folder.parent.name}/{folder.name}")
    rows = []
    for index in range(num_videos):
        info = source.info(index)
        sample = source.read(index, [0, info.num_frames - 1])
        shown = torch.cat([sample["video"].float(), 255.0 * (sample["masks"] > 0)[:, None]], 1)  # (2,4,H,W)
        cells = F.adaptive_avg_pool2d(shown, CELLS).round()
        about = torch.tensor([float(sample["boxes"].shape[1]), 255.0 * (info.label or 0)])
        rows.append(torch.cat([cells.flatten(), about]).byte())
    return torch.stack(rows)


def load_sketches(file: Path) -> dict[str, Tensor]:
    """Recorded sketches (N,34) by split; none where nothing is recorded."""
    return load_file(file) if file.is_file() else {}


def save_sketches(file: Path, sketches: dict[str, Tensor]) -> None:
    """Record sketches (N,34) by split."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(sketches, file)


def verdict(made: Tensor, recorded: Tensor | None, same_checksum: bool | None) -> str:
    """What can be said of a split that was made, given what is recorded of it.

    Args:
        made, recorded: sketches (N,34); None: none is recorded.
        same_checksum: whether the checksum is the recorded one; None: none is recorded.

    Raises:
        ValueError: it is another content, and why.
    """
    if recorded is None:
        if same_checksum is False:
            raise ValueError("differs from the recorded checksum, and nothing is recorded that could tell why")
        return "none is recorded" if same_checksum is None else "masks and records as recorded, no pictures are"
    count = min(len(made), len(recorded))
    far = (made[:count].int() - recorded[:count].int()).abs().amax(1) > TOLERANCE
    clips = ", ".join(f"{index:05d}" for index in far.nonzero()[:, 0].tolist()[:5])
    if same_checksum is True and far.any():
        raise ValueError(f"shows other pictures in {int(far.sum())} clips ({clips}): were mp4 files replaced?")
    if far.float().mean() > OTHER_COURSE:
        raise ValueError(
            f"has other content in {int(far.sum())} of {count} clips ({clips}): PyBullet or this code is of another "
            "version, or the settings are others"
        )
    if same_checksum is False:
        return f"as recorded but for this CPU's arithmetic ({int(far.sum())} of {count} clips took another course)"
    return "as recorded"
