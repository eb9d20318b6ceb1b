"""YouTube-VIS and COCO json: every kind of mask, overlaps, crowds, nulls, sizes, and what must be refused."""

import json
import os

import numpy as np
import pytest
import torch
from data_files import SHARED, assert_same, reads_shared
from PIL import Image
from pycocotools import mask as coder

from dias_video.batch import VideoBatch
from dias_video.data.annotations import Annotations
from dias_video.data.checking import usable
from dias_video.data.coco import CocoImages
from dias_video.data.inspection import Inspection
from dias_video.data.loading import ClipDataset
from dias_video.data.problems import annotations_of
from dias_video.data.transforms import ClipTransform
from dias_video.data.ytvis import YouTubeVIS

SIZES = {"cat": (20, 36), "dog": (26, 14)}  # (H,W)
REAL = SHARED / "davis16_ytvis"


def rectangle(size, top, left, height, width):
    mask = np.zeros(size, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def compressed(mask):
    code = coder.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def uncompressed(mask):
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()}


def polygon(top, left, height, width):
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def two_videos():
    """``cat`` with two instances and a crowd in three kinds of code, ``dog`` without annotations."""
    one, two = rectangle(SIZES["cat"], 2, 3, 10, 12), rectangle(SIZES["cat"], 8, 10, 9, 20)
    crowd = rectangle(SIZES["cat"], 0, 0, 5, 36)
    videos = [
        {
            "id": number,
            "height": SIZES[name][0],
            "width": SIZES[name][1],
            "length": length,
            "file_names": [f"{name}/{t:05d}.jpg" for t in range(length)],
        }
        for number, (name, length) in enumerate((("cat", 3), ("dog", 2)), start=7)
    ]
    annotations = [
        {"video_id": 7, "iscrowd": 0, "segmentations": [compressed(one), uncompressed(one), None]},
        {"video_id": 7, "iscrowd": 1, "segmentations": [uncompressed(crowd), None, None]},
        {"video_id": 7, "iscrowd": 0, "segmentations": [polygon(8, 10, 9, 20), compressed(two), compressed(two)]},
    ]
    return {"videos": videos, "annotations": annotations}


def write(root, described, split="train"):
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / split / "instances.json").write_text(json.dumps(described))
    for name, size in SIZES.items():
        folder = root / split / "JPEGImages" / name
        folder.mkdir(parents=True, exist_ok=True)
        for t in range(3 if name == "cat" else 2):
            Image.new("RGB", size[::-1], (40 * t, 90, 10)).save(folder / f"{t:05d}.jpg")
    return root


def test_masks_of_every_kind_with_crowds_void_and_the_later_instance_on_top(tmp_path):
    source = YouTubeVIS(write(tmp_path, two_videos()), "train")
    sample = source.read(0, [0, 1, 2])
    expected = np.zeros((3, 20, 36), np.int16)
    expected[0, 0:5] = -1
    expected[:2, 2:12, 3:15] = 1
    expected[:, 8:17, 10:30] = 2
    assert torch.equal(sample["masks"], torch.from_numpy(expected))
    assert sample["box_valid"].tolist() == [[True, True], [True, True], [False, True]]
    assert sample["boxes"][1, 1].tolist() == pytest.approx([10 / 36, 8 / 20, 30 / 36, 17 / 20])
    assert sample["video"][2, 0].float().mean() == pytest.approx(80, abs=3)
    assert [problem.sentence for problem in source.problems] == [
        "cat: instances overlap in 2 frames; the later one is on top"
    ]


@pytest.mark.parametrize(
    ("crowds", "expected"), [("void", ["owl", ""]), ("instance", ["owl", "", ""]), ("background", ["owl", ""])]
)
def test_categories_are_in_the_order_of_ids(tmp_path, crowds, expected):
    """Of three objects the second is a crowd and of no known category, the last says nothing."""
    described = two_videos()
    described["categories"] = [{"id": 3, "name": "pig"}, {"id": 91, "name": "owl"}]
    for annotation, category in zip(described["annotations"], (91, 17), strict=False):
        annotation["category_id"] = category
    source = YouTubeVIS(write(tmp_path, described), "train", crowds=crowds)
    assert source.classes(0) == {"category": expected}
    assert source.classes(1) == {"category": []}


def test_masks_that_nobody_looks_at_are_not_decoded(tmp_path, monkeypatch):
    source = YouTubeVIS(write(tmp_path, two_videos()), "train")
    boxes = source.read(0, [0], ("boxes",))["boxes"]
    assert torch.equal(boxes, source.read(0, [0])["boxes"])
    monkeypatch.setattr("dias_video.data.rle.decode", None)  # would fail if called
    assert source.read(0, [0], ("video",)).keys() == {"video", "video_id", "frame_index"}


def test_videos_without_annotations_have_empty_masks_and_sizes_differ(tmp_path):
    source = YouTubeVIS(write(tmp_path, two_videos()), "train")
    sample = source.read(1, [1])
    assert sample["video"].shape == (1, 3, 26, 14)
    assert not sample["masks"].any()
    assert sample["boxes"].shape == (1, 0, 4)
    clips = ClipDataset(source, 2, transform=ClipTransform((8, 12)))
    batch = VideoBatch.stack([clips[0, 0], clips[0, 1]])
    assert batch.boxes.shape == (2, 2, 2, 4)
    assert not batch.box_valid[1].any()


