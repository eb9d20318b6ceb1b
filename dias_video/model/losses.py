"""Loss terms, one value for each sample: reconstruction (eq. 4, 23), self-distillation (eq. 14-15), similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

TEACHERS = ("hard", "soft")


def reconstruction_loss(predicted: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean squared error (eq. 4, 23) over the counted tokens of each clip.

    Args:
        predicted, target: (B,T,N,C).
        counted: (B,T,N) bool, the tokens that the decoding mode scores, without those of padding.

    Returns:
        (B,) float32; the mean over the clip's counted tokens.
    """
    error = (predicted.float() - target.float()).square().mean(-1)  # (B,T,N)
    weight = counted.to(error.dtype)
    return (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)


def code_loss(logits: Tensor, codes: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of codes over the counted tokens of each clip.

    Args:
        logits: (B,T,N,V).
        codes: (B,T,N) int64.
        counted: (B,T,N) bool.

    Returns:
        (B,) float32; the mean over the clip's counted tokens.
    """
    error = F.cross_entropy(logits.float().flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)
    weight = counted.to(error.dtype)
    return (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)


def distillation_loss(first: Tensor, last: Tensor, live: Tensor, teacher: str, frame_valid: Tensor) -> Tensor:
    """Self-distillation: the first iteration's attention learns from the last one's (eq. 14-15).

    Args:
        first: (B,T,S,N) attention A_a^1, softmax over the slots that were on.
        last: (B,T,S,N) attention A_a after re-initialisation; it is the teacher and gets no gradient.
        live: (B,T,S) bool, slots live in ``last``; dead ones are never labels.
        teacher: ``hard``: argmax labels, Hungarian-matched to the first map's regions (the equations). ``soft``: the
            last map is the target, and the first map is used as if it were logits, without matching (the authors'
            released image code).
        frame_valid: (B,T) bool, False for padding.

    Returns:
        (B,) float32, mean over the clip's cells.
    """
    if teacher not in TEACHERS:
        raise ValueError(f"the distillation teacher must be one of {TEACHERS}, got {teacher!r}")
    first, last = first.float(), last.detach().float()
    on = first.detach().amax(-1) > 0  # (B,T,S)
    if teacher == "soft":
        logits = first.masked_fill(~on[..., None], -1e30)  # leaves out slots that were off
        per_cell = -(last * F.log_softmax(logits, dim=2)).sum(2)  # (B,T,N)
    else:
        labels = last.masked_fill(~live[..., None], -1).argmax(2)  # (B,T,N) bin_s(A_a)
        regions = first.detach().argmax(2)  # (B,T,N) bin_s(A_a^1)
        match = match_regions(labels, regions, live, on)  # (B,T,S) the first-map slot of each last-map slot
        target = match.gather(2, labels)  # (B,T,N) M_a* of eq. 14
        chosen = first.gather(2, target[:, :, None, :]).squeeze(2)  # (B,T,N)
        per_cell = -chosen.clamp_min(torch.finfo(torch.float32).tiny).log()  # eq. 15
    weight = frame_valid.to(per_cell.dtype)
    return (per_cell.mean(-1) * weight).sum(1) / weight.sum(1).clamp_min(1)


def match_regions(labels: Tensor, regions: Tensor, live: Tensor, on: Tensor) -> Tensor:
    """Hungarian assignment (eq. 14) of the last map's regions to the first map's, maximising IoU.

    Args:
        labels: (B,T,N) int64, last map's slot of each cell; ``live`` (B,T,S) bool says which slots may be labels.
        regions: (B,T,N) int64, first map's slot of each cell; ``on`` (B,T,S) bool says which slots were on.

    Returns:
        (B,T,S) int64: for each last-map slot the first-map slot matched to it.

    """
    num_slots = live.shape[-1]
    last = F.one_hot(labels, num_slots).float().transpose(2, 3)  # (B,T,S,N)
    first = F.one_hot(regions, num_slots).float()  # (B,T,N,S)
    overlap = last @ first  # (B,T,S,S) cells shared, exact in float32
    union = last.sum(-1)[..., :, None] + first.sum(-2)[..., None, :] - overlap
    iou = overlap / union.clamp_min(1)
    # A slot that was off in the first map has no probability to raise; the row of a dead slot has no effect.
    iou = iou.masked_fill(~on[..., None, :], -1).masked_fill(~live[..., :, None], 0)
    return _assign(iou)


@torch.library.custom_op("dias_video::assign", mutates_args=(), schema="(Tensor scores) -> Tensor")
def _assign(scores: Tensor) -> Tensor:
    """For tables (B,T,S,S) the column (B,T,S) int64 of every row; each column occurs once, and the sum is the largest.

    Only here does the host wait for the device in a training step: scipy solves all S x S problems on the host.
    """
    columns = torch.empty(scores.shape[:-1], dtype=torch.int64, pin_memory=scores.is_cuda)
    for row, table in zip(columns.flatten(0, 1).numpy(), scores.flatten(0, 1).cpu().numpy(), strict=True):
        row[:] = linear_sum_assignment(table, maximize=True)[1]
    return columns.to(scores.device, non_blocking=True)


@_assign.register_fake
def _assign_shape(scores: Tensor) -> Tensor:
    return scores.new_empty(scores.shape[:-1], dtype=torch.int64)


def similarity_loss(logits: Tensor, features: Tensor, temperature: float, frame_valid: Tensor) -> Tensor:
    """Temporal feature similarity (VideoSAUR: Zadaianchuk et al. 2023); it is not a part of DIAS.

    For every token the slots predict which tokens of the next frame are similar to it. The target is a softmax over the
    tokens of the next frame of cosine similarity divided by ``temperature``, without negative similarities (with all,
    if all are negative). The loss is the cross-entropy. The authors compare the keys of the encoder's last block; here
    its features are compared, which may come from a cache.

    Args:
        logits: (B,T,N,N), one for each pair of a token and a token of the next frame; those of the last frame are not
            used.
        features: (B,T,N,C) of the frozen encoder.
        temperature: 0.075 in their MOVi-E configuration, 0.15 on DINOv2.
        frame_valid: (B,T) bool, False for padding.

    Returns:
        (B,) float32, the mean over the tokens of all frames of a clip that have a next one.

    Raises:
        ValueError: clips have one frame.
    """
    if features.shape[1] < 2:
        raise ValueError("temporal similarity needs clips of at least 2 frames; set data.clip.num_frames")
    unit = F.normalize(features.detach().float(), dim=-1)
    cosine = unit[:, :-1] @ unit[:, 1:].transpose(-1, -2)  # (B,T-1,N,N)
    positive = (cosine >= 0) | (cosine < 0).all(-1, keepdim=True)
    target = (cosine / temperature).masked_fill(~positive, -torch.inf).softmax(-1)
    per_token = -(target * F.log_softmax(logits[:, :-1].float(), dim=-1)).sum(-1)  # (B,T-1,N)
    weight = (frame_valid[:, :-1] & frame_valid[:, 1:]).to(per_token.dtype)
    return (per_token.mean(-1) * weight).sum(1) / weight.sum(1).clamp_min(1)
