"""Writes a simulated data set on all cores; an interrupted run can be continued.

A clip is ``<root>/<variant>/<split>/<clip>.mp4``, ``.masks.zip`` (an indexed PNG for each frame) and ``.json``.
``<root>/<variant>/meta.json`` has the settings. A clip's json is written last, so a clip with a json is complete.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import io
import json
import multiprocessing
import os
import signal
import time
import zipfile
from collections.abc import Generator
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Protocol

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dias_video.simulate.scene import Clip
from dias_video.stores.files import read_json, replace_file

FORMAT = 1
MIN_SIDE, MAX_SIDE = 16, 2048
CRF = 12  # visually close to lossless
X264 = "no-mbtree=1"  # with mbtree, x264 gives different bytes for the same small pictures from run to run
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class Variant(Protocol):
    """The interface of variants, which make clips: a frozen dataclass whose fields are its settings."""

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    takes: ClassVar[int]  # number of successive clips made from one scene; they share their random numbers
    size: Any  # (H, W)
    num_frames: int
    fps: float

    def clip(self, rng: np.random.Generator, index: int) -> Clip:
        """Clip ``index`` of a split, from the random numbers of its scene."""
        ...


def clip_generator(variant: Variant, split: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of a clip's scene: a function of variant, split, seed and index; splits never share scenes."""
    name = int.from_bytes(variant.name.encode(), "big")
    return np.random.default_rng(
        np.random.SeedSequence([seed, name, variant.splits.index(split), index // variant.takes])
    )


def write_dataset(
    variant: Variant, root: str | Path, split: str, num_videos: int, seed: int = 0, workers: int | None = None
) -> Path:
    """Write the missing ones of clips 0..num_videos-1 of a split; returns the split's folder.

    ``workers`` is the number of processes; by default the number of cores that this process may use.

    Raises:
        ValueError: a setting is invalid, or differs from that of existing clips.
        OSError: a file could not be written, or a process was killed.
    """
    _check(variant, split, num_videos, seed, workers)
    folder = Path(root) / variant.name / split
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(variant, folder.parent, split, num_videos, seed)
    except OSError as error:
        raise ValueError(f"root={root} can't be written to ({error.strerror}); name another folder") from error
    missing = [index for index in range(num_videos) if not (folder / f"{index:05d}.json").exists()]
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(missing)))
    jobs = [(variant, folder, split, seed, index) for index in missing]
    start = time.perf_counter()
    made = num_videos - len(missing)
    with (
        contextlib.closing(_in_processes(jobs, workers)) as clips,
        tqdm(total=num_videos, initial=made, unit="clip", desc=f"{variant.name}/{split}") as bar,
    ):
        for done, _ in enumerate(clips, start=1):
            bar.set_postfix_str(
                f"{done * variant.num_frames / (time.perf_counter() - start):.0f} frames/s", refresh=False
            )
            bar.update()
    return folder


Job = tuple[Variant, Path, str, int, int]


def _in_processes(jobs: list[Job], workers: int) -> Generator[None]:
    """Write the clips, in any order; closing the generator drops clips not begun and waits for the others."""
    if workers == 1:
        yield from map(write_clip, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a forked physics server would be shared
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts) as pool:
        futures = [pool.submit(write_clip, job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError("a simulating process was killed (out of memory?); run again to go on") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole process group; only the parent handles it, and lets the present clips finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def write_clip(job: Job) -> None:
    """Make a clip and write its three files, the json last; each is written aside and then moved into place."""
    variant, folder, split, seed, index = job
    clip = variant.clip(clip_generator(variant, split, seed, index), index)
    stem = f"{index:05d}"
    try:
        replace_file(folder / f"{stem}.mp4", lambda path: encode_mp4(path, clip.video, variant.fps))
        replace_file(folder / f"{stem}.masks.zip", lambda path: write_masks(path, clip.masks))
        record = json.dumps(clip.record, separators=(",", ":"))
        replace_file(folder / f"{stem}.json", lambda path: path.write_text(record))
    except OSError as error:
        raise OSError(f"{folder / stem} could not be written ({error}); free some space and run again") from error


def encode_mp4(path: Path, video: NDArray[np.uint8], fps: float) -> None:
    """Encode (T, H, W, 3) uint8 RGB as H.264: 4:2:0 for even sides, 4:4:4 for odd ones, which 4:2:0 can't hold."""
    _, height, width, _ = video.shape
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        stream.options = {"crf": str(CRF), "preset": "veryfast", "x264-params": X264}
        stream.codec_context.thread_count = 1
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_masks(path: Path, masks: NDArray[np.uint8]) -> None:
    """Write ids (T, H, W) uint8 as indexed PNGs 00000.png, ... in an uncompressed zip that depends only on the ids."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for frame, ids in enumerate(masks):
            picture = Image.fromarray(ids).convert("P")
            picture.putpalette(_palette())
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
            archive.writestr(zipfile.ZipInfo(f"{frame:05d}.png", ZIP_TIME), buffer.getvalue())


@functools.cache
def _palette() -> bytes:
    """Black for 0, then very different colours by bit-reversed channels, as in PASCAL VOC's annotations."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            for channel in range(3):
                colors[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.tobytes()


def _check(variant: Variant, split: str, num_videos: int, seed: int, workers: int | None) -> None:
    if split not in variant.splits:
        raise ValueError(f"{variant.name} has no split {split!r}; choose from {', '.join(variant.splits)}")
    if num_videos < 1:
        raise ValueError(f"num_videos must be at least 1, got {num_videos}")
    if num_videos % variant.takes:
        raise ValueError(f"num_videos={num_videos} must be a multiple of {variant.takes}, the clips of a scene")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, or null for all cores, got {workers}")
    if len(variant.size) != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in variant.size):
        sides = f"each from {MIN_SIDE} to {MAX_SIDE} pixels"
        raise ValueError(f"size must be [height, width], {sides}, got {list(variant.size)}")
    if variant.num_frames < 1 or not 0 < variant.fps <= 240:
        raise ValueError(
            f"num_frames={variant.num_frames} must be at least 1, and fps={variant.fps} above 0 and at most 240"
        )


def _claim(variant: Variant, folder: Path, split: str, num_videos: int, seed: int) -> None:
    """Enter this run into ``meta.json``, or refuse if existing clips were made with other settings."""
    settings = json.loads(json.dumps(dataclasses.asdict(variant)))  # type: ignore[call-overload]
    path = folder / "meta.json"
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        meta = {"format": FORMAT, "variant": variant.name, "settings": settings, "splits": {}}
        if path.exists():
            meta = _read_meta(path)
            _refuse_if_different(path, {"format": FORMAT, **settings}, {"format": meta["format"], **meta["settings"]})
        entry = meta["splits"].get(split)
        if entry is not None:
            _refuse_if_different(path, {f"{split} seed": seed}, {f"{split} seed": entry["seed"]})
            num_videos = max(num_videos, entry["num_videos"])
        meta["splits"][split] = {"seed": seed, "num_videos": num_videos}
        replace_file(path, lambda aside: aside.write_text(json.dumps(meta, indent=1)))


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = read_json(path, "remove it or name another root")
        return {key: meta[key] for key in ("format", "variant", "settings", "splits")}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a meta.json of simulated videos; remove it or name another root") from error


def _refuse_if_different(path: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    different = [
        f"{key} is {found.get(key)} there, {wanted.get(key)} here"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key) != found.get(key)
    ]
    if different:
        raise ValueError(f"{path} was made with other settings ({'; '.join(different)}); name another root")
