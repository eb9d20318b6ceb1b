"""What is looked at while a DIAS trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import torch
from tiny import HEIGHT, WIDTH, clips, tiny_dias

from dias_video.data.source import Keys, Sample, VideoInfo
from dias_video.evaluation.codes import CodeValidation
from dias_video.evaluation.in_training import ClipValidation
from dias_video.evaluation.methods import ModelTracks
from dias_video.evaluation.scoring import Videos, score_methods


class Clips:
    """Four random videos of seven frames, with masks and boxes if asked for."""

    def __init__(self, masks: bool = True) -> None:
        self.batch, self.masks = clips(batch=4, frames=7, boxes=3, seed=2), masks

    def __len__(self) -> int:
        return 4

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(f"some/clip{index}", 7)

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        assert self.batch.boxes is not None
        assert self.batch.box_valid is not None
        sample: Sample = {"video": self.batch.video[index][list(frames)], "video_id": self.info(index).video_id}
        sample["frame_index"] = torch.tensor(frames)
        sample["boxes"] = self.batch.boxes[index][list(frames)]
        sample["box_valid"] = self.batch.box_valid[index][list(frames)]
        if self.masks:
            generator = torch.Generator().manual_seed(index)
            sample["masks"] = torch.randint(0, 4, (len(frames), HEIGHT, WIDTH), generator=generator).short()
        return sample


@pytest.mark.parametrize("boxes", [False, True])
def test_scores_are_those_of_the_evaluation(boxes: bool) -> None:
    source, model = Clips(), tiny_dias(boxes).eval()
    got = ClipValidation(source, None, num_videos=3, num_frames=5).validate(model, step=8)
    videos = Videos(source, max_videos=3, max_frames=5)
    expected = score_methods({"x": ModelTracks(model, boxes)}, videos)["x"].summary()
    assert got == {f"val/{name}": expected[f"video-fg/{name}"] for name in ("fg_ari", "mbo", "miou")}


@pytest.mark.parametrize(("masks", "panels"), [(True, 3), (False, 2)])
def test_pictures(tmp_path: Path, masks: bool, panels: int) -> None:
    looks, model = ClipValidation(Clips(masks), None, num_videos=2, num_frames=5), tiny_dias().eval()
    assert set(looks.validate(model, 1)) == ({"val/fg_ari", "val/mbo", "val/miou"} if masks else set())
    files = looks.preview(model, tmp_path)
    assert files == [tmp_path / "some/clip0.gif", tmp_path / "some/clip1.gif"]
    pictures = iio.imread(files[1])
    assert len(pictures) == 5
    assert pictures.shape[2] == panels * WIDTH


@pytest.mark.parametrize("kind", [ClipValidation, CodeValidation])
@pytest.mark.parametrize(("option", "value"), [("num_videos", 0), ("num_frames", 2.5), ("num_videos", True)])
def test_wrong_numbers_are_named(kind: Any, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"validation\.{option} must be an integer of at least 1"):
        kind(Clips(), None, **{"num_videos": 2, "num_frames": 2, option: value})
