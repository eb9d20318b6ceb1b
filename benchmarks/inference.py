"""Whole videos through trained models: slot caching beside the encoder alone, and evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import count

import torch

from benchmarks.measure import Bench, Row
from benchmarks.training import SETTINGS, clips
from dias_video.data.source import Keys, Sample, VideoInfo
from dias_video.data.windows import video_windows
from dias_video.evaluation.methods import ModelTracks
from dias_video.evaluation.protocols import score_video
from dias_video.machine.precision import autocast
from dias_video.model.dias import DIAS
from dias_video.pretrained.configured import build
from dias_video.tracking import track_videos
from slotformer.cache import SlotCacheWriter

VIDEOS, FRAMES = 4, 24


class Noise:
    """Videos in memory, so that reading them costs nothing."""

    def __init__(self, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (VIDEOS, FRAMES, 3, side, side)
        self.videos = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def __len__(self) -> int:
        return VIDEOS

    def info(self, index: int) -> VideoInfo:
        """Name and length of a video."""
        return VideoInfo(f"video{index}", FRAMES)

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Frames (T,3,H,W) of a video, kept in memory."""
        at = list(frames)
        return {"video": self.videos[index, at], "video_id": f"video{index}", "frame_index": torch.tensor(at)}


def run(bench: Bench) -> list[Row]:
    """The shipped model at two sizes of video, and the paper's."""
    shipped = DIAS.shipped().to(bench.device).eval()
    rows = caching(bench, "shipped model, 64 px", shipped, Noise(64)) + evaluation(bench, shipped)
    for name, config in bench.models.items():
        if name != "demo" and bench.cuda:  # a CPU would take minutes to say what the training section says
            rows += caching(bench, f"{name}, 256 px", build(config).to(bench.device).eval(), Noise(256))
    return rows


def caching(bench: Bench, name: str, model: DIAS, source: Noise) -> list[Row]:
    """Frames a second into a slot cache on the disk, and of the encoder alone."""
    videos = source.videos.to(bench.device)

    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def cache(precision: str) -> None:
            path, windows = f"{folder}/{next(numbers)}", video_windows(source, range(VIDEOS), batch_size=VIDEOS)
            with SlotCacheWriter(path) as writer:
                for tracked in track_videos(model, windows, precision=precision):
                    for b, video_id in enumerate(tracked.video_id):
                        found = (tracked.slots[b], tracked.live[b], tracked.attention[b], tracked.track_id[b])
                        writer.write(video_id, *found)

        def encode(precision: str) -> None:
            with autocast(precision, bench.device):
                model.encoder.features(videos)

        contestants = {
            "encoder alone, float32": lambda: encode("fp32"),
            "slot cache, float32": lambda: cache("fp32"),
            "encoder alone, bfloat16": lambda: encode("bf16"),
            "slot cache, bfloat16": lambda: cache("bf16"),
        }
        return bench.compare(f"slot caching, {name}", contestants, VIDEOS * FRAMES)


def evaluation(bench: Bench, model: DIAS) -> list[Row]:
    """Frames a second of videos of 24 frames of 128 px with boxes: the model alone, and with every measure."""
    setting = SETTINGS["demo"]
    batch = clips(setting, VIDEOS, "cpu")
    longer = FRAMES // setting.frames
    masks = batch.masks.repeat(1, longer, 1, 1)
    samples = [
        {
            "video": batch.video[b].repeat(longer, 1, 1, 1),
            "video_id": batch.video_id[b],
            "frame_index": torch.arange(FRAMES),
            "boxes": batch.boxes[b].repeat(longer, 1, 1),
            "box_valid": batch.box_valid[b].repeat(longer, 1),
        }
        for b in range(VIDEOS)
    ]
    method, fine = ModelTracks(model, boxes=True), ModelTracks(model, boxes=True, follow_edges=True)
    found = [method(sample) for sample in samples]

    def score() -> None:
        for pred, true in zip(found, masks, strict=True):
            score_video(pred, true)

    contestants = {
        "tracks, video by video": lambda: [method(sample) for sample in samples],
        f"tracks, {VIDEOS} videos at once": lambda: method.batch(samples),
        f"tracks that follow edges, {VIDEOS} at once": lambda: fine.batch(samples),
        "every measure of both protocols and J&F": score,
    }
    return bench.compare("evaluation, shipped model, 128 px", contestants, VIDEOS * FRAMES)
