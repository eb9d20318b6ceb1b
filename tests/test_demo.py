"""The demo: what it prints can be typed, and asking what it does does nothing."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from test_facts import composed_of

from dias_video.pretrained.saving import start_from

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "scripts/demo.py"


@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("num_videos=3", 2)])
def test_help_and_words_it_does_not_take_start_nothing(tmp_path: Path, word: str, code: int) -> None:
    kept = tmp_path / "runs/demo/summary.md"
    kept.parent.mkdir(parents=True)
    kept.touch()
    said = subprocess.run([sys.executable, DEMO, word], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == code
    assert "usage: demo.py" in said.stdout + said.stderr
    assert kept.exists()


def test_every_stage_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DEMO.parent))
    import demo

    for command in demo.STAGES.values():
        script, *words = shlex.split(command)
        assert (ROOT / "scripts" / script).is_file(), command
        name = script.removesuffix(".py")
        words = [word.replace("experiment=", f"experiment/{name}=") for word in words]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            compose(name, words)


def test_the_demos_slotformer_is_the_shipped_one() -> None:
    """It goes on from those weights, which need the same options."""
    shipped = ROOT / "dias_video/assets/slotformer"
    made_by = ("encoder", "encoding")
    config = composed_of("train_slotformer", ["experiment/train_slotformer=demo"])
    model = instantiate(config.slotformer, slot_dim=64)
    start_from(model, shipped, made_by)
    other = instantiate(config.slotformer, slot_dim=64, rollout=config.slotformer.rollout - 1)
    with pytest.raises(ValueError, match="rollout"):
        start_from(other, shipped, made_by)
