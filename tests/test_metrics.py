"""Measures against scikit-learn, SciPy and slow set-based code that shares nothing with the implementation."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from dias_video.evaluation import metrics
from dias_video.evaluation.boundary import contour, dilate, j_and_f
from dias_video.evaluation.metrics import adjusted_rand_index, mean_best_overlap, mean_iou
from dias_video.evaluation.protocols import score_video

MEASURES = (adjusted_rand_index, mean_best_overlap, mean_iou)


def random_maps(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A pair of maps: ids with gaps, void, sometimes one cluster, sometimes no foreground, sometimes all void."""
    num_true, num_pred = rng.integers(1, 9), rng.integers(1, 12)
    true_ids = np.concatenate([[0], rng.choice(np.arange(1, 60), num_true, replace=False)])
    pred_ids = rng.choice(np.arange(-5, 2000), num_pred, replace=False)
    true = rng.choice(true_ids, shape)
    follow = rng.random(shape) < rng.random()
    pred = np.where(follow, pred_ids[true % num_pred], rng.choice(pred_ids, shape))
    kind = rng.integers(0, 12)
    if kind == 0:
        true[:] = 0
    elif kind == 1:
        true[:] = -1
    elif kind == 2:
        true[:] = true_ids[-1]
    elif kind == 3:
        pred[:] = pred_ids[0]
    if rng.random() < 0.5:
        true[rng.random(shape) < rng.random() * 0.6] = -1
    return pred, true


def slow_ari(pred: np.ndarray, true: np.ndarray, ignore_background: bool) -> float:
    keep = (true != -1) & ((true != 0) | (not ignore_background))
    return adjusted_rand_score(true[keep], pred[keep]) if keep.any() else math.nan


def slow_overlaps(pred: np.ndarray, true: np.ndarray, ignore_background: bool) -> list[list[float]]:
    pixels = [p for p in itertools.product(*map(range, true.shape)) if true[p] != -1]
    ids = sorted({int(true[p]) for p in pixels} - ({0} if ignore_background else set()))
    tracks = [{p for p in pixels if pred[p] == m} for m in sorted({int(pred[p]) for p in pixels})]
    rows = []
    for k in ids:
        mine = {p for p in pixels if true[p] == k}
        rows.append([len(mine & track) / len(mine | track) for track in tracks])
    return rows


def slow_mbo(rows: list[list[float]]) -> float:
    return sum(max(row) for row in rows) / len(rows) if rows else math.nan


def slow_miou(rows: list[list[float]]) -> float:
    if not rows:
        return math.nan
    matrix = np.array(rows)
    r, c = linear_sum_assignment(-matrix)
    return float(matrix[r, c].sum() / len(rows))


@pytest.mark.parametrize("ignore_background", [False, True])
def test_ari_equals_scikit_learn_on_thousands_of_cases(ignore_background: bool) -> None:
    rng = np.random.default_rng(0)
    undefined = 0
    for _ in range(40):
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 7)), int(rng.integers(1, 9)))
        pairs = [random_maps(rng, shape) for _ in range(30)]
        pred, true = (torch.from_numpy(np.stack(maps)) for maps in zip(*pairs, strict=True))
        got = adjusted_rand_index(pred, true, ignore_background=ignore_background)
        want = np.array([slow_ari(p, t, ignore_background) for p, t in pairs])
        assert got.dtype == torch.float64
        assert got.shape == (30,)
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-9)  # equal NaN too
        undefined += int(np.isnan(want).sum())
    assert undefined > 20  # the cases do include empty frames


