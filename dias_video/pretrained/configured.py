"""Models that know their own configuration, saved as json + safetensors and rebuilt without running stored code."""

from __future__ import annotations

import functools
import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from dias_video.pretrained.weights import load_weights, located

Model = TypeVar("Model", bound="Configured")

FORMAT_VERSION = 1


class Configured:
    """Mixin for modules that record their constructor's arguments as plain data.

    ``module.config`` is ``{"type": class name, argument: value, ...}`` with nested modules as nested dicts. Only
    subclasses of this mixin can be built from such a dict: the set of subclasses is the allow-list, so that a stored
    config can never name arbitrary code.
    """

    config: dict[str, Any]
    known: dict[str, type[Configured]] = {}  # noqa: RUF012 - the one registry, shared on purpose
    not_stored: dict[str, Any] = {}  # noqa: RUF012 - what arguments that only matter at first construction are stored as

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Configured.known[cls.__name__] = cls
        if "__init__" in cls.__dict__ or not hasattr(cls.__init__, "__wrapped__"):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    def save_pretrained(self, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` (weights and buffers; others if given) into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        assert isinstance(self, torch.nn.Module)
        tensors = {k: v.detach().cpu().contiguous() for k, v in (weights or self.state_dict()).items()}
        save_file(tensors, folder / "model.safetensors")
        described = {"format": FORMAT_VERSION, "model": self.config}
        (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n")

    def push_to_hub(self, repository: str, private: bool = True) -> None:
        """Upload what ``save_pretrained`` writes to the Hub repository ``user/name``, made if it does not exist."""
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """Rebuild a saved model from a folder, or from a Hugging Face Hub repository: ``hf-hub:user/name``.

        Without that prefix, which is timm's, a name is a folder's and no server is contacted.

        Raises:
            ValueError: there is no such folder, or a file is missing, cut off, of another class or of another shape;
                the message names it.
            OSError: the repository could not be read.
        """
        folder = located(folder)
        file = folder / "config.json"
        if not file.is_file():
            raise ValueError(f"{folder} holds no model: {file} is missing (a checkpoint folder has it)")
        try:
            described = json.loads(file.read_text())
            config = described["model"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error}); use another checkpoint") from error
        if described.get("format") != FORMAT_VERSION:
            raise ValueError(f"{file} has format {described.get('format')}, this version reads {FORMAT_VERSION}")
        try:
            model = build(config)
        except ValueError as error:
            raise ValueError(f"{file} describes no model that this version can build: {error}") from error
        if not isinstance(model, cls):
            raise ValueError(f"{folder} holds a {config['type']}, not a {cls.__name__}")
        load_weights(model, folder / "model.safetensors")
        return model


def build(config: dict[str, Any]) -> Any:
    """Instantiate a ``Configured`` class from its ``config`` dict.

    Raises:
        ValueError: the dict names a class that is not one of this project's, or arguments that it does not take.
    """
    kind = config.get("type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in Configured.known:
        raise ValueError(f"unknown class {kind!r} in a model's config")
    arguments = {k: build(v) if isinstance(v, dict) and "type" in v else v for k, v in config.items() if k != "type"}
    try:
        inspect.signature(Configured.known[kind]).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"the arguments of {kind} don't fit ({error})") from error
    return Configured.known[kind](**arguments)


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)
    # ``self``, and the catch-alls of a constructor inherited from ``nn.Module``, are no configuration.
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    skipped = {"self"} | {name for name, p in signature.parameters.items() if p.kind not in named}
    floats = {name for name, p in signature.parameters.items() if "float" in str(p.annotation)}

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        plain = {k: _plain(v, k in floats) for k, v in bound.arguments.items() if k not in skipped}
        init(self, *args, **kwargs)
        self.config = {"type": type(self).__name__, **plain, **self.not_stored}

    return recorded


def _plain(value: Any, as_float: bool = False) -> Any:
    """A value as json has it; where floats are meant, 4 becomes 4.0: a config's hash tells models apart."""
    if isinstance(value, Configured):
        return value.config
    if isinstance(value, (list, tuple)) or type(value).__name__ == "ListConfig":
        return [_plain(v, as_float) for v in value]
    if as_float and type(value) is int:
        return float(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} can't be part of a model's config")
