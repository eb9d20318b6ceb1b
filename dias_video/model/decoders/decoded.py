"""Decoders phi_d: slots to the encoder's tokens, and who owns which token (paper eq. 3, 11)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.pretrained.configured import Configured


class Decoded(NamedTuple):
    """What a decoder returns."""

    reconstruction: Tensor  # (B,T,N,C)
    attention: Tensor  # (B,T,S,N) A_d, exactly 0 on dead slots
    scored: Tensor  # (B,T,N) bool, tokens that the reconstruction loss counts


class Decoder(Configured, nn.Module, ABC):
    """What a model asks of its decoder.

    ``feedback`` makes a known token of a predicted one, for decoders that go on from what they predicted; the model's
    objective sets it. By default what is predicted is what is known.
    """

    feedback: Callable[[Tensor], Tensor] = staticmethod(lambda predicted: predicted)

    @abstractmethod
    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D), live where ``live`` (B,T,S), to tokens (B,T,N,C).

        With ``draws`` it trains (random order, random prefix); without them every token of ``target`` (B,T,N,C) is
        known; without ``target`` none is: the only fair way to decode predicted slots, which have no features.
        ``live`` may be a gate (``layers.masked_softmax``).
        """


def total(widths: int | Sequence[int]) -> int:
    """The width of several things side by side."""
    return widths if isinstance(widths, int) else sum(widths)


def check_tokens(target: Tensor | None, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless ``target`` (B,T,N,C) has the axes B T N that ``shape`` says."""
    if target is not None and target.shape[:3] != shape:
        raise ValueError(
            f"the decoder expects tokens {shape} + (C,), got {tuple(target.shape)}: check the encoder's grid"
        )
