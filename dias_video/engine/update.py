"""An update: forward and backward over the micro-batches, clipping, and the optimizer's step."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.engine.alarm import Alarm
from dias_video.engine.records import Records, sample_names
from dias_video.engine.schedule import weight_at
from dias_video.engine.sharding import full
from dias_video.engine.state import TrainingState, seed_generators
from dias_video.machine.precision import autocast

if TYPE_CHECKING:
    from dias_video.engine.loop import Trainer


class Updater:
    """A model in training: makes updates and keeps their records."""

    def __init__(self, trainer: Trainer, model: nn.Module) -> None:
        """Move the model to the device, share it with the other processes, and set up the optimizer.

        Raises:
            ValueError: every parameter is frozen.
        """
        self.trainer, self.accelerator = trainer, trainer.accelerator
        model.to(self.accelerator.device)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            raise ValueError("the model has nothing to train; every parameter is frozen")
        settings = trainer.optimization
        betas = (settings.betas[0], settings.betas[1])
        grouped = settings.grouped(parameters)
        self.rates = [own for own, _ in grouped]  # a group's settings
        groups = [{"params": group} for _, group in grouped]
        adam = torch.optim.AdamW(groups, settings.lr, betas, weight_decay=settings.weight_decay, fused=True)
        self.model, self.optimizer = self.accelerator.prepare(model, adam)
        self.state = TrainingState(model, adam, trainer.ema, self.accelerator.scaler)
        scaled = self.accelerator.scaler is not None
        self.records = Records(trainer.ranks, trainer.batch_size, scaled, trainer.logging.peak_tflops)
        self.alarm = Alarm(model, settings.warmup * trainer.schedule_steps)
        if trainer.compile and _has_compiler():
            model.compile()

    def update(self, micro_batches: list[Any]) -> None:
        """Make one update. The host waits for the device only inside the model, or with ``max_skipped``."""
        trainer, step = self.trainer, self.state.step
        seed_generators(trainer.seed, step, self.accelerator.process_index)
        self.model.train()
        for group, own in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = own.lr_at(step, trainer.schedule_steps)
        device, places = self.accelerator.device, trainer.share.micro_batches()
        noted: list[Mapping[str, Tensor]] = []
        for number, (batch, (start, stop)) in enumerate(zip(micro_batches, places, strict=True), 1):
            last = number == len(places)
            with nullcontext() if last else self.accelerator.no_sync(self.model), self.state.counting(stop - start):
                draws = Draws.for_step(trainer.seed, step, range(start, stop), self.progress(step), device)
                with autocast(trainer.precision, device):
                    terms = self.model(batch.to(device), draws)
                terms = {name: v.float() if v.itemsize < 4 else v for name, v in terms.items()}
                self.accelerator.backward(self._loss(terms) / len(places))
            noted.append({name: value.detach() for name, value in terms.items()})
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), trainer.optimization.clip or float("inf"))
        self.records.num_frames = getattr(micro_batches[0], "num_frames", 1)
        self.records.add(step + 1, noted, full(norm), sample_names(micro_batches, places))
        spoilt = trainer.optimization.max_skipped > 0 and self._spoilt()
        if not spoilt or self.records.scaled:  # a loss scaler leaves out the update itself, and adjusts its scale
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.count_step()

    def progress(self, step: int) -> float:
        """The part of the schedule that is done after ``step`` updates."""
        return min(1.0, step / self.trainer.schedule_steps)

    def total(self, row: Mapping[str, float], step: int) -> float:
        """The weighted sum of the terms in a logged ``row``, with the weights of the update that follows ``step``."""
        return sum(weight * row[name] for name, weight in self._weights(self.records.terms, step).items())

    def _loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        weights = self._weights(terms, self.state.step)
        if unknown := self.trainer.weights.keys() - weights.keys():
            raise ValueError(f"weights names {sorted(unknown)[0]!r}, but the model's loss terms are {sorted(weights)}")
        return torch.stack([weight * terms[name].mean() for name, weight in weights.items()]).sum()

    def _weights(self, terms: Any, step: int) -> dict[str, float]:
        given = self.trainer.weights
        return {name: weight_at(given.get(name, 1.0), self.progress(step)) for name in self.alarm.losses(terms)}

    def _spoilt(self) -> bool:
        """Whether a loss is not finite on any process, so that the update must be left out; waits for the device."""
        problem = self.records.problem()
        if not problem:
            return False
        most = self.trainer.optimization.max_skipped
        if self.state.skipped == most:
            self.trainer.ranks.fail(problem)
        self.state.skipped += 1
        if self.trainer.is_main:
            what = problem.partition(";")[0]
            print(f"warning: {what}; update left out, {self.state.skipped} of at most {most}", file=sys.stderr)
        return True


def _has_compiler() -> bool:
    found = any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name)
    if not found:
        print("no C++ compiler found: torch.compile is skipped", file=sys.stderr, flush=True)
    return found
