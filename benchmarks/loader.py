"""What reading a clip costs: 6 of 24 frames against all 24, shuffled against in order, PyAV against decord; start-up.

Of large JPEGs with masks: everything that a sample can hold against what a model without boxes looks at.

Files are in the page cache. Pictures are 256x256, as in MOVi. Decoding every frame stands for loaders that take a clip
out of a decoded video.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from PIL import Image

from benchmarks.measure import Bench, Row, Work
from dias_video.data.folder import FolderVideos
from dias_video.data.loading import ClipDataset
from dias_video.data.movi import MoviVideos
from dias_video.data.source import VideoSource
from dias_video.data.tfrecord import masked_crc
from dias_video.data.transforms import ClipTransform
from dias_video.data.video_file import Decoder
from dias_video.data.ytvis import YouTubeVIS

VIDEOS, FRAMES, CLIP, SIDE = 8, 24, 6, 256
LARGE, OBJECTS = 720, 4  # pixels and instances of a video of YouTube-VIS
LONG, LENGTH, SIDES = 12, 150, (128, 256, 480)  # of the decoders' videos
MANY = 10_000


def run(bench: Bench) -> list[Row]:
    """One comparison a source, and how long it takes to open a large one."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DIAS_CACHE"] = str(folder / "cache")
        sources: dict[str, VideoSource] = {
            "PNG in TFRecords (movi)": MoviVideos(write_movi(folder / "movi", VIDEOS, SIDE, with_flow=True)),
            "JPEG (ytvis)": YouTubeVIS(write_ytvis(folder / "ytvis", VIDEOS, FRAMES, SIDE)),
            "mp4, one key frame (folder)": FolderVideos(write_mp4(folder / "long", VIDEOS, FRAMES, SIDE, FRAMES)),
            "mp4, key frame every 6 (folder)": FolderVideos(write_mp4(folder / "short", VIDEOS, FRAMES, SIDE, CLIP)),
        }
        for title, source in sources.items():
            rows += reading(bench, title, source)
        rows += needs(bench, write_ytvis(folder / "large", VIDEOS, CLIP, LARGE, objects=OBJECTS))
        for side in SIDES:
            rows += decoders(bench, write_mp4(folder / f"h264_{side}", LONG, LENGTH, side), side)
        write_movi(folder / "many", MANY, 8, with_flow=False)
        write_ytvis(folder / "many_clips", MANY, 10, 8, frames_on_disk=False)
        starts = {
            "movi": lambda: MoviVideos(folder / "many"),
            "ytvis": lambda: YouTubeVIS(folder / "many_clips"),
        }
        rows += bench.compare(f"opening {MANY:,} videos again", starts, MANY, "videos", counted=False)
    return rows


def reading(bench: Bench, title: str, source: VideoSource) -> list[Row]:
    """Clips of 6 frames by decoding everything, and ours, in order and shuffled."""
    clips = ClipDataset(source, CLIP)
    ordered = list(range(len(source)))
    shuffled = np.random.default_rng(0).permutation(ordered).tolist()
    contestants: dict[str, Work] = {
        "every frame decoded": lambda: [source.read(index, range(FRAMES)) for index in ordered],
        "the clip's frames": lambda: [clips[0, index] for index in ordered],
        "the clip's frames, shuffled": lambda: [clips[0, index] for index in shuffled],
    }
    return bench.compare(f"loader, {title}", contestants, VIDEOS, "clips", counted=False)


def needs(bench: Bench, root: Path) -> list[Row]:
    """Training clips with everything that the source has, and with what a model without boxes looks at."""
    size = (SIDE, SIDE)
    transform = ClipTransform(size, crop_area=(0.75, 1.0), flip=0.5)
    whole, smaller = YouTubeVIS(root), YouTubeVIS(root, at_least=size)
    clips = {
        "frames, masks and boxes": ClipDataset(whole, CLIP, transform=transform),
        "frames": ClipDataset(whole, CLIP, transform=transform, keys=("video",)),
        "frames, decoded at half their size": ClipDataset(smaller, CLIP, transform=transform, keys=("video",)),
    }
    contestants: dict[str, Work] = {
        name: lambda c=c: [c[0, index] for index in range(VIDEOS)] for name, c in clips.items()
    }
    title = f"loader, JPEG {LARGE} px, {OBJECTS} instances, to {SIDE} px"
    return bench.compare(title, contestants, VIDEOS, "clips", counted=False)


