"""The oracle of a rollout report: the true future, encoded again without its past.

The model that made the slots starts again on the last observed frame, from that frame's boxes or with other noise in
the queries, and encodes the true frames that follow. Its slots differ from the cached ones in what the frames do not
determine, but the earlier frames do. A predictor that knew the future frames exactly would still have about this error.
The oracle is therefore a floor for error curves and not a competitor: it sees the future, and it is told which slot is
which. It is not a strict bound, because a predictor sees the past, which helps most on the first steps. An object that
the new start does not find counts as a slot of zeros.
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
    """Sort the slots of a second encoding so that they fit those of the first.

    Args:
        again: (R,Z,D) the second encoding, zeros where dead; Z may differ from S.
        encoded: (R,S,D).
        scored: (R,S) bool; other slots of ``encoded`` are ignored.

    Returns:
        (R,S,D): assigned one-to-one over the whole clip, with the least squared distance; zeros without a partner.
    """
    difference = (encoded[:, :, None].double() - again[:, None].double()).square().sum(-1)  # (R,S,Z)
    cost = (difference * scored[..., None]).sum(0)  # (S,Z)
    places, partners = linear_sum_assignment(cost.numpy())
    ordered = torch.zeros_like(encoded)
    ordered[:, places] = again[:, partners].to(encoded.dtype)
    return ordered


def encode_anew(dias: DIAS, cache: SlotCache, videos: CachedVideos, name: str, frames: range) -> Tensor:
    """Slots (T,S,D) of the given frames only, zeros where dead; queries from boxes as in the cache, or other noise."""
    protocol = cache.header["protocol"]
    options = {"seed": protocol["seed"] + 1, "boxes": protocol["queries"] == "boxes"}
    (encoded,) = track_videos(dias, [VideoBatch.stack([videos.read(name, frames)])], **options)
    return encoded.slots[0]


def oracle_errors(
    model: Dynamics, dias: DIAS, cache: SlotCache, videos: CachedVideos, names: Sequence[str], steps: int, start: int
) -> Values:
    """Normalised errors (V,R) of the oracle on ``names``, NaN where no slot is scored.

    ``start`` is the raw frame at which the context begins.
    """
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