def test_a_json_without_annotations_gives_frames_alone(tmp_path):
    described = two_videos()
    del described["annotations"]
    source = YouTubeVIS(write(tmp_path, described, "valid"), "valid")
    assert "masks" not in source.read(0, [0])


def test_coco_images_are_videos_of_one_frame(tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (36, 20)).save(tmp_path / "val2017/000042.jpg")
    described = {
        "images": [{"id": 42, "file_name": "000042.jpg", "height": 20, "width": 36}],
        "annotations": [{"image_id": 42, "iscrowd": 0, "segmentation": polygon(8, 10, 9, 20)}],
    }
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(described))
    source = CocoImages(tmp_path, "val2017")
    sample = source.read(0, [0])
    assert sample["video_id"] == "000042"
    assert torch.equal(sample["masks"][0], torch.from_numpy(rectangle((20, 36), 8, 10, 9, 20).astype(np.int16)))


def test_the_json_is_gone_through_once(tmp_path, monkeypatch):
    write(tmp_path, two_videos())
    first = YouTubeVIS(tmp_path, "train").read(0, [0])
    monkeypatch.setattr("dias_video.data.annotations.read_json", None)  # would fail if called
    assert torch.equal(YouTubeVIS(tmp_path, "train").read(0, [0])["masks"], first["masks"])
    monkeypatch.undo()
    os.utime(tmp_path / "train/instances.json", ns=(1, 1))
    assert len(YouTubeVIS(tmp_path, "train")) == 2


def leave(described, name):
    described["videos"][0]["file_names"][1] = name


def cut_code(described):
    code = described["annotations"][0]["segmentations"][0]
    code["counts"] = code["counts"][:-2]


def short_runs(described):
    described["annotations"][0]["segmentations"][1]["counts"].pop()


def other_size(described):
    described["annotations"][2]["segmentations"][1] = compressed(rectangle((20, 30), 1, 1, 3, 3))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: leave(d, "../../secret.jpg"), "outside of"),
        (lambda d: leave(d, "/etc/secret.jpg"), "outside of"),
        (lambda d: leave(d, "a\\..\\..\\secret.jpg"), "outside of"),
        (lambda d: d["videos"].append({**d["videos"][1], "id": 9}), "lists the frames of dog#9 twice"),
        (lambda d: d["videos"][1].update(id=7), "lists the video of id 7 twice"),
        (lambda d: d["videos"][1].update(file_names=[]), "8 lacks file names"),
        (lambda d: d["videos"][1].pop("height"), r"dog has no usable size, its height and width are \[None, 14\]"),
        (
            lambda d: d["annotations"][0]["segmentations"].pop(),
            "a mask of cat can't be used .an object has 2 masks for 3 frames",
        ),
        (cut_code, "a mask of cat can't be used .its run"),
        (short_runs, "a mask of cat can't be used .its runs cover"),
        (other_size, r"a mask of cat can't be used .it is \[20, 30\], the frames are \[20, 36\]"),
    ],
)
def test_wrong_entries_stop_or_leave_the_video_out(tmp_path, change, sentence):
    described = two_videos()
    change(described)
    write(tmp_path, described)
    with pytest.raises(ValueError, match=rf"instances.json.*{sentence}"):
        YouTubeVIS(tmp_path, "train")
    kept = YouTubeVIS(tmp_path, "train", on_error="skip_and_report") if "id 7" not in sentence else None
    if kept is not None:
        assert len(kept) in (1, 2)
        assert any(not problem.harmless for problem in kept.problems)


def test_a_json_cut_off_is_named(tmp_path):
    write(tmp_path, two_videos())
    file = tmp_path / "train/instances.json"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(ValueError, match=r"instances.json is damaged .*download it again"):
        YouTubeVIS(tmp_path, "train")


