"""What lies in a checkpoints folder that the run has not put there, or not in this form."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from processes import equal
from toy import Toy, train

from dias_video.engine import runlog
from dias_video.engine.checkpoint import Checkpoints


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
