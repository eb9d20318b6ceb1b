"""Predicted slots on disk: what is in them, and a rollout that was killed and resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_script_options import run, sentence
from torch import nn
from toy_slots import toy_cache

from dias_video.batch import SlotSequence
from slotformer import prediction
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.causal import CausalSlotFormer
from slotformer.objects import ObjectFormer
from slotformer.prediction import cache_errors, predict_batch, predict_cache
from slotformer.rollouter import Dynamics, SlotFormer

S, D, BURN_IN, STRIDE, STEPS = 4, 5, 3, 2, 6
SIZE = {"burn_in": BURN_IN, "rollout": 2, "stride": STRIDE, "width": 16, "layers": 2, "heads": 2}
LENGTHS = (5, 4, 17, 8, 30, 16, 15)  # context takes 5 frames, context and future 17


def build(cls: type[Dynamics] = SlotFormer, slot_dim: int = D, seed: int = 0) -> Dynamics:
    torch.manual_seed(seed)
    model = cls(slot_dim, **SIZE, residual=True)  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def cache(tmp_path: Path) -> SlotCache:
    """Videos of several lengths whose slots die, are born and change their track."""
    generator = torch.Generator().manual_seed(1)
    with SlotCacheWriter(tmp_path / "cache", scenarios=["drop", "roll"]) as writer:
        for number, frames in enumerate(LENGTHS):
            mask = torch.rand(frames, S, generator=generator) > 0.4
            mask[4:5] = torch.arange(S) < number  # another count in every video
            ids = torch.randint(0, 2, (frames, S), generator=generator)
            slots = torch.randn(frames, S, D, generator=generator)
            label, scenario = [(None, None), (0.0, "drop"), (1.0, "roll")][number % 3]
            writer.write(f"v{number}", slots, mask, track_id=ids, label=label, scenario=scenario)
    return SlotCache(tmp_path / "cache")


@pytest.mark.parametrize("cls", [SlotFormer, CausalSlotFormer, ObjectFormer])
def test_predicted_slots_are_rollouts_of_the_context(cls: type[Dynamics], cache: SlotCache, tmp_path: Path) -> None:
    model = build(cls)
    predicted = predict_cache(model, cache, tmp_path / "predicted", STEPS, batch_size=2)
    names = [f"v{number}" for number, frames in enumerate(LENGTHS) if frames >= 5]
    assert list(predicted.video_ids) == names
    for name in names:
        video, future = cache.read(name), predicted.read(name)
        last = int(np.flatnonzero(np.arange(video.num_frames) % STRIDE == 0)[BURN_IN - 1])
        assert last == 4
        live, ids = video.live[0], video.track_id[0]
        seen = [[bool(live[t, s] and live[4, s] and ids[t, s] == ids[4, s])
                 for s in range(S)] for t in (0, 2, 4)]  # fmt: skip
        with torch.no_grad():
            expected = model.rollout(video.slots[:, [0, 2, 4]], torch.tensor([seen]), STEPS)
        assert torch.allclose(future.slots, expected, atol=1e-4)
        assert torch.equal(future.live[0], live[4].expand(STEPS, -1))
        assert torch.equal(future.track_id[0], ids[4].expand(STEPS, -1))
        assert predicted.info(name)[2:] == cache.info(name)[2:]
    assert predicted.header["source"] == cache.identity
    assert not torch.equal(*(predicted.read("v6").slots[0, step] for step in (0, 1)))


def test_the_context_may_begin_later(cache: SlotCache, tmp_path: Path) -> None:
    """Then all is that of the videos without their first frames."""
    model = build()
    with SlotCacheWriter(tmp_path / "later", dtype="fp32") as writer:
        for name in (name for name in cache.video_ids if cache.num_frames(name) > 9):
            video = cache.read(name, 3)
            writer.write(name, video.slots[0], video.live[0], track_id=video.track_id[0])
    later = SlotCache(tmp_path / "later")
    shifted = predict_cache(model, cache, tmp_path / "shifted", STEPS, start=3)
    plain = predict_cache(model, later, tmp_path / "plain", STEPS)
    assert set(plain.video_ids) < set(shifted.video_ids)  # the short ones have their context too
    for name in plain.video_ids:
        assert torch.allclose(shifted.read(name).slots, plain.read(name).slots, atol=1e-4)
    found, expected = cache_errors(model, cache, STEPS, predicted=shifted, start=3), cache_errors(model, later, STEPS)
    assert found.video_id == expected.video_id
    assert np.allclose(found.errors["model"], expected.errors["model"], rtol=1e-3, equal_nan=True)


def test_errors_of_kept_predictions_are_those_of_the_model(cache: SlotCache, tmp_path: Path) -> None:
    """Up to rounding, which depends on what is in a batch; half precision would be a hundred times as far off."""
    model = build()
    predicted = predict_cache(model, cache, tmp_path / "predicted", STEPS, batch_size=3)
    found = cache_errors(model, cache, STEPS, 4, predicted)
    assert found.video_id == ["v2", "v3", "v4", "v5", "v6"]  # the others end within the context
    for name, values in cache_errors(model, cache, STEPS, 4).errors.items():
        assert np.allclose(values, found.errors[name], rtol=1e-5, atol=0, equal_nan=True)
    video = cache.read("v4")
    slots, live, ids = video.slots[0], video.live[0], video.track_id[0]
    scored = live[6] & live[4] & (ids[6] == ids[4])
    wrong = (predicted.read("v4").slots[0, 0] - slots[6])[scored].square().sum()
    assert found.errors["model"][2, 0] == pytest.approx(float(wrong / slots[6][scored].square().sum()))


def test_a_half_written_batch_is_predicted_as_a_whole(
    cache: SlotCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding depends on what is in a batch, so a resumed rollout asks for the same batches as a whole one."""
    model, write, asked = build(), SlotCacheWriter.write, []
    whole = predict_cache(model, cache, tmp_path / "whole", STEPS, batch_size=2)

    def failing(writer: SlotCacheWriter, video_id: str, *others: Any) -> None:
        if video_id == "v4":  # the second of its batch
            raise RuntimeError
        write(writer, video_id, *others)

    def recorded(model: Dynamics, batch: SlotSequence, *others: Any) -> torch.Tensor:
        asked.append(batch.video_id)
        return predict_batch(model, batch, *others)

    with monkeypatch.context() as patched:
        patched.setattr(SlotCacheWriter, "write", failing)
        with pytest.raises(RuntimeError):
            predict_cache(model, cache, tmp_path / "resumed", STEPS, batch_size=2)
    monkeypatch.setattr(prediction, "predict_batch", recorded)
    resumed = predict_cache(model, cache, tmp_path / "resumed", STEPS, batch_size=2)
    assert asked == [["v3", "v4"], ["v5", "v6"]]
    assert list(resumed.video_ids) == list(whole.video_ids)
    for name in whole.video_ids:
        assert torch.equal(resumed.read(name).slots, whole.read(name).slots)


