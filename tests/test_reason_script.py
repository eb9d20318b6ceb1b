"""``scripts/reason.py`` on several dynamics models, and what counts as another look at the test videos."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from test_script_options import run, sentence
from toy_slots import toy_cache

import slotformer.contact.protocol  # what the script imports is loaded once, before the forks
import slotformer.report  # noqa: F401
from slotformer.rollouter import SlotFormer

SIZE = {"burn_in": 3, "rollout": 2, "stride": 2, "width": 8, "layers": 1, "heads": 2}


POINTS = (("", "observed"), ("", "full"), ("0/", "predicted_3"), ("1/", "predicted_3"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readout and test slots, other readout slots, and two dynamics models that have learned nothing."""
    root = tmp_path_factory.mktemp("world")
    width = [
        toy_cache(root / n, 16, s, balanced=True, num_frames=20).slot_dim
        for s, n in enumerate(("readout", "test", "other"))
    ]
    for seed in range(2):
        torch.manual_seed(seed)
        SlotFormer(width[0], **SIZE, residual=bool(seed)).save_pretrained(root / f"m{seed}")
    return root


def reason(world: Path, out: Path, *words: str) -> tuple[int | None, str]:
    options = {
        "readout_cache": f"{world}/readout",
        "test_cache": f"{world}/test",
        "dynamics": f"[{world}/m0,{world}/m1]",
    }
    options |= {"readouts": "[{form: roles}]", "predicted_frames": "[3]", "seeds": "[0]", "observed_frames": "8"}
    options |= {
        "readout": "{epochs: 6, folds: 2, restarts: 1, batch_size: 8, hidden: 4, lr: 0.1, weight_decay: 1.0}",
        "out_dir": str(out),
    }
    options |= dict(word.split("=", 1) for word in words)
    return run("reason", *(f"{name}={value}" for name, value in options.items()))


def test_nothing_is_fitted_on_test_videos(world: Path, tmp_path: Path) -> None:
    code, output = reason(world, tmp_path / "out", f"readout_cache={world}/test")
    assert code == 1
    assert "must not be fitted on test videos: toy1/bounce/00000 is in both caches" in sentence(output)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seeds=[]", "seeds is empty; name at least one"),
        ("readouts=[]", "readouts is empty"),
        ("predicted_frames=[]", "predicted_frames is empty"),
        ("predicted_frames=[0,3]", "predicted_frames must be at least 1, got 0"),
        ("dynamics=[]", "the list of trained models is empty"),
        ("readouts=[{form: roles, hiden: 3}]", "a readout has no setting 'hiden'; choose from form, hidden"),
        ("readout={epoch: 3}", "epoch"),
        ("readouts=[{form: nosuch}]", "readouts.form must be"),
        ("out_dir=/proc/reason", "nothing can be written into /proc/reason"),
    ],
)
def test_what_would_fail_later_is_refused_before_work(world: Path, tmp_path: Path, word: str, message: str) -> None:
    code, output = reason(world, tmp_path / "out", word)
    assert code == 1
    assert message in sentence(output)
    assert not (tmp_path / "out").exists()
    assert not (world / "test/looks.jsonl").exists()


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_to(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its look is noted with the results, which say so; going on there is no second look, and others are."""
    from slotformer.contact import looks

    append = looks._note

    def read_only(file: Path, look: dict[str, Any]) -> None:
        if file.is_relative_to(world):
            raise PermissionError(13, "Permission denied", str(file))
        append(file, look)

    monkeypatch.setattr(looks, "_note", read_only)  # in forks too
    code, output = reason(world, tmp_path / "out", f"dynamics={world}/m0", "seeds=[7]")
    assert code == 0, output
    assert f"this look can't be noted beside {world}/test (Permission denied), only in {tmp_path}/out" in output
    assert not json.loads((tmp_path / "out/reason.json").read_text())["runs"][0]["look_noted_beside_cache"]
    code, output = reason(world, tmp_path / "out", f"dynamics={world}/m0", "seeds=[7]", "resume=true")
    assert code == 0, output
    assert "16 test videos, look 1" in output
    code, output = reason(world, tmp_path / "out", f"dynamics={world}/m0", "seeds=[8]", "resume=true")
    assert code == 1
    assert "second_look=true" in sentence(output)


def test_models_of_other_strides_are_refused(world: Path, tmp_path: Path) -> None:
    """Their predicted frames are not at the same times."""
    SlotFormer(12, **{**SIZE, "stride": 1}).save_pretrained(world / "stride")
    code, output = reason(world, tmp_path / "out", f"dynamics=[{world}/m0,{world}/stride]")
    assert code == 1
    assert "different strides or observe different frames, [(1, 8), (2, 8)]" in sentence(output)


@pytest.mark.slow
def test_several_models(world: Path, tmp_path: Path) -> None:
    code, output = reason(world, tmp_path / "out")
    assert code == 0, output
    about = json.loads((tmp_path / "out/reason.json").read_text())
    assert [one["dynamics"] for one in about["runs"]] == [f"{world}/m0", f"{world}/m1"]
    assert len({one["dynamics_sha256"] for one in about["runs"]}) == 2
    assert [(one["observed_raw_frames"], one["look"]) for one in about["runs"]] == [(8, 1)] * 2
    with (tmp_path / "out/accuracy.csv").open() as file:
        rows = {row["kind"]: row for row in csv.DictReader(file) if row["scenario"] == "all"}
    for place, kind in enumerate(("observed", "predicted", "full")):
        accuracies = [one["points"][place]["accuracy"] for one in about["runs"]]
        assert (len(set(accuracies)) > 1) == (kind == "predicted")  # only what is predicted depends on the model
        assert float(rows[kind]["accuracy"]) == pytest.approx(statistics.mean(accuracies), abs=1e-5)
        deviation = statistics.stdev(accuracies) if kind == "predicted" else 0  # of the one readout, of the two models
        assert float(rows[kind]["std"]) == pytest.approx(deviation, abs=1e-5)
        assert (rows[kind]["models"], rows[kind]["readouts"]) == ("2" if kind == "predicted" else "1", "1")
        assert rows[kind]["validation_chose"] == "moment, restart and threshold"
    assert about["runs"][0]["points"][1]["validation_loss"] != about["runs"][1]["points"][1]["validation_loss"]
    kept = sorted(str(file.relative_to(tmp_path / "out/readouts")) for file in tmp_path.rglob("*.safetensors"))
    assert kept == sorted(f"{at}roles/{point}/s0.safetensors" for at, point in POINTS)  # the encoded videos' once

    one = f"dynamics={world}/m0"
    for number, change in enumerate(("seeds=[1]", f"readout_cache={world}/other", "observed_frames=6")):
        code, output = reason(world, tmp_path / str(number), one, change)
        assert code == 1
        assert "second_look=true scores again" in sentence(output)
    code, output = reason(world, tmp_path / "again", one, "seeds=[1]", "second_look=true")
    assert code == 0, output
    assert "16 test videos, look 2" in output
