"""Pictures: stable colours, overlays, panels, GIFs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import video_files
from data_files import Counting
from PIL import Image, ImageSequence
from tiny import clips, tiny_dias
from video_files import write

from dias_video.batch import VideoBatch
from dias_video.data.checking import Chosen
from dias_video.data.folder import OneVideo
from dias_video.data.source import seconds_shown
from dias_video.tracking import track_windows
from dias_video.visualize import (
    colour,
    colour_labels,
    draw_boxes,
    gif_file,
    in_256_colours,
    overlay,
    side_by_side,
    tracked_pictures,
    write_gif,
)


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
    bare = overlay(video, masks, opacity=0.5, background=0)
    assert (bare[0, :, :3] == 100).all()
    assert torch.equal(bare[0, :, 3:], got[0, :, 3:])
    assert (overlay(video, masks - 1, opacity=0.5)[0, :, :3] == 100).all()  # nobody's
    assert not colour_labels(masks, background=0)[0, :, :3].any()


def test_boxes_are_drawn_on_their_edges() -> None:
    pictures = torch.zeros(2, 10, 20, 3, dtype=torch.uint8)
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6]]] * 2)
    got = draw_boxes(pictures, boxes, torch.tensor([[True], [False]]))
    rows, columns = np.nonzero(got[0].any(-1).numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 2, 9)
    assert not got[1].any()


def test_panels_stand_side_by_side_under_their_titles() -> None:
    panels = [torch.full((2, 5, width, 3), width, dtype=torch.uint8) for width in (40, 60)]
    row = side_by_side(panels, ["a", "b"])
    assert row.shape == (2, 14 + 5, 40 + 60, 3)
    assert torch.equal(row[:, 14:], torch.cat(panels, dim=2))
    assert row[:, :14].max() > 200


def frames_of(path: Path) -> tuple[np.ndarray, list[int]]:
    """The frames (T,H,W,3) of a GIF and how long each is shown, in milliseconds, as Pillow reads them."""
    frames, shown = [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            shown.append(frame.info["duration"])
    return np.stack(frames), shown


def test_gif_holds_the_frames(tmp_path: Path) -> None:
    pictures = torch.zeros(5, 8, 6, 3, dtype=torch.uint8)
    pictures[torch.arange(5), torch.arange(5)] = 255
    pictures[3] = pictures[2]  # a frame that is the same is a frame
    write_gif(tmp_path / "a.gif", iter(pictures.split(2)), 0.1)
    frames, shown = frames_of(tmp_path / "a.gif")
    assert np.array_equal(frames, pictures)
    assert shown == [100] * 5
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_gif_keeps_the_times(tmp_path: Path) -> None:
    pictures = torch.randint(0, 255, (60, 6, 9, 3), dtype=torch.uint8)
    write_gif(tmp_path / "a.gif", pictures, 1 / 30)
    assert set(frames_of(tmp_path / "a.gif")[1]) == {30, 40}
    assert sum(frames_of(tmp_path / "a.gif")[1]) == 2000
    write_gif(tmp_path / "b.gif", pictures[:4], [0.04, 1, 0.25, 0.1])
    assert frames_of(tmp_path / "b.gif")[1] == [40, 1000, 250, 100]
    write_gif(tmp_path / "c.gif", pictures, 1 / 1000)
    assert set(frames_of(tmp_path / "c.gif")[1]) == {20}


def test_gif_keeps_the_colours_of_lines(tmp_path: Path) -> None:
    """Over noise, of which every pixel has another colour."""
    noise = torch.randint(0, 255, (2, 90, 121, 3), dtype=torch.uint8)
    boxes = torch.tensor([[[0.1, 0.1, 0.4, 0.5], [0.5, 0.2, 0.9, 0.8], [0.3, 0.6, 0.45, 0.95]]] * 2)
    drawn = draw_boxes(noise, boxes, torch.ones(2, 3, dtype=torch.bool))
    write_gif(tmp_path / "a.gif", drawn)
    frames = torch.from_numpy(frames_of(tmp_path / "a.gif")[0])
    for k in range(3):
        line = (drawn == torch.tensor(colour(k + 1))).all(-1)
        assert line.sum() > 80
        assert torch.equal(frames[line], drawn[line])
    assert (frames.float() - drawn.float()).abs().mean() < 30  # 192 colours for 10,000


def test_gif_shows_the_palette_it_was_given(tmp_path: Path) -> None:
    """Pictures of many colours that change slowly, whose means can be colours that are kept."""
    pictures = list(video_files.pictures(6))
    for number, picture in enumerate(pictures):
        picture[..., 0] = np.minimum(picture[..., 0], 3 * np.arange(96))
        picture[10:20, 5 * number :] = (40, 50, 60)
    write_gif(tmp_path / "a.gif", torch.from_numpy(np.stack(pictures)))
    for got, picture in zip(frames_of(tmp_path / "a.gif")[0], pictures, strict=True):
        indices, palette = in_256_colours(picture)
        assert np.array_equal(got, palette[indices][..., 1:])
        assert np.abs(got.astype(int) - picture).mean() < 3
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 256


@pytest.mark.parametrize("height", [9, 61])
def test_lines_are_drawn_at_the_size_that_is_shown(height: int) -> None:
    video = torch.full((1, 3, 40, 60), 100, dtype=torch.uint8)
    labels = torch.zeros(1, 40, 60, dtype=torch.int32)
    labels[:, :, 29:] = 1
    window = VideoBatch(video[None], ["v"], torch.zeros(1, 1).long(), torch.ones(1, 1, dtype=torch.bool))
    window.boxes, window.box_valid = torch.tensor([[[[0.2, 0.2, 0.8, 0.8]]]]), torch.ones(1, 1, 1, dtype=torch.bool)
    (piece,) = tracked_pictures([(window, SimpleNamespace(labels=labels[None]))], boxes=True, height=height)
    width = round(60 * height / 40)
    assert piece.shape == (1, 14 + height, 3 * width, 3)
    frames, slots, boxes = piece[0, 14:].split(width, dim=1)
    assert (frames == 100).all()
    white = (slots == 255).all(-1)
    assert white.sum(1).tolist() == [1] * height
    line = (boxes == torch.tensor(colour(1))).all(-1)
    assert line[:, width // 2].sum() == 2
    assert line[height // 2].sum() == 2
    assert ((boxes == 100).all(-1) | line).all()


def test_how_long_frames_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", "mpeg4", count=30, times=lambda number: number + 5 * (number > 20))
    source = OneVideo(path)
    assert seconds_shown(source, 0, range(30), 12) == pytest.approx([0.04] * 20 + [0.24] + [0.04] * 9)
    assert seconds_shown(source, 0, range(0, 28, 3), 12) == pytest.approx([0.12] * 6 + [0.32] + [0.12] * 3)
    assert seconds_shown(source, 0, [4], 12) == [1 / 12]
    assert seconds_shown(Chosen(source, [0], []), 0, [0, 1], 12) == pytest.approx([0.04] * 2)
    assert seconds_shown(Counting(), 0, range(5), 12) == [1 / 12] * 5
    with pytest.raises(ValueError, match="fps must be above 0, got 0"):
        seconds_shown(source, 0, range(2), 0)


def test_tracked_pictures_follow_the_windows() -> None:
    clip = clips(batch=1, frames=5, boxes=2)
    dias = tiny_dias(boxes=True)
    pieces = list(tracked_pictures(track_windows(dias, clip.windows(2), labels=True), boxes=True, height=16))
    assert [len(p) for p in pieces] == [2, 2, 1]
    assert pieces[0].shape[1:] == (16 + 14, 3 * 24, 3)


def test_no_two_videos_share_a_gif(tmp_path: Path) -> None:
    names = ["a/b_c", "a_b/c", "a/b/c", "a_b_c", "/a_/b", "a/_b"]
    files = [gif_file(tmp_path, name) for name in names]
    assert len(set(files)) == len(names)
    assert all(file.parent.is_dir() for file in files)
    assert gif_file(tmp_path, "../../x") == tmp_path / "x.gif"
