"""Write the simulator's true states as a slot cache: what dynamics and reasoning reach when the slots are perfect.

python scripts/cache_states.py data=contact data.root=… split=train cache=runs/states/training

Train a SlotFormer on it and reason with it as with any cache. Where true states do well and slots do not, the slots
are to blame; where they do badly too, the dynamics or the readout.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from _main import entry
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from tqdm import tqdm

from dias_video.data.simulated import SimulatedVideos
from slotformer.cache import SlotCacheWriter

SHAPES = ("box", "sphere", "cylinder", "capsule", "cone")


@entry("cache_states")
def main(cfg: DictConfig) -> None:
    """Cache the states of ``cfg.split`` of ``cfg.data`` in ``cfg.cache``."""
    source = instantiate(cfg.data[cfg.split])
    if not isinstance(source, SimulatedVideos):
        raise ValueError("only simulated videos have true states; set data=contact or data=simulated")
    chosen = range(len(source))[slice(*cfg.videos)] if cfg.videos else range(len(source))
    records = [json.loads(source.files(i)[2].read_text()) for i in chosen]
    num_slots = max(len(record["bodies"]) for record in records)
    header = {
        "scenarios": sorted({r["scenario"] for r in records if "scenario" in r}),
        "checkpoint_sha256": "true states",
        "data": source.config,
        "videos": list(cfg.videos) if cfg.videos else None,
    }
    with SlotCacheWriter(cfg.cache, "fp32", **header) as writer:
        for index, record in zip(tqdm(chosen, unit="video", desc="states"), records, strict=True):
            info = source.info(index)
            if info.video_id in writer.present:
                continue
            states = torch.from_numpy(state_slots(record)).float()  # (T,K,D)
            slots = torch.zeros(states.shape[0], num_slots, states.shape[2])
            slots[:, : states.shape[1]] = states
            live = (torch.arange(num_slots) < states.shape[1]).expand(len(states), -1)
            writer.write(info.video_id, slots, live, label=info.label, scenario=info.scenario)
    print(f"{cfg.cache}: {len(records)} videos, {num_slots} slots of width {states.shape[2]}")


def state_slots(record: dict[str, Any]) -> NDArray[np.float64]:
    """Position, velocity, orientation (two columns of the matrix), size, colour and shape of every body, (T,K,D)."""
    position, velocity = np.array(record["state"]["position"]), np.array(record["state"]["velocity"])  # (T,K,3)
    turned = matrices(np.array(record["state"]["orientation"]))[..., :2].reshape(*position.shape[:2], 6)
    constant = np.array([[*size_of(body), *body["color"], *shape_of(body)] for body in record["bodies"]])  # (K,11)
    still = np.broadcast_to(constant, (len(position), *constant.shape))
    return np.concatenate([position, velocity / 4, turned, still], -1)


def matrices(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices (...,3,3) of quaternions (...,4) in the order x, y, z, w."""
    x, y, z, w = np.moveaxis(quaternion, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def size_of(body: dict[str, Any]) -> Sequence[float]:
    """How far a body reaches from its origin along its own axes."""
    reach = [np.abs(part["position"]) + np.array(part["size"]) for part in body["parts"]]
    return [float(v) for v in np.max(reach, 0)]


def shape_of(body: dict[str, Any]) -> Sequence[float]:
    """One-hot over the shapes of single bodies; zeros for compounds."""
    return [float(len(body["parts"]) == 1 and body["parts"][0]["shape"] == shape) for shape in SHAPES]


if __name__ == "__main__":
    main()
