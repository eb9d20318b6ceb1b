"""DAVIS: indexed masks with void, black and white masks of 2016, image sets, incomplete clips."""

import numpy as np
import pytest
import torch
from PIL import Image

from dias_video.data.davis import DavisVideos

SIZE = (24, 40)  # (H,W)


def mask(frame):
    ids = np.zeros(SIZE, np.uint8)
    ids[2:10, 3 + frame : 13 + frame] = 1
    ids[12:20, 20:30] = 2
    ids[12:20, 30] = 255
    return ids


def write(root, clips=("bear", "cows"), num_frames=3, year=2017, annotated=None):
    for name in clips:
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / name).mkdir(parents=True, exist_ok=True)
        for t in range(num_frames):
            Image.new("RGB", SIZE[::-1], (20 * t, 50, 80)).save(root / f"JPEGImages/480p/{name}/{t:05d}.jpg")
            if annotated is not None and t not in annotated:
                continue
            if year == 2016:
                picture = Image.fromarray(np.where((mask(t) > 0) & (mask(t) < 255), 255, 0).astype(np.uint8))
            else:
                picture = Image.fromarray(mask(t), mode="P")
                picture.putpalette([value % 256 for value in range(768)])
            picture.save(root / f"Annotations/480p/{name}/{t:05d}.png")
    if year == 2016:
        pairs = [(f"480p/{name}/{t:05d}", name) for name in clips for t in range(num_frames)]
        text = "".join(f"/JPEGImages/{path}.jpg /Annotations/{path}.png\n" for path, _ in pairs)
    else:
        text = "".join(f"{name}\n" for name in clips)
    for folder in ["480p"] if year == 2016 else ["2016", "2017"]:
        (root / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / folder / "val.txt").write_text(text)
    return root


def test_indexed_masks_with_void(tmp_path):
    source = DavisVideos(write(tmp_path), "val")
    assert [source.info(i).video_id for i in range(2)] == ["bear", "cows"]
    sample = source.read(1, [2, 0])
    expected = np.stack([mask(2), mask(0)]).astype(np.int16)
    expected[expected == 255] = -1
    assert torch.equal(sample["masks"], torch.from_numpy(expected))
    assert sample["boxes"][0].tolist() == [
        pytest.approx([5 / 40, 2 / 24, 15 / 40, 10 / 24]),
        pytest.approx([20 / 40, 12 / 24, 30 / 40, 20 / 24]),  # void is not part of it
    ]


@pytest.mark.parametrize("written", [2016, 2017])
def test_2016_has_one_foreground_instance(tmp_path, written):
    root = write(tmp_path, year=written)
    sample = DavisVideos(root, "val", year=2016).read(0, [1])
    objects = (mask(1) > 0) & (mask(1) < 255)
    assert torch.equal(sample["masks"][0] == 1, torch.from_numpy(objects))
    assert sample["boxes"].shape == (1, 1, 4)


def test_clips_annotated_in_the_first_frame_only_are_void_afterwards(tmp_path):
    sample = DavisVideos(write(tmp_path, annotated=[0]), "val").read(0, [0, 2])
    assert sample["masks"][0].max() == 2
    assert (sample["masks"][1] == -1).all()
    assert sample["box_valid"].tolist() == [[True, True], [False, False]]


def test_missing_masks_and_frames_are_named(tmp_path):
    root = write(tmp_path)
    (root / "Annotations/480p/bear/00001.png").unlink()
    with pytest.raises(ValueError, match=r"bear/00001.png is missing .1 of 3."):
        DavisVideos(root, "val")
    source = DavisVideos(root, "val", on_error="skip_and_report")
    assert [source.info(i).video_id for i in range(len(source))] == ["cows"]
    assert "00001.png" in source.problems[0].sentence
    for file in (root / "JPEGImages/480p/cows").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="leaves no usable clip"):
        DavisVideos(root, "val", on_error="skip_and_report")


@pytest.mark.parametrize(
    ("text", "sentence"), [("bear\nbear\n", "lists bear twice"), ("", "is empty"), ("..\n", "outside of")]
)
def test_wrong_lists_are_named(tmp_path, text, sentence):
    root = write(tmp_path)
    (root / "ImageSets/2017/val.txt").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        DavisVideos(root, "val")


def test_masks_of_another_size_and_in_colour_are_named(tmp_path):
    root = write(tmp_path)
    Image.new("P", (41, 24)).save(root / "Annotations/480p/bear/00001.png")
    with pytest.raises(ValueError, match="masks are 41x24, frames are 40x24"):
        DavisVideos(root, "val").read(0, [1])
    Image.new("RGB", (40, 24)).save(root / "Annotations/480p/bear/00001.png")
    with pytest.raises(ValueError, match=r"bear/00001.png is a colour picture"):
        DavisVideos(root, "val").read(0, [1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"split": "test"}, r"test.txt is missing"), ({"year": 2018}, "year"), ({"resolution": "1080p"}, "1080p")],
)
def test_wrong_options_are_refused(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DavisVideos(write(tmp_path), **{"split": "val", **options})
