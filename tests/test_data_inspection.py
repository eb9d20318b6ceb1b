"""The first look at a data set, by the library and by its script; training data with problems left out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from data_files import Counting, write_clip
from data_records import write_movi
from PIL import Image

from dias_video.data import checking
from dias_video.data.checking import usable
from dias_video.data.images import ImageFolder
from dias_video.data.inspection import Inspection, save_picture, table
from dias_video.data.movi import MoviVideos
from dias_video.data.problems import problems_of
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.source import fingerprint

SHIPPED = Path(__file__).parents[1] / "dias_video/assets/dias"
SCRIPT = Path(__file__).parents[1] / "scripts/inspect_data.py"


def test_facts_and_contact_sheet(tmp_path):
    write_movi(tmp_path)
    seen = Inspection(MoviVideos(tmp_path, "train"), num_looked_at=2, check=True)
    facts = seen.facts()
    assert facts["videos"] == 3
    assert facts["frames"] == 15
    assert facts["frame sizes (height x width)"] == "12x20: 2"
    assert facts["instances a video"] == "3"
    assert facts["files"] == 2
    assert seen.problems == []
    save_picture(tmp_path / "out/sheet.png", seen.contact_sheet())
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        # four frames and their masks a row, 12x20 scaled to a height of 128, with a line of 2 pixels between
        assert sheet.size == (8 * (round(20 * 128 / 12) + 2), 2 * 130)
    assert "problems" in table(facts, seen.problems)


class Broken(Counting):
    """The second video can't be read beyond its first frames."""

    def read(self, index, frames, keys=None):
        if index == 1 and max(frames) > 6:
            raise ValueError("v1 can't be decoded; remove it")
        return super().read(index, frames)


class NoneReads(Counting):
    def read(self, index, frames):
        raise ValueError(f"v{index} is bad")


def test_unreadable_videos_are_problems():
    seen = Inspection(Broken(), num_looked_at=3, check=True)
    assert [problem.sentence for problem in seen.problems] == ["v1 can't be decoded; remove it"]
    assert len(seen.samples) == 2
    assert "PROBLEM: v1 can't be decoded" in table(seen.facts(), seen.problems)


def test_missing_files_are_found_without_reading(tmp_path):
    write_clip(tmp_path / "toss/train/00000")
    (tmp_path / "toss/train/00000.masks.zip").unlink()
    seen = Inspection(SimulatedVideos(tmp_path, "toss/train"), num_looked_at=1, check=True)
    assert len(seen.problems) == 1
    assert "00000.masks.zip is missing (1 of 3 files)" in seen.problems[0].sentence


def test_usable_leaves_out_what_can_not_be_read():
    kept = usable(Broken(), "skip_and_report")
    assert [kept.info(i).video_id for i in range(len(kept))] == ["v0", "v2"]
    assert kept.read(1, [3])["video_id"] == "v2"
    assert [problem.name for problem in problems_of(kept)] == ["v1"]
    assert fingerprint(kept) != fingerprint(Counting())
    with pytest.raises(ValueError, match="no video is left, 3 have problems; the first: v0 is bad"):
        usable(NoneReads(), "skip_and_report")


def pictures(folder, broken="b.png"):
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 5), (200, 0, 0)).save(folder / name)
    (folder / broken).write_bytes((folder / broken).read_bytes()[:40])


def test_everything_is_read_once_until_a_file_changes(tmp_path, monkeypatch):
    pictures(tmp_path / "data")
    names = []
    for broken in (["b.png"], ["b.png"], []):
        kept = usable(ImageFolder(tmp_path / "data", on_error="skip_and_report"), "skip_and_report")
        names.append([kept.info(index).video_id for index in range(len(kept))])
        assert [problem.name for problem in kept.problems] == broken
        monkeypatch.setattr(checking, "check_videos", None)  # would fail if called
        if len(names) == 2:
            monkeypatch.undo()
            Image.new("RGB", (8, 5)).save(tmp_path / "data/b.png")
    assert names == [["a.png", "c.png"]] * 2 + [["a.png", "b.png", "c.png"]]


@pytest.mark.slow
def test_features_of_what_can_be_read_serve_training(tmp_path):
    """A broken file is left out by whoever reads the data, so the cached features fit."""
    pictures(tmp_path / "data")
    data = ("data=images", f"data.root={tmp_path}/data", "data.size=[128,128]", "data.on_error=skip_and_report")

    def run(script, *words):
        command = [sys.executable, str(SCRIPT.with_name(f"{script}.py")), *data, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    made = run("cache_features", f"checkpoint={SHIPPED}", f"path={tmp_path}/f")
    assert "features of 2 videos" in made.stdout, made.stderr
    features = f"data.features={{_target_: dias_video.data.features.FeatureCache, path: {tmp_path}/f}}"
    plain = (features, "data.transform.crop_area=null", "data.transform.flip=0", "max_steps=1", "trainer.batch_size=2")
    done = run("train_video", "model=tiny", f"checkpoint={SHIPPED}", *plain, f"out_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr


def inspect(*options):
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_script_reports_problems_and_exits_with_1(tmp_path):
    for split in ("train", "val"):
        for number in range(2):
            write_clip(tmp_path / f"sim/toss/{split}/{number:05d}")
    options = ["data=simulated", f"data.root={tmp_path}/sim", f"out_dir={tmp_path}/out", "check=true"]
    broken = tmp_path / "sim/toss/val/00001.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    done = inspect(*options)
    assert done.returncode == 1
    assert "PROBLEM: " in done.stdout
    assert "00001.mp4 is not a readable video" in done.stdout
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["train"]["problems"] == []
    assert len(report["eval"]["problems"]) == 1
    assert "videos                        2" in done.stdout
    assert (tmp_path / "out/train.png").is_file()


@pytest.mark.slow
def test_data_without_a_single_video_is_an_error(tmp_path):
    done = inspect("data=simulated", f"data.root={tmp_path}/nowhere", f"out_dir={tmp_path}/out")
    assert done.returncode == 1
    assert "nowhere/toss/train is missing" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("error: there is not one video to read here")
