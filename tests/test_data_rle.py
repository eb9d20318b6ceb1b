"""Codes of masks: what they mean, and whatever an annotation file may hold in their place."""

import json
import math

import numpy as np
import pytest
import torch
from data_files import CASES, reads_shared
from PIL import Image
from pycocotools import mask as coder

from dias_video.data import rle
from dias_video.data.coco import CocoImages
from dias_video.data.ytvis import YouTubeVIS

SIZE = (24, 40)
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]
NAN, INFINITE = math.nan, math.inf


def square():
    mask = np.zeros(SIZE, bool)
    mask[5:15, 5:15] = True
    return mask


@pytest.mark.parametrize("factor", [1, 1e3, 6e3])
def test_polygons_reach_out_of_the_frame(factor):
    code = rle.encode([[0, 0, 40 * factor, 0, 40 * factor, 24 * factor, 0, 24 * factor]], SIZE)
    assert rle.decode(code, SIZE).all()
    assert rle.area(code) == 24 * 40


def test_codes_of_every_kind_are_one_mask():
    runs = [5 * 24 + 5, *[10, 14] * 9, 10, 24 * 40 - 5 * 24 - 5 - 10 * 10 - 14 * 9]
    compressed = coder.encode(np.asfortranarray(square(), np.uint8))["counts"].decode()
    for segmentation in (
        [SQUARE],
        [SQUARE, SQUARE[:6]],
        {"size": [24, 40], "counts": runs},
        {"size": [24, 40], "counts": compressed},
    ):
        code = rle.encode(segmentation, SIZE)
        assert np.array_equal(rle.decode(code, SIZE), square())
        assert rle.area(code) == 100
        assert rle.runs(code).tolist() == runs
    assert rle.encode(None, SIZE) == rle.encode([], SIZE) == b""


def test_more_masks_than_a_byte_counts():
    codes = [
        rle.encode([[x, y, x + 1, y, x + 1, y + 1, x, y + 1]], SIZE) for x in range(0, 40) for y in range(0, 24, 3)
    ]
    assert len(codes) == 320
    assert rle.union_area(codes, SIZE) == sum(map(rle.area, codes)) == 320
    assert rle.union_area([*codes, codes[0]], SIZE) == 320


WRONG = [
    ([[1, 1, 9, 1, NAN, 9]], "a coordinate is not a number"),
    ([[1, 1, 9, 1, INFINITE, 9]], "a coordinate is not a number"),
    ([[1, 1, 1e7, 1, 1e7, 1e7, 1, 1e7]], "a polygon is .* pixels around"),
    ([[0, 0, 1e5, 1e5] * 300], "a polygon is .* pixels around"),
    ([[1e12] * 6], "a polygon is .* pixels around"),
    ([[10**400, 0, 1, 1, 2, 2]], "something that is not a number"),
    ([[]], "at least 3 points of 2 coordinates, it has 0"),
    ([[1, 1]], "at least 3 points of 2 coordinates, it has 2"),
    ([[10, 4, 20, 12]], "at least 3 points of 2 coordinates, it has 4"),
    ([[1, 1, 9, 1, 9, 9, 1]], "at least 3 points of 2 coordinates, it has 7"),
    ([1, 1, 9, 1, 9, 9], "a polygon is a list of coordinates, not a int"),
    ([["1", "1", "9", "1", "9", "9"]], "something that is not a number"),
    ([[1, 1, 9, 1, None, 9]], "something that is not a number"),
    ([[[1, 1], [9, 1], [9, 9]]], "it holds"),
    ([[[1, 1], [9]]], "it holds lists where numbers belong"),
    ([{"size": [24, 40], "counts": [960]}], "a polygon is a list of coordinates, not a dict"),
    ({"size": [24, 40], "counts": [-5, 965]}, "a run is negative"),
    ({"size": [24, 40], "counts": [2**70, 5]}, "not a number|a run is negative"),
    ({"size": [24, 40], "counts": [900.5, 59.5]}, "its runs are no integers"),
    ({"size": [24, 40], "counts": [[960]]}, "not a number"),
    ({"size": [24, 40], "counts": ["960"]}, "not a number"),
    ({"size": [24, 40], "counts": []}, "its runs cover 0 of 960 pixels"),
    ({"size": [24, 40], "counts": 10**12}, "its counts are a int"),
    ({"size": [24, 40], "counts": None}, "its counts are a NoneType"),
    ({"size": [24, 40], "counts": ""}, "its run-length code is cut off"),
    ({"size": [24, 40], "counts": "\u00e9"}, "its run-length code is cut off"),
    ({"size": [24, 40], "counts": "oooooooooooooooo0"}, "its run-length code is damaged"),
    ({"size": [40, 24], "counts": [960]}, "it is .40, 24., the frames are .24, 40."),
    ({"size": None, "counts": [960]}, "it is None, the frames are"),
    ({"counts": [960]}, "neither a list of polygons nor a run-length code"),
    ("text", "neither a list of polygons nor a run-length code"),
    (0, "neither a list of polygons nor a run-length code"),
]


