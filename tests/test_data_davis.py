"""DAVIS: indexed masks with void, black and white masks of 2016, image sets, incomplete clips."""

import numpy as np
import pytest
import torch
from data_files import CASES, reads_shared
from PIL import Image

from dias_video.data.davis import DavisVideos
from dias_video.data.pictures import opened

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


def test_the_unsupervised_release(tmp_path):
    root = write(tmp_path)
    (root / "Annotations").rename(root / "Annotations_unsupervised")
    source = DavisVideos(root, "val")
    assert source.read(0, [0])["masks"].max() == 2
    assert source.annotations == root / "Annotations_unsupervised/480p"
    (root / "Annotations/480p/bear").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"choose with data.task=semi-supervised or unsupervised"):
        DavisVideos(root, "val")
    assert len(DavisVideos(root, "val", task="unsupervised")) == 2
    with pytest.raises(ValueError, match=r"Annotations/480p/bear/00000.png is missing .3 of 3"):
        DavisVideos(root, "val", task="semi-supervised")


def test_test_sets_without_masks_give_frames_alone(tmp_path):
    root = write(tmp_path, annotated=[])
    (root / "ImageSets/2019").mkdir()
    (root / "ImageSets/2017/val.txt").rename(root / "ImageSets/2019/test-dev.txt")
    for folder in (root / "Annotations/480p").iterdir():
        folder.rmdir()
    sample = DavisVideos(root, "test-dev").read(1, [2, 0])
    assert sample["video"].shape == (2, 3, *SIZE)
    assert "masks" not in sample
    assert "boxes" not in sample


def test_extensions_in_any_case_and_files_of_macos(tmp_path):
    root = write(tmp_path)
    for kind in ("JPEGImages", "Annotations"):
        for file in (root / kind / "480p/bear").iterdir():
            file.rename(file.with_suffix(file.suffix.upper()))
            file.with_name(f"._{file.name}").write_bytes(b"macOS")
    sample = DavisVideos(root, "val").read(0, [0, 2])
    assert sample["masks"].max() == 2


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_black_and_white_masks_are_one_object_of_2016_and_refused_in_2017(tmp_path, mode):
    root = write(tmp_path, clips=("bear",), num_frames=1, year=2016)
    white = np.where((mask(0) > 0) & (mask(0) < 255), 255, 0).astype(np.uint8)
    picture = Image.fromarray(white, mode="P") if mode == "P" else Image.fromarray(white).convert(mode)
    if mode == "P":
        picture.putpalette([value // 3 for value in range(768)])
    picture.save(root / "Annotations/480p/bear/00000.png")
    sample = DavisVideos(root, "val", year=2016).read(0, [0])
    assert torch.equal(sample["masks"][0] == 1, torch.from_numpy(white == 255))
    assert sample["masks"].min() == 0
    (root / "ImageSets/2017").mkdir()
    (root / "ImageSets/2017/val.txt").write_text("bear\n")
    if mode != "P":
        with pytest.raises(ValueError, match=r"00000.png is black and white, .*set data.year=2016"):
            DavisVideos(root, "val").read(0, [0])


def test_255_is_void_in_gray_masks_of_2017_too(tmp_path):
    root = write(tmp_path, clips=("bear",), num_frames=1)
    Image.fromarray(mask(0)).save(root / "Annotations/480p/bear/00000.png")
    sample = DavisVideos(root, "val").read(0, [0])
    assert np.array_equal(sample["masks"][0] == -1, mask(0) == 255)
    assert sample["boxes"].shape[1] == 2


def test_ids_of_16_bits_are_renumbered_over_the_clip(tmp_path):
    root = write(tmp_path, clips=("bear",), num_frames=3)
    scattered = np.array([0, 300, 255, 7, 40000, 65535], np.uint16)
    for t, present in enumerate(([0, 1, 3], [0, 4], [0, 1, 2, 5])):
        ids = np.repeat(scattered[present], 4)[None].repeat(24, 0)
        Image.fromarray(np.pad(ids, ((0, 0), (0, 40 - ids.shape[1])))).save(root / f"Annotations/480p/bear/0000{t}.png")
    source = DavisVideos(root, "val")
    whole = source.read(0, [0, 1, 2])
    assert whole["boxes"].shape[1] == 5
    assert [mask.unique().tolist() for mask in whole["masks"]] == [
        [0, 1, 3],
        [0, 4],
        [0, 2, 3, 5],
    ]  # 7 255 300 40000 65535
    for t in (2, 0, 1):  # whatever frames are read
        assert torch.equal(DavisVideos(root, "val").read(0, [t])["masks"][0], whole["masks"][t])


@reads_shared
def test_masks_and_lists_that_other_programs_fail_on():
    sample = DavisVideos(CASES / "davis16_rgba", "val", year=2016).read(0, [0, 1, 2])
    for t in range(3):
        picture = np.asarray(opened(CASES / f"davis16_rgba/Annotations/480p/clip/0000{t}.png"))
        white = (picture if picture.ndim == 2 else picture[..., 0]) == 255
        assert np.array_equal(sample["masks"][t] == 1, white)
        assert white.any()
    sample = DavisVideos(CASES / "davis_16bit_big", "val").read(0, [0])
    assert sample["masks"].unique().tolist() == list(range(sample["boxes"].shape[1] + 1))
    assert len(DavisVideos(CASES / "davis_list_bom", "val")) == 1


def test_lists_in_another_encoding_are_named(tmp_path):
    root = write(tmp_path)
    (root / "ImageSets/2017/val.txt").write_text("b\u00e4r\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"val.txt is not in UTF-8 .byte 1.; save it as UTF-8"):
        DavisVideos(root, "val")


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
    with pytest.raises(ValueError, match="leaves no video that can be used"):
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
    with pytest.raises(ValueError, match=r"bear/00001.png has another size than 00000.png"):
        DavisVideos(root, "val").read(0, [1])
    Image.new("RGB", (40, 24), (0, 9, 0)).save(root / "Annotations/480p/bear/00001.png")
    with pytest.raises(ValueError, match=r"bear/00001.png is a picture of mode RGB, masks are indexed or gray"):
        DavisVideos(root, "val").read(0, [1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"split": "test"}, r"test.txt is missing"), ({"year": 2018}, "year"), ({"resolution": "1080p"}, "1080p")],
)
def test_wrong_options_are_refused(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DavisVideos(write(tmp_path), **{"split": "val", **options})
