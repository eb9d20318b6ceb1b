"""Objects with recorded constructor arguments, which are made again from plain data without running stored code."""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = re.compile(r"(dias_video|slotformer)(\.[a-z]\w*)+")  # modules that may be imported because a file names them


class Configured:
    """Mixin for classes that record their constructor's arguments as plain data.

    ``config`` is ``{"type": "module.Class", argument: value, ...}`` with nested objects as nested dicts. Only
    subclasses of this mixin can be built from such a dict. They are the allow-list, so stored data can never run other
    code.

    Raises:
        TypeError: a second class with the same name is defined in another module; stored data would be ambiguous.
    """

    config: dict[str, Any]
    known: dict[str, type[Configured]] = {}  # noqa: RUF012 - the registry, shared on purpose
    not_stored: dict[str, Any] = {}  # noqa: RUF012 - stored values of arguments that matter only at first construction

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        other = Configured.known.setdefault(cls.__name__, cls)
        if other.__module__ != cls.__module__:
            raise TypeError(
                f"{path_of(other)} is called {cls.__name__} already; call the class in {cls.__module__} other"
            )
        Configured.known[cls.__name__] = cls
        cls.config = {"type": path_of(cls)}  # for classes without a constructor
        own = "__init__" in cls.__dict__ or not hasattr(cls.__init__, "__wrapped__")
        if own and cls.__init__ is not object.__init__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]


class OtherKind(ValueError):
    """Stored data describes an object of another class than is asked for."""


def path_of(cls: type) -> str:
    """The name of a class in a config."""
    return f"{cls.__module__}.{cls.__qualname__}"


def build(config: Any, kind: type = object) -> Any:
    """Make the object that a config describes; nested objects are made first.

    Args:
        config: as ``Configured.config``, from a file that need not be trusted.
        kind: the class that the object must have, checked before anything is made.

    Raises:
        OtherKind: it describes an object of another class than ``kind``.
        ValueError: a class is not on the allow-list, or does not take its stored arguments.
    """
    cls = _class_of(config.get("type") if isinstance(config, dict) else config)
    if not issubclass(cls, kind):
        wanted = kind.__name__
        raise OtherKind(
            f"a model of class {cls.__name__} where {wanted} is needed; name the folder of a {wanted} model"
        )
    arguments = {k: build(v) if isinstance(v, dict) and "type" in v else v for k, v in config.items() if k != "type"}
    arguments |= cls.not_stored  # replaces what a file says, so that no file can make a model download weights
    try:
        bound = inspect.signature(cls).bind(**arguments)
        hints = typing.get_type_hints(cls.__init__)
        for name, value in bound.arguments.items():
            if not _fits(value, hints.get(name)):
                raise TypeError(f"{name} can't be {str(value)[:80]!r}")
        return cls(**arguments)
    except Exception as error:  # constructors raise errors of many kinds for values of a wrong type
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        if isinstance(error, ValueError):
            raise ValueError(reason) from error
        raise ValueError(f"a {cls.__name__} can't be made of its stored arguments ({reason})") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether stored data has the annotated type; only numbers, text and lists of these are checked."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if hint in (int, str, bool, type(None)):
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    if typing.get_origin(hint) in (list, tuple, collections.abc.Sequence):
        return isinstance(value, (list, tuple)) and all(_fits(one, parts[0]) for one in value if parts)
    return not (isinstance(hint, type) and issubclass(hint, Configured)) or isinstance(value, hint)


def _class_of(path: Any) -> type[Configured]:
    """The class on the allow-list with this name; its module is imported if it belongs to the project."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if name not in Configured.known and PROJECT.fullmatch(module):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"unknown class {path!r} ({error})") from error
    found = Configured.known.get(name)
    if found is None or path_of(found) != path:
        raise ValueError(f"unknown class {path!r}; if it is yours, import its module first and let it be Configured")
    return found


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)
    # ``self``, and ``*args`` and ``**kwargs`` of a constructor inherited from ``nn.Module``, are not configuration.
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    skipped = {"self"} | {name for name, p in signature.parameters.items() if p.kind not in named}
    floats = {name for name, p in signature.parameters.items() if "float" in str(p.annotation)}

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is not recorded:  # called by the constructor of a subclass, which records the arguments
            return init(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        own = {k: v for k, v in bound.arguments.items() if k not in skipped and k not in self.not_stored}
        plain = {k: _plain(v, k in floats) for k, v in own.items()}
        init(self, *args, **kwargs)
        self.config = {"type": path_of(type(self)), **plain, **self.not_stored}
        return None

    return recorded


def _plain(value: Any, as_float: bool = False) -> Any:
    """A value as plain json data. With ``as_float``, 4 becomes 4.0, so that equal configs have equal hashes."""
    if isinstance(value, Configured):
        return value.config
    if isinstance(value, (list, tuple)) or type(value).__name__ == "ListConfig":
        return [_plain(v, as_float) for v in value]
    if as_float and type(value) is int:
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} can't be part of a config")
