"""Errors of the oracle: the future of some cached videos, encoded anew (slotformer.oracle)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dias_video.batch import VideoBatch
from dias_video.model.dias import DIAS
from dias_video.tracking import track_videos
from slotformer.cache import SlotCache
from slotformer.errors import normalised_error
from slotformer.oracle import same_objects
from slotformer.origin import CachedVideos
from slotformer.rollouter import Dynamics, scored_live
from slotformer.statistics import Values


def encode_anew(dias: DIAS, cache: SlotCache, source: CachedVideos, name: str, frames: range) -> Tensor:
    """Slots (T,S,D) of some frames alone, zeros where dead; queries as in the cache, or with other noise."""
    sample = source.read(name, frames)
    protocol = cache.header["protocol"]
    options = {"seed": protocol["seed"] + 1, "boxes": protocol["queries"] == "boxes"}
    (encoded,) = track_videos(dias, [VideoBatch.stack([sample])], **options)
    return encoded.slots[0]


def oracle_errors(
    model: Dynamics, dias: DIAS, cache: SlotCache, source: CachedVideos, names: Sequence[str], steps: int
) -> Values:
    """Normalised errors (V,R) of the oracle on ``names``, NaN where nothing is scored."""
    first, stride = (model.burn_in - 1) * model.stride, model.stride
    stop = first + steps * stride + 1
    errors = []
    for name in tqdm(names, unit="video", desc="oracle"):
        again = encode_anew(dias, cache, source, name, range(first, stop))[stride::stride]  # (R,S,D)
        video = cache.read_video(name, 0, stop, stride)
        scored = scored_live(video.mask[None], video.track_id[None], model.burn_in)
        future = video.slots[None, model.burn_in :]
        errors.append(normalised_error(same_objects(again, future[0], scored[0])[None], future, scored)[0])
    return np.asarray(torch.stack(errors).numpy())
