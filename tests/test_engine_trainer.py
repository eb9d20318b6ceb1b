"""The loop on a toy model: resume, checkpoints, accumulation, averages, what it refuses and what it writes."""

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy import Numbers, Points, Toy, train

from dias_video.draws import Draws
from dias_video.engine.checkpoint import Saving, damage
from dias_video.engine.loader import Order
from dias_video.engine.loop import Trainer
from dias_video.engine.runlog import Logging
from dias_video.engine.schedule import Optimization
from dias_video.machine.ranks import Interrupted
from dias_video.pretrained.weights import load_weights, read_weights


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return read_weights(checkpoint)


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints are equal, bitwise, trainer's state included."""
    for name in ("model.safetensors", "trainer.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a):
            return False
    return json.loads((one / "trainer.json").read_text()) == json.loads((other / "trainer.json").read_text())


def rows(out_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


TIMES = ("samples_per_s", "frames_per_s", "tflops_per_s", "mfu", "step_s", "data_s", "memory_gib")


def untimed(out_dir: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(out_dir)]


PARTS = {"net.2": {"lr": 0.3, "warmup": 0.0, "floor": 1.0}, "net": {"lr": 0.01}}
LOOPS = [{}, {"ema": 0.9, "dropping": True}, {"accumulation": 2, "num_workers": 1}, {"parts": PARTS}]


@pytest.mark.parametrize("options", LOOPS)
def test_four_steps_are_two_and_two(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = train(tmp_path / "whole", max_steps=4, schedule_steps=4, **options)
    train(tmp_path / "parts", max_steps=2, schedule_steps=4, **options)
    parts = train(tmp_path / "parts", resume=True, max_steps=4, schedule_steps=4, **{**options, "num_workers": 0})
    assert whole.name == parts.name == "step_000004"
    assert same(whole, parts)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")


def test_every_step_can_be_resumed_from(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", max_steps=7, every=1, keep=7, ema=0.8, dropping=True)
    for step in range(1, 7):
        shutil.copytree(tmp_path / "whole", tmp_path / str(step), symlinks=True)
        for later in range(step + 1, 8):
            shutil.rmtree(tmp_path / str(step) / f"checkpoints/step_{later:06d}")
        again = train(tmp_path / str(step), resume=True, max_steps=7, every=1, keep=7, ema=0.8, dropping=True)
        assert same(whole, again)
        assert untimed(tmp_path / str(step)) == untimed(tmp_path / "whole")


def test_micro_batches_give_the_gradient_of_the_batch(tmp_path: Path) -> None:
    options = {"batch_size": 6, "max_steps": 5, "double": True}
    one, three = train(tmp_path / "1", **options), train(tmp_path / "3", accumulation=3, **options)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(three)[name], value, rtol=0, atol=1e-12)
    assert rows(tmp_path / "3")[-1]["fit"] == pytest.approx(rows(tmp_path / "1")[-1]["fit"], rel=1e-6)


def by_hand(steps: int, lr: float, clip: float, weight: float) -> Toy:
    """The same training, written out."""
    torch.manual_seed(3)
    model = Toy()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    order, points = Order(11, 4, 3), Points(11)
    for step in range(steps):
        batch = Numbers.stack([points[key] for key in order.keys(step)])
        terms = model(batch, Draws.for_step(3, step, range(4)))
        loss = terms["fit"].mean() + weight * terms["size"].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        fallen = lr * (1e-3 + 0.999 * (1 + math.cos(math.pi * (step - 1) / 5)) / 2)
        optimizer.param_groups[0]["lr"] = 0.0 if step == 0 else fallen  # one step of warm-up, from 0
        optimizer.step()
    return model


def test_equals_a_loop_written_by_hand(tmp_path: Path) -> None:
    last = train(tmp_path / "run", max_steps=6, lr=0.05, clip=0.3, weights={"size": 0.7})
    expected = by_hand(6, 0.05, 0.3, 0.7)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(weights(last)[name], value, rtol=1e-6, atol=1e-7)


def test_checkpoints_are_pretrained_models(tmp_path: Path) -> None:
    last = train(tmp_path / "run", width=5)
    model = Toy.from_pretrained(tmp_path / "run/checkpoints/last")
    assert model.config["width"] == 5
    assert all(torch.equal(v, weights(last)[k]) for k, v in model.state_dict().items())
    link = tmp_path / "run/checkpoints/last"
    assert link.is_symlink()
    assert link.readlink() == Path("step_000004")


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    results = {2: 0.5, 4: 0.1, 6: 0.7, 8: 0.3}
    torch.manual_seed(0)
    trainer = Trainer(8, 4, saving=Saving(every=2, keep=2, metric="error"), logging=Logging(every=50), num_workers=0)

    def validate(model: Toy, step: int) -> dict[str, float]:
        assert not model.training
        return {"error": results[step]}

    trainer.fit(Toy(), Points(), Numbers.stack, tmp_path / "run", validate=validate)
    folder = tmp_path / "run/checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["best", "last", "step_000004", "step_000006", "step_000008"]
    assert (folder / "best").readlink() == Path("step_000004")
    assert {row["step"]: row["error"] for row in rows(tmp_path / "run") if "error" in row} == results


def test_a_signal_leaves_validation_at_once(tmp_path: Path) -> None:
    finished = []

    def validate(model: Toy, step: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        finished.append(step)
        return {}

    trainer = Trainer(8, 4, saving=Saving(every=3), num_workers=0, ema=0.5)
    with pytest.raises(Interrupted) as caught:
        trainer.fit(Toy(), Points(), Numbers.stack, tmp_path / "run", validate=validate)
    assert caught.value.code == 0
    assert finished == []
    assert (tmp_path / "run/checkpoints/last").readlink() == Path("step_000003")


def test_averaged_weights(tmp_path: Path) -> None:
    train(tmp_path / "raw", max_steps=6, every=1, keep=6)
    last = train(tmp_path / "run", max_steps=6, ema=0.75)
    torch.manual_seed(3)
    average = Toy().net[0].weight.detach().double()
    for step in range(1, 7):
        raw = weights(tmp_path / f"raw/checkpoints/step_{step:06d}")["net.0.weight"].double()
        decay = min(0.75, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * raw
    torch.testing.assert_close(weights(last)["net.0.weight"].double(), average, rtol=0, atol=1e-6)
    state = load_file(last / "trainer.safetensors")
    torch.testing.assert_close(state["raw/net.0.weight"].double(), raw)


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(ValueError, match=r"is not empty; continue that run with resume=true or name another folder"):
        train(tmp_path / "run")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; name a folder"):
        train(tmp_path / "file")


def test_resume_without_a_checkpoint_starts(tmp_path: Path) -> None:
    """In a folder that does not exist, and in that of a run that was cut off before its first checkpoint."""
    whole = train(tmp_path / "a")
    assert same(train(tmp_path / "b", resume=True), whole)
    before = untimed(tmp_path / "a")
    shutil.rmtree(tmp_path / "a/checkpoints")
    assert same(train(tmp_path / "a", resume=True), tmp_path / "b/checkpoints/last")
    assert untimed(tmp_path / "a") == before


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    last = train(tmp_path / "run")
    before = untimed(tmp_path / "run")
    assert train(tmp_path / "run", resume=True) == last
    assert untimed(tmp_path / "run") == before


def damaged_in(file: Path, how: str) -> None:
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["gone", "cut", "flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors", "trainer.json", "checksums.json"])
def test_a_broken_checkpoint_is_reported_and_the_one_before_used(
    tmp_path: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path / "whole", max_steps=6, every=2)
    train(tmp_path / "run", max_steps=4, every=2, schedule_steps=6)
    damaged_in(tmp_path / "run/checkpoints/step_000004" / name, how)
    again = train(tmp_path / "run", resume=True, max_steps=6, every=2, schedule_steps=6)
    assert "step_000004" in capsys.readouterr().err
    assert same(whole, again)
    assert damage(tmp_path / "run/checkpoints/step_000004") is None


def test_nothing_but_broken_checkpoints(tmp_path: Path) -> None:
    last = train(tmp_path / "run")
    damaged_in(last / "model.safetensors", "cut")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        train(tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", width=5)
    with pytest.raises(ValueError, match=r"net\.0\.bias has shape \(5,\), the model wants \(6,\)"):
        train(tmp_path / "run", resume=True, width=6, max_steps=9)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    from dias_video.engine.checkpoint import read_state

    last = train(tmp_path / "run")
    state = json.loads((last / "trainer.json").read_text())
    (last / "trainer.json").write_text(json.dumps({**state, "format": 7}))
    with pytest.raises(ValueError, match="has format 7, this version reads 1"):
        read_state(last)


def test_starting_from_given_weights(tmp_path: Path) -> None:
    last = train(tmp_path / "run")
    model = Toy()
    load_weights(model, last)
    trainer = Trainer(1, 4, optimization=Optimization(lr=1e-12), num_workers=0)
    tuned = trainer.fit(model, Points(), Numbers.stack, tmp_path / "tuned")
    torch.testing.assert_close(weights(tuned)["net.0.weight"], weights(last)["net.0.weight"])


def test_a_sample_that_vanishes_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^clips/4\.mp4 is gone$"):
        train(tmp_path / "run", max_steps=40, missing=4)


def test_metrics_of_steps_done_again_are_dropped(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", max_steps=5, every=2, keep=9)
    shutil.copytree(tmp_path / "whole", tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run/checkpoints/step_000005")
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "fi')  # what a killed process leaves
    assert same(train(tmp_path / "run", resume=True, max_steps=5, every=2, keep=9), whole)
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")


def test_rows_hold_what_they_promise(tmp_path: Path) -> None:
    train(tmp_path / "run", max_steps=5, log_every=2, weights={"size": {"kind": "linear", "start": 1, "end": 0}})
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 4, 5]
    for row in rows(tmp_path / "run"):
        weight = 1 - (row["step"] - 1) / 5
        assert row["loss"] == pytest.approx(row["fit"] + weight * row["size"])
        assert row["samples_per_s"] > 0
        assert row["step_s"] >= row["data_s"] >= 0
        assert row["epoch"] == row["step"] * 4 // 11


def test_the_run_describes_itself(tmp_path: Path) -> None:
    trainer = Trainer(1, 4, num_workers=0)
    config = {"seed": 5, "data": {"root": "videos", "size": [3, 4]}}
    trainer.fit(Toy(), Points(), Numbers.stack, tmp_path / "run", config=config)
    import yaml

    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text()) == config
    start = json.loads((tmp_path / "run/run.json").read_text())
    assert start["packages"]["torch"] == torch.__version__.split("+")[0]
    assert start["first_step"] == 0
    assert start["num_processes"] == 1
    for _ in range(2):
        Trainer(1, 4, num_workers=0).fit(Toy(), Points(), Numbers.stack, tmp_path / "run", resume=True, config=config)
    start = json.loads((tmp_path / "run/run.json").read_text())
    assert [earlier["first_step"] for earlier in start["earlier_starts"]] == [0, 1]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_steps": 0}, "max_steps must be an integer of at least 1, got 0"),
    ({"max_steps": 2.5}, "max_steps must be an integer"),
    ({"batch_size": "32"}, "batch_size must be an integer"),
    ({"batch_size": True}, "batch_size must be an integer"),
    ({"seed": -1}, "seed must be an integer of at least 0"),
    ({"accumulation": 3}, "batch_size=4 .* use a multiple of 3"),
    ({"precision": "half"}, "precision must be one of fp32, bf16, fp16"),
    ({"precision": False}, "precision must be one of"),
    ({"ema": 1.5}, "ema must be a number"),
    ({"compile": "yes"}, "compile must be true or false"),
    ({"num_workers": -2}, "num_workers must be an integer of at least 0"),
    ({"weights": {"fit": -1}}, r"weights\.fit must be a number"),
    ({"weights": {"fitt": 1}}, "weights names 'fitt', but the model's loss terms are"),
    ({"lr": 0}, r"optimization\.lr must be a number > 0"),
    ({"clip": "none"}, r"optimization\.clip must be a number"),
    ({"every": 0}, r"saving\.every must be an integer"),
    ({"keep": None}, r"saving\.keep must be an integer"),
    ({"log_every": 0}, r"logging\.every must be an integer"),
    ({"tracking": "excel"}, r"logging\.tracking must be one of none, wandb, tensorboard, trackio"),
    ({"metric": 3}, r"saving\.metric must name"),
    ({"resume": "maybe"}, "resume must be true or false"),
    ({"count": 0}, "training set is empty"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **options)


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.dictionaries(st.sampled_from(["fit", "kind", "start"]), st.one_of(st.floats(), st.text(max_size=2)), max_size=3),
)  # fmt: skip
SETTINGS = {
    Optimization: ["lr", "warmup", "floor", "clip", "betas", "weight_decay", "schedule_steps", "max_skipped"],
    Saving: ["every", "keep", "metric", "higher_is_better"],
    Logging: ["every", "tracking", "peak_tflops", "bar"],
    Trainer: ["max_steps", "batch_size", "seed", "optimization", "saving", "logging", "weights", "precision",
              "accumulation", "ema", "compile", "num_workers"],
}  # fmt: skip


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_value_is_taken_or_named(data: st.DataObject) -> None:
    """Fuzz: an option of any kind is either valid or named in a ValueError."""
    kind = data.draw(st.sampled_from(list(SETTINGS)))
    option = data.draw(st.sampled_from(SETTINGS[kind]))
    value = data.draw(ANYTHING)
    required: dict[str, Any] = {"max_steps": 4, "batch_size": 4} if kind is Trainer else {}
    if option == "precision" and value == "bf16":
        return
    message = option
    try:
        kind(**{**required, option: value})
    except ValueError as error:
        message = str(error)
    assert option in message


def test_a_tracker_that_fails_never_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb")

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(wandb, "init", broken)
    train(tmp_path / "run", tracking="wandb")
    assert "warning: wandb can't start (no network); going on without it" in capsys.readouterr().err
    assert len(rows(tmp_path / "run")) == 4


def test_bf16_trains(tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        train(tmp_path / "run", precision="bf16", max_steps=30)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert rows(tmp_path / "run")[-1]["fit"] < rows(tmp_path / "run")[0]["fit"]


def test_saved_files_are_complete(tmp_path: Path) -> None:
    last = train(tmp_path / "run", ema=0.9)
    expected = {"config.json", "model.safetensors", "frozen.safetensors", "trainer.json", "trainer.safetensors"}
    expected.add("checksums.json")
    assert {p.name for p in last.iterdir()} == expected
    save_file({"x": torch.zeros(1)}, last / "extra.safetensors")  # a file of the user's own is no damage
    assert damage(last) is None
