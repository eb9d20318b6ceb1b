"""Predicts from a slot where its object is; learned from the attention of encoded slots.

A contact readout learns from a few hundred answers, far too few to learn how slots encode place. The attention of
cached slots shows the place for thousands of frames, without labels. A smooth map from a slot to the centre and extent
of what it owns is fitted on the readout videos. It then gives a place to every slot, encoded or predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from slotformer.cache import SlotCache

NUM_FEATURES = 1024  # random features of the kernel
NUM_PLACE = 4  # centre x, centre y, half width, half height, as parts of the frame


def places_of(attention: Tensor) -> Tensor:
    """Centre and half extent of what slots own: attention (...,h,w) -> (...,4), x over w and y over h.

    Cells are weighted by the square of the attention, so that weak attention elsewhere has little influence. The half
    extent is that of a rectangle with the same standard deviation.
    """
    weight = attention.square()
    weight = weight / weight.sum((-1, -2), keepdim=True).clamp(min=1e-9)
    parts = []
    for axis, other in ((-1, -2), (-2, -1)):
        line = weight.sum(other)  # (...,w) or (...,h)
        place = (torch.arange(attention.shape[axis], device=attention.device) + 0.5) / attention.shape[axis]
        mean = (line * place).sum(-1)
        variance = ((line * place.square()).sum(-1) - mean.square()).clamp(min=0)
        parts.append((mean, (3 * variance).sqrt()))
    return torch.stack([parts[0][0], parts[1][0], parts[0][1], parts[1][1]], -1)


@dataclass
class PlaceProbe:
    """A map from slots to places: ridge regression on random features of a wide Gaussian kernel.

    A linear map of slots has too large errors to distinguish a gap from a touch: on simulated videos the median error
    was 4 % of the picture, against 1.5 % here.
    """

    regression: Pipeline
    explained: Tensor  # (4,) part of the places' variance that the map explains on held-out videos

    def __call__(self, slots: Tensor) -> Tensor:
        """Places (...,4) float32 of slots (...,D)."""
        flat = slots.reshape(-1, slots.shape[-1]).numpy()
        places = np.concatenate([self.regression.predict(part) for part in _parts(flat)])
        return torch.from_numpy(places.astype(np.float32)).view(*slots.shape[:-1], NUM_PLACE)


def _parts(slots: NDArray[np.float32], size: int = 20_000) -> list[NDArray[np.float32]]:
    """Parts of the slots, so small that their random features need little memory."""
    return [slots[start : start + size] for start in range(0, len(slots), size)]


def fit_probe(cache: SlotCache, max_videos: int = 400, ridge: float = 0.02) -> PlaceProbe:
    """Fit a probe on the live slots of at most ``max_videos`` videos; every fifth is held out to measure the probe.

    Raises:
        ValueError: the cache has no attention, or too few videos.
    """
    if not cache.has_attention:
        raise ValueError(
            f"{cache.path} has no attention to learn places from; write it with attention=true, or reason without "
            f"places: readouts=[{{form: roles}}]"
        )
    if len(cache) < 5:
        raise ValueError(f"{cache.path} has {len(cache)} videos, too few to learn places from; cache at least 5")
    slots: tuple[list[Tensor], list[Tensor]] = [], []  # to fit on, and held out
    places: tuple[list[Tensor], list[Tensor]] = [], []
    for number, at in enumerate(np.unique(np.linspace(0, len(cache) - 1, max_videos).astype(int))):
        video = cache.read(cache.video_ids[int(at)], attention=True)
        assert video.attention is not None
        kept = number % 5 == 4
        slots[kept].append(video.slots[video.live])
        places[kept].append(places_of(video.attention)[video.live])
    x, y = (torch.cat(part[0]).numpy() for part in (slots, places))
    kernel = RBFSampler(gamma=0.08 / cache.slot_dim, n_components=NUM_FEATURES, random_state=0)
    probe = PlaceProbe(make_pipeline(StandardScaler(), kernel, Ridge(ridge)).fit(x, y), torch.zeros(NUM_PLACE))
    truth = torch.cat(places[1])
    wrong = (probe(torch.cat(slots[1])) - truth).square().mean(0)
    return replace(probe, explained=1 - wrong / truth.var(0).clamp(min=1e-12))


def place_features(agent: Tensor, patient: Tensor) -> Tensor:
    """Features (...,T,NUM_PAIR) of the places of two objects (...,T,4) that may show a touch, for every frame.

    They are the relative position of both, and their motion since the frame before: an object that is hit changes its
    course.
    """
    shift = agent[..., :2] - patient[..., :2]
    distance = shift.norm(dim=-1, keepdim=True)
    gap = shift.abs() - agent[..., 2:] - patient[..., 2:]  # between rectangles, along x and y
    nearest = gap.amax(-1, keepdim=True)
    spread = 8 * torch.cat([shift, shift.abs(), distance, gap, nearest, agent[..., 1:], patient[..., 1:]], -1)
    motion = [torch.diff(x[..., :2], dim=-2, prepend=x[..., :1, :2]) for x in (agent, patient)]
    return torch.cat([spread, torch.log(distance + 0.05) - math.log(0.25), *(20 * step for step in motion)], -1)


NUM_PAIR = place_features(*torch.zeros(2, 1, NUM_PLACE)).shape[-1]
