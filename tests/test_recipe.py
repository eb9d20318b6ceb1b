"""Recipes: checksums know content from encoding, and every recipe is one that can be made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from dias_video.data.simulated import SimulatedVideos
from dias_video.evaluation.splits import SPLITS
from dias_video.simulate.recipe import sketch, split_checksum, verdict
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


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_fingerprints_of_its_splits_are_those_of_names_and_settings(recipe: str) -> None:
    """``frozen_split=`` knows the videos of a recipe without having made them."""
    cfg = composed(recipe)
    variant = instantiate(cfg.simulate, _convert_="all")
    for split, num_videos in cfg.splits.items():
        place = f"{variant.name}/{split}"
        made = json.dumps({place: [variant.name, dataclasses.asdict(variant), cfg.seed]}, sort_keys=True)
        names = [f"{place}/{index:05d}" for index in range(num_videos)]
        digest = hashlib.sha256("\n".join([made, *names]).encode()).hexdigest()
        assert SPLITS[f"{recipe}/{split}"].fingerprint == digest[:16], split


def test_the_checksum_is_of_content(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
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


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    pytest.importorskip("pybullet")
    return write_dataset(Toss(size=(16, 24), num_frames=3), tmp_path, "val", 3, seed=5, workers=1)


def test_sketches_are_of_pictures_and_masks(clips: Path, tmp_path: Path) -> None:
    made = sketch(clips, 3)
    assert made.shape == (3, 34)
    source = SimulatedVideos(tmp_path, "toss/val")
    sample = source.read(1, [0, 2])
    colours = sample["video"][1, 2, 8:, :12].float().mean()  # blue, lower left, of the last frame
    covered = 255 * (sample["masks"][0, :8, 12:] > 0).float().mean()  # upper right of the first
    assert made[1, 16 + 2 * 4 + 2] == pytest.approx(float(colours), abs=1)
    assert made[1, 3 * 4 + 1] == pytest.approx(float(covered), abs=1)
    assert made[1, 32] == sample["boxes"].shape[1]


def test_replaced_and_missing_pictures_are_noticed(clips: Path) -> None:
    recorded, checksum = sketch(clips, 3), split_checksum(clips, 3)
    assert verdict(recorded, recorded, True) == "as recorded"
    shutil.copy(clips / "00000.mp4", clips / "00002.mp4")
    assert split_checksum(clips, 3) == checksum
    with pytest.raises(ValueError, match=r"other pictures in 1 clips .00002.: were mp4 files replaced"):
        verdict(sketch(clips, 3), recorded, True)
    (clips / "00002.mp4").unlink()
    with pytest.raises(ValueError, match=r"00002.mp4 is missing"):
        sketch(clips, 3)


def test_the_last_bits_of_another_cpu_are_told_from_other_content() -> None:
    recorded = torch.randint(0, 250, (40, 34), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    near, far = recorded.clone(), recorded.flip(0)
    near[:, 5] += 2
    near[7, 20] ^= 64  # one body went another way
    said = verdict(near, recorded, False)
    assert said == "as recorded but for this CPU's arithmetic (1 of 40 clips continue differently)"
    with pytest.raises(
        ValueError, match=r"has other content in 40 of 40 clips .*PyBullet or this code is of another version"
    ):
        verdict(far, recorded, False)
    assert verdict(near, None, None) == "none is recorded"
    assert verdict(near, None, True) == "masks and records as recorded, no pictures are"
    with pytest.raises(ValueError, match="nothing is recorded that could tell why"):
        verdict(near, None, False)


def test_the_script_refuses_other_content(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    small = ["name=none", "simulate.size=[16,24]", "simulate.num_frames=1", "workers=1"]  # no sketch has this name
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
    assert "masks and records as recorded" in run(found).stdout
    other = run("0" * 64)
    assert other.returncode == 1
    assert "val differs from the recorded checksum" in other.stderr