@pytest.mark.parametrize(("segmentation", "sentence"), WRONG)
def test_what_is_no_mask_is_answered_in_words(segmentation, sentence):
    with pytest.raises(ValueError, match=sentence):
        rle.encode(segmentation, SIZE)
    if isinstance(segmentation, list):
        for together in ([*segmentation, SQUARE], [SQUARE, *segmentation]):  # in any order
            with pytest.raises(ValueError, match=r"polygon|number|lists"):
                rle.encode(together, SIZE)


def coco(root, change):
    """Two images of which ``change`` may spoil the first."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for name in "ab":
        Image.new("RGB", SIZE[::-1]).save(root / f"val2017/{name}.png")
    described = {
        "images": [{"id": n, "file_name": f"{name}.png", "height": 24, "width": 40} for n, name in enumerate("ab")],
        "annotations": [{"image_id": n, "iscrowd": 0, "segmentation": [SQUARE]} for n in range(2)],
    }
    change(described["images"][0], described["annotations"][0], described)
    (root / "annotations/instances_val2017.json").write_text(json.dumps(described))
    return root


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        *[
            (lambda image, one, _, wrong=wrong: one.update(segmentation=wrong), "a mask of a can't be used")
            for wrong, _ in WRONG
        ],
        (lambda image, one, _: one.update(iscrowd="0"), "a mask of a can't be used .iscrowd must be 0 or 1, it is '0'"),
        (lambda image, one, _: one.update(iscrowd=[0, 0]), "iscrowd must be 0 or 1"),
        (
            lambda image, one, _: image.update(height=200000, width=200000),
            "200000x200000, more than 134 million pixels",
        ),
        (lambda image, one, _: image.update(height=INFINITE), "a has no usable size"),
        (lambda image, one, _: image.update(height=NAN), "a has no usable size"),
        (lambda image, one, _: image.update(height="24"), "a has no usable size"),
        (lambda image, one, _: image.update(height=-24), "a has no usable size"),
        (lambda image, one, _: image.update(file_name=7), "0 lacks file names"),
        (lambda image, one, _: image.update(file_name="b.png"), "lists the frames of b.png twice"),
    ],
)
def test_one_wrong_picture_leaves_the_others(tmp_path, change, sentence):
    root = coco(tmp_path, change)
    with pytest.raises(ValueError, match=rf"instances_val2017.json.*{sentence}"):
        CocoImages(root, "val2017")
    kept = CocoImages(root, "val2017", on_error="skip_and_report")
    assert len(kept) == 1
    assert len([problem for problem in kept.problems if not problem.harmless]) == 1
    if "twice" not in sentence:
        assert torch.equal(kept.read(0, [0])["masks"][0], torch.from_numpy(square().astype(np.int16)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda image, one, all_: all_.update(annotations={"a": 1}), "annotations must be a list of objects"),
        (lambda image, one, all_: all_.update(images=[7]), "images must be a list of objects"),
        (lambda image, one, all_: all_.update(images=[]), "lists no videos and no images"),
    ],
)
def test_a_json_of_another_kind_is_answered_in_words(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=rf"instances_val2017.json.*{sentence}"):
        CocoImages(coco(tmp_path, change), "val2017", on_error="skip_and_report")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_json_in_any_unicode_is_read(tmp_path, encoding):
    file = coco(tmp_path, lambda *_: None) / "annotations/instances_val2017.json"
    file.write_text(file.read_text(), encoding=encoding)
    assert len(CocoImages(tmp_path, "val2017")) == 2


@pytest.mark.parametrize("content", [b'{"images": "\xe9"}', b"[" * 100_000])
def test_a_json_that_is_none_is_named(tmp_path, content):
    file = coco(tmp_path, lambda *_: None) / "annotations/instances_val2017.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"instances_val2017.json is damaged .*download it again"):
        CocoImages(tmp_path, "val2017")


def test_a_json_without_a_single_mask_has_no_masks(tmp_path):
    for number, change in enumerate(
        (
            lambda image, one, all_: all_.update(annotations=[]),
            lambda image, one, all_: [annotation.update(segmentation=[]) for annotation in all_["annotations"]],
        )
    ):
        source = CocoImages(coco(tmp_path / str(number), change), "val2017")
        assert "masks" not in source.read(0, [0])


def several(image, one, described):
    """A square, one that covers a part of it, and a crowd over the lower half."""
    described["annotations"] = [
        {"image_id": 0, "iscrowd": 0, "segmentation": [SQUARE]},
        {"image_id": 0, "iscrowd": 1, "segmentation": [[0, 10, 40, 10, 40, 24, 0, 24]]},
        {"image_id": 0, "iscrowd": 0, "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]]},
    ]


@pytest.mark.parametrize("overlap", ["top", "void"])
@pytest.mark.parametrize("crowds", ["void", "instance", "background"])
def test_overlaps_and_crowds(tmp_path, overlap, crowds):
    source = CocoImages(coco(tmp_path, several), "val2017", overlap=overlap, crowds=crowds)
    expected = np.zeros(SIZE, np.int16)
    low, first, second = np.s_[10:24], np.s_[5:15, 5:15], np.s_[5:15, 10:20]
    if crowds == "instance":
        expected[first], expected[low], expected[second] = 1, 2, 3
        if overlap == "void":
            expected[10:15, 5:20] = expected[5:15, 10:15] = -1
    else:
        expected[low] = -1 if crowds == "void" else 0
        expected[first], expected[second] = 1, 2
        if overlap == "void":
            expected[5:15, 10:15] = -1
    sample = source.read(0, [0])
    assert np.array_equal(sample["masks"][0].numpy(), expected)
    assert sample["boxes"].shape[1] == (3 if crowds == "instance" else 2)
    assert source.problems[0].harmless
    assert ("on top" in source.problems[0].sentence) == (overlap == "top")
    assert not source.read(1, [0])["masks"].any()


@pytest.mark.parametrize("option", [{"overlap": "under"}, {"crowds": "ignore"}])
def test_other_options_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be one of"):
        CocoImages(coco(tmp_path, lambda *_: None), "val2017", **option)


@reads_shared
@pytest.mark.parametrize(
    "name",
    [
        *["poly_1point", "poly_2points_first", "poly_2points_last", "poly_big1e7", "poly_empty_ring", "poly_inf"],
        *["poly_nan", "poly_odd", "rle_neg", "iscrowd_str"],
    ],
)
def test_jsons_that_other_programs_fail_on(tmp_path, monkeypatch, name):
    monkeypatch.setenv("DIAS_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="a mask of a can't be used"):
        CocoImages(CASES / f"coco_{name}", "val2017")
    kept = CocoImages(CASES / f"coco_{name}", "val2017", on_error="skip_and_report")
    assert [kept.info(index).video_id for index in range(len(kept))] == ["b"]
    assert torch.equal(kept.read(0, [0])["masks"][0], torch.from_numpy(square().astype(np.int16)))


@reads_shared
def test_names_and_numbers_that_other_programs_fail_on(tmp_path, monkeypatch):
    monkeypatch.setenv("DIAS_CACHE", str(tmp_path))
    source = CocoImages(CASES / "names_same_stem", "val2017")
    assert [source.info(index).video_id for index in range(2)] == ["x.jpg", "x.png"]
    source = YouTubeVIS(CASES / "ytvis_same_folder")
    assert [source.info(index).video_id for index in range(2)] == ["aa#1", "aa#2"]
    assert [file.name for file in source.files(1)] == ["2.jpg", "3.jpg"]
    sample = YouTubeVIS(CASES / "ytvis_many_objects").read(0, [0, 1])
    assert sample["boxes"].shape == (2, 300, 4)
    assert sample["masks"].max() == 300
