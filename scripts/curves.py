"""Draw prediction errors and contact accuracies of several methods in one picture.

python scripts/curves.py 'methods={DIAS:[runs/rollout,runs/reason],rival:[runs/b/rollout,runs/b/reason]}' path=new.png
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _main import entry
from omegaconf import DictConfig, ListConfig

from dias_video.stores.files import check_new
from slotformer.report import plot_methods

FILES = {"errors": "rollout_error.csv", "accuracies": "accuracy.csv"}
TEXTS: dict[str, tuple[str, ...]] = {"errors": (), "accuracies": ("readout", "kind")}
NUMBERS = {
    "errors": ("step", *(f"{name}{end}" for name in ("model", "model_relative") for end in ("", "_low", "_high"))),
    "accuracies": ("predicted_frames", "accuracy", "low", "high"),
}


def rows_of(path: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of a file of curves without those of people and of single scenarios; numbers are floats.

    Raises:
        ValueError: the file has no rows, or lacks columns of this ``kind`` of curve.
    """
    texts, numbers = TEXTS[kind], NUMBERS[kind]
    rows: list[dict[str, Any]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            for row in csv.DictReader(file):
                if row.get("scenario", "all") == "all" and row.get("kind") != "human":
                    rows.append({name: row[name] for name in texts} | {name: float(row[name]) for name in numbers})
        except (KeyError, TypeError, ValueError, csv.Error):
            rows = []
    if not rows:
        columns = ", ".join([*texts, *numbers])
        raise ValueError(f"{path} has no rows with {columns}; make it again with rollout.py or reason.py")
    return rows


def read(name: str, folders: Any) -> dict[str, list[dict[str, Any]]]:
    """The rows of the curves in the ``folders`` of a method, by kind of curve.

    Raises:
        ValueError: there are no folders, a folder holds no curve, or two folders hold the same kind.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    folders = list(folders) if isinstance(folders, ListConfig) else [folders]
    if not folders or not all(isinstance(folder, str) for folder in folders):
        raise ValueError(f"methods.{name} must be a folder or a list of folders, [a,b]")
    for folder in folders:
        here = {kind: Path(folder) / file for kind, file in FILES.items() if (Path(folder) / file).exists()}
        if not here:
            raise ValueError(
                f"{folder} holds neither {' nor '.join(FILES.values())}; name an out_dir of rollout or reason"
            )
        for kind, path in here.items():
            if kind in found:
                raise ValueError(f"{path} is the second {path.name} of one method; give every method one of each")
            found[kind] = rows_of(path, kind)
    return found


def of_one_form(accuracies: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each method for the first form of readout that all methods have.

    Raises:
        ValueError: the methods have no form in common.
    """
    forms = [list(dict.fromkeys(row["readout"] for row in rows)) for rows in accuracies.values()]
    shared = [form for form in forms[0] if all(form in other for other in forms)] if forms else [""]
    if not shared:
        raise ValueError(f"the methods have no form of readout in common: {'; '.join(map(', '.join, forms))}")
    return {name: [row for row in rows if row["readout"] == shared[0]] for name, rows in accuracies.items()}


@entry("curves")
def main(cfg: DictConfig, methods: Mapping[str, Any], overwrite: bool) -> None:
    """Write ``cfg.path``."""
    path = Path(cfg.path)
    if path.suffix != ".png" or path.is_dir():
        raise ValueError(f"path={path} must be a file that ends in .png")
    check_new(path, overwrite)
    if not isinstance(methods, DictConfig) or not methods:
        raise ValueError("methods must be a group, {name: [folders]}")
    found = {str(name): read(str(name), folders) for name, folders in methods.items()}
    errors, accuracies = ({name: of[kind] for name, of in found.items() if kind in of} for kind in FILES)
    plot_methods(path, errors, of_one_form(accuracies))
    print(path)


if __name__ == "__main__":
    main()
