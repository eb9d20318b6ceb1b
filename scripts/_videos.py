"""What scripts that read videos share."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict


class WrongSlice(ValueError):
    """A wrong value of ``videos``, which is the option's fault and not the data's."""


def check_split(cfg: DictConfig, split: str | None = None) -> list[str]:
    """The sources of ``cfg.data``, ``split`` among them if it is given.

    Raises:
        ValueError: it is not; says which there are, and the part of the data that each reads.
    """
    groups = {str(name): value for name, value in cfg.data.items() if isinstance(value, DictConfig)}
    sources = {name: value for name, value in groups.items() if "root" in value}
    if split is not None and split not in sources:
        told = [f"{name} ({value.split})" if value.get("split") else name for name, value in sources.items()]
        raise ValueError(f"this data has no split {split!r}; choose from {', '.join(told)}")
    return list(sources)


def source_of(cfg: DictConfig, split: str, checked: bool = True) -> Any:
    """The videos of a split of ``cfg.data``, or the slice of them that it names; ``checked`` those that can be read.

    Raises:
        WrongSlice: the split has not the videos asked for.
        ValueError: the data config has no such split, or the data can't be opened.
    """
    check_split(cfg, split)
    from dias_video.machine.ranks import Ranks  # --help does without

    with Ranks().together():  # one of several processes says what is wrong
        return _opened(cfg, split, checked)


def _opened(cfg: DictConfig, split: str, checked: bool) -> Any:
    from dias_video.data.checking import usable  # --help does without
    from dias_video.data.chosen import sliced

    chosen = cfg.data[split].copy()  # keeps its place in the config, and so what it refers to
    with open_dict(chosen):
        videos = chosen.pop("videos", None)
    try:
        source = instantiate(chosen)
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, OSError)):
            raise error.__cause__ from None
        raise
    try:
        source = sliced(source, videos)
    except ValueError as error:
        raise WrongSlice(f"data.{split}.{error}") from error
    return usable(source, cfg.data.get("on_error", "raise")) if checked else source


def announce_random(encoder: DictConfig) -> None:
    """Say that a frozen encoder has learned nothing, where random weights were asked for."""
    if encoder.get("weights") == "random":
        print("the encoder is frozen with random weights: slots of its features mean nothing, this is for tests only")