def test_batches_change_no_error(cache: SlotCache) -> None:
    """Nor the count of births."""
    model = build()
    one, all_at_once = (cache_errors(model, cache, STEPS, batch_size) for batch_size in (1, 9))
    assert one.video_id == all_at_once.video_id == ["v2", "v3", "v4", "v5", "v6"]
    assert one.births.tolist() == all_at_once.births.tolist()
    assert one.births.max() > 0
    assert one.scored.tolist() == all_at_once.scored.tolist()
    for name, values in one.errors.items():
        assert np.allclose(values, all_at_once.errors[name], rtol=1e-4, equal_nan=True)


def test_predictions_name_the_model_whose_slots_they_are(tmp_path: Path) -> None:
    """It decodes them, so a rollout's slots are pictured as an encoded cache's are."""
    made_by = {"checkpoint": "runs/dias", "checkpoint_sha256": "abc"}
    with SlotCacheWriter(tmp_path / "cache", protocol={"seed": 4}, **made_by) as writer:
        writer.write("v", torch.ones(9, S, D), torch.ones(9, S, dtype=torch.bool))
    cache = SlotCache(tmp_path / "cache")
    header = predict_cache(build(), cache, tmp_path / "predicted", STEPS, dynamics="xyz").header
    expected = {**made_by, "source": cache.identity, "burn_in": BURN_IN, "stride": STRIDE, "steps": STEPS}
    expected["start"] = 0
    assert {name: header[name] for name in (*expected, "dynamics")} == {**expected, "dynamics": "xyz"}
    assert "protocol" not in header  # they were made by another


