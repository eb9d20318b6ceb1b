"""Objects that are given on the first frame: what is understood, what is refused, and that they keep what is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_erosion
from test_auto import film, overlap, square, vit
from test_report import content
from torch import Tensor

import dias_video
from dias_video.auto.given import given_objects
from dias_video.auto.parts import parts_given
from dias_video.auto.run import track_files
from dias_video.draws import Draws
from dias_video.model.initializers import box_cover
from dias_video.visualize import colour

SIZE = (50, 75)
RED, GREEN = [4, 5, 24, 25], [50, 28, 70, 48]  # on the first frame of ``square``


def test_boxes_in_pixels_as_fractions_and_from_json(tmp_path: Path) -> None:
    pixels = given_objects([RED, [60, 40, 90.5, 48]], None, SIZE)
    expected = torch.tensor([[4 / 75, 0.1, 24 / 75, 0.5], [0.8, 0.8, 1, 0.96]])
    torch.testing.assert_close(pixels.boxes, expected)
    assert (pixels.ids, pixels.exact) == ([1, 2], False)
    fractions = given_objects([[-0.2, 0, 0.5, 1]], None, SIZE)
    assert fractions.boxes.tolist() == [[0, 0, 0.5, 1]]
    (tmp_path / "b.json").write_text(json.dumps([RED]))
    torch.testing.assert_close(given_objects(tmp_path / "b.json", None, SIZE).boxes, expected[:1])
    torch.testing.assert_close(pixels.cover((5, 3)), box_cover(expected[None], (5, 3))[0])
    assert given_objects(None, None, SIZE) is None


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "first_boxes holds no box"),
        ([[80, 5, 90, 25]], r"first_boxes: \[80, 5, 90, 25\] lies outside of the frame, which is 75x50 pixels"),
        ([RED, [-9, -9, 0, 0]], "lies outside of the frame"),
        ([[20, 5, 20, 25]], r"\[20, 5, 20, 25\] is no box; it needs x0 < x1 and y0 < y1"),
        ([[1, 2, 3]], "must be a list of boxes"),
        ([["a", 1, 2, 3]], "must be a list of boxes"),
        ({"x": 1}, "must be a list of boxes"),
        ([[0, 0, float("nan"), 1]], "not finite"),
        ("nothing.json", r"first_boxes=nothing\.json can't be read"),
    ],
)
def test_boxes_that_are_none_are_answered(boxes: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given_objects(boxes, None, SIZE)


def mask_file(path: Path, size: tuple[int, int], ids: dict[int, tuple[int, int, int, int]]) -> Path:
    mask = np.zeros(size, np.uint8)
    for i, (x0, y0, x1, y1) in ids.items():
        mask[y0:y1, x0:x1] = i
    Image.fromarray(mask).save(path)
    return path


def test_masks_of_any_size(tmp_path: Path) -> None:
    size = (100, 151)
    file = mask_file(tmp_path / "m.png", size, {7: (8, 10, 48, 50), 3: (100, 60, 140, 90), 255: (0, 90, 5, 100)})
    given = given_objects(None, file, SIZE)
    assert (given.ids, given.exact) == ([3, 7], True)
    grid = (4, 7)
    fine = torch.zeros(2, 100 * 4, 151 * 7)  # every pixel 4 by 7
    for k, i in enumerate((3, 7)):
        whole = torch.from_numpy(np.asarray(Image.open(file)) == i).float()
        fine[k] = whole.repeat_interleave(4, 0).repeat_interleave(7, 1)
    expected = fine.view(2, 4, 100, 7, 151).mean((2, 4)).flatten(1)
    torch.testing.assert_close(given.cover(grid), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(given.boxes[1], torch.tensor([8 / 151, 0.1, 48 / 151, 0.5]))
    white = given_objects(None, mask_file(tmp_path / "w.png", SIZE, {255: (1, 2, 30, 40)}), SIZE)
    assert white.ids == [1]
    with pytest.raises(ValueError, match=r"first_mask=.*e\.png is empty; mark every object"):
        given_objects(None, mask_file(tmp_path / "e.png", SIZE, {}), SIZE)
    with pytest.raises(ValueError, match="first_boxes or first_mask, not both"):
        given_objects([RED], file, SIZE)


def test_parts_of_a_box_that_look_like_the_rest_belong_to_it() -> None:
    """Two looks: of the ground and of a body; a box holds the body and some ground, another lies on it whole."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.eye(6)[:2]
    body = torch.zeros(8, 8, dtype=torch.int64)
    body[2:5, 2:5] = 1
    looks = kinds[body.flatten()] + 0.01 * torch.randn(64, 6, generator=generator)
    boxes = torch.tensor([[[0.125, 0.125, 0.75, 0.75], [0.25, 0.25, 0.375, 0.375]]])
    cover = box_cover(boxes, (8, 8))[0]

    def parts(alike: float | None, cover: Tensor = cover) -> list[tuple[int, int]]:
        centres, things = parts_given(looks, looks[None], cover, alike, Draws.for_videos(0, ["v"]))
        return sorted(zip(things.tolist(), (centres @ kinds.T).argmax(1).tolist(), strict=True))

    assert set(parts(0.4)) == {(0, 0), (1, 1), (2, 1)}
    assert (1, 0) in parts(None)  # what a mask marks is the object's
    alone = set(parts(0.4, torch.ones(1, 64)))  # the whole frame is covered
    assert {thing for thing, _ in alone} == {0, 1}


