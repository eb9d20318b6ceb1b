"""Frozen features to the tokens that Slot Attention looks at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.model.layers import fourier_features, zero_biases
from dias_video.pretrained.configured import Configured


class Projection(Configured, nn.Module):
    """Frozen features to the tokens that slots look at: LayerNorm and an MLP, (...,N,C) to (...,N,out_dim).

    With a ``grid`` (h,w) every token is told where it is, for encoders whose features don't tell: a learned linear map
    of the Fourier features of its cell's centre is added in the hidden layer. ``residual`` adds the MLP, which begins
    as a constant, to the normalised features (of the same width), for features whose distances already tell objects
    apart.
    ``place`` adds to its tokens a linear code of where they are, learned, at first of ``place`` times their norm, so
    that slots begin as compact regions.
    """

    centres: Tensor
    places: Tensor

    def __init__(
        self,
        feature_dim: int,
        out_dim: int,
        grid: tuple[int, int] | None = None,
        residual: bool = False,
        place: float = 0.0,
    ) -> None:
        super().__init__()
        if place and (grid is None or not residual):
            raise ValueError("a projection with place needs a grid, and residual=true")
        if residual and feature_dim != out_dim:
            raise ValueError(f"a residual projection keeps the width: out_dim {out_dim} must be {feature_dim}")
        self.residual = residual
        self.norm = nn.LayerNorm(feature_dim)
        self.hidden = nn.Linear(feature_dim, out_dim)
        self.out = nn.Linear(out_dim, out_dim)
        zero_biases(self)
        if residual:
            nn.init.zeros_(self.out.weight)
        self.position = None
        if grid is not None:
            y, x = ((torch.arange(n) + 0.5) / n for n in grid)
            centres = torch.cartesian_prod(y, x).flip(-1)  # (N,2) x and y, in the order of the tokens
            self.register_buffer("centres", fourier_features(centres), persistent=False)  # (N,F)
            self.position = nn.Linear(self.centres.shape[1], out_dim, bias=False)
        self.place = None
        if place:
            centred = 2 * centres - 1
            scale = place * out_dim**0.5 / centred.norm(dim=-1).mean()
            self.register_buffer("places", scale * centred, persistent=False)  # (N,2)
            self.place = nn.Linear(2, out_dim, bias=False)
            nn.init.orthogonal_(self.place.weight)

    def forward(self, features: Tensor, video: Tensor) -> Tensor:
        """Features (...,N,C) to tokens (...,N,D); the ``video`` that they are of is for subclasses."""
        features = self.norm(features)
        x = self.hidden(features)
        if self.position is not None:
            x = x + self.position(self.centres)
        x = self.out(F.gelu(x))
        if self.place is not None:
            x = x + self.place(self.places)
        return features + x if self.residual else x
