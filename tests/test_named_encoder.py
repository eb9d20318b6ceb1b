"""The encoder that cache_features.py and whiten_encoder.py are told to take: one, with weights, or a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from data_files import write_clip
from test_script_options import ROOT, run, sentence
from test_slate import slate
from test_tokenizers import of_pictures

from dias_video.data.features import FeatureCache
from dias_video.model.distillation import Distillation
from dias_video.model.tiny_encoder import TinyEncoder

SHIPPED = ROOT / "dias_video/assets/dias"
OUT = {"cache_features": "path", "whiten_encoder": "out_dir"}
ORDERS = {"cache_features": "there is nothing to cache before", "whiten_encoder": "there is nothing to whiten before"}


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_clip(tmp_path / "data/toss/train/00000", num_frames=4)
    return f"data.root={tmp_path}/data"


def refused(name: str, tmp_path: Path, *words: str) -> str:
    """The sentence of a script that makes nothing."""
    code, output = run(name, *words, f"{OUT[name]}={tmp_path}/out")
    assert code == 1, output
    assert not (tmp_path / "out").exists()
    return sentence(output)


@pytest.mark.parametrize("name", OUT)
def test_one_encoder_is_named(name: str, tmp_path: Path, data: str) -> None:
    assert "error: name an encoder: checkpoint=<" in refused(name, tmp_path, data)
    both = (f"checkpoint={SHIPPED}", "model=tiny_free", "model.encoder.weights=random")
    said = "error: checkpoint= and model= both name an encoder; leave out one of them"
    assert refused(name, tmp_path, data, *both) == said


@pytest.mark.parametrize("model", ["slate", "vqvae", "distill"])
@pytest.mark.parametrize("name", OUT)
def test_an_encoder_that_is_trained_is_not_taken_before(name: str, model: str, tmp_path: Path, data: str) -> None:
    said = refused(name, tmp_path, f"model={model}", data)
    assert f"{ORDERS[name]}; name a model of a frozen encoder, such as model=dinov2, or a trained " in said


def test_of_a_model_that_is_all_trained_nothing_is_cached_or_whitened(tmp_path: Path, data: str) -> None:
    slate().save_pretrained(tmp_path / "slate")
    said = refused("cache_features", tmp_path, f"checkpoint={tmp_path}/slate", data)
    assert said.endswith("slate is trained, so there is nothing to cache; train on video")
    said = refused("whiten_encoder", tmp_path, f"checkpoint={tmp_path}/slate", data)
    assert said.endswith("holds no encoder but SLATE; name a model of a frozen encoder, or a trained model=distill")


@pytest.mark.parametrize("name", OUT)
def test_a_model_of_slots_alone_has_no_encoder(name: str, tmp_path: Path, data: str) -> None:
    said = refused(name, tmp_path, f"checkpoint={SHIPPED.parent}/slotformer", data)
    assert "but ObjectFormer; name a model of a frozen encoder, or a trained " in said


def test_what_is_said_to_be_cached_instead_is_cached(tmp_path: Path, data: str) -> None:
    said = refused("cache_features", tmp_path, "model=vqvae", data)
    of_pictures().save_pretrained(tmp_path / "tokenizer")
    words = re.findall(r"\w+=\S+", said.replace("<its folder>", f"{tmp_path}/tokenizer").partition(" or ")[2])
    code, output = run("cache_features", *words, data, f"path={tmp_path}/codes")
    assert code == 0, output
    Distillation(TinyEncoder(64), 64).save_pretrained(tmp_path / "distilled")
    said = refused("cache_features", tmp_path, f"checkpoint={tmp_path}/distilled", data)
    words = re.findall(r"[\w.]+=\S+", said)
    assert words == ["model=tiny_free", f"model.encoder.weights={tmp_path}/distilled"]
    code, output = run("cache_features", *words, data, f"path={tmp_path}/features")
    assert code == 0, output


def test_the_folder_of_an_encoder_is_taken(tmp_path: Path, data: str) -> None:
    TinyEncoder(8, width=8, depth=1, input_size=(32, 48)).save_pretrained(tmp_path / "encoder")
    for name, out in OUT.items():
        code, output = run(name, f"checkpoint={tmp_path}/encoder", data, f"{out}={tmp_path}/{name}")
        assert code == 0, output
    tokens = FeatureCache(tmp_path / "cache_features").read("toss/train/00000", [0])
    assert tokens.shape == (1, 24, 8)  # 4 x 6 cells
