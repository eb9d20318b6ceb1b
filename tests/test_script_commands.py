"""Every script with a command that works: a model on the Hub, what reaches the model, and options that are anything."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from physion15_files import write_physion15
from test_script_options import ROOT, SMALL, run, sentence

import dias_video.evaluation.in_training  # noqa: F401 - what scripts import is loaded once, before the forks
import slotformer.contact.probing
import slotformer.contact.reasoning
import slotformer.fill  # noqa: F401
from dias_video.data.video_file import VideoFiles
from dias_video.model.dias import DIAS
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.pretrained.weights import read_weights
from dias_video.stores.files import sha256
from slotformer.cache import SlotCache

COMMANDS: dict[str, tuple[str, ...]] = {  # {w} is a folder with data and models, {o} one that does not exist yet
    "simulate": ("simulate=toss", "root={o}", "split=train", "num_videos=1", *SMALL),
    "inspect_data": ("data.root={w}", "out_dir={o}", "videos=1"),
    "train_video": ("experiment=smoke", "data.root={w}", "out_dir={o}", "max_steps=1"),
    "evaluate": ("checkpoint={w}/dias/checkpoints/last", "data.root={w}", "out_dir={o}", "baselines=[]"),
    "probe": ("checkpoint={w}/dias/checkpoints/last", "data.root={w}", "data.eval.split=toss/val", "out_dir={o}",
              "train_videos=2", "test_videos=1"),
    "life": ("checkpoint={w}/dias/checkpoints/last", "data.root={w}", "out_dir={o}", "max_videos=2"),
    "visualize": ("data=simulated", "data.root={w}", "out_dir={o}", "num_videos=1", "max_frames=2"),
    "track": ("video={w}/toss/val/00000.mp4", "out_dir={o}", "checkpoint=shipped", "max_frames=2"),
    "cache_features": ("model=tiny", "model.encoder.weights=random", "data.root={w}", "path={o}", "split=eval"),
    "whiten_encoder": ("checkpoint={w}/dias/checkpoints/last", "data.root={w}", "out_dir={o}", "videos=2"),
    "cache_slots": ("checkpoint={w}/dias/checkpoints/last", "data.root={w}", "cache={o}"),
    "inspect_cache": ("cache={w}/slots",),
    "train_slotformer": ("experiment=smoke", "cache={w}/slots", "out_dir={o}", "max_steps=1"),
    "rollout": ("checkpoint={w}/slotformer/checkpoints/last", "cache={w}/slots", "out_dir={o}", "masks=0",
                "gifs=0", "oracle=0"),
    "reason": ("experiment=smoke", "dynamics={w}/slotformer/checkpoints/last", "readout_cache={w}/slots",
               "test_cache={w}/slots", "out_dir={o}"),
    "probe_contact": ("experiment=physion15", "representation=tokens", "model=tiny_free", "data.root={w}/physion15",
                      "data.size=[16,24]", "model.encoder.input_size=[16,24]", "out_dir={o}"),
    "cache_states": ("data.root={w}", "cache={o}"),
    "curves": ("methods={{a:{w}/errors}}", "path={o}.png"),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a model, its slots and a dynamics model, all tiny."""
    pytest.importorskip("pybullet")
    root = tmp_path_factory.mktemp("world")
    steps = [
        ("simulate", ("simulate=toss", f"root={root}", f"split={s}", "num_videos=3", *SMALL)) for s in ("train", "val")
    ]
    steps += [("train_video", ("experiment=smoke", f"data.root={root}", f"out_dir={root}/dias", "max_steps=1"))]
    steps += [("cache_slots", (f"checkpoint={root}/dias/checkpoints/last", f"data.root={root}", f"cache={root}/slots"))]
    steps += [
        ("train_slotformer", ("experiment=smoke", f"cache={root}/slots", f"out_dir={root}/slotformer", "max_steps=1"))
    ]
    for name, words in steps:
        code, output = run(name, *words)
        assert code == 0, output
    write_physion15(root / "physion15", (16, 24))
    (root / "errors").mkdir()
    columns = ["step", *(f"model{kind}{end}" for kind in ("", "_relative") for end in ("", "_low", "_high"))]
    (root / "errors/rollout_error.csv").write_text(f"{','.join(columns)}\n{','.join('1' * len(columns))}\n")
    return root


