"""The facts about a benchmark run, and its results as a page."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]


def about(cfg: DictConfig) -> dict[str, str]:
    """Command, commit, versions and device of a benchmark run."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    # Results that this script writes don't count as local changes.
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
