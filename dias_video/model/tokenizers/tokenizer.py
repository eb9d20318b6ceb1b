"""A tokenizer: it is trained by reconstruction, then frozen, and slots have to reconstruct its codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.encoders import TimmEncoder
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.model.tokenizers.nets import (
    FeatureDecoder,
    FeatureEncoder,
    PatchDecoder,
    PatchEncoder,
    ResidualDecoder,
    ResidualEncoder,
)
from dias_video.model.tokenizers.quantizers import Quantizer
from dias_video.pretrained.saving import Pretrained
from dias_video.pretrained.weights import encoder_hash

TokenEncoder = PatchEncoder | ResidualEncoder | FeatureEncoder
TokenDecoder = PatchDecoder | ResidualDecoder | FeatureDecoder


class Tokenizer(Pretrained, nn.Module):
    """Frames to codes and back.

    Args:
        encoder: frames or features to latents.
        quantizer: latents to codes.
        decoder: codes to frames or features, whose reconstruction trains the tokenizer.
        backbone: makes the features where a batch has none; needed only to train on video or to visualise it.
        reads: ``encoder_hash`` of the encoder whose features it was trained on, if it has no backbone; None: not known,
            or it reads frames.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        quantizer: Quantizer,
        decoder: TokenDecoder,
        backbone: TimmEncoder | TinyEncoder | None = None,
        reads: str | None = None,
    ) -> None:
        super().__init__()
        self.reads = reads
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.backbone = None if backbone is None else backbone.requires_grad_(False)

    @property
    def num_codes(self) -> int:
        """V."""
        return self.quantizer.num_codes

    @property
    def frozen(self) -> dict[str, Any]:
        """What it reads or makes that can be cached, by name, each with the module that makes it."""
        made = {"codes": CodeReader(self), "latents": LatentReader(self)}
        return made if self.backbone is None else {**made, "features": self.backbone}

    def inputs(self, cached: Collection[str] = ()) -> set[str]:
        """What it needs of a training batch: ``video``, unless it is of features and they are ``cached``."""
        of_frames = self.encoder.sees_frames or self.decoder.sees_frames
        return {"video"} if of_frames or "features" not in cached else set()

    def train(self, mode: bool = True) -> Tokenizer:
        """Switch between training and evaluation; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def forward(self, batch: VideoBatch, draws: Draws) -> dict[str, Tensor]:
        """Terms of a training step, each (B,): ``reconstruction`` and the losses of the quantizer."""
        return self.sampled(batch, draws)[0]

    def sampled(self, batch: VideoBatch, draws: Draws) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of a training step and its codes (B,T,N) int64, which are drawn where the quantizer draws them."""
        features = self.features(batch)
        quantized = self.quantizer(self.encoder(batch.video, features), draws)
        predicted, target = self.decoder(quantized.vectors), self.decoder.target(batch.video, features)
        error = (predicted.float() - target.float()).square().flatten(2).mean(-1)  # (B,T)
        terms = {"reconstruction": error} | {name: value.mean(-1) for name, value in quantized.losses.items()}
        valid = batch.frame_valid.to(error.dtype)
        terms = {name: (value * valid).sum(1) / valid.sum(1).clamp_min(1) for name, value in terms.items()}
        return terms, quantized.codes

    def features(self, batch: VideoBatch) -> Tensor | None:
        """The frozen features (B,T,N,C) that the tokenizer reads; None if it reads frames.

        Raises:
            ValueError: the batch has no features and there is no backbone.
        """
        if not isinstance(self.encoder, FeatureEncoder):
            return None
        if batch.features is not None:
            return batch.features.float()
        if self.backbone is None:
            raise ValueError("this tokenizer reads features: give it a backbone, or cached features (data.features=)")
        return self.backbone.features(batch.pixels).float()

    @torch.no_grad()
    def latents(self, video: Tensor | None, features: Tensor | None = None) -> Tensor:
        """Latents (B,T,N,latent_dim) of video (B,T,3,H,W), or of its features (B,T,N,C), before quantisation."""
        return self.encoder(video, features)

    @torch.no_grad()
    def codes(self, video: Tensor | None, features: Tensor | None = None) -> Tensor:
        """Codes (B,T,N) int64 of video (B,T,3,H,W), or of its features (B,T,N,C); a frame always has the same codes."""
        return self.quantizer(self.encoder(video, features)).codes

    @torch.no_grad()
    def vectors(self, codes: Tensor) -> Tensor:
        """The codebook's vectors (...,dim) of codes (...)."""
        return nn.functional.embedding(codes, self.quantizer.codebook())


