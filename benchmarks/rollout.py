"""Rollouts of 100 frames, every way there is, as ratios to the plain loop: python benchmarks/rollout.py

The plain loop is the published one: PyTorch's own Transformer encoder over the whole window at every step, all slots,
dead or not. One core, CPU time of this process, the best of some runs, so that other work on the machine matters
little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from slotformer.causal import CausalSlotFormer
from slotformer.fast import fast_rollout
from slotformer.rollouter import SlotFormer

SETTINGS = {  # burn_in, width, layers, heads, ffn_ratio
    "published": (15, 256, 8, 8, 4),
    "small": (6, 128, 4, 8, 4),
    "tiny": (6, 96, 2, 4, 2),
}


class PlainLoop(nn.Module):
    """The published rollout."""

    def __init__(self, slot_dim: int, burn_in: int, width: int, layers: int, heads: int, ffn_ratio: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, heads, ffn_ratio * width, dropout=0.0, norm_first=True, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.in_proj, self.out_proj = nn.Linear(slot_dim, width), nn.Linear(width, slot_dim)
        self.positions = nn.Parameter(torch.randn(burn_in, 1, width))

    def forward(self, slots: Tensor, steps: int) -> Tensor:
        """(B,T,S,D) -> (B,steps,S,D)."""
        batch, frames, num_slots, _ = slots.shape
        window, predicted = slots, []
        for _ in range(steps):
            tokens = (self.in_proj(window) + self.positions).flatten(1, 2)
            tokens = self.encoder(tokens).view(batch, frames, num_slots, -1)
            predicted.append(self.out_proj(tokens[:, -1]))
            window = torch.cat([window[:, 1:], predicted[-1][:, None]], 1)
        return torch.stack(predicted, 1)


@torch.inference_mode()
def seconds(run: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest of some runs, after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--slots", type=int, default=7)
    parser.add_argument("--slot-dim", type=int, default=64)
    parser.add_argument("--live", type=float, default=0.7, help="part of the slots that live")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in args.settings:
        burn_in, width, layers, heads, ratio = SETTINGS[name]
        slots = torch.randn(args.videos, burn_in, args.slots, args.slot_dim)
        everything = torch.ones(slots.shape[:3], dtype=torch.bool)
        some = (torch.arange(args.slots) < args.slots * args.live).expand_as(everything)
        size = {"burn_in": burn_in, "width": width, "layers": layers, "heads": heads, "ffn_ratio": ratio}
        plain = PlainLoop(args.slot_dim, **size).eval()
        exact = SlotFormer(args.slot_dim, **size).eval()
        causal = CausalSlotFormer(args.slot_dim, **size).eval()
        rows: dict[str, Callable[[], object]] = {
            "plain loop": lambda plain=plain, slots=slots: plain(slots, args.steps),
            "exact, all slots live": lambda m=exact, s=slots, e=everything: fast_rollout(m, s, e, args.steps),
            f"exact, {args.live:.0%} live": lambda m=exact, s=slots, e=some: fast_rollout(m, s, e, args.steps),
            "causal, cached keys": lambda m=causal, s=slots, e=everything: m.rollout(s, e, args.steps),
        }
        base = 0.0
        for kind, run in rows.items():
            value = seconds(run, args.repeats)
            base = base or value
            rate = args.videos * args.steps / value
            print(f"{name:10s} {kind:26s} {rate:9.0f} frames/s per core   {base / value:5.2f}x", flush=True)


if __name__ == "__main__":
    main()
