"""The precision in which models compute: an option of everything that runs a model."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = ("fp32", "bf16", "fp16")
MATMUL = ("highest", "high", "medium")


def check_precision(precision: str, device: torch.device | str) -> None:
    """Raise ValueError unless ``precision`` is one of ``PRECISIONS`` and ``device`` supports it."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and torch.device(device).type == "cpu":
        raise ValueError("precision=fp16 needs a GPU; use bf16 or fp32")


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[object]:
    """Inside, do matrix products and convolutions on ``device`` in ``precision``; what needs float32 stays in it."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)


def set_matmul_precision(precision: str) -> None:
    """Set how a GPU computes float32 matrix products from now on; on a CPU nothing changes.

    Raises:
        ValueError: ``precision`` is not one of ``MATMUL``.
    """
    if precision not in MATMUL:
        raise ValueError(f"matmul_precision must be one of {', '.join(MATMUL)}, got {precision!r}")
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
