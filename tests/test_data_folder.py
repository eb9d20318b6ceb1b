"""Folders of videos, GIFs and pictures: every format gives its frames, damaged files are named, memory stays flat."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from data_files import SHARED, reads_shared
from PIL import Image

from dias_video.data.checking import usable
from dias_video.data.folder import FolderVideos, OneVideo
from dias_video.data.images import ImageFolder
from dias_video.data.loading import ClipDataset
from dias_video.data.problems import problems_of
from dias_video.data.source import fingerprint

NUM_FRAMES = 20


def pictures(height=46, width=70, count=NUM_FRAMES):
    """A bright square that moves right by two pixels a frame over noise."""
    rng = np.random.default_rng(height)
    video = rng.integers(0, 30, (count, height, width, 3), dtype=np.uint8)
    for t in range(count):
        video[t, 10:26, 2 * t : 2 * t + 16] = (220, 40, 90)
    return video


def write_video(path, codec, size=(46, 70), container=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = 6
        for picture in pictures(*size):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


def decoded(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_folders_of_pictures_are_videos_in_natural_order(tmp_path):
    for t, picture in enumerate(pictures(count=12)):
        folder = tmp_path / "deep/clip"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"frame{t}.png")  # frame10 comes after frame9
    write_video(tmp_path / "x/run.mp4", "libx264")
    write_video(tmp_path / "x/run.webm", "libvpx-vp9", size=(30, 64))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("not a video")
    source = FolderVideos(tmp_path)
    assert [source.info(i).video_id for i in range(3)] == ["deep/clip", "x/run.mp4", "x/run.webm"]
    expected = pictures(count=12)[[10, 2]]
    assert np.array_equal(source.read(0, [10, 2])["video"].permute(0, 2, 3, 1).numpy(), expected)
    assert source.read(2, [0])["video"].shape == (1, 3, 30, 64)
    assert [file.name for file in source.files(0)][9:] == ["frame9.png", "frame10.png", "frame11.png"]


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [("a.mp4", "libx264", {}), ("b.mp4", "libx264", {"movflags": "faststart"}), ("c.webm", "libvpx-vp9", {})],
)
def test_half_downloaded_videos_are_named(tmp_path, name, codec, container):
    path = write_video(tmp_path / name, codec, container=container)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ValueError, match=rf"{name} .*(half downloaded|cut off).*download it again or remove it"):
        OneVideo(path)


def test_names_that_are_no_utf8(tmp_path):
    write_video(tmp_path / "a.mp4", "libx264")
    for name in (b"b\xff.mp4", b"c\xfe/1.png"):
        os.makedirs(os.path.dirname(os.fsencode(tmp_path / "x") + b"/" + name), exist_ok=True)
    try:
        os.rename(os.fsencode(tmp_path / "a.mp4"), os.fsencode(tmp_path / "x") + b"/b\xff.mp4")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    Image.fromarray(pictures(count=1)[0]).save(tmp_path / "1.png")
    os.rename(tmp_path / "1.png", os.fsencode(tmp_path / "x") + b"/c\xfe/1.png")
    source = FolderVideos(tmp_path / "x")
    assert [source.info(index).video_id for index in range(2)] == ["b\\xff", "c\\xfe"]
    assert source.read(0, [3])["video_id"] == "b\\xff"
    assert len(fingerprint(source)) == 16
    assert len(fingerprint(FolderVideos(tmp_path / "x"))) == 16  # by the index that was kept
    assert ImageFolder(tmp_path / "x", pattern="*.png").read(0, [0])["video_id"] == "c\\xfe/1.png"


def test_a_download_with_a_hole_is_named(tmp_path):
    path = write_video(tmp_path / "a.mp4", "libx264", container={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    source = OneVideo(path)
    with pytest.raises(ValueError, match=r"a.mp4 can't be decoded up to frame \d+, it may be cut off"):
        source.read(0, range(NUM_FRAMES))


def empty_mp4(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("zero.mp4", empty_mp4),
        ("text.mp4", lambda path: path.write_text("this is no video")),
        ("nothing.mp4", lambda path: path.write_bytes(b"")),
        ("text.gif", lambda path: path.write_text("this is no GIF")),
        ("gone.mp4", lambda path: None),
        ("empty_folder", lambda path: path.mkdir()),
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=name):
        OneVideo(tmp_path / name)


def test_frames_of_two_sizes_are_named(tmp_path):
    Image.fromarray(pictures()[0]).save(tmp_path / "0.png")
    Image.fromarray(pictures(40, 30)[0]).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1.png is 30x40, 0.png is 70x46; one video needs one size"):
        OneVideo(tmp_path).read(0, [0, 1])


def test_frames_outside_the_video_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", "libx264")
    with pytest.raises(ValueError, match="has 20 frames, frame 20 was asked for"):
        OneVideo(path).read(0, [3, 20])


def test_bad_videos_stop_or_are_left_out_and_reported(tmp_path):
    write_video(tmp_path / "data/good.mp4", "libx264")
    hole = write_video(tmp_path / "data/hole.mp4", "libx264", container={"movflags": "faststart"})
    data = hole.read_bytes()
    hole.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    (tmp_path / "data/text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text.mp4"):
        FolderVideos(tmp_path / "data")
    source = FolderVideos(tmp_path / "data", on_error="skip_and_report")
    assert [source.info(i).video_id for i in range(len(source))] == ["good", "hole"]
    assert usable(source) is source
    kept = usable(source, "skip_and_report")
    assert [kept.info(i).video_id for i in range(len(kept))] == ["good"]
    assert [Path(problem.name).stem for problem in problems_of(kept)] == ["text", "hole"]
    with pytest.raises(ValueError, match="on_error"):
        FolderVideos(tmp_path / "data", on_error="ignore")


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="holds no"):
        FolderVideos(tmp_path, on_error="skip_and_report")
    with pytest.raises(ValueError, match="not a folder"):
        FolderVideos(tmp_path / "nowhere")


def test_addresses_are_refused_as_they_are_written(tmp_path, monkeypatch):
    for source, name in ((OneVideo, "https://example.com/a.mp4"), (FolderVideos, "gs://bucket/videos")):
        with pytest.raises(ValueError, match=f"^{name} is an address, and only files of this machine are read"):
            source(name)
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a:b.mp4", "libx264")
    assert OneVideo("a:b.mp4").info().num_frames == 20


def test_images_are_videos_of_one_frame(tmp_path):
    (tmp_path / "b").mkdir()
    Image.fromarray(pictures()[0]).save(tmp_path / "2.png")
    Image.fromarray(pictures()[1][..., 0]).save(tmp_path / "10.png")  # gray
    Image.fromarray(pictures(30, 50)[0]).save(tmp_path / "b/3.png")
    source = ImageFolder(tmp_path)
    assert [source.info(i).video_id for i in range(3)] == ["2.png", "10.png", "b/3.png"]
    assert source.read(1, [0])["video"].shape == (1, 3, 46, 70)
    assert len(ClipDataset(source, 5)[0, 2]["video"]) == 1


@pytest.mark.slow
def test_memory_stays_flat_over_2000_clips(tmp_path):
    for number in range(8):
        write_video(tmp_path / f"{number}.mp4", "libx264", size=(64, 64))
    clips = ClipDataset(FolderVideos(tmp_path), 4)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for clip in range(200):
        clips[0, clip % 8]
    before, threads = resident(), len(os.listdir("/proc/self/task"))
    for clip in range(1800):
        clips[clip, clip % 8]
    assert resident() - before < 32 << 20
    assert len(os.listdir("/proc/self/task")) <= threads + 2


@reads_shared
def test_real_videos_of_physion(tmp_path, monkeypatch):
    monkeypatch.setenv("DIAS_CACHE", str(tmp_path))
    source = FolderVideos(SHARED / "physion_sample")
    assert len(source) == 10
    assert source.info(0).num_frames == 163  # metadata.json
    sample = source.read(0, [60, 0])
    expected = decoded(SHARED / "physion_sample/0000_img.mp4")[[60, 0]]
    assert torch.equal(sample["video"].permute(0, 2, 3, 1), torch.from_numpy(expected))
