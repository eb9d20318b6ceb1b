"""A model, a data set and a run that train in a blink. ``python tests/toy.py out_dir [key=json ...]`` runs it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.engine.checkpoint import Saving
from dias_video.engine.loop import Trainer
from dias_video.engine.runlog import Logging
from dias_video.engine.schedule import Optimization
from dias_video.machine.ranks import Interrupted
from dias_video.pretrained.saving import Pretrained


class Toy(Pretrained, nn.Module):
    """(B,3) -> two loss terms; draws noise, drops units and leaves one parameter unused."""

    def __init__(self, width: int = 7, double: bool = False, slow: float = 0.0, bad_step: int = -1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
        self.drop = nn.Dropout(0.2)
        self.idle = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        self.slow, self.bad_step, self.updates, self.dropping = slow, bad_step, 0, False
        if double:
            self.double()

    def forward(self, batch: Numbers, draws: Draws) -> dict[str, Tensor]:
        self.updates += 1
        time.sleep(self.slow)
        noise = draws.normal(3).to(batch.x)
        hidden = self.net(batch.x + 0.1 * noise)
        if self.dropping:
            hidden = self.drop(hidden)
        error = (hidden - batch.x[:, :2].sin()).square().mean(1)
        if self.updates == self.bad_step:
            error = error * torch.tensor([float("nan")] + [1.0] * (len(error) - 1))
        return {"fit": error, "size": hidden.square().mean(1)}


@dataclass
class Numbers:
    x: Tensor  # (B,3)
    video_id: list[str]

    def to(self, device: torch.device) -> Numbers:
        return Numbers(self.x.to(device), self.video_id)

    @classmethod
    def stack(cls, samples: list[tuple[Tensor, str]]) -> Numbers:
        return cls(torch.stack([x for x, _ in samples]), [name for _, name in samples])


class Points:
    """Sample (epoch, index): a point of its own, named after both."""

    def __init__(self, count: int = 11, double: bool = False, missing: int = -1, kill: int = -1) -> None:
        self.count, self.dtype, self.missing, self.kill = (
            count,
            torch.float64 if double else torch.float32,
            missing,
            kill,
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, str]:
        epoch, index = key
        if index == self.missing and epoch > 0:
            raise FileNotFoundError(f"clips/{index}.mp4 is gone")
        if index == self.kill and epoch > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        return torch.randn(3, generator=generator, dtype=self.dtype), f"clip{index}/{epoch}"


def train(out_dir: str | Path, resume: bool = False, **options: Any) -> Path:
    """One toy run; ``options`` are those of the trainer, the model and the data, by name."""

    def take(**defaults: Any) -> dict[str, Any]:
        return {name: options.pop(name, value) for name, value in defaults.items()}

    double = options.pop("double", False)
    torch.manual_seed(options.get("seed", 3))
    dropping, processes = options.pop("dropping", False), options.pop("processes", None)
    model = Toy(**take(width=7, slow=0.0, bad_step=-1), double=double)
    model.dropping = dropping
    points = Points(**take(count=11, missing=-1, kill=-1), double=double)
    trainer = Trainer(
        optimization=Optimization(
            **take(lr=0.05, clip=1.0, weight_decay=0.0, schedule_steps=None, max_skipped=0, parts={})
        ),
        saving=Saving(**take(every=1000, keep=2, metric=None)),
        logging=Logging(**{"every": options.pop("log_every", 1), **take(tracking="none", peak_tflops=None)}),
        **{"max_steps": 4, "batch_size": 4, "seed": 3, "num_workers": 0, **options},
    )
    assert processes in (None, trainer.accelerator.num_processes), "fewer processes than were asked for"
    return trainer.fit(model, points, Numbers.stack, out_dir, resume=resume, config={"toy": options})


if __name__ == "__main__":
    given = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in sys.argv[2:])}
    try:
        train(sys.argv[1], **given)
    except Interrupted as interrupted:  # as scripts do
        interrupted.leave()
    except (ValueError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr, flush=True)
        sys.exit(1)
