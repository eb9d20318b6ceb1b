"""Options as they are typed: text is taken as text, and all are checked before any work to be of the config's kind."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, ListConfig, OmegaConf

KINDS: dict[type, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
KINDS |= {ListConfig: "a list, [a,b]", DictConfig: "a group of options, {name: value}"}
# Options that are null or missing in the configs, whose kind can't be read off there.
TEXTS = ("root", "out_dir", "cache", "path", "split", "checkpoint", "video", "predictions", "file", "device", "dias")
TEXTS += ("val_cache", "readout_cache", "test_cache", "frozen_split", "human", "weights", "metric", "annotations")
TEXTS += ("dynamics", "pattern", "task", "labels", "export")
FOLDERS = ("features", "encoder")  # texts where they stand at the top; data.features is a group
GROUPS = ("trainer.weights", "data.annotations")  # of options, though their names are those of texts
INTEGERS = ("num_videos", "max_videos", "max_frames", "workers", "num_workers", "predicted_frames", "observed_frames")
INTEGERS += ("schedule_steps", "slot_dim", "num_slots")
AT_LEAST_ONE = ("window", "height", "max_frames", "max_videos", "num_videos", "batch_size")
# Scripts' options that take a list of what they take.
SEVERAL = (("rollout", "checkpoint"), ("reason", "dynamics"), ("surprise", "checkpoint"))
MAY_BE_NULL = ("visualize", "num_videos")  # though its default is a number


def as_typed(config_name: str, words: Sequence[str]) -> list[str]:
    """The words of a command line with the values of text options in quotes, since Hydra gives signs in them a meaning.

    ``~`` at the beginning is the home folder, and ``${...}`` another option's value. Left to Hydra are null, what is in
    quotes already, lists for options that take several values, and values with commas under ``--multirun``.
    """
    sweep = bool({"-m", "--multirun"} & set(words))
    return [_quoted(config_name, word, sweep) for word in words]


def _quoted(config_name: str, word: str, sweep: bool) -> str:
    found = re.fullmatch(r"(\+{0,2})([\w.]+)=(.*)", word, re.DOTALL)
    if found is None or not _is_text(found[2]):
        return word
    option, value = found[2], found[3]
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    is_list = (config_name, option) in SEVERAL and value.startswith("[") and value.endswith("]")
    if value in ("", "null") or in_quotes or is_list or (sweep and "," in value):
        return word
    return f"{found[1]}{option}={QuotedString(os.path.expanduser(value), Quote.single).with_quotes()}"


def _is_text(option: str) -> bool:
    """Whether an option is text whatever the config has in its place."""
    text = option.rpartition(".")[2] in TEXTS or re.fullmatch(r"data\.(annotations\.\w+|\w+\.videos)", option)
    return option in FOLDERS or (bool(text) and option not in GROUPS)


def check_types(config_name: str, cfg: DictConfig) -> None:
    """Compare the values that the command line sets with those that the config has without them.

    Raises:
        ValueError: names an option, the kind it wants and what it got.
    """
    words = list(HydraConfig.get().overrides.task)
    parsed = OverridesParser.create().parse_overrides(words)
    loader = GlobalHydra.instance().config_loader()
    choices = [word for word, p in zip(words, parsed, strict=True) if loader.get_group_options(p.key_or_group)]
    defaults = compose(config_name, choices)
    stated: Any = OmegaConf.to_container(defaults, resolve=False)  # options of the script itself; objects check theirs
    for override in parsed:
        option = override.key_or_group
        value = OmegaConf.select(cfg, option)
        if override.is_delete() or override.is_add() or loader.get_group_options(option):
            continue
        # What is simulated is the script's own too: every variant is given all its numbers.
        own = stated.get(option) is not None or option.startswith("simulate.")
        if value is None and own and (config_name, option) != MAY_BE_NULL:
            raise ValueError(f"{option} must not be null")
        for one in value if (config_name, option) in SEVERAL and isinstance(value, ListConfig) else [value]:
            _check(option, OmegaConf.select(defaults, option), one)


def _check(option: str, default: Any, value: Any) -> None:
    name = option.rpartition(".")[2]
    kind = type(default)
    if default is None:
        kind = str if _is_text(option) else int if name in INTEGERS else kind
    if name == "device" and isinstance(value, str) and not re.fullmatch(r"cpu|(cuda|mps|xpu)(:\d+)?", value):
        raise ValueError(f"{option} must be a device such as cpu, cuda or cuda:1, got {value!r}")
    if name == "device" and str(value).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"{option}={value} was asked for and there is no GPU; use {option}=cpu")
    if option.startswith("trainer.weights."):  # a number or a schedule, which the trainer looks at
        return
    given = type(value)
    if value is None or kind not in KINDS:
        return
    if given is not kind and not (kind is float and given is int):
        raise ValueError(f"{option} must be {KINDS[kind]}, got {value!r}")
    if kind in (int, float) and value < 0 and not (default is not None and default < 0):
        raise ValueError(f"{option} must not be negative, got {value!r}")
    if name in AT_LEAST_ONE and value == 0 and default != 0:
        raise ValueError(f"{option} must be at least 1, got 0")
    for one in value if kind is ListConfig else ():
        if one is None:
            raise ValueError(f"{option} must not hold null")
        _check(option, default[0] if default else "", one)  # lists that are empty by default hold names and options
