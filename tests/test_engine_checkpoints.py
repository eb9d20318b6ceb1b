"""What lies in a checkpoints folder that the run has not put there, or not in this form."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from processes import equal
from safetensors.torch import load_file
from torch import nn
from toy import Numbers, Points, Toy, train

from dias_video.engine import runlog
from dias_video.engine.checkpoint import Checkpoints, Saving, damage
from dias_video.engine.loop import Trainer
from dias_video.engine.schedule import Optimization
from dias_video.pretrained.weights import weights_sha256


def test_foreign_names_are_left_alone(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", max_steps=4).parents[1]
    train(tmp_path / "run", max_steps=2, schedule_steps=4, every=1, keep=1)
    folder = tmp_path / "run/checkpoints"
    foreign = ["step_best", "step_7x", "step_\u0663", "step_", "notes"]
    for name in foreign:
        (folder / name).mkdir()
        (folder / name / "mine.txt").write_text(name)
    (folder / "step_000009").write_text("a file")
    train(tmp_path / "run", resume=True, max_steps=4, every=1, keep=1)
    assert [path.name for path in Checkpoints(folder, keep=1).steps()] == ["step_000004"]
    assert all((folder / name / "mine.txt").read_text() == name for name in foreign)
    assert equal(whole, tmp_path / "run")


def test_a_run_that_was_copied_without_its_links_goes_on(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", max_steps=4).parents[1]
    train(tmp_path / "run", max_steps=2, schedule_steps=4)
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=False)
    last = tmp_path / "copy/checkpoints/last"
    assert last.is_dir()
    assert not last.is_symlink()
    train(tmp_path / "copy", resume=True, max_steps=4)
    assert last.readlink() == Path("step_000004")
    assert equal(whole, tmp_path / "copy")
    assert not list(last.parent.glob(".*"))


class Frozen(Toy):
    """A toy most of which is not trained, as a DIAS with its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(300, 200).requires_grad_(False)


def saved(folder: Path, model: Frozen, steps: int, resume: bool = False) -> Path:
    saving = Saving(every=1, keep=4)
    trainer = Trainer(steps, 4, optimization=Optimization(schedule_steps=8), saving=saving, num_workers=0)
    return trainer.fit(model, Points(), Numbers.stack, folder, resume).parent


def on_disk(folder: Path) -> int:
    """Bytes, files with several names counted once."""
    return sum({(s := file.stat()).st_ino: s.st_size for file in folder.rglob("*") if file.is_file()}.values())


def test_the_frozen_part_takes_its_room_once(tmp_path: Path) -> None:
    model = Frozen()
    folder, bulk = saved(tmp_path / "run", model, 3), model.encoder.weight.nbytes
    steps = sorted(folder.glob("step_*"))
    assert len(steps) == 3
    assert bulk < on_disk(folder) < 1.5 * bulk
    assert {(step / "frozen.safetensors").stat().st_nlink for step in steps} == {3}
    saved(tmp_path / "run", Frozen(), 5, resume=True)  # begins with another encoder, and takes that of the checkpoint
    assert bulk < on_disk(folder) < 1.5 * bulk
    for step in sorted(folder.glob("step_*")):
        assert damage(step) is None
        assert torch.equal(Frozen.from_pretrained(step).encoder.weight, model.encoder.weight)


def test_every_checkpoint_is_whole_by_itself(tmp_path: Path) -> None:
    last = saved(tmp_path / "run", Frozen(), 3) / "step_000003"
    shutil.copytree(last, tmp_path / "alone")
    shutil.rmtree(tmp_path / "run")
    alone = Frozen.from_pretrained(tmp_path / "alone")
    alone.save_pretrained(tmp_path / "one_file")
    assert not (tmp_path / "one_file/frozen.safetensors").exists()
    assert weights_sha256(tmp_path / "one_file") == weights_sha256(tmp_path / "alone")
    again = Frozen.from_pretrained(tmp_path / "one_file").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in alone.state_dict().items())


def test_without_hard_links_the_frozen_part_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    model = Frozen()
    folder = saved(tmp_path / "run", model, 3)
    assert on_disk(folder) > 3 * model.encoder.weight.nbytes
    assert [damage(step) for step in sorted(folder.glob("step_*"))] == [None] * 3


def test_another_choice_of_what_is_trained_writes_its_own(tmp_path: Path) -> None:
    saved(tmp_path / "run", Frozen(), 2)
    model = Frozen()
    model.encoder.bias.requires_grad_(True)
    folder = saved(tmp_path / "run", model, 3, resume=True)
    assert "encoder.bias" in load_file(folder / "step_000003/model.safetensors")
    assert "encoder.bias" in load_file(folder / "step_000002/frozen.safetensors")
    assert (folder / "step_000003/frozen.safetensors").stat().st_nlink == 1


def test_a_damaged_frozen_part_is_found(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", Frozen(), 2)
    with (folder / "step_000002/frozen.safetensors").open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        saved(tmp_path / "run", Frozen(), 3, resume=True)


def test_saved_models_have_the_usual_file_mode(tmp_path: Path) -> None:
    Toy().save_pretrained(tmp_path)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}["model.safetensors"] == 0o644


def test_the_commit_is_this_projects_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / ".venv/lib/runlog.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    (tmp_path / "theirs.txt").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "theirs.txt"], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(runlog, "__file__", str(installed))
    assert runlog.git_commit() is None
    subprocess.run([*git, "add", "-f", str(installed)], check=True)
    subprocess.run([*git, "commit", "-qm", "ours"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert runlog.git_commit() == head
