"""Segmentation measures from exact pixel counts: ARI, FG-ARI, mBO, mIoU, and identity switches.

Everything is computed from one table for each video: the number of pixels with true id r and predicted id c. The table
holds exact integers, so results depend neither on the batch in which a video is scored nor on the order of pixels or
ids.
``docs/evaluation.md`` states the definitions and where other code differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dias_video.data.source import VOID

BACKGROUND = 0  # true id of the background
CHUNK_PIXELS = 1 << 19  # pixels that are counted at once, for a few megabytes of working memory
MAX_CELLS = 1 << 23  # cells of a table held at once: 64 MB, and a few times that while scoring
MAX_CELLS_OF_ONE_VIDEO = 1 << 26
COUNTED_BY_BINCOUNT = ("cpu",)  # on other devices bincount would wait for the device at every call
FIXED_POINT = 1 << 48  # averages are summed as integers in this unit, so that the order does not matter


@dataclass(frozen=True)
class OverlapTable:
    """Pixel counts of B maps. The row of void pixels is zero, as are rows and columns of ids that a map lacks."""

    counts: Tensor  # (B,R,C) int64, pixels with true id r and predicted id c
    true_ids: Tensor  # (R,) int64, ascending
    pred_ids: Tensor  # (C,) int64, ascending

    def pooled(self) -> OverlapTable:
        """The table (1,R,C) of all maps together, for example that of a video from those of its frames."""
        return OverlapTable(self.counts.sum(0, keepdim=True), self.true_ids, self.pred_ids)

    def instances(self, ignore_background: bool) -> Tensor:
        """Which true ids occur, (B,R) bool, with or without the background."""
        present = self.counts.sum(2) > 0
        return present & (self.true_ids != BACKGROUND) if ignore_background else present

    def iou(self) -> Tensor:
        """Intersection over union of every true with every predicted id, (B,R,C) float64; 0 for absent ids.

        The union counts all pixels that are not void, background included.
        """
        union = self.counts.sum(2, keepdim=True) + self.counts.sum(1, keepdim=True) - self.counts
        return self.counts.double() / union.clamp(min=1)

    def adjusted_rand_index(self, ignore_background: bool) -> Tensor:
        """See the function of this name; (B,) float64."""
        counts = self.counts
        if ignore_background:
            counts = counts.masked_fill((self.true_ids == BACKGROUND)[:, None], 0)
        same_true, same_pred = _pairs(counts.sum(2)).sum(1), _pairs(counts.sum(1)).sum(1)
        pixels = counts.sum((1, 2))
        both = _pairs(counts).sum((1, 2))
        only_true, only_pred = same_true - both, same_pred - both
        neither = _pairs(pixels) - same_true - only_pred
        # These products exceed 64 bits. In float64 their rounding changes the score by no more than 1e-15, since the
        # denominator is at least as large as the products whose difference is taken.
        both, neither, only_true, only_pred = (x.double() for x in (both, neither, only_true, only_pred))
        numerator = 2 * (both * neither - only_true * only_pred)
        denominator = (both + only_true) * (only_true + neither) + (both + only_pred) * (only_pred + neither)
        # Maps that disagree on no pair agree, also where the ratio is 0/0 (one cluster in both).
        score = torch.where((only_true == 0) & (only_pred == 0), 1.0, numerator / denominator)
        return torch.where(pixels > 0, score, torch.nan)

    def mean_best_overlap(self, ignore_background: bool) -> Tensor:
        """See the function of this name; (B,) float64."""
        return _mean(self.iou().amax(2), self.instances(ignore_background))

    def mean_iou(self, ignore_background: bool) -> Tensor:
        """See the function of this name; (B,) float64. The assignment runs on the host, with one transfer per table."""
        wanted, offered = self.instances(ignore_background).cpu(), (self.counts.sum(1) > 0).cpu()
        iou = self.iou().cpu()
        matched = torch.zeros(wanted.shape, dtype=torch.float64)
        for b in range(len(iou)):
            rows, columns = wanted[b].nonzero()[:, 0], offered[b].nonzero()[:, 0]
            overlap = iou[b][rows][:, columns].numpy()  # only ids that occur, so that other maps have no influence
            r, c = linear_sum_assignment(overlap, maximize=True)
            matched[b, rows[r]] = torch.from_numpy(overlap[r, c])
        return _mean(matched, wanted).to(self.counts.device)


def adjusted_rand_index(pred: Tensor, true: Tensor, *, ignore_background: bool = False) -> Tensor:
    """Adjusted Rand index (Hubert and Arabie, 1985): agreement on pairs of pixels, 1 = same, 0 = chance.

    Equal to ``sklearn.metrics.adjusted_rand_score`` on the scored pixels, from exact pair counts.

    Args:
        pred: (B, ...) integers, any ids, gaps allowed. Trailing axes are pooled: (B,T,H,W) scores videos.
        true: (B, ...) integers of the same shape; 0 is background and -1 is void. Void pixels don't count.
        ignore_background: pixels with true id 0 don't count either (FG-ARI).

    Returns:
        (B,) float64 on the maps' device; NaN where no pixel counts. With a single true instance the score is 1 if the
        prediction does not divide it, and otherwise 0.

    Raises:
        ValueError: shapes or devices differ, maps have fewer than two axes, or maps are not integers.
    """
    return _score(pred, true, lambda table: table.adjusted_rand_index(ignore_background))


def mean_best_overlap(pred: Tensor, true: Tensor, *, ignore_background: bool = False) -> Tensor:
    """Mean best overlap: for each true instance the best IoU with any predicted id, averaged over instances.

    Several instances may share a predicted id (Pont-Tuset et al., 2017). ``ignore_background`` leaves id 0 out of the
    average, but its pixels still count in every union. Arguments and errors are those of ``adjusted_rand_index``.

    Returns:
        (B,) float64; NaN where there is no instance.
    """
    return _score(pred, true, lambda table: table.mean_best_overlap(ignore_background))


def mean_iou(pred: Tensor, true: Tensor, *, ignore_background: bool = False) -> Tensor:
    """Mean IoU after one-to-one assignment of predicted to true ids (Hungarian, maximising the summed IoU).

    The average is over all true instances; one without a partner counts 0. ``ignore_background`` leaves id 0 out of
    assignment and average, but its pixels still count in every union. Arguments and errors are those of
    ``adjusted_rand_index``.

    Returns:
        (B,) float64; NaN where there is no instance.
    """
    return _score(pred, true, lambda table: table.mean_iou(ignore_background))


def is_track(pred_ids: Tensor, background: int | None) -> Tensor:
    """Which predicted ids (C,) are tracks: all but ``background``, if there is one."""
    return torch.ones_like(pred_ids, dtype=torch.bool) if background is None else pred_ids != background


def switches_of_frames(table: OverlapTable, background: int | None = None) -> tuple[float, float]:
    """How often instances change their track, and how much of them is tracked.

    In a frame an instance and a track match if their IoU exceeds 1/2. An id can have at most one such partner, so no
    assignment is needed. A switch is a match with another track than in the instance's last match (as in CLEAR MOT,
    Bernardin and Stiefelhagen 2008, but earlier matches are not preferred). A tracker that never matches never
    switches, so read both numbers.

    Args:
        table: the table of a video's frames, ``counts`` (T,R,C).
        background: the predicted id that is not a track; None: every id is a track.

    Returns:
        Switches, summed over instances, and the share of (instance, frame) pairs that match; both NaN where the video
        has no instance.
    """
    present = table.instances(ignore_background=True)  # (T,R)
    union = table.counts.sum(2, keepdim=True) + table.counts.sum(1, keepdim=True) - table.counts
    match = (2 * table.counts > union) & present[..., None] & is_track(table.pred_ids, background)  # (T,R,C)
    matched, track = match.any(2), match.int().argmax(2)  # (T,R)
    frame = torch.arange(len(match), device=match.device)[:, None]
    last = torch.where(matched, frame, -1).cummax(0).values  # (T,R) latest frame with a match
    before = torch.cat([torch.full_like(last[:1], -1), last[:-1]])
    changed = matched & (before >= 0) & (track != track.gather(0, before.clamp(min=0)))
    pairs = int(present.sum())
    return (float(changed.sum()), float(matched.sum()) / pairs) if pairs else (torch.nan, torch.nan)


def table_of_maps(pred: Tensor, true: Tensor) -> OverlapTable:
    """One table for all maps (B, ...), with ids shared over the batch.

    Raises:
        ValueError: as for ``adjusted_rand_index``, or the table would have too many pairs of ids.
    """
    pred, true = _checked(pred, true)
    return _table(pred, true, _bounds(pred), _bounds(true))


def _score(pred: Tensor, true: Tensor, measure: Callable[[OverlapTable], Tensor]) -> Tensor:
    pred, true = _checked(pred, true)
    scores = [measure(table) for table in _tables(pred, true)]
    return torch.cat(scores) if scores else torch.zeros(0, dtype=torch.float64, device=pred.device)


def _checked(pred: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps as (B, pixels) of a signed or small unsigned integer type."""
    pred, true = torch.as_tensor(pred), torch.as_tensor(true)
    if pred.shape != true.shape or pred.ndim < 2:
        raise ValueError(
            f"pred and true must be maps (B, ...) of one shape, got {tuple(pred.shape)} and {tuple(true.shape)}"
        )
    if pred.device != true.device:
        raise ValueError(f"pred is on {pred.device} but true on {true.device}; move one of them")
    for name, maps in (("pred", pred), ("true", true)):
        if maps.is_floating_point() or maps.is_complex():
            raise ValueError(f"{name} must hold integer ids, got {maps.dtype}; take the argmax of soft maps first")
    return _signed(pred).flatten(1), _signed(true).flatten(1)


