"""From soft maps on the feature grid to label maps in pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import guided_blur
from torch import Tensor

REACH = 1.5  # cells around a pixel that are looked at to follow edges
CONTRAST = (
    1e-3  # variance of colours in [0,1] below which there is no edge; both chosen on val clips of toss-A and toss-D
)


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
    # A frame at a time: S x H x W floats, not T times.
    for cells, live, ids, frame in zip(maps, mask, track_id, frames, strict=True):
        pixels = maps_to_pixels(cells, size, frame)
        # max, since argmax over a first axis takes several times as long
        owner = pixels.masked_fill(~live[:, None, None], -torch.inf).max(0).indices  # (H,W)
        labels.append(torch.where(live.any(), ids[owner], -1).to(torch.int32))
    return torch.stack(labels) if labels else torch.zeros(0, *size, dtype=torch.int32)


def maps_to_pixels(maps: Tensor, size: tuple[int, int], edges_of: Tensor | None = None) -> Tensor:
    """One frame's maps (S,h,w) at ``size`` (H,W), bilinear; (S,H,W) float.

    With a frame (3,H,W) uint8 they then follow its edges: near a pixel a map becomes that function of colour, constant
    plus linear, which fits it best (guided filter: He, Sun and Tang, 2010; subsampled as by He and Sun, 2015).
    """
    pixels = F.interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)
    if edges_of is None:
        return pixels[0]
    height, width = (side / cells for side, cells in zip(size, maps.shape[1:], strict=True))  # of a cell
    window = (2 * round(REACH * height) + 1, 2 * round(REACH * width) + 1)
    step = max(1, int(min(height, width) / 4))  # four points a cell are enough to fit on
    return guided_blur(edges_of[None] / 255, pixels, window, CONTRAST, border_type="replicate", subsample=step)[0]
