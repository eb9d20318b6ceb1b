"""What a cache was made of is found again, and a header can't make anything else happen."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dias_video.data.folder import FolderVideos
from dias_video.data.transforms import ClipTransform
from dias_video.model.dias import DIAS
from dias_video.pretrained.configured import Configured
from dias_video.pretrained.weights import weights_sha256
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.origin import CachedVideos, dias_of


@pytest.fixture
def videos(tmp_path: Path) -> FolderVideos:
    """A folder of one video of three frames of noise, 20 x 30 pixels."""
    from PIL import Image

    (tmp_path / "videos/one").mkdir(parents=True)
    for t in range(3):
        pixels = torch.randint(0, 256, (20, 30, 3), generator=torch.Generator().manual_seed(t), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"videos/one/{t}.png")
    return FolderVideos(tmp_path / "videos")


def cache(path: Path, **header: Any) -> SlotCache:
    with SlotCacheWriter(path, "fp32", **header) as writer:
        writer.write("one", torch.randn(3, 2, 4), torch.ones(3, 2, dtype=torch.bool))
    return SlotCache(path)


def test_videos_are_seen_as_the_model_saw_them(tmp_path: Path, videos: FolderVideos) -> None:
    transform = ClipTransform(size=(8, 12))
    made = cache(tmp_path / "c", data=videos.config, transform=transform.config)
    name = videos.info(0).video_id
    sample = CachedVideos(made).read(name, range(1, 3))
    expected = transform(videos.read(0, range(1, 3)), torch.Generator())
    assert sample["video"].shape == (2, 3, 8, 12)
    assert torch.equal(sample["video"], expected["video"])


def test_of_a_slice_only_the_cached_videos_are_found(tmp_path: Path, videos: FolderVideos) -> None:
    shutil.copytree(tmp_path / "videos/one", tmp_path / "videos/two")
    found = CachedVideos(cache(tmp_path / "c", data=videos.config)).source
    assert [found.info(index).video_id for index in range(len(found))] == ["one"]


def planted(canary: Path) -> dict[str, dict[str, Any]]:
    """Headers that would write a file, if anything of them were run."""
    write = {"self": {"_target_": "pathlib.Path", "_args_": [str(canary)]}, "data": "x"}
    evil = {"_target_": "pathlib.Path.write_text", **write}
    source = {"type": "dias_video.data.folder.FolderVideos", "root": str(canary.parent / "videos")}
    touch = {"_args_": [f"touch {canary}"]}
    return {
        "itself": {"data": evil},
        "transform": {"data": source, "transform": evil},
        "nested": {"data": {**source, "on_error": evil}},
        "in a list": {"data": {**source, "split": [evil]}},
        "by type": {"data": {"type": "pathlib.Path.write_text", **write}},
        "nested by type": {"data": {**source, "on_error": {"type": "os.system", **touch}}},
        "prefix": {"data": {"_target_": "dias_video.data.index.os.system", **touch}},
        "prefix by type": {"data": {"type": "dias_video.data.index.os.system", **touch}},
        "module of ours": {"data": {"_target_": "dias_video.stores.files.replace_file", **touch}},
        "partial": {"data": {**source, "_partial_": True}},
        "a model": {"data": {"type": "dias_video.model.encoders.TimmEncoder", "weights": "hub"}},
        "a transform as source": {"data": {"type": "dias_video.data.transforms.ClipTransform"}},
    }


@pytest.mark.parametrize("way", list(planted(Path("x"))))
def test_planted_headers_do_nothing(tmp_path: Path, videos: FolderVideos, way: str) -> None:
    canary = tmp_path / "canary"
    made = cache(tmp_path / "c", **planted(canary)[way])
    with pytest.raises(ValueError, match=rf"the videos of {tmp_path}/c can't be opened"):
        CachedVideos(made).read("one", range(1))
    assert not canary.exists()


def test_a_cache_that_does_not_say_says_so(tmp_path: Path) -> None:
    made = cache(tmp_path / "c")
    with pytest.raises(ValueError, match=r"does not say what it was made of \(data\)"):
        CachedVideos(made)
    with pytest.raises(ValueError, match=r"does not say what it was made of \(checkpoint\)"):
        dias_of(made)


def test_the_model_is_the_one_that_made_the_cache(tmp_path: Path) -> None:
    DIAS.shipped().save_pretrained(tmp_path / "a")
    other = DIAS.shipped()
    torch.nn.init.zeros_(other.projection.hidden.weight)
    other.save_pretrained(tmp_path / "b")
    digest = weights_sha256(tmp_path / "a")
    made = cache(tmp_path / "c", checkpoint=str(tmp_path / "a"), checkpoint_sha256=digest)
    assert not dias_of(made).training
    with pytest.raises(ValueError, match="is not the model that made"):
        dias_of(made, str(tmp_path / "b"))
    (tmp_path / "a").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"is not at .*; say where it is with dias=<folder>"):
        dias_of(made)
    assert dias_of(made, str(tmp_path / "moved")).config == DIAS.shipped().config
    assert json.loads((tmp_path / "moved/config.json").read_text())["format"] == 2


def test_every_source_and_transform_of_the_configs_can_be_opened_again() -> None:
    files = sorted((Path(__file__).parents[1] / "configs/data").glob("*.yaml"))
    places = {
        place for file in files for place in re.findall(r"_target_: (dias_video\.data\.[\w.]+)", file.read_text())
    }
    assert len(places) > 8
    for place in places - {"dias_video.data.features.FeatureCache"}:
        module, _, name = place.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), name), Configured), place
