"""A frame is the same bytes in a training clip, in a cached clip and in an evaluated one; the index behind it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_video import VP, WRITTEN, whole
from torch import Tensor, nn
from video_files import FRAMES, HEIGHT, WIDTH, pictures, write

from dias_video.data import video_file
from dias_video.data.features import FeatureCache, cache_features
from dias_video.data.folder import FolderVideos, OneVideo
from dias_video.data.index import file_indices
from dias_video.data.loading import ClipDataset
from dias_video.data.problems import Problems
from dias_video.data.transforms import ClipTransform
from dias_video.data.video_index import VideoIndex, index_video
from dias_video.data.video_stream import Key
from dias_video.data.windows import video_windows


class Pixels(nn.Module):
    """Encoder: a token a pixel, its colours. Half precision holds them exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.grid, self.feature_dim, self.config = (HEIGHT, WIDTH), 3, {"type": "Pixels"}

    def features(self, video: Tensor) -> Tensor:
        return video.float().flatten(3).transpose(2, 3)  # (B,T,N,C)


def test_training_caching_and_evaluation_see_the_same_bytes(tmp_path: Path) -> None:
    names = ["h264.avi", "hevc.mp4", "av1.mp4", "vp8.webm", "vp9.webm", "mpeg2.mpg", "mpeg4.avi", "mjpeg.mov"]
    names += ["prores.mov", "wmv.wmv", "h264.ts", "flv1.flv", "h264_open.mp4", "h264_refresh.mp4", "hevc.mkv"]
    for name in names:
        codec, pix_fmt, gop, options = WRITTEN[name]
        write(tmp_path / "videos" / name.replace(".", "_") / name, codec, pix_fmt, gop=gop, options=options)
    source = FolderVideos(tmp_path / "videos")
    assert len(source) == len(names)
    cache_features(Pixels(), source, tmp_path / "cache", ClipTransform((HEIGHT, WIDTH)), batch_frames=7)
    cached = FeatureCache(tmp_path / "cache")
    evaluated: dict[str, list[Tensor]] = {}
    for window in video_windows(source, range(len(source)), window=11, batch_size=3):
        for name, video in zip(window.video_id, window.video, strict=True):
            evaluated.setdefault(name, []).append(video)
    clips = ClipDataset(source, 6, transform=ClipTransform((HEIGHT, WIDTH), crop_area=None, flip=0))
    for epoch in range(4):
        for index in range(len(source)):
            clip = clips[epoch, index]
            frames, name = clip["frame_index"], clip["video_id"]
            expected = np.stack(whole(source.files(index)[0]))[frames]
            assert np.array_equal(clip["video"].permute(0, 2, 3, 1), expected), name
            assert torch.equal(torch.cat(evaluated[name])[frames], clip["video"]), name
            stored = cached.read(name, frames.tolist()).transpose(1, 2).reshape(clip["video"].shape)
            assert torch.equal(stored, clip["video"].float()), name


def test_the_index_is_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "b.mp4", "c.webm"):
        write(tmp_path / name, "libvpx" if name == "c.webm" else "libx264", count=30)
    first = FolderVideos(tmp_path)
    opened: list[str] = []
    real = video_file.index_video
    monkeypatch.setattr(video_file, "index_video", lambda path: opened.append(path.name) or real(path))
    again = FolderVideos(tmp_path)
    assert opened == []
    for index in range(3):
        assert again.info(index) == first.info(index)
        assert np.array_equal(again.times(index), first.times(index))
        assert torch.equal(again.read(index, [20, 3])["video"], first.read(index, [20, 3])["video"])
    write(tmp_path / "b.mp4", count=17)  # another size
    os.utime(tmp_path / "c.webm", ns=(1, 1))  # another time
    (tmp_path / "a.mp4").unlink()
    assert [FolderVideos(tmp_path).info(index).num_frames for index in range(2)] == [17, 30]
    assert opened == ["b.mp4", "c.webm"]
    assert [FolderVideos(tmp_path).info(index).num_frames for index in range(2)] == [17, 30]
    assert opened == ["b.mp4", "c.webm"]


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    FolderVideos(tmp_path)
    (place,) = (tmp_path / ".dias_index").glob("*.safetensors")
    place.write_bytes(place.read_bytes()[:50])
    assert FolderVideos(tmp_path).info(0).num_frames == FRAMES


