"""The rows of the tables: each is built from its config and differs from full DIAS in what its name says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dias_video.engine import Trainer
from dias_video.model.dias import DIAS

CONFIGS = Path(__file__).parents[1] / "configs"
TECHNIQUES = {"reduction", "reinitialization", "distillation", "random order"}
ON = {
    "base": TECHNIQUES - {"distillation"},
    "full": TECHNIQUES,
    "no_reduction": {"distillation", "random order"},
    "no_reinitialization": TECHNIQUES - {"reinitialization"},
    "no_distillation": TECHNIQUES - {"distillation"},
    "causal": TECHNIQUES - {"random order"},
    "dinosaur": set(),
    "slotcontrast": set(),
    "videosaur": set(),
    "spot": set(),
    "solv": {"reduction"},
}
DECODERS = {
    "causal": ("CausalDecoder", "num_orders", 1),
    "spot": ("CausalDecoder", "num_orders", 9),
    "dinosaur": ("MLPDecoder", "hidden", 128),
    "slotcontrast": ("MLPDecoder", "hidden", 128),
    "solv": ("MLPDecoder", "hidden", 128),
    "videosaur": ("SlotMixerDecoder", "feature_dim", 64 + 256),
}


def composed(row: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = [f"experiment/train_video=rows/{row}", "data.root=x", "out_dir=x", "data.features.path=x"]
        return compose("train_video", words)


def test_every_row_is_known() -> None:
    assert {file.stem for file in (CONFIGS / "experiment/train_video/rows").glob("*.yaml")} == set(ON)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compared = compose("compare", ["root=x", "encoder=x", "features=x", "out_dir=x"]).rows
    assert set(compared) == set(ON) - {"base"}


@pytest.mark.parametrize("row", sorted(ON))
def test_a_row_is_built_and_has_its_techniques(row: str) -> None:
    cfg = composed(row)
    model: DIAS = instantiate(cfg.model)
    trainer: Trainer = instantiate(cfg.trainer)
    on = {
        "reduction": model.aggregator.merge_threshold is not None,
        "reinitialization": model.aggregator.reinitialize,
        "distillation": model.teacher is not None,
        "random order": type(model.decoder).__name__ == "RandomARDecoder",
    }
    assert {name for name, is_on in on.items() if is_on} == ON[row]
    if row in DECODERS:
        kind, name, value = DECODERS[row]
        assert type(model.decoder).__name__ == kind
        assert model.decoder.config[name] == value
    own = {"videosaur": {"similarity"}, "slotcontrast": {"contrast"}}
    assert set(trainer.weights) == ({"distillation"} if on["distillation"] else own.get(row, set()))
    assert (model.similarity_temperature is not None) == (row == "videosaur")
    assert (model.contrast_temperature is not None) == (row == "slotcontrast")


@pytest.mark.parametrize("row", sorted(set(ON) - {"full"}))
def test_rows_share_everything_else(row: str) -> None:
    def shared(name: str) -> Any:
        plain = OmegaConf.to_container(composed(name), resolve=True)
        assert isinstance(plain, dict)
        for key in ("decoder", "teacher", "similarity_temperature", "contrast_temperature"):
            plain["model"].pop(key, None)
        for key in ("merge_threshold", "reinitialize"):
            plain["model"]["aggregator"].pop(key)
        plain["trainer"].pop("weights")
        return plain

    assert shared(row) == shared("full")


def test_an_interrupted_row_is_resumed_and_a_finished_one_left_alone_if_its_options_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the training is cut off before its first checkpoint, then the evaluation, then all is there."""
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    compare = importlib.import_module("compare")
    folder, ran = tmp_path / "full/s7", []

    def run(script: str, *words: str) -> None:
        ran.append(script)
        assert ("resume=true" in words) == (script == "train_video")
        assert f"out_dir={folder if script == 'train_video' else folder / 'eval'}" in words
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").touch()
        if len(ran) in (1, 3):
            raise ValueError("cut off")
        if script == "evaluate":
            (folder / "eval").mkdir()
            (folder / "eval/metrics.json").write_text(json.dumps({"video-fg/mbo": 0.25}))

    monkeypatch.setattr(compare, "run", run)
    options = {
        "root": "x",
        "encoder": "x",
        "features": "x",
        "out_dir": str(tmp_path),
        "first": [],
        "train": [],
        "evaluate": [],
    }
    for _ in range(2):
        with pytest.raises(ValueError, match="cut off"):
            compare.score(OmegaConf.create(options), "full", 7)
    for _ in range(2):
        assert compare.score(OmegaConf.create(options), "full", 7) == {"video-fg/mbo": 0.25}
    assert ran == ["train_video", "train_video", "evaluate", "train_video", "evaluate"]
    for name in ("train", "first", "evaluate"):
        message = rf"full/s7 is of other options \({name} is \[\], now \['max_steps=5'\]\); name another out_dir"
        with pytest.raises(ValueError, match=message):
            compare.score(OmegaConf.create({**options, name: ["max_steps=5"]}), "full", 7)
    (folder / "options.json").unlink()  # as in folders of before it was kept
    with pytest.raises(ValueError, match="full/s7 is of other options"):
        compare.score(OmegaConf.create(options), "full", 7)
    assert len(ran) == 5


def test_a_row_begins_with_the_weights_of_its_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    compare = importlib.import_module("compare")
    ran: list[tuple[str, ...]] = []

    def run(script: str, *words: str) -> None:
        ran.append((script, *words))
        if script == "evaluate":
            (tmp_path / "solv/s3/eval").mkdir(parents=True)
            (tmp_path / "solv/s3/eval/metrics.json").write_text("{}")

    monkeypatch.setattr(compare, "run", run)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = [
            "root=x",
            "encoder=x",
            "features=x",
            f"out_dir={tmp_path}",
            "train=['max_steps=7']",
            "first=['max_steps=2']",
        ]
        compare.score(compose("compare", words), "solv", 3)
    first, then, _ = ran
    assert first[0] == then[0] == "train_video"
    assert set(first) - set(then) == {f"out_dir={tmp_path}/solv/s3/first", "max_steps=2"}
    assert set(then) - set(first) == {
        f"out_dir={tmp_path}/solv/s3",
        f"checkpoint={tmp_path}/solv/s3/first/checkpoints/last",
    }
    assert first.index("max_steps=2") > first.index("max_steps=7")  # of two the later one counts


def test_a_cell_has_the_sample_deviation_of_several_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    compare = importlib.import_module("compare")
    assert compare.cell([0.25]) == "0.250"
    assert compare.cell([0.1, 0.3]) == "0.200 ± 0.141"
