"""Finds saved models in a folder or on the Hub, and reads their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dias_video.stores.files import sha256

HUB = "hf-hub:"  # prefix of the name of a repository on the Hugging Face Hub
WEIGHTS = "model.safetensors"
FROZEN = "frozen.safetensors"  # in checkpoints, the parameters that are not trained


def weights_sha256(folder: str | Path) -> str:
    """Hash of a saved model's weights, by which models are told apart; ``folder`` is as for ``from_pretrained``.

    It is the hash of the file that ``save_pretrained`` writes, also for a checkpoint with weights in two files.

    Raises:
        ValueError, OSError: as for ``from_pretrained``.
    """
    folder = located(folder)
    if (folder / FROZEN).is_file():
        return hashlib.sha256(save(read_weights(folder))).hexdigest()
    return sha256(folder / WEIGHTS)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights and buffers in a folder, from one file or two.

    Raises:
        ValueError: a file is missing or damaged.
    """
    tensors: dict[str, Tensor] = {}
    for file in (folder / WEIGHTS, folder / FROZEN):
        if not file.is_file():
            if file.name == FROZEN:
                continue
            raise ValueError(f"{file} is missing; {instead(folder)}")
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}); use another checkpoint") from error
    return tensors


def instead(folder: Path) -> str:
    """What to name instead of a folder that holds no model: the checkpoint in it, if it is a run folder."""
    within = [folder / "checkpoints/last", folder / "last"]  # in a run folder, and in that of its checkpoints
    return next((f"name {last}" for last in within if (last / WEIGHTS).is_file()), "name a checkpoint's folder")


def located(folder: str | Path) -> Path:
    """The folder of a model; a model on the Hub is downloaded, as one snapshot.

    Raises:
        ValueError: there is no such folder.
        OSError: the repository could not be read.
    """
    name = str(folder)
    found = _snapshot(name.removeprefix(HUB)) if name.startswith(HUB) else Path(folder)
    if not found.is_dir():
        raise ValueError(f"there is no folder {found} (a model on the Hugging Face Hub is named {HUB}user/name)")
    return found


def pinned(folder: str | Path) -> str:
    """A model's name for results: on the Hub, the name gets the present revision.

    ``hf-hub:user/name`` and ``hf-hub:user/name@main`` become ``hf-hub:user/name@<commit>``, which always means the same
    weights and config. Names of folders are returned unchanged.

    Raises:
        OSError: the repository could not be read.
    """
    name = str(folder)
    return f"{name.partition('@')[0]}@{located(name).name}" if name.startswith(HUB) else name


def _snapshot(name: str) -> Path:
    """The folder of ``user/name`` or ``user/name@revision``; a snapshot's folder has the name of its commit."""
    from huggingface_hub import snapshot_download  # imported here, since only downloads need it

    repository, _, revision = name.partition("@")
    files = ["config.json", WEIGHTS, FROZEN]
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    except Exception as error:  # its versions raise different errors; each becomes one sentence
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise OSError(f"the Hub has no model {name}, or can't be reached ({reason})") from error


def load_weights(model: Any, folder: Path, but: Collection[str] = ()) -> None:
    """Load the weights in ``folder`` into ``model``; names and shapes must fit exactly.

    ``but`` names parts of the model by dotted names. They keep their weights, and what the folder has for them is
    ignored.

    Raises:
        ValueError: a file is missing or damaged, names or shapes don't fit the model, or the model has no such part.
    """
    tensors = read_weights(folder)
    own = model.state_dict()
    for part in but:
        kept = {name: value for name, value in own.items() if name.startswith(f"{part}.")}
        if not kept:
            raise ValueError(f"the model has no part {part!r} with weights; its parts are {', '.join(_parts(model))}")
        tensors = {name: value for name, value in tensors.items() if not name.startswith(f"{part}.")} | kept
    wrong = [f"{k} is missing" for k in own.keys() - tensors.keys()]
    wrong += [f"{k} is unexpected" for k in tensors.keys() - own.keys()]
    wrong += [
        f"{k} has shape {tuple(tensors[k].shape)}, the model wants {tuple(own[k].shape)}"
        for k in own.keys() & tensors.keys()
        if own[k].shape != tensors[k].shape
    ]
    if wrong:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit the model: {'; '.join(sorted(wrong)[:3])} ({len(wrong)} in all)"
        )
    model.load_state_dict(tensors)


def _parts(model: Any) -> list[str]:
    return sorted({name.partition(".")[0] for name in model.state_dict()})


def encoder_hash(encoder: Any) -> str:
    """Hash (hex, 64 bits) of the configuration and weights of an encoder, or of a reader of codes."""
    config = {**encoder.config, "type": encoder.config["type"].rpartition(".")[2]}  # a class may move between modules
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
