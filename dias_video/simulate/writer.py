"""Writes a simulated data set: one mp4, one zip of masks and one json a clip, on all cores, resumable.

``<root>/<variant>/<split>/<clip>.mp4``, ``.masks.zip`` (an indexed PNG a frame) and ``.json``;
``<root>/<variant>/meta.json`` says what made them. A clip's json appears last, so a clip with a json is complete.
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
CRF = 12  # close to lossless for the eye
X264 = "no-mbtree=1"  # with it, x264 gives different bytes for the same small pictures from run to run
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class Variant(Protocol):
    """What invents clips: a frozen dataclass whose fields are its settings."""

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    takes: ClassVar[int]  # clips made of one scene, one after the other; they share their random numbers
    size: Any  # (H, W)
    num_frames: int
    fps: float

    def clip(self, rng: np.random.Generator, index: int) -> Clip:
        """Clip ``index`` of a split, from the random numbers of its scene."""
        ...


def clip_generator(variant: Variant, split: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of a clip's scene: a function of variant, split, seed and index; splits never share one."""
    name = int.from_bytes(variant.name.encode(), "big")
    return np.random.default_rng(
        np.random.SeedSequence([seed, name, variant.splits.index(split), index // variant.takes])
    )


def write_dataset(
    variant: Variant, root: str | Path, split: str, num_videos: int, seed: int = 0, workers: int | None = None
) -> Path:
    """Write clips 0..num_videos-1 of a split, those that exist already excepted; returns the split's folder.

    ``workers`` processes (default: the cores this process may use). Raises ValueError for settings that make no sense
    or that differ from those of the clips already there.
    """
    _check(variant, split, num_videos, seed, workers)
    folder = Path(root) / variant.name / split
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(variant, folder.parent, split, num_videos, seed)
    except OSError as error:
        raise ValueError(f"root={root} cannot be written to ({error.strerror}): choose another folder.") from error
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
    """Write the clips, in any order; closing it drops those that have not begun and waits for the others."""
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
            raise ChildProcessError("a simulating process was killed (out of memory?): run again to go on.") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole process group; the parent alone answers it and lets clips under way finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def write_clip(job: Job) -> None:
    """Make one clip and write its three files, each written aside and moved into place, the json last."""
    variant, folder, split, seed, index = job
    clip = variant.clip(clip_generator(variant, split, seed, index), index)
    stem = f"{index:05d}"
    try:
        replace_file(folder / f"{stem}.mp4", lambda path: encode_mp4(path, clip.video, variant.fps))
        replace_file(folder / f"{stem}.masks.zip", lambda path: write_masks(path, clip.masks))
        record = json.dumps(clip.record, separators=(",", ":"))
        replace_file(folder / f"{stem}.json", lambda path: path.write_text(record))
    except OSError as error:
        raise OSError(f"{folder / stem} could not be written ({error}): free some space and run again.") from error


def encode_mp4(path: Path, video: NDArray[np.uint8], fps: float) -> None:
    """H.264 of (T, H, W, 3) uint8 RGB; 4:2:0 for even sides and 4:4:4 for odd ones, which 4:2:0 cannot hold."""
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
    """Ids (T, H, W) uint8 as indexed PNGs 00000.png, ... in an uncompressed zip whose bytes depend on the ids alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for frame, ids in enumerate(masks):
            picture = Image.fromarray(ids).convert("P")
            picture.putpalette(_palette())
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
            archive.writestr(zipfile.ZipInfo(f"{frame:05d}.png", ZIP_TIME), buffer.getvalue())


@functools.cache
def _palette() -> bytes:
    """Black for 0, then colours far apart: bit-reversed channels, as PASCAL VOC's annotations have them."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            for channel in range(3):
                colors[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.tobytes()


def _check(variant: Variant, split: str, num_videos: int, seed: int, workers: int | None) -> None:
    if split not in variant.splits:
        raise ValueError(f"split={split!r}: {variant.name} has the splits {', '.join(variant.splits)}.")
    if num_videos < 1:
        raise ValueError(f"num_videos={num_videos}: ask for at least one video.")
    if num_videos % variant.takes:
        raise ValueError(f"num_videos={num_videos}: {variant.name} makes {variant.takes} of every scene, ask for all.")
    if seed < 0:
        raise ValueError(f"seed={seed}: use 0 or more.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: use 1 or more, or null for all cores.")
    if len(variant.size) != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in variant.size):
        raise ValueError(f"size={list(variant.size)}: use [height, width], each from {MIN_SIDE} to {MAX_SIDE} pixels.")
    if variant.num_frames < 1 or not 0 < variant.fps <= 240:
        raise ValueError(
            f"num_frames={variant.num_frames}, fps={variant.fps}: use at least one frame and more than 0 up to 240 fps."
        )


def _claim(variant: Variant, folder: Path, split: str, num_videos: int, seed: int) -> None:
    """Enter this run into ``meta.json``, or refuse if the clips there were made with other settings."""
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
        meta = read_json(path, "remove it or choose another root")
        return {key: meta[key] for key in ("format", "variant", "settings", "splits")}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a meta.json of simulated videos: remove it or choose another root.") from error


def _refuse_if_different(path: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    different = [
        f"{key} is {found.get(key)} there, {wanted.get(key)} here"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key) != found.get(key)
    ]
    if different:
        raise ValueError(f"{path} was made with other settings ({'; '.join(different)}): choose another root.")