def test_an_index_of_other_fields_is_made_again(tmp_path: Path) -> None:
    """As a version left it that did not know how a video is turned."""
    path = write(tmp_path / "a.mp4")
    fields = [field for field in (*VideoIndex._fields, *Key._fields) if field != "turn"]
    learned = {field: array for field, array in index_video(path)._asdict().items() if field != "turn"}
    file_indices(tmp_path, "videos-pyav", fields, [path], lambda _: learned, Problems())
    assert len(list((tmp_path / ".dias_index").glob("videos-pyav.safetensors"))) == 1
    assert FolderVideos(tmp_path).read(0, [3])["video"].shape == (1, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("end", ["gif", "webp", "apng", "png"])
def test_animations(tmp_path: Path, end: str) -> None:
    frames = [Image.fromarray(picture) for picture in pictures(7)]
    durations = [40, 40, 200, 40, 1000, 60, 80]
    kind = {"apng": "PNG"}.get(end, end.upper())
    exactly = {"lossless": True} if end == "webp" else {}
    path = tmp_path / f"a.{end}"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0, **exactly)
    expected = []
    with Image.open(path) as image:
        for number in range(7):
            image.seek(number)
            expected.append(np.asarray(image.convert("RGB")))
    source = OneVideo(path)
    assert source.info().num_frames == 7
    assert source.times() == pytest.approx([0, 0.04, 0.08, 0.28, 0.32, 1.32, 1.38])
    for asked in ([3], [6, 0], [2, 2, 5], list(range(7))):
        got = source.read(0, asked)["video"].permute(0, 2, 3, 1).numpy()
        assert np.array_equal(got, np.stack([expected[number] for number in asked]))
        if end != "gif":
            assert np.array_equal(got[0], np.asarray(frames[asked[0]]))


@pytest.mark.parametrize("end", ["webp", "apng"])
def test_transparent_pixels_are_mixed_with_black(tmp_path: Path, end: str) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (3, HEIGHT, WIDTH, 1))
    colours = [np.concatenate([p, a.astype(np.uint8)], axis=-1) for p, a in zip(pictures(3), alpha, strict=True)]
    frames = [Image.fromarray(colour) for colour in colours]
    path = tmp_path / f"a.{end}"
    frames[0].save(path, {"apng": "PNG"}.get(end), save_all=True, append_images=frames[1:], lossless=True, exact=True)
    got = OneVideo(path).read(0, range(3))["video"].permute(0, 2, 3, 1).numpy()
    assert np.abs(got - np.stack(colours)[..., :3] * (alpha / 255)).max() <= 1


def test_animated_webps_are_videos_and_still_ones_pictures(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture) for picture in pictures(4)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "moving.apng", "PNG", save_all=True, append_images=frames[1:])
    (tmp_path / "still").mkdir()
    for number, frame in enumerate(frames[:3]):
        frame.save(tmp_path / f"still/{number}.webp")
    source = FolderVideos(tmp_path)
    found = {source.info(index).video_id: source.info(index).num_frames for index in range(len(source))}
    assert found == {"still": 3, "moving.webp": 4, "moving": 4}


@pytest.mark.parametrize("end", ["gif", "webp", "apng"])
def test_animations_that_are_cut_off(tmp_path: Path, end: str) -> None:
    """Refused by name, or else what is left is right."""
    frames = [Image.fromarray(picture) for picture in pictures(7)]
    path = tmp_path / f"a.{end}"
    frames[0].save(path, {"apng": "PNG"}.get(end), save_all=True, append_images=frames[1:])
    data, expected = path.read_bytes(), OneVideo(path).read(0, range(7))["video"]
    right = 0
    for size in range(len(data) // 50, len(data), len(data) // 50):
        path.write_bytes(data[:size])
        try:
            source = OneVideo(path)
        except ValueError as error:
            right += f"a.{end} is not a readable animation" in str(error)
            continue
        got = source.read(0, range(source.info().num_frames))["video"]
        assert torch.equal(got, expected[: len(got)])
        right += 1
    assert right >= 50


MEASURE = """
import sys
from dias_video.data.folder import OneVideo
source = OneVideo(sys.argv[1])
for start in range(0, 72, 24):
    source.read(0, range(start, start + 24))
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(line.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux only")
def test_memory_does_not_depend_on_the_length(tmp_path: Path) -> None:
    peaks = []
    for count in (80, 1600):
        path = write(tmp_path / f"{count}.mp4", count=count, size=(480, 640), gop=250, options={"preset": "ultrafast"})
        out = subprocess.run([sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True)
        peaks.append(int(out.stdout))
    assert peaks[1] < 1.1 * peaks[0]


def test_decoders_are_chosen_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.webm", "libvpx", options=VP)
    with pytest.raises(ValueError, match="decoder must be one of pyav, decord, got 'ffmpeg'"):
        FolderVideos(tmp_path, decoder="ffmpeg")
