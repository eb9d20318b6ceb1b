"""Pictures: stable colours, overlays, panels, GIFs."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tiny import clips, tiny_dias

from dias_video.tracking import track_windows
from dias_video.visualize import colour, colour_labels, draw_boxes, overlay, side_by_side, tracked_pictures, write_gif


def test_a_track_keeps_its_colour_whatever_else_is_there() -> None:
    few = colour_labels(torch.tensor([[[3, 7]]]))
    many = colour_labels(torch.tensor([[[7, 0, 3, 900, -1]]]))
    assert few[0, 0, 0].tolist() == many[0, 0, 2].tolist() == list(colour(3))
    assert few[0, 0, 1].tolist() == many[0, 0, 0].tolist()
    assert many[0, 0, 4].tolist() == [0, 0, 0]
    assert len({colour(i) for i in range(24)}) == 24


def test_overlay_mixes_and_draws_borders() -> None:
    video = torch.full((1, 3, 4, 5), 100, dtype=torch.uint8)
    masks = torch.zeros(1, 4, 5, dtype=torch.int32)
    masks[:, :, 3:] = 1
    got = overlay(video, masks, opacity=0.5)
    assert got.shape == (1, 4, 5, 3)
    assert got[0, 0, 0].tolist() == [round(50 + c / 2) for c in colour(0)]
    assert (got[0, :, 3] == 255).all()


def test_boxes_are_drawn_on_their_edges() -> None:
    pictures = torch.zeros(2, 10, 20, 3, dtype=torch.uint8)
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6]]] * 2)
    got = draw_boxes(pictures, boxes, torch.tensor([[True], [False]]))
    rows, columns = np.nonzero(got[0].any(-1).numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 2, 9)
    assert not got[1].any()


def test_panels_are_scaled_to_one_height() -> None:
    small, large = torch.zeros(2, 5, 4, 3, dtype=torch.uint8), torch.ones(2, 20, 10, 3, dtype=torch.uint8)
    assert side_by_side([small, large]).shape == (2, 5, 4 + 2, 3)
    assert side_by_side([small, large], ["a", "b"], height=40).shape == (2, 40 + 14, 32 + 20, 3)


def test_gif_holds_the_frames(tmp_path: Path) -> None:
    pictures = torch.zeros(5, 8, 6, 3, dtype=torch.uint8)
    pictures[torch.arange(5), torch.arange(5)] = 255
    write_gif(tmp_path / "a.gif", iter(pictures.split(2)), fps=10)
    read = iio.imread(tmp_path / "a.gif")
    assert read.shape[:3] == (5, 8, 6)
    assert all(read[t, t].min() > 200 and read[t, (t + 1) % 5].max() < 50 for t in range(5))
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_a_gif_needs_a_rate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fps must be above 0, got 0"):
        write_gif(tmp_path / "a.gif", torch.zeros(1, 8, 6, 3, dtype=torch.uint8), fps=0)
    assert not list(tmp_path.iterdir())


def test_tracked_pictures_follow_the_windows() -> None:
    clip = clips(batch=1, frames=5, boxes=2)
    dias = tiny_dias(boxes=True)
    pieces = list(tracked_pictures(track_windows(dias, clip.windows(2), labels=True), boxes=True, height=16))
    assert [len(p) for p in pieces] == [2, 2, 1]
    assert pieces[0].shape[1:] == (16 + 14, 3 * 24, 3)
