"""MOVi's TFRecords: checksums and wire format by hand and from TFDS, ragged boxes, random access, damaged files."""

import copy
import os
import shutil

import numpy as np
import pytest
import torch
from data_files import SHARED, assert_same, reads_shared
from data_records import NUM_FRAMES, crc32c, movi_features, png, scene, varint, write_movi

from dias_video.data import movi, movi_index, tfrecord
from dias_video.data.boxes import boxes_from_masks
from dias_video.data.movi import MoviVideos

REAL = SHARED / "movi_d_tfds_sample"


@pytest.mark.parametrize(
    ("data", "expected"),  # RFC 3720, section B.4
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_checksums_of_the_standard(data, expected):
    assert tfrecord.crc32c(data) == expected


@pytest.mark.parametrize("size", [511, 512, 513, 1000, 4096, 70_001])
def test_checksums_of_long_texts(size):
    data = np.random.default_rng(size).bytes(size)
    assert tfrecord.crc32c(data) == crc32c(data)


def test_integers_of_every_length():
    values = [0, 1, 127, 128, 300, 16383, 16384, 2**31, 2**62, -1, -(2**40)]
    data = b"".join(varint(value) for value in values)
    assert tfrecord.decode_varints(np.frombuffer(data, np.uint8)).tolist() == values
    unpacked = b"".join(b"\x08" + varint(value) for value in values)  # field 1, one integer each
    assert tfrecord.integers(unpacked, 0, len(unpacked)).tolist() == values


def test_frames_masks_and_boxes_are_those_written(tmp_path):
    write_movi(tmp_path / "movi_d/12x20/1.0.0")
    source = MoviVideos(tmp_path, "train")
    assert [source.info(i).video_id for i in range(3)] == ["train/scene_0", "train/scene_1", "train/scene_2"]
    arrays = scene(1)
    sample = source.read(1, [3, 2])
    assert torch.equal(sample["video"], torch.from_numpy(arrays["video"][[3, 2]]).permute(0, 3, 1, 2))
    assert torch.equal(sample["masks"], torch.from_numpy(arrays["masks"][[3, 2]].astype(np.int16)))
    assert sample["box_valid"].tolist() == [[True, True, True], [True, False, True]]
    boxes, _ = boxes_from_masks(sample["masks"], 3)
    torch.testing.assert_close(sample["boxes"], boxes)
    assert sample["boxes"][0, 0].tolist() == pytest.approx([3 / 20, 1 / 12, 8 / 20, 4 / 12])  # x over W, y over H


def test_flow_is_not_touched(tmp_path):
    file = write_movi(tmp_path)[0]
    data = bytearray(file.read_bytes())
    at = data.find(b"forward_flow") + 40
    data[at : at + 100] = b"\xff" * 100
    file.write_bytes(data)
    MoviVideos(tmp_path, "train", verify=False).read(0, range(NUM_FRAMES))
    with pytest.raises(ValueError, match=r"00000-of-00002 has a wrong checksum in record 0 .*download it again"):
        MoviVideos(tmp_path, "train")


def test_the_index_is_made_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    files = write_movi(tmp_path)
    MoviVideos(tmp_path, "train")
    assert (tmp_path / ".dias_index").is_dir()
    monkeypatch.setattr(movi, "index_shard", None)  # would fail if called
    assert len(MoviVideos(tmp_path, "train")) == 3
    monkeypatch.undo()
    os.utime(files[0], ns=(1, 1))
    assert len(MoviVideos(tmp_path, "train")) == 3


def test_a_file_that_changed_is_gone_through_alone(tmp_path, monkeypatch):
    files = write_movi(tmp_path, shards=((0, 1), (2,), (3, 4)))
    first = MoviVideos(tmp_path, "train")
    seen: list[str] = []
    real = movi_index.index_shard
    monkeypatch.setattr(movi, "index_shard", lambda file, verify: seen.append(file.name[-14:-9]) or real(file, verify))
    os.utime(files[1], ns=(1, 1))
    MoviVideos(tmp_path, "train")
    assert seen == ["00001"]
    write_movi(tmp_path / "other", shards=((7, 8), (9,)))
    os.replace(tmp_path / "other" / files[0].name.replace("-00003", "-00002"), files[0])
    shutil.rmtree(tmp_path / "other")
    source = MoviVideos(tmp_path, "train", on_error="skip_and_report")
    assert seen == ["00001", "00000"]
    names = [source.info(index).video_id for index in range(len(source))]
    assert names == [f"train/scene_{number}" for number in (7, 8, 2, 3, 4)]
    for index, number in enumerate((7, 8, 2, 3, 4)):
        expected = torch.from_numpy(scene(number)["video"][[4, 1]]).permute(0, 3, 1, 2)
        assert torch.equal(source.read(index, [4, 1])["video"], expected)
    assert_same(source.read(3, [2]), first.read(3, [2]))


def test_one_index_serves_every_way_to_open_the_data(tmp_path, monkeypatch):
    flip_a_byte(write_movi(tmp_path))
    MoviVideos(tmp_path, "train", verify=False)
    with pytest.raises(ValueError, match="wrong checksum in record 0"):
        MoviVideos(tmp_path, "train")
    monkeypatch.setattr(movi, "index_shard", None)  # would fail if called
    assert len(MoviVideos(tmp_path, "train", on_error="skip_and_report")) == 2
    for verify in (True, False):  # what is known to be damaged is not used
        with pytest.raises(ValueError, match="wrong checksum in record 0"):
            MoviVideos(tmp_path, "train", verify=verify)


def test_leftovers_of_downloads_are_no_files(tmp_path):
    files = write_movi(tmp_path)
    files[0].with_name(files[0].name + "_.gstmp").write_bytes(files[0].read_bytes()[:50])
    files[1].with_name("._" + files[1].name).write_bytes(b"macOS")
    assert len(MoviVideos(tmp_path, "train")) == 3
    files[0].rename(files[0].with_name(files[0].name + "_.gstmp"))
    with pytest.raises(ValueError, match=r"movi_d-train.tfrecord-00000-of-00002 is missing .1 of 2 files"):
        MoviVideos(tmp_path, "train")


def test_a_source_is_copied_to_workers(tmp_path):
    write_movi(tmp_path)
    source = MoviVideos(tmp_path, "train")
    expected = source.read(0, [1])
    assert_same(copy.deepcopy(source).read(0, [1]), expected)


def cut(files):
    files[1].write_bytes(files[1].read_bytes()[:-30])


def cut_at_a_record(files):
    data = files[0].read_bytes()
    files[0].write_bytes(data[: int.from_bytes(data[:8], "little") + 16])


def flip_a_byte(files):
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 1
    files[1].write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut, "tfrecord-00001-of-00002 is cut off in record 0"),
        (cut_at_a_record, "00000-of-00002 has 1 records, dataset_info.json says 2"),
        (flip_a_byte, "00001-of-00002 has a wrong checksum in record 0"),
        (lambda files: files[0].unlink(), "00000-of-00002 is missing .1 of 2 files.; download it"),
        (lambda files: files[0].write_bytes(b""), "00000-of-00002 is empty"),
        (
            lambda files: (files[0].parent / "dataset_info.json").write_text('{"splits": ['),
            "dataset_info.json is damaged",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, sentence):
    damage(write_movi(tmp_path))
    with pytest.raises(ValueError, match=sentence):
        MoviVideos(tmp_path, "train")


