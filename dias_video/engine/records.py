"""Losses and times of the steps since the last log line; losses stay on the device until they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dias_video.engine.ranks import Ranks


class Records:
    """Collects every step's loss terms per sample and reads them back in one go."""

    def __init__(self, ranks: Ranks, batch_size: int) -> None:
        self.ranks, self.batch_size = ranks, batch_size
        self.terms: list[str] = []
        self.norm: Tensor | None = None  # of the last step's gradient
        self._losses: list[
            tuple[int, Tensor, Sequence[str]]
        ] = []  # step before the update, (terms, samples), video ids
        self._waited = 0.0
        self._steps = 0
        self._timed = 0.0
        self._clock = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, step: int, terms: Mapping[str, Tensor], video_ids: Sequence[str]) -> None:
        """Note one micro-batch's terms, each (samples,)."""
        for name, value in terms.items():
            assert value.shape == (len(video_ids),), f"loss term {name} must be ({len(video_ids)},), is {value.shape}"
        self.terms = list(terms)
        self._losses.append((step, torch.stack([v.detach().float() for v in terms.values()]), video_ids))

    def count_step(self) -> None:
        """Count a finished step for the throughput."""
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time inside: saving and validation are no part of a step's time."""
        self._timed += time.perf_counter() - self._clock
        yield
        self._clock = time.perf_counter()

    def row(self) -> dict[str, float]:
        """Terms of the last step, mean over the global batch, and the speed since the last row.

        Waits for the device. Every process calls it.
        """
        last = self._losses[-1][0]
        values = torch.stack([loss.double().mean(1) for step, loss, _ in self._losses if step == last]).mean(0)
        means = self.ranks.mean(values.cpu())
        now = time.perf_counter()
        self._timed += now - self._clock
        self._clock = now
        row = dict(zip(self.terms, means.tolist(), strict=True))
        if self.norm is not None:
            row["grad_norm"] = float(self.norm)
        steps = max(1, self._steps)
        row["samples_per_s"] = self.batch_size * steps / max(self._timed, 1e-9)
        row["step_s"], row["data_s"] = self._timed / steps, self._waited / steps
        if torch.cuda.is_available():
            row["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._steps, self._timed, self._waited = 0, 0.0, 0.0
        return row

    def check_finite(self) -> None:
        """Look through the losses since the last call, on this process.

        Raises:
            ValueError: names the first step, term and videos with a loss that is not finite.
        """
        losses, self._losses = self._losses, []
        for step, loss, video_ids in losses:
            bad = ~torch.isfinite(loss).cpu()
            if bad.any():
                term = self.terms[int(bad.any(1).nonzero()[0])]
                videos = [name for name, wrong in zip(video_ids, bad.any(0).tolist(), strict=True) if wrong]
                raise ValueError(
                    f"loss term {term!r} became non-finite at step {step + 1} on {', '.join(videos[:8])}; nothing was "
                    "saved since, go on from the last checkpoint with a lower optimization.lr or precision=no"
                )
