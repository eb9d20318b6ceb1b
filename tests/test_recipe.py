"""Recipes: checksums know content from encoding, and every recipe is one that can be made."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from dias_video.simulate.recipe import split_checksum
from dias_video.simulate.toss import Toss
from dias_video.simulate.writer import write_dataset

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(file.stem for file in (CONFIGS / "recipe").glob("*.yaml"))


def composed(recipe: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("make_benchmark", [f"recipe={recipe}", "root=unused"])


def test_there_are_recipes() -> None:
    assert RECIPES == ["contact", "toss-A", "toss-D"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_splits_that_its_simulator_has(recipe: str) -> None:
    cfg = composed(recipe)
    variant = instantiate(cfg.simulate, _convert_="all")
    assert set(cfg.splits) == set(variant.splits) == set(cfg.checksums)
    for checksum in cfg.checksums.values():
        assert checksum is None or len(bytes.fromhex(checksum)) == 32


def test_the_checksum_is_of_content(tmp_path: Path) -> None:
    folder = write_dataset(Toss(size=(16, 24), num_frames=2), tmp_path, "val", 2, seed=5, workers=1)
    checksum = split_checksum(folder, 2)
    (folder / "00001.mp4").unlink()  # pictures don't count
    masks = folder / "00000.masks.zip"
    with zipfile.ZipFile(masks) as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(masks, "w", zipfile.ZIP_DEFLATED) as archive:  # nor does how the masks are packed
        for name, data in pictures.items():
            archive.writestr(name, data)
    record = folder / "00000.json"
    record.write_text(record.read_text().replace(",", ", "))
    assert split_checksum(folder, 2) == checksum
    assert split_checksum(folder, 1) != checksum
    record.write_text(record.read_text().replace('"fps": 12', '"fps": 13').replace('"fps":12', '"fps":13'))
    changed = split_checksum(folder, 2)
    assert changed != checksum
    with zipfile.ZipFile(masks, "w") as archive:
        archive.writestr("00000.png", pictures["00001.png"])
        archive.writestr("00001.png", pictures["00000.png"])
    assert split_checksum(folder, 2) != changed
    masks.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="00000"):
        split_checksum(folder, 2)


def test_the_script_refuses_other_content(tmp_path: Path) -> None:
    small = ["simulate.size=[16,24]", "simulate.num_frames=1", "workers=1"]
    small += [f"splits.{split}=1" for split in Toss.splits]
    command = [sys.executable, "scripts/make_benchmark.py", "recipe=toss-A", f"root={tmp_path}", *small]

    def run(recorded: str) -> subprocess.CompletedProcess[str]:
        words = [f"checksums.{split}={recorded if split == 'val' else 'null'}" for split in Toss.splits]
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False)

    done = run("null")
    assert done.returncode == 0
    line = next(line for line in done.stdout.splitlines() if "/val" in line)
    assert "none is recorded" in line
    found = line.split("checksum ")[1].split(",")[0]
    assert "as recorded" in run(found).stdout
    other = run("0" * 64)
    assert other.returncode == 1
    assert "val of this recipe came out differently" in other.stderr
