"""The Physion protocol: accuracy of contact readouts by the number of predicted frames.

Readouts are fitted only on the readout videos (:mod:`slotformer.contact.fitting`). After that the test videos are
scored once, and this is noted beside the test cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dias_video.batch import SlotSequence
from slotformer.cache import SlotCache
from slotformer.contact.fitting import Fitted, Kept, fit
from slotformer.contact.labelled import LabelledSlots, paged
from slotformer.contact.places import NUM_PLACE, PlaceProbe
from slotformer.contact.settings import ReadoutSettings
from slotformer.fast import fast_rollout
from slotformer.rollouter import Dynamics, context_live
from slotformer.statistics import interval, nested_deviation


@dataclass
class Futures:
    """The same videos with an encoded and with a predicted future."""

    observed: int  # number of observed frames
    encoded: LabelledSlots
    predicted: LabelledSlots  # its first frames are encoded
    step: int  # distance of frames in raw frames
    offsets: int = 1  # number of interleaved rollouts: frames for each predicted frame

    def kind(self, name: str, predicted_frames: int) -> LabelledSlots:
        """The input of a readout of kind ``observed``, ``predicted`` or ``full``."""
        return (self.encoded if name == "full" else self.predicted).first(self._count(predicted_frames))

    def frames(self, name: str, predicted_frames: int) -> str:
        """The raw frames of this input, in words."""
        last, count = (self.observed - 1) * self.step, self._count(predicted_frames)
        every = "every frame" if self.step == 1 else f"one frame in {self.step}"
        said = f"{every}, 0 to {last} encoded"
        if count > self.observed:
            said += f", {last + self.step} to {(count - 1) * self.step} {'encoded' if name == 'full' else 'predicted'}"
        return said

    def _count(self, predicted_frames: int) -> int:
        return self.observed + predicted_frames * self.offsets


def futures(
    cache: SlotCache,
    model: Dynamics,
    observed_frames: int,
    predicted_frames: int,
    every_frame: bool = False,
    probe: PlaceProbe | None = None,
    batch_size: int = 64,
    folder: str | Path | None = None,
) -> Futures:
    """Observe the first ``observed_frames`` raw frames of every labelled video and predict from there.

    A video that ends before the last predicted frame has no live encoded slots after its end. Slots are made batch by
    batch and kept in files (``paged``), so memory does not grow with the data.

    Args:
        cache: the encoded videos.
        model: the dynamics model, in evaluation mode.
        observed_frames: number of observed raw frames.
        predicted_frames: number of predicted frames, at the model's stride.
        every_frame: use all raw frames: the rollouts of ``stride`` offsets are interleaved, as SlotFormer's authors do.
            False uses only frames 0, ``stride``, ...
        probe: adds the places of slots as last channels, for encoded and predicted slots; None = no places.
        batch_size: number of videos in a batch.
        folder: a folder on the disk for the slots' files; None = that of temporary files.

    Raises:
        ValueError: a video has no label, or ends before all observed frames.
    """
    step, offsets = (1, model.stride) if every_frame else (model.stride, 1)
    device = next(model.parameters()).device
    observed = len(range(0, observed_frames, step))
    if observed < offsets or predicted_frames < 1:
        raise ValueError(f"observed_frames must be at least {offsets} and predicted_frames at least 1")
    count = predicted_frames * offsets
    span = (observed + count - 1) * step + 1
    shape = (len(cache), observed + count, cache.num_slots)
    num_places = 0 if probe is None else NUM_PLACE
    ends = [paged((*shape, cache.slot_dim + num_places), folder) for _ in ("encoded", "predicted")]
    encoded, rolled = (end[..., : cache.slot_dim] for end in ends)
    alive, rolled_alive = (torch.zeros(shape, dtype=torch.bool) for _ in ends)
    labels, scenarios = [], []
    for rows in tqdm(range(0, len(cache), batch_size), desc="rollout"):
        names = cache.video_ids[rows : rows + batch_size]
        videos = [cache.read(v, 0, min(span, cache.num_frames(v)), step) for v in names]
        for row, (video, info) in enumerate(zip(videos, map(cache.info, names), strict=True), start=rows):
            if info.label is None or video.num_frames < observed:
                what = "no label" if info.label is None else f"fewer than {observed_frames} frames"
                raise ValueError(f"{cache.path}: {info.video_id} has {what}; reasoning needs both")
            encoded[row, : video.num_frames], alive[row, : video.num_frames] = video.slots[0], video.live[0]
            labels.append(info.label)
            scenarios.append(info.scenario or "unknown")
        here = slice(rows, rows + len(videos))
        rolled[here, :observed], rolled_alive[here, :observed] = encoded[here, :observed], alive[here, :observed]
        seen = SlotSequence.batched([video.frames(0, observed) for video in videos]).to(device)
        for offset in range(offsets):
            last = observed - offsets + offset
            at = list(range(last, -1, -offsets))[: model.burn_in][::-1]  # the context's frames
            live = context_live(seen.live[:, at], seen.track_id[:, at])
            future = slice(observed + offset, None, offsets)
            rolled[here, future] = fast_rollout(model, seen.slots[:, at], live, predicted_frames).cpu()
            rolled_alive[here, future] = live[:, -1:].expand(-1, predicted_frames, -1).cpu()
        if probe is not None:
            for slots in ends:
                slots[here, ..., cache.slot_dim :] = probe(slots[here, ..., : cache.slot_dim])
    about = (list(cache.video_ids), scenarios, torch.tensor(labels))
    made = LabelledSlots(*about, ends[0], alive, num_places), LabelledSlots(*about, ends[1], rolled_alive, num_places)
    return Futures(observed, *made, step, offsets)


@dataclass
class Answers:
    """The results of readouts of one kind on the test videos."""

    kind: str  # observed | predicted | full
    predicted_frames: int  # number of future frames that the readout reads, at the model's stride
    correct: NDArray[np.float64]  # (M,S,V): dynamics models (1 if none is used), readouts' seeds, videos
    validation_accuracy: float  # mean over models and seeds
    fitted: list[Fitted]  # one for each model and seed
    readout: str = ""  # form of the readout
    frames: str = ""  # the raw frames that it reads, in words

    def describe(self) -> dict[str, Any]:
        """The choices of the fit, and its results on the readout set."""
        return {
            "kind": self.kind,
            "readout": self.readout,
            "predicted_frames": self.predicted_frames,
            "frames": self.frames,
            "thresholds": [fitted.threshold for fitted in self.fitted],
            "validation_loss": float(np.mean([fitted.validation_loss for fitted in self.fitted])),
            "validation_accuracy": self.validation_accuracy,
            "validation_chose": self.fitted[0].chosen,
            "accuracy": float(self.correct.mean()),
        }


class FittedPoint(NamedTuple):
    """The readouts for a point of a curve, fitted without the test videos."""

    readout: str  # form of the readouts
    kind: str
    predicted_frames: int
    fitted: list[Fitted]  # one for each seed

    def answer(self, test: Futures) -> Answers:
        """Score the test videos."""
        held = test.kind(self.kind, self.predicted_frames)
        correct = np.stack([f.correct(held) for f in self.fitted])[None]  # (1,S,V)
        validation = float(np.mean([f.validation_accuracy for f in self.fitted]))
        frames = test.frames(self.kind, self.predicted_frames)
        return Answers(self.kind, self.predicted_frames, correct, validation, self.fitted, self.readout, frames)


Point = tuple[str, int]  # kind and predicted frames


def points_of(predicted_frames: Sequence[int]) -> tuple[list[Point], list[Point]]:
    """The points of a curve, first those without a dynamics model (observed frames, encoded video), then the others.

    The encoded video has as many frames as the point with the most ``predicted_frames``.
    """
    return [("observed", 0), ("full", max(predicted_frames))], [("predicted", count) for count in predicted_frames]


def fit_points(
    readout: Futures,
    points: Sequence[Point],
    candidates: Sequence[ReadoutSettings],
    seeds: Sequence[int],
    kept: Kept | None = None,
    device: torch.device | str = "cpu",
) -> list[FittedPoint]:
    """Fit a readout for every point of every curve.

    Each readout is kept as ``<form>/<point>/s<seed>`` of ``kept``, for example ``places/predicted_8/s0``. Every form of
    readout has its own curve. At each point the best of the candidates with the same form is used.
    """
    forms = dict.fromkeys(c.form for c in candidates)
    found = []
    for form, (kind, count) in tqdm(list(itertools.product(forms, points)), desc="readouts"):
        train, same = readout.kind(kind, count).to(device), [c for c in candidates if c.form == form]
        name = f"predicted_{count}" if kind == "predicted" else kind
        fitted = []
        for seed in seeds:
            place = kept and kept.of(form, name, f"s{seed}", kind=kind, predicted_frames=count)
            fitted.append(fit(train, same, seed, place))
        found.append(FittedPoint(form, kind, count, fitted))
    return found


def join_answers(parts: Sequence[Sequence[Answers]]) -> list[Answers]:
    """Join the answers of several dynamics models at the same points.

    At points without a dynamics model all answers are equal, and count once.
    """
    joined = []
    for same in zip(*parts, strict=True):
        if same[0].kind != "predicted":
            joined.append(same[0])
            continue
        correct = np.concatenate([point.correct for point in same])
        validation = float(np.mean([point.validation_accuracy for point in same]))
        fitted = [readouts for point in same for readouts in point.fitted]
        joined.append(replace(same[0], correct=correct, validation_accuracy=validation, fitted=fitted))
    return joined


def in_order(answers: Sequence[Answers]) -> list[Answers]:
    """Answers sorted by form: observed, predicted with few to many frames, full."""
    forms = list(dict.fromkeys(point.readout for point in answers))
    kinds = ("observed", "predicted", "full")
    return sorted(answers, key=lambda a: (forms.index(a.readout), kinds.index(a.kind), a.predicted_frames))


def accuracy_rows(answers: Sequence[Answers], scenario: Sequence[str]) -> list[dict[str, Any]]:
    """A row for every point of the curve and every scenario, ``all`` last: accuracy, interval, difference to observed.

    Intervals are bootstrapped over videos. ``minus_observed`` compares the same videos, so its interval is paired.
    ``std`` and ``minus_observed_std`` are deviations over dynamics models, of each model's mean over its readouts. With
    one model or none they are deviations over readouts (``models`` and ``readouts`` are their numbers).
    ``validation_accuracy`` uses the same answers by which ``validation_chose`` was chosen, so it is too high;
    ``accuracy`` does not.
    """
    observed = {a.readout: a.correct for a in answers if a.kind == "observed"}
    groups = {name: np.array([s == name for s in scenario]) for name in sorted(set(scenario))}
    groups["all"] = np.ones(len(scenario), bool)
    gains = [point.correct - observed[point.readout] for point in answers]  # (M,S,V) each, of readouts of one seed
    # Accuracy and gain of every point, (V,2*points), for which videos are drawn together.
    means = np.stack(
        [x.mean((0, 1)) for pair in zip((a.correct for a in answers), gains, strict=True) for x in pair], 1
    )
    ends = {name: interval(means[members]) for name, members in groups.items()}  # (3,2*points) each
    rows = []
    for number, (point, gained) in enumerate(zip(answers, gains, strict=True)):
        for name, members in groups.items():
            (accuracy, low, high), (gain, gain_low, gain_high) = ends[name][:, 2 * number : 2 * number + 2].T.tolist()
            rows.append(
                {
                    "scenario": name,
                    "kind": point.kind,
                    "readout": point.readout,
                    "predicted_frames": point.predicted_frames,
                    "frames": point.frames,
                    "accuracy": accuracy,
                    "low": low,
                    "high": high,
                    "videos": int(members.sum()),
                    "std": nested_deviation(point.correct[..., members].mean(2)),
                    "models": len(point.correct),
                    "readouts": point.correct.shape[1],
                    "validation_accuracy": point.validation_accuracy,
                    "validation_chose": point.fitted[0].chosen,
                    "minus_observed": gain,
                    "minus_observed_std": nested_deviation(gained[..., members].mean(2)),
                    "minus_observed_low": gain_low,
                    "minus_observed_high": gain_high,
                }
            )
    return rows
