"""The interface of decoders phi_d: slots to the encoder's tokens, and to the slot that owns each (paper eq. 3, 11)."""

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
    scored: Tensor  # (B,T,N) bool, tokens that count in the reconstruction loss


class Decoder(Configured, nn.Module, ABC):
    """The interface of decoders.

    ``feedback`` turns a predicted token into a known one, for decoders that use their own predictions. The model sets
    it to the objective's ``as_known``. By default a predicted token is used unchanged.

    ``answers_known``: it is taught to answer at the places of known tokens. Where it is not, its masks are read with no
    token known.
    """

    answers_known: bool = True
    feedback: Callable[[Tensor], Tensor] = staticmethod(lambda predicted: predicted)

    @abstractmethod
    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D), live where ``live`` (B,T,S), to tokens (B,T,N,C).

        With ``draws`` it decodes as in training, with a random order and prefix. Without ``draws`` every token of
        ``target`` (B,T,N,C) is known, if the decoder ``answers_known``. Without ``target`` no token is known;
        predicted slots must be decoded so, since they have no features. ``live`` may be a gate
        (``layers.masked_softmax``).
        """


def total(widths: int | Sequence[int]) -> int:
    """The sum of several widths."""
    return widths if isinstance(widths, int) else sum(widths)


def check_tokens(target: Tensor | None, shape: tuple[int, int, int], width: int | None = None) -> None:
    """Raise ValueError unless ``target`` (B,T,N,C) has the axes B T N of ``shape`` and, if given, the ``width`` C."""
    if target is None:
        return
    if target.shape[:3] != shape:
        raise ValueError(
            f"the decoder expects tokens {shape} + (C,), got {tuple(target.shape)}: check the encoder's grid"
        )
    if width not in (None, target.shape[3]):
        raise ValueError(
            f"the decoder expects tokens that are {width} wide, these are {target.shape[3]}: set sizes.code_dim for "
            "codes, sizes.feature_dim for features"
        )