def options(name: str) -> list[str]:
    """Every option of a script and every group of options, but for what decides the class of an object."""
    words = [word.format(w="w", o="o").replace("experiment=", f"experiment/{name}=") for word in COMMANDS[name]]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose(name, words), resolve=False)

    def within(value: Any, path: str) -> list[str]:
        if not isinstance(value, dict):
            return [path]
        below = [within(v, f"{path}.{k}".lstrip(".")) for k, v in value.items() if not k.startswith("_")]
        return [path] * (path != "" and "_target_" not in value) + [option for part in below for option in part]

    return within(config, "")


COMMIT = "c0ffee1"


@pytest.mark.slow
def test_a_model_on_the_hub_is_taken(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = {f"me/{name}": tmp_path / "hub" / name / COMMIT for name in ("dias", "slotformer")}
    for name, folder in hub.items():
        shutil.copytree(world / name.split("/")[1] / "checkpoints/last", folder)

    def snapshot_download(name: str, revision: str, allow_patterns: list[str]) -> str:
        assert revision in ("v1", COMMIT)
        return str(hub[name])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)  # in forks too
    dias, slotformer = f"hf-hub:me/dias@{COMMIT}", f"hf-hub:me/slotformer@{COMMIT}"
    more = {
        "evaluate": (), "probe": (), "cache_slots": (), "visualize": (),
        "cache_features": ("kind=features",), "train_video": ("model=tiny",), "train_slotformer": (),
        "rollout": (f"cache={tmp_path}/cache_slots", "masks=1", "oracle=1", f"dias={dias}"),
        "reason": (f"readout_cache={tmp_path}/cache_slots",),
    }  # fmt: skip
    for name, others in more.items():
        option = "dynamics" if name == "reason" else "checkpoint"
        words = [word.format(w=world, o=tmp_path / name) for word in COMMANDS[name] if not word.startswith("model")]
        words = [word for word in words if word.split("=")[0] not in (option, *(w.split("=")[0] for w in others))]
        model = "slotformer" if name in ("rollout", "reason", "train_slotformer") else "dias"
        code, output = run(name, f"{option}=hf-hub:me/{model}@v1", *words, *others)
        # The videos of this world are too few to reason with, which is found out after the model was read.
        assert code == 0 or (name == "reason" and "in both caches" in output), output
    DIAS.from_pretrained(hub["me/dias"]).save_pretrained(tmp_path / "one")
    digest = sha256(tmp_path / "one/model.safetensors")
    about = json.loads((tmp_path / "evaluate/metrics.json").read_text())["about"]
    assert (about["checkpoint"], about["checkpoint_hash"]) == (dias, digest)
    about = json.loads((tmp_path / "probe/probe.json").read_text())["about"]
    assert (about["checkpoint"], about["checkpoint_sha256"]) == (dias, digest)
    header = SlotCache(tmp_path / "cache_slots").header
    assert (header["checkpoint"], header["checkpoint_sha256"]) == (dias, digest)
    assert json.loads((tmp_path / "rollout/rollout.json").read_text())["checkpoint"] == [slotformer]
    for name, model in (("train_video", dias), ("train_slotformer", slotformer)):
        assert f"\ncheckpoint: {model}\n" in (tmp_path / name / "config.yaml").read_text()
    # A header names a model, and nobody fetches it for that.
    words = ["checkpoint=hf-hub:me/slotformer@v1", f"cache={tmp_path}/cache_slots", f"out_dir={tmp_path}/more"]
    code, output = run("rollout", *words)
    assert code == 1
    assert f"to fetch that model, add dias={dias}" in sentence(output)


