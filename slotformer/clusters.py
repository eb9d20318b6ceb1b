"""k-means tracks as a slot cache, to compare them with slots in everything that reads slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dias_video.data.features import FeatureCache
from dias_video.data.source import VideoSource
from dias_video.draws import Draws
from dias_video.machine.ranks import Ranks, joined
from dias_video.model.clusters import kmeans, squared_distances
from dias_video.stores.store import build_index
from slotformer.cache import SlotCache, SlotCacheWriter


def cache_clusters(
    *,
    features: FeatureCache,
    source: VideoSource,
    cache: str | Path,
    num_clusters: int = 7,
    seed: int = 0,
    device: str | None = None,
) -> SlotCache:
    """Cluster the frozen features of every video. A cluster is a track; its slot in a frame is the mean of its tokens.

    The clusters are those of evaluation's k-means baseline, over all frames of a video together. Where a cluster owns
    no token of a frame, its slot is dead. Under ``accelerate launch`` the processes share the videos.

    Args:
        features: cached features of all frames of the videos.
        source: the videos.
        cache: folder of the slot cache.
        num_clusters: k.
        seed: with a video's id it determines the initial centres.
        device: "cpu" keeps ``accelerate launch`` from using GPUs; all work is done on the CPU.

    Raises:
        ValueError: the features are of other videos, or the cache was made with other settings.
    """
    processes, ranks = joined(device), Ranks()
    rank, world = processes.process_index, processes.num_processes
    infos = [source.info(index) for index in range(len(source))]
    about: dict[str, Any] = {
        "scenarios": sorted({info.scenario for info in infos if info.scenario is not None}),
        "data": getattr(source, "config", None),
        "clusters": {"count": num_clusters, "seed": seed, "features": features.header},
    }
    writer = ranks.main_first(lambda: SlotCacheWriter(cache, part=rank, parts=world, **about))
    with ranks.together(), writer:
        own = [info for info in infos[rank::world] if info.video_id not in writer.present]
        for info in tqdm(own, unit="video", desc="clusters", disable=rank > 0 or not own):
            tokens = features.read(info.video_id, range(info.num_frames))
            slots, live = cluster_means(tokens, num_clusters, Draws.for_videos(seed, [info.video_id]))
            writer.write(info.video_id, slots, live, label=info.label, scenario=info.scenario)
    with ranks.together():
        if ranks.is_main:
            build_index(cache)
    return SlotCache(cache)


def cluster_means(tokens: Tensor, count: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """The mean token of each cluster in every frame, and whether it owns a token: (T,N,C) -> (T,k,C), (T,k) bool."""
    points = F.normalize(tokens, dim=-1)  # spherical k-means, as in the baseline
    centres = kmeans(points.flatten(0, 1), count, draws)
    owner = squared_distances(points.flatten(0, 1), centres).argmin(1).view(tokens.shape[:2])  # (T,N)
    members = F.one_hot(owner, count).to(tokens.dtype)  # (T,N,k)
    sizes = members.sum(1)  # (T,k)
    means = members.transpose(1, 2) @ tokens / sizes[..., None].clamp(min=1)
    return means, sizes > 0
