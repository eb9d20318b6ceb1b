"""The index of a video file: the packet that each frame comes from, when it is shown, where decoding can begin."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from dias_video.data.video_stream import RECODE, REMEDY, UNKNOWN, Key, VideoStream, decoding, known, number_of
from dias_video.data.video_whole import is_cut_off

# Containers and codecs with one frame in each packet: there the packets alone tell the frames. All other files are
# decoded once from end to end.
CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "prores", "dnxhd", "png"})
PROBED = 8  # packets that are decoded in these files too, to check that
RESYNCING = frozenset({"mpegts"})  # a recording may start anywhere in these, so its first packets may be incomplete
DECLARING = frozenset(
    {"matroska,webm", "flv", "asf", "avi", "mxf"}
)  # containers whose header tells when the last stream ends
SHORTFALL = 0.01  # part of that time that may be missing, in addition to two frames
CUT_OFF = f"is cut off or damaged; {REMEDY}, or keep what can be decoded: ffmpeg -i <file> -c:v libx264 <new>.mp4"


class VideoIndex(NamedTuple):
    """The frames of a video file: those of a whole decode."""

    times: NDArray[np.float64]  # (N,) seconds since the first frame
    size: NDArray[np.int64]  # (2,) H, W as decoded
    turn: NDArray[np.int64]  # (4,) display matrix of the first frame: a pixel (x,y) is shown at (ax + cy, bx + dy)
    packets: NDArray[np.int64]  # (N,) number of the packet that a frame comes from; empty where that can't be told
    keys: NDArray[np.int64]  # (K,5) fields of ``Key``; empty where decoding can only begin at the beginning


class Playing(NamedTuple):
    """How a player shows the frames of a video file."""

    rate: Fraction | None  # frames a second, on average; None where the file does not tell
    pixel: Fraction  # width of a pixel divided by its height, as it is shown


class _Frame(NamedTuple):
    """A frame, in the order in which frames are shown."""

    packet: int  # number of the packet that it comes from
    key: bool


class _Shape(NamedTuple):
    """Shape of the first frame: (H,W), and (a,b,c,d) of its display matrix."""

    size: tuple[int, int] = (0, 0)
    turn: tuple[int, ...] = (1, 0, 0, 1)


class _Packet(NamedTuple):
    """What the container says about a packet."""

    pts: int
    dts: int
    pos: int
    key: bool
    shown: bool  # not cut away by an edit list


def index_video(path: Path) -> VideoIndex:
    """Index a video file by its packets where these are enough, else by decoding it.

    Raises:
        ValueError: the file is missing, is no video, is damaged or cut off, or has no frames or frames of several
            sizes.
    """
    stream = VideoStream(path)
    with decoding(path):
        packets = _list(path, stream)
        frames = _by_time(stream, packets)
        if frames:
            most = [number for number, packet in enumerate(packets, 1) if packet.shown][:PROBED][-1]
            decoded, shape = _decode(path, most)
            if decoded != [frame for frame in frames if frame.packet < most]:
                frames = []
        if not frames:
            frames, shape = _decode(path)
    if not frames:
        raise ValueError(f"{path} has no frames that can be decoded; {REMEDY}")
    numbers = [frame.packet for frame in frames]
    keys = [Key(at, n, *packets[n][:3]) for at, (n, key) in enumerate(frames) if key and packets[n].key]
    stamps = [packets[n].pts if n >= 0 else UNKNOWN for n in numbers]
    if -1 in numbers or len(set(numbers)) < len(numbers):  # the decoder does not tell, or makes several frames of one
        numbers, keys = [], []
    if len({(key.pts, key.pos) for key in keys}) < len(keys):
        keys = []
    times = _times(stream, stamps)
    stream.close()
    rows = np.array(keys, np.int64).reshape(-1, len(Key._fields))
    return VideoIndex(times, np.array(shape.size), np.array(shape.turn), np.array(numbers, np.int64), rows)


def playing(path: Path) -> Playing:
    """What a video file, which is no animated picture, declares about its rate and its pixels.

    Raises:
        ValueError: the file is missing, or is no video.
    """
    stream = VideoStream(path)
    rate, pixel = stream.stream.average_rate, stream.stream.sample_aspect_ratio or Fraction(1)
    stream.close()
    with decoding(path):
        a, b, c, d = _decode(path, 1)[1].turn
    return Playing(rate or None, 1 / pixel if abs(b) + abs(c) > abs(a) + abs(d) else pixel)


def _list(path: Path, stream: VideoStream) -> list[_Packet]:
    """All packets of the stream of pictures.

    Raises:
        ValueError: the file is cut off: it is too short, ends within a packet, or ends before the time that its header
            tells.
    """
    pictures, container = stream.stream, stream.container
    packets: list[_Packet] = []
    if is_cut_off(path, container.format.name):
        raise ValueError(f"{path} {CUT_OFF}")
    end = 0.0  # of the longest stream, in seconds
    broken = False
    for packet in container.demux():
        if packet.is_corrupt and container.format.name not in RESYNCING:
            raise ValueError(f"{path} {CUT_OFF}")
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is pictures and packet.size:
            numbers = (known(packet.pts), known(packet.dts), known(packet.pos))
            packets.append(_Packet(*numbers, packet.is_keyframe, not packet.is_discard))
            broken = packet.is_corrupt
    if broken:
        raise ValueError(f"{path} {CUT_OFF}")
    declared = (container.duration or 0) / 1e6  # 0 where it was recorded live
    missing = declared * (1 - SHORTFALL) - end - 2 / float(pictures.average_rate or 25)
    if container.format.name in DECLARING and packets and missing > 0:
        raise ValueError(f"{path} ends after {end:.1f} of {declared:.1f} seconds (half downloaded?); {REMEDY}")
    return packets


def _by_time(stream: VideoStream, packets: Sequence[_Packet]) -> list[_Frame]:
    """Frames in the order of their time stamps; an empty list where the packets are not enough."""
    shown = sorted((packet.pts, number) for number, packet in enumerate(packets) if packet.shown)
    if stream.container.format.name not in CONTAINERS or stream.codec not in CODECS or not shown:
        return []
    times = [pts for pts, _ in shown]
    if UNKNOWN in times or len(set(times)) < len(times):
        return []
    if not packets[0].key or times[0] < packets[0].pts:  # what is shown before the first key frame is left out
        return []
    steps = np.diff(times) if len(times) > 1 else np.zeros(1)
    if np.ptp(steps) > 1:  # more than rounding: where packets are lost, some decoders leave out others too
        return []
    return [_Frame(number, packets[number].key) for _, number in shown]


def _decode(path: Path, most: int | None = None) -> tuple[list[_Frame], _Shape]:
    """Frames that the first ``most`` packets decode to, and their shape.

    Raises:
        ValueError: the size changes, or the end is damaged.
    """
    stream = VideoStream(path)
    found: list[_Frame] = []
    shape, last, broken = _Shape(), -1, False
    for frame in stream.frames(islice(stream.packets(), most)):
        if not found:
            matrix: Any = frame.side_data.get("DISPLAYMATRIX")
            turn = shape.turn if matrix is None else np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist()
            shape = _Shape((frame.height, frame.width), tuple(turn))
        check_size(path, len(found), frame, shape.size)
        found.append(_Frame(number_of(frame), frame.key_frame))
        if found[-1].packet >= last:
            last, broken = found[-1].packet, bool(frame.is_corrupt)
    stream.close()
    if broken and most is None:  # the last packet; earlier ones may lack their beginning, or refer to lost packets
        raise ValueError(f"{path} {CUT_OFF}")
    return found, shape


def check_size(path: Path, number: int, frame: av.VideoFrame, size: tuple[int, int]) -> None:
    """Refuse a video whose size (H,W) changes.

    Raises:
        ValueError: the size changes; the message names the frame.
    """
    if (frame.height, frame.width) != size:
        sizes = f"from {size[1]}x{size[0]} to {frame.width}x{frame.height}"
        raise ValueError(f"{path} changes {sizes} at frame {number}; {RECODE}")


def _times(stream: VideoStream, stamps: Sequence[int]) -> NDArray[np.float64]:
    """Seconds since the first frame (N,), by the time stamps if they rise with every frame, else by the frame rate."""
    if UNKNOWN in stamps or any(after < before for before, after in pairwise(stamps)):
        return np.arange(len(stamps)) / float(stream.stream.average_rate or 25)
    return (np.array(stamps) - stamps[0]) * float(stream.stream.time_base or 1)
