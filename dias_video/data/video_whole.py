"""Checks whether a video file is complete, by the length in bytes that its container tells.

FFmpeg reads what is left of a file that was cut off; in these containers it often gives no warning.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

HEAD = 1 << 16  # bytes in which a header begins
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # File Properties Object
LIVE = 1  # flag of that object: its numbers are invalid
EBML, SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
MXF_HEADER = bytes.fromhex("060e2b34020501010d0102010102")  # begins the header's partition pack, whose key has 16 bytes
SYNC = b"\x47"  # begins every packet of a transport stream
TS_PACKETS = {188: 0, 192: 4, 204: 0}  # size of a packet in bytes: bytes before its sync byte
SECTOR = 2048  # bytes of a disc's sector; program streams are padded to it
OGG_PAGE, OGG_END = b"OggS", 4  # the start of a page, and the flag of a stream's last page


def is_cut_off(path: Path, container: str) -> bool:
    """Whether bytes are missing at the end of a file; False where its container (FFmpeg's name) does not tell."""
    check = CHECKS.get(container)
    if check is None:
        return False
    with path.open("rb") as file:
        try:
            return check(file, os.fstat(file.fileno()).st_size)
        except (struct.error, IndexError):  # the file ends within its header
            return True


def _asf(file: BinaryIO, size: int) -> bool:
    head = file.read(HEAD)
    at = head.find(ASF_FILE)
    (length,), (flags,) = struct.unpack_from("<Q", head, at + 40), struct.unpack_from("<I", head, at + 88)
    return at >= 0 and not flags & LIVE and length > size


def _avi(file: BinaryIO, size: int) -> bool:
    """Large files are several chunks, one after another."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            break
        end += 8 + length
        if end > size:
            return True
        end += length % 2
    return False


def _matroska(file: BinaryIO, size: int) -> bool:
    """Compares the segment, which is everything after a short header; live recordings have no length (all ones)."""
    head = file.read(HEAD)
    if head[:4] != EBML:
        return False
    at, _ = _ebml_length(head, 4)
    if head[at : at + 4] != SEGMENT:
        return False
    end, unknown = _ebml_length(head, at + 4)
    return not unknown and end > size


def _ebml_length(head: bytes, at: int) -> tuple[int, bool]:
    """Where an element ends whose length stands at ``at``; and whether its length is unknown."""
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") - (1 << 7 * width)
    return at + width + value, value == (1 << 7 * width) - 1


def _mp4(file: BinaryIO, size: int) -> bool:
    """Boxes follow each other. Length 0 means up to the end of the file, 1 that the length has 64 bits."""
    end = 0
    while end + 16 <= size:
        file.seek(end)
        short, _, long = struct.unpack(">I4sQ", file.read(16))
        length = long if short == 1 else short
        if length < 8:
            return False
        end += length
    return end > size


def _mxf(file: BinaryIO, size: int) -> bool:
    """The header tells the place of the footer; 0 where it was not known yet."""
    head = file.read(HEAD + 64)
    at = head.find(MXF_HEADER)
    if at < 0:
        return False
    width = head[at + 16] & 0x7F if head[at + 16] & 0x80 else 0  # of the pack's length, behind its first byte
    (footer,) = struct.unpack_from(">Q", head, at + 17 + width + 24)
    return at + footer >= size


def _mpegts(file: BinaryIO, size: int) -> bool:
    """The last packet may be incomplete. The first may be too, since a recording may start anywhere."""
    head = file.read(HEAD)
    for length, before in TS_PACKETS.items():
        for first in range(length):
            syncs = head[first::length][:5]
            if len(syncs) > 1 and not syncs.strip(SYNC):
                file.seek(size - length + before)
                return (size - first + before) % length > 0 or file.read(1) != SYNC
    return False


def _mpeg(file: BinaryIO, size: int) -> bool:
    """No length is stored, but a download that was not finished ends with more zeros than fill a sector."""
    file.seek(max(0, size - SECTOR))
    return not file.read().strip(b"\0")


def _ogg(file: BinaryIO, size: int) -> bool:
    """The last page (at most 65,307 bytes) must be complete and have the flag of a last page."""
    file.seek(max(0, size - HEAD))
    tail = file.read()
    at = tail.rfind(OGG_PAGE)
    segments = tail[at + 27 : at + 27 + tail[at + 26]]
    return at < 0 or at + 27 + len(segments) + sum(segments) > len(tail) or not tail[at + 5] & OGG_END


CHECKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "asf": _asf,
    "avi": _avi,
    "matroska,webm": _matroska,
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4,
    "mpeg": _mpeg,
    "mpegts": _mpegts,
    "mxf": _mxf,
    "ogg": _ogg,
}
