"""From frozen features to the tokens for Slot Attention, as in VideoSAUR and SlotContrast."""

from __future__ import annotations

from torch import Tensor, nn

from dias_video.model.layers import MLP, LayerNorm, zero_biases
from dias_video.pretrained.configured import Configured


class ReLUProjection(Configured, nn.Module):
    """LayerNorm and an MLP with ReLU, as in VideoSAUR and SlotContrast, where ``hidden`` is 2 C."""

    sees_frames = False  # as ``Projection``

    def __init__(self, feature_dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(feature_dim)
        self.mlp = MLP(feature_dim, hidden, out_dim, activation=nn.ReLU)
        zero_biases(self.mlp)

    def forward(self, features: Tensor, video: Tensor | None) -> Tensor:
        """Features (...,N,C) to tokens (...,N,D); ``video`` is not used."""
        return self.mlp(self.norm(features))
