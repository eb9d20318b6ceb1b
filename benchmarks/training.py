"""The training step: ours and the plain one of the same model, with and without encoder; and where its time goes."""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.loader import write_movi
from benchmarks.measure import Bench, Row, Work
from benchmarks.plain import Plain
from dias_video.batch import VideoBatch
from dias_video.data.loading import ClipDataset
from dias_video.data.movi import MoviVideos
from dias_video.data.transforms import ClipTransform
from dias_video.draws import Draws
from dias_video.engine.loop import Trainer
from dias_video.engine.runlog import Logging
from dias_video.engine.schedule import Optimization
from dias_video.engine.update import Updater
from dias_video.machine.precision import autocast
from dias_video.model.dias import DIAS, Scan
from dias_video.model.losses import distillation_loss, match_regions, reconstruction_loss
from dias_video.pretrained.configured import build

LOADED = 8  # videos on the disk


@dataclass(frozen=True)
class Setting:
    """What a model is trained on. A CPU gets a smaller batch; the work grows with the batch on every device."""

    frames: int
    boxes: int  # 0: none
    side: int  # of frames, in pixels
    batch: int
    batch_on_cpu: int


SETTINGS = {
    "movi_d": Setting(frames=6, boxes=20, side=256, batch=8, batch_on_cpu=1),
    "ytvis": Setting(frames=5, boxes=0, side=256, batch=8, batch_on_cpu=1),
    "demo": Setting(frames=4, boxes=6, side=128, batch=4, batch_on_cpu=4),
}


def run(bench: Bench) -> list[Row]:
    """Comparisons and a breakdown for every model of ``bench.models``."""
    rows = []
    for name, config in bench.models.items():
        setting = SETTINGS[name]
        torch.manual_seed(0)
        model: DIAS = build(config).to(bench.device).train()
        batch = clips(setting, setting.batch if bench.cuda else setting.batch_on_cpu, bench.device)
        rows += comparison(bench, name, model, batch) + breakdown(bench, name, model, batch)
    return rows


def clips(setting: Setting, batch: int, device: str) -> VideoBatch:
    """Random clips; a video of noise costs what any other does."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, setting.frames, setting.side, setting.side)
    corners = torch.rand(batch, setting.frames, setting.boxes, 2, 2, generator=generator).sort(-2).values
    index = torch.arange(setting.frames).expand(batch, -1)
    return VideoBatch(
        video=torch.randint(0, 256, (*shape[:2], 3, *shape[2:]), generator=generator, dtype=torch.uint8),
        video_id=[f"clip{i}" for i in range(batch)],
        frame_index=index,
        frame_valid=torch.ones_like(index, dtype=torch.bool),
        masks=torch.randint(0, 1 + (setting.boxes or 4), shape, generator=generator, dtype=torch.int16),
        boxes=corners.flatten(-2) if setting.boxes else None,
        box_valid=torch.ones(batch, setting.frames, setting.boxes, dtype=torch.bool) if setting.boxes else None,
    ).to(device)


class Ours:
    """The step that ``dias_video.engine`` takes."""

    def __init__(self, model: DIAS, batch_size: int, precision: str = "fp32", compiled: str = "") -> None:
        settings = Optimization(lr=5e-5, clip=0.05)
        trainer = Trainer(1_000_000, batch_size, 0, settings, precision=precision, compile=compiled == "model")
        self.model = copy.deepcopy(model)
        if compiled == "aggregator":  # small operators alone, one graph a frame
            self.model.aggregator.compile(fullgraph=True)
        self.updater = Updater(trainer, self.model)

    def step(self, batch: VideoBatch) -> None:
        """One update; losses stay on the device."""
        self.updater.update([batch])


def comparison(bench: Bench, name: str, model: DIAS, batch: VideoBatch) -> list[Row]:
    """Steps a second. Public code's mixed precision is float16 on CUDA and nothing on a CPU."""
    usual = torch.float16 if bench.cuda else None
    cached = replace(batch, features=model.features(batch))
    plain = {"plain, " + ("float16" if usual else "float32"): Plain(copy.deepcopy(model), usual)}
    if not usual:
        plain["plain, bfloat16"] = Plain(copy.deepcopy(model), torch.bfloat16)
    ours = {
        f"ours, {word}{more}": (Ours(model, len(batch), precision), data)
        for more, data in (("", batch), (", cached features", cached))
        for word, precision in (("float32", "fp32"), ("bfloat16", "bf16"))
    }
    if bench.cuda or name == "demo":  # a CPU compiles the large models for minutes
        for part in ("model", "aggregator"):
            ours[f"ours, bfloat16, compiled {part}"] = (Ours(model, len(batch), "bf16", part), batch)
    draws = Draws.for_step(0, 0, range(len(batch)), device=bench.device)
    contestants: dict[str, Work] = {key: (lambda p=p: p.step(batch, draws)) for key, p in plain.items()}
    contestants |= {key: (lambda o=o, data=data: o.step(data)) for key, (o, data) in ours.items()}
    return bench.compare(f"training step, {name}, batch {len(batch)}", contestants, batch.frame_valid.numel())


