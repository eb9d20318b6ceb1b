"""SlotMixer as in VideoSAUR."""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.decoders.decoded import Decoded, Decoder, check_tokens, total
from dias_video.model.layers import LayerNorm, masked_softmax, zero_biases
from dias_video.model.sharp_block import SharpBlock


class SlotMixerDecoder(Decoder):
    """SlotMixer (Sajjadi et al. 2022) as in VideoSAUR's released code.

    Positions attend to slots in Transformer layers. A second attention with one head then mixes the slots for each
    position, and an MLP decodes the mixture plus the position. The masks are the second attention.

    Args:
        feature_dim: width of the prediction for a token, or a list with the widths of its parts. VideoSAUR predicts
            features, logits over the next frame's tokens, or both.
        slot_dim: D, also the width of positions and layers.
        num_tokens: N.
        num_layers: number of Transformer layers: 3 on YouTube-VIS, 2 on MOVi.
        num_heads: heads of these layers.
        hidden: width of the MLP.
        render_layers: hidden layers of the MLP: 3 on YouTube-VIS, 4 on MOVi.
    """

    def __init__(
        self,
        feature_dim: int | list[int],
        slot_dim: int,
        num_tokens: int,
        num_layers: int = 3,
        num_heads: int = 4,
        hidden: int = 1024,
        render_layers: int = 3,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.positions = nn.Parameter(torch.randn(num_tokens, slot_dim) * slot_dim**-0.5)
        self.norm_memory = LayerNorm(slot_dim)
        self.allocate = nn.ModuleList(SharpBlock(slot_dim, num_heads) for _ in range(num_layers))
        self.norm_query, self.norm_key = LayerNorm(slot_dim), LayerNorm(slot_dim)
        self.query = nn.Linear(slot_dim, slot_dim, bias=False)
        self.key = nn.Linear(slot_dim, slot_dim, bias=False)
        widths = [slot_dim] + [hidden] * render_layers
        self.render = nn.Sequential(*chain.from_iterable((nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)))
        self.output = nn.Linear(hidden, total(feature_dim))
        zero_biases(self.render)
        zero_biases(self.output)
        for linear in (self.query, self.key, self.output):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``target`` and ``draws`` are not used."""
        batch, frames = slots.shape[:2]
        check_tokens(target, (batch, frames, self.num_tokens))
        slots, live = slots.flatten(0, 1), live.flatten(0, 1)
        memory = self.norm_memory(slots)
        x = self.positions.expand(len(slots), -1, -1)  # (F,N,D)
        for block in self.allocate:
            x = block(x, live, memory)
        queries, keys = self.query(self.norm_query(x)), self.key(self.norm_key(slots))
        logits = queries @ keys.transpose(1, 2) * slots.shape[-1] ** -0.5  # (F,N,S)
        attention = masked_softmax(logits, live[:, None, :], dim=-1)
        mixed = attention.to(slots.dtype) @ slots + self.positions  # (F,N,D)
        rendered = self.output(self.render(mixed))  # (F,N,C)
        return Decoded(
            rearrange(rendered, "(b t) n c -> b t n c", b=batch),
            rearrange(attention, "(b t) n s -> b t s n", b=batch),
            torch.ones(batch, frames, self.num_tokens, dtype=torch.bool, device=slots.device),
        )
