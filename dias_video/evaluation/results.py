"""The files of an evaluation: ``metrics.json`` has averages, ``videos.csv`` a row for each video and method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dias_video.data.problems import annotations_of, problems_of
from dias_video.evaluation.protocols import PROTOCOLS, Protocol
from dias_video.evaluation.scoring import FACTS, Videos, VideoScores
from dias_video.stores.files import write_json, write_rows

METRICS, VIDEOS = "metrics.json", "videos.csv"
MAIN = "model"  # the method whose measures have no prefix


@dataclass(frozen=True)
class Setting:
    """What was scored, and how; every result file contains it."""

    source: str  # class of the data source
    split: str  # as the source names it, or a frozen split of ``splits.py``
    condition: str  # what the model was given: "boxes", "none", "none, rehearsed", or "not stated" for files
    mask_sources: Mapping[str, str]  # the source of the masks of every method
    fingerprint: str = ""  # fingerprint of the videos' names (``splits.py``)
    identity: str = "unverified"  # or "verified": the split is known to have these videos
    transform: Mapping[str, Any] | None = None  # the transform of frames: crop and size
    features: str | None = None  # the cache of the frozen features, which are in half precision
    checkpoint: str | None = None  # folder
    checkpoint_hash: str | None = None  # SHA-256 of its model.safetensors
    num_slots: int | None = None
    seed: int = 0
    precision: str | None = None  # the precision in which the model computed


def prefix(method: str) -> str:
    """The prefix of a method's measures in ``metrics.json``."""
    return "" if method == MAIN else f"{method}/"


def report(
    scores: Mapping[str, VideoScores], videos: Videos, protocols: Sequence[Protocol], setting: Setting
) -> dict[str, Any]:
    """Content of ``metrics.json``: ``about`` and, flat, ``<protocol>/<measure>`` of the model.

    The measures of other methods have the method's name as prefix. A measure that is not defined is None.

    Raises:
        ValueError: videos of a method have no score.
    """
    any_method = next(iter(scores.values()))
    instances = any_method.column("instances")
    sizes = {f"{int(h)}x{int(w)}" for h, w in zip(any_method.column("height"), any_method.column("width"), strict=True)}
    known = asdict(setting)
    num_slots, mask_sources = known.pop("num_slots"), known.pop("mask_sources")
    about: dict[str, Any] = {
        "protocols": {protocol.name: protocol.description for protocol in protocols},
        "annotations": annotations_of(videos.source),
        "videos": len(instances),
        "videos_in_split": videos.in_split,
        "excluded": [problem.name for problem in problems_of(videos.source) if not problem.harmless],
        "frames": int(sum(any_method.column("frames"))),
        "max_frames": videos.max_frames,
        "resolution": sorted(sizes),  # HxW of the masks scored
        "single_instance_videos": instances.count(1),
        "videos_without_instances": instances.count(0),
        "mask_source": mask_sources,
        **known,
    }
    if num_slots is not None:
        about["slots"] = num_slots
        about["videos_with_more_instances_than_slots"] = sum(number + 1 > num_slots for number in instances)
    measures = {
        f"{prefix(method)}{name}": None if math.isnan(value) else value
        for method, collected in scores.items()
        for name, value in collected.summary().items()
    }
    return {"about": about, **measures}


def write_results(
    out_dir: str | Path,
    scores: Mapping[str, VideoScores],
    videos: Videos,
    protocols: Sequence[Protocol],
    setting: Setting,
    write: bool = True,
) -> dict[str, Any]:
    """Write ``videos.csv`` and ``metrics.json`` into ``out_dir`` (made if absent), and return the latter's content.

    Nothing is written if a video of a method has no score, or if ``write`` is False.

    Raises:
        ValueError: videos of a method have no score.
    """
    content = report(scores, videos, protocols, setting)
    if not write:
        return content
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_rows(out_dir / VIDEOS, _rows(scores, protocols, setting))
    write_json(out_dir / METRICS, content)
    return content


def summary_table(content: Mapping[str, Any]) -> str:
    """The main measures of ``metrics.json`` as a Markdown table with a row for each method."""
    protocols = [PROTOCOLS[name] for name in content["about"]["protocols"]]
    columns = [f"{p.name}/{name}" for p in protocols for name in (p.ari_name, "mbo", "miou")]
    lines = [["method", *columns], ["---"] * (1 + len(columns))]
    for method in content["about"]["mask_source"]:
        values = [content[f"{prefix(method)}{column}"] for column in columns]
        lines.append([method, *("-" if value is None else f"{value:.3f}" for value in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(
    scores: Mapping[str, VideoScores], protocols: Sequence[Protocol], setting: Setting
) -> list[dict[str, str | int | float | None]]:
    """A row for each method and video: names, facts as integers, and measures in full precision."""
    rows: list[dict[str, str | int | float | None]] = []
    for method, collected in scores.items():
        for index, video_id in enumerate(collected.video_ids):
            numbers = collected.rows[index]
            rows.append(
                {
                    "method": method,
                    "video_id": video_id,
                    "split": setting.split,
                    "condition": setting.condition,
                    "protocols": "+".join(protocol.name for protocol in protocols),
                    "mask_source": setting.mask_sources[method],
                    "checkpoint_hash": setting.checkpoint_hash,
                    **{name: int(numbers[name]) for name in FACTS},
                    **{k: None if math.isnan(v) else v for k, v in numbers.items() if k not in FACTS},
                }
            )
    return rows
