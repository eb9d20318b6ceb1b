"""The notebooks, executed cell by cell as one program."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_files import SHARED, reads_shared, write_clip

ROOT = Path(__file__).parents[1]
WEIGHTS = SHARED.parent / "weights/dinov2_vits14_fp16.safetensors"


def ran(name: str, folder: Path, **names: str) -> str:
    """What a notebook prints; ``names`` are put into its environment."""
    cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert not any(cell.get("outputs") for cell in cells)
    (folder / f"{name}_cells.py").write_text("\n\n".join(code))
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | names
    done = subprocess.run(
        [sys.executable, f"{name}_cells.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_first_look_runs(tmp_path: Path) -> None:
    printed = ran("first_look", tmp_path)
    assert "24 frames" in printed
    assert "[0, 1, 2, -1" in printed


@pytest.mark.slow
@reads_shared
def test_what_features_say_adds_up(tmp_path: Path) -> None:
    for number in range(3):
        write_clip(tmp_path / f"toss/val/{number:05d}", num_frames=5)
    printed = ran("features", tmp_path, ROOT=str(tmp_path), WEIGHTS=str(WEIGHTS)).splitlines()
    shares = [ast.literal_eval(line[line.index("{") :]) for line in printed if "{" in line]
    assert len(shares) == 7
    assert all(sum(share.values()) == pytest.approx(1, abs=0.004) for share in shares)
    assert sum("R2" in line for line in printed) == 7
