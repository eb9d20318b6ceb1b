"""Recipes: simulated splits with recorded content, compared exactly by a checksum and up to rounding by a sketch.

Physics and renderer compute with floats, whose last bits differ between CPUs (vector instructions, C library). A
checksum can't distinguish this from other content. A sketch can: it describes coarsely what each clip looks like.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dias_video.data.simulated import REMEDY, SimulatedVideos, read_masks
from dias_video.stores.files import read_json

CELLS = 2  # cells on a side of the grid over which a frame is averaged
TOLERANCE = 6  # allowed difference of numbers in sketches, of 255, from encoders and rounding; other clips differ more
OTHER_COURSE = 0.05  # part of the clips that may differ by more: the last bit can decide whether bodies touch


def split_checksum(folder: Path, num_videos: int) -> str:
    """sha256 (hex) of clips 0..num_videos-1 of a split: their masks, states, boxes, labels and cameras.

    It uses the ids of masks and the values of records, so it does not depend on the build of zlib. The mp4 is left out,
    since builds of x264 may encode the same pictures differently; :func:`sketch` describes the pictures.

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
    """A coarse description of clips 0..num_videos-1, (N,34) uint8, with a row for each clip.

    A row holds, for the first and the last frame, the mean colour of each quarter and the part that bodies cover; then
    the number of bodies and the label.

    Raises:
        ValueError: a clip, or its mp4, is missing or damaged.
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


def verdict(made: Tensor, recorded: Tensor | None, same_checksum: bool | None) -> str:
    """Compare a split that was made with its record; the result is a phrase.

    Args:
        made, recorded: sketches (N,34); None if none is recorded.
        same_checksum: whether the checksum equals the recorded one; None if none is recorded.

    Raises:
        ValueError: the content differs; the message says how.
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
        return f"as recorded but for this CPU's arithmetic ({int(far.sum())} of {count} clips continue differently)"
    return "as recorded"
