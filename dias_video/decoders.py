"""Decoders phi_d: slots to the encoder's tokens, and who owns which token (paper eq. 3, 11, 16-23).

Every decoder answers ``decoder(slots (B,T,S,D), mask (B,T,S), target (B,T,N,C) or None, draws or None)`` with a
``Decoded``. With ``draws`` it trains (random order, random prefix); without them every token of ``target`` is known;
without ``target`` none is: the only fair way to decode predicted slots, which have no features.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.batch import Draws
from dias_video.layers import MLP, CrossAttention, SelfAttention, masked_softmax
from dias_video.pretrained import Configured

MODES = ("parallel", "next_token")
SCORED = ("all", "unknown")


class Decoded(NamedTuple):
    """What a decoder returns."""

    reconstruction: Tensor  # (B,T,N,C)
    attention: Tensor  # (B,T,S,N) A_d, exactly 0 on dead slots
    scored: Tensor  # (B,T,N) bool, tokens that the reconstruction loss counts


class DecoderLayer(nn.Module):
    """Pre-norm Transformer decoder layer without bias: self-attention, cross-attention to slots, MLP.

    ``first``: the input was normalised before the residual stream starts, so there is no norm before self-attention.
    ``self_attention=False`` leaves tokens independent of one another (SlotMixer).
    """

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: int, first: bool = False, self_attention: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if first else nn.LayerNorm(width, bias=False)
        self.self_attention = SelfAttention(width, num_heads) if self_attention else None
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.cross_attention = CrossAttention(width, num_heads)
        self.norm3 = nn.LayerNorm(width, bias=False)
        self.mlp = MLP(width, mlp_ratio * width, bias=False)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor, keys: Tensor | None, causal: bool, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x (F,N,width) and slots ``memory`` (F,S,width) to x and, with ``weights``, attention (F,N,S)."""
        if self.self_attention is not None:
            x = x + self.self_attention(self.norm1(x), keys, causal)
        update, attention = self.cross_attention(self.norm2(x), memory, mask, weights)
        x = x + update
        return x + self.mlp(self.norm3(x)), attention


