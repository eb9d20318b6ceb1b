"""Slices of a source's videos, one option for every source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from data_files import LENGTHS, Counting, write_clip
from test_script_options import run, sentence

from dias_video.data.chosen import Chosen, places, sliced
from dias_video.data.source import fingerprint


class Many(Counting):
    """Ten videos."""

    config = {"type": "test.Many"}  # noqa: RUF012

    def __len__(self) -> int:
        return 10

    def info(self, index):
        return super().info(index % len(LENGTHS))._replace(video_id=f"v{index}")


def ids(source) -> list[str]:
    return [source.info(index).video_id for index in range(len(source))]


@pytest.mark.parametrize("videos", [":4", "-3:", "-3:-1", "2:5", ":", ":-8", "-10:"])
def test_slices_are_those_of_python(videos):
    start, stop = (int(part) if part else None for part in videos.split(":"))
    chosen = sliced(Many(), videos)
    assert ids(chosen) == [f"v{index}" for index in range(10)][start:stop]
    assert chosen.config == Many.config
    assert places(chosen)[1] == list(range(10))[start:stop]


def test_all_videos_are_the_source_itself():
    source = Many()
    assert sliced(source, None) is source
    assert places(source) == (source, list(range(10)))


@pytest.mark.parametrize("videos", ["3", "-3", "a:b", "1:2:3", "1.5:", "", "²:"])
def test_what_is_no_slice_is_refused(videos):
    with pytest.raises(ValueError, match="videos must be a slice such as ':200' or '-300:'"):
        sliced(Many(), videos)


@pytest.mark.parametrize("videos", [":11", "-11:", "0:30"])
def test_more_than_there_are_is_refused(videos):
    with pytest.raises(ValueError, match="asks for more than the 10 videos"):
        sliced(Many(), videos)


def test_a_slice_without_videos_is_refused():
    with pytest.raises(ValueError, match="leaves none of the 10 videos"):
        sliced(Many(), "5:3")


def test_a_choice_of_a_choice_reads_the_right_video():
    source = Counting()
    nested = Chosen(sliced(source, "1:"), [1])
    assert ids(nested) == ["v2"]
    assert torch.equal(nested.read(0, [3])["video"], source.read(2, [3])["video"])
    assert places(nested) == (source, [2])
    assert fingerprint(nested) != fingerprint(sliced(source, ":1"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        for number in range(4):
            write_clip(root / f"toss/{split}/{number:05d}")
    return root


def looked_at(clips: Path, out: Path, *words: str) -> tuple[int | None, str]:
    return run("inspect_data", "data=simulated", f"data.root={clips}", f"out_dir={out}", *words)


@pytest.mark.parametrize(("videos", "count"), [("-3:", 3), (":1", 1), ("-3:-1", 2)])
def test_as_typed_on_the_command_line(clips, tmp_path, videos, count):
    code, output = looked_at(clips, tmp_path, f"data.train.videos={videos}")
    assert code == 0, output
    report = json.loads((tmp_path / "report.json").read_text())
    assert [report[split]["facts"]["videos"] for split in ("train", "eval")] == [count, 4]


def test_the_videos_of_a_contact_sheet_are_a_number(clips, tmp_path):
    code, output = looked_at(clips, tmp_path, "videos=2", "data.train.videos=:3")
    assert code == 0, output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["train"]["facts"]["videos"] == 3
    code, output = looked_at(clips, tmp_path, "videos=1")
    assert code == 1
    assert "report.json exists; name another place, or replace it with overwrite=true" in output
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert looked_at(clips, tmp_path, "videos=1", "overwrite=true")[0] == 0


def test_a_number_is_no_slice(clips, tmp_path):
    code, output = looked_at(clips, tmp_path, "data.train.videos=3")
    assert (code, sentence(output)) == (
        1,
        "error: data.train.videos must be a slice such as ':200' or '-300:', got '3'",
    )
