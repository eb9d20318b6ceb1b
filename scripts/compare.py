"""Train and score the rows of a table, one after the other; what is done is not done again.

A folder of rows belongs to one set of options: others are refused.

python scripts/compare.py root=data/toss-D encoder=runs/encoder features=runs/features out_dir=runs/rows seeds=[0,1,2]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _main import entry
from omegaconf import DictConfig, OmegaConf

from dias_video.stores.files import read_json, write_json
from dias_video.stores.store import differences

MEASURES = ("video-fg/fg_ari", "video-fg/mbo", "video-fg/miou", "ocb/ari", "ocb/mbo", "ocb/miou")
OPTIONS = ("root", "encoder", "features", "first", "after", "train", "evaluate")  # of every row


def run(script: str, *words: str) -> None:
    """Run a script of this folder; a failure ends this one too."""
    command = [sys.executable, str(Path(__file__).parent / f"{script}.py"), *words]
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"this command failed: {' '.join(command)}")


def check_same(folder: Path, options: dict[str, Any]) -> None:
    """Keep in a row's folder what it is made with, so that it is not mixed up with other options later.

    Raises:
        ValueError: it was made with others, or does not say with which.
    """
    record = folder / "options.json"
    if folder.is_dir() and any(folder.iterdir()):
        made_with = read_json(record, "remove that row's folder") if record.is_file() else {}
        if changed := differences(made_with, options):
            raise ValueError(f"{folder} is of other options ({'; '.join(changed)}); name another out_dir or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, options)


def train(cfg: DictConfig, row: str, seed: int) -> Path:
    """The run folder of one row, trained here unless it is there already."""
    folder = Path(cfg.out_dir) / row / f"s{seed}"
    check_same(folder, {name: value for name, value in OmegaConf.to_container(cfg).items() if name in OPTIONS})
    if (folder / "eval" / "metrics.json").is_file():
        return folder
    words = [f"experiment=rows/{row}", f"data.root={cfg.root}", f"seed={seed}", "resume=true", *cfg.train]
    words += [f"model.encoder.weights={cfg.encoder}", f"data.features.path={cfg.features}"]
    begin = []
    if row in cfg.after:
        other, *options = cfg.after[row]
        end = train(cfg, other, seed) / "checkpoints/last"
        begin = [option.format(end) for option in options]
    elif cfg.first:
        run("train_video", *words, *cfg.first, f"out_dir={folder}/first")
        begin = [f"checkpoint={folder}/first/checkpoints/last"]
    run("train_video", *words, *begin, f"out_dir={folder}")
    return folder


def score(cfg: DictConfig, row: str, seed: int) -> dict[str, float]:
    """The measures of one trained row, trained and scored here unless they are there already."""
    folder = train(cfg, row, seed)
    metrics = folder / "eval" / "metrics.json"
    if not metrics.is_file():
        words = [f"checkpoint={folder}/checkpoints/last", f"data.root={cfg.root}", f"out_dir={metrics.parent}"]
        run("evaluate", "data.eval.split=toss/test", "baselines=[]", "tracking=false", *words, *cfg.evaluate)
    return read_json(metrics, "remove it, and it is made again")


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
