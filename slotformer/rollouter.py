"""SlotFormer: a Transformer over the slots of the last frames predicts the slots of the next frame, repeatedly.

After "SlotFormer: Unsupervised Visual Dynamics Simulation with Object-Centric Models" (Wu et al., 2023), section 3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dias_video.batch import SlotSequence
from dias_video.draws import Draws, Dropout
from dias_video.model.layers import LayerNorm
from dias_video.pretrained.saving import Pretrained


def context_live(live: Tensor, track_id: Tensor) -> Tensor:
    """The context tokens that a prediction may use: (B,T,S) bool from ``live`` and ``track_id`` (B,T,S).

    The slots that live at the last frame of the context are used, there and on earlier frames on which they had the
    same track. Earlier frames with another track, that is another object, are hidden.
    """
    return live & live[:, -1:] & (track_id == track_id[:, -1:])


def scored_live(live: Tensor, track_id: Tensor, burn_in: int) -> Tensor:
    """The future slots that are scored: (B,T-burn_in,S) bool; their track lives at frame ``burn_in - 1`` and still."""
    last = slice(burn_in - 1, burn_in)
    return live[:, burn_in:] & live[:, last] & (track_id[:, burn_in:] == track_id[:, last])


def births(live: Tensor, track_id: Tensor, burn_in: int) -> Tensor:
    """Number of tracks of each clip that begin after frame ``burn_in - 1``, (B,) int64; they can't be predicted."""
    before = live[:, burn_in - 1 : -1] & (track_id[:, burn_in - 1 : -1] == track_id[:, burn_in:])
    return (live[:, burn_in:] & ~before).sum((1, 2))


