"""Files of tracked videos: what they hold, that other readers read the same, that they are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dias_video.auto.files import ARRAYS, Clip, TrackFiles
from dias_video.batch import SlotSequence, VideoBatch
from dias_video.data.boxes import pixel_boxes
from dias_video.data.davis import DavisVideos
from dias_video.data.paths import safe_names
from dias_video.data.ytvis import YouTubeVIS
from dias_video.evaluation.run import evaluate
from dias_video.visualize import FilmWriter

HEIGHT, WIDTH, FRAMES = 21, 33, 7  # odd, which H.264 does not like
GRID = (3, 4)


def tracked(labels: Tensor, window: int = 3, num_slots: int = 4) -> list[tuple[VideoBatch, SlotSequence]]:
    """Windows of a video of noise with these labels (T,H,W); slot s has track 2 * s, the last one is dead."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (len(labels), 3, *labels.shape[1:]), generator=generator, dtype=torch.uint8)
    index = torch.arange(len(labels))[None]
    batch = VideoBatch(video[None], ["v"], index, torch.ones_like(index, dtype=torch.bool))
    live = torch.ones(1, len(labels), num_slots, dtype=torch.bool)
    live[..., -1] = False
    track_id = (2 * torch.arange(num_slots)).expand(1, len(labels), -1).masked_fill(~live, -1)
    slots = torch.randn(1, len(labels), num_slots, 5, generator=generator)
    attention = torch.rand(1, len(labels), num_slots, *GRID, generator=generator)
    whole = SlotSequence(["v"], slots, live, track_id, attention, labels[None].to(torch.int32))
    return list(zip(batch.windows(window), whole.windows(window), strict=True))


def some_labels(frames: int = FRAMES) -> Tensor:
    """Rectangles of tracks 0, 2 and 4, of which 4 is there for two frames alone; void around."""
    labels = torch.full((frames, HEIGHT, WIDTH), -1)
    for t in range(frames):
        labels[t, 2:9, t : 10 + t] = 0
        labels[t, 5:20, 15:30] = 2
    labels[2:4, 0:3, 30:] = 4
    return labels


def clip(num_frames: int = FRAMES, size: tuple[int, int] = (HEIGHT, WIDTH), fps: float = 25) -> Clip:
    return Clip("v", num_frames, size, [f"{t:05d}" for t in range(num_frames)], np.arange(num_frames) / fps)


def written(folder: Path, labels: Tensor, gif: bool = False, **facts: Any) -> Path:
    with TrackFiles(folder, clip(len(labels), tuple(labels.shape[1:]), **facts), gif) as files:
        for batch, sequence in tracked(labels):
            files.add(batch, sequence)
    return folder


def test_labels_are_pngs_as_davis_has_them(tmp_path: Path) -> None:
    labels = some_labels()
    folder = written(tmp_path / "v", labels)
    assert {file.suffix for file in folder.iterdir()} == {".png", ".npz", ".json", ".mp4", ".html"}
    for t in range(FRAMES):
        with Image.open(folder / f"{t:05d}.png") as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.asarray(picture), labels[t] + 1)


def test_ids_beyond_a_palette_are_kept(tmp_path: Path) -> None:
    labels = torch.tensor([3, 253, 254, 70_00]).repeat(1, 6, 5)
    folder = written(tmp_path / "v", labels)
    with Image.open(folder / "00000.png") as picture:
        assert np.array_equal(np.asarray(picture), labels[0] + 1)


