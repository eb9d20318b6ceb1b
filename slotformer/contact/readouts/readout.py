"""The base of contact readouts. Each form of readout is a class in a file of this folder with the form's name."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

NEVER = -1e4  # logit of absent slots, pairs and frames


class Linears(nn.Module):
    """Linear layers of ``members`` readouts side by side, each initialised like ``nn.Linear``."""

    def __init__(self, members: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (M,...,inputs), different for each member, to (M,...,outputs)."""
        rows = x.flatten(1, -2)
        out = rows @ self.weight if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)
        return out.unflatten(1, x.shape[1:-1])

    def of_same(self, x: Tensor) -> Tensor:
        """Map (...,inputs), the same for all members, to (M,...,outputs)."""
        out = torch.einsum("ni,mio->mno", x.flatten(0, -2), self.weight)
        return (out if self.bias is None else out + self.bias).unflatten(1, x.shape[:-1])


class ContactReadout(nn.Module, ABC):
    """Logits of contact from slot sequences: a logit of slot pairs for every frame, then the maximum over time.

    It holds ``members`` (M) independent readouts, which read the same slots. A subclass defines ``frame_logits``.

    Args:
        slot_dim: width of the slots, including their places.
        hidden: width of the hidden layer.
        num_places: number of last channels that are a slot's place (:mod:`slotformer.contact.places`).
        members: M.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0, members: int = 1) -> None:
        super().__init__()
        self.sizes, self.members = (slot_dim, hidden, num_places), members
        self.own_dim = slot_dim - num_places
        self.register_buffer("mean", torch.zeros(slot_dim))
        self.register_buffer("scale", torch.ones(slot_dim))

    @abstractmethod
    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """Logits (M,B,T) of every frame, from slots (B,T,S,D) without places, live (B,T,S) and places (B,T,S,P)."""

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Set the slots' mean and standard deviation for each channel, (D,) each."""
        self.mean.copy_(mean)
        self.scale.copy_(scale.clamp(min=1e-6))

    def forward(self, slots: Tensor, live: Tensor) -> Tensor:
        """Slots (B,T,S,D) and live (B,T,S) -> logits (M,B)."""
        own, places = slots[..., : self.own_dim], slots[..., self.own_dim :] * live[..., None]
        frame = self.frame_logits(own, live, places)
        return frame.masked_fill(~live.any(-1), NEVER).amax(2)  # (M,B,T) -> (M,B)

    def standard(self, slots: Tensor) -> Tensor:
        """Slots (...,D) without places, with mean 0 and deviation 1 in every channel."""
        return (slots - self.mean[: self.own_dim]) / self.scale[: self.own_dim]

    def only(self, members: Tensor) -> ContactReadout:
        """A readout with only the given members (int64), with copies of their weights."""
        made = type(self)(*self.sizes, members=len(members)).to(self.mean.device)
        own = dict(self.named_parameters())
        made.load_state_dict({k: v[members] if k in own else v for k, v in self.state_dict().items()})
        return made


def forms() -> dict[str, Callable[..., ContactReadout]]:
    """The class of every form of readout by its name, which is that of its file."""
    found: dict[str, Callable[..., ContactReadout]] = {}
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"{__package__}.{file.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, ContactReadout) and value is not ContactReadout:
                found[file.name] = value
    return found
