"""Measure everything and keep it.

python scripts/benchmark.py out_dir=runs/benchmark              # CPU; make bench writes to benchmarks/results
python scripts/benchmark.py device=cuda name=h200               # GPU

Each section runs in its own process, so that memory is measured separately. Writes <out_dir>/<name>.json and .md;
sections that the files have already stay there unless they are measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import torch
from _main import entry
from _measured import ROOT, about, table
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm


@entry("benchmark")
def main(cfg: DictConfig) -> None:
    """Run ``cfg.sections`` and write the tables."""
    known = compose("benchmark").sections
    if unknown := [name for name in cfg.sections if name not in known]:
        raise ValueError(f"there is no section {unknown[0]!r}; choose from {', '.join(known)}")
    settings = {"device": cfg.device, "threads": cfg.threads, "rounds": cfg.rounds, "seconds": cfg.seconds}
    settings["models"] = {name: model_config(name) for name in cfg.models}
    settings["trainings"] = {name: training(name, list(needs)) for name, needs in cfg.cost.items()}
    out = ROOT / cfg.out_dir
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{cfg.name}.json"
    sections: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in tqdm(list(cfg.sections), unit="section"):
        load = f"{os.getloadavg()[0]:.1f} processes at the start"
        sections[name] = {"about": {**about(cfg), "load": load}, **run(name, settings)}
        file.write_text(json.dumps(sections, indent=1) + "\n")
        file.with_suffix(".md").write_text(table(sections))
    print(table({name: sections[name] for name in cfg.sections}))


def model_config(name: str) -> dict[str, Any]:
    """The model of an experiment of train_video.py, as plain data; it has no weights, which don't change times."""
    return untrained(composed(name).model).config


def composed(name: str) -> DictConfig:
    """The config of an experiment of train_video.py, with a system if the name ends with +<system>."""
    experiment, _, system = name.partition("+")
    words = [f"experiment/train_video={experiment}", "data.root=none", "out_dir=none"]
    return compose("train_video", [*words, f"system={system}"] if system else words)


def untrained(model: DictConfig) -> Any:
    """A configured model without values, and without anything that must be trained or downloaded first."""
    for frozen in ("encoder", "backbone"):
        if "weights" in list(model.get(frozen) or ()):  # also if the value is missing
            model[frozen].weights = "random"
    if "guide" in model:
        model.guide = None
    if "moments" in model.get("objective", {}):
        model.objective.moments = None
    with torch.device("meta"):
        return instantiate(model)


def training(name: str, needs: list[str]) -> dict[str, Any]:
    """A ``benchmarks.cost.Training`` as plain data; a tokenizer that the objective needs is the first of ``needs``."""
    cfg = composed(name)
    guided = "checkpoint" in list(cfg.model.get("guide") or ())  # also if the value is missing
    if "tokenizer" in cfg.model.get("objective", {}):
        tokenizer: Any = OmegaConf.to_container(composed(needs[0]).model, resolve=True)
        cfg.model.objective.tokenizer = {**tokenizer, "backbone": None}
    model = untrained(cfg.model)
    return {
        "model": model.config,
        "steps": cfg.max_steps,
        "batch": cfg.trainer.batch_size,
        "frames": cfg.data.clip.num_frames,
        "side": cfg.data.size[0],
        "boxes": 20 if getattr(model, "takes_boxes", False) else 0,
        "precision": cfg.trainer.precision,
        "needs": needs,
        "guided": guided,
    }


def run(section: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Rows and ceilings of one section."""
    command = [sys.executable, "-m", "benchmarks", section]
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])}
    done = subprocess.run(
        command, input=json.dumps(settings), stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    if done.returncode:
        raise ValueError(f"section {section} failed; see above")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
