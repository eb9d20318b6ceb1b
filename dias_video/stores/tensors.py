"""Files of tensors that appear when they are complete or not at all; ``files`` does not import PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from dias_video.stores.files import replace_file, writing


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, which appears when it is complete or not at all.

    Raises:
        OSError: the file could not be written.
    """
    with writing(path, "see whether the disk is full or the folder read-only"):
        replace_file(path, lambda aside: save_file(dict(tensors), aside, metadata=dict(metadata or {})))
