"""The answers of people: Physion's table of mean human accuracy by stimulus, to compare with a model's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dias_video.data.text import read_table
from slotformer.statistics import interval


def read_human(file: Path, stimulus: Callable[[str], str]) -> dict[str, float]:
    """The part of the people who answered correctly, by stimulus, from ``stimulus_names_and_labels.csv``.

    Args:
        file: a table with the columns ``stim_ID`` and ``correct``; several rows of a stimulus are averaged.
        stimulus: converts names to the form at the end of video ids.

    Raises:
        ValueError: the file is missing or has another layout, or a value is not in [0, 1].
    """
    rows = read_table(file)
    header = rows[0][1] if rows else []
    if not {"stim_ID", "correct"} <= set(header):
        raise ValueError(f"{file} has no columns stim_ID and correct; it should be stimulus_names_and_labels.csv")
    name, correct = header.index("stim_ID"), header.index("correct")
    answers: dict[str, list[float]] = {}
    for line, row in rows[1:]:
        try:
            value = float(row[correct])
        except (ValueError, IndexError) as error:
            found = repr(row[correct]) if len(row) > correct else "absent"
            raise ValueError(f"{file}, line {line}: correct must be a number, it is {found}") from error
        if not 0 <= value <= 1 or len(row) <= name:
            raise ValueError(f"{file}, line {line}: correct={value} is not between 0 and 1, or stim_ID is missing")
        answers.setdefault(stimulus(row[name]), []).append(value)
    return {stimulus: float(np.mean(values)) for stimulus, values in answers.items()}


def human_rows(
    table: Mapping[str, float], video_ids: Sequence[str], scenario: Sequence[str], stimulus: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Rows of kind ``human`` for the videos in the table, by scenario and for ``all``; empty if none is in it."""
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