@pytest.mark.parametrize("kind", ["boxes", "mask"])
def test_given_objects_keep_what_is_theirs(tmp_path: Path, kind: str) -> None:
    video = square()
    path = film(tmp_path / "a.mp4", video)
    if kind == "boxes":
        start = {"first_boxes": [GREEN, RED]}
    else:
        size = (100, 150)
        start = {"first_mask": mask_file(tmp_path / "m.png", size, {2: (8, 10, 48, 50), 1: (100, 56, 140, 96)})}
    windows = dias_video.track(path, encoder=vit(), window=7, **start)
    labels = torch.cat([sequence.labels[0] for _, sequence in windows])
    assert labels.unique().tolist() == [0, 1, 2]
    red = (video[:, 0].int() - video[:, 1].int() > 100) & (video[:, 0] > 200)
    green = (video[:, 1].int() - video[:, 0].int() > 100) & (video[:, 1] > 150)
    assert overlap(labels == 1, green) > 0.6
    assert overlap(labels == 2, red) > 0.6


def test_files_have_the_given_objects_alone(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", square(3))
    mask = mask_file(tmp_path / "m.png", SIZE, {9: tuple(RED), 4: tuple(GREEN)})
    list(track_files(video=path, out_dir=tmp_path / "out", encoder=vit(), first_mask=mask))
    found = np.asarray(Image.open(tmp_path / "out/a/00000.png"))
    assert np.unique(found).tolist() == [0, 4, 9]
    described = json.loads((tmp_path / "out/a/instances.json").read_text())
    assert [one["id"] for one in described["annotations"]] == [4, 9]
    (group,) = content(tmp_path / "out/a/report.html")
    (video,) = group["videos"]
    assert {track["id"] for track in video["tracks"]} - {-1} == {3, 8}  # a picture's id is the track's number and one
    seen = {
        i: None if c is None else tuple(c)
        for i, c in zip(*(video["panels"][1][k] for k in ("ids", "colours")), strict=True)
    }
    assert seen == {-1: None, 3: colour(3), 8: colour(8)}
    with av.open(str(tmp_path / "out/a/overlay.mp4")) as film_file:
        first = next(film_file.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    around = np.asarray(square(1)[0].permute(1, 2, 0), int)
    inside = binary_erosion(found == 0, iterations=4, border_value=1)  # away from lines between objects
    assert np.abs(first - around)[inside].mean() < 8  # as the frame is
    assert np.abs(first - around)[found > 0].mean() > 30


def test_a_trained_model_is_given_boxes(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", square(3))
    ((_, sequence),) = dias_video.track(path, checkpoint="shipped", first_boxes=[RED, GREEN])
    assert sequence.live[0, 0].tolist() == [True] * 3 + [False] * 5
    with pytest.raises(ValueError, match="slots for 7 objects, 8 are given"):
        dias_video.track(path, checkpoint="shipped", first_boxes=[RED] * 8)
    with pytest.raises(ValueError, match="leave it out where objects are given"):
        dias_video.track(path, slots=3, first_boxes=[RED])
    film(tmp_path / "videos/a.mp4", square(2))
    film(tmp_path / "videos/b.mp4", square(2))
    with pytest.raises(ValueError, match="one video, here are 2"):
        list(track_files(video=tmp_path / "videos", out_dir=tmp_path / "o", checkpoint="shipped", first_boxes=[RED]))
