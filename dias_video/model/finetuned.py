"""A projection whose tokens come from a ViT that is trained with the model."""

from __future__ import annotations

from torch import Tensor

from dias_video.model.encoders import TimmEncoder
from dias_video.model.projection import Projection


class FinetunedProjection(Projection):
    """Slots attend to tokens of a second encoder, whose last blocks are trained (SPOT's second stage).

    The target of the reconstruction is still the frozen encoder's features, which may come from a cache. The second
    encoder needs the frames.

    Args:
        feature_dim, out_dim: as for ``Projection``.
        encoder: the second encoder; it begins with the weights of the model's own.
        finetune_blocks: number of its last blocks to train; its final norm, if it has one, is trained too.

    Raises:
        ValueError: the encoder has fewer blocks.
    """

    sees_frames = True

    def __init__(self, feature_dim: int, out_dim: int, encoder: TimmEncoder, finetune_blocks: int) -> None:
        super().__init__(feature_dim, out_dim)
        blocks = encoder.vit.blocks
        if not 1 <= finetune_blocks <= len(blocks):
            raise ValueError(f"finetune_blocks must be from 1 to {len(blocks)}, got {finetune_blocks}")
        self.encoder = encoder.requires_grad_(False)
        for part in (*blocks[-finetune_blocks:], encoder.vit.norm):
            part.requires_grad_(True)

    def forward(self, features: Tensor, video: Tensor | None) -> Tensor:
        """Tokens (B,T,N,D) of video (B,T,3,H,W) uint8."""
        assert video is not None, "this projection is of frames"
        return super().forward(self.encoder(video), video)
