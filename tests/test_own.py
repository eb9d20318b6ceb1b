"""Models of the videos' own in an evaluation, beside k-means with as many clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_auto import square, vit

from dias_video.auto.backbone import Backbone
from dias_video.auto.track import Tracker
from dias_video.data.boxes import boxes_from_masks
from dias_video.data.features import cache_features
from dias_video.data.source import VideoInfo
from dias_video.data.transforms import ClipTransform
from dias_video.evaluation.own import OwnKMeans, OwnTracks
from dias_video.evaluation.run import evaluate

SIZE = (50, 75)


class Squares:
    """Two videos of two squares, the second shorter, with masks."""

    def __len__(self) -> int:
        return 2

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(f"squares{index}", 6 - index)

    def read(self, index: int, frames: Any, keys: Any = None) -> dict[str, Any]:
        video = square(6 - index)
        red = (video[:, 0].int() - video[:, 1].int() > 100) & (video[:, 0] > 200)
        green = (video[:, 1].int() - video[:, 0].int() > 100) & (video[:, 1] > 150)
        masks = (red + 2 * green.int()).to(torch.int16)
        numbers = torch.as_tensor(list(frames))
        boxes, valid = boxes_from_masks(masks, 2)
        return {
            "boxes": boxes[numbers],
            "box_valid": valid[numbers],
            "video": video[numbers],
            "masks": masks[numbers],
            "video_id": f"squares{index}",
            "frame_index": numbers,
        }


def test_every_video_has_a_model_and_as_many_clusters(tmp_path: Path) -> None:
    options: dict[str, Any] = {"encoder": vit(), "device": "cpu", "slots": 3, "transform": ClipTransform(SIZE)}
    found = evaluate(source=Squares(), method="auto", out_dir=tmp_path / "a", report=1, **options)
    assert found["about"]["condition"] == "none, rehearsed"
    assert found["about"]["mask_source"]["baselines/kmeans"] == "k-means on the features of the video's own slots"
    assert found["video-fg/mbo"] > 0.5
    assert 0 < found["baselines/kmeans/video-fg/mbo"] <= 1
    assert 0 < found["baselines/kmeans_plain/video-fg/mbo"] <= 1
    assert (tmp_path / "a/report.html").is_file()
    # Cached features of the plain encoder say the same, but for their half precision.
    encoder = options["encoder"].encoder(SIZE, torch.device("cpu"))
    cache_features(encoder, Squares(), tmp_path / "cache", ClipTransform(SIZE), device="cpu")
    cached = evaluate(
        source=Squares(), method="auto", out_dir=tmp_path / "b", report=0, features=tmp_path / "cache", **options
    )
    assert cached["video-fg/mbo"] == pytest.approx(found["video-fg/mbo"], abs=0.02)
    other = Backbone("vit_tiny_patch16_224.augreg_in21k", "random", tokens=48)
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="made by another encoder"):
        evaluate(source=Squares(), method="auto", out_dir=tmp_path / "c", features=tmp_path / "cache",
                 **{**options, "encoder": other})  # fmt: skip
    assert not (tmp_path / "c").exists()


def test_a_video_has_one_model_for_all_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two videos of one shape, which a trained model would take at once."""
    made: list[str] = []

    def own(self: Tracker, video_id: str, *rest: Any, of: Any = Tracker.own) -> Any:
        made.append(video_id)
        return of(self, video_id, *rest)

    monkeypatch.setattr(Tracker, "own", own)
    options: dict[str, Any] = {"encoder": vit(), "device": "cpu", "transform": ClipTransform(SIZE), "report": 0}
    evaluate(source=Squares(), method="auto", out_dir=tmp_path / "a", slots=2, max_frames=3, **options)
    assert made == ["squares0", "squares1"]


def test_boxes_are_given(tmp_path: Path) -> None:
    options: dict[str, Any] = {"encoder": vit(), "device": "cpu", "transform": ClipTransform(SIZE), "report": 0}
    found = evaluate(source=Squares(), method="auto", out_dir=tmp_path / "a", boxes=True, **options)
    assert found["about"]["condition"] == "boxes"
    assert found["video-fg/mbo"] > 0.5
    assert found["baselines/boxes_fixed/video-fg/mbo"] > 0.5  # they hardly move, and fill their boxes
    assert (
        OwnTracks(Tracker(encoder=vit(), device="cpu"), boxes=True)(Squares().read(1, range(5))).unique().numel() == 3
    )


def test_the_baseline_has_the_number_of_the_video() -> None:
    tracks = OwnTracks(Tracker(encoder=vit(), device="cpu"))
    sample = Squares().read(0, range(6))
    number = tracks.fitted(sample).num_slots
    assert len(OwnKMeans(tracks)(sample).unique()) == len(OwnKMeans(tracks, plain=True)(sample).unique()) == number
    assert tracks(sample).shape == sample["masks"].shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'; choose from auto"),
        ({"method": "auto", "checkpoint": "x"}, "say what to score by exactly one of checkpoint="),
        ({}, "say what to score by exactly one of"),
        ({"predictions": "x", "checkpoint": "x"}, "exactly one of checkpoint=.*, predictions=.* and method=auto"),
        ({"method": "auto", "boxes": True, "slots": 3}, "leave it out with boxes=true"),
        ({"predictions": "x", "slots": 3}, "slots= is for method=auto"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(source=Squares(), out_dir=tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
