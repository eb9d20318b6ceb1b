"""Objectives: the tokens that a decoder may know, and what its output is compared with.

An objective has three methods. ``target(features, batch)`` returns a ``Target``.
``losses(predicted, target, counted, batch)`` returns loss terms, each (B,). ``as_known(predicted)`` returns a
prediction in the form of known tokens. ``frozen`` names its inputs beside features, each with the module that makes it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dias_video.batch import VideoBatch
from dias_video.model.dictionary import Dictionary
from dias_video.model.losses import code_loss, reconstruction_loss, similarity_loss
from dias_video.model.tokenizers.tokenizer import CodeReader, LatentReader, Tokenizer
from dias_video.pretrained.configured import Configured


class Target(NamedTuple):
    """What a decoder may know and has to predict of a batch."""

    known: Tensor  # (B,T,N,C) tokens that a decoder may know
    wanted: Tensor  # (B,T,N,C) or (B,T,N), what a decoder has to predict


class FeatureObjective(Configured, nn.Module):
    """Predict the frozen features; the loss is the squared error (eq. 4, 23)."""

    frozen: dict[str, Any] = {}  # noqa: RUF012 - a constant

    def target(self, features: Tensor, batch: VideoBatch) -> Target:
        """Features (B,T,N,C), known and wanted."""
        return Target(features, features)

    def losses(self, predicted: Tensor, target: Target, counted: Tensor, batch: VideoBatch) -> dict[str, Tensor]:
        """``reconstruction`` over the tokens where ``counted`` (B,T,N)."""
        return {"reconstruction": reconstruction_loss(self.as_known(predicted), target.wanted, counted)}

    def as_known(self, predicted: Tensor) -> Tensor:
        """The predicted features."""
        return predicted


class SimilarityObjective(FeatureObjective):
    """Predict the features, and for every token which tokens of the next frame are similar to it (VideoSAUR).

    The decoder's output is ``feature_dim`` + N wide: a token's features and its logits over the next frame's tokens.
    ``temperature``: see ``similarity_loss``.
    """

    def __init__(self, feature_dim: int, temperature: float) -> None:
        super().__init__()
        self.feature_dim, self.temperature = feature_dim, temperature

    def losses(self, predicted: Tensor, target: Target, counted: Tensor, batch: VideoBatch) -> dict[str, Tensor]:
        """``reconstruction`` and ``similarity``."""
        logits = predicted[..., self.feature_dim :]  # (B,T,N,N)
        similarity = similarity_loss(logits, target.wanted, self.temperature, batch.frame_valid)
        return super().losses(predicted, target, counted, batch) | {"similarity": similarity}

    def as_known(self, predicted: Tensor) -> Tensor:
        """The features in the prediction."""
        return predicted[..., : self.feature_dim]


class _OfTokenizer(nn.Module):
    """What a frozen tokenizer makes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)

    def train(self, mode: bool = True) -> _OfTokenizer:
        """Switch between training and evaluation; the tokenizer stays in evaluation mode, so codes are not random."""
        super().train(mode)
        self.tokenizer.eval()
        return self


class _OfCodes(_OfTokenizer):
    """The codes of a frozen tokenizer."""

    @property
    def frozen(self) -> dict[str, Any]:
        """The tokenizer's codes."""
        return {"codes": CodeReader(self.tokenizer)}

    def codes(self, features: Tensor, batch: VideoBatch) -> Tensor:
        """Codes (B,T,N) int64, from the batch if it has cached ones."""
        return self.tokenizer.codes(batch.video, features) if batch.codes is None else batch.codes.long()


class CodeVectorObjective(Configured, _OfCodes):
    """Predict the codes' vectors, and with ``features`` also the features; the loss is the squared error (VVO-Mlp).

    A token is as wide as a code's vector, or as vector and features together.
    """

    def __init__(self, tokenizer: Tokenizer, features: bool = False) -> None:
        super().__init__(tokenizer)
        self.with_features = features

    def target(self, features: Tensor, batch: VideoBatch) -> Target:
        """Vectors, or vectors and features side by side, known and wanted."""
        vectors = self.tokenizer.vectors(self.codes(features, batch)).float()
        both = torch.cat([vectors, features], -1) if self.with_features else vectors
        return Target(both, both)

    def losses(self, predicted: Tensor, target: Target, counted: Tensor, batch: VideoBatch) -> dict[str, Tensor]:
        """``codes`` and, with features, ``reconstruction``.

        Raises:
            ValueError: the decoder's tokens have another width than these.
        """
        dim = self.tokenizer.quantizer.dim
        if predicted.shape[-1] != target.wanted.shape[-1]:
            raise ValueError(
                f"the decoder's tokens are {predicted.shape[-1]} wide, those of this tokenizer's codes "
                f"{target.wanted.shape[-1]}; set sizes.code_dim={dim}"
            )
        losses = {"codes": reconstruction_loss(predicted[..., :dim], target.wanted[..., :dim], counted)}
        if self.with_features:
            losses["reconstruction"] = reconstruction_loss(predicted[..., dim:], target.wanted[..., dim:], counted)
        return losses

    def as_known(self, predicted: Tensor) -> Tensor:
        """The predicted tokens, unchanged."""
        return predicted


