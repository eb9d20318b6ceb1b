"""Results are not replaced in silence, and a cache is of use wherever its data lies and whatever it says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_script_commands import COMMANDS, world  # noqa: F401 - the fixture
from test_script_options import run, sentence
from toy_slots import toy_cache

from slotformer.prediction import predict
from slotformer.rollouter import SlotFormer

RESULTS = {"evaluate": "metrics.json", "probe": "probe.json", "visualize": "toss/val/00000.gif", "curves": ""}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_not_replaced_in_silence(tmp_path: Path, world: Path, name: str) -> None:  # noqa: F811
    words = [word.format(w=world, o=tmp_path / "out") for word in COMMANDS[name]]
    file = tmp_path / "out" / RESULTS[name] if RESULTS[name] else tmp_path / "out.png"
    assert run(name, *words)[0] == 0
    file.write_text("mine")
    code, output = run(name, *words)
    assert code == 1
    assert f"{file} exists; name another place, or replace it with overwrite=true" in sentence(output)
    assert file.read_text() == "mine"
    code, output = run(name, *words, "overwrite=true")
    assert code == 0, output
    assert file.read_bytes() != b"mine"


@pytest.mark.slow
def test_a_rollout_finds_videos_that_have_moved(tmp_path: Path, world: Path) -> None:  # noqa: F811
    shutil.copytree(world / "toss", tmp_path / "data/toss")
    shutil.copytree(world / "dias/checkpoints/last", tmp_path / "dias")
    code, output = run(
        "cache_slots", f"checkpoint={tmp_path}/dias", f"data.root={tmp_path}/data", f"cache={tmp_path}/c"
    )
    assert code == 0, output
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    words = [f"checkpoint={world}/slotformer/checkpoints/last", f"cache={tmp_path}/c", "masks=1", "gifs=1", "oracle=1"]
    code, output = run("rollout", *words, f"out_dir={tmp_path}/a")
    assert code == 1
    assert "say where they lie with data.root=<folder>" in sentence(output)
    assert not (tmp_path / "a").exists()
    code, output = run("rollout", *words, f"out_dir={tmp_path}/a", f"data.root={tmp_path}/elsewhere")
    assert code == 0, output
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.gif")] == ["a/gifs/toss/val/00000.gif"]
    (tmp_path / "elsewhere/toss/val/00001.json").unlink()
    code, output = run("rollout", *words, f"out_dir={tmp_path}/b", f"data.root={tmp_path}/elsewhere")
    assert code == 1
    assert not (tmp_path / "b").exists()


def test_a_cache_that_does_not_say_what_it_was_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = toy_cache(tmp_path / "c", 4, num_frames=12)
    SlotFormer(cache.slot_dim, burn_in=3, rollout=2, width=8, layers=1, heads=2).save_pretrained(tmp_path / "model")
    found = predict(checkpoint=tmp_path / "model", cache=tmp_path / "c", out_dir=tmp_path / "out", device="cpu")
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{tmp_path}/c does not say what it was made of (checkpoint): no oracle, masks and GIFs"]
    assert found.errors
    about = json.loads((tmp_path / "out/rollout.json").read_text())
    assert about["videos"] == 4
    assert not (tmp_path / "out/gifs").exists()
