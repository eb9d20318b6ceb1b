"""The wheel: it has all that a checkout has to offer, and ``dias-video <task>`` is the script of that name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Outside of the checkout, which must not help."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["COLUMNS"] = "200"
    return subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_task_that_is_none_is_answered_with_those_that_are(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = [
        subprocess.run([sys.executable, "-m", "dias_video", *words], env=environment, capture_output=True, text=True)
        for words in ([], ["--help"], ["trian_video"])
    ]
    assert [one.returncode for one in told] == [0, 0, 2]
    assert told[2].stderr.startswith("error: there is no task trian_video\n")
    scripts = {file.stem for file in (ROOT / "scripts").glob("[!_]*.py")}
    for one in told:
        tasks = re.search(r"the tasks are (.+)", one.stderr)
        assert tasks
        assert set(tasks[1].split(", ")) == scripts - {"benchmark", "demo"}


def test_the_citation_names_this_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version
    assert cited["version"] == version[1]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # what the format asks for


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout, without network."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out, ROOT, cwd=out)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_has_every_file_that_is_not_only_of_the_checkout(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms = {"dias_video": "dias_video", "slotformer": "slotformer", "configs": "dias_video/configs"}
    rooms["scripts"] = "dias_video/scripts"
    expected = {f"{rooms[room]}/{rest}" for file in tracked for room, _, rest in [file.partition("/")] if room in rooms}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name and "__pycache__" not in name}
    assert len(expected) > 200
    assert expected - held == set()
    assert {name.partition("/")[0] for name in held} == {"dias_video", "slotformer"}


@pytest.mark.slow
def test_the_installed_command_is_the_script(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that borrows what this one has installed: its torch is gigabytes."""
    venv.create(tmp_path / "venv", with_pip=False)
    binaries = tmp_path / "venv" / "bin"
    own = run(binaries / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    site = Path(own.stdout.strip())
    (site / "zz_borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--no-deps", "--quiet", wheel)
    installed = run(*pip, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    where = run(binaries / "python", "-c", "import dias_video; print(dias_video.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(site)
    said = run(binaries / "dias-video", "train_video", "--help", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "max_steps: 50000" in said.stdout
    composed = run(
        binaries / "dias-video", "train_video", "experiment=movi_d", "data.root=x", "out_dir=y", "--cfg", "job",
        cwd=tmp_path,
    )  # fmt: skip
    assert composed.returncode == 0, composed.stderr
    assert "num_slots: 21" in composed.stdout
    wrong = run(binaries / "dias-video", "evaluate", "data.root=x", "out_dir=y", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("error: ")) == (1, 1)


WITHOUT = """
import importlib, pkgutil, sys
sys.modules.update(pybullet=None, decord=None)
import dias_video, slotformer
from dias_video import DIAS
import torch
named = [m.name for p in (dias_video, slotformer) for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]
for name in set(named) - {"dias_video.data.decord_reader"}:  # which data.decoder=decord loads
    importlib.import_module(name)
print(len(named), DIAS.shipped().track(torch.zeros(2, 3, 40, 56, dtype=torch.uint8)).labels.shape)
"""


@pytest.mark.slow
def test_the_library_does_without_simulator_and_decord(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count, shape = done.stdout.split(" ", 1)
    assert int(count) > 150
    assert shape.strip() == "torch.Size([1, 2, 40, 56])"
