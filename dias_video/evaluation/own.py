"""A method with a model for each video (``dias_video.auto``), and k-means on the same features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dias_video.auto.fit import own_features
from dias_video.auto.given import Given
from dias_video.auto.parts import PartsModel
from dias_video.auto.track import Tracker
from dias_video.batch import SlotSequence, VideoBatch
from dias_video.data.features import FeatureCache
from dias_video.data.source import Sample
from dias_video.evaluation.baselines import KMeans
from dias_video.evaluation.methods import EDGES, first_boxes
from dias_video.tracking import track_videos


class OwnTracks:
    """Tracks of a model for each video (``dias_video.auto``), which is made from frames of the whole video.

    Args:
        tracker: a tracker without a trained model.
        boxes: give the model the first frame's boxes; tracks are then 1 to K, and 0 is the rest.
    """

    def __init__(self, tracker: Tracker, boxes: bool = False) -> None:
        self.tracker, self.boxes = tracker, boxes
        self.background: int | None = 0 if boxes else None
        self.mask_source = "aggregation, slots of the video's own" + (EDGES if tracker.options["follow_edges"] else "")
        self._fitted: tuple[str, PartsModel] | None = None  # the last model, which the baselines use too

    def stored(self, path: str | Path | None) -> FeatureCache | None:
        """The cache of the plain encoder's features in ``path``; None if ``path`` is None.

        Raises:
            ValueError: ``path`` holds no finished feature cache, or one that was made by another encoder.
        """
        if path is None:
            return None
        features = FeatureCache(path)
        features.check_encoder(self.tracker.backbone.encoder(features.size, self.tracker.device))
        return features

    def fitted(self, sample: Sample) -> PartsModel:
        """The model of a video."""
        name, video = sample["video_id"], sample["video"]
        if self._fitted is None or self._fitted[0] != name:
            given = None
            if self.boxes:
                boxes, valid = first_boxes(sample)
                given = Given(list(range(1, int(valid.sum()) + 1)), boxes[valid])
            model = self.tracker.own(name, len(video), video.__getitem__, given, sample.get("features"))
            self._fitted = name, model
        return self._fitted[1]

    def seen(self, sample: Sample) -> Sample:
        """The sample for the video's own encoder: cached features, if there are any, are whitened."""
        plain = sample.get("features")
        if plain is None:
            return sample
        return {**sample, "features": own_features(self.fitted(sample).model.encoder, plain, sample["video"])}

    def __call__(self, sample: Sample) -> Tensor:
        """Track ids (T,H,W) of a sample."""
        labels = self.tracked([sample]).labels
        assert labels is not None
        return labels[0]

    def tracked(self, samples: Sequence[Sample]) -> SlotSequence:
        """Slots, attention and labels of one video, on the CPU."""
        (sample,) = samples
        batch = VideoBatch.stack([{**self.seen(sample), "masks": None, "boxes": None}])
        options: dict[str, Any] = {**self.tracker.options, "boxes": False, "rehearse": not self.boxes}
        (tracked,) = track_videos(self.fitted(sample), batch.windows(self.tracker.window), labels=True, **options)
        return tracked


class OwnKMeans:
    """k-means on a video's features, with as many clusters as the video's own model has things.

    Args:
        tracks: the method that has the model.
        plain: use the features of the plain encoder; False uses the whitened features of the model.
    """

    background: int | None = None

    def __init__(self, tracks: OwnTracks, plain: bool = False) -> None:
        self.tracks, self.plain = tracks, plain
        edges = EDGES if tracks.tracker.options["follow_edges"] else ""
        looked_at = "frozen features" if plain else "the features of the video's own slots"
        self.mask_source = f"k-means on {looked_at}{edges}"

    def __call__(self, sample: Sample) -> Tensor:
        """Clusters (T,H,W) int64 of a sample."""
        model, tracker = self.tracks.fitted(sample), self.tracks.tracker
        size = (sample["video"].shape[-2], sample["video"].shape[-1])
        encoder = tracker.backbone.encoder(size, tracker.device) if self.plain else model.model.encoder
        options = {name: tracker.options[name] for name in ("follow_edges", "precision")}
        method = KMeans(encoder, model.num_slots, False, tracker.seed, window=tracker.window, **options)
        return method(sample if self.plain else self.tracks.seen(sample))
