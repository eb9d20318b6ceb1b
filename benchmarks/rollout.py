"""Rollouts of 50 frames, every way there is, as ratios to the plain loop.

The plain loop is the published one: PyTorch's own Transformer encoder over the whole window at every step, all slots,
dead or not. Slots live as in caches of simulated contact clips: 4.6 of 7 in the mean, another number in every video.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.measure import Bench, Row, Work
from slotformer.causal import CausalSlotFormer
from slotformer.fast import fast_rollout
from slotformer.rollouter import SlotFormer

SETTINGS = {  # burn_in, width, layers, heads, ffn_ratio
    "published": (15, 256, 8, 8, 4),
    "small": (6, 128, 4, 8, 4),
    "tiny": (6, 96, 2, 4, 2),
}
LIVE = {3: 3, 4: 7, 5: 7, 6: 2, 7: 1}  # slots that live -> videos, in the proportions of 2,002 simulated contact clips
FEW = dict.fromkeys((3, 4, 5, 6, 7), 1)  # each of another number of live slots, so that groups save next to nothing
STEPS, SLOTS, DIM = 50, 7, 64


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


def run(bench: Bench) -> list[Row]:
    """One comparison a setting, and one of few videos."""
    rows = []
    for name, size in SETTINGS.items():
        for live in (LIVE, FEW):
            rows += compare(bench, f"rollout, {name}, {sum(live.values())} videos", size, live)
    return rows


def compare(bench: Bench, group: str, size: tuple[int, ...], live: dict[int, int]) -> list[Row]:
    """Every way on the same slots."""
    torch.manual_seed(0)
    videos = sum(live.values())
    slots = torch.randn(videos, size[0], SLOTS, DIM, device=bench.device)
    everything = torch.ones(slots.shape[:3], dtype=torch.bool, device=bench.device)
    counts = torch.tensor([count for count, of in live.items() for _ in range(of)], device=bench.device)
    some = (torch.arange(SLOTS, device=bench.device) < counts[:, None, None]).expand_as(everything)  # (B,T,S)
    options = dict(zip(("burn_in", "width", "layers", "heads", "ffn_ratio"), size, strict=True))
    plain, exact, causal = (
        kind(DIM, **options).to(bench.device).eval() for kind in (PlainLoop, SlotFormer, CausalSlotFormer)
    )
    contestants: dict[str, Work] = {
        "plain loop": lambda: plain(slots, STEPS),
        "exact, all slots live": lambda: fast_rollout(exact, slots, everything, STEPS),
        "exact, slots live as cached": lambda: fast_rollout(exact, slots, some, STEPS),
        "causal, cached keys": lambda: causal.rollout(slots, everything, STEPS),
    }
    with torch.inference_mode():
        first, *others = bench.compare(group, contestants, videos * STEPS)
    # PyTorch runs a layer of its own encoder as one operator, whose inside can't be counted.
    return [replace(first, operations=None, bytes=None, least=None), *others]