def breakdown(bench: Bench, name: str, model: DIAS, batch: VideoBatch) -> list[Row]:
    """Parts of our bfloat16 step, each alone, forward and backward; the first row is the whole step."""
    ours = Ours(model, len(batch), "bf16")
    model = ours.model
    draws = lambda: Draws.for_step(0, 0, range(len(batch)), device=bench.device)  # noqa: E731
    with autocast("bf16", bench.device):
        features = model.features(batch)
        with torch.no_grad():
            scan = model.scan(batch, features, draws())
            decoded = model.decoder(scan.slots, scan.live, features, draws())
    slots, first, predicted = (
        x.detach().float().requires_grad_() for x in (scan.slots, scan.first.flatten(-2), decoded.reconstruction)
    )
    last = scan.attention.flatten(-2)  # (B,T,S,N)
    counted = decoded.scored & batch.frame_valid[..., None]

    def back(output: Tensor) -> None:
        output.float().square().mean().backward()

    def aggregation() -> None:
        with autocast("bf16", bench.device):
            found = model.scan(batch, features, draws())
        back(torch.cat([found.slots.flatten(), found.first.flatten()]))

    def decoding() -> None:
        with autocast("bf16", bench.device):
            found = model.decoder(slots, scan.live, features, draws())
        back(found.reconstruction)

    def losses() -> None:
        terms = reconstruction_loss(predicted, features, counted)
        if model.teacher is not None:
            terms = terms + distillation_loss(first, last, scan.live, model.teacher, batch.frame_valid)
        terms.mean().backward()

    def optimizer() -> None:
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.05)
        ours.updater.optimizer.step()

    def encoder() -> None:
        with autocast("bf16", bench.device):
            model.features(batch)

    parts: dict[str, Callable[[], object]] = {
        "the whole step": lambda: ours.step(batch),
        "encoder": encoder,
        "projection and aggregation": aggregation,
        "decoding": decoding,
        "losses": losses,
        "of them the matching, on the host": lambda: matching(first, scan),
    }
    rows = bench.compare(f"parts of the step, {name}", parts, batch.frame_valid.numel())
    back(model.decoder(slots, scan.live, features, draws()).reconstruction)
    aggregation()  # every parameter has a gradient
    units = batch.frame_valid.numel()
    alone = bench.compare(f"parts of the step, {name}", {"optimizer": optimizer}, units)
    waiting = in_trainer(bench, f"parts of the step, {name}", model, batch)
    base = rows[0].seconds
    return [*rows, *(replace(row, ratio=base / row.seconds) for row in alone), *waiting]


def matching(first: Tensor, scan: Scan) -> Tensor:
    """The Hungarian assignment of hard self-distillation."""
    on = first.amax(-1) > 0
    return match_regions(scan.attention.flatten(-2).argmax(2), first.argmax(2), scan.live, on)


class Pictures:
    """Clips of PNG files, decoded and augmented as in training."""

    def __init__(self, root: Path, batch: VideoBatch) -> None:
        side, frames = batch.video.shape[-1], batch.video.shape[1]
        source = MoviVideos(write_movi(root / "movi", LOADED, side, with_flow=False))
        transform = ClipTransform((side, side), crop_area=(0.75, 1.0), flip=0.5)
        self.clips = ClipDataset(source, frames, transform=transform)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return {k: v for k, v in self.clips[key].items() if "box" not in k}


def in_trainer(bench: Bench, group: str, model: DIAS, batch: VideoBatch) -> list[Row]:
    """A step of the training engine with files on the disk and one loading process, and how long it waits for them."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(max_steps=5, batch_size=len(batch), precision="bf16", logging=Logging(every=1), num_workers=1)
        trainer.fit(model, Pictures(Path(folder), batch), VideoBatch.stack, f"{folder}/run")
        lines = Path(folder, "run/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines][1:]  # the first one starts everything
    rows = []
    for name, key in (("in the training engine", "step_s"), ("of it waiting for data", "data_s")):
        taken = [step[key] for step in steps]
        rows.append(Row(group, name, statistics.median(taken), min(taken), batch.frame_valid.numel(), note="wall time"))
    return rows
