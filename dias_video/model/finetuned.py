"""A projection whose tokens come from a ViT that is trained along."""

from __future__ import annotations

from torch import Tensor

from dias_video.model.encoders import TimmEncoder
from dias_video.model.projection import Projection


class FinetunedProjection(Projection):
    """Slots look at tokens of a second encoder whose last blocks are trained (SPOT's second stage).

    What slots explain stays the frozen encoder's features, which may come from a cache; the frames do not.

    Args:
        feature_dim, out_dim: as for ``Projection``.
        encoder: begins as the model's own, with the same weights.
        finetune_blocks: how many of its last blocks are trained, and with them its final norm if it has one.

    Raises:
        ValueError: it has not as many blocks.
    """

    def __init__(self, feature_dim: int, out_dim: int, encoder: TimmEncoder, finetune_blocks: int) -> None:
        super().__init__(feature_dim, out_dim)
        blocks = encoder.vit.blocks
        if not 1 <= finetune_blocks <= len(blocks):
            raise ValueError(f"finetune_blocks must be from 1 to {len(blocks)}, got {finetune_blocks}")
        self.encoder = encoder.requires_grad_(False)
        for part in (*blocks[-finetune_blocks:], encoder.vit.norm):
            part.requires_grad_(True)

    def forward(self, features: Tensor, video: Tensor) -> Tensor:
        """Tokens (B,T,N,D) of video (B,T,3,H,W) uint8."""
        return super().forward(self.encoder(video), video)
