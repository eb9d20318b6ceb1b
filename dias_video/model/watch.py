"""Numbers that are logged in training and not minimised: they show whether slots divide frames and stay on objects."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WATCHED: tuple[str, ...] = ("live_first", "live_later", "largest_share", "steadiness")


@torch.no_grad()
def watch(last: Tensor, live: Tensor, num_live: Tensor, frame_valid: Tensor) -> dict[str, Tensor]:
    """The numbers of ``WATCHED``, each (B,) float32.

    ``live_first`` and ``live_later`` are the numbers of slots that reduction leaves on the first frame and, as a mean,
    on the later ones. ``largest_share`` is the part of the cells that the largest slot holds, mean over frames.
    ``steadiness`` is the IoU of a slot's cells on two successive frames, mean over slots that are live and hold cells
    on one of them. It is low where slots exchange their objects from frame to frame, which no other loss or number
    here shows. Clips of one frame have neither ``live_later`` nor ``steadiness``.

    Args:
        last: (B,T,S,N) attention of the last iteration.
        live: (B,T,S) bool.
        num_live: (B,T) int64, as in ``dias.Scan``.
        frame_valid: (B,T) bool, False for padding.
    """
    numbers, valid = num_live.float(), frame_valid.float()
    owned = F.one_hot(last.argmax(2), last.shape[2]).transpose(2, 3).bool() & live[..., None]  # (B,T,S,N)
    shares = owned.float().mean(-1).amax(-1)  # (B,T)
    terms = {"live_first": numbers[:, 0], "largest_share": (shares * valid).sum(1) / valid.sum(1)}
    if numbers.shape[1] == 1:
        return terms
    # A clip of one frame among longer ones has no later frame; its first frame is used instead.
    later = (numbers[:, 1:] * valid[:, 1:]).sum(1) / valid[:, 1:].sum(1).clamp_min(1)
    terms["live_later"] = torch.where(frame_valid[:, 1], later, numbers[:, 0])
    before, after = owned[:, :-1], owned[:, 1:]
    either = (before | after).sum(-1).float()
    iou = (before & after).sum(-1) / either.clamp_min(1)
    counted = (either > 0) & frame_valid[:, 1:, None]
    mean = (iou * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)
    terms["steadiness"] = torch.where(frame_valid[:, 1], mean, 1.0)
    return terms
