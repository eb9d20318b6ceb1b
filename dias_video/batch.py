"""The data passed between data sets, models and the engine: a batch of video clips, and slots of successive frames.

Axis legend, used in every docstring and trailing comment of the project:

    B batch, T frames, C channels, H W pixels, h w feature grid, N = h*w tokens, S slots, D slot width, K instances
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Either all samples of a batch have such a key, or none.
CHECKED = ("video", "masks", "boxes", "features", "codes", "latents")

Record = TypeVar("Record", bound="TensorRecord")


def resize_frames(frames: Tensor, size: Sequence[int]) -> Tensor:
    """uint8 frames (...,3,H,W) resized to ``size`` (H,W): bilinear, antialiased, rounded. All frames are resized so."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    flat = frames.flatten(0, -4)
    if flat.device.type == "cpu":
        resized = F.interpolate(flat, tuple(size), mode="bilinear", antialias=True)
    else:  # PyTorch resizes only floats here
        resized = F.interpolate(flat.float(), tuple(size), mode="bilinear", antialias=True).round().to(torch.uint8)
    return resized.view(*frames.shape[:-2], *size)


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Masks or labels (...,H,W) resized to ``size`` (H,W): the pixel under each new pixel's centre. All use this."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    rows, columns = (
        (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[..., rows[:, None], columns]


class TensorRecord(ABC):
    """Mixin for dataclasses of tensors and names that belong together."""

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """T, the number of frames of a sample."""

    def changed(self: Record, change: Callable[[Tensor], Tensor]) -> Record:
        """The same record with ``change`` applied to every tensor."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: change(value) for name, value in tensors.items()})  # type: ignore[type-var]

    def to(self: Record, device: torch.device | str, non_blocking: bool = True) -> Record:
        """The same record with every tensor on ``device``."""
        return self.changed(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self: Record) -> Record:
        """The same record in pinned memory (called by ``DataLoader``)."""
        return self.changed(Tensor.pin_memory)

    def frames(self: Record, start: int, stop: int) -> Record:
        """Frames ``start:stop`` of every clip, as views."""
        return self.changed(lambda value: value[:, start:stop] if value.ndim > 1 else value)

    def windows(self: Record, window: int) -> Iterator[Record]:
        """Successive windows of ``window`` frames."""
        for start in range(0, self.num_frames, window):
            yield self.frames(start, start + window)


@dataclass
class VideoBatch(TensorRecord):
    """A batch of clips. Clips shorter than the longest are padded at the end (``frame_valid`` False).

    ``boxes[:, :, k]`` belongs to instance id ``k + 1`` of ``masks``; an absent instance has a zero box and
    ``box_valid`` False. ``features`` is the frozen encoder's output from a cache, ``codes`` and ``latents`` are
    a tokenizer's. A batch that has what a model looks at may be without ``video``.
    """

    video: Tensor | None  # (B,T,3,H,W) uint8 RGB
    video_id: list[str]  # B names, unique over a data set
    frame_index: Tensor  # (B,T) int64, position in the original video
    frame_valid: Tensor  # (B,T) bool, False = padding
    masks: Tensor | None = None  # (B,T,H,W) int16, 0 background, -1 void
    boxes: Tensor | None = None  # (B,T,K,4) float32 xyxy, x over W and y over H, in [0,1], edges exclusive
    box_valid: Tensor | None = None  # (B,T,K) bool
    features: Tensor | None = None  # (B,T,N,C) frozen-encoder tokens
    codes: Tensor | None = None  # (B,T,N) of a frozen tokenizer
    latents: Tensor | None = None  # (B,T,N,C) of a frozen tokenizer, before quantisation
    label: Tensor | None = None  # (B,) float32, 1 = contact
    scenario: list[str] | None = None  # B names

    def __len__(self) -> int:
        return self.frame_index.shape[0]

    @property
    def num_frames(self) -> int:
        """T, the number of frames of a sample."""
        return self.frame_index.shape[1]

    @property
    def pixels(self) -> Tensor:
        """``video``, where it is needed.

        Raises:
            ValueError: the clips were read without it.
        """
        if self.video is None:
            raise ValueError("these clips were read without their frames; read them with the key 'video'")
        return self.video

    @classmethod
    def stack(cls, samples: Sequence[dict[str, Any]]) -> VideoBatch:
        """Collate samples of the data contract (``dias_video.data.source``); pads T and K, never H or W.

        A sample is a dict with ``video_id`` str, ``frame_index`` (T,) int64 and optionally ``video`` (T,3,H,W) uint8,
        ``masks`` (T,H,W) int16, ``boxes`` (T,K,4) float32 with ``box_valid`` (T,K) bool, ``features`` (T,N,C),
        ``codes`` (T,N), ``latents`` (T,N,C), ``label`` float and ``scenario`` str, as tensors. Where only some samples
        have a label or a scenario, as when data sets are mixed, the others get NaN and "".

        Raises:
            ValueError: frame sizes differ, or an optional key is present in only some samples.
        """
        sizes = {tuple(s[k].shape[-2:]) for s in samples for k in ("video", "masks") if s.get(k) is not None}
        if len(sizes) > 1:
            raise ValueError(f"frames of one batch must have one size, got {sorted(sizes)}; set a resize transform")
        present = [k for k in CHECKED if samples[0].get(k) is not None]
        for s in samples:
            have = [k for k in CHECKED if s.get(k) is not None]
            if have != present:
                raise ValueError(f"video {s['video_id']} has {have} but {samples[0]['video_id']} has {present}")
        tensors = {key: [s[key] for s in samples] for key in present}
        if "boxes" in present:
            missing = [max(boxes.shape[1] for boxes in tensors["boxes"]) - s["boxes"].shape[1] for s in samples]
            tensors["boxes"] = [F.pad(s["boxes"], (0, 0, 0, more)) for s, more in zip(samples, missing, strict=True)]
            tensors["box_valid"] = [F.pad(s["box_valid"], (0, more)) for s, more in zip(samples, missing, strict=True)]
        tensors["frame_index"] = [torch.as_tensor(s["frame_index"]) for s in samples]
        tensors["frame_valid"] = [torch.ones(len(index), dtype=torch.bool) for index in tensors["frame_index"]]

        def any_of(values: list[Any]) -> bool:
            return any(value is not None for value in values)

        labels, scenarios = ([s.get(k) for s in samples] for k in ("label", "scenario"))
        padded: dict[str, Any] = {key: pad_sequence(values, batch_first=True) for key, values in tensors.items()}
        return cls(
            **{"video": None, **padded},
            video_id=[s["video_id"] for s in samples],
            label=torch.tensor([float("nan") if x is None else float(x) for x in labels]) if any_of(labels) else None,
            scenario=[x or "" for x in scenarios] if any_of(scenarios) else None,
        )


@dataclass
class CarryState:
    """The state that the scan over frames passes to the next frame, and to the next window of a long video."""

    slots: Tensor  # (B,S,D) from which the next queries are made: the frame's slots, or a running average of them
    live: Tensor  # (B,S) bool
    track_id: Tensor  # (B,S) int64, -1 where dead
    age: Tensor  # (B,S) int64, frames the slot's track has lived, 0 where dead
    next_id: Tensor  # (B,) int64, the next unused track id


@dataclass
class SlotSequence(TensorRecord):
    """Slots of successive frames of some videos; slots are passed around only in this form."""

    video_id: list[str]  # B names
    slots: Tensor  # (B,T,S,D), zeros where dead
    live: Tensor  # (B,T,S) bool
    track_id: Tensor  # (B,T,S) int64, -1 where dead
    attention: Tensor | None = None  # (B,T,S,h,w) float, how much each slot owns each cell (decoder's or aggregation's)
    labels: Tensor | None = None  # (B,T,H,W) int32, the track that owns each pixel, -1 where no slot lives

    def __len__(self) -> int:
        return self.slots.shape[0]

    @property
    def num_frames(self) -> int:
        """T, the number of frames of a sample."""
        return self.slots.shape[1]

    @classmethod
    def batched(cls, videos: Sequence[SlotSequence]) -> SlotSequence:
        """Sequences of several videos and of equal length as one batch, without attention and labels."""
        names = [name for video in videos for name in video.video_id]
        parts = zip(*((video.slots, video.live, video.track_id) for video in videos), strict=True)
        return cls(names, *(torch.cat(part) for part in parts))

    @classmethod
    def joined(cls, pieces: Sequence[SlotSequence]) -> SlotSequence:
        """Successive sequences of the same videos as one."""
        tensors = [name for name, value in vars(pieces[0]).items() if isinstance(value, Tensor)]
        return replace(pieces[0], **{name: torch.cat([getattr(p, name) for p in pieces], 1) for name in tensors})  # type: ignore[arg-type]
