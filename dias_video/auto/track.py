"""Tracks any video, with a model of its own or with a trained one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dias_video.auto.backbone import Backbone
from dias_video.auto.fit import SAMPLED, Sampled, fitted, own_features
from dias_video.auto.given import Boxes, Given, given_objects
from dias_video.auto.parts import PartsModel
from dias_video.auto.tune import tune
from dias_video.batch import SlotSequence, VideoBatch
from dias_video.checks import Count, device_of
from dias_video.data.folder import FolderVideos, OneVideo
from dias_video.data.paths import files_in, hidden, local
from dias_video.data.pictures import EXTENSIONS
from dias_video.data.source import VideoSource
from dias_video.data.video_file import VIDEO_EXTENSIONS
from dias_video.data.windows import video_windows
from dias_video.machine.precision import autocast, check_precision
from dias_video.model.dias import DIAS
from dias_video.tracking import track_windows

SHIPPED = "shipped"  # the value of ``checkpoint`` for the small model of the package
READ = 8  # number of sampled frames that are read at once

Windows = Iterator[tuple[VideoBatch, SlotSequence]]


def track(
    video: str | Path,
    *,
    first_boxes: str | Path | Boxes | None = None,
    first_mask: str | Path | None = None,
    max_frames: Count | None = None,
    **options: Any,
) -> Windows:
    """Track the objects of a video window by window, in memory that does not grow with its length.

    Args:
        video: a video file, an animated picture, or a folder of frames.
        first_boxes, first_mask: objects on the first frame (``given_objects``); they become tracks 1 to K in their
            order, and track 0 is the rest. The first frame's labels are those of the mask. Without objects the model
            finds some.
        max_frames: stop after this many frames.
        options: checkpoint, encoder, slots, window and the other arguments of ``Tracker``.

    Yields:
        ``window`` frames, and their slots; in these, ``labels`` (1,T,H,W) is the track that owns each pixel.

    Raises:
        ValueError: the video can't be read, or options don't fit each other.
    """
    tracker = Tracker(**options)
    source = OneVideo(video)
    return tracker.windows(source, given=tracker.given(source, first_boxes, first_mask), max_frames=max_frames)


def videos_at(path: str | Path) -> VideoSource:
    """The videos of a file, of a folder of frames, or of a folder that holds videos.

    Files of a folder that can't be read are left out (``problems_of`` lists them).

    Raises:
        ValueError: there is no video, none can be read, or a folder of videos also holds single pictures.
    """
    path = local(path)
    if not path.is_dir():
        return OneVideo(path)
    folders = any(inner.is_dir() and not hidden(inner.name) for inner in path.iterdir())
    frames_alone = files_in(path, EXTENSIONS) and not folders and not files_in(path, VIDEO_EXTENSIONS)
    return OneVideo(path) if frames_alone else VideosToTrack(path, on_error="skip_and_report")


class VideosToTrack(FolderVideos):
    """A folder of videos whose files can't be chosen by options."""

    remedy = "move such files out of this folder, or name one video instead of the folder"


