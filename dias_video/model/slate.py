"""SLATE (Singh et al. 2022) and STEVE (Singh et al. 2022) as their authors built them.

A discrete VAE of frames is trained along, and slots explain its codes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.decoders.decoded import Decoder
from dias_video.model.dias import DIAS
from dias_video.model.dictionary import Dictionary
from dias_video.model.frame_projection import FrameProjection
from dias_video.model.initializers import Initializer
from dias_video.model.objectives import TokenObjective
from dias_video.model.predictor import Predictor
from dias_video.model.relu_projection import ReLUProjection
from dias_video.model.transition import Transition


class SLATE(DIAS):
    """Slots that explain the tokens of a tokenizer which is trained along; the aggregation's attention is the masks.

    An update draws codes twice: the tokenizer's decoder gets one sample, and learns to reconstruct the frames; the
    other one are the tokens, of which no gradient goes back to the tokenizer. In evaluation a cell has its most likely
    code. Nothing of the model is frozen, so there is nothing to cache.

    Args:
        encoder: the tokenizer and the vectors of its codes.
        projection: makes the tokens for Slot Attention: ``TokenProjection`` of the vectors (SLATE), or
            ``FrameProjection`` of the frames (STEVE).
        initializer, aggregator, transition, decoder, first_iterations, later_iterations, carry: as for ``DIAS``.
    """

    watched = (*DIAS.watched, "codes")
    not_stored: dict[str, Any] = {}  # noqa: RUF012 - a constant
    encoder: Dictionary  # type: ignore[assignment] # in the place of an encoder, and trained

    def __init__(
        self,
        encoder: Dictionary,
        projection: TokenProjection | FrameProjection,
        initializer: Initializer,
        aggregator: Aggregator,
        transition: Transition | Predictor,
        decoder: Decoder,
        first_iterations: int = 3,
        later_iterations: int = 1,
        carry: str = "persist",
    ) -> None:
        parts = initializer, aggregator, transition, decoder, first_iterations, later_iterations, carry
        tokens = TokenObjective(encoder)
        options: dict[str, Any] = {"teacher": None, "mask_source": "aggregation", "objective": tokens}
        super().__init__(encoder, projection, *parts, **options)  # type: ignore[arg-type]
        self.encoder.requires_grad_(True)

    @property
    def frozen(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def inputs(self, cached: Collection[str] = ()) -> set[str]:
        """See ``DIAS``; the video is always needed."""
        return {"video"} | super().inputs(cached)

    def forward(self, batch: VideoBatch, draws: Draws) -> dict[str, Tensor]:
        """Terms of a training step, each (B,): the tokenizer's, ``cross_entropy`` of the tokens, and ``watched``.

        ``codes`` among these is the number of different codes in a clip.
        """
        terms, codes = self.encoder.tokenizer.sampled(batch, draws)
        valid = batch.frame_valid[..., None].expand_as(codes).long()
        counts = codes.new_zeros(len(codes), self.encoder.tokenizer.num_codes)
        terms["codes"] = counts.scatter_add(1, codes.flatten(1), valid.flatten(1)).gt(0).sum(1).float()
        return terms | super().forward(replace(batch, codes=codes, features=self.encoder(codes)), draws)

    @torch.no_grad()
    def decode_slots(self, slots: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """See ``DIAS``; the tokens are the codebook's vectors, of which the tokenizer's decoder makes pictures."""
        decoded = self.decoder(slots * live[..., None], live)
        vectors = self.encoder.tokenizer.vectors(decoded.reconstruction.argmax(-1))
        return vectors, decoded.attention.unflatten(-1, self.encoder.grid)


class TokenProjection(ReLUProjection):
    """Vectors of codes to the tokens for Slot Attention: learned positions, LayerNorm and an MLP with ReLU."""

    def __init__(self, feature_dim: int, num_tokens: int) -> None:
        super().__init__(feature_dim, feature_dim, feature_dim)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_tokens, feature_dim)))

    def forward(self, features: Tensor, video: Tensor | None) -> Tensor:
        """Vectors (...,N,C) to tokens (...,N,C); ``video`` is not used."""
        return super().forward(features + self.positions, video)
