"""Where slots come from on the first frame, and where a freed slot is re-seeded from on later ones.

Every initializer answers ``initializer(batch_size, draws, boxes, box_valid)`` with queries (B,S,D) and the mask (B,S)
of those that are on, and ``initializer.reseed(batch_size, draws)`` with fresh queries (B,S,D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dias_video.batch import Draws
from dias_video.layers import MLP, fourier_features
from dias_video.pretrained import Configured


class GaussianInitializer(Configured, nn.Module):
    """Queries sampled from learned Gaussians; boxes are not looked at.

    ``shared``: one Gaussian for all slots, always sampled (else all slots would be equal). Otherwise one a slot,
    sampled in training, its mean in evaluation, as in the authors' released code.
    """

    def __init__(self, num_slots: int, slot_dim: int, shared: bool = True) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        self.num_slots, self.slot_dim, self.shared = num_slots, slot_dim, shared
        self.mean = nn.Parameter(torch.empty(1 if shared else num_slots, slot_dim))
        self.log_std = nn.Parameter(torch.full_like(self.mean, -0.5 * torch.tensor(float(slot_dim)).log().item()))
        nn.init.xavier_uniform_(self.mean)

    def forward(
        self, batch_size: int, draws: Draws, boxes: Tensor | None = None, box_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        queries = self.reseed(batch_size, draws)
        return queries, torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)

    def reseed(self, batch_size: int, draws: Draws) -> Tensor:
        noise = draws.normal(self.num_slots, self.slot_dim).to(self.mean)  # (B,S,D), drawn always: streams stay aligned
        if not (self.shared or self.training):
            return self.mean.expand(batch_size, -1, -1)
        return self.mean + noise * self.log_std.exp()


class BoxInitializer(Configured, nn.Module):
    """Queries from the first frame's boxes: slot 0 for the background, slot k + 1 for box k (so slot = instance id).

    Slots without a box are off on the first frame. More boxes than slots: the largest are kept, in their order. A clip
    without boxes (``boxes`` None, or dropped in training with probability ``box_dropout``) starts from the Gaussian
    that also re-seeds slots, all on, so one model serves both kinds of video.
    """

    def __init__(self, num_slots: int, slot_dim: int, hidden: int = 256, box_dropout: float = 0.0) -> None:
        super().__init__()
        if num_slots < 2:
            raise ValueError(f"boxes need at least 2 slots (background and one object), got {num_slots}")
        self.num_slots, self.slot_dim, self.box_dropout = num_slots, slot_dim, box_dropout
        self.embed = MLP(fourier_features(torch.zeros(4)).numel(), hidden, slot_dim)
        self.background = nn.Parameter(torch.randn(slot_dim) * slot_dim**-0.5)
        self.seed = GaussianInitializer(num_slots, slot_dim)

    def forward(
        self, batch_size: int, draws: Draws, boxes: Tensor | None = None, box_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``boxes`` (B,K,4) normalised xyxy of the first frame and ``box_valid`` (B,K) bool, or None.

        Raises:
            ValueError: boxes without box_valid, or of another shape.
        """
        seeds, all_on = self.seed(batch_size, draws)
        if boxes is None:
            return seeds, all_on
        if box_valid is None or boxes.shape != (batch_size, box_valid.shape[-1], 4):
            raise ValueError(f"boxes must be ({batch_size},K,4) with box_valid (B,K), got {tuple(boxes.shape)}")
        boxes, box_valid = largest_boxes(boxes, box_valid, self.num_slots - 1)  # (B,S-1,4) (B,S-1)
        objects = self.embed(fourier_features(boxes.to(self.background)))
        queries = torch.cat([self.background.expand(batch_size, 1, -1), objects], 1)  # (B,S,D)
        mask = torch.cat([all_on[:, :1], box_valid], 1)
        if self.training and self.box_dropout > 0:
            dropped = (draws.uniform(1) < self.box_dropout).to(queries.device)  # (B,1)
            queries, mask = torch.where(dropped[..., None], seeds, queries), mask | dropped
        return queries, mask

    def reseed(self, batch_size: int, draws: Draws) -> Tensor:
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