@pytest.mark.parametrize("ignore_background", [False, True])
def test_overlap_measures_equal_set_based_code(ignore_background: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        shape = (int(rng.integers(1, 3)), int(rng.integers(1, 5)), int(rng.integers(1, 7)))
        pairs = [random_maps(rng, shape) for _ in range(20)]
        pred, true = (torch.from_numpy(np.stack(maps)) for maps in zip(*pairs, strict=True))
        overlaps = [slow_overlaps(p, t, ignore_background) for p, t in pairs]
        for fast, slow in ((mean_best_overlap, slow_mbo), (mean_iou, slow_miou)):
            got = fast(pred, true, ignore_background=ignore_background)
            np.testing.assert_allclose(got.numpy(), [slow(rows) for rows in overlaps], rtol=0, atol=1e-9)


def test_whole_videos_do_not_overflow() -> None:
    rng = np.random.default_rng(2)
    true = rng.integers(0, 11, (24, 256, 256))
    unrelated = rng.integers(0, 24, true.shape)
    close = np.where(rng.random(true.shape) < 0.001, unrelated, true)
    one_off = np.zeros_like(true)
    one_off[3, 5, 7] = 1
    nearly_one = np.zeros_like(true)
    nearly_one[0, :2, :3] = 4
    pairs = [(unrelated, true), (close, true), (true, true), (one_off, nearly_one)]
    pred, target = (torch.from_numpy(np.stack(m)).to(torch.int16) for m in zip(*pairs, strict=True))
    got = adjusted_rand_index(pred, target)
    np.testing.assert_allclose(got, [adjusted_rand_score(t.ravel(), p.ravel()) for p, t in pairs], rtol=0, atol=1e-9)
    assert abs(got[0]) < 1e-3
    assert got[2] == 1
    for measure in MEASURES:
        assert measure(target[2:3], target[2:3]).item() == 1


def test_unusual_ids_and_types() -> None:
    rng = np.random.default_rng(3)
    base_pred, base_true = rng.integers(0, 7, (5, 3, 8, 9)), rng.integers(-1, 5, (5, 3, 8, 9))
    scattered = np.array([0, 7, 2**31, -(2**40), 12345, 2**52, 99])
    want = [m(torch.from_numpy(base_pred), torch.from_numpy(base_true)) for m in MEASURES]
    for pred in (scattered[base_pred], base_pred.astype(np.uint16), base_pred.astype(np.uint8), base_pred - 3):
        for measure, expected in zip(MEASURES, want, strict=True):
            assert torch.equal(measure(torch.from_numpy(pred), torch.from_numpy(base_true)), expected)
    own = torch.arange(40 * 40).reshape(1, 40, 40)  # every pixel its own instance
    assert all(measure(own, own).item() == 1 for measure in MEASURES)
    assert adjusted_rand_index(own, torch.zeros_like(own)).item() == 0
    views = torch.from_numpy(base_pred).permute(0, 2, 3, 1), torch.from_numpy(base_true).permute(0, 2, 3, 1)
    assert torch.equal(mean_iou(*views), want[2])


def test_undefined_is_nan_and_never_a_number() -> None:
    true = torch.stack([torch.zeros(2, 3, 4), torch.full((2, 3, 4), -1), torch.ones(2, 3, 4)]).to(torch.int16)
    pred = torch.zeros_like(true)
    for measure in MEASURES:
        assert measure(pred, true, ignore_background=True).isnan().tolist() == [True, True, False]
        assert measure(pred, true).isnan().tolist() == [False, True, False]
        assert measure(pred[:0], true[:0]).shape == (0,)
        assert measure(pred[:, :0], true[:, :0]).isnan().all()


def test_one_instance_is_all_or_nothing() -> None:
    true = torch.zeros(2, 1, 4, 6, dtype=torch.int16)
    true[:, :, 1:3, 1:5] = 3
    pred = true.clone()
    pred[1, :, 1, 1] = 9
    assert adjusted_rand_index(pred, true, ignore_background=True).tolist() == [1, 0]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("ignore_background", [False, True])
def test_same_bits_for_any_batch(measure, ignore_background: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    pairs = [random_maps(rng, (3, 10, 14)) for _ in range(33)]
    pred, true = (torch.from_numpy(np.stack(maps)) for maps in zip(*pairs, strict=True))

    def scored(batch: int) -> torch.Tensor:
        parts = zip(pred.split(batch), true.split(batch), strict=True)
        return torch.cat([measure(p, t, ignore_background=ignore_background) for p, t in parts])

    whole = scored(33).numpy().tobytes()
    assert all(scored(batch).numpy().tobytes() == whole for batch in (1, 7, 16))
    monkeypatch.setattr(metrics, "CHUNK_PIXELS", 64)
    assert scored(33).numpy().tobytes() == whole
    monkeypatch.setattr(metrics, "MAX_CELLS", 100)  # ids are numbered video by video
    assert scored(33).numpy().tobytes() == whole


def test_wrong_maps_are_refused() -> None:
    maps = torch.zeros(2, 3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="one shape"):
        adjusted_rand_index(maps, maps[:, :2])
    with pytest.raises(ValueError, match="argmax"):
        mean_iou(maps.float(), maps)
    with pytest.raises(ValueError, match=r"maps \(B"):
        mean_best_overlap(maps[0, 0], maps[0, 0])
    with pytest.raises(ValueError, match="are these label maps"):
        adjusted_rand_index(torch.arange(10**4)[None], torch.arange(10**4)[None])


def test_frames_pool_to_their_video() -> None:
    rng = np.random.default_rng(5)
    pred, true = (torch.from_numpy(m) for m in random_maps(rng, (6, 11, 13)))
    table = metrics.table_of_maps(pred, true)
    assert torch.equal(table.pooled().mean_iou(True), mean_iou(pred[None], true[None], ignore_background=True))
    assert torch.equal(table.adjusted_rand_index(False).nan_to_num(9), adjusted_rand_index(pred, true).nan_to_num(9))


@pytest.mark.slow
def test_memory_stays_bounded() -> None:
    """64 videos of 24x256x256 with 24 x 24 labels: under 1 GB beyond the inputs (read in a process of its own)."""
    code = """
import resource, torch
from dias_video.evaluation.metrics import adjusted_rand_index, mean_best_overlap, mean_iou
pred = torch.randint(0, 24, (64, 24, 256, 256), dtype=torch.int16)
true = torch.randint(0, 24, (64, 24, 256, 256), dtype=torch.int16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for measure in (adjusted_rand_index, mean_best_overlap, mean_iou):
    assert measure(pred, true, ignore_background=True).shape == (64,)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1024


def test_identity_switches_by_hand() -> None:
    true = torch.zeros(6, 4, 8, dtype=torch.int16)
    true[:, :, :3], true[:, :, 4:6] = 1, 2
    pred = torch.zeros_like(true)
    pred[:, :, :3] = torch.tensor([5, 5, 6, 5, 0, 5])[:, None, None]  # two switches, one frame untracked...
    pred[4, :2, :3] = 9  # ...where two tracks share the instance half and half
    pred[4, 2:, :3] = 8
    pred[1:, :, 4:6] = 7  # unmatched in the first frame (background covers more than it), then steady
    true[3, :, 4:6] = 0  # instance 2 is out of sight once
    assert metrics.switches_of_frames(metrics.table_of_maps(pred, true)) == (2, pytest.approx(9 / 11))
    nothing = metrics.switches_of_frames(metrics.table_of_maps(pred, torch.zeros_like(true)))
    assert np.isnan(nothing).all()


def slow_f(p: np.ndarray, t: np.ndarray) -> float:
    """DAVIS's contour F of two binary masks, by coordinates."""

    def edge(mask: np.ndarray) -> np.ndarray:
        height, width = mask.shape
        out = np.zeros_like(mask)
        for y, x in itertools.product(range(height), range(width)):
            others = [(min(y + dy, height - 1), min(x + dx, width - 1)) for dy, dx in ((0, 1), (1, 0), (1, 1))]
            out[y, x] = any(mask[y, x] != mask[other] for other in others)
        return out

    p_edge, t_edge = edge(p), edge(t)
    if not p_edge.any() or not t_edge.any():
        return float(not p_edge.any() and not t_edge.any())
    radius = math.ceil(0.008 * math.hypot(*p.shape))
    near_t = ndimage.distance_transform_edt(~t_edge) <= radius
    near_p = ndimage.distance_transform_edt(~p_edge) <= radius
    precision, recall = near_t[p_edge].mean(), near_p[t_edge].mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blobs(rng: np.random.Generator, shape: tuple[int, int, int], ids: int) -> np.ndarray:
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), (1, 4, 4)) for _ in range(ids)])
    return noise.argmax(0)


