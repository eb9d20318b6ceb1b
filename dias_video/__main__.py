"""The scripts as one command of the installed package: ``dias-video train_video`` runs ``scripts/train_video.py``.

To run it in several processes: ``accelerate launch -m dias_video train_video …``.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
# scripts/ and configs/ lie inside the package in a wheel (pyproject.toml), and beside it in a checkout.
SCRIPTS = HERE / "scripts" if (HERE / "scripts").is_dir() else HERE.parent / "scripts"
OF_THE_CHECKOUT = {"benchmark", "demo"}  # these measure or show the checkout, so a wheel does not have them


def main() -> None:
    """Run the script that the first word of the command line names, with the words after it."""
    tasks = sorted({file.stem for file in SCRIPTS.glob("[!_]*.py")} - OF_THE_CHECKOUT)
    task = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if task not in tasks:
        asked = task in ("-h", "--help")
        told = [f"dias-video <task> <option>=<value> …, dias-video <task> --help; the tasks are {', '.join(tasks)}"]
        print(*([] if asked else [f"error: there is no task {task}"]), *told, sep="\n", file=sys.stderr)
        sys.exit(0 if asked else 2)
    script = SCRIPTS / f"{task}.py"
    sys.argv[:] = [str(script), *sys.argv[2:]]
    sys.path.insert(0, str(SCRIPTS))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
