"""Train and score the rows of a table, one after the other; what is done is not done again.

python scripts/compare.py root=data/toss-D encoder=runs/encoder features=runs/features out_dir=runs/rows seeds=[0,1,2]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from _main import entry
from omegaconf import DictConfig

MEASURES = ("video-fg/fg_ari", "video-fg/mbo", "video-fg/miou", "ocb/ari", "ocb/mbo", "ocb/miou")


def run(script: str, *words: str) -> None:
    """Run a script of this folder; a failure ends this one too."""
    command = [sys.executable, str(Path(__file__).parent / f"{script}.py"), *words]
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"this command failed: {' '.join(command)}")


def score(cfg: DictConfig, row: str, seed: int) -> dict[str, float]:
    """The measures of one trained row, trained and scored here unless they are there already."""
    folder = Path(cfg.out_dir) / row / f"s{seed}"
    metrics = folder / "eval" / "metrics.json"
    data = f"data.root={cfg.root}"
    if not metrics.is_file():
        words = [f"experiment=rows/{row}", data, f"seed={seed}", f"out_dir={folder}", *cfg.train]
        words += [f"model.encoder.weights={cfg.encoder}", f"data.features.path={cfg.features}"]
        if folder.is_dir():
            words.append("resume=true")
        run("train_video", *words)
        words = [f"checkpoint={folder}/checkpoints/last", data, f"out_dir={metrics.parent}", *cfg.evaluate]
        run("evaluate", "data.eval.split=toss/test", "baselines=[]", "tracking=false", *words)
    return json.loads(metrics.read_text())


def cell(values: list[float]) -> str:
    """Mean, and the standard deviation over several seeds."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


@entry("compare")
def main(cfg: DictConfig) -> None:
    """Make the table of ``cfg.rows``, rewritten after every row."""
    lines = [f"| row | {' | '.join(MEASURES)} |", "|---" * (1 + len(MEASURES)) + "|"]
    for row in cfg.rows:
        scores = [score(cfg, row, seed) for seed in cfg.seeds]
        cells = [cell([one[name] for one in scores]) for name in MEASURES]
        lines.append(f"| {row} | {' | '.join(cells)} |")
        (Path(cfg.out_dir) / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
