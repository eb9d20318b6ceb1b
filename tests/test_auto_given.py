"""Objects that are given on the first frame: what is understood, what is refused, and that they keep what is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import binary_erosion
from test_auto import film, overlap, square, vit
from test_report import content

import dias_video
from dias_video.auto.given import given_objects
from dias_video.auto.parts import cells_given, parts_boxed, parts_given
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
    over = given_objects([[0.1, 0.2, 1.0001, 0.9], [0.5, 0.5, 1.99, 1.2]], None, SIZE)
    torch.testing.assert_close(over.boxes, torch.tensor([[0.1, 0.2, 1, 0.9], [0.5, 0.5, 1, 1]]))
    tiny = given_objects([[0, 0, 2, 1], [-50, -50, 1.5, 1.5]], None, SIZE).boxes
    torch.testing.assert_close(tiny, torch.tensor([[0, 0, 2 / 75, 1 / 50], [0, 0, 1.5 / 75, 1.5 / 50]]))
    corner = given_objects([[-50, -50, 1.5, 1.5]], None, SIZE).boxes
    torch.testing.assert_close(corner, tiny[1:])
    (tmp_path / "b.json").write_text(json.dumps([RED]))
    torch.testing.assert_close(given_objects(tmp_path / "b.json", None, SIZE).boxes, expected[:1])
    torch.testing.assert_close(pixels.cover((5, 3)), box_cover(expected[None], (5, 3))[0])
    assert given_objects(None, None, SIZE) is None


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "first_boxes holds no box"),
        ([[80, 5, 90, 25]], r"first_boxes: \[80, 5, 90, 25\] has no part in a frame of 75x50 pixels, read as pixels"),
        ([RED, [-9, -9, 0, 0]], "has no part in a frame"),
        ([[1, 0.1, 1.5, 0.9]], "has no part in a frame of 75x50 pixels, read as fractions; numbers are fractions of "),
        ([RED, [0.1, 0.2, 0.5, 0.9]], r"\[0\.1, 0\.2, 0\.5, 0\.9\] is smaller than a pixel .* read as pixels; numbers"),
        (
            [[0.1, 0.2, 0.11, 0.9]],
            r"is smaller than a pixel in a frame of 75x50 pixels, read as fractions; numbers are",
        ),
        ([[20, 5, 20, 25]], r"\[20, 5, 20, 25\] is no box; it needs x0 < x1 and y0 < y1"),
        ([[1, 2, 3]], "must be a list of boxes"),
        ([RED, ["a", 1, 2, 3]], r"four numbers, \[\[x0,y0,x1,y1\],…\]; \['a', 1, 2, 3\] is none"),
        ([[True, 0, 1, 1]], "must be a list of boxes"),
        (RED, "must be a list of boxes of four numbers, .*; 4 is none"),
        ({"x": 1}, r"must be a list of boxes .*; \{'x': 1\} is none"),
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


def test_cells_of_given_objects() -> None:
    """On 3x4 cells: a large object, a small one in it, one of a tenth of a cell, and one that others cover whole."""
    cover = torch.zeros(4, 3, 4)
    cover[0, :, :2] = 1
    cover[1, 1, 1], cover[1, 2, 1] = 0.6, 0.4
    cover[2, 2, 3] = 0.1
    cover[3, 1, 1], cover[3, 1, 2] = 1.0, 0.2
    rest, *objects = (cells.tolist() for cells in cells_given(cover.flatten(1)))
    assert objects == [[0, 1, 4, 8, 9], [5], [11], [5]]
    assert rest == [2, 3, 6, 7, 10]
    assert [c.tolist() for c in cells_given(torch.tensor([[1.0, 0.7]]))] == [
        [1],
        [0, 1],
    ]  # nothing is left but is needed
    assert [c.tolist() for c in cells_given(torch.zeros(0, 2))] == [[0, 1]]


def test_parts_of_masks_are_of_the_cells_marked() -> None:
    kinds = torch.eye(6)[:2]
    body = torch.zeros(5, 8, dtype=torch.int64)
    body[1:4, 2:5] = 1
    generator = torch.Generator().manual_seed(0)
    looks = kinds[body.flatten()] + 0.01 * torch.randn(40, 6, generator=generator)
    marked = torch.zeros(1, 5, 8)
    marked[0, :, 2:5] = 1  # the body and some ground
    centres, things = parts_given(looks, marked.flatten(1), Draws.for_videos(0, ["v"]))
    found = set(zip(things.tolist(), (centres @ kinds.T).argmax(1).tolist(), strict=True))
    assert found == {(0, 0), (1, 0), (1, 1)}  # what a mask marks is the object's


def test_parts_belong_to_the_box_that_holds_them() -> None:
    """Parts of 4x5 cells: ground, a body, one that is half in boxes, one without cells."""
    owned_by = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 1, 2, 0], [0, 1, 1, 2, 0], [0, 0, 0, 2, 2]])
    owner = F.one_hot(owned_by.flatten(), 4).float()
    looks = torch.arange(20.0)[:, None]

    def things(*boxes: tuple[float, float, float, float]) -> tuple[list[int], list[float]]:
        cover = box_cover(torch.tensor([boxes]).reshape(1, -1, 4), (4, 5))[0]
        new, group = parts_boxed(owner, looks, cover)
        return group.tolist(), new.flatten().tolist()

    tight = (0.2, 0.25, 0.6, 0.75)
    assert things(tight) == ([0, 1, 0, 0], [])
    assert things((0.0, 0.25, 0.8, 0.75)) == ([0, 1, 0, 0], [])  # 2 of 4 cells of part 2, 4 of 12 of the ground
    assert things((0.0, 0.0, 0.8, 1.0)) == ([0, 1, 0, 0], [])  # 3 of 4 cells of part 2, but in 0.8 of the frame
    assert things((0.0, 0.0, 0.8, 1.0), tight)[0] == [0, 2, 0, 0, 1]  # the smaller box has it, the other a new part
    assert things((0.0, 0.0, 0.2, 0.25)) == ([0, 0, 0, 0, 1], [0.0])
    assert things((0.0, 0.0, 1.0, 1.0)) == ([0, 0, 0, 0, 1], [9.5])
    assert things() == ([0, 0, 0, 0], [])
    every = F.one_hot(torch.ones(20, dtype=torch.int64), 2).float()[
        :, 1:
    ]  # one part, which a box holds all but a cell of
    new, group = parts_boxed(every, looks, torch.tensor([[1.0] * 19 + [0.0]]))
    assert (group.tolist(), new.tolist()) == ([0, 1], [[9.0]])


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


def test_an_object_that_is_lost_at_once_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten pixels of a frame of 75 x 50, which has 6 x 8 cells."""
    path = film(tmp_path / "a.mp4", square(2))
    mask = mask_file(tmp_path / "m.png", SIZE, {9: tuple(RED), 4: (40, 2, 42, 7)})
    list(dias_video.track(path, encoder=vit(), first_mask=mask))
    said = "warning: the model finds no pixel of the given object 4 on the first frame of a; encoder.tokens=192 sees"
    assert said in capsys.readouterr().err
    list(dias_video.track(path, encoder=vit(), first_boxes=[RED, GREEN]))
    assert "warning" not in capsys.readouterr().err


def test_files_have_the_given_objects_alone(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", square(3))
    within = {i: (x0 + 3, y0 + 2, x1 - 3, y1 - 2) for i, (x0, y0, x1, y1) in ((9, RED), (4, GREEN))}  # not up to edges
    mask = mask_file(tmp_path / "m.png", SIZE, within)
    list(track_files(video=path, out_dir=tmp_path / "out", encoder=vit(), first_mask=mask))
    found = np.asarray(Image.open(tmp_path / "out/a/00000.png"))
    np.testing.assert_array_equal(found, np.asarray(Image.open(mask)))  # as it was given
    assert np.unique(np.asarray(Image.open(tmp_path / "out/a/00002.png"))).tolist() == [0, 4, 9]
    described = json.loads((tmp_path / "out/a/instances.json").read_text())
    assert [one["id"] for one in described["annotations"]] == [4, 9]
    with np.load(tmp_path / "out/a/tracks.npz", allow_pickle=False) as arrays:
        named = {(int(track), int(i)) for track, i in zip(arrays["track_id"].flat, arrays["ids"].flat, strict=True)}
    assert named - {(-1, 0)} == {(0, 0), (1, 4), (2, 9)}
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
