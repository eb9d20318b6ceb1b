"""Measure everything and keep it.

python scripts/benchmark.py out_dir=runs/benchmark              # CPU; make bench writes to benchmarks/results
python scripts/benchmark.py device=cuda name=h100               # GPU

Each section runs in a process of its own, so that its memory is its own. Writes <out_dir>/<name>.json and .md; sections
that are in the file already stay there unless they are measured again.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from _main import entry
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

ROOT = Path(__file__).parents[1]


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
    """The model of an experiment of train_video.py, as plain data; the encoder's weights don't matter for time."""
    return untrained(composed(name).model).config


def composed(name: str) -> DictConfig:
    """An experiment of train_video.py, with a system if the name ends with +<system>."""
    experiment, _, system = name.partition("+")
    words = [f"experiment/train_video={experiment}", "data.root=none", "out_dir=none"]
    return compose("train_video", [*words, f"system={system}"] if system else words)


def untrained(model: DictConfig) -> Any:
    """A configured model without values, and with nothing that is trained or downloaded before it."""
    for frozen in ("encoder", "backbone"):
        if "weights" in list(model.get(frozen) or ()):  # also where the value is missing
            model[frozen].weights = "random"
    if "guide" in model:
        model.guide = None
    with torch.device("meta"):
        return instantiate(model)


def training(name: str, needs: list[str]) -> dict[str, Any]:
    """A ``benchmarks.cost.Training`` as plain data; a tokenizer that the objective reads is the first of ``needs``."""
    cfg = composed(name)
    guided = cfg.model.get("guide") is not None
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


def about(cfg: DictConfig) -> dict[str, str]:
    """Command, commit, versions and device."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    # What this script writes is no change of what it measures.
    results = [f":(exclude){cfg.out_dir}"] if (ROOT / cfg.out_dir).resolve().is_relative_to(ROOT) else []
    status = [*git, "status", "--porcelain", "-uno", "--", ".", *results]
    changed = subprocess.run(status, capture_output=True, text=True).stdout
    if cfg.device.startswith("cuda"):
        device = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
        device = f"{model}, {cfg.threads} threads of {os.cpu_count()}"
    return {
        "command": "python " + shlex.join(sys.argv),
        "commit": commit + (" with local changes" if changed else ""),
        "device": device,
        "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}, timm {timm.__version__}",
    }


def table(sections: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Benchmarks", ""]
    lines += ["What the columns mean: `benchmarks/measure.py`. Times are medians; the fraction is of the fastest turn."]
    for name, section in sections.items():
        ceilings = section["ceilings"]
        found = ", ".join(f"{key} {value / 1e9:.0f} GFLOP/s" for key, value in ceilings.items() if key != "copy")
        lines += ["", f"## {name}", "", *(f"- {key}: {value}" for key, value in section["about"].items())]
        lines += [f"- ceilings: {found}, copy {ceilings['copy'] / 1e9:.1f} GB/s"]
        group = None
        for row in section["rows"]:
            if row["group"] != group:
                group = row["group"]
                lines += ["", f"### {group}", "", "| | ms a call | a second | x first | GFLOP | GB | reached | MB |  |"]
                lines += ["|---|---|---|---|---|---|---|---|---|"]
            counted = [f"{row[key] / 1e9:.2f}" if row[key] else "" for key in ("operations", "bytes")]
            reached = f"{row['least'] / row['fastest']:.2f}" if row["least"] else ""
            timed = row["seconds"] is not None
            taken = f"{row['seconds'] * 1e3:.4g}" if timed else ""
            memory = "" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
            rate = f"{row['units'] / row['seconds']:.4g} {row['unit']}" if timed else ""
            ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
            cells = [row["name"], taken, rate, ratio, *counted, reached, memory]
            lines += [f"| {' | '.join(cells)} | {row['note']} |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