@pytest.mark.parametrize("content", ["[1, 2]", "{}", '{"videos": []}'])
def test_other_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a.json (is damaged \(it holds a list|holds|lists)"):
        Annotations(tmp_path / "a.json")


def test_frames_of_another_size_than_the_masks_are_named(tmp_path):
    write(tmp_path, two_videos())
    Image.new("RGB", (35, 20)).save(tmp_path / "train/JPEGImages/cat/00001.jpg")
    with pytest.raises(ValueError, match=r"cat in .*masks are 36x20, frames are 35x20 pixels"):
        YouTubeVIS(tmp_path, "train").read(0, [1])


def test_missing_frames_and_folders_are_named(tmp_path):
    write(tmp_path, two_videos())
    (tmp_path / "train/JPEGImages/cat/00001.jpg").unlink()
    with pytest.raises(ValueError, match=r"cat/00001.jpg is missing"):
        YouTubeVIS(tmp_path, "train").read(0, [1])
    with pytest.raises(ValueError, match=r"no annotations of valid"):
        YouTubeVIS(tmp_path, "valid")
    (tmp_path / "train/JPEGImages").rename(tmp_path / "train/frames")
    with pytest.raises(ValueError, match="no train/JPEGImages"):
        YouTubeVIS(tmp_path, "train")


def hq(root, split, described):
    """Entries of HQ-YTVIS beside 2019's, which has coarser masks of the same videos."""
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/ytvis_hq-{split}.json").write_text(json.dumps(described))


def coarse(described):
    """The same with masks of the whole frame."""
    for annotation in described["annotations"]:
        annotation["segmentations"] = [compressed(np.ones(SIZES["cat"], np.uint8))] * 3
    return described


def test_two_jsons_of_a_split_are_refused_until_one_is_named(tmp_path):
    write(tmp_path, two_videos())
    (tmp_path / "train/instances.json").unlink()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train_sub.json").write_text(json.dumps(coarse(two_videos())))
    assert (YouTubeVIS(tmp_path).read(0, [2])["masks"] == 2).all()
    hq(tmp_path, "train", two_videos())
    names = "annotations/instances_train_sub.json, annotations/ytvis_hq-train.json"
    with pytest.raises(ValueError, match=rf"several annotations of train: {names}; name one of them with data.annot"):
        YouTubeVIS(tmp_path)
    for name in ("ytvis_hq-train.json", "annotations/ytvis_hq-train.json"):
        source = YouTubeVIS(tmp_path, annotations=name)
        file = str(tmp_path / "annotations/ytvis_hq-train.json")
        assert annotations_of(source) == annotations_of(usable(source, "skip_and_report")) == file
        assert Inspection(source).facts()["annotations"] == file
        assert (source.read(0, [2])["masks"] == 2).sum() == 9 * 20
    with pytest.raises(ValueError, match=r"holds no ytvis_hq-val.json"):
        YouTubeVIS(tmp_path, annotations="ytvis_hq-val.json")


@pytest.mark.parametrize("split", ["val", "valid"])
def test_the_frames_of_hq_ytvis_lie_in_train(tmp_path, split):
    write(tmp_path, two_videos())
    (tmp_path / "train/instances.json").unlink()
    other = tmp_path / "valid/JPEGImages/bird"  # the 2019 release's own valid videos
    other.mkdir(parents=True)
    hq(tmp_path, "val", two_videos())
    source = YouTubeVIS(tmp_path, split)
    assert source.files(0)[0] == tmp_path / "train/JPEGImages/cat/00000.jpg"
    assert source.read(0, [1])["masks"].max() == 2


def test_jsons_beside_one_folder_of_frames(tmp_path):
    write(tmp_path, two_videos())
    (tmp_path / "train/JPEGImages").rename(tmp_path / "JPEGImages")
    (tmp_path / "train/instances.json").rename(tmp_path / "ytvis_hq-val.json")
    assert YouTubeVIS(tmp_path, "valid").read(0, [1])["masks"].max() == 2


def test_the_valid_split_of_2019(tmp_path):
    described = two_videos()
    del described["annotations"]
    write(tmp_path, described, "valid")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "valid/instances.json").rename(tmp_path / "annotations/instances_val_sub.json")
    assert "masks" not in YouTubeVIS(tmp_path, "valid").read(0, [0])


def test_frames_decoded_smaller_have_masks_of_their_size(tmp_path):
    source = YouTubeVIS(write(tmp_path, two_videos()), at_least=(7, 13))  # of crops: 3/4 of 10 x 18
    sample = source.read(0, [0, 2])
    assert sample["video"].shape == (2, 3, 10, 18)
    whole = YouTubeVIS(tmp_path).read(0, [0, 2])
    assert torch.equal(sample["masks"], whole["masks"][:, 1::2, 1::2])
    assert sample["boxes"][1, 1].tolist() == pytest.approx([5 / 18, 4 / 10, 15 / 18, 8 / 10])
    assert_same(source.read(0, [0, 2], ("masks", "boxes")), {k: v for k, v in sample.items() if k != "video"})


@reads_shared
def test_real_clips_agree_with_the_boxes_and_areas_of_the_json(tmp_path, monkeypatch):
    monkeypatch.setenv("DIAS_CACHE", str(tmp_path))
    source = YouTubeVIS(REAL, "valid")
    described = json.loads((REAL / "valid/instances.json").read_text())
    assert len(source) == len(described["videos"]) == 20
    for index in (0, 7, 19):
        annotation = described["annotations"][index]
        frames = [0, annotation["length"] // 2, annotation["length"] - 1]
        sample = source.read(index, frames)
        pixels = torch.tensor([annotation["width"], annotation["height"]] * 2)
        for row, frame in enumerate(frames):
            if annotation["segmentations"][frame] is None:
                assert not sample["box_valid"][row].any()
                continue
            assert int((sample["masks"][row] == 1).sum()) == annotation["areas"][frame]
            left, top, width, height = annotation["bboxes"][frame]
            expected = torch.tensor([left, top, left + width, top + height])
            torch.testing.assert_close(sample["boxes"][row, 0] * pixels, expected, atol=1e-3, rtol=0)