class SlotTransformer(nn.Module):
    """Tokens (F,N,width) through decoder layers over projected slots; A_d is the last layer's, mean over heads."""

    def __init__(
        self, slot_dim: int, width: int, num_layers: int, num_heads: int, mlp_ratio: int, self_attention: bool = True
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.project_slots = nn.Sequential(nn.Linear(slot_dim, width, bias=False), nn.LayerNorm(width))
        self.norm = nn.LayerNorm(width, bias=False)
        self.layers = nn.ModuleList(
            DecoderLayer(width, num_heads, mlp_ratio, i == 0, self_attention) for i in range(num_layers)
        )

    def forward(
        self, x: Tensor, slots: Tensor, mask: Tensor, keys: Tensor | None = None, causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Returns tokens (F,N,width) and attention (F,N,S)."""
        memory = self.project_slots(slots)
        x = self.norm(x)
        attention = None
        for i, layer in enumerate(self.layers):
            x, attention = layer(x, memory, mask, keys, causal, weights=i == len(self.layers) - 1)
        assert attention is not None
        return x, attention


class RandomARDecoder(Configured, nn.Module):
    """Random autoregressive decoding (eq. 18-23).

    Args:
        feature_dim: C of the reconstructed tokens.
        slot_dim: D.
        num_tokens: N, for the learned 1-D positions E_p.
        width: of the Transformer; the released configuration uses C, and then tokens leave it without a readout.
        mode: ``parallel``: every unknown token is predicted at once (as released); the known prefix has uniform length
            with probability 1/2, otherwise ``short_prefix`` of N. ``next_token``: one mask token follows the known
            prefix, and only it is predicted (eq. 18-23 to the letter; n# is uniform in 0..N-1, since after all N none
            is next).
        scored: which tokens the loss of ``parallel`` counts, ``all`` (as released) or ``unknown``.
        short_prefix: 0.1 as released. 0 trains what predicted slots are decoded with, no token known at all, and makes
            the decoder rely on slots where a few tokens tell much of an image.
    """

    def __init__(
        self,
        feature_dim: int,
        slot_dim: int,
        num_tokens: int,
        width: int,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        mode: str = "parallel",
        scored: str = "all",
        short_prefix: float = 0.1,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"the decoding mode must be one of {MODES}, got {mode!r}")
        if scored not in SCORED:
            raise ValueError(f"scored must be one of {SCORED}, got {scored!r}")
        if not 0 <= short_prefix < 1:
            raise ValueError(f"short_prefix is a part of the tokens, from 0 to below 1, got {short_prefix}")
        self.short_prefix = short_prefix
        self.mode, self.scored, self.num_tokens = mode, scored, num_tokens
        self.project_tokens = nn.Sequential(nn.Linear(feature_dim, width, bias=False), nn.LayerNorm(width))
        self.mask_token = nn.Parameter(torch.randn(width) * width**-0.5)  # E_m
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_tokens, width)))  # E_p
        self.transformer = SlotTransformer(slot_dim, width, num_layers, num_heads, mlp_ratio)
        self.readout = nn.Identity() if width == feature_dim else nn.Linear(width, feature_dim)

    def forward(self, slots: Tensor, mask: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D), live where ``mask`` (B,T,S), to tokens (B,T,N,C); the module says what the others do."""
        shape = (*slots.shape[:2], self.num_tokens)  # B T N
        _check_tokens(target, shape)
        slots, mask = slots.flatten(0, 1), mask.flatten(0, 1)  # (F,S,D) (F,S), F = B*T frames
        num_frames = len(slots)
        positions = self.positions.expand(num_frames, -1, -1)  # (F,N,width)
        if target is None or draws is None:
            # Position order; either every token is known or none is.
            known = self.mask_token.expand_as(positions) if target is None else self._tokens(target)
            x, attention = self.transformer(known + positions, slots, mask)
            scored = torch.ones(shape, dtype=torch.bool, device=slots.device)
            return self._decoded(x, attention, scored, shape)

        order = draws.uniform(*shape[1:]).flatten(0, 1).to(slots.device).argsort(-1)  # (F,N) I of eq. 19
        place = order.argsort(-1)  # (F,N) where each token went: I inverted
        length = self._prefix_length(draws, shape[1]).flatten().to(slots.device)  # (F,) n# of eq. 18
        # What is known is decided by a token's place in the order, so the sequence itself need not be permuted: a
        # Transformer with positions added is equivariant to its order.
        known_here = place < length[:, None]  # (F,N) I[:n#]
        tokens = torch.where(known_here[..., None], self._tokens(target), self.mask_token.to(slots.dtype))  # eq. 21
        if self.mode == "parallel":
            x, attention = self.transformer(tokens + positions, slots, mask)  # eq. 20, 22: every unknown place at once
            scored = torch.ones_like(known_here) if self.scored == "all" else ~known_here
        else:
            scored = place == length[:, None]  # the one token to predict
            seen = known_here | scored  # (F,N) I[:n# + 1] of eq. 20
            x, attention = self.transformer(tokens + positions, slots, mask, keys=seen)  # eq. 22
        return self._decoded(x, attention, scored.view(shape), shape)

    def _tokens(self, target: Tensor) -> Tensor:
        return self.project_tokens(target.flatten(0, 1))  # (F,N,width)

    def _prefix_length(self, draws: Draws, num_frames: int) -> Tensor:
        """(B,T) int64, how many tokens are known."""
        uniform = (draws.uniform(num_frames) * self.num_tokens).long()  # 0..N-1
        if self.mode == "next_token":
            return uniform
        short = torch.full_like(uniform, int(self.short_prefix * self.num_tokens))
        return torch.where(draws.uniform(num_frames) < 0.5, uniform, short)

    def _decoded(self, x: Tensor, attention: Tensor, scored: Tensor, shape: tuple[int, int, int]) -> Decoded:
        batch, frames, _ = shape
        return Decoded(
            rearrange(self.readout(x), "(b t) n c -> b t n c", b=batch, t=frames),
            rearrange(attention, "(b t) n s -> b t s n", b=batch, t=frames),
            scored,
        )


class CausalDecoder(Configured, nn.Module):
    """Autoregressive decoding in fixed orders (eq. 16-17): one raster order (SLATE), or the nine of SPOT.

    Each order has its own beginning-of-sequence token; tokens attend to earlier ones only. In training an order is
    drawn for every frame, in evaluation it is the raster order. Slots without features are decoded one token after the
    other from what was decoded before: N times the work.

    Args:
        grid: (h,w) of the tokens; N = h*w.
        num_orders: 1 (random AR off: causal raster) or 9.
    """

    orders: Tensor

    def __init__(
        self,
        feature_dim: int,
        slot_dim: int,
        grid: tuple[int, int],
        width: int,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        num_orders: int = 1,
    ) -> None:
        super().__init__()
        if num_orders not in (1, 9):
            raise ValueError(f"num_orders must be 1 (raster) or 9 (SPOT's), got {num_orders}")
        self.num_tokens = grid[0] * grid[1]
        self.register_buffer("orders", fixed_orders(*grid)[:num_orders], persistent=False)  # (orders,N)
        self.project_tokens = nn.Sequential(nn.Linear(feature_dim, width, bias=False), nn.LayerNorm(width))
        self.begin = nn.Parameter(torch.randn(num_orders, width) * width**-0.5)  # E_bos
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.num_tokens, width)))
        self.transformer = SlotTransformer(slot_dim, width, num_layers, num_heads, mlp_ratio)
        self.readout = nn.Identity() if width == feature_dim else nn.Linear(width, feature_dim)

    def forward(self, slots: Tensor, mask: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``draws`` choose the orders, without them it is the first."""
        batch, frames = slots.shape[:2]
        _check_tokens(target, (batch, frames, self.num_tokens))
        slots, mask = slots.flatten(0, 1), mask.flatten(0, 1)
        if draws is None:
            which = torch.zeros(batch * frames, dtype=torch.int64, device=slots.device)
        else:
            which = (draws.uniform(frames) * len(self.orders)).long().flatten().to(slots.device)
        order = self.orders[which]  # (F,N) I^j
        if target is None:
            x, attention = self._generate(slots, mask, which, order)
        else:
            known = self.project_tokens(_gather(target.flatten(0, 1), order)[:, :-1])  # (F,N-1,width)
            x, attention = self._pass(known, slots, mask, which, order)
        back = order.argsort(-1)
        return Decoded(
            rearrange(_gather(self.readout(x), back), "(b t) n c -> b t n c", b=batch),
            rearrange(_gather(attention, back), "(b t) n s -> b t s n", b=batch),
            torch.ones(batch, frames, self.num_tokens, dtype=torch.bool, device=slots.device),
        )

    def _pass(self, known: Tensor, slots: Tensor, mask: Tensor, which: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Predict token i from the tokens before it; ``known`` (F,n,width) projected tokens in order, n < N."""
        x = torch.cat([self.begin[which][:, None], known], 1)  # (F,n+1,width) eq. 16
        x = x + self.positions[order[:, : x.shape[1]]]
        return self.transformer(x, slots, mask, causal=True)  # eq. 17

    def _generate(self, slots: Tensor, mask: Tensor, which: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        known = slots.new_zeros(len(slots), 0, self.begin.shape[-1])
        for _ in range(self.num_tokens):
            x, attention = self._pass(known, slots, mask, which, order)
            known = torch.cat([known, self.project_tokens(self.readout(x[:, -1:]))], 1)
        return x, attention


class MLPDecoder(Configured, nn.Module):
    """Spatial broadcast: every slot is decoded at every position, and the slots are mixed (DINOSAUR)."""

    def __init__(self, feature_dim: int, slot_dim: int, num_tokens: int, hidden: int, num_layers: int = 4) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.positions = nn.Parameter(torch.randn(num_tokens, slot_dim) * slot_dim**-0.5)
        widths = [slot_dim] + [hidden] * (num_layers - 1)
        hidden_layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
        self.mlp = nn.Sequential(*hidden_layers, nn.Linear(widths[-1], feature_dim + 1))

    def forward(self, slots: Tensor, mask: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``target`` and ``draws`` change nothing."""
        _check_tokens(target, (*slots.shape[:2], self.num_tokens))
        parts = self.mlp(slots[..., None, :] + self.positions)  # (B,T,S,N,C+1)
        alpha = masked_softmax(parts[..., -1], mask[..., None], dim=2)  # (B,T,S,N)
        mixed = (parts[..., :-1] * alpha[..., None].to(parts.dtype)).sum(2)  # (B,T,N,C)
        return Decoded(mixed, alpha, torch.ones_like(alpha[:, :, 0], dtype=torch.bool))


class SlotMixerDecoder(Configured, nn.Module):
    """SlotMixer (VideoSAUR): positions look up slots, a second attention mixes them, an MLP renders the mixture."""

    def __init__(
        self,
        feature_dim: int,
        slot_dim: int,
        num_tokens: int,
        width: int,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.positions = nn.Parameter(torch.randn(num_tokens, width) * width**-0.5)
        self.allocate = SlotTransformer(slot_dim, width, num_layers, num_heads, 4, self_attention=False)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(slot_dim, width, bias=False)
        self.render = nn.Sequential(nn.Linear(slot_dim, hidden), nn.ReLU(), MLP(hidden, hidden, feature_dim))

    def forward(self, slots: Tensor, mask: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``target`` and ``draws`` change nothing."""
        batch, frames = slots.shape[:2]
        _check_tokens(target, (batch, frames, self.num_tokens))
        slots, mask = slots.flatten(0, 1), mask.flatten(0, 1)
        x, _ = self.allocate(self.positions.expand(len(slots), -1, -1), slots, mask)  # (F,N,width)
        logits = self.query(self.norm(x)) @ self.key(slots).transpose(1, 2) * x.shape[-1] ** -0.5  # (F,N,S)
        attention = masked_softmax(logits, mask[:, None, :], dim=-1)
        rendered = self.render(attention.to(slots.dtype) @ slots)  # (F,N,C)
        return Decoded(
            rearrange(rendered, "(b t) n c -> b t n c", b=batch),
            rearrange(attention, "(b t) n s -> b t s n", b=batch),
            torch.ones(batch, frames, self.num_tokens, dtype=torch.bool, device=slots.device),
        )


def fixed_orders(height: int, width: int) -> Tensor:
    """Nine ways (9,N) to walk a grid: rows and columns from each of the four corners, and a spiral inwards.

    The first is raster order. SPOT (Kakogeorgiou et al. 2024) uses nine such orders.
    """
    cells = torch.arange(height * width).view(height, width)
    corners = [cells, cells.flip(1), cells.flip(0), cells.flip(0, 1)]
    walks = [c.flatten() for c in corners] + [c.T.flatten() for c in corners]
    spiral, rest = [], cells
    while rest.numel():
        spiral.append(rest[0])
        rest = rest[1:].T.flip(0)
    return torch.stack([*walks, torch.cat(spiral)])


def _gather(tokens: Tensor, order: Tensor) -> Tensor:
    """Tokens (F,N,C) in the order (F,N)."""
    return tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))


def _check_tokens(target: Tensor | None, shape: tuple[int, int, int]) -> None:
    if target is not None and target.shape[:3] != shape:
        raise ValueError(
            f"the decoder expects tokens {shape} + (C,), got {tuple(target.shape)}: check the encoder's grid"
        )