@pytest.mark.parametrize("background", [None, 0])
def test_j_and_f_equal_a_slow_implementation(background: int | None) -> None:
    rng = np.random.default_rng(6)
    for num_true, num_pred in ((3, 5), (4, 2), (2, 2)):
        true, pred = blobs(rng, (3, 26, 34), num_true), 3 * blobs(rng, (3, 26, 34), num_pred)
        pred[:, :13] = 3 * true[:, :13]
        true[1, :6, :9] = -1
        seen, ids = true != -1, sorted(set(true.ravel()) - {0, -1})
        tracks = [*sorted(set(pred.ravel()) - {background}), 999]
        scores = np.zeros((len(ids), len(tracks), 2))
        for (k, i), (m, c) in itertools.product(enumerate(ids), enumerate(tracks)):
            frames = [((p == c) & s, t == i) for p, t, s in zip(pred, true, seen, strict=True)]
            overlap = [(a & b).sum() / (a | b).sum() if (a | b).any() else 1.0 for a, b in frames]
            scores[k, m] = np.mean(overlap), np.mean([slow_f(a, b) for a, b in frames])
        empty = len(tracks) - 1  # a track that is nowhere; instances may share only this one
        choices = itertools.product(range(len(tracks)), repeat=len(ids))
        legal = [c for c in choices if all(m == empty or c.count(m) == 1 for m in c)]
        best = max((scores[range(len(ids)), list(c)].mean(0) for c in legal), key=np.sum)
        got = j_and_f(torch.from_numpy(pred), torch.from_numpy(true), background)
        assert (got.j, got.f) == pytest.approx(tuple(best), abs=1e-12)