def test_content_is_part_of_a_caches_identity(tmp_path: Path) -> None:
    """And its header, which says what made it."""
    for name, value, data in (("a", 1.0, "x"), ("b", 1.0, "x"), ("c", 2.0, "x"), ("d", 1.0, "y")):
        with SlotCacheWriter(tmp_path / name, data=data) as writer:
            writer.write("v", torch.full((2, S, D), value), torch.ones(2, S, dtype=torch.bool))
    a, b, c, d = (SlotCache(tmp_path / name).identity for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def script(*words: str) -> str:
    code, output = run("rollout", "oracle=0", "masks=0", "gifs=0", "batch_size=4", *words)
    assert code == 0, output
    return output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slots of 18 videos, two dynamics models, and a whole rollout of the first."""
    root = tmp_path_factory.mktemp("world")
    cache = toy_cache(root / "cache", 18, num_frames=15)
    for number in range(2):
        build(slot_dim=cache.slot_dim, seed=number).save_pretrained(root / f"s{number}")
    script(f"checkpoint={root}/s0", f"cache={root}/cache", f"out_dir={root}/whole")
    return root


def contents(out: Path, slots: str = "slots") -> dict[str, Any]:
    """All results of a rollout: files as bytes, predicted slots by video."""
    predicted = SlotCache(out / slots)
    files = {name: (out / name).read_bytes() for name in ("rollout_error.csv", "rollout_error.png", "rollout.json")}
    return files | {name: predicted.read(name).slots.numpy().tobytes() for name in predicted.video_ids}


@pytest.mark.slow
def test_killed_and_resumed_is_whole(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed amid the third batch, with what it had written of it on disk."""
    write, written = SlotCacheWriter.write, []

    def killed(writer: SlotCacheWriter, video_id: str, *others: Any) -> None:
        if len(written) == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(video_id)
        write(writer, video_id, *others)

    words = (f"checkpoint={world}/s0", f"cache={world}/cache", f"out_dir={tmp_path / 'out'}")
    with monkeypatch.context() as patched:
        patched.setattr(prediction, "SHARD_BYTES", 1)
        patched.setattr(SlotCacheWriter, "write", killed)
        code, _ = run("rollout", "oracle=0", "masks=0", "gifs=0", "batch_size=4", *words)
    assert code == -signal.SIGKILL
    assert len(list((tmp_path / "out/slots").glob("shard-*"))) == 10
    for changes, message in (
        ((), "is not empty; continue that run with resume=true"),
        (("resume=true", f"checkpoint={world}/s1"), "dynamics_sha256 is"),
        (("resume=true", "predicted_frames=1"), "steps is 2, now 1"),
    ):
        code, output = run("rollout", "oracle=0", "masks=0", "gifs=0", *words, *changes)
        assert code == 1
        assert message in sentence(output)
    script(*words, "resume=true")
    assert contents(tmp_path / "out") == contents(world / "whole")
    assert len(SlotCache(world / "whole/slots")) == 18


@pytest.mark.slow
def test_rollouts_from_the_end_of_the_videos_have_no_errors(world: Path, tmp_path: Path) -> None:
    words = (f"checkpoint={world}/s0", f"cache={world}/cache")
    output = script(*words, "observed_frames=15", "predicted_frames=4", f"out_dir={tmp_path / 'out'}")
    assert "there is no true future to compare with" in output
    slots = SlotCache(tmp_path / "out/slots")
    assert (len(slots), slots.header["start"]) == (18, 10)
    assert not (tmp_path / "out/rollout_error.csv").exists()
    for changes, message in (
        (("observed_frames=4",), "observed_frames=4 is less than the 5 frames"),
        (("predicted_frames=9",), "no video goes on for predicted_frames=9, the longest 5"),
    ):
        code, output = run("rollout", "oracle=0", "masks=0", "gifs=0", *words, *changes, f"out_dir={tmp_path / 'new'}")
        assert code == 1
        assert message in sentence(output)


@pytest.mark.slow
def test_several_models_and_a_look_at_what_they_predict(world: Path, tmp_path: Path) -> None:
    both = f"checkpoint=[{world}/s0,{world}/s1]"
    script(both, f"cache={world}/cache", f"out_dir={tmp_path / 'out'}")
    first, second = (SlotCache(tmp_path / "out/slots" / name) for name in "01")
    one, other, whole = (
        cache.read("toy0/glide/00003").slots for cache in (first, second, SlotCache(world / "whole/slots"))
    )
    assert torch.equal(one, whole)
    assert not torch.equal(one, other)
    code, output = run("inspect_cache", f"cache={second.path}")
    assert code == 0, output
    assert "18 videos, 36 frames" in output
    assert f'"burn_in": {BURN_IN}' in output
