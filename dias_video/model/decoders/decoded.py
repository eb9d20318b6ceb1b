"""Decoders phi_d: slots to the encoder's tokens, and who owns which token (paper eq. 3, 11).

Every decoder answers ``decoder(slots (B,T,S,D), live (B,T,S), target (B,T,N,C) or None, draws or None)`` with a
``Decoded``. With ``draws`` it trains (random order, random prefix); without them every token of ``target`` is known;
without ``target`` none is: the only fair way to decode predicted slots, which have no features.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Decoded(NamedTuple):
    """What a decoder returns."""

    reconstruction: Tensor  # (B,T,N,C)
    attention: Tensor  # (B,T,S,N) A_d, exactly 0 on dead slots
    scored: Tensor  # (B,T,N) bool, tokens that the reconstruction loss counts


def check_tokens(target: Tensor | None, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless ``target`` (B,T,N,C) has the axes B T N that ``shape`` says."""
    if target is not None and target.shape[:3] != shape:
        raise ValueError(
            f"the decoder expects tokens {shape} + (C,), got {tuple(target.shape)}: check the encoder's grid"
        )