def test_j_and_f_of_perfect_and_empty() -> None:
    true = torch.zeros(4, 30, 40, dtype=torch.int16)
    true[:3, 4:12, 5:20], true[:, 20:28, 10:16] = 1, 2
    assert j_and_f(true * 7 + 3, true) == (1, 1)
    assert math.isnan(j_and_f(true, torch.zeros_like(true)).mean)
    with pytest.raises(ValueError, match="T,H,W"):
        j_and_f(true[0], true[0])


def test_background_is_no_track() -> None:
    true = torch.zeros(2, 30, 40, dtype=torch.int16)
    true[:, :, :30] = 1
    pred = true.long() - 1  # the background of the prediction lies on the instance
    assert j_and_f(pred, true).mean == 1
    assert j_and_f(pred, true, background=0) == (0, 1)  # what is left has the instance's contour
    assert j_and_f(torch.zeros_like(pred), true, background=0).mean == 0
    alone = score_video(pred, true, background=0)
    assert alone["tracking/j"] == j_and_f(pred, true, background=0).j
    assert alone["tracking/tracked"] == 0
    assert score_video(pred, true)["tracking/tracked"] == 1
    for measure in ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari"):  # which look at segments alone
        assert alone[measure] == pytest.approx(score_video(pred, true)[measure], nan_ok=True)


def test_contours_and_disks() -> None:
    dot = torch.zeros(1, 11, 13, dtype=torch.bool)
    dot[0, 5, 6] = True
    y, x = np.mgrid[:11, :13]
    assert np.array_equal(dilate(dot, 3)[0], np.hypot(y - 5, x - 6) <= 3)
    assert contour(dot)[0].nonzero().tolist() == [[4, 5], [4, 6], [5, 5], [5, 6]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("measure", MEASURES)
def test_the_device_changes_no_bit(measure) -> None:
    rng = np.random.default_rng(7)
    pairs = [random_maps(rng, (3, 10, 14)) for _ in range(9)]
    pred, true = (torch.from_numpy(np.stack(maps)) for maps in zip(*pairs, strict=True))
    there = measure(pred.cuda(), true.cuda())
    assert there.is_cuda
    assert there.cpu().numpy().tobytes() == measure(pred, true).numpy().tobytes()


def test_counting_by_scattering_equals_bincount(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of counting that other devices take, on the CPU."""
    rng = np.random.default_rng(8)
    pred, true = (torch.from_numpy(m)[None] for m in random_maps(rng, (3, 10, 14)))
    want = metrics.table_of_maps(pred, true).counts
    monkeypatch.setattr(metrics, "COUNTED_BY_BINCOUNT", ())
    assert torch.equal(metrics.table_of_maps(pred, true).counts, want)
