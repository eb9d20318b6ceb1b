"""Prediction errors and contact accuracies of several methods in one picture.

python scripts/curves.py 'methods={DIAS:[runs/rollout,runs/reason],rival:[runs/b/rollout,runs/b/reason]}' path=new.png
"""

from __future__ import annotations

import csv
from pathlib import Path

from _main import entry
from omegaconf import DictConfig, ListConfig

from slotformer.report import plot_methods

FILES = {"errors": "rollout_error.csv", "accuracies": "accuracy.csv"}


def read(folders: list[str]) -> dict[str, list[dict[str, str]]]:
    """The rows of the curves that a method's ``folders`` hold, by what they are of.

    Raises:
        ValueError: a folder that holds none, or two that hold the same.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for folder in folders:
        here = {kind: Path(folder) / name for kind, name in FILES.items() if (Path(folder) / name).exists()}
        if not here:
            raise ValueError(
                f"{folder} holds neither {' nor '.join(FILES.values())}; name an out_dir of rollout or reason"
            )
        for kind, path in here.items():
            if kind in found:
                raise ValueError(f"{path} is the second {path.name} of one method; give every method one of each")
            with path.open(newline="") as file:
                found[kind] = list(csv.DictReader(file))
    return found


@entry("curves")
def main(cfg: DictConfig) -> None:
    """Write ``cfg.path``."""
    path = Path(cfg.path)
    if path.suffix != ".png":
        raise ValueError(f"path={path} must end in .png")
    if not isinstance(cfg.methods, DictConfig) or not cfg.methods:
        raise ValueError("methods must be a group, {name: [folders]}")
    methods = {
        str(name): read([str(folder) for folder in (folders if isinstance(folders, ListConfig) else [folders])])
        for name, folders in cfg.methods.items()
    }
    errors, accuracies = ({name: of[kind] for name, of in methods.items() if kind in of} for kind in FILES)
    plot_methods(path, errors, accuracies)
    print(path)


if __name__ == "__main__":
    main()
