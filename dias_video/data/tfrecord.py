"""TFRecord files and the ``tf.train.Example`` messages in them, read without TensorFlow.

A record is its length (8 bytes, little endian), a checksum of the length, the data, and a checksum of the data;
checksums are CRC-32C, rotated and shifted by a constant. The data is a protobuf message: a map from feature names to a
list of byte strings, floats or integers. Here a message is walked by its lengths, so that features that nobody asked
for cost no more than the bytes that say how long they are.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REMEDY = "download it again"
Buffer = bytes | memoryview | mmap.mmap


class Record(NamedTuple):
    """Where a record's data lies in its file."""

    start: int
    length: int
    checksum: int  # masked CRC-32C


class Feature(NamedTuple):
    """Where the list of a feature lies in its buffer."""

    kind: int  # BYTES, FLOATS or INTEGERS
    start: int
    stop: int


BYTES, FLOATS, INTEGERS = 1, 2, 3
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types


def records(file: Path, buffer: Buffer, verify: bool = True) -> Iterator[Record]:
    """The records of a file, given its content; with ``verify`` the checksum of the data is compared too.

    Raises:
        ValueError: cut off, or a checksum is wrong.
    """
    at, number = 0, 0
    while at < len(buffer):
        head = buffer[at : at + 12]
        length = int.from_bytes(head[:8], "little")
        if len(head) < 12 or masked(crc32c(head[:8])) != int.from_bytes(head[8:], "little"):
            state = "is cut off" if len(head) < 12 else "has a wrong checksum"
            raise ValueError(f"{file} {state} at record {number} (byte {at}); {REMEDY}")
        if at + length + 16 > len(buffer):
            raise ValueError(f"{file} is cut off in record {number} (byte {at}); {REMEDY}")
        end = at + 12 + length
        record = Record(at + 12, length, int.from_bytes(buffer[end : end + 4], "little"))
        if verify and masked(crc32c(memoryview(buffer)[record.start : end])) != record.checksum:
            raise ValueError(f"{file} has a wrong checksum in record {number} (byte {at}); {REMEDY}")
        yield record
        at, number = end + 4, number + 1


def example(buffer: Buffer, start: int, stop: int) -> dict[str, Feature]:
    """The features of the ``tf.train.Example`` in ``buffer[start:stop]``: where each lies.

    Raises:
        ValueError: the bytes are no such message.
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
            for kind, _, list_start, list_stop in fields(buffer, *entry.get(2, (0, 0))):
                found[name] = Feature(kind, list_start, list_stop)
    return found


def fields(buffer: Buffer, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a protobuf message: number, wire type, and where the value starts and stops.

    Raises:
        ValueError: the message contradicts itself.
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
    """An unsigned integer in groups of seven bits, and where the next byte is.

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


def byte_strings(buffer: Buffer, start: int, stop: int) -> list[tuple[int, int]]:
    """Where each byte string of a list lies."""
    return [(a, b) for number, _, a, b in fields(buffer, start, stop) if number == 1]


def floats(buffer: Buffer, start: int, stop: int) -> NDArray[np.float32]:
    """The numbers of a list of floats."""
    parts = [np.frombuffer(bytes(buffer[a:b]), "<f4") for _, _, a, b in fields(buffer, start, stop)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def integers(buffer: Buffer, start: int, stop: int) -> NDArray[np.int64]:
    """The numbers of a list of integers, packed or one a field."""
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


# CRC-32C (Castagnoli). The checksum is linear over the bits: a long text is cut into lanes of equal length whose
# checksums are computed side by side and then joined pairwise. Zeros in front of the text change nothing while the
# register starts at zero, so the first lane is filled up with them; the customary start value is added afterwards.

POLYNOMIAL = np.uint32(0x82F63B78)  # bits reversed
LANES = 32768
SHORT = 512  # bytes up to which the plain loop is faster


def masked(crc: int) -> int:
    """The form in which TFRecord stores a checksum."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: Buffer) -> int:
    """CRC-32C of some bytes."""
    if len(data) <= SHORT:
        bytewise, crc = _byte_table(), 0xFFFFFFFF
        for byte in bytes(data):
            crc = bytewise[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    size = len(data)
    width = 1 << max(1, (size // LANES).bit_length())  # bytes a lane, at least 2
    num_lanes = -(-size // width)
    padded = np.zeros(num_lanes * width, np.uint8)
    padded[-size:] = np.frombuffer(data, np.uint8)
    words = np.ascontiguousarray(padded.view("<u2").reshape(num_lanes, -1).T)  # (words, lanes)
    table, crcs, place = _word_table(), np.zeros(num_lanes, np.uint32), np.empty(num_lanes, np.uint16)
    low, high = crcs.view("<u2")[0::2], crcs.view("<u2")[1::2]
    for word in words:
        np.bitwise_xor(low, word, out=place)
        rest = high.astype(np.uint32)
        np.take(table, place, out=crcs, mode="clip")
        crcs ^= rest
    level = width.bit_length() - 1
    while len(crcs) > 1:
        if len(crcs) % 2:
            crcs = np.concatenate([np.zeros(1, np.uint32), crcs])
        crcs = _apply(_shift(level), crcs[0::2]) ^ crcs[1::2]
        level += 1
    start = np.array([0xFFFFFFFF], np.uint32)
    for level in range(size.bit_length()):
        if size >> level & 1:
            start = _apply(_shift(level), start)
    return int(crcs[0] ^ start[0]) ^ 0xFFFFFFFF


def _stepped(values: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """The register after so many zero bits."""
    for _ in range(bits):
        values = np.where(values & 1, (values >> np.uint32(1)) ^ POLYNOMIAL, values >> np.uint32(1))
    return values


@lru_cache
def _byte_table() -> list[int]:
    return _stepped(np.arange(256, dtype=np.uint32), 8).tolist()


@lru_cache
def _word_table() -> NDArray[np.uint32]:
    return _stepped(np.arange(65536, dtype=np.uint32), 16)


@lru_cache(maxsize=64)
def _shift(level: int) -> NDArray[np.uint32]:
    """What 2**level zero bytes make of each of the register's bits (32,)."""
    if level == 0:
        return _stepped(np.uint32(1) << np.arange(32, dtype=np.uint32), 8)
    half = _shift(level - 1)
    return _apply(half, half)


def _apply(shift: NDArray[np.uint32], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    out = np.zeros_like(values)
    for bit in range(32):
        out ^= np.where(values >> np.uint32(bit) & np.uint32(1), shift[bit], np.uint32(0))
    return out
