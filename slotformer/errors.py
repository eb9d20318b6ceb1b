"""Errors of rollouts for every step, with two trivial predictions and with intervals over videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.batch import SlotSequence
from slotformer.rollouter import births, context_live, scored_live
from slotformer.statistics import Values, deviation, mean_ratio, ratio_interval


def repeat_last(slots: Tensor, live: Tensor, steps: int) -> Tensor:
    """The last context frame, repeated: (B,T,S,D), (B,T,S) -> (B,steps,S,D)."""
    return (slots[:, -1:] * live[:, -1:, :, None]).expand(-1, steps, -1, -1)


def constant_velocity(slots: Tensor, live: Tensor, steps: int) -> Tensor:
    """Continue with the last change; a slot that was dead on the frame before the last stands still."""
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
    errors: dict[str, Values]  # predictor -> (V,R), NaN where no slot was scored
    births: NDArray[np.int64]  # (V,) number of tracks that began after the context; they are not scored
    scored: NDArray[np.int64]  # (R,) number of slots scored at each step, over all videos

    def table(self, seed: int = 0) -> list[dict[str, float]]:
        """A row for each step: for every predictor mean, bootstrap interval over videos, and ratio to repeat_last.

        A predictor that was used only on some videos (NaN on the others) is compared with repeat_last on these.
        """
        errors, repeated = self.errors, self.errors["repeat_last"]
        pairs = {name: (values, np.ones_like(values)) for name, values in errors.items()}
        pairs |= {f"{name}_relative": (errors[name], repeated) for name in errors if name != "repeat_last"}
        values, others = (np.stack(column, -1) for column in zip(*pairs.values(), strict=True))  # (V,R,columns)
        ends = ratio_interval(values, others, seed=seed)  # (3,R,columns)
        rows = []
        for step in range(len(self.scored)):
            row: dict[str, float] = {"step": step + 1}
            for name, (mean, low, high) in zip(pairs, ends[:, step].T.tolist(), strict=True):
                row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            row["videos"] = int(np.isfinite(errors["model"][:, step]).sum())
            row["scored_slots"] = int(self.scored[step])
            rows.append(row)
        return rows


def rollout_errors(predicted: Tensor, batch: SlotSequence) -> RolloutErrors:
    """Errors of predicted slots (B,R,S,D) on the last R frames of a batch; the frames before are the context."""
    steps = predicted.shape[1]
    burn_in = batch.num_frames - steps
    past, future = batch.slots[:, :burn_in], batch.slots[:, burn_in:]
    live = context_live(batch.live[:, :burn_in], batch.track_id[:, :burn_in])
    scored = scored_live(batch.live, batch.track_id, burn_in)
    guesses = {
        "model": predicted,
        "repeat_last": repeat_last(past, live, steps),
        "constant_velocity": constant_velocity(past, live, steps),
    }
    errors = {name: normalised_error(guess, future, scored).cpu().numpy() for name, guess in guesses.items()}
    born = births(batch.live, batch.track_id, burn_in)
    return RolloutErrors(batch.video_id, errors, born.cpu().numpy(), scored.sum((0, 2)).cpu().numpy())


def join_errors(parts: list[RolloutErrors]) -> RolloutErrors:
    """Join the errors of several batches."""
    return RolloutErrors(
        video_id=[name for part in parts for name in part.video_id],
        errors={name: np.concatenate([p.errors[name] for p in parts]) for name in parts[0].errors},
        births=np.concatenate([p.births for p in parts]),
        scored=np.sum([p.scored for p in parts], 0),
    )


def over_models(parts: Sequence[RolloutErrors], seed: int = 0) -> list[dict[str, float]]:
    """The table for several models on the same videos: means over models, and as ``…_std`` their ``deviation``."""
    names = parts[0].errors
    mean = replace(parts[0], errors={name: np.mean([part.errors[name] for part in parts], 0) for name in names})
    rows = mean.table(seed)
    for key, other in (("model", None), ("model_relative", "repeat_last")):
        means = [
            mean_ratio(part.errors["model"], part.errors[other] if other else np.ones_like(part.errors["model"]))
            for part in parts
        ]
        for row, values in zip(rows, np.stack(means, 1), strict=True):  # (R,M)
            row[f"{key}_std"] = deviation(values)
    return rows
