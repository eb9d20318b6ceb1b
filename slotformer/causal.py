"""A slot predictor that computes the past only once: a predicted frame costs one frame, for any length of context.

SlotFormer's window slides, so every step changes all positions and everything is computed again. Here a frame attends
only to itself and to earlier frames, and time enters as the distance between frames (rotary embedding, Su et al. 2021).
Keys and values of past frames are therefore computed once and kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dias_video.draws import Dropout
from slotformer.rollouter import Block, Dynamics, attended, key_bias


class CausalSlotFormer(Dynamics):
    """Frame-causal attention with relative temporal positions and cached keys and values.

    A predicted frame attends to itself and to the ``context - 1`` frames before it, burn-in or predicted. By default
    these are as many as occur in training. All else is as in :class:`slotformer.rollouter.SlotFormer`.
    """

    def __init__(
        self,
        slot_dim: int,
        burn_in: int = 15,
        rollout: int = 10,
        stride: int = 3,
        context: int | None = None,
        width: int = 256,
        layers: int = 8,
        heads: int = 8,
        ffn_ratio: int = 4,
        residual: bool = False,
        encoder: str = "",
        encoding: str = "",
        dropout: float = 0.0,
    ) -> None:
        sizes = (width, layers, heads, ffn_ratio)
        super().__init__(slot_dim, burn_in, rollout, stride, *sizes, residual, encoder, encoding, dropout)
        self.context = context or burn_in + rollout - 1
        if self.context < burn_in:
            raise ValueError(f"slotformer.context={context} must be at least slotformer.burn_in={burn_in}")
        if width % heads or (width // heads) % 2:
            raise ValueError(f"slotformer.width={width} over slotformer.heads={heads} must be an even number")
        self.head_dim = width // heads

    def predict(self, slots: Tensor, live: Tensor, steps: int, drop: Dropout | None = None) -> Tensor:
        """See :class:`slotformer.rollouter.Dynamics`."""
        num_frames, num_slots = slots.shape[1:3]
        past = Past(len(self.blocks), self.context * num_slots)
        frames = torch.arange(num_frames, device=slots.device).repeat_interleave(num_slots)  # (T*S,)
        later = torch.where(frames[:, None] >= frames, 0.0, -1e4).to(slots.dtype)  # (T*S,T*S)
        bias = key_bias(live.flatten(1), slots.dtype) + later
        tokens = self.advance(self.in_proj(slots).flatten(1, 2), frames, bias, past, drop)  # (B,T*S,E)
        seen, last, predicted = live.flatten(1), slots[:, -1], []
        for step in range(steps):
            change = self.out_proj(tokens[:, -num_slots:])  # (B,S,D)
            last = last + change if self.residual else change
            predicted.append(last)
            if step + 1 < steps:
                seen = torch.cat([seen, live[:, -1]], 1)[:, -past.limit :]
                now = frames[-num_slots:] + step + 1
                tokens = self.advance(self.in_proj(last), now, key_bias(seen, slots.dtype), past, drop)
        return torch.stack(predicted, 1)

    def advance(self, tokens: Tensor, frames: Tensor, bias: Tensor, past: Past, drop: Dropout | None = None) -> Tensor:
        """Pass new tokens (B,L,E) of ``frames`` (L,) through all layers, and add their keys and values to ``past``."""
        turn = rotation(frames, self.head_dim, tokens.dtype)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            q, k, v = block.project(block.norm1(tokens))
            k, v = past.extend(layer, rotate(k, turn), v)
            mixed = attended(rotate(q, turn), k, v, bias, drop)  # (B,heads,L,E/heads)
            tokens = block.update(tokens, mixed, drop)
        return tokens


class Past:
    """Keys and values of the last ``limit`` tokens in every layer; older ones are dropped."""

    def __init__(self, layers: int, limit: int) -> None:
        self.limit = limit
        self.kept: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.rooms: list[Room | None] = [None] * layers

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B,heads,L,E/heads) to a layer and return all that it keeps, with the new ones last."""
        if not torch.is_grad_enabled():
            room = self.rooms[layer]
            if room is None:
                room = self.rooms[layer] = Room(k, self.limit)
            return room.append(k, v)
        kept = self.kept[layer]
        if kept is not None:
            k, v = torch.cat([kept[0], k], 2)[:, :, -self.limit :], torch.cat([kept[1], v], 2)[:, :, -self.limit :]
        self.kept[layer] = (k, v)
        return k, v


class Room:
    """Memory for four times the tokens that are kept, so that the kept ones are rarely moved."""

    def __init__(self, like: Tensor, limit: int) -> None:
        self.limit, self.end = limit, 0
        size = 4 * max(limit, like.shape[2])
        self.tokens = like.new_empty(2, *like.shape[:2], size, like.shape[3])  # keys and values (B,heads,·,E/heads)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Past.extend`; the result is a view."""
        count = k.shape[2]
        if self.end + count > self.tokens.shape[3]:
            self.tokens[:, :, :, : self.limit] = self.tokens[:, :, :, self.end - self.limit : self.end].clone()
            self.end = self.limit
        self.tokens[0, :, :, self.end : self.end + count] = k
        self.tokens[1, :, :, self.end : self.end + count] = v
        self.end += count
        kept = self.tokens[:, :, :, max(0, self.end - self.limit) : self.end]
        return kept[0], kept[1]


def rotation(frames: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (L,width/2) of the angles by which channels of tokens of ``frames`` (L,) are rotated.

    Wavelengths grow from 6 to 6,000 frames; the first distinguishes neighbouring frames.
    """
    frequency = 1000.0 ** -(torch.arange(0, width, 2, device=frames.device) / width)
    angle = frames[:, None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate channel pairs of x (B,heads,L,E/heads), so that products depend only on the distance of frames."""
    cosine, sine = turn
    one, other = x.chunk(2, -1)
    return torch.cat([one * cosine - other * sine, one * sine + other * cosine], -1)
