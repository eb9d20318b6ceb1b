"""The training loop: one for every model and data set, on one process or many."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm import tqdm

from dias_video.batch import Draws
from dias_video.engine.checkpoint import Checkpoints, Saving
from dias_video.engine.checks import check_choice, check_flag, check_integer, check_number
from dias_video.engine.loader import KeyedDataset, Order, Share, batches, default_workers
from dias_video.engine.ranks import Agreed, Interrupted, Ranks, Signals
from dias_video.engine.records import Records
from dias_video.engine.schedule import Optimization, Weight, check_weights, weight_at
from dias_video.engine.state import TrainingState
from dias_video.engine.tracking import TRACKERS, RunLog, check_folder

Validate = Callable[[Any, int], Mapping[str, float]]


@dataclass(frozen=True)
class Logging:
    """A line of metrics every ``every`` steps (losses stay on the device between), and a tracker by wish."""

    every: int = 50
    tracking: str = "none"

    def __post_init__(self) -> None:
        check_integer("logging.every", self.every, least=1)
        check_choice("logging.tracking", self.tracking, TRACKERS)


class Trainer:
    """Trains ``model(batch, draws) -> {term: (B,)}`` on ``dataset[(epoch, index)]``.

    The loss is the sum over terms of weight * mean over samples, the gradient that of the global batch: however many
    processes and micro-batches share it, the result is the same up to rounding. Everything random is a function of
    (seed, step), so a run continued from a checkpoint equals one that was never stopped.
    """

    def __init__(
        self,
        max_steps: int,
        batch_size: int,
        seed: int = 0,
        optimization: Optimization | None = None,
        saving: Saving | None = None,
        logging: Logging | None = None,
        weights: Mapping[str, Weight] | None = None,
        precision: str = "no",
        accumulation: int = 1,
        ema: float | None = None,
        compile: bool = False,
        num_workers: int | None = None,
    ) -> None:
        """Check the settings and join the other processes.

        Args:
            max_steps: Updates to make in all, counted from the start of the run.
            batch_size: Samples an update, the sum over processes and micro-batches.
            seed: Decides data order, augmentation and all draws inside the model.
            weights: Loss weights by term, a number or ``{kind: linear | cosine, start, end}`` over the schedule; a
                term that is not named weighs 1.
            precision: ``no`` (float32), ``bf16`` or ``fp16`` (on a GPU).
            accumulation: Micro-batches an update, for batches that don't fit into memory.
            ema: Decay of the running average of the weights (0.999, say); the average is what checkpoints hold as the
                model. None: no average.
            compile: Compile the model with ``torch.compile``.
            num_workers: Processes that load data; None: as many as there are cores, at most 8.

        Raises:
            ValueError: names the first option that is wrong.
        """
        check_integer("max_steps", max_steps, least=1)
        check_integer("batch_size", batch_size, least=1)
        check_integer("seed", seed, least=0)
        check_integer("accumulation", accumulation, least=1)
        check_choice("precision", precision, ("no", "bf16", "fp16"))
        check_flag("compile", compile)
        if ema is not None:
            check_number("ema", ema, above=0, most=1)
        if num_workers is not None:
            check_integer("num_workers", num_workers, least=0)
        check_weights(weights or {})
        _check_settings(optimization, saving, logging)
        if precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("precision=fp16 needs a GPU; use bf16 or no")
        self.max_steps, self.batch_size, self.seed = max_steps, batch_size, seed
        self.optimization = optimization or Optimization()
        self.saving = saving or Saving()
        self.logging = logging or Logging()
        self.weights = dict(weights or {})
        self.precision, self.compile, self.ema, self.num_workers = precision, compile, ema, num_workers
        self.schedule_steps = self.optimization.schedule_steps or max_steps
        # Unused parameters are normal: learned queries are idle in a batch that brings boxes.
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[ddp])
        if self.accelerator.distributed_type not in ("NO", "MULTI_GPU", "MULTI_CPU"):
            kind = str(self.accelerator.distributed_type.value)
            raise ValueError(
                f"{kind} was asked for by accelerate's configuration; this trainer replicates the model: "
                "start it with accelerate launch --multi_gpu"
            )
        self.ranks = Ranks()
        self.share = Share.of(batch_size, self.accelerator.process_index, self.accelerator.num_processes, accumulation)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and talks to the user."""
        return bool(self.accelerator.is_main_process)

    def fit(
        self,
        model: nn.Module,
        dataset: KeyedDataset,
        collate: Callable[[list[Any]], Any],
        out_dir: str | Path,
        resume: bool = False,
        config: Mapping[str, Any] | None = None,
        validate: Validate | None = None,
    ) -> Path:
        """Train until ``max_steps`` and return the last checkpoint's folder.

        Args:
            model: A ``Configured`` module; trained in place, frozen parameters are left alone.
            dataset: ``dataset[(epoch, index)]`` and ``len(dataset)``.
            collate: Makes a batch with ``.to(device)`` out of a list of samples.
            out_dir: The run folder: config.yaml, run.json, metrics.jsonl, checkpoints/.
            resume: Go on from the newest undamaged checkpoint of ``out_dir``, or start there if it holds none.
            config: The resolved configuration, kept in the run folder.
            validate: ``validate(model, step) -> {name: value}``, called before each checkpoint on the main process
                with the model in evaluation mode and, if the run averages, with averaged weights. Left at once when
                a signal comes.

        Raises:
            ValueError: an option, a sample or a checkpoint is wrong, or a loss became non-finite.
            OSError: a file could not be read or written.
            Interrupted: SIGTERM or SIGINT came; the state is saved.
        """
        check_flag("resume", resume)
        run = _Run(self, model, Path(out_dir), validate)
        try:
            with Signals() as signals:
                run.start(dataset, resume, config or {}, signals)
                run.train(dataset, collate)
                return run.checkpoints.folder / f"step_{run.state.step:06d}"
        except Agreed:
            if not self.is_main:  # one message is enough
                raise SystemExit(1) from None
            raise
        finally:
            run.close()


