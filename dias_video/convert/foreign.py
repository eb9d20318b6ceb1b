"""Reads weights of other programs, matches them by name and shape, and lists everything that is left over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.|m\.)+")  # prefixes of DDP, torch.compile and the DIAS authors' ModelWrap


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors by name of a safetensors file, or of a file of ``torch.save``.

    The latter holds a state dict, or a dict that contains one. The prefixes of wrappers are removed from names.

    Raises:
        ValueError: the file is missing or damaged, holds more than plain tensors and numbers, or holds no state dict.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing; check file=")
    try:
        if file.suffix == ".safetensors":
            found = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both loaders raise errors of many kinds; each becomes one sentence
        # PyTorch's own message would recommend to allow code in the file.
        if foreign := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error)):
            try:
                named = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
            except Exception:  # a file of the form before 2020 is not searched
                named = [foreign[1]]
            raise ValueError(
                f"{file} holds more than plain weights ({', '.join(named)}); if you trust these, let them alone be "
                f'read where they are installed, and keep the weights: python -c "import pkgutil, torch; '
                f"torch.serialization.add_safe_globals([pkgutil.resolve_name(name) for name in {named}]); "
                f"torch.save(torch.load('{file}', 'cpu', weights_only=True)['state_dict'], 'weights.pth')\""
            ) from error
        raise ValueError(f"{file} can't be read as plain weights; it is damaged, fetch it again") from error
    inside = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(inside, dict) or not any(isinstance(value, Tensor) for value in inside.values()):
        raise ValueError(f"{file} holds no state dict (names and tensors)")
    return {WRAPPERS.sub("", name): value for name, value in inside.items() if isinstance(value, Tensor)}


@torch.no_grad()
def adopt(model: nn.Module, tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> list[str]:
    """Load the tensors that fit into ``model``.

    Args:
        model: takes the tensors; a tensor may have more or fewer leading axes of size 1 than the model's.
        tensors: tensors by their foreign names.
        rules: pairs of a regular expression for a whole foreign name and the replacement that makes the model's name;
            the first that matches counts. Several names joined by ``+`` share a tensor, cut along its first axis.

    Returns:
        A sentence with the reason for every foreign tensor that was not taken, and a sentence for every tensor of the
        model that was not changed.

    Raises:
        ValueError: no tensor fits.
    """
    own = model.state_dict()
    missing, leftover = set(own), []
    for theirs, tensor in tensors.items():
        found = next((m.expand(names) for pattern, names in rules if (m := re.fullmatch(pattern, theirs))), None)
        if found is None:
            leftover.append(f"{theirs} {tuple(tensor.shape)}: has no counterpart")
            continue
        names = found.split("+")
        unknown = [name for name in names if name not in missing]
        if unknown:
            leftover.append(f"{theirs} {tuple(tensor.shape)}: the model has no {' and no '.join(unknown)} to fill")
            continue
        parts = _cut(tensor, [len(own[name]) for name in names]) if len(names) > 1 else [tensor]
        if [_core(part) for part in parts] != [_core(own[name]) for name in names]:
            wanted = " and ".join(f"{name} {tuple(own[name].shape)}" for name in names)
            leftover.append(f"{theirs} {tuple(tensor.shape)}: the model wants {wanted}")
            continue
        for name, part in zip(names, parts, strict=True):
            own[name].copy_(part.reshape(own[name].shape))
            missing.remove(name)
    if len(missing) == len(own):
        raise ValueError(f"none of the {len(tensors)} tensors fits a {type(model).__name__}: they are of another model")
    return leftover + [f"{name} {tuple(own[name].shape)}: not in the checkpoint" for name in own if name in missing]


def _cut(tensor: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    """Pieces of the given sizes along the first axis; the whole tensor where the sizes don't add up."""
    return tensor.split(sizes) if tensor.ndim and len(tensor) == sum(sizes) else [tensor]


def _core(tensor: Tensor) -> tuple[int, ...]:
    """The shape without leading axes of size 1."""
    shape = list(tensor.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape.pop(0)
    return tuple(shape)