def decoders(bench: Bench, folder: Path, side: int) -> list[Row]:
    """Clips, and whole videos, by both decoders. There are more videos than readers, so each is opened each time."""
    names: tuple[Decoder, ...] = ("decord", "pyav") if find_spec("decord") else ("pyav",)
    sources = {name: FolderVideos(folder, decoder=name) for name in names}
    clips = {name: ClipDataset(source, CLIP) for name, source in sources.items()}
    reads: dict[str, dict[str, Work]] = {
        f"clips of {CLIP}": {name: lambda c=c: forget(c[0, i] for i in range(LONG)) for name, c in clips.items()},
        "whole videos": {
            name: lambda s=s: forget(s.read(i, range(LENGTH)) for i in range(LONG)) for name, s in sources.items()
        },
    }
    return [
        row
        for what, contestants in reads.items()
        for row in bench.compare(f"loader, H.264 {side} px, {what}", contestants, LONG, "reads", counted=False)
    ]


def forget(samples: Iterable[object]) -> None:
    """Take samples one by one. Keeping them would measure how the system gives out memory."""
    for _ in samples:
        pass


def pictures(seed: int, count: int, side: int) -> Iterator[np.ndarray]:
    """A disc that moves over a textured ground: compresses about as MOVi's frames do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    ground = (np.sin(x / 9) * np.cos(y / 7) * 60 + 120)[..., None] + rng.normal(0, 6, (side, side, 3))
    for t in range(count):
        picture = ground.copy()
        picture[(x - 30 - 6 * t) ** 2 + (y - side / 2) ** 2 < (side / 6) ** 2] = (200, 60, 40)
        yield picture.clip(0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str) -> bytes:
    """A picture (H,W,...) uint8 as the bytes of a file of that kind."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format=kind)
    return data.getvalue()


def write_movi(root: Path, count: int, side: int, with_flow: bool) -> Path:
    """A split of ``count`` videos in files of up to 1,000; small ones share their pictures."""
    root.mkdir()
    shards = -(-count // 1000)
    flow = struct.pack("<B", 0xFF) * 2 + b"\x03"  # 65535
    features: dict[str, list[bytes]] = {}
    for number in range(shards):
        with (root / f"movi_d-train.tfrecord-{number:05d}-of-{shards:05d}").open("wb") as file:
            for index in range(number * 1000, min(count, (number + 1) * 1000)):
                if not features or count == VIDEOS:
                    video = list(pictures(index, FRAMES, side))
                    features["video"] = [encoded(picture, "PNG") for picture in video]
                    features["segmentations"] = [
                        encoded((picture[..., 2] == 40).astype(np.uint8), "PNG") for picture in video
                    ]
                entries = {
                    key: delimited(1, b"".join(delimited(1, value) for value in values))
                    for key, values in features.items()
                }
                entries["metadata/video_name"] = delimited(1, delimited(1, str(index).encode()))
                entries["instances/bboxes/ragged_flat_values"] = delimited(
                    2, delimited(1, struct.pack("<4f", 0, 0, 1, 1))
                )
                for key, value in (("bboxes/ragged_row_lengths_0", 1), ("bbox_frames/ragged_flat_values", 0)):
                    entries[f"instances/{key}"] = delimited(3, delimited(1, bytes([value])))
                if with_flow:
                    entries["forward_flow"] = delimited(3, delimited(1, flow * (FRAMES * side * side * 2)))
                file.write(record(entries))
    return root


def record(entries: dict[str, bytes]) -> bytes:
    """A TFRecord of one ``tf.train.Example``."""
    named = [delimited(1, delimited(1, name.encode()) + delimited(2, value)) for name, value in entries.items()]
    data = delimited(1, b"".join(named))
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def delimited(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    size, length = bytearray(), len(data)
    while length >= 0x80:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + data


def write_ytvis(root: Path, count: int, frames: int, side: int, frames_on_disk: bool = True, objects: int = 1) -> Path:
    """A split of ``count`` clips whose instances are upright stripes that together fill half of the frame."""
    videos, annotations = [], []
    stripe = side * (side // (2 * objects))  # pixels, column after column
    for index in range(count):
        names = [f"clip{index}/{t:05d}.jpg" for t in range(frames)]
        videos.append({"id": index, "height": side, "width": side, "file_names": names})
        for number in range(objects):
            runs = [number * stripe, stripe, side * side - (number + 1) * stripe]
            masks = [{"size": [side, side], "counts": runs}] * frames
            annotations.append({"video_id": index, "segmentations": masks})
        folder = root / "train/JPEGImages" / (f"clip{index}" if frames_on_disk else "")
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in zip(names, pictures(index, frames, side) if frames_on_disk else (), strict=False):
            (root / "train/JPEGImages" / name).write_bytes(encoded(picture, "JPEG"))
    (root / "train/instances.json").write_text(json.dumps({"videos": videos, "annotations": annotations}))
    return root


def write_mp4(root: Path, count: int, frames: int, side: int, gop: int | None = None) -> Path:
    """Videos in H.264 with a key frame every ``gop`` frames; None: where x264 puts them, 250 at most."""
    root.mkdir()
    keys = {} if gop is None else {"g": str(gop), "keyint_min": str(gop)}
    for index in range(count):
        with av.open(str(root / f"{index}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=12, options=keys)
            stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
            for picture in pictures(index, frames, side):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
    return root
