"""Sets of pictures with masks: VOC and its leak, ClevrTex's scenes and splits, COCO's panoptic masks."""

import json

import numpy as np
import pytest
import torch
from data_layouts import SIZE, clevrtex, coco_panoptic, composed, mask, text, voc
from PIL import Image

from dias_video.data.clevrtex import ClevrTexImages
from dias_video.data.panoptic import PanopticImages
from dias_video.data.pictures import opened
from dias_video.data.voc import VocImages


def ids_of(source):
    return [source.info(index).video_id for index in range(len(source))]


def test_voc_masks_are_indices_with_a_border(tmp_path):
    voc(tmp_path)
    for unlabelled, value in (("void", -1), ("background", 0)):
        sample = VocImages(tmp_path, "train", unlabelled=unlabelled).read(1, [0])
        indices = np.asarray(opened(tmp_path / "VOCdevkit/VOC2012/SegmentationObject/2011_000003.png")).astype(np.int16)
        assert sorted(set(indices.flat)) == [0, 1, 2, 255]
        assert torch.equal(sample["masks"][0], torch.from_numpy(np.where(indices == 255, value, indices)))
        assert sample["boxes"][0, 1].tolist() == pytest.approx([9 / 40, 6 / 24, 14 / 40, 16 / 24])


def test_the_default_split_of_voc_does_not_leak_and_the_authors_does(tmp_path):
    voc(tmp_path)

    def shared(name):
        data = composed(f"data={name}").data
        years = {part: VocImages(tmp_path, data[part].split, data[part].year) for part in ("train", "eval")}
        train, held_out = ({one.removeprefix("2007_") for one in ids_of(years[part])} for part in ("train", "eval"))
        return train & held_out

    assert shared("voc") == set()
    assert shared("voc_leaking") == {"000032"}


def test_places_and_lists_of_voc(tmp_path):
    voc(tmp_path)
    for root in (tmp_path / "VOCdevkit", tmp_path / "VOCdevkit/VOC2012"):
        assert ids_of(VocImages(root, "val")) == ["2007_000032"]
    with pytest.raises(ValueError, match=r"VOC2007/JPEGImages is not there"):
        VocImages(tmp_path / "VOCdevkit/VOC2012", "all", year=2007)
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    with pytest.raises(ValueError, match=r"trainaug.txt is missing"):
        VocImages(tmp_path, "trainaug")
    text(lists / "trainaug.txt", "2009_000001\n2011_000003\n")
    source = VocImages(tmp_path, "trainaug")
    assert "masks" not in source.read(1, [0])
    assert "1 of 2 pictures of trainaug have no mask of objects" in source.problems[0].sentence
    text(lists / "val.txt", "2009_000001\n2007_000032\n")
    with pytest.raises(ValueError, match=r"2009_000001.png is missing; download VOC2012 again"):
        VocImages(tmp_path, "val")
    assert ids_of(VocImages(tmp_path, "val", on_error="skip_and_report")) == ["2007_000032"]
    for content, sentence in (("", "empty"), ("a\na\n", "twice"), ("../a\n", "outside of")):
        text(lists / "val.txt", content)
        with pytest.raises(ValueError, match=sentence):
            VocImages(tmp_path, "val")
    with pytest.raises(ValueError, match="unlabelled must be one of"):
        VocImages(tmp_path, "train", unlabelled="top")


def test_splits_of_clevrtex_are_tenths_of_the_order_of_numbers(tmp_path):
    clevrtex(tmp_path, count=25)
    numbers = {
        split: [int(name.rpartition("_")[2]) for name in ids_of(ClevrTexImages(tmp_path, split=split))]
        for split in ("test", "val", "train", "all")
    }
    assert numbers["test"] == [0, 1]
    assert numbers["val"] == [2, 3, 4]
    assert numbers["train"] == list(range(5, 25))
    assert numbers["all"] == list(range(25))
    source = ClevrTexImages(tmp_path / "clevrtex_full")
    assert "holds 25 of 50000 scenes" in source.problems[0].sentence
    assert source.problems[0].harmless


