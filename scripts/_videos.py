"""Functions for all scripts that read videos."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict


class WrongSlice(ValueError):
    """The value of the option ``videos`` is wrong; the data is not."""


def check_split(cfg: DictConfig, split: str | None = None) -> list[str]:
    """The names of the sources in ``cfg.data``; if ``split`` is given, it must be one of them.

    Raises:
        ValueError: ``split`` is not one of them; the message lists them, each with the part of the data that it reads.
    """
    groups = {str(name): value for name, value in cfg.data.items() if isinstance(value, DictConfig)}
    sources = {name: value for name, value in groups.items() if "root" in value}
    if split is not None and split not in sources:
        told = [f"{name} ({value.split})" if value.get("split") else name for name, value in sources.items()]
        raise ValueError(f"this data has no split {split!r}; choose from {', '.join(told)}")
    return list(sources)


def source_of(cfg: DictConfig, split: str, checked: bool = True) -> Any:
    """The videos of a split of ``cfg.data``, or the slice ``videos`` of them; with ``checked`` only readable ones.

    Raises:
        WrongSlice: the split does not have the videos of the slice.
        ValueError: the data config has no such split, or the data can't be opened.
    """
    check_split(cfg, split)
    from dias_video.machine.ranks import Ranks  # imported here, since --help does not need it

    with Ranks().together():  # one of several processes reports an error
        return _opened(cfg, split, checked)


def _opened(cfg: DictConfig, split: str, checked: bool) -> Any:
    from dias_video.data.checking import usable  # imported here, since --help does not need it
    from dias_video.data.chosen import sliced

    chosen = cfg.data[split].copy()  # a copy keeps its place in the config, so its references still work
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


def check_encoder(cfg: DictConfig, work: str, trained: str) -> None:
    """Refuse a command that does not name one encoder, by ``checkpoint=`` or by ``model=``, that has weights.

    ``work`` is what the script does with it; ``trained`` names the checkpoints of trained encoders that it takes.

    Raises:
        ValueError: none or two are named, or a model whose encoder has no weights before it is trained.
    """
    named = [name for name in ("checkpoint", "model") if cfg.get(name) is not None]
    if len(named) == 2:
        raise ValueError("checkpoint= and model= both name an encoder; leave out one of them")
    if not named:
        raise ValueError("name an encoder: checkpoint=<folder of a trained model> or model=<one of configs/model>")
    if named == ["model"] and "weights" not in list(cfg.model.encoder):  # a list has options without a value too
        raise ValueError(
            f"the encoder of this model is trained, so there is nothing to {work} before; name a model of a frozen "
            f"encoder, such as model=dinov2, or {trained}"
        )


def announce_random(encoder: DictConfig) -> None:
    """Print a warning if a frozen encoder has random weights."""
    if encoder.get("weights") == "random":
        print("the encoder is frozen with random weights: slots of its features mean nothing, this is for tests only")
