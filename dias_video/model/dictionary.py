"""Codes of frames in the place of an encoder's features: the tokens of the original SLATE and STEVE."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dias_video.model.tokenizers.tokenizer import Tokenizer
from dias_video.pretrained.configured import Configured


class Dictionary(Configured, nn.Module):
    """A tokenizer of frames, and a learned vector for each of its codes; both are trained along with the slots.

    The vectors are not those of the tokenizer's codebook, so what slots learn does not change what codes mean.

    Args:
        tokenizer: frames to codes and back.
        feature_dim: C, the width of the vectors.

    Raises:
        ValueError: the tokenizer is of features.
    """

    sees_frames = True

    def __init__(self, tokenizer: Tokenizer, feature_dim: int) -> None:
        super().__init__()
        if not (tokenizer.encoder.sees_frames and tokenizer.decoder.sees_frames):
            raise ValueError("tokens that are trained along are of frames; choose a tokenizer of frames")
        self.tokenizer, self.feature_dim, self.grid = tokenizer, feature_dim, tokenizer.encoder.grid
        self.vectors = nn.Parameter(torch.randn(tokenizer.num_codes, feature_dim))

    def forward(self, codes: Tensor) -> Tensor:
        """Vectors (...,C) of codes (...)."""
        return nn.functional.embedding(codes, self.vectors)

    def features(self, video: Tensor) -> Tensor:
        """Vectors (B,T,N,C) of the most likely codes of video (B,T,3,H,W) uint8."""
        return self(self.tokenizer.codes(video))
