"""The notebook, executed cell by cell as one program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_first_look_runs(tmp_path: Path) -> None:
    cells = json.loads((ROOT / "notebooks/first_look.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert not any(cell.get("outputs") for cell in cells)
    (tmp_path / "first_look.py").write_text("\n\n".join(code))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "first_look.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "24 frames" in done.stdout
    assert "[0, 1, 2, -1" in done.stdout