class _Run:
    """One call of ``fit``."""

    def __init__(self, trainer: Trainer, model: nn.Module, out_dir: Path, validate: Validate | None) -> None:
        self.trainer, self.plain_model, self.out_dir, self.validate = trainer, model, out_dir, validate
        self.accelerator, self.ranks = trainer.accelerator, trainer.ranks
        self.checkpoints = Checkpoints(out_dir / "checkpoints", trainer.saving.keep)
        self.log = RunLog(out_dir, trainer.logging.tracking, trainer.is_main, self.ranks.count)
        self.saved: int | None = None
        self.bar: tqdm[Any] | None = None

    def start(self, dataset: KeyedDataset, resume: bool, config: Mapping[str, Any], signals: Signals) -> None:
        """Check the run folder, set up model and optimizer, load the checkpoint to go on from."""
        self.signals = signals
        with self.ranks.together():
            if self.trainer.is_main:
                check_folder(self.out_dir, resume)
            if len(dataset) == 0:
                raise ValueError("the training set is empty; check data.root and the split")
        newest = None
        with self.ranks.together():
            if self.trainer.is_main and resume:
                newest = self.checkpoints.newest()
        step = self.ranks.from_main(-1 if newest is None else int(newest.name.removeprefix("step_")))
        with self.ranks.together():
            self._prepare()
            if step >= 0:
                self.state.load(self.checkpoints.folder / f"step_{step:06d}")
                self.saved = step
            if self.trainer.is_main:
                self.checkpoints.drop_after(step)
                self.log.start(config, self.state.step)

    def _prepare(self) -> None:
        trainer, device = self.trainer, self.accelerator.device
        self.plain_model.to(device)
        parameters = [p for p in self.plain_model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("the model has nothing to train; every parameter is frozen")
        settings = trainer.optimization
        adam = torch.optim.Adam(
            parameters, settings.lr, (settings.betas[0], settings.betas[1]), fused=device.type == "cuda"
        )
        self.model, self.optimizer = self.accelerator.prepare(self.plain_model, adam)
        self.state = TrainingState(self.plain_model, adam, trainer.ema, self.accelerator.scaler)
        if trainer.compile and _has_compiler():
            self.plain_model.compile()

    def train(self, dataset: KeyedDataset, collate: Callable[[list[Any]], Any]) -> None:
        """The loop. Each turn: load, agree with the other processes, update, log, save."""
        trainer, state = self.trainer, self.state
        workers = trainer.num_workers
        if workers is None:
            workers = default_workers(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        order = Order(len(dataset), trainer.batch_size, trainer.seed)
        steps, pin = (state.step, trainer.max_steps), self.accelerator.device.type == "cuda"
        self.records = Records(self.ranks, trainer.batch_size)
        self.bar = self._progress()
        # Closing ends the workers; left alone they would outlast an exception, since signals don't end them.
        with closing(batches(dataset, collate, order, trainer.share, steps, workers, pin)) as data:
            while state.step < trainer.max_steps:
                with self.ranks.together(self.signals) as agreed, self.records.waiting():
                    micro_batches = [next(data) for _ in range(trainer.share.accumulation)]
                if agreed.signal:
                    self._save({})
                    raise Interrupted(agreed.signal)
                self._update(micro_batches)
                self._after_step(epoch=(state.step * trainer.batch_size) // len(dataset))

    def _update(self, micro_batches: list[Any]) -> None:
        trainer, step = self.trainer, self.state.step
        _seed_generators(trainer.seed, step, self.accelerator.process_index)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = trainer.optimization.lr_at(step, trainer.schedule_steps)
        places = trainer.share.micro_batches()
        for number, (batch, (start, stop)) in enumerate(zip(micro_batches, places, strict=True), 1):
            last = number == len(places)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                draws = Draws.for_step(trainer.seed, step, trainer.batch_size, start, stop)
                terms = self.model(batch.to(self.accelerator.device), draws)
                self.accelerator.backward(self._loss(terms) / len(places))
            self.records.add(
                step, terms, getattr(batch, "video_id", None) or [f"sample {i}" for i in range(start, stop)]
            )
        clip = trainer.optimization.clip or float("inf")
        self.records.norm = self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.count_step()
        self.records.count_step()

    def _loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        weights = self.trainer.weights
        if unknown := weights.keys() - terms.keys():
            raise ValueError(f"weights names {sorted(unknown)[0]!r}, but the model's loss terms are {sorted(terms)}")
        progress = self.state.step / self.trainer.schedule_steps
        parts = [weight_at(weights.get(name, 1.0), progress) * value.mean() for name, value in terms.items()]
        return torch.stack(parts).sum()

    def _after_step(self, epoch: int) -> None:
        trainer, step = self.trainer, self.state.step
        assert self.bar is not None
        self.bar.update()
        last = step == trainer.max_steps
        saves = last or step % trainer.saving.every == 0
        found: dict[str, float] = {}
        if saves and self.validate is not None:
            with self.ranks.together(), self.records.paused(), self.signals.abandoning():
                found = self._validate(self.validate)
        if last or step == 1 or step % trainer.logging.every == 0 or (saves and self.validate is not None):
            row = self.records.row()
            with self.ranks.together():
                self.records.check_finite()
                self._log(epoch, row, found)
        if saves:
            self._save(found)

    def _validate(self, validate: Validate) -> dict[str, float]:
        if not self.trainer.is_main:
            return {}
        self.plain_model.eval()
        with self.state.averaged(), torch.no_grad():
            found = {name: float(value) for name, value in validate(self.plain_model, self.state.step).items()}
        metric = self.trainer.saving.metric
        if metric is not None and metric not in found:
            raise ValueError(f"saving.metric={metric} is not among the validation results {sorted(found)}")
        return found

    def _log(self, epoch: int, row: dict[str, float], found: Mapping[str, float]) -> None:
        trainer, done = self.trainer, self.state.step - 1
        weights = {name: trainer.weights.get(name, 1.0) for name in self.records.terms}
        row["loss"] = sum(weight_at(w, done / trainer.schedule_steps) * row[name] for name, w in weights.items())
        row["lr"] = trainer.optimization.lr_at(done, trainer.schedule_steps)
        self.log.write({"step": done + 1, "epoch": epoch, **row, **found})
        assert self.bar is not None
        self.bar.set_postfix(loss=f"{row['loss']:.4g}", samples_s=f"{row['samples_per_s']:.3g}")

    def _save(self, found: Mapping[str, float]) -> None:
        with self.ranks.together():  # first, so that no process' non-finite weights are saved
            self.records.check_finite()
        with self.ranks.together(), self.records.paused():
            if self.trainer.is_main and self.saved != self.state.step:
                self._write_checkpoint(found)
        self.saved = self.state.step

    def _write_checkpoint(self, found: Mapping[str, float]) -> None:
        state, saving = self.state, self.trainer.saving
        value = found.get(saving.metric) if saving.metric is not None else None
        better = value is not None and saving.improves(value, state.best)
        state.best = value if better else state.best
        path = self.checkpoints.save(state.step, state.write_model, state.tensors(), state.plain())
        if better:
            self.checkpoints.point("best", path)

    def _progress(self) -> tqdm[Any]:
        tty = sys.stderr.isatty()
        return tqdm(
            total=self.trainer.max_steps,
            initial=self.state.step,
            unit="step",
            desc=self.out_dir.name,
            disable=not self.trainer.is_main,
            mininterval=0.5 if tty else 30.0,
            dynamic_ncols=tty,
        )

    def close(self) -> None:
        """Leave the terminal and the tracker in order."""
        if self.bar is not None:
            self.bar.close()
        self.log.close()


def _check_settings(optimization: object, saving: object, logging: object) -> None:
    given = {"optimization": (optimization, Optimization), "saving": (saving, Saving), "logging": (logging, Logging)}
    for option, (value, kind) in given.items():
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{option} must be a group of options ({kind.__name__}), got {value!r}")


def _seed_generators(seed: int, step: int, process: int) -> None:
    """Seed the global generators for a step, for models that draw from them (dropout)."""
    number = int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0])
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - it is the global generator that has to be seeded


def _has_compiler() -> bool:
    found = any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name)
    if not found:
        print("no C++ compiler found: torch.compile is skipped", file=sys.stderr, flush=True)
    return found
