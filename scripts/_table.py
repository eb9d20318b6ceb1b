"""Tables of trained rows: final scores with deviations over seeds, and differences paired by video."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dias_video.evaluation.results import VIDEOS
from dias_video.model.watch import WATCHED
from slotformer.statistics import interval

MEASURES = ("video-fg/fg_ari", "video-fg/mbo", "video-fg/miou", "ocb/ari", "ocb/mbo", "ocb/miou")
CURVES = ("loss", "reconstruction", "distillation", *WATCHED, "grad_norm")
COMPARED = ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari")  # measures that are compared with the first row, by video


def by_video(folder: Path) -> dict[str, list[float]]:
    """The ``COMPARED`` measures of every video; NaN where a measure is undefined."""
    with (folder / VIDEOS).open(newline="") as file:
        return {line["video_id"]: [float(line[name] or "nan") for name in COMPARED] for line in csv.DictReader(file)}


def worth(first: list[Path], other: list[Path]) -> list[str]:
    """The difference of ``other`` to ``first``, paired by seed and video: means with 95 % intervals over videos."""
    columns = []
    for one, two in zip(map(by_video, first), map(by_video, other), strict=True):
        columns.append([np.subtract(two[name], one[name]) for name in one])
    means = interval(np.mean(columns, 0))
    return [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in means.T]


def cell(values: list[float]) -> str:
    """Mean, and with several seeds their standard deviation."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def table(scores: Mapping[tuple[str, str], list[dict[str, Any]]], folders: Mapping[tuple[str, str], list[Path]]) -> str:
    """The final scores of rows in Markdown, and their differences to the first row with the same kind of masks."""
    gains = [f"{name}, more than {next(iter(scores))[0]}" for name in COMPARED]
    lines = [["row", "mask_source", *MEASURES, *gains], ["---"] * (2 + len(MEASURES) + len(gains))]
    first = next(iter(scores))[0]
    for (row, masks), ends in scores.items():
        cells = [cell([end[name] for end in ends]) for name in MEASURES]
        more = [""] * len(gains) if row == first else worth(folders[first, masks], folders[row, masks])
        lines.append([row, masks, *cells, *more])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def curve(run: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Losses and numbers of slots of a training run, a row for each logged update; empty where a run lacks a term."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{**about, "step": line["step"], **{name: line.get(name, "") for name in CURVES}} for line in lines]
