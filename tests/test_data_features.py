"""The frozen-feature cache gives what the encoder gives, and refuses to be used for anything else."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_files import LENGTHS, Counting, write_clip
from tiny import HEIGHT, WIDTH, tiny_dias
from torch import nn

from dias_video.batch import VideoBatch
from dias_video.data import features
from dias_video.data.features import FLIPPED, FeatureCache, cache_features, cached_features
from dias_video.data.loading import ClipDataset
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.transforms import ClipTransform
from dias_video.draws import Draws

SIZE = (4, 6)
WHOLE = ClipTransform(SIZE)


class Patches(nn.Module):
    """Encoder: the mean colour of a 2x3 grid of cells, times a weight."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.grid, self.feature_dim, self.config = (2, 3), 3, {"type": "Patches"}

    def features(self, video):
        b, t = video.shape[:2]
        cells = video.float().view(b, t, 3, 2, 2, 3, 2).mean((4, 6)) * self.weight  # (B,T,C,h,w)
        return cells.flatten(3).transpose(2, 3)


class Textured(Counting):
    """Videos that differ from their mirror image."""

    def read(self, index, frames, keys=None):
        sample = super().read(index, frames)
        sample["video"][:, 2] = 20 * torch.arange(9, dtype=torch.uint8)
        return sample


@pytest.fixture
def cached(tmp_path):
    cache_features(Patches(), Textured(), tmp_path / "f", WHOLE, flips=True, batch_frames=4)
    return tmp_path / "f"


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_cached_features_are_the_encoders(cached, flip):
    transform = ClipTransform(SIZE, flip=flip)
    clips = ClipDataset(Textured(), 3, stride=2, transform=transform, features=FeatureCache(cached))
    for epoch in range(4):
        sample = clips[epoch, 1]
        expected = Patches().features(sample["video"][None])[0]
        torch.testing.assert_close(sample["features"], expected, atol=0.05, rtol=1e-3)  # half precision
        assert "flipped" not in sample


def test_workers_change_no_bit(cached, tmp_path):
    cache_features(Patches(), Textured(), tmp_path / "f2", WHOLE, flips=True, batch_frames=3, num_workers=2)
    one, two = FeatureCache(cached), FeatureCache(tmp_path / "f2")
    assert one.header == two.header
    assert list(one.store.keys) == list(two.store.keys)
    assert np.array_equal(one.store._places, two.store._places)
    for key in one.store.keys:
        assert torch.equal(one.store.read(key)["features"], two.store.read(key)["features"])


def test_two_processes_and_an_interrupted_run_write_the_same(cached, tmp_path, monkeypatch):
    other = tmp_path / "other"
    for number in (0, 1, 1):  # the last has nothing left to do
        process = SimpleNamespace(number=number, count=2, is_main=number == 1, together=nullcontext)
        monkeypatch.setattr(features, "Ranks", lambda process=process: process)
        cache_features(Patches(), Textured(), other, WHOLE, flips=True)
    one, two = FeatureCache(cached), FeatureCache(other)
    assert list(one.store.keys) == list(two.store.keys)
    assert len(one.store) == 2 * len(LENGTHS)
    for key in one.store.keys:
        assert torch.equal(one.read(key.removesuffix(FLIPPED), range(5)), two.read(key.removesuffix(FLIPPED), range(5)))


@pytest.mark.parametrize(
    ("transform", "sentence"),
    [
        (ClipTransform(SIZE, crop_area=(0.75, 1)), "random crops"),
        (ClipTransform(SIZE, flip=0.5), "flips"),
        (ClipTransform((6, 4)), "frames"),
        (ClipTransform(SIZE, square=True), "set data.transform.square=false"),
        (None, "ClipTransform"),
    ],
)
def test_transforms_that_need_the_encoder_are_refused(tmp_path, transform, sentence):
    cache_features(Patches(), Textured(), tmp_path, WHOLE)
    with pytest.raises(ValueError, match=sentence):
        ClipDataset(Textured(), 3, transform=transform, features=FeatureCache(tmp_path))


@pytest.mark.parametrize("transform", [ClipTransform(), ClipTransform(SIZE, (0.5, 1)), ClipTransform(SIZE, flip=1.0)])
def test_features_are_cached_of_fixed_frames_alone(tmp_path, transform):
    with pytest.raises(ValueError, match="frames of one size"):
        cache_features(Patches(), Textured(), tmp_path, transform)


