"""The oracle of a rollout report: the true future, encoded anew without its past.

The model that made the slots starts anew on the last observed frame, from that frame's boxes or with other query noise,
and encodes the true frames that follow. What its slots differ by from the cached ones is what of a slot the frames do
not determine: it comes from how the encoder got there. A predictor that knew the future of the world exactly, and how
it looks, would still be wrong by about as much, so this is a floor to compare error curves with, not a rival: it is
shown the future and which slot is which. It is no strict bound: a predictor sees the past, which helps it most on the
first steps. An object that the new start misses counts as a slot of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm import tqdm

from dias_video.batch import VideoBatch
from dias_video.model.dias import DIAS
from dias_video.tracking import track_videos
from slotformer.cache import SlotCache
from slotformer.errors import normalised_error
from slotformer.origin import CachedVideos
from slotformer.rollouter import Dynamics, scored_live
from slotformer.statistics import Values


def same_objects(again: Tensor, encoded: Tensor, scored: Tensor) -> Tensor:
    """Put the slots of a second encoding into the places of the first.

    Args:
        again: (R,Z,D), zeros where dead; Z may differ from S.
        encoded: (R,S,D).
        scored: (R,S) bool; the rest of ``encoded`` does not matter.

    Returns:
        (R,S,D): one-to-one over the whole clip, with the least squared distance; zeros for what has no partner.
    """
    difference = (encoded[:, :, None].double() - again[:, None].double()).square().sum(-1)  # (R,S,Z)
    cost = (difference * scored[..., None]).sum(0)  # (S,Z)
    places, partners = linear_sum_assignment(cost.numpy())
    ordered = torch.zeros_like(encoded)
    ordered[:, places] = again[:, partners].to(encoded.dtype)
    return ordered


def encode_anew(dias: DIAS, cache: SlotCache, videos: CachedVideos, name: str, frames: range) -> Tensor:
    """Slots (T,S,D) of some frames alone, zeros where dead; queries as in the cache, or with other noise."""
    protocol = cache.header["protocol"]
    options = {"seed": protocol["seed"] + 1, "boxes": protocol["queries"] == "boxes"}
    (encoded,) = track_videos(dias, [VideoBatch.stack([videos.read(name, frames)])], **options)
    return encoded.slots[0]


def oracle_errors(
    model: Dynamics, dias: DIAS, cache: SlotCache, videos: CachedVideos, names: Sequence[str], steps: int, start: int
) -> Values:
    """Normalised errors (V,R) of the oracle on ``names``, NaN where nothing is scored; ``start``: of the context."""
    first, stride = start + (model.burn_in - 1) * model.stride, model.stride
    stop = first + steps * stride + 1
    errors = []
    for name in tqdm(names, unit="video", desc="oracle"):
        again = encode_anew(dias, cache, videos, name, range(first, stop))[stride::stride]  # (R,S,D)
        video = cache.read(name, start, stop, stride)
        scored = scored_live(video.live, video.track_id, model.burn_in)
        future = video.slots[:, model.burn_in :]
        errors.append(normalised_error(same_objects(again, future[0], scored[0])[None], future, scored)[0])
    return np.asarray(torch.stack(errors).numpy())
