"""Reads the annotations of parameters as the kinds of values that a config may have there."""

from __future__ import annotations

import collections.abc
import inspect
import os
import types
import typing
from collections.abc import Callable
from typing import Any

from dias_video.checks import AtLeast


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the parameters of a function or a class."""
    taker: Any = function.__init__ if isinstance(function, type) else function
    try:
        hints = typing.get_type_hints(taker, include_extras=True)
    except (NameError, TypeError):  # names that are imported only for type checkers, or a builtin
        return {}
    named = inspect.signature(taker).parameters
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: hint for name, hint in hints.items() if name in named and named[name].kind not in variadic}


def parts(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for one in typing.get_args(annotation) for part in parts(one)]
    return [None if annotation in (Any, object) or isinstance(annotation, typing.TypeVar) else annotation]


def plain(annotation: Any) -> Any:
    """The type of plain value in a config that an annotation allows; None for any."""
    if typing.get_origin(annotation) is typing.Annotated:
        return plain(typing.get_args(annotation)[0])
    kind = typing.get_origin(annotation) or annotation
    if kind is typing.Literal or (isinstance(kind, type) and issubclass(kind, (str, os.PathLike))):
        return str
    if not isinstance(kind, type) or kind in (bool, int, float, type(None)):
        return kind
    if issubclass(kind, (tuple, list, set)) or kind in (collections.abc.Sequence, collections.abc.Collection):
        return list
    return dict  # a group of options, or the arguments of an object


def of_items(annotation: Any) -> Any:
    """The annotation of the items of a list or a group."""
    inside = [one for one in typing.get_args(annotation) if one is not Ellipsis]
    return inside[-1] if inside and inside[-1] is not Any else None


def least(annotation: Any) -> int | None:
    """The least value that an annotation allows; None if it sets none."""
    marks = getattr(annotation, "__metadata__", ())
    return next((mark.least for mark in marks if isinstance(mark, AtLeast)), None)
