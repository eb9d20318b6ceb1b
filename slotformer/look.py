"""A predicted future on the report page: frames, true and predicted masks with a slider, and the error below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dias_video.data.source import Sample
from dias_video.report.video import ReportVideo
from slotformer.errors import RolloutErrors

DRAWN = ("model", "repeat_last", "oracle")  # errors of constant velocity can be larger by orders of magnitude


def future_on_page(
    sample: Sample,
    labels: Mapping[str, Tensor],
    burn_in: int,
    errors: RolloutErrors,
    seconds: Sequence[float],
    background: int,
) -> ReportVideo:
    """A video for the page.

    Args:
        sample: its T frames, with or without true masks.
        labels: ``encoded`` (T,H,W), and ``model`` (R,H,W) for the last R frames as predicted.
        burn_in: number of observed frames.
        errors: errors of one model on videos that include this one.
        seconds: how long each frame is shown, in seconds.
        background: the track that is not coloured.
    """
    name, encoded = sample["video_id"], labels["encoded"]
    place = errors.video_id.index(name)
    curves = {one: errors.errors[one][place] for one in DRAWN if one in errors.errors}
    fps = len(seconds) / max(sum(seconds), 1e-6)
    headline = f"error at the end {curves['model'][-1]:.3f}"
    video = ReportVideo(name, len(encoded), fps=fps, headline=headline, background=background)
    predicted = torch.cat([encoded[:burn_in], labels["model"]])
    panels = {"observed": encoded, "true future": encoded, "predicted": predicted}
    video.frames(sample["video"], panels, hold={"observed": burn_in}, blank={"predicted": burn_in})
    video.count(encoded, truth=sample.get("masks"))
    video.draw_curve(
        "squared error of predicted slots / squared norm",
        {one: [None] * burn_in + values.tolist() for one, values in curves.items()},
    )
    return video
