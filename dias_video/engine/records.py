"""Losses and times of the steps since the last line of the log; losses stay on the device until they are read."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dias_video.machine.ranks import Ranks

ALARM_STEPS = 50  # number of updates whose means are passed to a model's ``alarm``


class Step(NamedTuple):
    """What this process recorded about one update."""

    number: int  # from 1
    losses: Tensor  # (terms, samples) float32
    norm: Tensor  # () norm of the gradient
    video_ids: list[str]


class Records:
    """Collects the loss terms of every sample and step, and reads them from the device together.

    ``peak_tflops`` is the peak of one device in 1e12 operations a second, to compute the MFU; None leaves it out. With
    a loss scaler (``scaled``), gradients may overflow: the scaler skips that update, and this is no error.
    """

    def __init__(self, ranks: Ranks, batch_size: int, scaled: bool, peak_tflops: float | None) -> None:
        self.ranks, self.batch_size, self.scaled, self.peak_tflops = ranks, batch_size, scaled, peak_tflops
        self.terms: list[str] = []
        self.num_frames = 1  # frames of a sample
        self._unchecked: list[Step] = []
        self._last: Step | None = None
        self._recent: deque[Tensor] = deque(maxlen=ALARM_STEPS)  # each (terms,), this process's means of an update
        self._waited = 0.0
        self._steps = 0
        self._timed = 0.0
        self._clock = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, number: int, terms: Sequence[Mapping[str, Tensor]], norm: Tensor, video_ids: list[str]) -> None:
        """Record a step: the detached terms of its micro-batches, each (samples,), and the ids of all samples."""
        self.terms = list(terms[0])
        losses = torch.cat([torch.stack([v.float() for v in part.values()]) for part in terms], dim=1)
        assert losses.shape == (len(self.terms), len(video_ids)), "a loss term must have one value a sample"
        self._last = Step(number, losses, norm.detach(), video_ids)
        self._unchecked.append(self._last)
        self._recent.append(losses.mean(1))
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Don't count the time inside the block: saving and validation are not a part of a step's time."""
        self._timed += time.perf_counter() - self._clock
        yield
        self._clock = time.perf_counter()

    def row(self, flops: int | None) -> dict[str, float]:
        """Terms of the last step, as means over the global batch, and the speed since the last row.

        It waits for the device. Every process calls it. ``flops`` is the number of operations of a sample, forward and
        backward.
        """
        assert self._last is not None
        means = self.ranks.mean(self._last.losses.double().mean(1).cpu())
        now = time.perf_counter()
        self._timed += now - self._clock
        self._clock = now
        steps = max(1, self._steps)
        speed = self.batch_size * steps / max(self._timed, 1e-9)
        row = dict(zip(self.terms, means.tolist(), strict=True)) | {"grad_norm": float(self._last.norm)}
        row |= {"samples_per_s": speed, "frames_per_s": speed * self.num_frames}
        row |= {"step_s": self._timed / steps, "data_s": self._waited / steps}
        if flops:
            row["tflops_per_s"] = flops * speed / 1e12
            if self.peak_tflops is not None:
                row["mfu"] = row["tflops_per_s"] / (self.peak_tflops * self.ranks.count)
        if torch.cuda.is_available():
            row["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._steps, self._timed, self._waited = 0, 0.0, 0.0
        return row

    def recent(self) -> dict[str, float]:
        """Mean of every term over the last ``ALARM_STEPS`` updates; empty while there are fewer.

        It waits for the device. Every process calls it.
        """
        if len(self._recent) < ALARM_STEPS:
            return {}
        means = self.ranks.mean(torch.stack(list(self._recent)).double().mean(0).cpu())
        return dict(zip(self.terms, means.tolist(), strict=True))

    def problem(self) -> str:
        """A sentence about a loss or gradient that was not finite since the last call; empty if there was none.

        It names the first step, term and videos, and is the same on all processes. It waits for the device. Every
        process calls it.
        """
        steps, self._unchecked = self._unchecked, []
        if not steps:
            return ""
        losses = torch.cat([step.losses for step in steps], dim=1).cpu()  # (terms, samples of all steps)
        norms = torch.stack([step.norm for step in steps]).cpu()  # the same on all processes
        wrong = [] if self.scaled else (~norms.isfinite()).nonzero().flatten().tolist()
        first = wrong[0] if wrong else len(steps)
        # A loss of the same step on any process says more than the gradient; losses of later steps follow from it.
        found = self.ranks.first("" if losses.isfinite().all() else self._name_loss(steps[: first + 1], losses))
        if found or not wrong:
            return found
        return _sentence("the gradient", steps[first].number, steps[first].video_ids)

    def _name_loss(self, steps: list[Step], losses: Tensor) -> str:
        for step, values in zip(steps, losses.split(len(steps[0].video_ids), dim=1), strict=False):
            bad = ~values.isfinite()
            if bad.any():
                term = self.terms[int(bad.any(1).nonzero()[0])]
                videos = [name for name, is_bad in zip(step.video_ids, bad.any(0).tolist(), strict=True) if is_bad]
                return _sentence(f"loss term {term!r}", step.number, videos)
        return ""


def sample_names(micro_batches: Sequence[Any], places: Sequence[tuple[int, int]]) -> list[str]:
    """The video id of every sample, or its place in the global batch where batches have no ids."""
    names: list[str] = []
    for batch, (start, stop) in zip(micro_batches, places, strict=True):
        names += getattr(batch, "video_id", None) or [f"sample {place}" for place in range(start, stop)]
    return names


def _sentence(what: str, step: int, videos: list[str]) -> str:
    return (
        f"{what} became non-finite at step {step} on {', '.join(videos[:8])}; nothing was saved since, go on from the "
        "last checkpoint with a lower optimization.lr or precision=fp32"
    )
