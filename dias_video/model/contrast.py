"""Slot-slot contrast, the loss that SlotContrast adds to the reconstruction; it is not a part of DIAS."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dias_video.batch import SlotSequence, VideoBatch
from dias_video.draws import Draws
from dias_video.machine.ranks import host_group
from dias_video.model.encoders import Encoder


class SlotContrast:
    """A guide of ``DIAS`` with the loss term ``contrast`` (``contrast_loss``); in SlotContrast its weight is 0.5.

    Args:
        temperature: see ``contrast_loss``.
    """

    def __init__(self, temperature: float) -> None:
        if temperature <= 0:
            raise ValueError(f"the temperature of the contrast must be above 0, got {temperature}")
        self.temperature = temperature

    def inputs(self, cached: Collection[str] = ()) -> set[str]:
        """It needs nothing of a batch beside what the model needs."""
        return set()

    def check(self, encoder: Encoder) -> None:
        """Nothing: it does not look at features."""

    def losses(self, batch: VideoBatch, features: Tensor, scan: SlotSequence, draws: Draws) -> dict[str, Tensor]:
        """``contrast`` (B,) of the slots of ``scan``; the other arguments are not used."""
        with torch.autocast(features.device.type, enabled=False):  # autocast would round the similarities
            return {"contrast": contrast_loss(scan, self.temperature, batch.frame_valid)}


def contrast_loss(sequence: SlotSequence, temperature: float, frame_valid: Tensor) -> Tensor:
    """Every slot must find itself in the frame before, among all slots of the batch (Manasyan et al. 2025).

    It is the cross-entropy of cosine similarities divided by ``temperature``. The softmax is over the slots of the
    earlier frame, as in the authors' released code: all live slots of that frame in every clip of the batches of all
    processes. Where an update has several micro-batches, the clips of all processes in one of them are compared, so
    the loss depends on how the batch is divided.

    Args:
        sequence: slots (B,T,S,D); a slot counts where its track lives on both frames.
        temperature: divisor of the cosine similarities; the authors use 0.1.
        frame_valid: (B,T) bool, False for padding.

    Returns:
        (B,) float32, the mean over a clip's slots that live on two successive frames; 0 where there is none.

    Raises:
        ValueError: clips have one frame, or processes have clips of different lengths.
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
    logits = logits.masked_fill(~there[:, None], -1e30)  # not -inf: rows that don't count must not become NaN
    own = torch.arange(start * num_slots, (start + batch) * num_slots, device=slots.device)
    own = own.view(batch, 1, num_slots, 1).expand(-1, frames - 1, -1, -1)
    per_slot = -logits.log_softmax(-1).gather(-1, own)[..., 0]  # (B,T-1,S)
    same = live[:, 1:] & live[:, :-1] & (sequence.track_id[:, 1:] == sequence.track_id[:, :-1])
    return torch.where(same, per_slot, 0.0).sum((1, 2)) / same.sum((1, 2)).clamp_min(1)


def everyones(x: Tensor) -> Tensor:
    """The tensors (B,...) of all processes as one (processes * B,...); gradients flow back to every process.

    Raises:
        ValueError: the shapes of the processes differ; every process raises it.
    """
    shapes = [torch.empty(x.ndim, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, torch.tensor(x.shape), group=host_group())  # on the host, so without waiting for a GPU
    if len({tuple(shape.tolist()) for shape in shapes}) > 1:
        raise ValueError("slot contrast on several processes needs clips of one length; lower data.clip.num_frames")
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    """``all_gather`` with gradient; PyTorch's own gave wrong gradients with gloo (PyTorch 2.14)."""

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
