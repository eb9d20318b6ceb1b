"""Signs of life on hand-made numbers: whose slots a loss is of, which are counted, how far a gain is from 0."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_clip
from PIL import Image
from torch import Tensor

from dias_video.batch import VideoBatch
from dias_video.data.folder import FolderVideos
from dias_video.data.simulated import SimulatedVideos
from dias_video.evaluation.life import COLUMNS, clip_numbers, life, summary
from dias_video.model.decoders.decoded import Decoded
from dias_video.model.dias import DIAS
from dias_video.model.objectives import FeatureObjective


def summing_model(slots: Tensor, live: Tensor) -> Any:
    """A model that has these slots (B,T,S,1), and whose every token is the sum of the live ones."""

    def decoder(slots: Tensor, live: Tensor, known: Tensor, draws: object) -> Decoded:
        said = (slots * live[..., None]).sum(2, keepdim=True).expand_as(known)  # (B,T,N,1)
        return Decoded(said, live[..., None].expand(-1, -1, -1, known.shape[2]), torch.ones(known.shape[:3]).bool())

    return SimpleNamespace(
        features=lambda batch: batch.features,
        scan=lambda batch, features, draws: SimpleNamespace(slots=slots, live=live),
        objective=FeatureObjective(),
        decoder=decoder,
    )


def test_losses_are_of_own_slots_of_another_clips_and_of_all() -> None:
    """Three clips of two frames and three tokens; the tokens of a clip are 1, 2 and 5."""
    features = torch.tensor([1.0, 2.0, 5.0])[:, None, None, None].expand(3, 2, 3, 1)
    slots = torch.tensor([[1.0, 4.0, 0.0], [1.0, 1.0, 0.0], [3.0, 2.0, 7.0]])[:, None, :, None].expand(3, 2, 3, 1)
    live = torch.tensor([[True, False, False], [True, True, False], [True, True, False]])[:, None].repeat(1, 2, 1)
    live[2, 1, 1] = False  # the last clip's second frame says 3
    masks = torch.zeros(3, 2, 1, 4, dtype=torch.int16)
    masks[1] = torch.tensor([[[-1, 2, 2, 0]], [[-1, 2, 3, 1]]])
    index = torch.arange(2).expand(3, 2)
    batch = VideoBatch(None, ["a", "b", "c"], index, torch.ones(3, 2).bool(), masks=masks, features=features)
    got = {name: value.tolist() for name, value in clip_numbers(summing_model(slots, live), batch).items()}
    assert got == {
        "own": [0.0, 0.0, (0 + 4) / 2],
        "rolled": [(16 + 4) / 2, 1.0, 9.0],  # sums 5 and 3, 1, 2
        "none": [1.0, 4.0, 25.0],
        "all": [16.0, 0.0, 49.0],  # sums 5, 2, 12; a slot of zeros is none
        "kept": [1.0, 2.0, 1.5],
        "objects": [0.0, 2.0, 0.0],
    }


def test_a_summary_is_in_standard_errors_over_clips() -> None:
    numbers = {name: np.array(values) for name, values in {
        "own": [1.0, 2.0, 3.0, 4.0], "rolled": [2.0, 4.0, 6.0, 8.0], "all": [1.0, 1.0, 1.0, 2.0], "none": [9.0] * 4,
        "kept": [2.0, 3.0, 5.0, 4.0], "objects": [1.0, 2.0, 6.0, 9.0],
    }.items()}  # fmt: skip
    got = summary(numbers)
    deviation = math.sqrt((1.5**2 + 0.5**2) * 2 / 3)  # of the gains 1, 2, 3, 4
    assert got["standard_errors"] == pytest.approx(2.5 / (deviation / 2))
    assert (got["own"], got["rolled"], got["all"], got["kept"]) == (2.5, 5.0, 1.25, 3.5)
    assert (got["kept_min"], got["kept_max"]) == (2.0, 5.0)
    assert got["kept_spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks differ by 1
    same = summary(numbers | {"kept": np.full(4, 3.0), "rolled": numbers["own"]})
    assert math.isnan(same["kept_spearman"])
    assert math.isnan(same["standard_errors"])


def test_a_trained_models_numbers_are_written(tmp_path: Path) -> None:
    for name in ("00000", "00001", "00002"):
        write_clip(tmp_path / "toss/val" / name)
    source = SimulatedVideos(tmp_path, "toss/val")
    DIAS.shipped().save_pretrained(tmp_path / "model")
    told: dict[str, Any] = {"checkpoint": tmp_path / "model", "videos": source, "frames": (0, 2)}
    found = life(out_dir=tmp_path / "out", **told)
    with (tmp_path / "out/life.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["video_id"] for row in rows] == [source.info(i).video_id for i in range(len(source))]
    for name in COLUMNS:
        assert found[name] == pytest.approx(np.mean([float(row[name]) for row in rows]))
    stored = json.loads((tmp_path / "out/life.json").read_text())
    assert (stored["own"], stored["about"]["condition"]) == (found["own"], "boxes")
    with pytest.raises(ValueError, match="overwrite"):
        life(out_dir=tmp_path / "out", **told)
    with pytest.raises(ValueError, match="at least 2 videos, not 1"):
        life(out_dir=tmp_path / "other", max_videos=1, **told)
    frames = tmp_path / "frames"
    for name in ("a", "b"):
        (frames / name).mkdir(parents=True)
        Image.new("RGB", (40, 32)).save(frames / name / "0.png")
    with pytest.raises(ValueError, match="have no masks"):
        life(out_dir=tmp_path / "other", **{**told, "videos": FolderVideos(frames), "frames": (0,), "boxes": False})
