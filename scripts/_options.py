"""Options as they are typed: text is taken as text, and all are checked before any work is done.

What kind of value an option takes is said once, by the annotation of what takes it: a parameter of the script's own
functions, or of the class or function that a ``_target_`` in the config names, by name or by ``${...}``. Where nothing
is annotated the value in the config tells.
"""

from __future__ import annotations

import collections.abc
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from dias_video.data.chosen import sliced
from dias_video.engine.checks import AtLeast

WORDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
WORDS |= {list: "a list, [a,b]", dict: "a group of options, {name: value}"}


class Options:
    """What the options of a script take, by their paths in its config."""

    def __init__(self, config: Any, functions: Sequence[Callable[..., Any]]) -> None:
        """``config``: plain and unresolved; ``functions``: their parameters are the options at its top."""
        self.config = config
        self.own = {name: kind for function in functions for name, kind in _parameters(function).items()}
        self.named_by: dict[str, list[str]] = {}  # an option and those that are ${...} of it
        for path, value in _leaves(config):
            if isinstance(value, str) and (found := re.fullmatch(r"\$\{([\w.]+)\}", value)):
                self.named_by.setdefault(found[1], []).append(path)

    def annotation(self, option: str) -> Any:
        """The annotation of what takes an option; None without any."""
        group, _, name = option.rpartition(".")
        if not group:
            found = self.own.get(name)
        elif isinstance(node := self.default(group), dict) and "_target_" in node:
            # A slice of a source's videos is cut out by what makes sources.
            found = (_parameters(sliced) | _parameters(get_object(node["_target_"]))).get(name)
        else:
            found = next((_of_items(one) for one in _parts(self.annotation(group)) if _plain(one) is dict), None)
        others = (self.annotation(other) for other in self.named_by.get(option, ()))
        return found if found is not None else next((one for one in others if one is not None), None)

    def default(self, option: str) -> Any:
        """What the config has there."""
        node = self.config
        for name in option.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    def kinds(self, option: str) -> list[Any]:
        """The kinds of value that an option takes: annotations, or None for anything."""
        default = self.default(option)
        if (annotation := self.annotation(option)) is not None:
            return _parts(annotation)
        if default is None or (isinstance(default, str) and "${" in default):
            return [None]
        # A group that is switched off is one that is not there.
        return [type(default), type(None)] if isinstance(default, dict) and "." in option else [type(default)]

    def is_text(self, option: str) -> bool:
        """Whether what is typed is text, whatever it looks like, or a list of texts."""
        kinds = {_plain(kind) for kind in self.kinds(option)}
        return str in kinds and kinds <= {str, list, type(None)}

    def check(self, option: str, value: Any) -> None:
        """Refuse a value that is not of the option's kinds.

        Raises:
            ValueError: names the option, the kind it takes and what it got.
        """
        default = self.default(option)
        _check(option, self.kinds(option), value, default)
        if option.rpartition(".")[2] == "device" and isinstance(value, str):
            if not re.fullmatch(r"cpu|(cuda|mps|xpu)(:\d+)?", value):
                raise ValueError(f"{option} must be a device such as cpu, cuda or cuda:1, got {value!r}")
            if value.startswith("cuda") and not torch.cuda.is_available():
                raise ValueError(f"{option}={value} was asked for and there is no GPU; use {option}=cpu")

    def as_typed(self, words: Sequence[str]) -> list[str]:
        """The words of a command line with text in quotes, since Hydra gives signs in it a meaning.

        ``~`` at the beginning is the home folder, and ``${...}`` another option's value. Left to Hydra are null, what
        is in quotes already, lists for options that take several values, and values with commas under ``--multirun``.
        """
        sweep = bool({"-m", "--multirun"} & set(words))
        return [self._quoted(word, sweep) for word in words]

    def _quoted(self, word: str, sweep: bool) -> str:
        found = re.fullmatch(r"(\+{0,2})([\w.]+)=(.*)", word, re.DOTALL)
        if found is None or not self.is_text(found[2]):
            return word
        plus, option, value = found.groups()
        in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        several = any(_plain(kind) is list for kind in self.kinds(option))
        is_list = several and value.startswith("[") and value.endswith("]")
        if value in ("", "null") or in_quotes or is_list or (sweep and "," in value):
            return word
        return f"{plus}{option}={QuotedString(os.path.expanduser(value), Quote.single).with_quotes()}"


def _check(option: str, kinds: list[Any], value: Any, default: Any) -> None:
    if None in kinds or (value is None and type(None) in kinds):
        return
    if value is None:
        raise ValueError(f"{option} must not be null")
    given = {DictConfig: dict, ListConfig: list}.get(type(value), type(value))
    fitting = [kind for kind in kinds if _plain(kind) in (given, float if given is int else given)]
    if not fitting:
        wanted = [WORDS[plain] for plain in dict.fromkeys(map(_plain, kinds)) if plain in WORDS]
        raise ValueError(f"{option} must be {' or '.join(wanted)}, got {value!r}")
    if given in (int, float):
        if value < 0 and not (isinstance(default, (int, float)) and default < 0):
            raise ValueError(f"{option} must not be negative, got {value!r}")
        for least in [mark.least for kind in fitting for mark in _marks(kind)]:
            if value < least:
                raise ValueError(f"{option} must be at least {least}, got {value!r}")
    for one in value if given is list else ():
        if one is None:
            raise ValueError(f"{option} must not hold null")
        # A list that is empty by default holds names and options.
        inside = default[0] if isinstance(default, list) and default else ""
        items = _of_items(fitting[0])
        _check(option, _parts(type(inside) if items is None else items), one, inside)


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of what a function or a class takes."""
    taker: Any = function.__init__ if isinstance(function, type) else function
    try:
        hints = typing.get_type_hints(taker, include_extras=True)
    except (NameError, TypeError):  # names that only type checkers import, or a builtin
        return {}
    named = inspect.signature(taker).parameters
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: hint for name, hint in hints.items() if name in named and named[name].kind not in variadic}


def _parts(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for one in typing.get_args(annotation) for part in _parts(one)]
    return [None if annotation in (Any, object) or isinstance(annotation, typing.TypeVar) else annotation]


def _plain(annotation: Any) -> Any:
    """The kind of plain value in a config that an annotation admits, None for any."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    kind = typing.get_origin(annotation) or annotation
    if kind is typing.Literal or (isinstance(kind, type) and issubclass(kind, (str, os.PathLike))):
        return str
    if not isinstance(kind, type) or kind in (bool, int, float, type(None)):
        return kind
    if issubclass(kind, (tuple, list, set)) or kind in (collections.abc.Sequence, collections.abc.Collection):
        return list
    return dict  # a group of options, or of those that an object is made of


def _of_items(annotation: Any) -> Any:
    """The annotation of what a list or a group holds."""
    inside = [one for one in typing.get_args(annotation) if one not in (Ellipsis, Any)]
    return inside[-1] if inside else None


def _marks(annotation: Any) -> list[AtLeast]:
    return [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, AtLeast)]


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield path, node
        return
    for name, value in node.items():
        yield from _leaves(value, f"{path}.{name}".lstrip("."))