@pytest.mark.slow
def test_cached_features_a_rehearsal_and_edges_reach_the_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, features = (f"checkpoint={world}/dias/checkpoints/last", f"data.root={world}"), f"{tmp_path}/features"

    def start(name: str, *words: str) -> str:
        code, output = run(name, *model, *words)
        assert code == 0, output
        return output

    def scores(out: str, *words: str) -> dict[str, Any]:
        start("evaluate", f"out_dir={tmp_path}/{out}", *words)
        return json.loads((tmp_path / out / "metrics.json").read_text())

    start("cache_features", "split=eval", f"path={features}")
    found = [scores("live"), scores("free", "boxes=false"), scores("rehearsed", "boxes=false", "rehearse=true")]
    fine = scores("fine", "follow_edges=true")
    assert fine["about"]["mask_source"]["baselines/kmeans"] == "k-means on frozen features, following edges"
    assert fine["video-fg/mbo"] != found[0]["video-fg/mbo"]
    assert fine["baselines/kmeans/video-fg/mbo"] != found[0]["baselines/kmeans/video-fg/mbo"]
    start("cache_slots", "data=simulated", f"cache={tmp_path}/live_slots")
    settings = {"both": (), "at_once": ("rehearse=false",), "cells": ("follow_edges=false",)}
    for name, words in settings.items():
        start("visualize", "data=simulated", f"out_dir={tmp_path}/{name}", "boxes=false", "num_videos=1", *words)
    assert len({next((tmp_path / name).rglob("*.gif")).read_bytes() for name in settings}) == 3
    assert [one["about"]["condition"] for one in found] == ["boxes", "none", "none, rehearsed"]
    assert found[1]["video-fg/mbo"] != found[2]["video-fg/mbo"]

    def broken(self: TinyEncoder, video: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(TinyEncoder, "features", broken)  # in forks too
    cached = scores("cached", f"features={features}")
    assert cached["ocb/ari"] == pytest.approx(found[0]["ocb/ari"], abs=0.02)
    assert cached["baselines/kmeans/ocb/ari"] == pytest.approx(found[0]["baselines/kmeans/ocb/ari"], abs=0.02)
    monkeypatch.setattr(VideoFiles, "read", broken)
    start("cache_slots", "data=simulated", f"cache={tmp_path}/slots", f"features={features}")
    stored = f"data.features={{_target_:dias_video.data.features.FeatureCache,path:{features}}}"
    plain = ("data.train.split=toss/val", "data.transform.crop_area=null", "data.transform.flip=0")
    short = ("experiment=smoke", "max_steps=1", "validation.num_videos=0", f"out_dir={tmp_path}/trained")
    start("train_video", *short, *plain, stored)
    caches = [SlotCache(tmp_path / name) for name in ("live_slots", "slots")]
    one, other = (cache.read(cache.video_ids[0], 0, 9) for cache in caches)
    torch.testing.assert_close(one.slots, other.slots, atol=0.02, rtol=0)


ANYTHING = ["banana", "-1", "0", "1.5", "true", "null", "[]", "{}", "[0,-3]", "/nowhere/x", "1e30", "nan"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_anything_is_taken_or_one_sentence(world: Path, name: str) -> None:
    every = options(name)
    assert len(every) > 1

    @given(st.sampled_from(every), st.sampled_from(ANYTHING))
    @settings(max_examples=int(os.environ.get("OPTION_TRIES", "12")), deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def fuzzed(option: str, value: str) -> None:
        out = world / "out"
        shutil.rmtree(out, ignore_errors=True)
        words = [word.format(w=world, o=out) for word in COMMANDS[name]]
        code, output = run(name, *(w for w in words if w.split("=")[0] != option), f"{option}={value}")
        if code != 0:
            assert code == 1, f"{option}={value}: {output}"
            sentence(output)

    fuzzed()


@pytest.mark.slow
def test_only_the_named_parts_are_trained(world: Path, tmp_path: Path) -> None:
    common = ("experiment=smoke", f"data.root={world}", "max_steps=2", "trainer.optimization.warmup=0")

    def weights(name: str, *words: str) -> dict[str, torch.Tensor]:
        code, output = run("train_video", *common, f"out_dir={tmp_path / name}", *words)
        assert code == 0, output
        return read_weights(tmp_path / name / "checkpoints/last")

    initial = weights("initial", "trainer.optimization.lr=1e-30")
    for parts in (["decoder"], ["decoder", "transition"]):
        after = weights("-".join(parts), f"train_only=[{','.join(parts)}]")
        moved = {key.split(".")[0] for key in after if (after[key] - initial[key]).abs().max() > 1e-9}
        assert moved == set(parts)
    for part in ("dekoder", "encoder"):
        code, output = run("train_video", *common, f"out_dir={tmp_path / part}", f"train_only=[{part}]")
        assert code == 1
        assert f"train_only names '{part}', but the trained parts are projection, initializer" in sentence(output)
