"""Train and score the rows of a table, one after another; finished rows are not trained or scored again.

A folder of rows belongs to one set of options; other options are refused.

python scripts/compare.py root=data/toss-A encoder=hub features=runs/features out_dir=runs/rows seeds=[0,1]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _commands import CONFIGS
from _main import entry
from _table import MEASURES, curve, table
from omegaconf import DictConfig, OmegaConf

from dias_video.evaluation.results import METRICS
from dias_video.model.dias import MASK_SOURCES
from dias_video.stores.files import read_json, write_json, write_rows
from dias_video.stores.store import differences

ROWS = CONFIGS / "experiment/train_video/rows"
OPTIONS = ("root", "encoder", "features", "after", "first", "train", "own", "evaluate", "earlier")  # of every row


def run(script: str, *words: str) -> None:
    """Run a script of this folder; a failure ends this one too."""
    command = [sys.executable, str(Path(__file__).parent / f"{script}.py"), *words]
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"this command failed: {' '.join(command)}")


def check_same(folder: Path, options: dict[str, Any]) -> None:
    """Record a row's options in its folder, so that it is never continued with other options.

    Raises:
        ValueError: the folder was made with other options, or does not say with which.
    """
    record = folder / "options.json"
    if folder.is_dir() and any(folder.iterdir()):
        made_with = read_json(record, "remove that row's folder") if record.is_file() else {}
        if changed := differences(made_with, options):
            said = f"{folder} was made with other options ({'; '.join(changed)})"
            raise ValueError(f"{said}; name another out_dir or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, options)


def train(cfg: DictConfig, row: str, seed: int) -> Path:
    """The run folder of a row, which is trained here unless that is done already."""
    folder = Path(cfg.out_dir) / row / f"s{seed}"
    given = {name: value for name, value in OmegaConf.to_container(cfg).items() if name in OPTIONS}
    given["own"] = (given["own"] or {}).get(row)
    check_same(folder, {name: value for name, value in given.items() if value is not None})
    words = [f"experiment=rows/{row}", f"data.root={cfg.root}", f"seed={seed}", "resume=true", *cfg.train]
    words += [f"model.encoder.weights={cfg.encoder}", f"data.features.path={cfg.features}", *(given["own"] or ())]
    if row in cfg.after:
        other, *options = cfg.after[row]
        end = train(cfg, other, seed) / "checkpoints/last"
        words += [option.format(end) for option in options]
    begun = not cfg.first or any(word.startswith("checkpoint=") for word in words)
    for stage, more in [(folder, [])] if begun else [(folder / "first", cfg.first), (folder, [])]:
        run("train_video", *words, *more, f"out_dir={stage}")
        end = stage / f"checkpoints/step_{OmegaConf.load(stage / 'config.yaml').max_steps:06d}"
        if not end.is_dir():
            raise ValueError(f"{stage} was stopped before its last update; the same command goes on from there")
        words.append(f"checkpoint={end}")
    return folder


def score(cfg: DictConfig, row: str, seed: int) -> Iterator[tuple[dict[str, Any], Path]]:
    """The scores of a row's checkpoints with both kinds of masks, each with its description and folder.

    The row is trained and scored here unless that is done already. The test split is for the last checkpoint alone; the
    others are scored if ``cfg.earlier`` says on what.
    """
    folder = train(cfg, row, seed)
    *others, last = sorted((folder / "checkpoints").glob("step_*"))
    for checkpoint in [last] if cfg.earlier is None else [*others, last]:
        on = [] if checkpoint == last else cfg.earlier
        for masks in MASK_SOURCES:
            scored = folder / "eval" / f"{checkpoint.name}_{masks}"
            if not (scored / METRICS).is_file():
                words = [f"checkpoint={checkpoint}", f"mask_source={masks}", f"data.root={cfg.root}"]
                words += ["data.eval.split=toss/test", *cfg.evaluate, *on, f"out_dir={scored}"]
                run("evaluate", "baselines=[]", "tracking=false", "report=0", *words)
            found = read_json(scored / METRICS, "remove it, and it is made again")
            about = {"row": row, "seed": seed, "step": int(checkpoint.name.removeprefix("step_")), "mask_source": masks}
            yield about | {"split": found["about"]["split"]} | {name: found[name] for name in MEASURES}, scored


@entry("compare")
def main(cfg: DictConfig) -> None:
    """Write the table of ``cfg.rows``, the scores of every checkpoint and the curves; all are updated after a row."""
    known = sorted(file.stem for file in ROWS.glob("*.yaml") if file.stem != "base")
    if unknown := [row for row in (*cfg.rows, *(cfg.own or ())) if row not in known]:
        raise ValueError(f"there is no row {unknown[0]!r}; choose from {', '.join(known)}")
    out_dir = Path(cfg.out_dir)
    steps: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    ends: dict[tuple[str, str], list[dict[str, Any]]] = {}
    folders: dict[tuple[str, str], list[Path]] = {}
    for row in cfg.rows:
        for seed in cfg.seeds:
            last: dict[str, tuple[dict[str, Any], Path]] = {}
            for found, folder in score(cfg, row, seed):
                steps.append(found)
                last[found["mask_source"]] = (found, folder)
            curves.extend(curve(out_dir / row / f"s{seed}", {"row": row, "seed": seed}))
            for masks, (found, folder) in last.items():
                ends.setdefault((row, masks), []).append(found)
                folders.setdefault((row, masks), []).append(folder)
        write_rows(out_dir / "scores.csv", steps)
        write_rows(out_dir / "curves.csv", curves)
        (out_dir / "table.md").write_text(table(ends, folders) + "\n")
    print(table(ends, folders))


if __name__ == "__main__":
    main()
