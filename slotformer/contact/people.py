"""What people answered: Physion's table of mean human accuracy by stimulus, beside a model's accuracy."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slotformer.statistics import interval


def read_human(file: Path, stimulus: Callable[[str], str]) -> dict[str, float]:
    """Part of the people who were right, by stimulus, out of ``stimulus_names_and_labels.csv``.

    Args:
        file: a table with the columns ``stim_ID`` and ``correct``.
        stimulus: brings names into the form that video ids end with.

    Raises:
        ValueError: another layout, or a value outside of 0 to 1.
    """
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    if not rows or not {"stim_ID", "correct"} <= rows[0].keys():
        raise ValueError(f"{file} has no columns stim_ID and correct; it should be stimulus_names_and_labels.csv")
    table = {}
    for number, row in enumerate(rows, start=2):
        try:
            value = float(row["correct"])
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: correct must be a number, not {row['correct']!r}") from error
        if not 0 <= value <= 1:
            raise ValueError(f"{file}, line {number}: correct={value} is not between 0 and 1")
        table[stimulus(row["stim_ID"])] = value
    return table


def human_rows(
    table: Mapping[str, float], video_ids: Sequence[str], scenario: Sequence[str], stimulus: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Rows of kind ``human`` for the videos that people saw too, by scenario and for ``all``; none without a match."""
    known = [(s, table.get(stimulus(name.split("/")[-1]))) for name, s in zip(video_ids, scenario, strict=True)]
    groups = {name: [v for s, v in known if s == name and v is not None] for name in sorted(set(scenario))}
    groups["all"] = [v for _, v in known if v is not None]
    rows = []
    for name, values in groups.items():
        if values:
            accuracy, low, high = interval(np.array(values))
            about = {"scenario": name, "kind": "human", "predicted_frames": 0, "videos": len(values)}
            rows.append({**about, "accuracy": accuracy, "low": low, "high": high})
    return rows
