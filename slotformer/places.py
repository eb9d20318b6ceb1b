"""Where a slot's object is, read from the slot: learned from the maps of encoded slots, told for predicted slots too.

A contact readout has a few hundred answers to learn from, far too few to find out how slots encode place. The maps of
the cached slots tell that for thousands of frames, without any label: a linear map from a slot to its map's centre and
extent is fitted on the readout videos, and then gives every slot, encoded or predicted, a place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slotformer.cache import SlotCache

NUM_PLACE = 4  # centre x, centre y, half width, half height; in parts of the frame


def map_places(maps: Tensor) -> Tensor:
    """Centre and half extent of what slots own: maps (...,h,w) -> (...,4), x over w and y over h.

    Cells weigh with the square of the map, so that a slot's faint traces elsewhere don't move it. The half extent is
    that of a rectangle with the same standard deviation.
    """
    weight = maps.square()
    weight = weight / weight.sum((-1, -2), keepdim=True).clamp(min=1e-9)
    parts = []
    for axis, other in ((-1, -2), (-2, -1)):
        line = weight.sum(other)  # (...,w) or (...,h)
        place = (torch.arange(maps.shape[axis], device=maps.device) + 0.5) / maps.shape[axis]
        mean = (line * place).sum(-1)
        variance = ((line * place.square()).sum(-1) - mean.square()).clamp(min=0)
        parts.append((mean, (3 * variance).sqrt()))
    return torch.stack([parts[0][0], parts[1][0], parts[0][1], parts[1][1]], -1)


@dataclass
class PlaceProbe:
    """A linear map from slots to places."""

    weight: Tensor  # (D+1,4)
    explained: Tensor  # (4,) part of the places' variance that it explains on videos it was not fitted on

    def __call__(self, slots: Tensor) -> Tensor:
        """Slots (...,D) -> places (...,4)."""
        return slots @ self.weight[:-1] + self.weight[-1]


def fit_probe(cache: SlotCache, max_videos: int = 400, ridge: float = 10.0) -> PlaceProbe:
    """Fit a probe on the live slots of at most ``max_videos`` videos; every fifth is kept to measure it on.

    Raises:
        ValueError: the cache has no maps, or too few videos.
    """
    if "maps" not in cache.store.fields:
        raise ValueError(
            f"{cache.path} has no maps to learn places from; write it with maps=true, or reason without places: "
            f"readouts=[{{form: roles}}]"
        )
    slots: list[Tensor] = []
    places: list[Tensor] = []
    for at in np.unique(np.linspace(0, len(cache) - 1, max_videos).astype(int)):
        video = cache.read_video(cache.video_ids[int(at)], maps=True)
        assert video.maps is not None
        slots.append(video.slots[video.mask].double())
        places.append(map_places(video.maps)[video.mask].double())
    fitted = [n for n in range(len(slots)) if n % 5 != 4]
    kept = [n for n in range(len(slots)) if n % 5 == 4]
    if not kept:
        raise ValueError(f"{cache.path} has {len(cache)} videos, too few to learn places from; cache at least 5")
    x, y = torch.cat([slots[n] for n in fitted]), torch.cat([places[n] for n in fitted])
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-6)
    z = torch.cat([(x - mean) / scale, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    weight = torch.linalg.solve(z.T @ z + ridge * torch.eye(z.shape[1], dtype=x.dtype), z.T @ y)  # (D+1,4)
    slopes = weight[:-1] / scale[:, None]
    weight = torch.cat([slopes, (weight[-1] - mean @ slopes)[None]])
    x, y = torch.cat([slots[n] for n in kept]), torch.cat([places[n] for n in kept])
    wrong = (x @ weight[:-1] + weight[-1] - y).square().mean(0)
    return PlaceProbe(weight.float(), (1 - wrong / y.var(0).clamp(min=1e-12)).float())


def place_features(agent: Tensor, patient: Tensor) -> Tensor:
    """What the places of two objects (...,4) say of how near they are: (...,NUM_PAIR)."""
    shift = agent[..., :2] - patient[..., :2]
    distance = shift.norm(dim=-1, keepdim=True)
    gap = shift.abs() - agent[..., 2:] - patient[..., 2:]  # between rectangles, along x and y
    nearest = gap.amax(-1, keepdim=True)
    spread = 8 * torch.cat([shift, shift.abs(), distance, gap, nearest, agent[..., 1:], patient[..., 1:]], -1)
    return torch.cat([spread, torch.log(distance + 0.05) - math.log(0.25)], -1)


NUM_PAIR = place_features(torch.zeros(NUM_PLACE), torch.zeros(NUM_PLACE)).shape[-1]
