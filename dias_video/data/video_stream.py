"""The pictures of a video file through PyAV: its packets, and the frames that they decode to.

A packet is what the file stores in one piece, nearly always one coded frame. Packets are stored in the order of
decoding, which can differ from the order in which frames are shown. To know which packet a frame comes from, each
packet gets its number in the file in place of its time stamp, and the decoder passes this on to the frame. Time stamps
themselves can be missing, or be equal for two frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.stream import Disposition

REMEDY = "download it again or remove it"
RECODE = "encode it anew: ffmpeg -i <file> -c:v libx264 <new>.mp4"
TEXT: Any = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}  # titles may be Latin-1
UNKNOWN = -(2**63)  # a time stamp that the file does not tell


class Key(NamedTuple):
    """A key frame: decoding can begin at its packet."""

    frame: int  # its number among the frames
    packet: int  # its number among the packets
    pts: int  # when it is shown, in units of the stream
    dts: int  # when it is decoded
    pos: int  # where it lies in the file, in bytes


class VideoStream:
    """The first stream of pictures in a file, decoded by one thread; a cover picture does not count.

    Raises:
        ValueError: the file is missing, is no video, or is in a codec without decoder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"{path} is missing; check its path")
        try:
            # `file:` because a name may hold a colon; only files, because some formats refer to network addresses.
            self.container = av.open(f"file:{path}", container_options={"protocol_whitelist": "file"}, **TEXT)
        except av.FFmpegError as error:
            raise ValueError(f"{path} is not a readable video (half downloaded?); {REMEDY}") from error
        streams = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(s.type for s in self.container.streams) or "nothing"
            raise ValueError(f"{path} holds no pictures that can be decoded, only {kinds}; remove it")
        self.stream = streams[0]
        if self.stream.codec_context is None:
            raise ValueError(f"{path} has a codec that can't be decoded here; {RECODE}")
        self.stream.codec_context.thread_count = 1

    @property
    def codec(self) -> str:
        """The codec's name, which does not depend on the decoder."""
        return self.stream.codec_context.codec.canonical_name

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def packets(self) -> Iterator[av.Packet]:
        """The packets that have not been read yet."""
        return (packet for packet in self.container.demux(self.stream) if packet.size)

    def packets_from(self, key: Key) -> Iterator[av.Packet] | None:
        """The packets from a key frame on; None where the container can't find the key frame."""
        for time in (key.pts, key.dts):
            if time == UNKNOWN:
                continue
            self.container.seek(time, stream=self.stream)
            packets = self.packets()
            for packet in packets:
                if packet.is_keyframe and place(packet) == (key.pts, key.pos):
                    return chain([packet], packets)
                if packet.is_keyframe and place(packet)[1] > key.pos:
                    break
        return None

    def frames(self, packets: Iterable[av.Packet], first: int = 0) -> Iterator[av.VideoFrame]:
        """The frames that packets decode to; ``first`` is the number of the first packet (see ``number_of``)."""
        for number, packet in enumerate(packets, first):
            packet.pts = number
            yield from self.stream.decode(packet)
        yield from self.stream.decode(None)


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn any error of FFmpeg inside the block into one sentence that names the file.

    Raises:
        ValueError: the file can't be decoded.
    """
    try:
        yield
    except Exception as error:  # on damaged files FFmpeg and PyAV raise errors of every kind
        if isinstance(error, (ValueError, MemoryError)) and not isinstance(error, av.FFmpegError):
            raise  # a sentence already, or frames for which there is no memory
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"{path} can't be decoded, it may be cut off ({reason}); {REMEDY}") from error


def number_of(frame: av.VideoFrame) -> int:
    """Number of the packet that a frame comes from; -1 where the decoder does not pass it on."""
    return -1 if frame.pts is None else frame.pts


def place(packet: av.Packet) -> tuple[int, int]:
    """Time stamp and position of a packet: they identify it after any seek."""
    return known(packet.pts), known(packet.pos)


def known(value: int | None) -> int:
    """A time stamp or position of a packet as an integer; ``UNKNOWN`` where the file has none."""
    return UNKNOWN if value is None else value
