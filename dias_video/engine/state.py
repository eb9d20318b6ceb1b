"""Everything that changes while training, and its way into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dias_video.engine.checkpoint import read_state
from dias_video.pretrained import Configured, load_weights

RAW, AVERAGE_WARMUP = "raw/", 10


class TrainingState:
    """Weights, their average, the optimizer, the loss scaler, the step and the best validation result.

    Random generators are not among it: they are seeded anew in every step, from the run's seed and the step.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: float | None, scaler: Any) -> None:
        assert isinstance(model, Configured), "a trained model must be Configured, to be saved with its configuration"
        self.model, self.optimizer, self.ema, self.scaler = model, optimizer, ema, scaler
        self.step = 0
        self.best: float | None = None
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = self._copies() if ema is not None else {}

    def _copies(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def count_step(self) -> None:
        """Count an update and follow it with the average (a shorter memory in the first steps)."""
        self.step += 1
        if self.ema is not None:
            decay = min(self.ema, (1 + self.step) / (AVERAGE_WARMUP + self.step))
            torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[Configured]:
        """The model with its averaged weights, if the run averages; with the current ones otherwise."""
        raw = self._copies() if self.average else {}
        self._put(self.average)
        try:
            yield self.model
        finally:
            self._put(raw)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.trained[name].copy_(value)

    def write_model(self, folder: Path) -> None:
        """``config.json`` and ``model.safetensors``, with averaged weights if the run averages."""
        with self.averaged() as model:
            model.save_pretrained(folder)

    def tensors(self) -> dict[str, Tensor]:
        """Optimizer state by parameter name, and the raw weights where the model's file holds averages."""
        out = {}
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                out[f"{key}/{name}"] = torch.as_tensor(value)
        if self.average:
            out |= {RAW + name: p for name, p in self.trained.items()}
        return {key: value.detach().cpu().contiguous() for key, value in out.items()}

    def plain(self) -> dict[str, Any]:
        """The part of the state that fits into json."""
        return {"best": self.best, "scaler": self.scaler.state_dict() if self.scaler is not None else None}

    def load(self, checkpoint: Path) -> None:
        """Take over everything from a checkpoint.

        Raises:
            ValueError: the checkpoint is of another model or is damaged.
        """
        load_weights(self.model, checkpoint / "model.safetensors")
        tensors, state = read_state(checkpoint)
        if self.average:
            self.average = self._copies()
        self._put({key.removeprefix(RAW): value for key, value in tensors.items() if key.startswith(RAW)})
        self._load_optimizer({key: value for key, value in tensors.items() if not key.startswith(RAW)}, checkpoint)
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]

    def _load_optimizer(self, tensors: dict[str, Tensor], checkpoint: Path) -> None:
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, name = key.split("/", 1)
            by_name.setdefault(name, {})[kind] = value
        if unknown := by_name.keys() - self.trained.keys():
            raise ValueError(
                f"{checkpoint} trained {sorted(unknown)[0]}, which this run does not; resume with the same settings"
            )
        places = {name: place for place, name in enumerate(self.trained)}
        state = {places[name]: value for name, value in by_name.items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