class Dynamics(Pretrained, nn.Module, ABC):
    """The base of slot predictors: units of slots, the rollout loss, and the interface for predictions.

    Inside a model, slots are centred per channel and divided by one number (buffers ``slot_mean`` and ``slot_scale``,
    set from the cache before training). This changes the mean squared error only by a factor.
    """

    slot_mean: Tensor
    slot_scale: Tensor

    def __init__(
        self,
        slot_dim: int,
        burn_in: int = 15,
        rollout: int = 10,
        stride: int = 3,
        width: int = 256,
        layers: int = 8,
        heads: int = 8,
        ffn_ratio: int = 4,
        residual: bool = False,
        encoder: str = "",
        encoding: str = "",
        dropout: float = 0.0,
    ) -> None:
        """Store the settings and make the weights; the defaults are those published for Physion.

        Args:
            slot_dim: D.
            burn_in: number of context frames.
            rollout: number of frames predicted in training.
            stride: distance of frames, in raw frames.
            width: E, the width of a token.
            layers: number of Transformer layers.
            heads: heads of their attention.
            ffn_ratio: hidden width of their feed-forward part, as a multiple of ``width``.
            residual: predict the change from the last frame instead of the frame; small models learn this much faster.
                It is not in the paper.
            encoder: SHA-256 of the weights of the model that made the slots, so that other slots can be refused.
            encoding: how that model was applied to videos (``SlotCache.encoding``), for the same reason.
            dropout: probability in training, in attention and after it, in the feed-forward part and after it; 0.1 as
                published.
        """
        super().__init__()
        if min(slot_dim, burn_in, rollout, stride) < 1:
            raise ValueError("slotformer.burn_in, slotformer.rollout and slotformer.stride must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"slotformer.dropout={dropout} must be a probability below 1")
        if width % 2:
            raise ValueError(f"slotformer.width={width} must be even")
        self.slot_dim, self.burn_in, self.rollout_steps, self.stride = slot_dim, burn_in, rollout, stride
        self.residual = residual
        self.encoder, self.encoding, self.dropout = encoder, encoding, dropout
        self.register_buffer("slot_mean", torch.zeros(slot_dim))
        self.register_buffer("slot_scale", torch.ones(()))
        self.in_proj = nn.Linear(self.token_dim, width)
        self.blocks = nn.ModuleList(Block(width, heads, ffn_ratio * width) for _ in range(layers))
        self.out_proj = nn.Linear(width, slot_dim)
        if residual:
            nn.init.zeros_(self.out_proj.weight)
            nn.init.zeros_(self.out_proj.bias)

    @property
    def token_dim(self) -> int:
        """Number of values of which a token is made."""
        return self.slot_dim

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Set the slots' mean (D,) and scale (), in the units of the cache."""
        self.slot_mean.copy_(mean)
        self.slot_scale.copy_(scale)

    def forward(self, batch: SlotSequence, draws: Draws) -> dict[str, Tensor]:
        """Loss of a rollout without teacher forcing; the first ``burn_in`` frames are context, the others predicted.

        Returns:
            ``slots`` (B,), each clip's mean squared error over its scored slots, in normalised units.

        Raises:
            ValueError: the clips are too short, or their slots have another width.
        """
        steps = batch.slots.shape[1] - self.burn_in
        if steps < 1 or batch.slots.shape[-1] != self.slot_dim:
            raise ValueError(
                f"a batch of slots {tuple(batch.slots.shape)} does not fit a model of {self.burn_in} burn-in frames "
                f"and slots {self.slot_dim} wide"
            )
        scored = scored_live(batch.live, batch.track_id, self.burn_in)  # (B,R,S)
        past = slice(0, self.burn_in)
        live = context_live(batch.live[:, past], batch.track_id[:, past])
        drop = Dropout(self.dropout, draws) if self.training and self.dropout else None
        predicted = self.predict(self.normalise(batch.slots[:, past]), live, steps, drop)
        error = (predicted - self.normalise(batch.slots[:, self.burn_in :])).square().mean(-1)  # (B,R,S)
        return {"slots": (error * scored).sum((1, 2)) / scored.sum((1, 2)).clamp(min=1)}

    def rollout(self, slots: Tensor, live: Tensor, steps: int) -> Tensor:
        """Predict ``steps`` frames (``stride`` raw frames apart) after the context.

        Args:
            slots: (B,T,S,D) in the units of the cache; the last ``burn_in`` frames are used; there may be fewer.
            live: (B,T,S) bool, see :func:`context_live`.
            steps: number of frames to predict.

        Returns:
            (B,steps,S,D) in the units of the cache, zeros where a slot is dead on the last context frame.
        """
        slots, live = slots[:, -self.burn_in :], live[:, -self.burn_in :]
        predicted = self.predict(self.normalise(slots), live, steps)
        return (predicted * self.slot_scale + self.slot_mean) * live[:, -1:, :, None]

    def normalise(self, slots: Tensor) -> Tensor:
        """Slots (..., D) in the model's units."""
        return (slots - self.slot_mean) / self.slot_scale

    @abstractmethod
    def predict(self, slots: Tensor, live: Tensor, steps: int, drop: Dropout | None = None) -> Tensor:
        """The rollout in normalised units: (B,T,S,D), (B,T,S) -> (B,steps,S,D)."""


class SlotFormer(Dynamics):
    """The published model: all slots of a sliding window attend to each other; the last frame's tokens give the next.

    It has linear in- and out-projections, sine positions over time and none over slots, and a pre-norm Transformer
    encoder.
    """

    @property
    def positions(self) -> Tensor:
        """The positions (burn_in,E) that are added to the tokens of context frames."""
        return sine_positions(self.burn_in, self.in_proj.out_features)

    def predict(self, slots: Tensor, live: Tensor, steps: int, drop: Dropout | None = None) -> Tensor:
        """See :class:`Dynamics`. A frame is projected once; in the last layer only the last frame has queries."""
        window = self.in_proj(slots)  # (B,T,S,E)
        positions = self.positions[-slots.shape[1] :, None].to(window)  # (T,1,E)
        last, predicted = slots[:, -1], []
        for _ in range(steps):
            last = self.next_frame(window, positions, live, last, drop)
            predicted.append(last)
            window = torch.cat([window[:, 1:], self.in_proj(last)[:, None]], 1)
            live = torch.cat([live[:, 1:], live[:, -1:]], 1)
        return torch.stack(predicted, 1)

    def next_frame(
        self, window: Tensor, positions: Tensor, live: Tensor, last: Tensor, drop: Dropout | None = None
    ) -> Tensor:
        """Slots (B,S,D) after a window (B,T,S,E) of projected slots, of which those in ``live`` (B,T,S) are used."""
        num_slots = window.shape[2]
        tokens = (window + positions).flatten(1, 2)  # (B,T*S,E)
        bias = key_bias(live.flatten(1), tokens.dtype)  # (B,1,1,T*S)
        for block in self.blocks[:-1]:
            tokens = block(tokens, tokens, bias, drop)
        tokens = self.blocks[-1](tokens[:, -num_slots:], tokens, bias, drop)  # (B,S,E)
        change = self.out_proj(tokens)
        return last + change if self.residual else change


class Block(nn.Module):
    """Pre-norm Transformer encoder layer (ReLU, biases) with possibly fewer queries than keys.

    Dropout is in the same places as in PyTorch's ``TransformerEncoderLayer``.
    """

    def __init__(self, width: int, heads: int, ffn_dim: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"slotformer.width={width} is not divisible by slotformer.heads={heads}")
        self.heads = heads
        self.norm1 = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn_dim), nn.ReLU(), nn.Linear(ffn_dim, width))
        nn.init.xavier_uniform_(self.qkv.weight)  # as nn.MultiheadAttention starts
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, queries: Tensor, tokens: Tensor, bias: Tensor, drop: Dropout | None = None) -> Tensor:
        """Update ``queries`` (B,Q,E) by attention to ``tokens`` (B,L,E), of which the queries are the last Q."""
        if queries is tokens:
            q, k, v = self.project(self.norm1(tokens))
        else:
            q, k, v = self.project_last(self.norm1(tokens), queries.shape[1])
        return self.update(queries, attended(q, k, v, bias, drop), drop)

    def update(self, queries: Tensor, mixed: Tensor, drop: Dropout | None = None) -> Tensor:
        """Add attended values (B,heads,Q,E/heads) and then the feed-forward layer to ``queries`` (B,Q,E)."""
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        if drop is None:
            queries = queries + mixed
            return queries + self.ffn(self.norm2(queries))
        queries = queries + drop(mixed)
        widen, relu, narrow = self.ffn
        return queries + drop(narrow(drop(relu(widen(self.norm2(queries))))))

    def project_last(self, tokens: Tensor, num_queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last tokens (B,heads,Q,E/heads), keys and values of all (B,heads,L,E/heads)."""
        width = tokens.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(tokens[:, -num_queries:], weight[:width], bias[:width]).unflatten(-1, (self.heads, -1))
        k, v = F.linear(tokens, weight[width:], bias[width:]).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q.transpose(1, 2), k, v

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B,heads,L,E/heads)."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v


def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, drop: Dropout | None = None) -> Tensor:
    """Attention of queries (B,heads,Q,d) to keys and values (B,heads,L,d), with ``bias`` added to the logits."""
    if drop is None:
        return F.scaled_dot_product_attention(q, k, v, bias)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias).softmax(-1)  # (B,heads,Q,L)
    return drop(weights) @ v


def key_bias(live: Tensor, dtype: torch.dtype) -> Tensor:
    """The bias of attention logits that gives dead keys no weight: (B,L) bool -> (B,1,1,L).

    It is large but finite: if every key is dead, the result has no meaning but is not NaN.
    """
    return torch.where(live, 0.0, -1e4).to(dtype)[:, None, None]


def sine_positions(num_frames: int, width: int) -> Tensor:
    """Sine and cosine of a frame's age (0 = newest, last row): (T,E)."""
    age = torch.arange(num_frames - 1, -1, -1, dtype=torch.float32)
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = age[:, None] * frequency  # (T,E/2)
    return torch.cat([angle.sin(), angle.cos()], -1)