def test_arrays_are_those_of_the_slots(tmp_path: Path) -> None:
    labels = some_labels()
    folder = written(tmp_path / "v", labels)
    whole = SlotSequence.joined([sequence for _, sequence in tracked(labels)])
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        for name in ("slots", "live", "track_id"):
            assert np.array_equal(arrays[name], getattr(whole, name)[0])
        assert np.array_equal(arrays["ids"], np.where(whole.live[0], whole.track_id[0] + 1, 0))
        assert arrays["ids"].dtype == np.int32
        owner = whole.attention[0][:, :3].argmax(1)  # the fourth is dead
        assert np.array_equal(arrays["labels"], 2 * owner)
        assert arrays["boxes"].shape == (FRAMES, 4, 4)
        for t in range(FRAMES):
            for slot in range(4):
                y, x = np.nonzero((labels[t] == 2 * slot).numpy())
                if slot == 3 or not len(y):
                    assert not arrays["boxes"][t, slot].any()
                    continue
                pixels = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                expected = np.array(pixels) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
                np.testing.assert_allclose(arrays["boxes"][t, slot], expected, atol=1e-6)


def with_pictures(root: Path, name: str, labels: Tensor) -> Path:
    (root / name).mkdir(parents=True)
    for t in range(len(labels)):
        Image.new("RGB", (labels.shape[2], labels.shape[1])).save(root / name / f"{t:05d}.jpg")
    return root


def test_youtube_vis_reads_the_same_masks(tmp_path: Path) -> None:
    labels = some_labels()
    folder = written(tmp_path / "v", labels)
    with_pictures(tmp_path / "data/JPEGImages", "v", labels)
    (tmp_path / "data/instances.json").write_bytes((folder / "instances.json").read_bytes())
    sample = YouTubeVIS(tmp_path / "data", "valid").read(0, range(FRAMES))
    expected = torch.zeros_like(labels)
    for number, track in enumerate((0, 2, 4), 1):
        expected[labels == track] = number
    assert torch.equal(sample["masks"].long(), expected)
    described = json.loads((folder / "instances.json").read_text())
    rare = described["annotations"][2]
    assert rare["id"] == 5
    assert [code is not None for code in rare["segmentations"]] == [t in (2, 3) for t in range(FRAMES)]
    assert rare["areas"][2:4] == [9, 9]
    assert rare["bboxes"][2] == [30, 0, 3, 3]
    assert len(rare["bboxes"]) == FRAMES


def test_what_was_written_scores_1_against_itself(tmp_path: Path) -> None:
    labels = some_labels()
    labels[labels == 4] = -1  # DAVIS and YouTube-VIS number instances without gaps
    out = written(tmp_path / "out/v", labels).parent
    davis = tmp_path / "davis"
    with_pictures(davis / "JPEGImages/480p", "v", labels)
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/val.txt").write_text("v\n")
    (davis / "Annotations/480p/v").mkdir(parents=True)
    for file in (out / "v").glob("*.png"):
        (davis / f"Annotations/480p/v/{file.name}").write_bytes(file.read_bytes())
    options: dict[str, Any] = {"predictions": out, "native_size": True, "report": 0, "device": "cpu"}
    found = evaluate(source=DavisVideos(davis, "val"), out_dir=tmp_path / "a", **options)
    for name in ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari", "ocb/mbo", "tracking/j_and_f"):
        assert found[name] == 1, name
    assert found["tracking/id_switches"] == 0


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (20, 34)])
def test_the_overlay_has_the_size_and_the_rate_of_the_video(tmp_path: Path, size: tuple[int, int]) -> None:
    labels = torch.zeros(60, *size, dtype=torch.int64)
    labels[:, :, 10:] = 1
    folder = written(tmp_path / "v", labels, fps=30000 / 1001)
    with av.open(str(folder / "overlay.mp4")) as file:
        (stream,) = file.streams.video
        assert (stream.height, stream.width, stream.codec_context.name) == (*size, "h264")
        assert stream.average_rate == Fraction(30000, 1001)
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(frames) == 60
    assert frames[0][:, 12:].mean((0, 1)) - frames[0][:, :9].mean((0, 1)) == pytest.approx([-90, 30, 80], abs=60)


