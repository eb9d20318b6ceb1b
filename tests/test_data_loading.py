"""Clips: which frames, that they are the right pixels, and that they depend on the key alone."""

import copy
import json

import numpy as np
import pytest
import torch
from data_files import LENGTHS, Counting, assert_same, write_clip

from dias_video.batch import VideoBatch
from dias_video.data.loading import ClipDataset
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.source import VideoInfo, VideoSource, fingerprint
from dias_video.data.transforms import ClipTransform


def test_random_clips_reach_every_start_and_no_other():
    clips = ClipDataset(Counting(), num_frames=3, stride=2)
    starts = {int(clips[epoch, 1]["frame_index"][0]) for epoch in range(200)}
    assert starts == set(range(11 - 4))
    sample = clips[0, 1]
    assert sample["frame_index"].diff().tolist() == [2, 2]
    assert sample["video"][:, 1, 0, 0].tolist() == sample["frame_index"].tolist()


def test_random_starts_are_uniform():
    clips = ClipDataset(Counting(), num_frames=8)
    starts = np.bincount([int(clips[epoch, 1]["frame_index"][0]) for epoch in range(800)], minlength=4)
    assert starts.sum() == 800
    assert starts.min() > 150


def test_short_videos_give_short_clips_and_none_gives_whole_videos():
    assert ClipDataset(Counting(), num_frames=9)[0, 0]["frame_index"].tolist() == [0, 1, 2, 3, 4]
    whole = ClipDataset(Counting(), num_frames=None)
    assert [len(whole[0, i]["video"]) for i in range(3)] == list(LENGTHS)


def test_a_clip_is_a_function_of_its_key():
    transform = ClipTransform(size=(4, 7), crop_area=(0.5, 1), flip=0.5)
    one, other = (ClipDataset(Counting(), 3, transform=transform, seed=5) for _ in range(2))
    keys = [(epoch, index) for epoch in range(3) for index in range(3)]
    ahead = {key: one[key] for key in keys}
    for key in reversed(keys):
        assert_same(other[key], ahead[key])
    assert any(not torch.equal(ahead[0, 1]["frame_index"], ahead[e, 1]["frame_index"]) for e in (1, 2))
    different = ClipDataset(Counting(), 3, transform=transform, seed=6)
    assert any(not torch.equal(different[key]["frame_index"], ahead[key]["frame_index"]) for key in keys)


