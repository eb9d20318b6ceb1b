"""The loop over the windows of videos, with slots carried from window to window; all slots of videos come from it.

It works with every model that has the methods of ``SlotModel``, such as ``dias_video.model.dias.DIAS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dias_video.batch import CarryState, SlotSequence, VideoBatch, resize_labels
from dias_video.draws import Draws
from dias_video.machine.precision import autocast, check_precision

# Both chosen on val clips of toss-A and toss-D (docs/notebook.md).
REACH = 1.5  # half the window of the filter that follows edges, in cells
CONTRAST = 1e-3  # variance of colours in [0,1]; a smaller variance is not an edge
MOST_PIXELS = 480 * 864  # masks of frames with more pixels are made at about this size and enlarged


class SlotModel(Protocol):
    """The interface that the loop needs of a model (a module)."""

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        ...

    @property
    def takes_boxes(self) -> bool:
        """Whether the model's first queries can come from boxes."""
        ...

    def encode(
        self, batch: VideoBatch, draws: Draws, state: CarryState | None = None, rehearse: bool = False
    ) -> tuple[SlotSequence, CarryState]:
        """Slots of every frame of a window, and the state for the next window."""
        ...

    def parameters(self) -> Iterator[Any]:
        """The model's weights, which tell its device."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation."""
        ...


@torch.no_grad()
def track_windows(
    model: SlotModel,
    windows: Iterable[VideoBatch],
    seed: int = 0,
    boxes: bool | None = None,
    rehearse: bool = False,
    labels: bool = False,
    follow_edges: bool = False,
    precision: str = "fp32",
) -> Iterator[tuple[VideoBatch, SlotSequence]]:
    """Go through videos window by window; each window starts from the slots at the end of the one before.

    During this the model is in evaluation mode. Its noise is a function of (seed, video id), so a video's slots depend
    neither on the other videos of a batch nor on where its windows begin.

    Args:
        model: the model, on its device.
        windows: batches of consecutive frames; those of the same videos follow each other.
        seed: seed of the noise of queries.
        boxes: give the model the first frame's boxes; None: if the model takes them and the videos have them.
        rehearse: without boxes, go through the first window forwards and backwards before it is tracked.
        labels: also compute the owner of every pixel.
        follow_edges: labels end where colours change in the frame, not at the borders of the feature grid's cells.
        precision: the precision in which the model computes (``dias_video.machine.precision``); slots are returned in
            float32.

    Yields:
        Each window unchanged, and its slots on the model's device.

    Raises:
        ValueError: ``boxes`` is True but the videos have none or the model takes none, or there are both boxes and a
            rehearsal.
    """
    device, was_training = next(model.parameters()).device, model.training
    check_precision(precision, device)
    names: list[str] = []
    state: CarryState | None = None
    model.train(False)
    try:
        for window in windows:
            if window.video_id != names:
                names, state = window.video_id, None
                draws = Draws.for_videos(seed, names, device)
            if boxes and window.boxes is None:
                raise ValueError(f"{names[0]} has no boxes; set boxes=false")
            seen = replace(window, masks=None)  # models don't use masks
            if boxes is False or (boxes is None and not model.takes_boxes):
                seen = replace(seen, boxes=None, box_valid=None)
            seen = seen.to(device)
            with autocast(precision, device):
                sequence, state = model.encode(seen, draws, state, rehearse)
            sequence = sequence.changed(lambda x: x.float() if x.itemsize < 4 and x.is_floating_point() else x)
            if labels:
                sequence.labels = pixel_labels(sequence, seen.pixels, follow_edges)
            yield window, sequence
    finally:
        model.train(was_training)


def track_videos(model: SlotModel, windows: Iterable[VideoBatch], **options: Any) -> Iterator[SlotSequence]:
    """Slots of whole videos on the CPU; a batch of videos comes when its last window is done.

    The options are those of ``track_windows``. Memory holds the slots of one batch of videos.
    """
    pieces: list[SlotSequence] = []
    for _, sequence in track_windows(model, windows, **options):
        if pieces and pieces[0].video_id != sequence.video_id:
            yield SlotSequence.joined(pieces)
            pieces = []
        pieces.append(sequence.to("cpu", non_blocking=False))
    if pieces:
        yield SlotSequence.joined(pieces)


