"""Command lines: the configs that they choose, quoting of text, and the output of ``--help``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import hydra
import yaml
from _options import Options
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

CONFIGS = Path(__file__).parents[1] / "configs"


def chosen(config_name: str, words: Sequence[str]) -> DictConfig:
    """The config of a script with the groups that ``words`` choose; all other options have their defaults.

    Raises:
        HydraException, ValueError, TypeError: there is no such choice.
    """
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        # The first of several choices under --multirun, since all take the same options.
        named = [word.split(",")[0] for word in words if _is_group(word.partition("=")[0].lstrip("+"))]
        return hydra.compose(config_name, named, return_hydra_config=True)


def check_choices(words: Sequence[str]) -> None:
    """Refuse words that choose a config of a group by null, a number or a flag, which are no names.

    Raises:
        MissingConfigException: there is no such choice.
    """
    for word in words:
        group, _, value = word.lstrip("+").partition("=")
        options = sorted(file.stem for file in (CONFIGS / group.partition("@")[0]).glob("*.yaml")) if group else []
        if options and isinstance(OverridesParser.create().parse_override(word).value(), (NoneType, int, float)):
            raise MissingConfigException(f"{word} is no choice", f"{group}/{value}", options)


def as_typed(words: Sequence[str], known: Options) -> list[str]:
    """The words of a command line with text in quotes, since some characters have a meaning for Hydra.

    ``~`` at the beginning is the home folder, and ``${...}`` is another option's value. Some values are not quoted:
    null, values in quotes, lists for options that take several values, and values with commas under ``--multirun``.
    """
    sweep = bool({"-m", "--multirun"} & set(words))
    return [_quoted(word, known, sweep) for word in words]


def _quoted(word: str, known: Options, sweep: bool) -> str:
    found = re.fullmatch(r"(\+{0,2})([\w.]+)=(.*)", word, re.DOTALL)
    if found is None or not known.is_text(found[2]):
        return word
    plus, option, value = found.groups()
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    is_list = value.startswith("[") and value.endswith("]") and known.is_list(option)
    if value in ("", "null") or in_quotes or is_list or (sweep and "," in value):
        return word
    return f"{plus}{option}={QuotedString(os.path.expanduser(value), Quote.single).with_quotes()}"


def typed_options(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """The options that the command line sets, and their values in a script's config."""
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        option = override.key_or_group
        if not (override.is_delete() or override.is_add() or _is_group(option)):
            yield option, OmegaConf.select(cfg, option)


def untaken_options(known: Options) -> Iterator[str]:
    """Options that ``+`` adds at the top of a script's config and that nothing uses."""
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        option = override.key_or_group
        is_taken = "." in option or _is_group(option) or option in known.config or known.annotation(option) is not None
        if override.is_add() and not is_taken:
            yield option


def check_start(cfg: DictConfig) -> None:
    """Raise ValueError if options say how a model differs from its checkpoint, and there is no checkpoint."""
    idle = [name for name in ("changed", "begin_anew") if cfg.get(name)]
    if idle and cfg.checkpoint is None:
        said = f"{idle[0]}= says how the model differs from its checkpoint, and there is none"
        raise ValueError(f"{said}; add checkpoint=<folder of a trained model>, or leave out {idle[0]}=")


def _is_group(name: str) -> bool:
    return bool(GlobalHydra.instance().config_loader().get_group_options(name.partition("@")[0]))


def print_help(commands: str, config_name: str, choices: Mapping[str, str | None]) -> None:
    """Print ``commands``, and the config files of a script and of the chosen groups, with comments."""
    files = {f"options of {config_name}.py": CONFIGS / f"{config_name}.yaml"}
    for group, choice in choices.items():
        if choice is not None and not group.startswith("hydra/"):
            for file in _with_bases(CONFIGS / group.partition("@")[0] / f"{choice}.yaml"):
                files[f"options of {file.relative_to(CONFIGS).with_suffix('')}"] = file
    try:
        print(commands, *(f"## {title}\n{file.read_text()}" for title, file in files.items()), sep="\n", flush=True)
    except BrokenPipeError:  # the reader has stopped, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_bases(file: Path) -> Iterator[Path]:
    """A config file, after the files at the beginning of its list of defaults."""
    for name in yaml.safe_load(file.read_text()).get("defaults", ()):
        if isinstance(name, str) and name != "_self_":
            yield from _with_bases(
                (CONFIGS / name.lstrip("/") if name[0] == "/" else file.parent / name).with_suffix(".yaml")
            )
    yield file
