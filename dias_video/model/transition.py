"""The transition: from the slots of frame t to the queries of frame t + 1."""

from __future__ import annotations

from torch import Tensor, nn

from dias_video.batch import CarryState
from dias_video.model.layers import MLP, LayerNorm, SelfAttention
from dias_video.pretrained.configured import Configured


class Transition(Configured, nn.Module):
    """One pre-norm Transformer encoder layer over the live slots of a frame; (B,S,D) -> (B,S,D), dead slots stay 0.

    Both branches begin at zero, so before training a slot's query is the slot of the frame before.
    """

    def __init__(self, slot_dim: int, num_heads: int = 4, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = LayerNorm(slot_dim)
        self.attention = SelfAttention(slot_dim, num_heads, bias=True)
        self.norm2 = LayerNorm(slot_dim)
        self.mlp = MLP(slot_dim, mlp_ratio * slot_dim)
        self.mlp.begin_at_zero()
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def remember(self, state: CarryState, slots: Tensor) -> Tensor:
        """The input (B,S,D) of the next call of ``forward``: the frame's ``slots``; ``state`` is for subclasses."""
        return slots

    def forward(self, slots: Tensor, live: Tensor) -> Tensor:
        """Slots (B,S,D) of a frame, live where ``live`` (B,S), to queries (B,S,D) of the next; zeros where dead."""
        slots = slots + self.attention(self.norm1(slots), keys=live)
        slots = slots + self.mlp(self.norm2(slots))
        return slots * live[..., None]