class CodeObjective(Configured, _OfCodes):
    """Predict the codes; the loss is the cross-entropy, and the known tokens are the codes' vectors.

    SLATE, STEVE and VVO-Tfd have this objective.

    The decoder's output is V wide.
    """

    def target(self, features: Tensor, batch: VideoBatch) -> Target:
        """Vectors (B,T,N,dim) known, codes (B,T,N) wanted."""
        codes = self.codes(features, batch)
        return Target(self.tokenizer.vectors(codes).float(), codes)

    def losses(self, predicted: Tensor, target: Target, counted: Tensor, batch: VideoBatch) -> dict[str, Tensor]:
        """``cross_entropy``.

        Raises:
            ValueError: the decoder predicts a different number of codes than the tokenizer has.
        """
        return _cross_entropy(predicted, target, counted, self.tokenizer.num_codes)

    def as_known(self, predicted: Tensor) -> Tensor:
        """The vector of the most likely code."""
        return self.tokenizer.vectors(predicted.argmax(-1)).to(predicted.dtype)


class LatentObjective(Configured, _OfTokenizer):
    """Predict the tokenizer's latents, standardised by channel; the loss is the squared error (SlotDiffusion).

    A token is as wide as a latent. With the decoder that denoises latents the loss is the squared error of the noise.

    Args:
        tokenizer: makes the latents.
        moments: (2,C), mean and deviation of each channel (``dias_video.data.features.latent_moments``); None: latents
            are not standardised, as in the authors' benchmark.

    Raises:
        ValueError: ``moments`` are of another number of channels, or a deviation is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tokenizer: Tokenizer, moments: list[list[float]] | None = None) -> None:
        super().__init__(tokenizer)
        width = tokenizer.quantizer.latent_dim
        mean, std = moments or ([0.0] * width, [1.0] * width)
        if len(mean) != width or len(std) != width:
            raise ValueError(f"the tokenizer's latents are {width} wide, moments are of {len(mean)} and {len(std)}")
        if min(std) <= 0:
            raise ValueError("a channel of the latents never changes (moments); train the tokenizer further")
        self.register_buffer("mean", torch.tensor(mean), persistent=False)  # (C,)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def frozen(self) -> dict[str, Any]:
        """The tokenizer's latents."""
        return {"latents": LatentReader(self.tokenizer)}

    def target(self, features: Tensor, batch: VideoBatch) -> Target:
        """Standardised latents (B,T,N,C), known and wanted; from the batch if it has cached ones."""
        latents = self.tokenizer.latents(batch.video, features) if batch.latents is None else batch.latents
        standard = (latents.float() - self.mean) / self.std
        return Target(standard, standard)

    def losses(self, predicted: Tensor, target: Target, counted: Tensor, batch: VideoBatch) -> dict[str, Tensor]:
        """``latents`` over the tokens where ``counted`` (B,T,N)."""
        return {"latents": reconstruction_loss(predicted, target.wanted, counted)}

    def as_known(self, predicted: Tensor) -> Tensor:
        """The predicted latents, unchanged."""
        return predicted


class TokenObjective:
    """Predict the codes of a tokenizer that is trained along (the original SLATE and STEVE), by cross-entropy.

    The known tokens are the dictionary's entries of the codes, which are the model's features. It has no weights of its
    own.
    """

    frozen: dict[str, Any] = {}  # noqa: RUF012 - a constant

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary

    def target(self, features: Tensor, batch: VideoBatch) -> Target:
        """Entries (B,T,N,C) known, codes (B,T,N) wanted: those drawn in this update, or the most likely ones."""
        codes = self.dictionary.tokenizer.codes(batch.video) if batch.codes is None else batch.codes
        return Target(features, codes)

    def losses(self, predicted: Tensor, target: Target, counted: Tensor, batch: VideoBatch) -> dict[str, Tensor]:
        """``cross_entropy``.

        Raises:
            ValueError: the decoder predicts a different number of codes than the tokenizer has.
        """
        return _cross_entropy(predicted, target, counted, self.dictionary.tokenizer.num_codes)

    def as_known(self, predicted: Tensor) -> Tensor:
        """The entry of the most likely code."""
        return self.dictionary(predicted.argmax(-1)).to(predicted.dtype)


def _cross_entropy(predicted: Tensor, target: Target, counted: Tensor, num_codes: int) -> dict[str, Tensor]:
    if predicted.shape[-1] != num_codes:
        raise ValueError(
            f"the decoder chooses among {predicted.shape[-1]} codes, the tokenizer has {num_codes}; set "
            f"sizes.num_codes={num_codes}"
        )
    return {"cross_entropy": code_loss(predicted, target.wanted, counted)}


Objective = FeatureObjective | CodeVectorObjective | CodeObjective | LatentObjective | TokenObjective
