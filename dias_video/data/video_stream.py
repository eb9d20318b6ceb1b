"""The pictures of a video file through PyAV: its packets, and the frames that they decode to.

A packet is what the file stores in one piece, nearly always one coded frame. Packets lie in the order of decoding,
frames are shown in another. Which packet a frame comes from is told by the packet's number in the file, which the
decoder hands on in place of a time stamp: those can be missing, and be the same for two frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    """The first stream of pictures in a file, decoded by one thread; a cover is none.

    Raises:
        ValueError: the file is missing, is no video, or is in a codec without decoder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"{path} is missing; check data.root")
        try:
            # `file:` because a name may hold a colon, and nothing but files because some formats name other addresses.
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
        """The codec's name, whichever decoder is used for it."""
        return self.stream.codec_context.codec.canonical_name

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def packets(self) -> Iterator[av.Packet]:
        """The packets that are still to be read."""
        return (packet for packet in self.container.demux(self.stream) if packet.size)

    def packets_from(self, key: Key) -> Iterator[av.Packet] | None:
        """The packets from that of a key frame on; None where the container does not find it."""
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
        """Decode packets, the first of which has the number ``first``; see ``number_of``."""
        for number, packet in enumerate(packets, first):
            packet.pts = number
            yield from self.stream.decode(packet)
        yield from self.stream.decode(None)


def number_of(frame: av.VideoFrame) -> int:
    """Number of the packet that a frame comes from; -1 where the decoder does not tell."""
    return -1 if frame.pts is None else frame.pts


def place(packet: av.Packet) -> tuple[int, int]:
    """What tells a packet from others after any seek: time stamp and position."""
    return known(packet.pts), known(packet.pos)


def known(value: int | None) -> int:
    """A number of a packet as a plain integer."""
    return UNKNOWN if value is None else value
