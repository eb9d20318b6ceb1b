"""TFRecord files and the ``tf.train.Example`` messages in them, read without TensorFlow.

A record is its length (8 bytes, little endian), a checksum of the length, the data, and a checksum of the data;
checksums are CRC-32C, rotated and shifted by a constant. The data is a protobuf message: a map from feature names to a
list of byte strings, floats or integers. This module follows the lengths in a message, so a feature that is not needed
costs only the bytes that hold its length.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

REMEDY = "download it again"
Buffer = bytes | memoryview | mmap.mmap
Span = tuple[int, int]  # where something begins and ends in a buffer
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types


def records(file: Path, buffer: Buffer, verify: bool = True) -> Iterator[Span]:
    """Where the data of each record lies in a file, given its content.

    With ``verify`` the checksums of the data are compared too, not only those of lengths.

    Raises:
        ValueError: the file is cut off, or a checksum is wrong.
    """
    at, number = 0, 0
    while at < len(buffer):
        head = buffer[at : at + 12]
        length = int.from_bytes(head[:8], "little")
        if len(head) < 12 or masked_crc(bytes(head[:8])) != int.from_bytes(head[8:], "little"):
            state = "is cut off" if len(head) < 12 else "has a wrong checksum"
            raise ValueError(f"{file} {state} at record {number} (byte {at}); {REMEDY}")
        start, end = at + 12, at + 12 + length
        if end + 4 > len(buffer):
            raise ValueError(f"{file} is cut off in record {number} (byte {at}); {REMEDY}")
        if verify and masked_crc(bytes(buffer[start:end])) != int.from_bytes(buffer[end : end + 4], "little"):
            raise ValueError(f"{file} has a wrong checksum in record {number} (byte {at}); {REMEDY}")
        yield start, end
        at, number = end + 4, number + 1


def example(buffer: Buffer, start: int, stop: int) -> dict[str, Span]:
    """Where the list of each feature lies, of the ``tf.train.Example`` in ``buffer[start:stop]``.

    Raises:
        ValueError: the bytes are not such a message.
    """
    found = {}
    for outer, _, features_start, features_stop in fields(buffer, start, stop):
        if outer != 1:
            continue
        for _, _, entry_start, entry_stop in fields(buffer, features_start, features_stop):
            entry = {number: (a, b) for number, _, a, b in fields(buffer, entry_start, entry_stop)}
            if 1 not in entry:
                raise ValueError("a feature has no name")
            name = bytes(buffer[slice(*entry[1])]).decode()
            for _, _, list_start, list_stop in fields(buffer, *entry.get(2, (0, 0))):
                found[name] = list_start, list_stop
    return found


def fields(buffer: Buffer, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a protobuf message: number, wire type, and where the value starts and stops.

    Raises:
        ValueError: the message is malformed.
    """
    at = start
    while at < stop:
        tag, at = varint(buffer, at)
        wire = tag & 7
        if wire == DELIMITED:
            length, at = varint(buffer, at)
            end = at + length
        elif wire == VARINT:
            _, end = varint(buffer, at)
        elif wire in (FIXED64, FIXED32):
            end = at + (8 if wire == FIXED64 else 4)
        else:
            raise ValueError(f"unknown wire type {wire}")
        if end > stop:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, wire, at, end
        at = end


def varint(buffer: Buffer, at: int) -> tuple[int, int]:
    """An unsigned integer in groups of seven bits, and the place of the byte after it.

    Raises:
        ValueError: it never ends.
    """
    value = shift = 0
    while at < len(buffer) and shift < 70:
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("an integer does not end")


def byte_strings(buffer: Buffer, start: int, stop: int) -> list[Span]:
    """Where each byte string of a list lies."""
    return [(a, b) for number, _, a, b in fields(buffer, start, stop) if number == 1]


def floats(buffer: Buffer, start: int, stop: int) -> NDArray[np.float32]:
    """The numbers of a list of floats."""
    parts = [np.frombuffer(bytes(buffer[a:b]), "<f4") for _, _, a, b in fields(buffer, start, stop)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def integers(buffer: Buffer, start: int, stop: int) -> NDArray[np.int64]:
    """The numbers of a list of integers, stored together or one in each field."""
    parts = [decode_varints(np.frombuffer(bytes(buffer[a:b]), np.uint8)) for _, _, a, b in fields(buffer, start, stop)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def decode_varints(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Consecutive integers in groups of seven bits (int64, two's complement)."""
    last = np.flatnonzero(data < 0x80)
    first = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)
    lengths = last - first + 1
    values = np.zeros(len(last), np.uint64)
    for group in range(int(lengths.max(initial=0))):
        longer = lengths > group
        values[longer] |= (data[first[longer] + group].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * group)
    return values.view(np.int64)


def masked_crc(data: bytes) -> int:
    """CRC-32C in the form in which TFRecord stores it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
