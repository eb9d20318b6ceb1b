"""From soft maps on the feature grid to label maps in pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import guided_blur
from torch import Tensor

# Both chosen on val clips of toss-A and toss-D (docs/results.md).
REACH = 1.5  # half a window of the filter that follows edges, in cells
CONTRAST = 1e-3  # variance of colours in [0,1] below which there is no edge


def maps_to_masks(
    maps: Tensor, mask: Tensor, track_id: Tensor, size: tuple[int, int], edges_of: Tensor | None = None
) -> Tensor:
    """The track id that owns each pixel.

    Args:
        maps: (T,S,h,w) how much each slot owns each cell.
        mask: (T,S) bool, live slots; a frame without any is void (-1).
        track_id: (T,S) int64.
        size: (H,W) in pixels; maps are resized bilinearly before the argmax over live slots.
        edges_of: (T,3,H,W) uint8 frames whose edges the masks follow; None: they follow the cells.

    Returns:
        (T,H,W) int32 of track ids.
    """
    labels = []
    frames = [None] * len(maps) if edges_of is None else edges_of
    # A frame at a time: a few floats a slot and pixel, not T times as many.
    for cells, live, ids, frame in zip(maps, mask, track_id, frames, strict=True):
        if not live.any():
            labels.append(torch.full(size, -1, dtype=torch.int32, device=maps.device))
            continue
        # max, since argmax over a first axis takes several times as long
        owner = maps_to_pixels(cells[live], size, frame).max(0).indices  # (H,W)
        labels.append(ids[live][owner].to(torch.int32))
    return torch.stack(labels) if labels else torch.zeros(0, *size, dtype=torch.int32)


def maps_to_pixels(maps: Tensor, size: tuple[int, int], edges_of: Tensor | None = None) -> Tensor:
    """One frame's maps (S,h,w) at ``size`` (H,W), bilinear; (S,H,W) float.

    With a frame (3,H,W) uint8 they then follow its edges: in a window around every pixel a map is fitted by a function
    of colour, constant plus linear, and the functions of the windows that hold a pixel are averaged (guided filter:
    He, Sun and Tang, 2010; subsampled as by He and Sun, 2015).
    """
    pixels = F.interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)
    if edges_of is None:
        return pixels[0]
    height, width = (side / cells for side, cells in zip(size, maps.shape[1:], strict=True))  # of a cell
    step = max(1, int(min(height, width) / 4))  # four points a cell are enough to fit on
    # Whole steps to each side, so that the window has a middle when subsampled too.
    above, beside = (round(REACH * side / step) * step for side in (height, width))
    window = (2 * above + 1, 2 * beside + 1)
    more = (0, -size[1] % step, 0, -size[0] % step)  # kornia for Python 3.10 wants multiples of the step
    frame, padded = (F.pad(x, more, mode="replicate") for x in (edges_of[None] / 255, pixels))
    fine = guided_blur(frame, padded, window, CONTRAST, border_type="replicate", subsample=step)
    return fine[0, :, : size[0], : size[1]]
