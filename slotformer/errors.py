"""How wrong a rollout is, step by step, beside two predictions that know nothing, with intervals over videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slotformer.batch import SlotBatch
from slotformer.cache import SlotCache
from slotformer.rollouter import births, context_live, scored_live

Values = NDArray[np.float64]
BASELINES = ("repeat_last", "constant_velocity")


def slot_statistics(cache: SlotCache, max_videos: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean (D,) over live slots and one scale (), the root mean square over channels of their standard deviation.

    Read from at most ``max_videos`` videos, spread evenly over the cache.
    """
    count, total, squares = 0, torch.zeros(cache.slot_dim).double(), torch.zeros(cache.slot_dim).double()
    for at in np.unique(np.linspace(0, len(cache) - 1, max_videos).astype(int)):
        slots, mask = cache.read(cache.video_ids[int(at)])
        live = slots[mask].double()  # (n,D)
        count += len(live)
        total += live.sum(0)
        squares += live.square().sum(0)
    if not count:
        raise ValueError(f"{cache.path} has no live slot at all; the checkpoint that made it found no objects")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0).mean()
    return mean.float(), variance.sqrt().clamp(min=1e-8).float()


def repeat_last(slots: Tensor, live: Tensor, steps: int) -> Tensor:
    """The last context frame again and again: (B,T,S,D), (B,T,S) -> (B,steps,S,D)."""
    return (slots[:, -1:] * live[:, -1:, :, None]).expand(-1, steps, -1, -1)


def constant_velocity(slots: Tensor, live: Tensor, steps: int) -> Tensor:
    """The last change goes on; a slot that was not there on the frame before last stands still."""
    if slots.shape[1] < 2:
        return repeat_last(slots, live, steps)
    change = (slots[:, -1:] - slots[:, -2:-1]) * live[:, -2:-1, :, None]  # (B,1,S,D)
    ahead = torch.arange(1, steps + 1, device=slots.device, dtype=slots.dtype)[:, None, None]
    return (slots[:, -1:] + ahead * change) * live[:, -1:, :, None]


def normalised_error(predicted: Tensor, encoded: Tensor, scored: Tensor) -> Tensor:
    """Squared error over the squared norm of the encoded slots, both summed over scored slots.

    Args:
        predicted: (B,R,S,D).
        encoded: (B,R,S,D).
        scored: (B,R,S) bool.

    Returns:
        (B,R) float64, NaN where no slot is scored.
    """
    error = ((predicted.double() - encoded.double()).square().sum(-1) * scored).sum(-1)
    norm = (encoded.double().square().sum(-1) * scored).sum(-1)
    return torch.where(scored.any(-1), error / norm, torch.nan)


@dataclass
class RolloutErrors:
    """Normalised errors of a set of videos."""

    video_id: list[str]  # V
    errors: dict[str, Values]  # predictor -> (V,R), NaN where nothing was scored
    births: NDArray[np.int64]  # (V,) tracks that began after the context, which nothing is scored on
    scored: NDArray[np.int64]  # (R,) slots scored a step, over all videos

    def table(self, level: float = 0.95, seed: int = 0) -> list[dict[str, float]]:
        """One row a step: mean and bootstrap interval over videos a predictor, and errors relative to repeat_last.

        A predictor that was asked about some videos only (NaN on the others) is related to repeat_last on these.
        """
        rows = []
        for step in range(len(self.scored)):
            row: dict[str, float] = {"step": step + 1}
            columns = {name: values[:, step] for name, values in self.errors.items()}
            for name, values in columns.items():
                row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(values, level, seed)
            for name, values in columns.items():
                if name != "repeat_last":
                    ratio = ratio_interval(values, columns["repeat_last"], level, seed)
                    row[f"{name}_relative"], row[f"{name}_relative_low"], row[f"{name}_relative_high"] = ratio
            row["videos"] = int(np.isfinite(columns["model"]).sum())
            row["scored_slots"] = int(self.scored[step])
            rows.append(row)
        return rows


def rollout_errors(predicted: Tensor, batch: SlotBatch) -> RolloutErrors:
    """Errors of predicted slots (B,R,S,D) on the last R frames of a batch; the frames before were the context."""
    steps = predicted.shape[1]
    burn_in = batch.num_frames - steps
    past, future = batch.slots[:, :burn_in], batch.slots[:, burn_in:]
    live = context_live(batch.mask[:, :burn_in], batch.track_id[:, :burn_in])
    scored = scored_live(batch.mask, batch.track_id, burn_in)
    guesses = {
        "model": predicted,
        "repeat_last": repeat_last(past, live, steps),
        "constant_velocity": constant_velocity(past, live, steps),
    }
    errors = {name: normalised_error(guess, future, scored).cpu().numpy() for name, guess in guesses.items()}
    born = births(batch.mask, batch.track_id, burn_in)
    return RolloutErrors(batch.video_id, errors, born.cpu().numpy(), scored.sum((0, 2)).cpu().numpy())


def join_errors(parts: list[RolloutErrors]) -> RolloutErrors:
    """The errors of several batches as one."""
    return RolloutErrors(
        video_id=[name for part in parts for name in part.video_id],
        errors={name: np.concatenate([p.errors[name] for p in parts]) for name in parts[0].errors},
        births=np.concatenate([p.births for p in parts]),
        scored=np.sum([p.scored for p in parts], 0),
    )


def over_models(parts: Sequence[RolloutErrors], level: float = 0.95, seed: int = 0) -> list[dict[str, float]]:
    """The table of several models on the same videos: means over models, and ``…_std``, their ``deviation``."""
    names = parts[0].errors
    mean = replace(parts[0], errors={name: np.mean([part.errors[name] for part in parts], 0) for name in names})
    rows = mean.table(level, seed)
    tables = [part.table(level, seed) for part in parts]
    for step, row in enumerate(rows):
        for key in ("model", "model_relative"):
            row[f"{key}_std"] = deviation([table[step][key] for table in tables])
    return rows


def deviation(values: Sequence[float] | Values) -> float:
    """Sample standard deviation (n - 1 below the sum of squares) of one number a seed; 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def interval(values: Values, level: float = 0.95, seed: int = 0, samples: int = 2000) -> tuple[float, float, float]:
    """Mean of the finite values (V,) and a percentile bootstrap interval over videos; NaN without any."""
    return ratio_interval(values, np.ones_like(values), level, seed, samples)


def ratio_interval(
    values: Values, others: Values, level: float = 0.95, seed: int = 0, samples: int = 2000
) -> tuple[float, float, float]:
    """Mean of ``values`` over mean of ``others``, both (V,), and its interval when videos are drawn in pairs."""
    keep = np.isfinite(values) & np.isfinite(others)
    values, others = values[keep], others[keep]
    if not len(values):
        return (float("nan"),) * 3
    both, even = np.stack([values, others], 1), np.full(len(values), 1 / len(values))
    generator = np.random.default_rng(seed)
    # Drawn one by one, since all draws at once are samples * V numbers.
    sums = np.array([generator.multinomial(len(values), even) @ both for _ in range(samples)])  # (samples,2)
    ratios = np.divide(sums[:, 0], sums[:, 1], out=np.full(samples, np.nan), where=sums[:, 1] > 0)
    tail = (1 - level) / 2
    low, high = np.nanquantile(ratios, [tail, 1 - tail])
    mean = others.mean()
    return float(values.mean() / mean) if mean > 0 else float("nan"), float(low), float(high)