class Tracker:
    """Tracks videos one after another.

    Args:
        checkpoint: a trained DIAS for all videos: its folder, ``hf-hub:user/name``, or ``shipped`` for the small model
            of the package. None: every video gets a model of its own, which is not trained (``fit.fitted``).
        encoder: the encoder of such own models; None: DINOv2 ViT-S/14.
        slots: number of things in own models; None: chosen from the video.
        train_steps: number of updates that train an own model on its video (``tune``).
        follow_edges: masks end where colours change in the frame, not at the borders of the feature grid's cells.
        window: number of frames that are encoded at once.
        seed: with a video's id it determines all random numbers.
        precision: the precision in which models compute (``dias_video.machine.precision``).
        device: None = cuda if there is one.

    Raises:
        TypeError: ``encoder`` is no ``Backbone``.
        ValueError: options don't fit each other, or a model can't be loaded.
    """

    def __init__(
        self,
        *,
        checkpoint: str | Path | None = None,
        encoder: Backbone | None = None,
        slots: Count | None = None,
        train_steps: int = 0,
        follow_edges: bool = True,
        window: Count = 24,
        seed: int = 0,
        precision: str = "fp32",
        device: str | None = None,
    ) -> None:
        if not isinstance(encoder, Backbone | None):
            raise TypeError(f"encoder must be a Backbone, for example Backbone(name=<model of timm>), got {encoder!r}")
        if checkpoint is not None and (slots is not None or train_steps):
            raise ValueError("slots= and train_steps= are for a video's own model; leave them out with checkpoint=")
        self.backbone = encoder or Backbone()
        if slots is not None and slots > self.backbone.tokens:
            cells = self.backbone.tokens
            raise ValueError(
                f"slots={slots} is more than the {cells} cells of a frame; encoder.tokens= sets their number"
            )
        self.device = device_of(device)
        check_precision(precision, self.device)
        self.slots, self.train_steps, self.seed, self.window = slots, train_steps, seed, window
        self.options: dict[str, Any] = {"seed": seed, "follow_edges": follow_edges, "precision": precision}
        self.model: DIAS | None = None
        if checkpoint is not None:
            model = DIAS.shipped() if checkpoint == SHIPPED else DIAS.from_pretrained(checkpoint)
            self.model = model.to(self.device)

    def given(
        self, source: VideoSource, first_boxes: str | Path | Boxes | None, first_mask: str | Path | None
    ) -> Given | None:
        """Objects given on the first frame of a source's only video; None if there are none.

        Raises:
            ValueError: as for ``given_objects``; also if the source has several videos, if ``slots`` is set too, or if
                the trained model can't start from so many objects or from boxes.
        """
        if first_boxes is None and first_mask is None:
            return None
        if len(source) > 1:
            raise ValueError(f"objects are given on the first frame of one video, here are {len(source)}; name one")
        if self.slots is not None:
            raise ValueError("slots= is for things that are to be found; leave it out where objects are given")
        video = source.read(0, [0], ("video",))["video"]
        given = given_objects(first_boxes, first_mask, (video.shape[-2], video.shape[-1]))
        if self.model is not None and given is not None:
            if not self.model.takes_boxes:
                raise ValueError("this trained model takes no boxes; leave out checkpoint=, or the objects")
            if len(given.ids) > self.model.num_slots - 1:
                most = self.model.num_slots - 1
                raise ValueError(f"this trained model has slots for {most} objects, {len(given.ids)} are given")
        return given

    def windows(
        self,
        source: VideoSource,
        index: int = 0,
        given: Given | None = None,
        max_frames: Count | None = None,
        looked: Callable[[int], object] = lambda frames: None,
    ) -> Windows:
        """Windows of one video of a source, as ``track`` yields them.

        Args:
            looked: called with the number of frames that were read before the first window, for a progress bar.
        """
        info = source.info(index)
        num_frames = min(info.num_frames, max_frames or info.num_frames)
        model = self.model or self.own(
            info.video_id,
            num_frames,
            lambda frames: source.read(index, frames, ("video",))["video"],
            given,
            looked=looked,
        )
        batches = video_windows(source, [index], window=self.window, max_frames=num_frames, keys=("video",))
        boxed = self.model is not None and given is not None
        if given is not None and boxed:
            batches = (_with_boxes(batch, given.boxes) for batch in batches)
        rehearse = given is None
        found = track_windows(model, batches, boxes=boxed, rehearse=rehearse, labels=True, **self.options)
        for number, (batch, sequence) in enumerate(found):
            assert sequence.labels is not None
            if number == 0 and given is not None:
                self._warn_of_lost(given, sequence.labels[0, 0], info.video_id)
            if number == 0 and given is not None and given.exact:
                size = (batch.pixels.shape[-2], batch.pixels.shape[-1])
                sequence.labels[0, 0] = given.labels(size).to(sequence.labels)
            yield batch, sequence

    def _warn_of_lost(self, given: Given, labels: Tensor, video_id: str) -> None:
        """Print a warning if given objects own no pixel of the first frame (labels (H,W))."""
        there = labels.unique().tolist()
        lost = ", ".join(str(name) for track, name in enumerate(given.ids, 1) if track not in there)
        finer = f"; encoder.tokens={4 * self.backbone.tokens} sees smaller things" if self.model is None else ""
        if lost:
            said = f"warning: the model finds no pixel of the given object {lost} on the first frame of {video_id}"
            tqdm.write(said + finer, file=sys.stderr)

    def frames_looked_at(self, num_frames: int) -> int:
        """Number of frames of a video of this length that are read before it is tracked."""
        return 0 if self.model is not None else min(SAMPLED, num_frames)

    @torch.no_grad()
    def own(
        self,
        video_id: str,
        num_frames: int,
        read: Callable[[list[int]], Tensor],
        given: Given | None = None,
        tokens: Tensor | None = None,
        looked: Callable[[int], object] = lambda frames: None,
    ) -> PartsModel:
        """A model for one video.

        Args:
            read: returns frames (T,3,H,W) uint8 by their numbers.
            given: objects on the first frame.
            tokens: (T,N,C) of the plain encoder for all frames; the encoder then does not run.
            looked: called repeatedly with the number of frames that were read since the last call.

        Raises:
            ValueError: the encoder can't be made, or has another grid than ``tokens``.
        """
        chosen = np.linspace(0, num_frames - 1, self.frames_looked_at(num_frames)).round().astype(int).tolist()
        frames, found = [], []
        for start in range(0, len(chosen), READ):
            numbers = chosen[start : start + READ]
            video = read(numbers).to(self.device)  # (m,3,H,W)
            encoder = self.backbone.encoder((video.shape[-2], video.shape[-1]), self.device)
            if tokens is None:
                with autocast(self.options["precision"], self.device):
                    found.append(encoder.features(video[None])[0].float())
            else:
                found.append(tokens[numbers].to(self.device).float())
            frames.append(F.adaptive_avg_pool2d(video.float(), encoder.input_size))
            looked(len(video))
        if found[0].shape[1] != encoder.grid[0] * encoder.grid[1]:
            raise ValueError(
                f"the cached features of {video_id} are of {found[0].shape[1]} cells, the encoder's of {encoder.grid}; "
                "cache those of this encoder, at this size"
            )
        sampled = Sampled(video_id, torch.cat(frames), torch.cat(found))
        model = fitted(encoder, sampled, self.slots, given, self.seed)
        if self.slots is not None and model.num_slots < self.slots:
            said = f"warning: {video_id} has {model.num_slots} things, since it has no more parts than that; slots="
            tqdm.write(f"{said}{self.slots} was asked for", file=sys.stderr)
        if self.train_steps:
            features = own_features(model.model.encoder, sampled.tokens, sampled.frames)
            tune(model, sampled.frames, features, self.train_steps, self.seed)
        return model


def _with_boxes(batch: VideoBatch, boxes: Tensor) -> VideoBatch:
    """A window with boxes (K,4); a model uses those of a video's first frame."""
    shape = (1, batch.num_frames, len(boxes))
    return replace(batch, boxes=boxes.expand(*shape, 4), box_valid=torch.ones(shape, dtype=torch.bool))
