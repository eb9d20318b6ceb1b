"""Makes a model for one video from the video itself, without training.

Features are half whitened on sampled frames of the video. Slots begin as clusters of these features and are updated on
the sampled frames. Slots whose tokens (those of the plain encoder) are similar are parts of one thing, which is one
track.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dias_video.auto.given import Given
from dias_video.auto.parts import PartsModel, groups_of, owned, parts_boxed, parts_given
from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.clusters import kmeans
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.distillation import whiten
from dias_video.model.encoders import Encoder, TimmEncoder
from dias_video.model.learned_initializer import LearnedInitializer
from dias_video.model.reduction import Merging
from dias_video.model.tiny import ClusteringAttention, PlacedProjection, RememberingTransition

# Chosen on training clips of DAVIS and val clips of toss-A and toss-D (docs/notebook.md).
SAMPLED = 48  # number of evenly spaced frames that are read before a video is tracked
DIRECTIONS = 64  # number of features
TOKENS_EACH = 8  # tokens needed for each direction
HEADS = 4  # heads of the attention of transition and decoder
SMOOTHNESS = 0.5
KEPT = 0.5  # power of the features' variance that is kept: half whitened
COLOR = 6.0
PLACE = 0.25
SHARPNESS = 40.0
MEMORY = 0.9
PARTS = 32  # number of slots; at least twice the number of things, where it is known
ALIKE = 0.45  # the largest difference between parts of one thing (``groups_of``)


@dataclass
class Sampled:
    """Some frames of a video, and their tokens."""

    video_id: str
    frames: Tensor  # (M,3,H,W) uint8, of any size; the first is the video's first
    tokens: Tensor  # (M,N,C) float32 of the plain encoder


@torch.no_grad()
def fitted(
    encoder: TimmEncoder, sampled: Sampled, num_slots: int | None = None, given: Given | None = None, seed: int = 0
) -> PartsModel:
    """A model for one video, in evaluation mode, on the encoder's device; without ``given``, track with a rehearsal.

    Args:
        encoder: the plain, frozen encoder.
        sampled: frames of the video, and their tokens.
        num_slots: number of things, unless objects are given; None: chosen so that things differ by more than
            ``ALIKE``.
        given: objects on the first frame, which become things 1 to K; thing 0 is the rest of the frame.
        seed: with the video's id it determines the clusters and all random weights.
    """
    tokens, name = sampled.tokens, [sampled.video_id]
    known = len(given.boxes) if given is not None else num_slots or 0
    parts = max(PARTS, 2 * known)
    most = min(DIRECTIONS, encoder.feature_dim, tokens.shape[:2].numel() // TOKENS_EACH)
    directions = max(HEADS, most // HEADS * HEADS)
    viewer, _ = whiten(encoder, tokens.unflatten(1, encoder.grid), directions, SMOOTHNESS, KEPT)
    viewer.color = viewer.config["color"] = COLOR
    features = own_features(viewer, tokens, sampled.frames)  # (M,N,D)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(Draws.for_videos(seed, name).uniform(1) * 2**31))
        model = _begun(viewer, parts).to(tokens.device).eval()
    projected = model.projection(features, sampled.frames)
    looks = F.normalize(model.aggregator.attention.norm_tokens(projected), dim=-1)  # (M,N,D)
    draws = Draws.for_videos(seed, name)
    if given is not None and given.exact:
        centres, group = parts_given(looks[0], given.cover(encoder.grid).to(looks), draws)
        _begin_at(model, _as_slots(centres))
        return PartsModel(model, group)
    _begin_at(model, _as_slots(kmeans(looks.flatten(0, 1).cpu(), model.num_slots, draws).to(looks)))
    # Slots are updated forwards and then backwards over the frames, so that they end at the first frame.
    batch = VideoBatch(sampled.frames[None], name, *_all_of(sampled.frames))
    forth = model.scan(batch, features[None], draws, merge=False)
    back = model.scan(batch, features.flip(0)[None], draws, forth.state, merge=False)
    assert back.attention is not None
    owner = owned(back.attention[0])  # (M,h,w,S)
    used = owner.sum((0, 1, 2)) > 0  # a slot that owns no cell is not a part
    slots, owner = back.state.slots[0, used], owner[..., used]
    if given is not None:
        new, group = parts_boxed(owner[-1].flatten(0, 1), looks[0], given.cover(encoder.grid).to(looks))
        slots = torch.cat([slots, _as_slots(new)])
    else:
        colours = features[..., -3:] / COLOR
        group = groups_of(tokens.flip(0), colours.flip(0), owner, ALIKE, num_slots)
    _begin_at(model, slots)
    return PartsModel(model, group)


def _as_slots(centres: Tensor) -> Tensor:
    """Slots (S,D) from means of tokens: half of the normalised means."""
    return 0.5 * F.layer_norm(centres, centres.shape[-1:])


def own_features(viewer: Encoder, tokens: Tensor, frames: Tensor) -> Tensor:
    """Features (M,N,D) of a fitted model's encoder from the plain encoder's tokens (M,N,C) of frames (M,3,H,W)."""
    device = viewer.opponent.device
    return viewer.painted(viewer.head[1](tokens.to(device).float()), frames.to(device) / 255)


def _begun(viewer: Encoder, num_slots: int) -> DIAS:
    """An untrained model whose slots attend as clusters do, with a decoder for ``tune``."""
    dim, num_tokens = viewer.feature_dim, viewer.grid[0] * viewer.grid[1]
    return DIAS(
        viewer,
        PlacedProjection(dim, dim, viewer.grid, residual=True, place=PLACE),
        LearnedInitializer(num_slots, dim),
        Aggregator(ClusteringAttention(dim, dim, sharpness=SHARPNESS), Merging(threshold=0.0, rehearsal_threshold=0.0)),
        RememberingTransition(dim, HEADS, memory=MEMORY),
        RandomARDecoder(dim, dim, num_tokens, dim, 2, HEADS, short_prefix=0.0, scored="unknown"),
        carry="persist",
        mask_source="aggregation",
    )


def _begin_at(model: DIAS, slots: Tensor) -> None:
    """Set the queries of the first frame to ``slots`` (S,D)."""
    model.initializer = LearnedInitializer(*slots.shape).to(slots.device)
    model.initializer.slots.copy_(slots)


def _all_of(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frame numbers (1,M), and a mask by which all frames count."""
    index = torch.arange(len(frames))[None]
    return index, torch.ones_like(index, dtype=torch.bool)