def test_features_of_centred_squares(tmp_path):
    """Of 6 x 9 pixels columns 1 to 6; a clip with a random crop's rest switched off sees the same."""
    cache_features(Patches(), Textured(), tmp_path, ClipTransform(SIZE, square=True))
    clips = ClipDataset(Textured(), 3, transform=ClipTransform(SIZE, square=True), features=FeatureCache(tmp_path))
    sample = clips[0, 1]
    assert sample["video"][0, 2, 0].tolist() == [20 * column for column in range(1, 7)]
    expected = Patches().features(sample["video"][None])[0]
    torch.testing.assert_close(sample["features"], expected, atol=0.05, rtol=1e-3)
    with pytest.raises(ValueError, match="is of centred squares"):
        ClipDataset(Textured(), 3, transform=WHOLE, features=FeatureCache(tmp_path))


def test_another_encoder_or_other_videos_are_refused(cached):
    cache = FeatureCache(cached)
    with pytest.raises(ValueError, match="another encoder"):
        cached_features(cached, {"features": Patches(weight=0.25)})
    assert cached_features(cached, {"features": Patches()}).path == cached
    assert cached_features(None, {}) is None

    class Longer(Textured):
        def info(self, index):
            return super().info(index)._replace(num_frames=12)

    with pytest.raises(ValueError, match="other videos"):
        cache.check(Longer(), ClipTransform(SIZE))
    with pytest.raises(ValueError, match="other settings"):
        cache_features(Patches(weight=0.25), Textured(), cached, WHOLE, flips=True)


def test_a_video_that_was_repaired_is_cached_and_one_that_was_changed_is_refused(tmp_path):
    """The second of the videos can't be read at first, and is a frame longer when it can."""

    class Broken(Textured):
        def read(self, index, frames, keys=None):
            if index == 1:
                raise ValueError("v1 is cut off")
            return super().read(index, frames)

    class Repaired(Textured):
        def __init__(self, lengths):
            self.lengths = lengths

        def info(self, index):
            known = super().info(index)
            return known._replace(num_frames=self.lengths.get(index, known.num_frames))

    with pytest.raises(ValueError, match=r"\Av1 is cut off\Z"):  # and no traceback of a worker
        cache_features(Patches(), Broken(), tmp_path, WHOLE, num_workers=1)
    changed = Repaired({0: LENGTHS[0] - 1})
    repaired = Repaired({1: LENGTHS[1] + 1})
    with pytest.raises(
        ValueError, match="can't be continued: v0 has changed in length, or in name or size of its files; name"
    ):
        cache_features(Patches(), changed, tmp_path, WHOLE)
    cache_features(Patches(), repaired, tmp_path, WHOLE)
    cache = FeatureCache(tmp_path)
    cache.check(repaired, WHOLE)
    assert cache.store.length("v1") == LENGTHS[1] + 1
    assert len(cache.store) == len(LENGTHS)


def test_features_too_large_for_half_precision_stop(tmp_path):
    with pytest.raises(ValueError, match="v0 does not fit half precision"):
        cache_features(Patches(weight=1e6), Textured(), tmp_path, WHOLE)


def test_losses_are_the_same_bits_where_no_frame_is_read(tmp_path):
    for name in range(3):
        write_clip(tmp_path / f"toss/train/{name:05d}")
    source, dias = SimulatedVideos(tmp_path, "toss/train"), tiny_dias(boxes=True, threshold=0.4).train()
    size = (HEIGHT, WIDTH)
    cache_features(dias.encoder, source, tmp_path / "f", ClipTransform(size, square=True), flips=True, device="cpu")
    transform = ClipTransform(size, square=True, flip=0.5)
    seen = []
    for keys in (None, dias.inputs({"features"})):
        clips = ClipDataset(source, 3, transform=transform, features=FeatureCache(tmp_path / "f"), keys=keys)
        model = copy.deepcopy(dias)
        adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for step in range(4):
            batch = VideoBatch.stack([clips[step, index] for index in range(3)])
            assert (batch.video is None) == (keys is not None)
            terms = model(batch, Draws.for_step(0, step, range(3)))
            adam.zero_grad()
            torch.stack([value.mean() for name, value in terms.items() if name not in model.watched]).sum().backward()
            adam.step()
            seen.append(torch.stack([value.detach().float() for value in terms.values()]))
        for name in range(3):  # from now on no frame can be read
            file = tmp_path / f"toss/train/{name:05d}.mp4"
            file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(torch.stack(seen[:4]), torch.stack(seen[4:]))
    assert not torch.equal(seen[0], seen[1])
