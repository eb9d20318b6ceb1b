"""Spatial broadcast decoding (DINOSAUR)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.decoders.decoded import Decoded, Decoder, check_tokens, total
from dias_video.model.layers import masked_softmax, zero_biases

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class MLPDecoder(Decoder):
    """Spatial broadcast: every slot is decoded at every position, and the results are mixed (DINOSAUR).

    ``feature_dim`` is the width of a predicted token, or a list with the widths of its parts.
    """

    def __init__(
        self,
        feature_dim: int | list[int],
        slot_dim: int,
        num_tokens: int,
        hidden: int,
        num_layers: int = 4,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}, got {activation!r}")
        self.num_tokens = num_tokens
        self.positions = nn.Parameter(torch.randn(num_tokens, slot_dim) * slot_dim**-0.5)
        widths = [slot_dim] + [hidden] * (num_layers - 1)
        hidden_layers = [nn.Sequential(nn.Linear(a, b), ACTIVATIONS[activation]()) for a, b in pairwise(widths)]
        self.mlp = nn.Sequential(*hidden_layers, nn.Linear(widths[-1], total(feature_dim) + 1))
        zero_biases(self)

    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``target`` and ``draws`` are not used."""
        check_tokens(target, (*slots.shape[:2], self.num_tokens))
        parts = self.mlp(slots[..., None, :] + self.positions)  # (B,T,S,N,C+1)
        alpha = masked_softmax(parts[..., -1], live[..., None], dim=2)  # (B,T,S,N)
        mixed = (parts[..., :-1] * alpha[..., None].to(parts.dtype)).sum(2)  # (B,T,N,C)
        return Decoded(mixed, alpha, torch.ones_like(alpha[:, :, 0], dtype=torch.bool))
