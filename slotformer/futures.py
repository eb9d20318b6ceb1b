"""Pictures and scores of predicted slots.

Encoded and predicted slots are decoded in the same way, with every token masked, so no information about the future
leaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dias_video.batch import SlotSequence
from dias_video.data.source import Sample
from dias_video.evaluation.metrics import adjusted_rand_index, mean_best_overlap
from dias_video.model.dias import DIAS
from dias_video.report.page import write_report
from dias_video.report.video import ReportVideo
from dias_video.tracking import owners
from dias_video.visualize import BACKGROUND, NOBODY, colour_labels, gif_file, overlay, side_by_side, write_gif
from slotformer.cache import SlotCache
from slotformer.errors import RolloutErrors
from slotformer.origin import CachedVideos
from slotformer.report import write_csv
from slotformer.statistics import deviation, interval

DRAWN = ("model", "repeat_last", "oracle")  # errors of constant velocity can be larger by orders of magnitude


def decode_labels(dias: DIAS, sequence: SlotSequence, size: tuple[int, int]) -> Tensor:
    """The track that owns each pixel of ``size`` (H,W), decoded from one video's slots: (T,H,W) int32 on the CPU."""
    device = next(dias.parameters()).device
    _, attention = dias.decode_slots(sequence.slots.to(device), sequence.live.to(device))
    return owners(attention[0].cpu(), sequence.live[0].cpu(), sequence.track_id[0].cpu(), size)


def labels_of(dias: DIAS, video: SlotSequence, future: SlotSequence, size: tuple[int, int]) -> dict[str, Tensor]:
    """Labels (T,H,W) of the encoded video, and (R,H,W) of the predicted future and of the repeated last frame."""
    steps = future.num_frames
    last = video.num_frames - steps
    return {
        "encoded": decode_labels(dias, video, size),
        "model": decode_labels(dias, future, size),
        "repeat_last": decode_labels(dias, video.frames(last - 1, last), size).expand(steps, -1, -1),
    }


def score_frames(pred: Tensor, true: Tensor) -> dict[str, Tensor]:
    """FG-ARI and mBO of every single frame, ``fg_ari`` and ``mbo`` (T,), and of the whole clip, ``video_…`` ()."""
    pooled = (pred[None], true[None])
    return {
        "fg_ari": adjusted_rand_index(pred, true, ignore_background=True),
        "mbo": mean_best_overlap(pred, true, ignore_background=True),
        "video_fg_ari": adjusted_rand_index(*pooled, ignore_background=True)[0],
        "video_mbo": mean_best_overlap(*pooled, ignore_background=True)[0],
    }


def write_future(
    path: Path, sample: Sample, labels: dict[str, Tensor], burn_in: int, seconds: Sequence[float], background: int
) -> None:
    """Write a GIF with panels frames | encoded | predicted; in the observed frames the last two are equal."""
    video, steps = sample["video"], len(labels["model"])
    truth = overlay(video, labels["encoded"], background=background)  # (T,H,W,3)
    observed = torch.cat([truth[:burn_in], truth[burn_in - 1 : burn_in].expand(steps, -1, -1, -1)])
    predicted = torch.cat([truth[:burn_in], colour_labels(labels["model"], background)])
    write_gif(path, side_by_side([observed, truth, predicted], ["observed", "true future", "predicted"]), seconds)


