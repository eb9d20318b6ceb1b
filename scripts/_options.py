"""Checks the values of options before any work is done.

The type of an option is written once, as the annotation of the parameter that it sets. This is a parameter of the
script's own functions, or of the class or function named by a ``_target_`` in the config, where the option stands or is
referred to by ``${...}``. Without an annotation, the value in the config tells the type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from _annotations import least, of_items, parameters, parts, plain
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from dias_video.checks import device_of
from dias_video.data.chosen import sliced

WORDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
WORDS |= {list: "a list, [a,b]", dict: "a group of options, {name: value}"}


class Options:
    """The types of a script's options, by their paths in its config."""

    def __init__(self, config: Any, functions: Sequence[Callable[..., Any]]) -> None:
        """``config`` is plain and unresolved; the parameters of ``functions`` are the options at its top."""
        self.config = config
        self.own = {name: kind for function in functions for name, kind in parameters(function).items()}
        self.named_by: dict[str, list[str]] = {}  # for an option, the options that refer to it by ${...}
        for path, value in leaves(config):
            if isinstance(value, str) and (found := re.fullmatch(r"\$\{([\w.]+)\}", value)):
                self.named_by.setdefault(found[1], []).append(path)

    def annotation(self, option: str) -> Any:
        """The annotation of the parameter that an option sets; None if there is none."""
        group, _, name = option.rpartition(".")
        if not group:
            found = self.own.get(name)
        elif isinstance(node := self.default(group), dict) and "_target_" in node:
            # ``videos`` is not a parameter of a source: the function that makes sources takes the slice.
            found = (parameters(sliced) | parameters(get_object(node["_target_"]))).get(name)
        else:
            found = next((of_items(one) for one in parts(self.annotation(group)) if plain(one) is dict), None)
        others = (self.annotation(other) for other in self.named_by.get(option, ()))
        return found if found is not None else next((one for one in others if one is not None), None)

    def default(self, option: str) -> Any:
        """The value in the config."""
        node = self.config
        for name in option.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    def kinds(self, option: str) -> list[Any]:
        """The kinds of values that an option takes: annotations, or None for any value."""
        default = self.default(option)
        if (annotation := self.annotation(option)) is not None:
            return parts(annotation)
        if default is None or (isinstance(default, str) and "${" in default):
            return [None]
        # A group that is switched off is None.
        return [type(default), type(None)] if isinstance(default, dict) and "." in option else [type(default)]

    def is_text(self, option: str) -> bool:
        """Whether every typed value is text, or a list of texts."""
        kinds = {plain(kind) for kind in self.kinds(option)}
        return str in kinds and kinds <= {str, list, type(None)}

    def is_list(self, option: str) -> bool:
        """Whether several values may be given."""
        return any(plain(kind) is list for kind in self.kinds(option))

    def check(self, option: str, value: Any) -> None:
        """Refuse a value of the wrong kind.

        Raises:
            ValueError: the kind is wrong; the message names the option, the right kinds and the value.
        """
        default = self.default(option)
        _check(option, self.kinds(option), value, default)
        if option.rpartition(".")[2] == "device" and isinstance(value, str):
            if not re.fullmatch(r"cpu|(cuda|mps|xpu)(:\d+)?", value):
                raise ValueError(f"{option} must be a device such as cpu, cuda or cuda:1, got {value!r}")
            if value.startswith("cuda") and device_of(None).type != "cuda":
                raise ValueError(f"{option}={value} was asked for and there is no GPU; use {option}=cpu")


def _check(option: str, kinds: list[Any], value: Any, default: Any) -> None:
    if None in kinds or (value is None and type(None) in kinds):
        return
    if value is None:
        raise ValueError(f"{option} must not be null")
    given = {DictConfig: dict, ListConfig: list}.get(type(value), type(value))
    fitting = [kind for kind in kinds if plain(kind) in (given, float if given is int else given)]
    if not fitting:
        wanted = [WORDS[one] for one in dict.fromkeys(map(plain, kinds)) if one in WORDS]
        raise ValueError(f"{option} must be {' or '.join(wanted)}, got {value!r}")
    if given in (int, float):
        if value < 0 and not (isinstance(default, (int, float)) and default < 0):
            raise ValueError(f"{option} must not be negative, got {value!r}")
        if (bound := least(fitting[0])) is not None and value < bound:
            raise ValueError(f"{option} must be at least {bound}, got {value!r}")
    items = of_items(fitting[0])
    if plain(items) is list:  # a list of lists is checked by the function that takes it, which can say what they are
        return
    for one in value if given is list else ():
        if one in (None, ""):
            raise ValueError(f"{option} must not hold {'null' if one is None else 'an empty name'}")
        # The items of a list that is empty by default are names or options.
        inside = default[0] if isinstance(default, list) and default else ""
        _check(option, parts(type(inside) if items is None else items), one, inside)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The options in a plain config, by their paths, with their values."""
    if not isinstance(node, dict):
        yield path, node
        return
    for name, value in node.items():
        yield from leaves(value, f"{path}.{name}".lstrip("."))
