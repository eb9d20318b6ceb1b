"""Tracking all videos of a path: one after another, with failures and interruptions, by function and by script."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image
from test_auto import film, square, turned
from test_auto_files import some_labels, with_pictures
from test_report import content
from video_files import write

from dias_video.auto.backbone import Backbone
from dias_video.auto.run import Untracked, track_files
from dias_video.auto.track import Tracker

ROOT = Path(__file__).parents[1]


def facts_of_overlay(folder: Path) -> tuple[Fraction, Fraction, float]:
    """Rate, shape of a pixel, and length of ``overlay.mp4``."""
    with av.open(str(folder / "overlay.mp4")) as file:
        (stream,) = file.streams.video
        return stream.average_rate, stream.sample_aspect_ratio, float(stream.duration * stream.time_base)


@pytest.mark.parametrize("turn", [False, True])
def test_the_overlay_is_shown_as_the_video(tmp_path: Path, turn: bool) -> None:
    """One frame of 12 a second, with pixels a third wider than high; turned by a quarter they are higher than wide."""

    def anamorphic(file: Any, stream: Any) -> None:
        stream.codec_context.framerate = 12
        stream.codec_context.time_base = Fraction(1, 12)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    path = write(tmp_path / "a.mp4", count=1, size=(32, 64), before=anamorphic)
    if turn:
        turned(path)
    list(track_files(video=path, out_dir=tmp_path / "out", checkpoint="shipped", gif=True))
    pixel = Fraction(3, 4) if turn else Fraction(4, 3)
    assert facts_of_overlay(tmp_path / "out/a") == (12, pixel, pytest.approx(1 / 12, abs=1e-3))
    shape = (64, 24) if turn else (32, 85)  # where pixels are square
    ((video,),) = (group["videos"] for group in content(tmp_path / "out/a/report.html"))
    assert (video["height"], video["width"]) == shape
    with Image.open(tmp_path / "out/a/overlay.gif") as moving:
        assert moving.size == shape[::-1]


def test_pictures_have_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    """One picture at 8 a second, and two of which each is shown for an hour."""
    with_pictures(tmp_path, "one", some_labels(1))
    with_pictures(tmp_path, "two", some_labels(2))
    for name, fps in (("one", 8.0), ("two", 1 / 3600)):
        options: dict[str, Any] = {"video": tmp_path / name, "out_dir": tmp_path / "out", "fps": fps}
        list(track_files(**options, checkpoint="shipped"))
    assert facts_of_overlay(tmp_path / "out/one")[2] == pytest.approx(1 / 8, abs=1e-3)
    assert facts_of_overlay(tmp_path / "out/two")[2] == pytest.approx(3600 + 1001, abs=1)


def script(*words: str, together: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts/track.py"), *words, "checkpoint=shipped", "window=4"]
    error = subprocess.STDOUT if together else subprocess.PIPE
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=error,
                            env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip


def test_a_folder_of_videos(tmp_path: Path) -> None:
    for name in ("x", "y/z"):
        film(tmp_path / f"videos/{name}.mp4", square(5))
    done = list(track_files(video=tmp_path / "videos", out_dir=tmp_path / "out", checkpoint="shipped", max_frames=3))
    assert done == [tmp_path / "out" / name for name in ("x", "y/z", "report.html")]
    assert len(list((tmp_path / "out/y/z").glob("*.png"))) == 3
    page = (tmp_path / "out/report.html").read_text()
    assert all(name in page for name in ('"x"', '"y/z"'))
    options: dict[str, Any] = {"checkpoint": "shipped", "max_frames": 2}
    with pytest.raises(ValueError, match=r"out/x exists; .* overwrite=true"):
        list(track_files(video=tmp_path / "videos/x.mp4", out_dir=tmp_path / "out", **options))
    list(track_files(video=tmp_path / "videos/x.mp4", out_dir=tmp_path / "out", overwrite=True, **options))
    assert len(list((tmp_path / "out/x").glob("*.png"))) == 2
    page = (tmp_path / "out/report.html").read_text()
    assert all(name in page for name in ('"x"', '"y/z"'))
    with_pictures(tmp_path / "pictures", "x", some_labels())
    with pytest.raises(ValueError, match="x exists and holds no tracks"):  # the source itself
        list(track_files(video=tmp_path / "pictures/x", out_dir=tmp_path / "pictures", overwrite=True, **options))


def damaged(path: Path, kind: str) -> Path:
    """An mp4 that can't be opened, or that can't be decoded from its middle on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "text":
        path.write_text("no video")
        return path
    write(path, count=40, container={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    return path


def test_the_others_are_tracked_if_one_fails(tmp_path: Path) -> None:
    """One can't be opened, one fails in the middle; then all of a folder."""
    videos = tmp_path / "videos"
    damaged(videos / "a.mp4", "text")
    damaged(videos / "b.mp4", "hole")
    film(videos / "c.mp4", square(3))
    done = []
    with pytest.raises(Untracked) as error:
        done.extend(track_files(video=videos, out_dir=tmp_path / "out", checkpoint="shipped", window=4))
    assert done == [tmp_path / "out/c", tmp_path / "out/report.html"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c", "report.html"]
    first, second = (problem.sentence for problem in error.value.problems)
    assert first.startswith(f"{videos}/a.mp4 is not a readable video")
    assert second.startswith(f"b is not tracked: {videos}/b.mp4 can't be decoded")
    (videos / "c.mp4").unlink()
    (videos / "b.mp4").unlink()
    with pytest.raises(ValueError, match=r"no video that can be read; the first of 1 problems: .*a\.mp4 is not"):
        list(track_files(video=videos, out_dir=tmp_path / "out", checkpoint="shipped"))


def real_one() -> Exception:
    """PyTorch's own error for 2^62 bytes."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    return error.value


@pytest.mark.parametrize("error", [MemoryError(), real_one()])
def test_a_video_that_is_too_large_for_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("a", "b"):
        film(tmp_path / f"videos/{name}.mp4", square(2))
    windows = Tracker.windows

    def limited(self: Tracker, source: Any, index: int, *given: Any, **options: Any) -> Any:
        if index == 0:
            raise error
        return windows(self, source, index, *given, **options)

    monkeypatch.setattr(Tracker, "windows", limited)
    done = []
    with pytest.raises(Untracked, match=r"^a is not tracked: there is not enough memory.*; lower window$"):
        done.extend(track_files(video=tmp_path / "videos", out_dir=tmp_path / "out", checkpoint="shipped"))
    assert done == [tmp_path / "out/b", tmp_path / "out/report.html"]
    error = RuntimeError("a fault of the program")
    with pytest.raises(RuntimeError, match=r"^a fault of the program$"):
        list(track_files(video=tmp_path / "videos", out_dir=tmp_path / "other", checkpoint="shipped"))


def test_an_encoder_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        film(tmp_path / f"videos/{name}.mp4", square(2))
    with pytest.raises(ValueError, match=r"^timm has no Vision Transformer called no_such_vit") as error:
        list(track_files(video=tmp_path / "videos", out_dir=tmp_path / "out", encoder=Backbone("no_such_vit")))
    assert not isinstance(error.value, Untracked)


def test_resuming_keeps_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of three are finished; a kill left a third that is not, and an older one that was being replaced."""
    options: dict[str, Any] = {"video": tmp_path / "videos", "out_dir": tmp_path / "out", "checkpoint": "shipped"}
    for name in ("a", "b/x"):
        film(tmp_path / f"videos/{name}.mp4", square(3))
    list(track_files(**options, max_frames=2))
    out = tmp_path / "out"
    shutil.copytree(out / "a", out / ".c.part")
    shutil.copytree(out / "a", out / ".c.before")
    (out / ".c.part/99999.png").touch()
    film(tmp_path / "videos/c.mp4", square(3))
    with pytest.raises(
        ValueError, match="a exists; keep finished videos with resume=true, replace them with overwrite"
    ):
        list(track_files(**options))
    with pytest.raises(ValueError, match="leave one of them out"):
        list(track_files(**options, resume=True, overwrite=True))
    capsys.readouterr()
    assert list(track_files(**options, resume=True)) == [out / "c", out / "report.html"]
    assert "2 of 3 videos were finished before, and stay as they are" in capsys.readouterr().err
    assert [len(list((out / name).glob("*.png"))) for name in ("a", "b/x", "c")] == [2, 2, 3]
    page = (out / "report.html").read_text()
    assert all(f'"{name}"' in page for name in ("a", "b/x", "c"))
    assert ".c.before" not in page
    assert list(track_files(**options, resume=True)) == [out / "report.html"]


def test_files_among_the_videos_are_refused(tmp_path: Path) -> None:
    film(tmp_path / "videos/a.mp4", square(2))
    with pytest.raises(ValueError, match=r"out_dir=.*/videos/out lies in video=.*/videos, "):
        list(track_files(video=tmp_path / "videos", out_dir=tmp_path / "videos/out", checkpoint="shipped"))


@pytest.mark.slow
def test_a_folder_with_damaged_videos_by_the_script(tmp_path: Path) -> None:
    damaged(tmp_path / "videos/a.mp4", "text")
    damaged(tmp_path / "videos/b.mp4", "hole")
    film(tmp_path / "videos/c.mp4", square(9))
    process = script(f"video={tmp_path}/videos", f"out_dir={tmp_path}/out", together=True)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    lines = [line.rpartition("\r")[2] for line in said.split("\n")]
    lines = [line for line in lines if line and "frame/s" not in line]  # nothing is written into the progress bar
    assert lines[-4:-2] == [f"{tmp_path}/out/c", f"{tmp_path}/out/report.html"]
    assert lines[-2].startswith(f"error: {tmp_path}/videos/a.mp4 is not a readable video")
    assert lines[-1].startswith(f"error: b is not tracked: {tmp_path}/videos/b.mp4 can't be decoded")


@pytest.mark.slow
def test_ctrl_c_leaves_finished_videos_whole(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        film(tmp_path / f"videos/{name}.mp4", square(60))
    process = script(f"video={tmp_path}/videos", f"out_dir={tmp_path}/out")
    while not (tmp_path / "out/a").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "the same command with resume=true goes on" in error
    finished = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert finished in (["a"], ["a", "b"])
    for name in finished:
        assert len(list((tmp_path / f"out/{name}").glob("*.png"))) == 60
