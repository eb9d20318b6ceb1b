"""Slot Attention as in VideoSAUR and SlotContrast."""

from __future__ import annotations

from torch import Tensor, nn

from dias_video.model.attention import SlotAttention
from dias_video.model.layers import MLP, zero_biases


class Corrector(SlotAttention):
    """Slot Attention of VideoSAUR (Zadaianchuk et al. 2023) and SlotContrast (Manasyan et al. 2025), as released.

    The parameters have the shapes of ``SlotAttention``, but three things differ. The GRU's old state is the
    *normalised* slot. Each weight has 1e-8 added before the weights are divided by their sum over tokens. The MLP has a
    ReLU; VideoSAUR has no MLP.

    Args:
        slot_dim: D.
        token_dim: width of the tokens.
        mlp_ratio: hidden width of the MLP in D; 0 for none (VideoSAUR).
    """

    EPSILON = 1e-8

    def __init__(self, slot_dim: int, token_dim: int, mlp_ratio: int = 4) -> None:
        super().__init__(slot_dim, token_dim)
        self.gru.reset_parameters()  # biases too, as released
        self.has_mlp = mlp_ratio > 0
        if self.has_mlp:
            self.mlp = MLP(slot_dim, mlp_ratio * slot_dim, activation=nn.ReLU)
            zero_biases(self.mlp)
        else:
            del self.mlp, self.norm_mlp

    def forward(self, slots: Tensor, keys: Tensor, values: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration, as ``SlotAttention.forward``."""
        slots = self.norm_slots(slots)
        attention = self.shares(slots, keys, live)
        weights = attention + self.EPSILON
        weights = weights / weights.sum(-1, keepdim=True)
        updated = self.recur(weights.to(values.dtype) @ values, slots)
        if self.has_mlp:
            updated = updated + self.mlp(self.norm_mlp(updated))
        return updated * live[..., None], attention
