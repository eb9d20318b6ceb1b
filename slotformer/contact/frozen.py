"""The frozen features that a contact probe can read: tokens, k-means tracks, slots, and predicted slots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dias_video.checks import device_of
from dias_video.data.features import FeatureCache, FrozenEncoder, cache_features
from dias_video.data.source import VideoSource
from dias_video.data.transforms import ClipTransform, Transform
from dias_video.machine.ranks import Ranks
from dias_video.pretrained.weights import pinned, weights_sha256
from slotformer.cache import SlotCache
from slotformer.clusters import cache_clusters
from slotformer.contact.pooled import Features, pooled_slots, pooled_tokens
from slotformer.fill import cache_slots
from slotformer.prediction import check_same_encoder, load_dynamics, predict_cache


class FrozenFeatures(Protocol):
    """Features of the frames of videos, all of equal length, from frozen models."""

    def __call__(self, source: VideoSource, folder: Path) -> Features:
        """Features (V,T,D) in the order of the source; slow steps are done once, and kept in ``folder``."""
        ...

    def describe(self) -> dict[str, Any]:
        """A description of the features as plain data."""
        ...


@dataclass
class TokenFeatures:
    """Tokens of a frozen encoder.

    Args:
        encoder: the encoder.
        transform: applied to frames before the encoder; it sets one size.
        precision: the precision in which the encoder computes: fp32, bf16 or (on a GPU) fp16.
        batch_frames: number of frames that are encoded at once.
        device: None = cuda if there is one.
    """

    encoder: FrozenEncoder
    transform: ClipTransform
    precision: str = "fp32"
    batch_frames: int = 32
    device: str | None = None

    def __call__(self, source: VideoSource, folder: Path) -> Features:
        """Features pooled over all tokens."""
        return pooled_tokens(self.cached(source, folder), source)

    def cached(self, source: VideoSource, folder: Path) -> FeatureCache:
        """The cache of the tokens, which is made if it is missing."""
        options: dict[str, Any] = {"batch_frames": self.batch_frames, "precision": self.precision}
        cache_features(self.encoder, source, folder / "tokens", self.transform, device=self.device, **options)
        return FeatureCache(folder / "tokens")

    def describe(self) -> dict[str, Any]:
        """The encoder."""
        return {"features": "tokens", "encoder": self.encoder.config, "transform": self.transform.config}


@dataclass
class ClusterFeatures:
    """k-means tracks of a frozen encoder's tokens (:mod:`slotformer.clusters`).

    Args:
        tokens: the encoder's tokens.
        num_clusters: k.
        seed: seed of the initial centres.
    """

    tokens: TokenFeatures
    num_clusters: int = 7
    seed: int = 0

    def __call__(self, source: VideoSource, folder: Path) -> Features:
        """Features pooled over clusters."""
        tokens, about = self.tokens.cached(source, folder), {"num_clusters": self.num_clusters, "seed": self.seed}
        clusters = cache_clusters(
            features=tokens, source=source, cache=folder / "clusters", device=self.tokens.device, **about
        )
        return pooled_slots(clusters, source)

    def describe(self) -> dict[str, Any]:
        """The encoder and the number of clusters."""
        own = {"features": "clusters", "num_clusters": self.num_clusters, "seed": self.seed}
        return {**self.tokens.describe(), **own}


@dataclass
class SlotFeatures:
    """Slots of a trained DIAS, which tracks the frames in the order in which they are shown.

    Args:
        checkpoint: a model's folder, or ``hf-hub:user/name``.
        transform: applied to frames before the model (a resize).
        batch_size: number of videos that are encoded at once.
        seed: with a video's id it determines the noise of queries.
        device: None = cuda if there is one.
    """

    checkpoint: str | None
    transform: Transform | None = None
    batch_size: int = 8
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is None:
            raise ValueError("slots need the model that finds them; add checkpoint=<folder of a trained DIAS>")
        self.checkpoint = pinned(self.checkpoint)

    def __call__(self, source: VideoSource, folder: Path) -> Features:
        """Features pooled over slots."""
        return pooled_slots(self.cached(source, folder), source)

    def cached(self, source: VideoSource, folder: Path) -> SlotCache:
        """The cache of the slots, which is made if it is missing."""
        options: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, "device": self.device}
        options |= {"transform": self.transform, "attention": False}
        return cache_slots(checkpoint=str(self.checkpoint), source=source, cache=folder / "slots", **options)

    def describe(self) -> dict[str, Any]:
        """The model."""
        made_by = {"checkpoint": self.checkpoint, "checkpoint_sha256": weights_sha256(str(self.checkpoint))}
        return {"features": "slots", **made_by, "seed": self.seed}


@dataclass
class FutureFeatures:
    """Slots of the shown frames that are the context of a dynamics model, and then the slots that it predicts.

    The context ends with the last shown frame; its frames are ``stride`` apart.

    Args:
        slots: slots of the shown frames.
        dynamics: a model trained on slots of the same DIAS.
        predicted_frames: number of frames to predict; None = as many as in the model's training.
        batch_size: number of videos that are predicted at once.
    """

    slots: SlotFeatures
    dynamics: str | None
    predicted_frames: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.dynamics is None:
            raise ValueError(
                "predicted slots need a model that predicts; add dynamics=<folder of a trained SlotFormer>"
            )
        self.dynamics = pinned(self.dynamics)
        self.model = load_dynamics(self.dynamics)
        self.steps = self.predicted_frames or self.model.rollout_steps

    def __call__(self, source: VideoSource, folder: Path) -> Features:
        """Features pooled over slots.

        Raises:
            ValueError: the slots are of another DIAS, or fewer frames are shown than the model's context needs.
        """
        model, shown = self.model, source.info(0).num_frames
        start = shown - ((model.burn_in - 1) * model.stride + 1)
        if start < 0:
            raise ValueError(
                f"{shown} frames are shown, the dynamics model's context takes {shown - start}: {model.burn_in} that "
                f"are {model.stride} apart; show more with data.frame_gap=10, or train one with a shorter context"
            )
        encoded = self.slots.cached(source, folder)
        check_same_encoder(model, encoded)
        about: dict[str, Any] = {"start": start, "dynamics_sha256": weights_sha256(str(self.dynamics))}
        model = model.to(device_of(self.slots.device))
        given = (model, encoded, folder / "futures", self.steps, self.batch_size)
        predict = Ranks().main_first(lambda: predict_cache(*given, **about))  # the others find it done
        return pooled_slots(encoded, source, predict)

    def describe(self) -> dict[str, Any]:
        """The models and the number of predicted frames."""
        model = {"dynamics": self.dynamics, "dynamics_sha256": weights_sha256(str(self.dynamics))}
        own = {"features": "futures", "stride": self.model.stride, "context": self.model.burn_in}
        return {**self.slots.describe(), **own, "predicted_frames": self.steps, **model}
