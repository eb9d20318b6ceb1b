"""Features of whole frames for linear probes, pooled over the frame's parts: slots, clusters or tokens.

The order of slots has no meaning, so a frame's features must not depend on it. They are the mean, maximum and minimum
over the parts. Tokens and clusters are pooled in the same way, so that comparisons differ only in the parts.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dias_video.data.features import FeatureCache
from dias_video.data.source import VideoSource
from slotformer.cache import SlotCache

Features = NDArray[np.float32]  # (V,T,D), videos in the order of their source


def pooled(parts: Tensor, live: Tensor) -> Tensor:
    """Mean, maximum and minimum over live parts: (...,S,D), (...,S) bool -> (...,3*D); zeros if none lives."""
    on = live[..., None]
    count = on.sum(-2)  # (...,1)
    mean = (parts * on).sum(-2) / count.clamp(min=1)
    ends = [parts.masked_fill(~on, -torch.inf).amax(-2), parts.masked_fill(~on, torch.inf).amin(-2)]
    return torch.cat([mean, *(end.where(count > 0, 0.0) for end in ends)], -1)


def pooled_tokens(cache: FeatureCache, source: VideoSource) -> Features:
    """Frozen tokens of all frames of every video.

    Raises:
        ValueError: the cache does not hold these tokens.
    """
    rows = []
    for index in tqdm(range(len(source)), unit="video", desc="pooling"):
        info = source.info(index)
        tokens = cache.read(info.video_id, range(info.num_frames))  # (T,N,C)
        rows.append(pooled(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)))
    return torch.stack(rows).numpy()


def pooled_slots(cache: SlotCache, source: VideoSource, future: SlotCache | None = None) -> Features:
    """Pooled slots of all frames of every video; with ``future``, of a model's context frames and its prediction.

    The context of a model with stride n is the last frame, the frame n before it, and so on.

    Args:
        cache: slots of the videos.
        source: the videos.
        future: slots predicted from the last frame of every video on (``predict_cache``).

    Raises:
        ValueError: a cache lacks a video, or the rollouts do not begin where the videos end.
    """
    rows = []
    for index in tqdm(range(len(source)), unit="video", desc="pooling"):
        info = source.info(index)
        frames, stride = [], 1
        if future is not None:
            made = future.header
            stride, last = made["stride"], made["start"] + (made["burn_in"] - 1) * made["stride"]
            if last != info.num_frames - 1:
                raise ValueError(
                    f"{future.path} was predicted from frame {last} on, {info.video_id} ends with frame "
                    f"{info.num_frames - 1}; predict with observed_frames={info.num_frames}"
                )
            frames = [future.read(info.video_id)]
        seen = cache.read(info.video_id, (info.num_frames - 1) % stride, None, stride)
        rows.append(torch.cat([pooled(part.slots[0], part.live[0]) for part in (seen, *frames)]))
    return torch.stack(rows).numpy()
