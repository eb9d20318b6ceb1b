"""From maps on the grid to masks in pixels, against hand-made pictures and a slow loop of ridge regressions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor

from dias_video.tracking import owners, to_pixels


def test_masks_are_the_argmax_over_live_slots() -> None:
    maps = torch.zeros(2, 3, 2, 4)
    maps[:, 0] = 0.9
    maps[:, 1, :, :2] = 0.6
    maps[:, 2, :, 2:] = 0.7
    mask = torch.tensor([[False, True, True], [False, False, False]])
    ids = torch.tensor([[8, 5, 2], [8, 5, 2]])
    got = owners(maps, mask, ids, (6, 16))
    assert got.shape == (2, 6, 16)
    assert (got[0, :, :6] == 5).all()
    assert (got[0, :, 10:] == 2).all()
    assert (got[1] == -1).all()


def halves(height: int, width: int, edge: int) -> tuple[Tensor, Tensor]:
    """Two flat colours that meet at column ``edge``: frames (2,3,H,W), and labels (H,W)."""
    labels = (torch.arange(width) >= edge).int().expand(height, width)
    colours = torch.tensor([[200, 30, 90], [60, 120, 30]], dtype=torch.uint8)
    return colours[labels.long()].permute(2, 0, 1).expand(2, -1, -1, -1), labels


@pytest.mark.parametrize(("height", "width", "edge"), [(23, 61, 20), (24, 60, 34), (180, 301, 125), (5, 9, 3)])
def test_masks_end_where_colours_change(height: int, width: int, edge: int) -> None:
    video, labels = halves(height, width, edge)
    cells = torch.arange(5).expand(3, 5) >= round(edge / width * 5)  # of a grid of 3 x 5, nearest to the edge
    maps = torch.stack([~cells, cells]).float().expand(2, -1, -1, -1)
    mask, ids = torch.ones(2, 2, dtype=torch.bool), torch.tensor([[0, 1], [0, 1]])
    rough = owners(maps, mask, ids, (height, width))
    fine = owners(maps, mask, ids, (height, width), edges_of=video)
    assert torch.equal(fine, labels.expand(2, -1, -1))
    assert not torch.equal(rough, fine)


@pytest.mark.parametrize(
    ("size", "step", "reach"),  # cells of 3.7 x 11, 8 x 8.8 and 8.3 x 12.6 pixels; reaches in points
    [((11, 55), 1, (6, 16)), ((24, 44), 2, (6, 7)), ((25, 63), 2, (6, 9))],
)
def test_every_window_is_a_ridge_regression_on_colour(size: tuple[int, int], step: int, reach: tuple[int, int]) -> None:
    """A loop over windows around every ``step``-th pixel gives the same numbers."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 5, generator=generator)
    frame = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    around = [(reach[0], reach[0]), (reach[1], reach[1]), (0, 0)]
    whole = [(0, -size[0] % step), (0, -size[1] % step), (0, 0)]  # to multiples of the step
    before = F.interpolate(maps[None], size=size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    before = np.pad(before, whole, "edge")[::step, ::step]
    colours = np.pad(frame.permute(1, 2, 0).numpy() / 255, whole, "edge")
    padded_maps, padded_colours = np.pad(before, around, "edge"), np.pad(colours[::step, ::step], around, "edge")
    lines = np.zeros((*before.shape[:2], 8))  # of both maps: three slopes and a constant
    for y, x in np.ndindex(lines.shape[:2]):
        window = np.s_[y : y + 2 * reach[0] + 1, x : x + 2 * reach[1] + 1]
        points = padded_colours[window].reshape(-1, 3)
        fit = Ridge(alpha=1e-3 * len(points)).fit(points, padded_maps[window].reshape(-1, 2))
        lines[y, x] = np.concatenate([fit.coef_.ravel(), fit.intercept_])
    padded, mean = np.pad(lines, around, "edge"), np.zeros_like(lines)
    for y, x in np.ndindex(lines.shape[:2]):
        mean[y, x] = padded[y : y + 2 * reach[0] + 1, x : x + 2 * reach[1] + 1].mean((0, 1))
    even = colours.shape[:2]
    all_pixels = F.interpolate(torch.from_numpy(mean).permute(2, 0, 1)[None], size=even, mode="bilinear")[0].numpy()
    expected = np.einsum("mchw,hwc->mhw", all_pixels[:6].reshape(2, 3, *even), colours) + all_pixels[6:]
    assert to_pixels(maps, size, frame).numpy() == pytest.approx(expected[:, : size[0], : size[1]], abs=1e-4)


@pytest.mark.parametrize("size", [(160, 160), (181, 302)])
def test_borders_are_where_they_are_in_the_picture_turned_round(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 16, 16, generator=generator)
    smooth = F.interpolate(torch.rand(1, 3, 9, 9, generator=generator), size=size, mode="bicubic")[0]
    frame = (smooth.clamp(0, 1) * 255).to(torch.uint8)
    labels = to_pixels(maps, size, frame).argmax(0)
    turned = to_pixels(maps.flip(-2, -1), size, frame.flip(-2, -1)).argmax(0).flip(-2, -1)
    assert (labels != turned).float().mean() < 0.03


def test_frames_smaller_than_the_grid_have_no_edges_to_follow() -> None:
    maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    frame = torch.randint(0, 256, (3, 4, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert torch.allclose(to_pixels(maps, (4, 5), frame), to_pixels(maps, (4, 5)), atol=1e-6)


@pytest.mark.parametrize("follow_edges", [False, True])
def test_one_slot_owns_everything_and_no_slot_nothing(follow_edges: bool) -> None:
    video, _ = halves(14, 19, 6)
    edges_of = video if follow_edges else None
    mask, ids = torch.tensor([[True], [False]]), torch.tensor([[7], [7]])
    masks = owners(torch.rand(2, 1, 3, 4), mask, ids, (14, 19), edges_of)
    assert (masks[0] == 7).all()
    assert (masks[1] == -1).all()
    nothing = owners(torch.rand(0, 1, 3, 4), mask[:0], ids[:0], (14, 19), video[:0] if follow_edges else None)
    assert nothing.shape == (0, 14, 19)
