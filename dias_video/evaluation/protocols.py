"""The two protocols: what is measured on a video, and what counts as an instance (``docs/evaluation.md``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dias_video.evaluation.boundary import j_and_f
from dias_video.evaluation.metrics import OverlapTable, switches_of_frames, table_of_maps


@dataclass(frozen=True)
class Protocol:
    """What counts as an instance. Both protocols pool a video's frames; the per-frame variants do not."""

    name: str
    ignore_background: bool
    description: str

    @property
    def ari_name(self) -> str:
        """The name of this protocol's ARI in results."""
        return "fg_ari" if self.ignore_background else "ari"

    def score(self, table: OverlapTable) -> dict[str, Tensor]:
        """Measures of B maps, each (B,) float64."""
        return {
            self.ari_name: table.adjusted_rand_index(self.ignore_background),
            "mbo": table.mean_best_overlap(self.ignore_background),
            "miou": table.mean_iou(self.ignore_background),
        }


VIDEO_FG = Protocol(
    "video-fg", True, "frames pooled; foreground pixels in FG-ARI, foreground instances in mBO and mIoU"
)


OCB = Protocol("ocb", False, "frames pooled; the background is one more instance in ARI, mBO and mIoU")


PROTOCOLS = {protocol.name: protocol for protocol in (VIDEO_FG, OCB)}


Measure = Callable[[Tensor, Tensor], Mapping[str, float]]  # of maps (T,H,W): a further measure, in a file of its own


def score_video(
    pred: Tensor,
    true: Tensor,
    protocols: Sequence[Protocol] = (VIDEO_FG, OCB),
    tracking: bool = True,
    measures: Mapping[str, Measure] | None = None,
    background: int | None = None,
) -> dict[str, float]:
    """Every measure of one video.

    Args:
        pred: (T,H,W) integers, track ids.
        true: (T,H,W) integers, 0 background, -1 void.
        protocols: the protocols to score.
        tracking: also compute J&F and identity switches.
        measures: further measures by name.
        background: for J&F and switches, the id in ``pred`` that is not a track; None: every id is a track.

    Returns:
        ``<protocol>/<measure>`` on the pooled video; ``<protocol>/per_frame/<measure>`` as the mean over the frames
        where it is defined; ``tracking/<measure>``; and ``<name>/<measure>`` of ``measures``. NaN where undefined.

    Raises:
        ValueError: the maps' shapes differ, or they hold no integers.
    """
    frames = table_of_maps(pred, true)
    video = frames.pooled()
    scores: dict[str, float] = {}
    for protocol in protocols:
        scores |= {f"{protocol.name}/{name}": value.item() for name, value in protocol.score(video).items()}
        for name, values in protocol.score(frames).items():
            scores[f"{protocol.name}/per_frame/{name}"] = mean_of_defined(values.tolist())
    if tracking:
        similarity = j_and_f(pred, true, background)
        switches, tracked = switches_of_frames(frames, background)
        scores |= {"tracking/j_and_f": similarity.mean, "tracking/j": similarity.j, "tracking/f": similarity.f}
        scores |= {"tracking/id_switches": switches, "tracking/tracked": tracked}
    for name, measure in (measures or {}).items():
        scores |= {f"{name}/{part}": float(value) for part, value in measure(pred, true).items()}
    return scores


def mean_of_defined(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none. The sum is exact, so its order does not matter."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def standard_error(values: Sequence[float]) -> float:
    """Standard error of that mean; NaN for fewer than two values."""
    defined = [value for value in values if not math.isnan(value)]
    if len(defined) < 2:
        return math.nan
    mean = mean_of_defined(defined)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in defined) / (len(defined) - 1) / len(defined))
