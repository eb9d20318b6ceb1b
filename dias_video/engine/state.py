"""Everything that changes in training, and how it is saved to a checkpoint and loaded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dias_video.engine.checkpoint import read_state
from dias_video.engine.sharding import local, part_of, whole
from dias_video.machine.memory import lack_of_memory
from dias_video.pretrained.configured import build
from dias_video.pretrained.saving import Pretrained

RAW, AVERAGE_WARMUP = "raw/", 10


class TrainingState:
    """Weights, their average, optimizer, loss scaler, step, counts and the best validation result.

    Random generators are not a part of it: ``seed_generators`` seeds them in every step. Weights, average and optimizer
    may be sharded; saved tensors are always whole.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: float | None, scaler: Any) -> None:
        assert isinstance(model, Pretrained), "a trained model must be Pretrained, to be saved with its configuration"
        self.model, self.optimizer, self.ema, self.scaler = model, optimizer, ema, scaler
        self.step = 0
        self.best: float | None = None  # validation result
        self.best_step: int | None = None
        self.unseen = False  # whether a signal interrupted the validation of this step
        self.skipped = 0  # updates left out because a loss was not finite
        self.flops: int | None = None  # operations of a sample, forward and backward; counted in the first step
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        self.average = self._copies() if ema is not None else {}

    def _copies(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def count_step(self) -> None:
        """Count an update and update the average, whose decay is smaller in the first steps."""
        self.step += 1
        if self.ema is not None:
            decay = min(self.ema, (1 + self.step) / (AVERAGE_WARMUP + self.step))
            average, trained = ([local(p) for p in group.values()] for group in (self.average, self.trained))
            torch._foreach_lerp_(average, trained, 1 - decay)

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """Count the operations of a sample, once in a run; inside the block ``samples`` go forward and backward."""
        if self.flops is not None:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode  # brings Triton

        # Compiled code would hide its operations.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            yield
        self.flops = counter.get_total_flops() // samples

    def weights(self, keep: bool) -> dict[str, Tensor]:
        """The model's whole state on the CPU, with averaged weights if the run averages; see ``sharding.whole``."""
        return whole(self.model.state_dict() | self.average, keep)

    def evaluated(self, weights: dict[str, Tensor]) -> nn.Module:
        """A copy of the model with whole ``weights``, in evaluation mode."""
        copy: nn.Module = build(self.model.config)
        copy.load_state_dict(weights)
        return copy.to(next(iter(self.trained.values())).device).eval()

    def tensors(self, keep: bool) -> dict[str, Tensor]:
        """Optimizer state by parameter name, and the raw weights where the model's file holds averages."""
        out = {}
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                out[f"{key}/{name}"] = torch.as_tensor(value)
        if self.average:
            out |= {RAW + name: p for name, p in self.trained.items()}
        return whole(out, keep)

    def plain(self) -> dict[str, Any]:
        """The part of the state that is written as json."""
        scaler = self.scaler.state_dict() if self.scaler is not None else None
        found = {"best": self.best, "best_step": self.best_step, "unseen": self.unseen}
        return {**found, "skipped": self.skipped, "flops": self.flops, "scaler": scaler}

    @torch.no_grad()
    def load(self, checkpoint: Path) -> None:
        """Load everything but the weights from a checkpoint; the model has the weights already.

        Raises:
            ValueError: the checkpoint belongs to another model or is damaged.
        """
        tensors, state = read_state(checkpoint)
        if self.average:
            self.average = self._copies()
        try:
            self._load_optimizer({k: v for k, v in tensors.items() if not k.startswith(RAW)}, checkpoint)
            for key, value in tensors.items():
                if key.startswith(RAW):
                    parameter = self.trained[key.removeprefix(RAW)]
                    parameter.copy_(part_of(value, parameter))
            if self.scaler is not None and state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            self._load_plain(state)
        except (KeyError, TypeError, RuntimeError, AttributeError) as error:
            if lack_of_memory(error) is not None:  # the checkpoint is whole
                raise
            reason = " ".join(repr(error).split())
            raise ValueError(
                f"{checkpoint} can't be resumed from ({reason}); delete it to use the one before"
            ) from error

    def _load_plain(self, state: dict[str, Any]) -> None:
        # Checkpoints of older versions have only the first two.
        step, best, best_step = state["step"], state["best"], state.get("best_step")
        skipped, flops = state.get("skipped", 0), state.get("flops")
        whole_numbers = (step, skipped, *(n for n in (best_step, flops) if n is not None))
        if any(type(n) is not int for n in whole_numbers) or not isinstance(best, (int, float, type(None))):
            raise TypeError("trainer.json holds something else where numbers are expected")
        self.step, self.best, self.best_step, self.skipped, self.flops = step, best, best_step, skipped, flops
        self.unseen = bool(state.get("unseen", False))

    def _load_optimizer(self, tensors: dict[str, Tensor], checkpoint: Path) -> None:
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, name = key.split("/", 1)
            by_name.setdefault(name, {})[kind] = value
        if unknown := by_name.keys() - self.trained.keys():
            raise ValueError(
                f"{checkpoint} trained {sorted(unknown)[0]}, which this run does not; resume with the same settings"
            )
        order = {id(p): i for i, p in enumerate(chain(*(g["params"] for g in self.optimizer.param_groups)))}
        state = {
            order[id(self.trained[name])]: {
                kind: part_of(v, self.trained[name]) if v.ndim else v for kind, v in values.items()
            }
            for name, values in by_name.items()
        }
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


def seed_generators(seed: int, step: int, process: int) -> None:
    """Seed the global generators for a step, for models that draw from them (dropout)."""
    number = int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0])
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - it is the global generator that has to be seeded