def moving(count: int, size: tuple[int, int] = (48, 64)) -> list[Tensor]:
    """Pictures (H,W,3) of a smooth ground that moves, for which encoders like B-frames."""
    y, x = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    grounds = [120 + 60 * torch.sin((x + t) / 9) * torch.cos(y / 7) for t in range(count)]
    return [ground.to(torch.uint8)[..., None].expand(-1, -1, 3) for ground in grounds]


def film_at(path: Path, times: Sequence[float], rate: Fraction) -> tuple[list[float], float]:
    """When the packets of a film say that pictures of these times are shown, and how long it says to be."""
    film = FilmWriter(path, rate)
    for picture, at in zip(moving(len(times)), times, strict=True):
        film.add(picture, at)
    film.close()
    with av.open(str(path)) as file:
        (stream,) = file.streams.video
        shown = sorted(float(packet.pts * packet.time_base) for packet in file.demux(stream) if packet.size)
        return shown, float(stream.duration * stream.time_base)


def test_a_film_of_a_variable_rate_is_as_long_as_it_is(tmp_path: Path) -> None:
    """A video that becomes slow; its last picture is shown for the mean time of a picture."""
    times = [*(t / 25 for t in range(10)), 1, 1.4, 1.8, 2.2, 2.6]
    shown, length = film_at(tmp_path / "a.mp4", times, Fraction(14) / Fraction("2.6"))
    assert shown == pytest.approx(times, abs=1e-4)
    assert length == pytest.approx(2.6 + 2.6 / 14, abs=1e-3)


def test_pictures_of_equal_times_follow_each_other(tmp_path: Path) -> None:
    """2,000 frames a second with stamps in milliseconds, as Matroska has them."""
    shown, _ = film_at(tmp_path / "a.mp4", [0, 0.001, 0.001, 0.002, 0.002, 0.002, 0.001], Fraction(2000))
    assert shown == pytest.approx([tick / 90000 for tick in (0, 90, 91, 180, 181, 182, 183)])


def test_a_gif_on_request(tmp_path: Path) -> None:
    folder = written(tmp_path / "v", some_labels(), gif=True)
    with Image.open(folder / "overlay.gif") as image:
        assert (image.size, image.n_frames, image.info["duration"]) == ((WIDTH, HEIGHT), FRAMES, 40)


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    folder = written(tmp_path / "v", some_labels())
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def interrupted() -> None:
        with TrackFiles(folder, clip()) as files:
            files.add(*tracked(some_labels())[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
    written(folder, some_labels(2))
    assert len(list(folder.glob("*.png"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/frame.jpg").touch()
    with pytest.raises(ValueError, match=r"v exists and holds no tracks\.npz"):
        written(tmp_path / "v", some_labels())
    assert (tmp_path / "v/frame.jpg").exists()


def test_boxes_of_ids() -> None:
    ids = np.zeros((4, 6), np.int32)
    ids[1:3, 2:5] = 2
    ids[3, 0] = 7
    assert pixel_boxes(ids) == {2: (2, 1, 5, 3), 7: (0, 3, 1, 4)}


@given(st.lists(st.text(st.sampled_from("aA./\\:*~\0é \n"), max_size=6), max_size=6, unique=True))
@example(["a", "a/b", "A", "../a", "/a", "con", "a:b", "a_b", "..", ".", "", "x" * 300])
def test_names_of_folders_are_safe_and_differ(ids: list[str]) -> None:
    names = safe_names(ids)
    assert len(names) == len(ids)
    folded = [name.casefold() for name in names]
    assert len(set(folded)) == len(ids)
    for name in names:
        parts = name.split("/")
        assert all(part and not part.startswith(".") and not part.endswith((".", " ")) for part in parts)
        assert not set(name) & set('\\:*\0\n<>"|?')
        assert len(parts[-1].encode()) < 255
        assert not any(name.casefold().startswith(f"{other}/") for other in folded)


def test_usual_names_stay() -> None:
    assert safe_names(["toss/val/00001", "b c", "été"]) == ["toss/val/00001", "b c", "été"]
    assert safe_names(["a", "a/b"]) == ["a", "a-2/b"]
