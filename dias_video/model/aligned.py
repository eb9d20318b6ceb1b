"""Slot Attention whose first weights make slots attend to what they hold; it is not in the paper."""

from __future__ import annotations

import torch

from dias_video.model.attention import SlotAttention


class AlignedAttention(SlotAttention):
    """Slot Attention whose keys begin as the queries of slots that hold only that token.

    With the usual first weights a slot attends to the tokens that it holds no more than to others. Whether slots become
    fixed points, or exchange their objects at every iteration, which costs no reconstruction, is then chance. Only the
    first weights differ, and the key matrix has the norm of the usual one.
    """

    def __init__(self, slot_dim: int, token_dim: int, mlp_ratio: int = 4) -> None:
        super().__init__(slot_dim, token_dim, mlp_ratio)
        with torch.no_grad():
            new = self.gru.weight_ih.chunk(3)[2]  # from an update to the new state: nearly linear at first
            keys = self.query.weight @ new @ self.value.weight
            self.key.weight.copy_(keys * (self.key.weight.norm() / keys.norm()))