def test_masks_that_nobody_looks_at_are_not_decoded(tmp_path):
    write_movi(tmp_path, shards=((0,),), change=cut_png)
    source = MoviVideos(tmp_path, "train")
    assert {"boxes", "box_valid"} <= source.read(0, [2], ("video", "boxes")).keys()
    with pytest.raises(ValueError, match="segmentations 2"):
        source.read(0, [2], ("masks",))


def test_damaged_files_can_be_left_out_and_are_listed(tmp_path):
    flip_a_byte(write_movi(tmp_path))
    source = MoviVideos(tmp_path, "train", on_error="skip_and_report")
    assert len(source) == 2
    assert "wrong checksum" in source.problems[0].sentence
    assert "wrong checksum" in MoviVideos(tmp_path, "train", on_error="skip_and_report").problems[0].sentence  # cached


def test_a_part_of_the_files_will_do_if_asked_for(tmp_path):
    write_movi(tmp_path, shards=((0, 1), (2,), (3,)))[0].unlink()
    source = MoviVideos(tmp_path, "train", on_error="skip_and_report")
    assert [source.info(i).video_id for i in range(len(source))] == ["train/scene_2", "train/scene_3"]
    assert "00000-of-00003 is missing (1 of 3 files)" in source.problems[0].sentence


