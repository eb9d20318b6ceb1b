"""Predict whether the agent touches the patient: fit readouts on the readout videos, score the test videos once.

python scripts/reason.py dynamics=runs/slotformer/checkpoints/last readout_cache=… test_cache=… out_dir=runs/reason
python scripts/reason.py … out_dir=runs/reason resume=true    # go on: the results are those of an uninterrupted run
"""

from __future__ import annotations

import json
from pathlib import Path

from _main import entry, options
from omegaconf import DictConfig

from slotformer.contact.reasoning import reason
from slotformer.report import accuracy_line


@entry("reason", reason)
def main(cfg: DictConfig) -> None:
    """Write ``accuracy.csv``, ``accuracy.png``, ``reason.json`` and the readouts into ``cfg.out_dir``."""
    rows = reason(**options(cfg))
    if not rows:  # on processes other than the main one
        return
    print(*(accuracy_line(row) for row in rows if row["scenario"] == "all"), sep="\n")
    about = json.loads((Path(cfg.out_dir) / "reason.json").read_text())
    look = max(run["look"] for run in about["runs"])
    print(f"{Path(cfg.out_dir) / 'accuracy.csv'}: {about['test_videos']} test videos, look {look}")


if __name__ == "__main__":
    main()
