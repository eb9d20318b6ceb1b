"""Subclasses of the paper's classes with which small models learn in minutes on a CPU; they are not in the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.batch import CarryState
from dias_video.draws import Draws
from dias_video.model.attention import SlotAttention
from dias_video.model.initializers import BoxInitializer, box_cover
from dias_video.model.layers import fourier_features
from dias_video.model.projection import Projection
from dias_video.model.transition import Transition


class PlacedProjection(Projection):
    """A projection that adds positions to tokens, for encoders whose features don't contain them.

    Args:
        feature_dim, out_dim: as for ``Projection``.
        grid: (h,w) of the tokens. If given, a learned linear map of the Fourier features of a cell's centre is added in
            the hidden layer.
        residual: add the MLP, which begins as a constant, to the normalised features, which have the same width. It
            suits features whose distances already separate objects.
        place: add a learned linear code of a token's position. It begins with ``place`` times the norm of the tokens,
            so that slots begin as compact regions.

    Raises:
        ValueError: ``place`` comes without ``grid`` or ``residual``, or ``residual`` would change the width.
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
        super().__init__(feature_dim, out_dim)
        if place and (grid is None or not residual):
            raise ValueError("a projection with place needs a grid, and residual=true")
        if residual and feature_dim != out_dim:
            raise ValueError(f"a residual projection keeps the width: out_dim {out_dim} must be {feature_dim}")
        self.residual = residual
        if residual:
            nn.init.zeros_(self.out.weight)
        self.position = self.place = None
        if grid is None:
            return
        y, x = ((torch.arange(n) + 0.5) / n for n in grid)
        centres = torch.cartesian_prod(y, x).flip(-1)  # (N,2) x and y, in the order of the tokens
        self.register_buffer("centres", fourier_features(centres), persistent=False)  # (N,F)
        self.position = nn.Linear(self.centres.shape[1], out_dim, bias=False)
        if place:
            centred = 2 * centres - 1
            scale = place * out_dim**0.5 / centred.norm(dim=-1).mean()
            self.register_buffer("places", scale * centred, persistent=False)  # (N,2)
            self.place = nn.Linear(2, out_dim, bias=False)
            nn.init.orthogonal_(self.place.weight)

    def forward(self, features: Tensor, video: Tensor | None) -> Tensor:
        """Features (...,N,C) to tokens (...,N,D); ``video`` is not used."""
        features = self.norm(features)
        x = self.hidden(features)
        if self.position is not None:
            x = x + self.position(self.centres)
        x = self.out(F.gelu(x))
        if self.place is not None:
            x = x + self.place(self.places)
        return features + x if self.residual else x


class ClusteringAttention(SlotAttention):
    """Slot Attention with initial weights that make it a clustering of tokens.

    At first, logits are ``sharpness`` times the cosine similarity of normalised slot and token, and a slot moves
    towards the mean of its tokens. With the usual initialisation the first attention is almost uniform, and small
    models need long to change that.

    Raises:
        ValueError: slots and tokens have different widths.
    """

    def __init__(self, slot_dim: int, token_dim: int, mlp_ratio: int = 4, sharpness: float = 40.0) -> None:
        super().__init__(slot_dim, token_dim, mlp_ratio)
        if slot_dim != token_dim:
            raise ValueError(f"sharpness compares slots with tokens: slot_dim {slot_dim} must be {token_dim}")
        self._begin(slot_dim, sharpness)

    @torch.no_grad()
    def _begin(self, dim: int, sharpness: float) -> None:
        nn.init.orthogonal_(self.query.weight, gain=(sharpness / dim**0.5) ** 0.5)
        self.key.weight.copy_(self.query.weight)
        nn.init.eye_(self.value.weight)
        _, keep, new = self.gru.weight_ih.split(dim)  # of the GRU's gates: reset, keep the old state, new state
        nn.init.zeros_(keep)
        new.copy_(0.5 * torch.eye(dim))
        _, keep, new = self.gru.weight_hh.split(dim)
        nn.init.zeros_(keep)
        nn.init.zeros_(new)
        nn.init.zeros_(self.gru.bias_ih)
        nn.init.zeros_(self.gru.bias_hh)
        nn.init.constant_(self.gru.bias_ih[dim : 2 * dim], 1.0)
        self.mlp.begin_at_zero()


class RememberingTransition(Transition):
    """Queries come from a running average of a track's slots: ``memory`` is the weight of the average so far.

    With queries from the last frame alone, a slot drifts to whatever covers its object.

    Raises:
        ValueError: ``memory`` is below 0, or is 1 or more.
    """

    def __init__(self, slot_dim: int, num_heads: int = 4, mlp_ratio: int = 4, memory: float = 0.9) -> None:
        super().__init__(slot_dim, num_heads, mlp_ratio)
        if not 0 <= memory < 1:
            raise ValueError(f"memory is the part that is kept, from 0 to below 1, got {memory}")
        self.memory = memory

    def remember(self, state: CarryState, slots: Tensor) -> Tensor:
        """The average (B,S,D) after a frame's ``slots``, from the ``state`` before; it begins anew with a track."""
        average = self.memory * state.slots + (1 - self.memory) * slots
        return torch.where((state.track_id >= 0)[..., None], average, slots)


class LookingBoxInitializer(BoxInitializer):
    """A query is the mean of the tokens in its box plus a code of the box (for the background: of tokens in no box).

    It is for small models, which don't learn to find the tokens at a place. The code of the box begins at 0.

    Args:
        num_slots, slot_dim, hidden: as for ``BoxInitializer``.
        grid: (h,w) of the tokens.
        box_dropout: the probability in training that a clip's boxes are left out, so that one model learns both kinds
            of start.
    """

    def __init__(
        self,
        num_slots: int,
        slot_dim: int,
        grid: tuple[int, int],
        hidden: int = 256,
        box_dropout: float = 0.0,
    ) -> None:
        super().__init__(num_slots, slot_dim, hidden)
        self.box_dropout = box_dropout
        self.grid = (int(grid[0]), int(grid[1]))
        self.embed.begin_at_zero()
        nn.init.zeros_(self.background)

    def forward(
        self, tokens: Tensor, draws: Draws, boxes: Tensor | None = None, box_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``BoxInitializer.forward``; in training some clips start as if they had no boxes."""
        queries, on = super().forward(tokens, draws, boxes, box_valid)
        if boxes is None or not self.training or self.box_dropout == 0:
            return queries, on
        dropped = draws.uniform(1) < self.box_dropout  # (B,1)
        return torch.where(dropped[..., None], self.reseed(len(tokens), draws), queries), on | dropped

    def of_boxes(self, boxes: Tensor, box_valid: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B,S,D) of the background and of boxes (B,S-1,4) that are ``box_valid`` (B,S-1)."""
        inside = box_cover(boxes, self.grid) * box_valid[..., None]  # (B,S-1,N)
        outside = (1 - inside.sum(1, keepdim=True)).clamp_min(0)
        weights = torch.cat([outside, inside], 1)
        means = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6) @ tokens
        return super().of_boxes(boxes, box_valid, tokens) + means
