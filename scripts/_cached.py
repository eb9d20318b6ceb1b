"""What scripts on slot caches share."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import ListConfig
from tqdm import tqdm


def device_of(name: str | None) -> torch.device:
    """The device named, or cuda if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def folders(value: str | ListConfig) -> list[str]:
    """One folder or several, ``[a,b,c]``, as a list.

    Raises:
        ValueError: the list is empty.
    """
    named = [value] if isinstance(value, str) else [str(folder) for folder in value]
    if not named:
        raise ValueError("the list of trained models is empty; name at least one folder")
    return named


def bar(name: str, shown: bool = True) -> Any:
    """Wraps batches or other steps in a progress bar."""
    return lambda steps: tqdm(steps, desc=name, disable=not shown)
