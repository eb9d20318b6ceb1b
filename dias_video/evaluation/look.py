"""The page of an evaluation: its worst and its best videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dias_video.evaluation.methods import Method, SlotMethod
from dias_video.evaluation.protocols import Protocol
from dias_video.evaluation.scoring import FACTS, Videos, VideoScores
from dias_video.report.page import write_report
from dias_video.report.video import ReportVideo
from dias_video.visualize import NOBODY


def extremes(values: Sequence[float], number: int) -> list[int]:
    """Places of ``number`` values: the worst, then the best; NaN is included only if there are no other values."""
    ranked = sorted(range(len(values)), key=lambda at: (math.isnan(values[at]), values[at]))
    defined = [at for at in ranked if not math.isnan(values[at])] or ranked
    worst = defined[: -(-number // 2)]
    best = [at for at in reversed(defined) if at not in worst]
    return worst + best[: number - len(worst)]


def write_extremes(
    path: Path, title: str, method: Method, videos: Videos, scores: VideoScores, protocol: Protocol, number: int
) -> None:
    """Track the worst and the best videos by the protocol's mBO again, and write a page about them.

    Args:
        path: the page.
        title: its title.
        method: the method that was scored.
        videos: all videos that were scored.
        scores: the complete scores of the method.
        protocol: the protocol by which videos are ranked.
        number: the most videos on the page.
    """
    measure = f"{protocol.name}/mbo"  # not FG-ARI, which is 0 or 1 if there is only one object
    values = scores.column(measure)
    background = NOBODY if method.background is None else method.background
    shown = []
    for index in extremes(values, number):
        sample = videos[index]
        row = scores.rows[index]
        facts = {name: int(value) if name in FACTS else value for name, value in row.items()}
        name, headline = sample["video_id"], f"mBO {values[index]:.3f}"
        video = ReportVideo(name, len(sample["video"]), facts=facts, headline=headline, background=background)
        if isinstance(method, SlotMethod):
            tracked = method.tracked([sample])
            assert tracked.labels is not None
            assert tracked.attention is not None
            parts = (tracked.labels[0], tracked.attention[0], tracked.track_id[0])
            video.add(sample["video"], *parts, truth=sample["masks"])
        else:
            video.add(sample["video"], method(sample).cpu(), truth=sample["masks"])
        shown.append(video)
    notes = [f"{len(shown)} of {len(values)} videos: the worst by {measure} first, then the best."]
    write_report(path, title, shown, notes)
