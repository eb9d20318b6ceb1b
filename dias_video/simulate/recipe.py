"""Recipes: simulated splits of fixed content, known by a checksum."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def split_checksum(folder: Path, num_videos: int) -> str:
    """sha256 (hex) of what clips 0..num_videos-1 of a split are: their masks, states, boxes, labels and cameras.

    Masks are compared by their ids and records by their values, so that another build of zlib changes nothing. The
    mp4 is left out, since x264 may encode the same pictures differently from build to build.

    Raises:
        ValueError: a clip is missing or damaged.
    """
    digest = hashlib.sha256()
    for index in range(num_videos):
        path = folder / f"{index:05d}"
        try:
            record = json.loads(path.with_suffix(".json").read_text())
            with zipfile.ZipFile(path.with_suffix(".masks.zip")) as archive:
                masks = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in sorted(archive.namelist())]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read ({error}): remove its json and run again.") from error
        digest.update(json.dumps(record, sort_keys=True).encode())
        digest.update(np.stack(masks).astype(np.uint8).tobytes())  # (T,H,W)
    return digest.hexdigest()
