"""SlotMixer (VideoSAUR)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.decoders.decoded import Decoded, check_tokens
from dias_video.model.decoders.slot_transformer import SlotTransformer
from dias_video.model.layers import MLP, masked_softmax, zero_biases
from dias_video.pretrained.configured import Configured


class SlotMixerDecoder(Configured, nn.Module):
    """SlotMixer (VideoSAUR): positions look up slots, a second attention mixes them, an MLP renders the mixture."""

    def __init__(
        self,
        feature_dim: int,
        slot_dim: int,
        num_tokens: int,
        width: int,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.positions = nn.Parameter(torch.randn(num_tokens, width) * width**-0.5)
        self.allocate = SlotTransformer(slot_dim, width, num_layers, num_heads, 4, self_attention=False)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(slot_dim, width, bias=False)
        self.render = nn.Sequential(nn.Linear(slot_dim, hidden), nn.ReLU(), MLP(hidden, hidden, feature_dim))
        zero_biases(self)

    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``target`` and ``draws`` change nothing."""
        batch, frames = slots.shape[:2]
        check_tokens(target, (batch, frames, self.num_tokens))
        slots, live = slots.flatten(0, 1), live.flatten(0, 1)
        x, _ = self.allocate(self.positions.expand(len(slots), -1, -1), slots, live)  # (F,N,width)
        logits = self.query(self.norm(x)) @ self.key(slots).transpose(1, 2) * x.shape[-1] ** -0.5  # (F,N,S)
        attention = masked_softmax(logits, live[:, None, :], dim=-1)
        rendered = self.render(attention.to(slots.dtype) @ slots)  # (F,N,C)
        return Decoded(
            rearrange(rendered, "(b t) n c -> b t n c", b=batch),
            rearrange(attention, "(b t) n s -> b t s n", b=batch),
            torch.ones(batch, frames, self.num_tokens, dtype=torch.bool, device=slots.device),
        )
