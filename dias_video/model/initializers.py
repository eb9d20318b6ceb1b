"""The queries of the first frame, and of slots that are re-seeded on later frames."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.layers import MLP, fourier_features
from dias_video.pretrained.configured import Configured


class Initializer(Configured, nn.Module, ABC):
    """The interface of initializers."""

    takes_boxes = False  # whether queries can come from boxes

    def __init__(self, num_slots: int, slot_dim: int) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        self.num_slots, self.slot_dim = num_slots, slot_dim

    def forward(
        self, tokens: Tensor, draws: Draws, boxes: Tensor | None = None, box_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Queries (B,S,D) of the first frame, and which are on (B,S) bool: here those of ``reseed``, all on.

        Args:
            tokens: (B,N,C), the tokens for Slot Attention.
            draws: the random numbers of these clips.
            boxes, box_valid: (B,K,4) normalised xyxy and (B,K) bool, or None, for initializers with ``takes_boxes``.
        """
        queries = self.reseed(len(tokens), draws)
        return queries, torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)

    @abstractmethod
    def reseed(self, batch_size: int, draws: Draws) -> Tensor:
        """Fresh queries (B,S,D) for slots that are off."""


class GaussianInitializer(Initializer):
    """Queries sampled from learned Gaussians; boxes are not used.

    ``shared=True``: all slots have one Gaussian, which is always sampled, since otherwise all slots would be equal. It
    begins with a standard deviation of about 1 and a mean of about 0, so that queries point in all directions.
    ``shared=False``: each slot has a Gaussian, which is sampled in training; evaluation uses its mean. It begins with a
    standard deviation of D^-0.5. Both initial scales are those of the released code. With the second, nearly all slots
    are redundant before training, so merging must start later (``Merging.warmup``).
    """

    def __init__(self, num_slots: int, slot_dim: int, shared: bool = True) -> None:
        super().__init__(num_slots, slot_dim)
        self.shared = shared
        self.mean = nn.Parameter(torch.empty(1 if shared else num_slots, slot_dim))
        self.log_std = nn.Parameter(torch.full_like(self.mean, -0.5 * math.log(slot_dim)))
        if shared:  # Xavier as of the released (1,1,D) tensors
            nn.init.xavier_uniform_(self.mean[None])
            nn.init.xavier_uniform_(self.log_std[None])
        else:
            nn.init.xavier_uniform_(self.mean)

    def reseed(self, batch_size: int, draws: Draws) -> Tensor:
        """Fresh queries (B,S,D) for slots that are off."""
        noise = draws.normal(self.num_slots, self.slot_dim)  # (B,S,D); always drawn, so that later draws don't change
        if not (self.shared or self.training):
            return self.mean.expand(batch_size, -1, -1)
        return torch.addcmul(self.mean, noise, self.log_std.exp())


class BoxInitializer(Initializer):
    """Queries from the first frame's boxes: slot 0 for the background, slot k + 1 for box k (so slot = instance id).

    Slots without a box are off on the first frame. If there are more boxes than slots, the largest are kept, in their
    order. A clip without boxes starts with all slots on, from the Gaussian that also re-seeds slots.
    """

    takes_boxes = True

    def __init__(self, num_slots: int, slot_dim: int, hidden: int = 256) -> None:
        super().__init__(num_slots, slot_dim)
        if num_slots < 2:
            raise ValueError(f"boxes need at least 2 slots (background and one object), got {num_slots}")
        self.embed = MLP(fourier_features(torch.zeros(4)).numel(), hidden, slot_dim)
        self.background = nn.Parameter(torch.randn(slot_dim))
        self.seed = GaussianInitializer(num_slots, slot_dim)
        self.embed.begin_at_unit_scale(4 * 4.0)  # a sine and a cosine: 1 for each of 4 coordinates and 4 octaves

    def forward(
        self, tokens: Tensor, draws: Draws, boxes: Tensor | None = None, box_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``boxes`` (B,K,4) normalised xyxy of the first frame and ``box_valid`` (B,K) bool, or None.

        Raises:
            ValueError: boxes come without ``box_valid``, or have another shape.
        """
        batch_size = len(tokens)
        seeds, all_on = self.seed(tokens, draws)
        if boxes is None:
            return seeds, all_on
        if box_valid is None or boxes.shape != (batch_size, box_valid.shape[-1], 4):
            raise ValueError(f"boxes must be ({batch_size},K,4) with box_valid (B,K), got {tuple(boxes.shape)}")
        boxes, box_valid = largest_boxes(boxes.to(self.background), box_valid, self.num_slots - 1)  # (B,S-1,4) (B,S-1)
        queries = self.of_boxes(boxes, box_valid, tokens)
        return queries, torch.cat([all_on[:, :1], box_valid], 1)

    def of_boxes(self, boxes: Tensor, box_valid: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B,S,D) of the background and of boxes (B,S-1,4); slots without ``box_valid`` (B,S-1) will be off."""
        background = self.background.expand(len(boxes), 1, -1)
        return torch.cat([background, self.embed(fourier_features(boxes))], 1)

    def reseed(self, batch_size: int, draws: Draws) -> Tensor:
        """Fresh queries (B,S,D) for slots that are off, from the learned Gaussians."""
        return self.seed.reseed(batch_size, draws)


def largest_boxes(boxes: Tensor, valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Exactly ``count`` boxes (B,count,4) and their validity, keeping the order; if too many, the largest by area.

    Boxes (B,K,4) are xyxy. Fewer than ``count`` are padded with zero boxes that are not valid.
    """
    num_boxes = boxes.shape[1]
    if num_boxes <= count:
        pad = count - num_boxes
        return nn.functional.pad(boxes, (0, 0, 0, pad)), nn.functional.pad(valid, (0, pad))
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    kept = area.masked_fill(~valid, -1).topk(count, dim=1).indices.sort(1).values  # (B,count)
    return boxes.gather(1, kept[..., None].expand(-1, -1, 4)), valid.gather(1, kept)


def box_cover(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The part of each cell of a ``grid`` (h,w) that each box (B,K,4), normalised xyxy, covers: (B,K,h*w) in [0,1]."""

    def along(low: Tensor, high: Tensor, count: int) -> Tensor:  # (B,K) twice to (B,K,count)
        edge = torch.arange(count, device=boxes.device)
        overlap = torch.minimum(high[..., None] * count, edge + 1) - torch.maximum(low[..., None] * count, edge)
        return overlap.clamp_min(0)

    rows = along(boxes[..., 1], boxes[..., 3], grid[0])  # (B,K,h)
    columns = along(boxes[..., 0], boxes[..., 2], grid[1])  # (B,K,w)
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)