def frozen_tokenizer(folder: str | Path) -> Tokenizer:
    """The trained tokenizer in a checkpoint's folder, frozen; of its backbone it keeps the hash.

    Raises:
        ValueError: the folder holds no tokenizer.
    """
    trained = Tokenizer.from_pretrained(folder)
    parts = trained.encoder, trained.quantizer, trained.decoder
    reads = trained.reads if trained.backbone is None else encoder_hash(trained.backbone)
    return Tokenizer(*parts, reads=reads).requires_grad_(False).eval()


def check_tokenizer(frozen: Mapping[str, Any]) -> None:
    """Refuse a tokenizer of another encoder's features in what a model reads, its ``frozen``.

    Raises:
        ValueError: configuration or weights of the encoders differ.
    """
    for part in frozen.values():
        reads = part.tokenizer.reads if isinstance(part, TokenReader) else None
        if reads is not None and reads != encoder_hash(frozen["features"]):
            raise ValueError(
                "the tokenizer was trained on the features of another encoder than model.encoder; train it with the "
                "same options and weights as model.backbone"
            )


class TokenReader:
    """A tokenizer with the interface of an encoder, for the feature cache: its ``features`` are ``kind``.

    The interface is ``dias_video.data.features.FrozenEncoder``. Two readers of a kind are equal if the ``parts`` are
    that make it; the backbone is not one of these.
    """

    kind: str  # a method of the tokenizer
    parts: tuple[str, ...]

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.grid = tokenizer, tokenizer.encoder.grid
        self.sees_frames = tokenizer.encoder.sees_frames  # where there are features
        self.config = {"type": type(self).__name__} | {part: getattr(tokenizer, part).config for part in self.parts}

    @property
    def feature_dim(self) -> int:
        """Numbers a token."""
        return self.tokenizer.quantizer.latent_dim

    def features(self, video: Tensor) -> Tensor:
        """Codes (B,T,N) or latents (B,T,N,C) of video (B,T,3,H,W)."""
        reads_features = isinstance(self.tokenizer.encoder, FeatureEncoder)
        backbone = self.tokenizer.backbone if reads_features else None
        if reads_features and backbone is None:
            raise ValueError(
                "this tokenizer reads features and has no backbone that makes them of video; give it one, or cached "
                "features"
            )
        return self.read(video, None if backbone is None else backbone.features(video).float())

    def read(self, video: Tensor | None, features: Tensor | None) -> Tensor:
        """Codes or latents of video (B,T,3,H,W), or of its features (B,T,N,C)."""
        return getattr(self.tokenizer, self.kind)(video, features)

    def to(self, device: torch.device) -> TokenReader:
        """The reader, whose tokenizer is now on ``device``."""
        self.tokenizer.to(device)
        return self

    def eval(self) -> TokenReader:
        """The reader, whose tokenizer is now in evaluation mode."""
        self.tokenizer.eval()
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and buffers of the ``parts``."""
        weights = self.tokenizer.state_dict()
        return {name: value for name, value in weights.items() if name.partition(".")[0] in self.parts}


class CodeReader(TokenReader):
    """Reads codes."""

    kind, parts = "codes", ("encoder", "quantizer")
    feature_dim = 1


class LatentReader(TokenReader):
    """Reads latents, the encoder's output."""

    kind, parts = "latents", ("encoder",)