def pixel_labels(sequence: SlotSequence, video: Tensor, follow_edges: bool = False) -> Tensor:
    """The track that owns each pixel of video (B,T,3,H,W): (B,T,H,W) int32, -1 where no slot lives."""
    assert sequence.attention is not None
    size = (video.shape[-2], video.shape[-1])
    parts = zip(sequence.attention, sequence.live, sequence.track_id, video, strict=True)
    return torch.stack(
        [owners(cells, live, ids, size, frames if follow_edges else None) for cells, live, ids, frames in parts]
    )


def owners(
    attention: Tensor, live: Tensor, track_id: Tensor, size: tuple[int, int], edges_of: Tensor | None = None
) -> Tensor:
    """The track id that owns each pixel of one video.

    Args:
        attention: (T,S,h,w) the share that each slot has of each cell.
        live: (T,S) bool; a frame without live slots is void (-1).
        track_id: (T,S) int64.
        size: (H,W) in pixels; attention is resized bilinearly before the argmax over live slots. For more than
            ``MOST_PIXELS`` labels are made at a smaller size and enlarged by nearest neighbour.
        edges_of: (T,3,H,W) uint8 frames whose edges the labels follow; None: labels follow the cells.

    Returns:
        (T,H,W) int32 of track ids.
    """
    labels = []
    frames = [None] * len(attention) if edges_of is None else edges_of
    scale = min(1.0, (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    small = round(size[0] * scale), round(size[1] * scale)
    # Single frames, so that memory does not hold a few floats for each slot and pixel of all frames.
    for cells, on, ids, frame in zip(attention, live, track_id, frames, strict=True):
        if not on.any():
            labels.append(torch.full(size, -1, dtype=torch.int32, device=attention.device))
            continue
        if frame is not None and small != size:
            frame = F.adaptive_avg_pool2d(frame.float(), small).round().to(torch.uint8)
        # max and not argmax, which takes several times as long over the first axis
        owner = ids[on][to_pixels(cells[on], small, frame).max(0).indices].to(torch.int32)  # (h,w)
        labels.append(resize_labels(owner, size))
    return torch.stack(labels) if labels else torch.zeros(0, *size, dtype=torch.int32)


def to_pixels(cells: Tensor, size: tuple[int, int], edges_of: Tensor | None = None) -> Tensor:
    """The maps (S,h,w) of one frame, resized bilinearly to ``size`` (H,W): (S,H,W) float.

    If a frame (3,H,W) uint8 is given as ``edges_of``, maps then follow its edges by a guided filter (He, Sun and Tang,
    2010; subsampled as by He and Sun, 2015). In a window around every pixel a map is fitted by a linear function of
    colour, and the functions of all windows that contain a pixel are averaged.
    """
    pixels = F.interpolate(cells[None].float(), size=size, mode="bilinear", align_corners=False)
    if edges_of is None:
        return pixels[0]
    from kornia.filters import guided_blur  # imported here, since it is needed only to follow edges

    height, width = (side / count for side, count in zip(size, cells.shape[1:], strict=True))  # of a cell
    step = max(1, int(min(height, width) / 4))  # four points along a cell are enough for the fit
    # A whole number of steps to each side, so that the window has a middle after subsampling too.
    above, beside = (round(REACH * side / step) * step for side in (height, width))
    window = (2 * above + 1, 2 * beside + 1)
    more = (0, -size[1] % step, 0, -size[0] % step)  # kornia for Python 3.10 needs multiples of the step
    frame, padded = (F.pad(x, more, mode="replicate") for x in (edges_of[None] / 255, pixels))
    fine = guided_blur(frame, padded, window, CONTRAST, border_type="replicate", subsample=step)
    return fine[0, :, : size[0], : size[1]]
