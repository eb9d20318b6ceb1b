"""Slot-slot contrast, which SlotContrast adds to the reconstruction; not a part of DIAS."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dias_video.batch import SlotSequence
from dias_video.machine.ranks import host_group


def contrast_loss(sequence: SlotSequence, temperature: float, frame_valid: Tensor) -> Tensor:
    """A slot tells which slot of the frame before it was, among all slots of the batch (Manasyan et al. 2025).

    Cross-entropy of cosine similarities over ``temperature``, in the direction of their released code: the softmax is
    over the earlier frame. "All" are the live slots of that frame in every clip of every process' batch (of every
    process' micro-batch, where an update has several: there it matters how the batch is shared).

    Args:
        sequence: slots (B,T,S,D); a track is compared with itself where it lives on both frames.
        temperature: 0.1 in their configurations.
        frame_valid: (B,T) bool, False for padding.

    Returns:
        (B,) float32, mean over a clip's slots that live on two frames, 0 where there is none.

    Raises:
        ValueError: clips of one frame, or processes with clips of different lengths.
    """
    batch, frames, num_slots = sequence.live.shape
    if frames < 2:
        raise ValueError("slot contrast needs clips of at least 2 frames; set data.clip.num_frames")
    slots = F.normalize(sequence.slots.float(), dim=-1)
    live = sequence.live & frame_valid[..., None]
    before, there, start = slots[:, :-1], live[:, :-1], 0
    if dist.is_initialized() and dist.get_world_size() > 1:
        before, there, start = everyones(before), everyones(there), dist.get_rank() * batch
    candidates, there = (x.transpose(0, 1).flatten(1, 2) for x in (before, there))  # (T-1,G,D) (T-1,G)
    logits = slots[:, 1:] @ candidates.mT / temperature  # (B,T-1,S,G)
    logits = logits.masked_fill(~there[:, None], -1e30)  # not -inf: a row that counts nowhere must not become NaN
    own = torch.arange(start * num_slots, (start + batch) * num_slots, device=slots.device)
    own = own.view(batch, 1, num_slots, 1).expand(-1, frames - 1, -1, -1)
    per_slot = -logits.log_softmax(-1).gather(-1, own)[..., 0]  # (B,T-1,S)
    same = live[:, 1:] & live[:, :-1] & (sequence.track_id[:, 1:] == sequence.track_id[:, :-1])
    return torch.where(same, per_slot, 0.0).sum((1, 2)) / same.sum((1, 2)).clamp_min(1)


def everyones(x: Tensor) -> Tensor:
    """Tensors of one shape of all processes, (B,...) to (processes * B,...), with gradient to each.

    Raises:
        ValueError: in every process, if their shapes differ.
    """
    shapes = [torch.empty(x.ndim, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, torch.tensor(x.shape), group=host_group())  # no GPU is waited for
    if len({tuple(shape.tolist()) for shape in shapes}) > 1:
        raise ValueError("slot contrast on several processes needs clips of one length; lower data.clip.num_frames")
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    """PyTorch's own differentiable ``all_gather`` gave wrong gradients with gloo (PyTorch 2.14)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed.tensor_split(dist.get_world_size())[dist.get_rank()]