def without_a_chunk(features):
    data = features["video"][2]
    at = data.find(b"IDAT") - 4
    size = int.from_bytes(data[at : at + 4], "big") + 12
    features["video"][2] = data[:at] + data[at + size :]
    return features


def cut_png(features):
    features["segmentations"][2] = features["segmentations"][2][:-20]
    return features


def another_size(features):
    features["segmentations"] = movi_features("x", {**scene(0), "masks": np.zeros((NUM_FRAMES, 12, 21), np.uint8)})[
        "segmentations"
    ]
    return features


def deep_ids(features):
    features["segmentations"] = [png(np.full((12, 20), 40000, np.uint16))] * NUM_FRAMES
    return features


def large_boxes(features):
    features["instances/bboxes/ragged_flat_values"][5] = np.nan
    return features


def without_boxes(features):
    del features["instances/bbox_frames/ragged_flat_values"]
    return features


def test_transparent_frames_have_three_channels(tmp_path):
    def change(features):
        frames = np.concatenate([scene(0)["video"], np.full((NUM_FRAMES, 12, 20, 1), 255, np.uint8)], -1)
        features["video"] = [png(frame) for frame in frames]
        return features

    write_movi(tmp_path, shards=((0,),), change=change)
    sample = MoviVideos(tmp_path, "train").read(0, [1])
    assert np.array_equal(sample["video"][0].permute(1, 2, 0), scene(0)["video"][1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (deep_ids, "scene_0: a mask has id 40000, of 3 instances"),
        (large_boxes, "scene_0: a box reaches out of the frame"),
        (without_boxes, "scene_0 has no feature instances/bbox_frames"),
        (without_a_chunk, "video scene_0, video 2: its PNG lacks a chunk"),
        (cut_png, "video scene_0, segmentations 2: its PNG lacks a chunk"),
        (another_size, r"scene_0: masks \(1, 12, 21\) don't fit frames"),
    ],
)
def test_damaged_pictures_are_named(tmp_path, change, sentence):
    write_movi(tmp_path, shards=((0,),), change=change)
    with pytest.raises(ValueError, match=sentence):
        MoviVideos(tmp_path, "train").read(0, [2])


def test_a_video_in_two_files_is_refused(tmp_path):
    write_movi(tmp_path, shards=((0, 1), (1,)))
    with pytest.raises(ValueError, match=r"00001-of-00002 holds video scene_1, which .*00000-of-00002 holds too"):
        MoviVideos(tmp_path, "train")


def test_missing_folders_and_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no"):
        MoviVideos(tmp_path, "train")
    write_movi(tmp_path / "a")
    with pytest.raises(ValueError, match="no split 'test'; it has train"):
        MoviVideos(tmp_path, "test")
    write_movi(tmp_path / "b")
    with pytest.raises(ValueError, match=r"several data sets \(a, b\)"):
        MoviVideos(tmp_path, "train")


@reads_shared
@pytest.mark.parametrize(("split", "count"), [("train", 6), ("validation", 3)])
def test_records_that_tensorflow_datasets_wrote(tmp_path, monkeypatch, split, count):
    monkeypatch.setenv("DIAS_CACHE", str(tmp_path))
    source = MoviVideos(REAL, split)
    assert len(source) == count
    for index in range(count):
        info = source.info(index)
        assert info.num_frames == 24
        sample = source.read(index, [23, 0, 11])
        boxes, valid = boxes_from_masks(sample["masks"], sample["boxes"].shape[1])
        assert torch.equal(boxes, sample["boxes"])  # the simulator's boxes are tight around the visible part
        assert torch.equal(valid, sample["box_valid"])
        assert sample["video"].shape == (3, 3, 64, 64)
        assert sample["video"].float().std() > 10
