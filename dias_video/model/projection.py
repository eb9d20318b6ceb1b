"""From frozen features to the tokens for Slot Attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.model.layers import LayerNorm, zero_biases
from dias_video.pretrained.configured import Configured


class Projection(Configured, nn.Module):
    """Frozen features to the tokens for Slot Attention: LayerNorm and an MLP, (...,N,C) to (...,N,out_dim).

    ``hidden`` is the MLP's hidden width; None: ``out_dim``, as in the authors' released DIAS. The DINOSAUR and SLATE of
    their comparison have 2 C.
    """

    sees_frames = False  # whether it also uses the video

    def __init__(self, feature_dim: int, out_dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.norm = LayerNorm(feature_dim)
        self.hidden = nn.Linear(feature_dim, hidden or out_dim)
        self.out = nn.Linear(hidden or out_dim, out_dim)
        zero_biases(self)

    def forward(self, features: Tensor, video: Tensor | None) -> Tensor:
        """Features (...,N,C) to tokens (...,N,D); only subclasses with ``sees_frames`` use ``video``."""
        tokens: Tensor = self.out(F.gelu(self.hidden(self.norm(features))))
        return tokens
