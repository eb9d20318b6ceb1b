"""Files of another program's masks: whatever their names and types, they score as the maps they hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_files import write_clip
from PIL import Image
from test_evaluation import Blocks, Noisy, scores_as_bytes, script, write_predictions

from dias_video.evaluation.methods import PredictionFiles
from dias_video.evaluation.results import MAIN
from dias_video.evaluation.scoring import Videos, score_methods


def test_prediction_files_score_as_the_maps_they_hold(tmp_path: Path) -> None:
    write_predictions(tmp_path, Videos(Blocks()))
    for limit in (None, 3):
        videos = Videos(Blocks(), max_frames=limit)
        scores = score_methods({MAIN: PredictionFiles(tmp_path), "direct": Noisy()}, videos)
        assert scores_as_bytes(scores[MAIN]) == scores_as_bytes(scores["direct"])


def test_bad_prediction_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        PredictionFiles(tmp_path / "none")
    predict, sample = PredictionFiles(tmp_path), Videos(Blocks())[1]
    file = tmp_path / "set/1.npz"
    file.parent.mkdir()
    with pytest.raises(ValueError, match="no prediction for set/1"):
        predict(sample)
    file.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"1\.npz can't be read"):
        predict(sample)
    for wrong, held in (
        (np.zeros((4, 12, 20)), r"masks of float64 \(4, 12, 20\)"),
        (np.zeros((4, 12, 20), bool), r"masks of bool \(4, 12, 20\)"),
        (np.zeros((1, 4, 12, 20), int), r"masks of int64 \(1, 4, 12, 20\)"),
    ):
        np.savez(file, masks=wrong)
        with pytest.raises(ValueError, match=rf"one array of integers \(T,H,W\), it holds {held}"):
            predict(sample)
    np.savez(file, a=np.zeros((4, 12, 20), int), b=np.zeros(3))
    with pytest.raises(ValueError, match=r"holds a of int64 .*, b of float64"):
        predict(sample)
    np.savez(file, masks=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="can't be read"):
        predict(sample)
    np.savez(file, masks=np.zeros((3, 12, 20), int))
    with pytest.raises(ValueError, match="3 frames, the video has 4"):
        predict(sample)
    file.unlink()
    (tmp_path / "set/1").mkdir()
    with pytest.raises(ValueError, match="no PNG"):
        predict(sample)
    Image.new("RGB", (20, 12), (1, 2, 3)).save(tmp_path / "set/1/0.png")
    with pytest.raises(ValueError, match="of mode RGB, masks are indexed or gray"):
        predict(sample)
    with pytest.raises(ValueError, match="leads out"):
        predict({**sample, "video_id": "../x"})


def test_predictions_of_any_name_and_depth_in_natural_order(tmp_path: Path) -> None:
    sample = Videos(Blocks())[1]
    (tmp_path / "set/1").mkdir(parents=True)
    for t, name in enumerate(("9.PNG", "10.png", "a11.png", "a②.Png")):
        Image.fromarray(np.full((12, 20), 20_000 * t, np.uint16)).save(tmp_path / "set/1" / name, format="PNG")
    (tmp_path / "set/1/._9.PNG").write_bytes(b"macOS")
    assert PredictionFiles(tmp_path)(sample)[:, 0, 0].tolist() == [0, 20_000, 40_000, 60_000]


def test_predictions_of_the_size_on_disk(tmp_path: Path) -> None:
    true = write_clip(tmp_path / "data/toss/val/00000")
    (tmp_path / "maps/toss/val").mkdir(parents=True)
    np.savez(tmp_path / "maps/toss/val/00000.npz", true)
    common = (f"predictions={tmp_path}/maps", f"data.root={tmp_path}/data", f"out_dir={tmp_path}/out")
    error = script(*common, "data.size=[16,24]", ok=False)
    assert "make them of the same frames and size, or set native_size=true" in error
    script(*common, "data.size=[16,24]", "native_size=true")
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert content["about"]["resolution"] == ["32x48"]
    assert content["video-fg/mbo"] == content["tracking/j_and_f"] == 1
