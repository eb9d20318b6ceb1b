"""Video files in many codecs and containers whose frames carry their number in the picture."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

HEIGHT, WIDTH, FRAMES = 64, 96, 50
BITS = 8  # bars in the lower half, white for 1; bit 0 at the left


def pictures(count: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Iterator[NDArray[np.uint8]]:
    """Frames (H,W,3): noise over a pattern that moves, and the frame's number as bars."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        ground = 120 + 60 * np.sin((x + number) / 9) * np.cos(y / 7) + rng.normal(0, 5, (height, width))
        for bit in range(BITS):
            ground[height // 2 :, bit * width // BITS : (bit + 1) * width // BITS] = 255 * (number >> bit & 1)
        yield np.repeat(ground.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def number_shown(picture: NDArray[np.uint8]) -> int:
    """The number that the bars of a frame (H,W,3) tell."""
    height, width = picture.shape[:2]
    bars = [picture[height * 3 // 4, (2 * bit + 1) * width // (2 * BITS)].mean() > 128 for bit in range(BITS)]
    return sum(bar << bit for bit, bar in enumerate(bars))


@contextmanager
def usual_priority() -> Iterator[None]:
    """Undo that SVT-AV1, run by root, gives the thread that encodes real-time priority.

    The processes of later tests inherited it, and two of them on one core then waited for each other forever.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@usual_priority()
def write(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    count: int = FRAMES,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    gop: int | None = 12,
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    times: Callable[[int], int] | None = None,
    before: Callable[[Any, Any], None] | None = None,
) -> Path:
    """Write a video at 25 frames a second; skips the test where this build of PyAV lacks the encoder."""
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"no encoder {codec} here")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if gop is not None:
            stream.gop_size = gop
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if before is not None:
            before(file, stream)
        for number, picture in enumerate(pictures(count, *size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else times(number)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def copy(source: Path, path: Path, keep: Callable[[int], bool] = lambda number: True, shift: float = 0) -> Path:
    """The packets of a file in another, without those that are not kept, ``shift`` seconds later.

    In mp4 and mov what would be shown before 0 is cut away by an edit list.
    """
    with av.open(str(source)) as file, av.open(str(path), "w") as out:
        stream = file.streams.video[0]
        target = out.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in file.demux(stream) if packet.size):
            if keep(number):
                later = round(shift / packet.time_base)
                packet.pts, packet.stream = packet.pts + later, target
                packet.dts = None if packet.dts is None else packet.dts + later
                out.mux(packet)
    return path


def with_sound(seconds: float) -> Callable[[Any, Any], None]:
    """For ``write``: a second stream, of silence."""

    def add(file: Any, stream: Any) -> None:
        sound = file.add_stream("aac", rate=16000, layout="mono")
        for number in range(int(seconds * 16000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 16000, number * 1024
            file.mux(sound.encode(frame))
        file.mux(sound.encode())

    return add


def edit(source: Path, path: Path, parts: list[tuple[int, int]], unit: int = 512, first: int = 0) -> Path:
    """A copy of an mp4 that PyAV wrote whose edit list shows ``parts``: (first frame, number of frames).

    Args:
        unit: how long a frame is, in 1/12800 s.
        first: time stamp of the first frame.
    """

    def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
        at = 0
        while at < len(data):
            size, kind = struct.unpack_from(">I4s", data, at)
            yield kind, data[at + 8 : at + size]
            at += size

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I4s", len(data) + 8, kind) + data

    def rewritten(data: bytes) -> bytes:
        out = b""
        for kind, inner in boxes(data):
            if kind in (b"moov", b"trak"):
                inner = rewritten(inner)
            if kind == b"edts":  # durations are in milliseconds, starts in units of the track
                entries = [struct.pack(">iihh", count * 40, first + start * unit, 1, 0) for start, count in parts]
                inner = box(b"elst", struct.pack(">II", 0, len(parts)) + b"".join(entries))
            out += box(kind, inner)
        return out

    path.write_bytes(rewritten(source.read_bytes()))
    return path
