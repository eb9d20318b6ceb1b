"""The training loop for all models and data sets, on one process or many."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dias_video.checks import check_flag, check_group, check_integer, check_number
from dias_video.engine.checkpoint import Checkpoints, Saving
from dias_video.engine.loader import KeyedDataset, Order, Share, batches, default_workers
from dias_video.engine.runlog import Logging, RunLog, check_folder
from dias_video.engine.schedule import Optimization, Weight, named_weights
from dias_video.engine.sharding import join
from dias_video.engine.update import Updater
from dias_video.machine.precision import check_precision
from dias_video.machine.ranks import Interrupted, Ranks, Signals
from dias_video.pretrained.weights import load_weights

Validate = Callable[[Any, int], Mapping[str, float]]
Preview = Callable[[Any, Path], Sequence[Path]]


class Trainer:
    """Trains ``model(batch, draws) -> {term: (B,)}`` on ``dataset[(epoch, index)]``.

    The loss is the sum over terms of weight * mean over samples. The gradient is that of the global batch, so the
    result is the same, up to rounding, for any number of processes and micro-batches. All random numbers are a function
    of (seed, step), so a run continued from a checkpoint equals one that was never stopped.

    Terms that the model names in ``watched`` are logged like losses but not minimised (``Alarm``).
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
        precision: str = "fp32",
        accumulation: int = 1,
        ema: float | None = None,
        compile: bool = False,
        num_workers: int | None = None,
    ) -> None:
        """Check the settings and join the other processes.

        Args:
            max_steps: Number of updates, counted from the start of the run.
            batch_size: Samples of an update, the sum over processes and micro-batches.
            seed: Determines data order, augmentation and all draws inside the model.
            weights: Loss weights by term, a number or ``{kind: linear | cosine, start, end}`` over the schedule; a
                term without a weight, or with None, has weight 1.
            precision: ``fp32``, ``bf16`` or ``fp16`` (on a GPU).
            accumulation: Micro-batches of an update, for batches that don't fit into memory.
            ema: Decay of the running average of the weights, for example 0.999; checkpoints hold the average as the
                model. None: no average.
            compile: Compile the model with ``torch.compile``.
            num_workers: Processes that load data; None: as many as there are cores, at most 8.

        Raises:
            ValueError: an option is wrong; the message names the first.
        """
        check_integer("max_steps", max_steps, least=1)
        check_integer("batch_size", batch_size, least=1)
        check_integer("seed", seed, least=0)
        check_integer("accumulation", accumulation, least=1)
        check_flag("compile", compile)
        if ema is not None:
            check_number("ema", ema, above=0, most=1)
        if num_workers is not None:
            check_integer("num_workers", num_workers, least=0)
        self.weights = named_weights(weights or {})
        for option, value, kind in (
            ("optimization", optimization, Optimization),
            ("saving", saving, Saving),
            ("logging", logging, Logging),
        ):
            check_group(option, value, kind)
        check_precision(precision, "cuda" if torch.cuda.is_available() else "cpu")
        self.max_steps, self.batch_size, self.seed = max_steps, batch_size, seed
        self.optimization = optimization or Optimization()
        self.saving = saving or Saving()
        self.logging = logging or Logging()
        self.precision, self.compile, self.ema, self.num_workers = precision, compile, ema, num_workers
        self.schedule_steps = self.optimization.schedule_steps or max_steps
        self.accelerator = join(precision)
        self.ranks = Ranks()
        self.share = Share.of(batch_size, self.accelerator.process_index, self.accelerator.num_processes, accumulation)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and prints messages."""
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
        preview: Preview | None = None,
    ) -> Path:
        """Train until ``max_steps`` and return the last checkpoint's folder.

        Args:
            model: A ``Pretrained`` module; it is trained in place, and frozen parameters don't change.
            dataset: ``dataset[(epoch, index)]`` and ``len(dataset)``.
            collate: Makes a batch with ``.to(device)`` from a list of samples.
            out_dir: The run folder: config.yaml, run.json, metrics.jsonl, checkpoints/.
            resume: Continue from the newest undamaged checkpoint of ``out_dir``; start anew if it holds none.
            config: The resolved configuration, written into the run folder.
            validate: ``validate(model, step) -> {name: value}``, called before each checkpoint on the main process
                with a copy of the model in evaluation mode, with averaged weights if the run averages. A signal
                interrupts it at once.
            preview: ``preview(model, folder) -> files``, called after ``validate`` with the same model. It draws GIF or
                PNG files into ``<out_dir>/pictures/step_…``, and the tracker shows them too.

        Raises:
            ValueError: an option, a sample or a checkpoint is wrong, or a loss is not finite.
            OSError: a file could not be read or written.
            Interrupted: SIGTERM or SIGINT came; the state is saved.
        """
        check_flag("resume", resume)
        run = _Run(self, model, Path(out_dir), validate, preview)
        try:
            with Signals() as signals:
                run.start(dataset, resume, config or {}, signals)
                run.train(dataset, collate)
                return run.checkpoints.folder / f"step_{run.state.step:06d}"
        finally:
            run.close()


class _Run:
    """One call of ``fit``."""

    def __init__(
        self, trainer: Trainer, model: nn.Module, out_dir: Path, validate: Validate | None, preview: Preview | None
    ) -> None:
        self.trainer, self.plain_model, self.out_dir = trainer, model, out_dir
        self.validate, self.preview = validate, preview
        self.accelerator, self.ranks = trainer.accelerator, trainer.ranks
        self.checkpoints = Checkpoints(out_dir / "checkpoints", trainer.saving.keep)
        self.log = RunLog(out_dir, trainer.logging.tracking, trainer.is_main, self.ranks.count)
        self.saved: int | None = None
        self.bar: tqdm[Any] | None = None

    def start(self, dataset: KeyedDataset, resume: bool, config: Mapping[str, Any], signals: Signals) -> None:
        """Check the run folder, set up model and optimizer, and load the checkpoint to continue from."""
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
            checkpoint = self.checkpoints.folder / f"step_{step:06d}"
            if step >= 0:  # before the model is sharded
                load_weights(self.plain_model, checkpoint)
            self.updater = Updater(self.trainer, self.plain_model)
            self.state, self.records = self.updater.state, self.updater.records
            if step >= 0:
                self.state.load(checkpoint)
                self.saved = step
            if self.trainer.is_main:
                self.checkpoints.drop_after(step)
                if step >= 0 and self.state.best_step == step:  # killed between the checkpoint and its link
                    self.checkpoints.point("best", checkpoint)
                self.log.start(config, self.state.step)

    def train(self, dataset: KeyedDataset, collate: Callable[[list[Any]], Any]) -> None:
        """The loop: in each turn load, agree with the other processes, update, log, save."""
        trainer, state = self.trainer, self.state
        workers = trainer.num_workers
        if workers is None:
            workers = default_workers(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        order = Order(len(dataset), trainer.batch_size, trainer.seed)
        steps, pin = (state.step, trainer.max_steps), self.accelerator.device.type == "cuda"
        self.bar = self._new_bar()
        # Closing ends the workers; otherwise they would go on after an exception, since signals don't end them.
        with closing(batches(dataset, collate, order, trainer.share, steps, workers, pin)) as data:
            if state.unseen:
                self._look_again(epoch=(state.step * trainer.batch_size) // len(dataset))
            while state.step < trainer.max_steps:
                with self.ranks.together(self.signals) as agreed, self.records.waiting():
                    micro_batches = [next(data) for _ in range(trainer.share.accumulation)]
                if agreed.signal:
                    self._check_finite()
                    self._save({})
                    raise Interrupted(agreed.signal)
                self.updater.update(micro_batches)
                self._after_step(epoch=(state.step * trainer.batch_size) // len(dataset))
        self.ranks.stop_if_told(self.signals)  # all is saved, but the last validation may have been cut short

    def _after_step(self, epoch: int) -> None:
        trainer, step = self.trainer, self.state.step
        assert self.bar is not None
        self.bar.update()
        last = step == trainer.max_steps
        saves = last or step % trainer.saving.every == 0
        looks = saves and (self.validate or self.preview) is not None
        logs = last or step == 1 or step % trainer.logging.every == 0 or looks
        if saves or logs:
            self._check_finite()
        found = self._look() if looks else {}
        if logs:
            row = self.records.row(self.state.flops)
            with self.ranks.together():
                self._log(epoch, row, found)
            if self.updater.alarm.due(self.state.step):
                self.updater.alarm.listen(self.state.step, self.records.recent(), trainer.is_main)
        if saves:
            self._save(found)

    def _check_finite(self) -> None:
        if problem := self.records.problem():
            self.ranks.fail(problem)

    def _look(self) -> dict[str, float]:
        """Validate and draw, on the main process."""
        found: dict[str, float] = {}
        with self.records.paused():
            weights = self.state.weights(self.trainer.is_main)
            self.state.unseen = True
            with self.ranks.together(), self.signals.abandoning(), torch.no_grad():
                self.signals.abandon_if_told()
                if self.trainer.is_main:
                    model = self.state.evaluated(weights)
                    if self.validate is not None:
                        found = self._validate(self.validate, model)
                    if self.preview is not None:
                        folder = self.out_dir / "pictures" / f"step_{self.state.step:06d}"
                        folder.mkdir(parents=True, exist_ok=True)
                        self.log.show(self.state.step, self.preview(model, folder))
                self.state.unseen = False
        return found

    def _look_again(self, epoch: int) -> None:
        """Validate the checkpoint that this run continues from, if a signal interrupted its validation."""
        found = self._look()
        with self.ranks.together():
            self.log.write({"step": self.state.step, "epoch": epoch, **found})
        self.saved = None
        self._save(found)

    def _validate(self, validate: Validate, model: nn.Module) -> dict[str, float]:
        found = {name: float(value) for name, value in validate(model, self.state.step).items()}
        metric = self.trainer.saving.metric
        if metric is not None and metric not in found:
            raise ValueError(f"saving.metric={metric} is not among the validation results; choose from {sorted(found)}")
        return found

    def _log(self, epoch: int, row: dict[str, float], found: Mapping[str, float]) -> None:
        trainer, done = self.trainer, self.state.step - 1
        row["loss"] = self.updater.total(row, done)
        row["lr"] = trainer.optimization.lr_at(done, trainer.schedule_steps)
        if trainer.optimization.max_skipped:
            row["skipped"] = self.state.skipped
        self.log.write({"step": done + 1, "epoch": epoch, **row, **found})
        assert self.bar is not None
        shown = {"loss": f"{row['loss']:.4g}", "frames_s": f"{row['frames_per_s']:.3g}"}
        self.bar.set_postfix(shown | ({"mfu": f"{row['mfu']:.1%}"} if "mfu" in row else {}))

    def _save(self, found: Mapping[str, float]) -> None:
        if self.saved == self.state.step:
            return
        with self.records.paused():
            weights, tensors = (part(self.trainer.is_main) for part in (self.state.weights, self.state.tensors))
            with self.ranks.together():
                if self.trainer.is_main:
                    self._write_checkpoint(found, weights, tensors)
        self.saved = self.state.step

    def _write_checkpoint(
        self, found: Mapping[str, float], weights: dict[str, Tensor], tensors: dict[str, Tensor]
    ) -> None:
        state, saving = self.state, self.trainer.saving
        value = found.get(saving.metric) if saving.metric is not None else None
        better = value is not None and saving.improves(value, state.best)
        if better:
            state.best, state.best_step = value, state.step
        frozen = {name: weights.pop(name) for name in state.frozen}
        path = self.checkpoints.save(
            state.step, lambda folder: state.model.save_pretrained(folder, weights), frozen, tensors, state.plain()
        )
        if better:
            self.checkpoints.point("best", path)

    def _new_bar(self) -> tqdm[Any]:
        tty = sys.stderr.isatty()
        return tqdm(
            total=self.trainer.max_steps,
            initial=self.state.step,
            unit="step",
            desc=self.out_dir.name,
            disable=not (self.trainer.is_main and self.trainer.logging.bar),
            mininterval=0.5 if tty else 30.0,
            dynamic_ncols=tty,
        )

    def close(self) -> None:
        """Close the progress bar and the tracker."""
        if self.bar is not None:
            self.bar.close()
        self.log.close()
