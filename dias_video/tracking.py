"""The loop over the windows of videos with carried slots; every way to the slots of a video goes through it.

It knows no model: anything that answers ``encode`` as ``dias_video.model.dias.DIAS`` does will do.
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
REACH = 1.5  # half a window of the filter that follows edges, in cells
CONTRAST = 1e-3  # variance of colours in [0,1] below which there is no edge
MOST_PIXELS = 480 * 864  # of a frame; masks of larger ones are made at about this size and enlarged


class SlotModel(Protocol):
    """What the loop needs of a model (a module)."""

    @property
    def training(self) -> bool:
        """Whether it is in training mode."""
        ...

    @property
    def takes_boxes(self) -> bool:
        """Whether its first queries can come from boxes."""
        ...

    def encode(
        self, batch: VideoBatch, draws: Draws, state: CarryState | None = None, rehearse: bool = False
    ) -> tuple[SlotSequence, CarryState]:
        """Slots of every frame of a window, and the state to go on with."""
        ...

    def parameters(self) -> Iterator[Any]:
        """Its weights, which tell the device."""
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
    """Go through videos window by window: the slots at the end of a window are where the next one begins.

    The model is in evaluation mode meanwhile. Its noise is a function of (seed, video id), so a video's slots do not
    depend on what is in a batch with it, nor on where its windows are cut.

    Args:
        model: on its device.
        windows: batches of consecutive frames; those of the same videos follow each other.
        seed: of the query noise.
        boxes: give the model the first frame's boxes; None: where it takes them and the videos have them.
        rehearse: without boxes, go through the first window forwards and backwards before it is tracked.
        labels: also tell the owner of every pixel.
        follow_edges: labels end where colours change in the frame, not where cells of the feature grid do.
        precision: in which the model computes (``dias_video.machine.precision``); slots are handed over in float32.

    Yields:
        Each window as it came, and its slots on the model's device.

    Raises:
        ValueError: boxes are wanted and there are none, or the model takes none; or boxes and a rehearsal.
    """
    device, was_training = next(model.parameters()).device, model.training
    check_precision("precision", precision, device)
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
            seen = replace(window, masks=None)  # which no model looks at
            if boxes is False or (boxes is None and not model.takes_boxes):
                seen = replace(seen, boxes=None, box_valid=None)
            seen = seen.to(device)
            with autocast(precision, device):
                sequence, state = model.encode(seen, draws, state, rehearse)
            sequence = sequence.changed(lambda x: x.float() if x.itemsize < 4 and x.is_floating_point() else x)
            if labels:
                sequence.labels = pixel_labels(sequence, seen.video, follow_edges)
            yield window, sequence
    finally:
        model.train(was_training)


def track_videos(model: SlotModel, windows: Iterable[VideoBatch], **options: Any) -> Iterator[SlotSequence]:
    """Whole videos, each batch of them when its last window is done, on the CPU.

    The options are those of ``track_windows``. Memory grows with one batch of videos' slots.
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
        attention: (T,S,h,w) how much each slot owns each cell.
        live: (T,S) bool; a frame without any is void (-1).
        track_id: (T,S) int64.
        size: (H,W) in pixels; attention is resized bilinearly before the argmax over live slots. Of more than
            ``MOST_PIXELS`` the labels are those of a smaller size, enlarged to the nearest.
        edges_of: (T,3,H,W) uint8 frames whose edges the labels follow; None: they follow the cells.

    Returns:
        (T,H,W) int32 of track ids.
    """
    labels = []
    frames = [None] * len(attention) if edges_of is None else edges_of
    scale = min(1.0, (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    small = round(size[0] * scale), round(size[1] * scale)
    # A frame at a time: a few floats a slot and pixel, not T times as many.
    for cells, on, ids, frame in zip(attention, live, track_id, frames, strict=True):
        if not on.any():
            labels.append(torch.full(size, -1, dtype=torch.int32, device=attention.device))
            continue
        if frame is not None and small != size:
            frame = F.adaptive_avg_pool2d(frame.float(), small).round().to(torch.uint8)
        # max, since argmax over a first axis takes several times as long
        owner = ids[on][to_pixels(cells[on], small, frame).max(0).indices].to(torch.int32)  # (h,w)
        labels.append(resize_labels(owner, size))
    return torch.stack(labels) if labels else torch.zeros(0, *size, dtype=torch.int32)


def to_pixels(cells: Tensor, size: tuple[int, int], edges_of: Tensor | None = None) -> Tensor:
    """One frame's maps on the grid (S,h,w) at ``size`` (H,W), bilinear; (S,H,W) float.

    With a frame (3,H,W) uint8 they then follow its edges: in a window around every pixel a map is fitted by a function
    of colour, constant plus linear, and the functions of the windows that hold a pixel are averaged (guided filter:
    He, Sun and Tang, 2010; subsampled as by He and Sun, 2015).
    """
    pixels = F.interpolate(cells[None].float(), size=size, mode="bilinear", align_corners=False)
    if edges_of is None:
        return pixels[0]
    from kornia.filters import guided_blur  # who does not follow edges does without

    height, width = (side / count for side, count in zip(size, cells.shape[1:], strict=True))  # of a cell
    step = max(1, int(min(height, width) / 4))  # four points a cell are enough to fit on
    # Whole steps to each side, so that the window has a middle when subsampled too.
    above, beside = (round(REACH * side / step) * step for side in (height, width))
    window = (2 * above + 1, 2 * beside + 1)
    more = (0, -size[1] % step, 0, -size[0] % step)  # kornia for Python 3.10 wants multiples of the step
    frame, padded = (F.pad(x, more, mode="replicate") for x in (edges_of[None] / 255, pixels))
    fine = guided_blur(frame, padded, window, CONTRAST, border_type="replicate", subsample=step)
    return fine[0, :, : size[0], : size[1]]
