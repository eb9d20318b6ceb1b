"""A world of bouncing points whose slots are known: for tests of dynamics and reasoning, without a DIAS.

A slot is a fixed random rotation of (x, y, vx, vy, colour code); points move on straight lines and bounce off the walls
of the unit square. The label of a clip is whether point 0 (the agent) and point 1 (the patient) ever come close.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from slotformer.cache import SlotCache, SlotCacheWriter

TOUCH = 0.2  # distance at which two points touch


def toy_clip(
    seed: int, num_frames: int = 24, num_points: int = 4, slot_dim: int = 12, speed: float = 0.05
) -> tuple[torch.Tensor, bool]:
    """Slots (T,S,D) float32 of one clip, and whether agent and patient touch."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 1, (num_points, 2))
    velocity = rng.normal(0, speed, (num_points, 2))
    travelled = start + np.arange(num_frames)[:, None, None] * velocity  # (T,S,2)
    folded = np.mod(travelled, 2)
    position = np.where(folded > 1, 2 - folded, folded)
    direction = np.where(folded > 1, -velocity, velocity)
    colour = np.eye(max(3, slot_dim - 4))[np.minimum(np.arange(num_points), 2)][:, : slot_dim - 4]
    state = np.concatenate(
        [position - 0.5, direction / speed / 2, np.broadcast_to(colour, (num_frames, *colour.shape))], -1
    )
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(slot_dim, slot_dim)))[0]
    distance = np.linalg.norm(position[:, 0] - position[:, 1], axis=-1)
    return torch.from_numpy(5 * state @ rotation + 1).float(), bool((distance < TOUCH).any())


def toy_cache(path: Path, num_videos: int, seed: int = 0, balanced: bool = False, **clip: float) -> SlotCache:
    """Write and open a cache of toy clips; ``balanced`` keeps as many clips with contact as without.

    Slots are shuffled per clip, so that a slot's place tells nothing.
    """
    scenarios = ["bounce", "glide"]
    with SlotCacheWriter(path, dtype="fp32", scenarios=scenarios, data={"name": "toy", "seed": seed}) as writer:
        counts = [0, 0]
        number = seed * 1_000_003
        while sum(counts) < num_videos:
            number += 1
            slots, touch = toy_clip(number, **clip)  # type: ignore[arg-type]
            if balanced and counts[touch] >= (num_videos + 1) // 2:
                continue
            order = torch.from_numpy(np.random.default_rng(number).permutation(slots.shape[1]))
            scenario = scenarios[sum(counts) % 2]
            name = f"toy{seed}/{scenario}/{sum(counts):05d}"
            counts[touch] += 1
            mask = torch.ones(slots.shape[:2], dtype=torch.bool)
            writer.write(name, slots[:, order], mask, label=float(touch), scenario=scenario)
    return SlotCache(path)
