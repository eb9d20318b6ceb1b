"""The predictor of VideoSAUR and SlotContrast: from the slots of frame t to the queries of frame t + 1."""

from __future__ import annotations

from torch import Tensor, nn

from dias_video.batch import CarryState
from dias_video.model.sharp_block import SharpBlock
from dias_video.pretrained.configured import Configured


class Predictor(Configured, nn.Module):
    """Transformer predictor of VideoSAUR and SlotContrast, used in place of ``Transition``: (B,S,D) -> (B,S,D).

    Dead slots are not attended to and stay 0. Queries come only from the slots of the frame before. Before training
    they differ from these slots, because no branch begins at zero.
    """

    def __init__(self, slot_dim: int, num_heads: int = 4) -> None:
        super().__init__()
        self.block = SharpBlock(slot_dim, num_heads)

    def remember(self, state: CarryState, slots: Tensor) -> Tensor:
        """The input of the next call of ``forward``: the frame's ``slots`` (B,S,D)."""
        return slots

    def forward(self, slots: Tensor, live: Tensor) -> Tensor:
        """Slots (B,S,D) of a frame, live where ``live`` (B,S), to queries (B,S,D) of the next; zeros where dead."""
        return self.block(slots, live) * live[..., None]
