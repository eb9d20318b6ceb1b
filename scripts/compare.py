"""Train and score the rows of a table, one after the other; what is done is not done again.

A folder of rows belongs to one set of options: others are refused.

python scripts/compare.py root=data/toss-A encoder=hub features=runs/features out_dir=runs/rows seeds=[0,1]
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _main import entry
from omegaconf import DictConfig, OmegaConf

from dias_video.evaluation.results import METRICS, VIDEOS
from dias_video.model.dias import MASK_SOURCES
from dias_video.stores.files import read_json, replace_file, write_json
from dias_video.stores.store import differences
from slotformer.statistics import interval

MEASURES = ("video-fg/fg_ari", "video-fg/mbo", "video-fg/miou", "ocb/ari", "ocb/mbo", "ocb/miou")
COMPARED = ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari")  # beside the first row, video by video
OPTIONS = ("root", "encoder", "features", "after", "train", "evaluate")  # of every row


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
    words = [f"experiment=rows/{row}", f"data.root={cfg.root}", f"seed={seed}", "resume=true", *cfg.train]
    words += [f"model.encoder.weights={cfg.encoder}", f"data.features.path={cfg.features}"]
    if row in cfg.after:
        other, *options = cfg.after[row]
        end = train(cfg, other, seed) / "checkpoints/last"
        words += [option.format(end) for option in options]
    run("train_video", *words, f"out_dir={folder}")
    return folder


def score(cfg: DictConfig, row: str, seed: int) -> Iterator[tuple[dict[str, Any], Path]]:
    """One row's checkpoints with either kind of masks: what they are and how they score, and the folder of the scores.

    Trained and scored here unless that is there already.
    """
    folder = train(cfg, row, seed)
    for checkpoint in sorted((folder / "checkpoints").glob("step_*")):
        for masks in MASK_SOURCES:
            scored = folder / "eval" / f"{checkpoint.name}_{masks}"
            if not (scored / METRICS).is_file():
                words = [f"checkpoint={checkpoint}", f"mask_source={masks}", f"data.root={cfg.root}"]
                words.append("data.eval.split=toss/test")
                run(
                    "evaluate", "baselines=[]", "tracking=false", "report=0", *words, *cfg.evaluate, f"out_dir={scored}"
                )
            found = read_json(scored / METRICS, "remove it, and it is made again")
            about = {"row": row, "seed": seed, "step": int(checkpoint.name.removeprefix("step_")), "mask_source": masks}
            yield about | {name: found[name] for name in MEASURES}, scored


def by_video(folder: Path) -> dict[str, list[float]]:
    """The ``COMPARED`` measures of every video; NaN where one has none."""
    with (folder / VIDEOS).open(newline="") as file:
        return {line["video_id"]: [float(line[name] or "nan") for name in COMPARED] for line in csv.DictReader(file)}


def worth(first: list[Path], other: list[Path]) -> list[str]:
    """How much more ``other`` scores than ``first``, seed by seed: means with 95 % intervals over videos."""
    columns = []
    for one, two in zip(map(by_video, first), map(by_video, other), strict=True):
        columns.append([np.subtract(two[name], one[name]) for name in one])
    means = interval(np.mean(columns, 0))
    return [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in means.T]


def cell(values: list[float]) -> str:
    """Mean, and the standard deviation over several seeds."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def table(scores: Mapping[tuple[str, str], list[dict[str, Any]]], folders: Mapping[tuple[str, str], list[Path]]) -> str:
    """The rows' ends in Markdown, and how much more they score than the first row with the same kind of masks."""
    gains = [f"{name}, more than {next(iter(scores))[0]}" for name in COMPARED]
    lines = [["row", "mask_source", *MEASURES, *gains], ["---"] * (2 + len(MEASURES) + len(gains))]
    first = next(iter(scores))[0]
    for (row, masks), ends in scores.items():
        cells = [cell([end[name] for end in ends]) for name in MEASURES]
        more = [""] * len(gains) if row == first else worth(folders[first, masks], folders[row, masks])
        lines.append([row, masks, *cells, *more])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@entry("compare")
def main(cfg: DictConfig) -> None:
    """Make the table of ``cfg.rows`` and the scores on the way, rewritten after every row."""
    out_dir = Path(cfg.out_dir)
    steps: list[dict[str, Any]] = []
    ends: dict[tuple[str, str], list[dict[str, Any]]] = {}
    folders: dict[tuple[str, str], list[Path]] = {}
    for row in cfg.rows:
        for seed in cfg.seeds:
            last: dict[str, tuple[dict[str, Any], Path]] = {}
            for found, folder in score(cfg, row, seed):
                steps.append(found)
                last[found["mask_source"]] = (found, folder)
            for masks, (found, folder) in last.items():
                ends.setdefault((row, masks), []).append(found)
                folders.setdefault((row, masks), []).append(folder)
        replace_file(out_dir / "scores.csv", lambda file: write_rows(file, steps))
        (out_dir / "table.md").write_text(table(ends, folders) + "\n")
    print(table(ends, folders))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as csv."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