def future_on_page(
    sample: Sample,
    labels: dict[str, Tensor],
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


def spread(cache: SlotCache, names: Sequence[str], count: int) -> list[str]:
    """``count`` videos, evenly over scenarios as far as these have enough, and evenly spaced within a scenario."""
    groups: dict[str, list[str]] = {}
    for name in names if count else ():
        groups.setdefault(cache.info(name).scenario or "", []).append(name)
    shares = dict.fromkeys(sorted(groups), 0)
    for _ in range(min(count, len(names))):  # the next video comes from the scenario with the fewest so far
        shares[min((s for s in shares if shares[s] < len(groups[s])), key=lambda s: shares[s])] += 1
    at = {scenario: np.linspace(0, len(groups[scenario]) - 1, share) for scenario, share in shares.items()}
    return [groups[scenario][int(place)] for scenario, places in at.items() for place in places]


def report_futures(
    futures: Sequence[SlotCache],
    dias: DIAS,
    cache: SlotCache,
    videos: CachedVideos,
    errors: RolloutErrors,
    out_dir: Path,
    *,
    masks: int,
    gifs: int,
    fps: float,
) -> dict[str, Any]:
    """Decode rollouts of some videos: draw those of the first model; if there are masks, score those of all models.

    Args:
        futures: predicted slots of each dynamics model (``predict_cache``).
        dias: the model that made the slots.
        cache: the encoded videos; videos without a complete true future are left out.
        videos: the videos as the model saw them.
        errors: errors of the first model.
        out_dir: the folder for ``gifs/``, ``report.html`` and ``mask_scores.csv``.
        masks, gifs: number of videos to score, and to draw as GIFs and on the page, spread over scenarios.
        fps: frames a second in GIFs, for videos without times.
    """
    burn_in, stride, steps, start = (futures[0].header[name] for name in ("burn_in", "stride", "steps", "start"))
    frames = range(start, start + (burn_in + steps - 1) * stride + 1, stride)
    whole = [name for name in cache.video_ids if cache.num_frames(name) > frames[-1]]
    scored, drawn = set(spread(cache, whole, masks)), set(spread(cache, whole, gifs))
    background = BACKGROUND if cache.header.get("protocol", {}).get("queries") == "boxes" else NOBODY
    scores: dict[str, list[list[Tensor]]] = {}
    page: list[ReportVideo] = []
    for name in tqdm(sorted(scored | drawn), unit="video", desc="masks"):
        sample, video = videos.read(name, frames), cache.read(name, start, frames.stop, stride)
        height, width = sample["video"].shape[-2:]
        for at, future in enumerate(futures if name in scored else futures[:1]):
            labels = labels_of(dias, video, future.read(name), (height, width))
            if name in drawn and at == 0:
                shown = videos.seconds_shown(name, frames, fps)
                write_future(gif_file(out_dir / "gifs", name), sample, labels, burn_in, shown, background)
                page.append(future_on_page(sample, labels, burn_in, errors, shown, background))
            if name in scored and sample.get("masks") is not None:
                for kind in labels:
                    found = score_frames(labels[kind][-steps:], sample["masks"][burn_in:])
                    for measure, value in found.items():
                        scores.setdefault(f"{kind}_{measure}", [[] for _ in futures])[at].append(value)
    if page:
        told = f"{burn_in} frames observed, {steps} predicted, every {stride} raw frames one."
        write_report(out_dir / "report.html", f"Predicted futures: {cache.path}", page, [told])
    stacked = {key: np.stack([torch.stack(v).double().numpy() for v in one]) for key, one in scores.items()}
    curves = {key: values for key, values in stacked.items() if values.ndim == 3}  # (M,V,R)
    if curves:
        write_csv(out_dir / "mask_scores.csv", [_row(curves, step) for step in range(steps)])
    pooled = {key: (interval(values.mean(0)), values) for key, values in stacked.items() if values.ndim == 2}  # (M,V)
    summary = {
        key: {"mean": mean, "low": low, "high": high, "std": deviation(np.nanmean(values, 1))}
        for key, ((mean, low, high), values) in pooled.items()
    }
    return {"masks_of_videos": len(scored), "masks": summary}


def _row(curves: dict[str, Any], step: int) -> dict[str, float]:
    """Means of scores (M,V,R) over models and videos at one step, and deviations over models."""
    row: dict[str, float] = {"step": step + 1}
    for key, values in curves.items():
        means = np.nanmean(values[:, :, step], 1)  # (M,)
        row[key], row[f"{key}_std"] = float(means.mean()), deviation(means)
    return row
