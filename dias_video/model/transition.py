"""From the slots of frame t to the queries of frame t + 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dias_video.batch import CarryState
from dias_video.model.layers import MLP, SelfAttention
from dias_video.pretrained.configured import Configured


class Transition(Configured, nn.Module):
    """One pre-norm Transformer encoder layer over the live slots of a frame; (B,S,D) -> (B,S,D), dead slots stay 0.

    Both branches begin at zero: before it has learned anything, a slot's query is the slot of the frame before.

    ``memory``, which is not in the paper: queries come from a running average of a track's slots, which keeps this part
    of itself from frame to frame. The slot of one frame alone takes up what covers its object, and forgets the object
    piece by piece. 0: the slots of the frame before.
    """

    def __init__(self, slot_dim: int, num_heads: int = 4, mlp_ratio: int = 4, memory: float = 0.0) -> None:
        super().__init__()
        if not 0 <= memory < 1:
            raise ValueError(f"memory is the part that is kept, from 0 to below 1, got {memory}")
        self.memory = memory
        self.norm1 = nn.LayerNorm(slot_dim)
        self.attention = SelfAttention(slot_dim, num_heads, bias=True)
        self.norm2 = nn.LayerNorm(slot_dim)
        self.mlp = MLP(slot_dim, mlp_ratio * slot_dim)
        self.mlp.begin_at_zero()
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def remember(self, state: CarryState, slots: Tensor) -> Tensor:
        """The average (B,S,D) after a frame's ``slots``, from the ``state`` before it; with a track it begins."""
        if not self.memory:
            return slots
        average = self.memory * state.slots + (1 - self.memory) * slots
        return torch.where((state.track_id >= 0)[..., None], average, slots)

    def forward(self, slots: Tensor, live: Tensor) -> Tensor:
        """Slots (B,S,D) of a frame, live where ``live`` (B,S), to queries (B,S,D) of the next; zeros where dead."""
        slots = slots + self.attention(self.norm1(slots), keys=live)
        slots = slots + self.mlp(self.norm2(slots))
        return slots * live[..., None]