def _signed(maps: Tensor) -> Tensor:
    """Maps of types that PyTorch can't compute with are converted to wider types."""
    wider = {torch.bool: torch.uint8, torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
    return maps.to(wider.get(maps.dtype, maps.dtype))


def _bounds(maps: Tensor) -> tuple[int, int]:
    """Smallest and largest id; only here does counting wait for the device."""
    if not maps.numel():
        return 0, 0
    low, high = torch.stack(torch.aminmax(maps)).tolist()
    return low, high


def _tables(pred: Tensor, true: Tensor) -> Iterator[OverlapTable]:
    """Tables of successive groups of videos, each table of bounded size."""
    pred_bounds, true_bounds = _bounds(pred), _bounds(true)
    group = max(1, MAX_CELLS // (_width(pred_bounds) * _width(true_bounds)))
    for start in range(0, len(pred), group):
        part = slice(start, start + group)
        yield _table(pred[part], true[part], pred_bounds, true_bounds)


def _table(pred: Tensor, true: Tensor, pred_bounds: tuple[int, int], true_bounds: tuple[int, int]) -> OverlapTable:
    cells = _width(pred_bounds) * _width(true_bounds)
    if cells * len(pred) > MAX_CELLS:  # ids are far apart, so they are renumbered
        pred_ids, pred = torch.unique(pred, return_inverse=True)
        true_ids, true = torch.unique(true, return_inverse=True)
        cells = len(pred_ids) * len(true_ids)
        if cells * len(pred) > MAX_CELLS_OF_ONE_VIDEO:
            raise ValueError(
                f"{len(true_ids)} true and {len(pred_ids)} predicted ids in {len(pred)} map(s) are more pairs than "
                f"can be counted at once ({MAX_CELLS_OF_ONE_VIDEO}); are these label maps?"
            )
        pred_bounds, true_bounds = (0, len(pred_ids) - 1), (0, len(true_ids) - 1)
    else:
        pred_ids = torch.arange(pred_bounds[0], pred_bounds[1] + 1, device=pred.device)
        true_ids = torch.arange(true_bounds[0], true_bounds[1] + 1, device=pred.device)
    counts = _count(pred, true, pred_bounds, true_bounds)
    counts.masked_fill_((true_ids == VOID)[:, None], 0)
    return OverlapTable(counts, true_ids.long(), pred_ids.long())


def _width(bounds: tuple[int, int]) -> int:
    return bounds[1] - bounds[0] + 1


def _count(pred: Tensor, true: Tensor, pred_bounds: tuple[int, int], true_bounds: tuple[int, int]) -> Tensor:
    """Count pairs of ids (B, pixels) -> (B,R,C) int64, with a bounded number of pixels at once."""
    num_videos, num_pixels = pred.shape
    rows, columns = _width(true_bounds), _width(pred_bounds)
    counts = torch.zeros(num_videos, rows * columns, dtype=torch.int64, device=pred.device)
    at_once = max(1, CHUNK_PIXELS // max(1, num_pixels))
    for b in range(0, num_videos, at_once):
        part = counts[b : b + at_once]
        for p in range(0, num_pixels, CHUNK_PIXELS):
            where = (slice(b, b + at_once), slice(p, p + CHUNK_PIXELS))
            index = _shifted(true[where], true_bounds).mul_(columns).add_(_shifted(pred[where], pred_bounds))
            if len(part) > 1:
                index += torch.arange(len(part), dtype=index.dtype, device=index.device)[:, None] * (rows * columns)
            _add_counts(part.view(-1), index.flatten())
    return counts.reshape(num_videos, rows, columns)


def _shifted(ids: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Ids minus the smallest one, in a new tensor; with 32 bits if the ids fit, for half the memory traffic."""
    small = bounds[0] >= -(1 << 30) and bounds[1] < 1 << 30
    return ids.to(torch.int32 if small else torch.int64, copy=True).sub_(bounds[0])


def _add_counts(counts: Tensor, index: Tensor) -> None:
    if counts.device.type in COUNTED_BY_BINCOUNT:
        counts += torch.bincount(index, minlength=len(counts))
    else:
        index = index.long()
        counts.scatter_add_(0, index, torch.ones_like(index))


def _pairs(counts: Tensor) -> Tensor:
    """Unordered pairs among n things; exact in int64 up to three billion pixels a video."""
    return counts * (counts - 1) // 2


def _mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of the kept values in [0, 1] over the last axis, equal to the bit for any padding or order; NaN for none."""
    units = (values * FIXED_POINT).round().long().masked_fill(~keep, 0).sum(-1)
    return units.double() / FIXED_POINT / keep.sum(-1)
