"""What trackers get: numbers and pictures from the main process alone; their failures stop nothing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from processes import Run, rows
from toy import Numbers, Points, Toy, train

from dias_video.engine.checkpoint import Saving
from dias_video.engine.loop import Trainer
from dias_video.engine.runlog import Logging, RunLog
from dias_video.stores.files import write_json

FILES = ("still.png", "moving.gif")


def draw(model: Toy, folder: Path) -> list[Path]:
    """A picture and a GIF of two frames, 6 x 4 pixels."""
    assert not model.training
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "still.png")
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return [folder / name for name in FILES]


def drawn(out_dir: Path, tracking: str, **options: Any) -> Path:
    trainer = Trainer(
        4, 4, saving=Saving(every=2), logging=Logging(every=1, tracking=tracking), num_workers=0, **options
    )
    return trainer.fit(Toy(), Points(), Numbers.stack, out_dir, config={"seed": 0}, preview=draw)


def test_pictures_lie_in_the_run_folder(tmp_path: Path) -> None:
    drawn(tmp_path / "run", "none")
    found = sorted(str(p.relative_to(tmp_path / "run/pictures")) for p in (tmp_path / "run/pictures").rglob("*.*"))
    assert found == sorted(f"step_{step:06d}/{name}" for step in (2, 4) for name in FILES)


def test_tensorboard_gets_numbers_and_moving_pictures(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    drawn(tmp_path / "run", "tensorboard")
    (event_file,) = (tmp_path / "run").glob("events.out.tfevents.*")
    events = loading.EventAccumulator(str(event_file)).Reload()
    logged = {round(event.value, 5) for event in events.Scalars("loss")}
    assert logged == {round(row["loss"], 5) for row in rows(tmp_path / "run")}
    for name in FILES:
        pictures = events.Images(f"pictures/{name.split('.')[0]}")
        assert [picture.step for picture in pictures] == [2, 4]
        assert pictures[0].encoded_image_string == (tmp_path / "run/pictures/step_000002" / name).read_bytes()
        assert (pictures[0].width, pictures[0].height) == (6, 4)


@pytest.mark.slow
def test_wandb_offline_gets_numbers_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    drawn(tmp_path / "run", "wandb")
    (folder,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    media = [p for p in (folder / "files/media").rglob("*") if p.is_file()]
    assert sorted(p.suffix for p in media) == [".gif", ".gif", ".png", ".png"]
    original = (tmp_path / "run/pictures/step_000004/moving.gif").read_bytes()
    assert original in [p.read_bytes() for p in media]


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_wandb_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, begun = pytest.importorskip("wandb"), []
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: begun.append(options) or init(**options))
    for name, steps, resume in (("run", 2, False), ("run", 4, True), ("other", 2, False)):
        train(tmp_path / name, tracking="wandb", max_steps=steps, schedule_steps=4, resume=resume)
    known = json.loads((tmp_path / "run/run.json").read_text())["tracking_id"]
    files = list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{known}.wandb"] * 2  # of one run, which ``wandb sync`` joins
    assert [(options["id"], options["resume"]) for options in begun[:2]] == [(known, "allow")] * 2
    assert begun[2]["id"] != known


def test_an_id_that_is_none_of_ours_is_not_taken(tmp_path: Path) -> None:
    train(tmp_path / "run", max_steps=1)
    file = tmp_path / "run/run.json"
    for wrong in ("../../x", 3, None, ["a"], "abc"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "tracking_id": wrong}))
        train(tmp_path / "run", max_steps=1, resume=True)
        assert re.fullmatch("[0-9a-f]{8}", json.loads(file.read_text())["tracking_id"])


def test_files_are_strict_json(tmp_path: Path) -> None:
    """The standard's: Python's reader takes NaN, others don't."""

    def refuse(token: str) -> None:
        raise AssertionError(token)

    content = {"a": float("nan"), "b": [float("inf"), {"c": -float("inf"), "d": (1.5, None, True)}], "e": 1e308}
    write_json(tmp_path / "x.json", content)
    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert read == {"a": None, "b": [None, {"c": None, "d": [1.5, None, True]}], "e": 1e308}
    with pytest.raises(ValueError, match="loss term"):
        train(tmp_path / "run", bad_step=2, max_steps=4, log_every=1)
    RunLog(tmp_path / "log", "none", True, 1).start({}, 0)
    log = RunLog(tmp_path / "log", "none", True, 1)
    log.write({"step": 1, "loss": float("nan")})
    for file in (*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")):
        for line in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(line, parse_constant=refuse)


def test_trackio_gets_the_configuration_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a package that stands in for it, since the real one brings a web server."""
    logged: list[Any] = []

    def init(**options: Any) -> SimpleNamespace:
        logged.append(options)
        return SimpleNamespace(
            log=lambda values, step: logged.append((step, values["loss"])), finish=lambda: logged.append("finished")
        )

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    drawn(tmp_path / "run", "trackio")
    assert logged[0] == {"project": "dias-video", "name": "run", "config": {"seed": 0}}
    assert logged[1:] == [*((row["step"], row["loss"]) for row in rows(tmp_path / "run")), "finished"]


def test_only_the_main_process_tracks(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = Run(tmp_path / "run", processes=2, tracking="tensorboard")
    assert run.end() == [0, 0], run.output()
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


class Broken:
    """A tracker that starts and then fails in everything."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"the server went away during {name}")


def test_a_tracker_that_breaks_later_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    drawn(tmp_path / "run", "wandb")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "wandb can't log (the server went away during log); going on without it" in warnings[0]
    assert len(rows(tmp_path / "run")) == 4


def test_a_missing_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(tmp_path / "run", tracking="wandb")
    assert "warning: wandb can't start" in capsys.readouterr().err
    assert len(rows(tmp_path / "run")) == 4


def test_model_operations_are_counted_once(tmp_path: Path) -> None:
    options = {"log_every": 1, "width": 7, "every": 2, "max_steps": 4}
    last = train(tmp_path / "run", peak_tflops=2.0, **options)
    # multiply-adds count twice; forward: 3*7 + 7*2, backward: as much for the weights, 7*2 for the hidden layer
    flops = 2 * (2 * (3 * 7 + 7 * 2) + 7 * 2)
    assert json.loads((last / "trainer.json").read_text())["flops"] == flops
    for row in rows(tmp_path / "run"):
        assert row["tflops_per_s"] == pytest.approx(flops * row["samples_per_s"] / 1e12)
        assert row["mfu"] == pytest.approx(row["tflops_per_s"] / 2.0)
    train(tmp_path / "other", **options, accumulation=2)
    assert all("mfu" not in row and "tflops_per_s" in row for row in rows(tmp_path / "other"))


READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero")


def reads_in(out_dir: Path, monkeypatch: pytest.MonkeyPatch, steps: int, **options: Any) -> int:
    """How often a run brings a tensor to the host, but for the optimizer's step counts, which live there."""
    count = 0

    def counted(name: str) -> Any:
        original = getattr(torch.Tensor, name)

        def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += sys._getframe(1).f_code.co_name != "_get_value"
            return original(self, *args, **kwargs)

        return method

    with monkeypatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, counted(name))
        train(out_dir, max_steps=steps, every=1000, log_every=1000, **options)
    return count


def test_no_host_synchronisation_per_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (reads_in(tmp_path / str(n), monkeypatch, n, ema=0.9) for n in (5, 45))
    assert short > 0  # the first and the last step are logged
    assert long == short
    skipping = [reads_in(tmp_path / f"s{n}", monkeypatch, n, max_skipped=1) for n in (5, 45)]
    assert skipping[1] - skipping[0] >= 40  # the count would notice
