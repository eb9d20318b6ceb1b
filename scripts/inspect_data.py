"""Inspect a new download: counts, sizes, lengths, instances, a contact sheet, and every problem found.

python scripts/inspect_data.py data=physion data.root=path/to/it
python scripts/inspect_data.py data=ytvis data.root=… check=true overwrite=true    # read all; exit code 1 on problems
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from _main import entry
from _videos import WrongSlice, check_split, source_of
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from dias_video.data.inspection import Inspection, save_picture, table
from dias_video.data.problems import Problem
from dias_video.stores.files import check_new, write_json


@entry("inspect_data")
def main(cfg: DictConfig, split: str | None, overwrite: bool) -> None:
    """Inspect the sources of ``cfg.data`` and write the results into ``cfg.out_dir``."""
    path = Path(cfg.out_dir) / "report.json"
    check_new(path, overwrite)
    cfg.data.on_error = "skip_and_report"  # to list every problem, not only the first
    names = check_split(cfg, split)
    report: dict[str, Any] = {}
    for name in names if split is None else [split]:
        facts, problems = inspect(cfg, name)
        report[name] = {"facts": facts, "problems": [problem._asdict() for problem in problems]}
        print(f"{name}\n{table(facts, problems)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    print(path)
    wrong = any(not problem["harmless"] for seen in report.values() for problem in seen["problems"])
    if all(seen["facts"]["videos"] == 0 for seen in report.values()):
        raise ValueError("there is not one video to read here; see the problems above")
    if cfg.check and wrong:
        sys.exit(1)


def inspect(cfg: DictConfig, name: str) -> tuple[dict[str, Any], list[Problem]]:
    """Facts and problems of a source; writes its contact sheet. A source that can't be opened is a problem."""
    try:
        source = source_of(cfg, name, checked=False)
    except WrongSlice:
        raise
    except (ValueError, OSError, InstantiationException) as error:
        return {"videos": 0}, [Problem(name, " ".join(str(error).split()))]
    seen = Inspection(source, cfg.videos, cfg.check)
    facts = seen.facts()
    if seen.samples:
        sheet = Path(cfg.out_dir) / f"{name}.png"
        save_picture(sheet, seen.contact_sheet())
        facts["contact sheet"] = str(sheet)
    return facts, seen.problems


if __name__ == "__main__":
    main()