def test_missing_scenes_and_masks_of_clevrtex_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"clevrtex_full is not a folder.*cat clevrtex_full_part\*.tar.gz . tar xzi"):
        ClevrTexImages(tmp_path)
    clevrtex(tmp_path)
    (tmp_path / "clevrtex_full/1/CLEVRTEX_full_000009.png").unlink()
    with pytest.raises(ValueError, match="has no scene 000009; unpack"):
        ClevrTexImages(tmp_path)
    (tmp_path / "clevrtex_full/1/CLEVRTEX_full_000010_flat.png").unlink()
    kept = ClevrTexImages(tmp_path, on_error="skip_and_report")
    assert len(kept) == 14
    assert ids_of(ClevrTexImages(tmp_path, split="val")) == ["CLEVRTEX_full_000002", "CLEVRTEX_full_000003"]
    for option in ({"variant": "main"}, {"split": "valid"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be one of"):
            ClevrTexImages(tmp_path, **option)


@pytest.mark.parametrize("crowds", ["void", "instance", "background"])
@pytest.mark.parametrize("unlabelled", ["void", "background"])
def test_panoptic_things_are_instances_and_stuff_is_background(tmp_path, crowds, unlabelled):
    coco_panoptic(tmp_path)
    source = PanopticImages(tmp_path, "val2017", crowds, unlabelled)
    sample = source.read(0, [0, 0])
    expected = np.full(SIZE, -1 if unlabelled == "void" else 0, np.int16)
    expected[:, :30], expected[6:16, 4:14] = 0, 1
    expected[18:, :20] = {"void": -1, "instance": 2, "background": 0}[crowds]
    assert torch.equal(sample["masks"], torch.from_numpy(np.stack([expected] * 2)))
    assert sample["boxes"].shape == (2, 2 if crowds == "instance" else 1, 4)
    assert source.classes(0) == {"category": ["owl"] * (2 if crowds == "instance" else 1)}
    assert source.annotations == tmp_path / "annotations/panoptic_val2017.json"


def changed(root, change):
    coco_panoptic(root)
    file = root / "annotations/panoptic_val2017.json"
    described = json.loads(file.read_text())
    described["images"].append({"id": 2, "file_name": "c.jpg"})
    described["annotations"].append({"image_id": 2, "file_name": "c.png", "segments_info": []})
    change(described["annotations"][0], described)
    file.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda one, all_: one.update(image_id=3), ["c"]),
        (lambda one, all_: one.update(image_id=2), []),  # two annotations of one image
        (lambda one, all_: one.update(file_name="../b.png"), ["c"]),
        (lambda one, all_: one.update(file_name=None), ["c"]),
        (lambda one, all_: one.update(segments_info=[5]), ["c"]),
        (lambda one, all_: one["segments_info"][0].update(id=-1), ["c"]),
        (lambda one, all_: one["segments_info"][0].update(category_id=77), ["c"]),
        (lambda one, all_: one["segments_info"][1].update(iscrowd="0"), ["c"]),
    ],
)
def test_one_wrong_panoptic_entry_leaves_the_others(tmp_path, change, left):
    changed(tmp_path, change)
    with pytest.raises(ValueError, match=r"panoptic_val2017.json: the annotation of image \d can't be used"):
        PanopticImages(tmp_path, "val2017")
    if left:
        assert ids_of(PanopticImages(tmp_path, "val2017", on_error="skip_and_report")) == left


def test_segments_that_the_json_lacks_and_other_masks_are_named(tmp_path):
    changed(tmp_path, lambda one, all_: one["segments_info"].pop())
    with pytest.raises(ValueError, match=r"b.png has a segment 260 that the json does not list"):
        PanopticImages(tmp_path, "val2017").read(0, [0])
    mask(tmp_path / "annotations/panoptic_val2017/b.png")
    with pytest.raises(ValueError, match=r"b.png is a picture of mode P, not of colours"):
        PanopticImages(tmp_path, "val2017").read(0, [0])
    Image.new("RGB", (40, 23)).save(tmp_path / "annotations/panoptic_val2017/b.png")
    with pytest.raises(ValueError, match="masks are 40x23, frames are 40x24"):
        PanopticImages(tmp_path, "val2017").read(0, [0])
    (tmp_path / "test2017").mkdir()
    with pytest.raises(ValueError, match=r"panoptic_test2017.json or the folder .* is missing; unpack"):
        PanopticImages(tmp_path, "test2017")
