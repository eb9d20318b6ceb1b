"""A small MOVi-like data set of TFRecords for tests, written from the format's description."""

import io
import json
import struct

import numpy as np
from PIL import Image

NUM_FRAMES, HEIGHT, WIDTH = 5, 12, 20


def one_byte(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


TABLE = [one_byte(value) for value in range(256)]


def crc32c(data: bytes) -> int:
    """CRC-32C, one byte at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def delimited(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict) -> bytes:
    """Byte strings, floats (numpy float32) and integers (anything else) under their names."""
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            content = delimited(1, b"".join(delimited(1, value) for value in values))
        elif isinstance(values, np.ndarray) and values.dtype == np.float32:
            content = delimited(2, delimited(1, values.astype("<f4").tobytes()))
        else:
            content = delimited(3, delimited(1, b"".join(varint(int(value)) for value in values)))
        entries += delimited(1, delimited(1, name.encode()) + delimited(2, content))
    return delimited(1, entries)


def png(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(array).save(data, format="PNG")
    return data.getvalue()


def scene(seed: int) -> dict:
    """Arrays of one video: 3 instances, the second hidden in frame 2."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), np.uint8)
    for t in range(NUM_FRAMES):
        masks[t, 1:4, t : t + 5] = 1
        masks[t, 5:9, 10:17] = 2 if t != 2 else 0
        masks[t, 8:11, 0:3] = 3
    return {
        "video": rng.integers(0, 255, (NUM_FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8),
        "masks": masks,
        "flow": rng.integers(0, 65535, (NUM_FRAMES, HEIGHT, WIDTH, 2)),
        "depth": rng.integers(0, 65535, (NUM_FRAMES, HEIGHT, WIDTH), dtype=np.uint16),
    }


def movi_features(name: str, arrays: dict) -> dict:
    """What TensorFlow Datasets stores of a scene."""
    boxes, frames, lengths = [], [], []
    for instance in (1, 2, 3):
        seen = [t for t in range(NUM_FRAMES) if (arrays["masks"][t] == instance).any()]
        for t in seen:
            y, x = np.nonzero(arrays["masks"][t] == instance)
            boxes += [y.min() / HEIGHT, x.min() / WIDTH, (y.max() + 1) / HEIGHT, (x.max() + 1) / WIDTH]
        frames += seen
        lengths.append(len(seen))
    return {
        "background": [b"room"],
        "forward_flow": arrays["flow"].ravel(),
        "metadata/video_name": [name.encode()],
        "metadata/forward_flow_range": np.float32([-4, 6]),
        "metadata/depth_range": np.float32([1, 9]),
        "instances/bboxes/ragged_flat_values": np.float32(boxes),
        "instances/bboxes/ragged_row_lengths_0": lengths,
        "instances/bbox_frames/ragged_flat_values": frames,
        "instances/bbox_frames/ragged_row_lengths_0": lengths,
        "video": [png(frame) for frame in arrays["video"]],
        "segmentations": [png(frame) for frame in arrays["masks"]],
        "depth": [png(frame) for frame in arrays["depth"]],
    }


def write_movi(root, shards=((0, 1), (2,)), split="train", change=None):
    """Write scenes as shards; ``change`` may alter the features of a scene. Returns the files."""
    root.mkdir(parents=True, exist_ok=True)
    files = []
    for number, seeds in enumerate(shards):
        content = b""
        for seed in seeds:
            features = movi_features(f"scene_{seed}", scene(seed))
            content += record(example(change(features) if change else features))
        files.append(root / f"movi_d-{split}.tfrecord-{number:05d}-of-{len(shards):05d}")
        files[-1].write_bytes(content)
    info = {"splits": [{"name": split, "shardLengths": [str(len(seeds)) for seeds in shards]}]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    return files
