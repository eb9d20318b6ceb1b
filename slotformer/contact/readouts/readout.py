"""What every contact readout shares. A form of readout is a class of its own, in the file of this folder named so."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dias_video.pretrained.configured import Configured

NEVER = -1e4  # the logit of what is not there


class ContactReadout(Configured, nn.Module, ABC):
    """Logit of contact from a slot sequence: something of slot pairs at every frame, then the maximum over time.

    A subclass takes ``hidden`` too, and adds ``frame_logits``.

    Args:
        slot_dim: of the slots, their places included.
        num_places: how many of the last channels are a slot's place (:mod:`slotformer.contact.places`).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, slot_dim: int, num_places: int = 0) -> None:
        super().__init__()
        self.num_places, self.own_dim = num_places, slot_dim - num_places
        self.register_buffer("mean", torch.zeros(slot_dim))
        self.register_buffer("scale", torch.ones(slot_dim))

    @abstractmethod
    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """Logits (B,T) of every frame, from slots (B,T,S,D) without places, live (B,T,S) and places (B,T,S,P)."""

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """The slots' mean and deviation per channel, (D,) each."""
        self.mean.copy_(mean)
        self.scale.copy_(scale.clamp(min=1e-6))

    def forward(self, slots: Tensor, live: Tensor) -> Tensor:
        """Slots (B,T,S,D) and live (B,T,S) -> logits (B,)."""
        own, places = slots[..., : self.own_dim], slots[..., self.own_dim :] * live[..., None]
        frame = self.frame_logits(own, live, places)
        return frame.masked_fill(~live.any(-1), NEVER).amax(1)  # (B,T) -> (B,)

    def standard(self, slots: Tensor) -> Tensor:
        """Slots (...,D) without places, with mean 0 and deviation 1 in every channel."""
        return (slots - self.mean[: self.own_dim]) / self.scale[: self.own_dim]


def forms() -> dict[str, Callable[[int, int, int], ContactReadout]]:
    """Every form of readout by its name, its file's: made of slot_dim, hidden and num_places."""
    found: dict[str, Callable[[int, int, int], ContactReadout]] = {}
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"{__package__}.{file.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, ContactReadout) and value is not ContactReadout:
                found[file.name] = value
    return found