@pytest.mark.parametrize("option", [{"num_frames": 0}, {"stride": 0}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        ClipDataset(Counting(), **{"num_frames": 2, **option})


@pytest.fixture
def simulated(tmp_path):
    for name in ("toss/train/00000", "toss/train/00001", "contact/train/00000"):
        write_clip(tmp_path / name, label=1 if "contact" in name else None)
    return tmp_path


def test_simulated_clips_hold_frames_masks_and_boxes(simulated):
    source = SimulatedVideos(simulated, "toss/train+contact/train")
    assert isinstance(source, VideoSource)
    assert [source.info(i).video_id for i in range(3)] == [
        "toss/train/00000",
        "toss/train/00001",
        "contact/train/00000",
    ]
    assert source.info(2) == VideoInfo("contact/train/00000", 5, 1.0, "drop")
    sample = source.read(0, [4, 1])
    assert sample["video"].shape == (2, 3, 32, 48)
    assert sample["video"].dtype == torch.uint8
    assert sample["masks"].dtype == torch.int16
    assert sample["box_valid"].tolist() == [[False, True]] * 2
    expected = torch.tensor([[20 / 48, 8 / 32, 28 / 48, 16 / 32], [8 / 48, 8 / 32, 16 / 48, 16 / 32]])
    torch.testing.assert_close(sample["boxes"][:, 1], expected)
    inside = sample["masks"] == 2
    grey = sample["video"].float().mean(1)
    assert grey[inside].mean() > 180 > 80 > grey[~inside].mean()
    assert "label" not in sample


def test_simulated_clips_collate_and_survive_a_copy_to_a_worker(simulated):
    source = SimulatedVideos(simulated, "toss/train")
    source.read(0, [0])
    again = copy.deepcopy(source)
    assert_same(again.read(0, [2]), source.read(0, [2]))
    clips = ClipDataset(source, 3, transform=ClipTransform((16, 24)))
    batch = VideoBatch.stack([clips[0, 0], clips[0, 1]])
    assert batch.video.shape == (2, 3, 3, 16, 24)
    assert fingerprint(again) == fingerprint(source)


@pytest.mark.parametrize(
    ("how", "missing"),
    [("missing", ".mp4"), ("missing", ".masks.zip"), *[("cut", e) for e in (".mp4", ".masks.zip", ".json")]],
)
def test_broken_simulated_files_are_named(simulated, how, missing):
    file = simulated / "toss/train" / f"00000{missing}"
    if how == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    with pytest.raises(ValueError, match=f"00000{missing}.* (is missing|damaged|readable)"):
        SimulatedVideos(simulated, "toss/train").read(0, [4])


def test_folders_without_clips_are_named(tmp_path):
    with pytest.raises(ValueError, match="toss/train is missing"):
        SimulatedVideos(tmp_path, "toss/train")
    (tmp_path / "toss/train").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no clips"):
        SimulatedVideos(tmp_path, "toss/train")


def test_an_unfinished_simulation_is_refused(simulated):
    (simulated / "toss/meta.json").write_text(json.dumps({"splits": {"train": {"seed": 0, "num_videos": 9}}}))
    with pytest.raises(ValueError, match="holds 2 of 9 clips"):
        SimulatedVideos(simulated, "toss/train")


class Keys(torch.utils.data.Dataset):
    """Clips by a running number, as a map-style dataset."""

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return 12

    def __getitem__(self, number):
        return self.clips[divmod(number, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_clips(simulated, context):
    source = SimulatedVideos(simulated, "toss/train+contact/train")
    clips = Keys(ClipDataset(source, 2, transform=ClipTransform((16, 24), (0.5, 1), flip=0.5)))
    expected = [clips[number] for number in range(12)]  # opens files in this process first
    loader = torch.utils.data.DataLoader(clips, None, num_workers=2, multiprocessing_context=context)
    for one, other in zip(loader, expected, strict=True):
        assert_same(one, other)


class Asked:
    """A source that notes what it was asked for."""

    def __init__(self, source):
        self.source, self.keys = source, []

    def __len__(self):
        return len(self.source)

    def info(self, index):
        return self.source.info(index)

    def read(self, index, frames, keys=None):
        self.keys.append(None if keys is None else set(keys))
        return self.source.read(index, frames, keys)


@pytest.mark.parametrize(
    ("keys", "crop", "asked", "given"),
    [
        (None, True, None, {"video", "masks", "boxes", "box_valid"}),
        ((), True, set(), set()),
        (("video",), True, {"video"}, {"video"}),
        (("video", "boxes"), True, {"video", "boxes"}, {"video", "boxes", "box_valid"}),
        (("boxes",), False, {"boxes"}, {"boxes", "box_valid"}),
        (("boxes",), True, {"boxes"}, {"boxes", "box_valid"}),
        (("masks",), True, {"masks"}, {"masks"}),
    ],
)
def test_only_what_is_looked_at_is_read_and_given(simulated, keys, crop, asked, given):
    source = Asked(SimulatedVideos(simulated, "toss/train"))
    transform = ClipTransform((16, 24), crop_area=(0.5, 0.9) if crop else None, flip=0.5)
    clips = ClipDataset(source, 3, transform=transform, keys=keys)
    everything = ClipDataset(SimulatedVideos(simulated, "toss/train"), 3, transform=transform)
    for index in (0, 1):
        sample = clips[0, index]
        assert sample.keys() == {"video_id", "frame_index"} | given
        assert_same(sample, {key: everything[0, index][key] for key in sample})
    assert source.keys == [asked] * 2


def test_masks_that_nobody_looks_at_are_not_opened(simulated):
    (simulated / "toss/train/00000.masks.zip").unlink()
    source = SimulatedVideos(simulated, "toss/train")
    assert source.read(0, [1], ("video",)).keys() == {"video", "video_id", "frame_index"}
    with pytest.raises(ValueError, match=r"00000.masks.zip is missing"):
        source.read(0, [1], ("boxes",))


def test_clips_without_frames_are_batched(simulated):
    clips = [ClipDataset(SimulatedVideos(simulated, "toss/train"), n, keys=("boxes",))[0, 0] for n in (3, 2)]
    batch = VideoBatch.stack(clips)
    assert (len(batch), batch.num_frames, batch.video) == (2, 3, None)
    assert batch.frame_valid.tolist() == [[True] * 3, [True, True, False]]
    assert torch.equal(batch.boxes[1, :2], clips[1]["boxes"])
    with pytest.raises(ValueError, match="were read without their frames"):
        _ = batch.pixels
    with_frames = ClipDataset(SimulatedVideos(simulated, "toss/train"), 3, keys=("video", "boxes"))[0, 0]
    with pytest.raises(ValueError, match=r"has \['boxes'\] but toss/train/\d+ has \['video', 'boxes'\]"):
        VideoBatch.stack([with_frames, clips[1]])
