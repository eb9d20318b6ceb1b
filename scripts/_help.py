"""What ``--help`` shows: a script's commands, then every option with its default and what it means, group by group."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

CONFIGS = Path(__file__).parents[1] / "configs"


def print_help(commands: str, config_name: str, choices: Mapping[str, str | None]) -> None:
    """Print ``commands`` and the config files of a script and of the groups that were chosen, comments and all."""
    files = {f"options of {config_name}.py": CONFIGS / f"{config_name}.yaml"}
    for group, choice in choices.items():
        if choice is not None and not group.startswith("hydra/"):
            for file in _with_bases(CONFIGS / group.partition("@")[0] / f"{choice}.yaml"):
                files[f"options of {file.relative_to(CONFIGS).with_suffix('')}"] = file
    try:
        print(commands, *(f"## {title}\n{file.read_text()}" for title, file in files.items()), sep="\n", flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_bases(file: Path) -> Iterator[Path]:
    """A config file after those that its list of defaults begins with."""
    for name in yaml.safe_load(file.read_text()).get("defaults", ()):
        if isinstance(name, str) and name != "_self_":
            yield from _with_bases(
                (CONFIGS / name.lstrip("/") if name[0] == "/" else file.parent / name).with_suffix(".yaml")
            )
    yield file
