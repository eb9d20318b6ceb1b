"""The two baselines of every result: boxes that never move, and clusters of the frozen features.

Each gets the same information as the model: the first frame's boxes if the model gets them, otherwise only the number
of slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dias_video.data.source import Sample
from dias_video.draws import Draws
from dias_video.evaluation.methods import EDGES, first_boxes
from dias_video.machine.precision import autocast
from dias_video.model.clusters import kmeans, squared_distances
from dias_video.model.encoders import Encoder
from dias_video.tracking import to_pixels


class FixedBoxes:
    """The first frame's boxes, filled and kept in place for the whole video.

    A pixel belongs to a box if the box contains the pixel's centre. Where boxes overlap it belongs to the smallest. All
    other pixels are background. On videos in which nothing moves, this baseline is hard to beat.
    """

    mask_source = "first-frame boxes"
    background: int | None = 0

    def __call__(self, sample: Sample) -> Tensor:
        """The map (T,H,W) int64 of a sample: 0 background, k + 1 for box k.

        Raises:
            ValueError: the sample has no boxes.
        """
        num_frames, _, height, width = sample["video"].shape
        boxes, valid = first_boxes(sample)
        x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
        x0, y0, x1, y1 = boxes.double().unbind(1)  # (K,)
        owner = torch.zeros(height, width, dtype=torch.int64)
        for k in ((x1 - x0) * (y1 - y0)).argsort(descending=True, stable=True).tolist():
            if valid[k]:
                inside = ((y >= y0[k]) & (y < y1[k]))[:, None] & ((x >= x0[k]) & (x < x1[k]))
                owner[inside] = k + 1
        return owner.expand(num_frames, height, width)


class KMeans:
    """k-means on the frozen features of all frames of a video together, so that a cluster is a track.

    If the model gets boxes, k is the number of boxes on the first frame plus one for the background; else it is the
    number of slots. Features are scaled to unit length (spherical k-means), which scores higher than without scaling.

    Args:
        encoder: the model's encoder.
        num_slots: k without boxes.
        boxes: k is the number of the sample's boxes plus one.
        seed: with the video's id it determines the initial centres.
        window: number of frames that are encoded at once.
        follow_edges: masks end where colours change in the frame.
        precision: the precision in which the encoder computes.
    """

    background: int | None = None

    def __init__(
        self,
        encoder: Encoder,
        num_slots: int,
        boxes: bool,
        seed: int = 0,
        window: int = 24,
        follow_edges: bool = False,
        precision: str = "fp32",
    ) -> None:
        self.precision = precision
        self.encoder, self.num_slots, self.boxes, self.seed = encoder, num_slots, boxes, seed
        self.window, self.follow_edges = window, follow_edges
        self.mask_source = "k-means on frozen features" + (EDGES if follow_edges else "")

    @torch.no_grad()
    def __call__(self, sample: Sample) -> Tensor:
        """The clusters (T,H,W) int64 of a sample.

        The distances are resized to pixels, as the attention of slots is, before the nearest centre is taken.

        Raises:
            ValueError: ``boxes`` is True and the sample has none.
        """
        k = 1 + int(first_boxes(sample)[1].sum()) if self.boxes else self.num_slots
        video = sample["video"]
        features = sample.get("features")  # (T,N,C)
        if features is None:
            features = torch.cat([self._features(part) for part in video.split(self.window)])
        features = F.normalize(features, dim=-1)
        draws = Draws.for_videos(self.seed, [sample["video_id"]])
        centres = kmeans(features.flatten(0, 1), k, draws)
        size = (video.shape[-2], video.shape[-1])
        labels = []
        for tokens, frame in zip(features, video, strict=True):  # single frames, for memory of k x H x W floats
            distance = squared_distances(tokens, centres).T.reshape(-1, *self.encoder.grid)
            labels.append(to_pixels(distance, size, frame if self.follow_edges else None).min(0).indices)
        return torch.stack(labels)

    def _features(self, video: Tensor) -> Tensor:
        device = next(self.encoder.parameters()).device
        with autocast(self.precision, device):
            return self.encoder.features(video[None].to(device))[0].float().cpu()
