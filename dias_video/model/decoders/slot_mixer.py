"""SlotMixer as VideoSAUR has it."""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.decoders.decoded import Decoded, Decoder, check_tokens, total
from dias_video.model.layers import masked_softmax, zero_biases
from dias_video.model.sharp_block import SharpBlock


class SlotMixerDecoder(Decoder):
    """SlotMixer (Sajjadi et al. 2022) as VideoSAUR's released code has it.

    Positions look up slots (Transformer layers), a second attention with one head mixes the slots, and an MLP renders
    the mixture plus the position. Masks are the second attention.

    Args:
        feature_dim: C of what is predicted for every token (VideoSAUR: features, logits over the next frame's tokens,
            or both: then the widths of both).
        slot_dim: D, also the width of positions and layers.
        num_tokens: N.
        num_layers: of the look-up, 3 on YouTube-VIS and 2 on MOVi.
        num_heads: of the look-up.
        hidden: width of the MLP.
        render_layers: its hidden layers, 3 on YouTube-VIS and 4 on MOVi.
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
        self.norm_memory = nn.LayerNorm(slot_dim)
        self.allocate = nn.ModuleList(SharpBlock(slot_dim, num_heads) for _ in range(num_layers))
        self.norm_query, self.norm_key = nn.LayerNorm(slot_dim), nn.LayerNorm(slot_dim)
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
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``target`` and ``draws`` change nothing."""
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
