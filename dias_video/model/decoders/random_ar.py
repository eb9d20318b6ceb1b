"""Random autoregressive decoding (paper eq. 18-23)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.decoders.decoded import Decoded, Decoder, check_tokens
from dias_video.model.decoders.slot_transformer import SlotTransformer
from dias_video.model.layers import LayerNorm, zero_biases

MODES = ("parallel", "next_token")
SCORED = ("all", "unknown")


class RandomARDecoder(Decoder):
    """Random autoregressive decoding (eq. 18-23).

    Args:
        feature_dim: C, the width of the tokens.
        slot_dim: D.
        num_tokens: N, for the learned 1-D positions E_p.
        width: width of the Transformer. The released configuration uses C; then there is no readout after it.
        mode: ``parallel`` predicts every unknown token at once (as released). The known prefix has uniform length with
            probability 1/2, otherwise its length is ``short_prefix`` times N. ``next_token`` predicts only the one
            mask token that follows the known prefix (eq. 18-23 exactly; n# is uniform in 0..N-1, since no token
            follows all N).
        scored: which tokens count in the loss of ``parallel``: ``all`` (as released) or ``unknown``. Only with ``all``
            does it learn anything for the places of known tokens. So without draws it then knows every token of
            ``target`` (as released); otherwise (``unknown``, ``next_token``) it knows none, since its attention there,
            and so its masks, would have no meaning.
        short_prefix: 0.1 as released. With 0 no token is known in half of the cases, as when predicted slots are
            decoded. The decoder then has to use the slots even where a few tokens say much about an image.
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
        self.mode, self.scored, self.num_tokens, self.feature_dim = mode, scored, num_tokens, feature_dim
        self.answers_known = mode == "parallel" and scored == "all"
        self.project_tokens = nn.Sequential(nn.Linear(feature_dim, width, bias=False), LayerNorm(width))
        self.mask_token = nn.Parameter(torch.randn(width) * width**-0.5)  # E_m
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_tokens, width)))  # E_p
        self.transformer = SlotTransformer(slot_dim, width, num_layers, num_heads, mlp_ratio)
        self.readout = nn.Identity() if width == feature_dim else nn.Linear(width, feature_dim)
        zero_biases(self)

    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D), live where ``live`` (B,T,S), to tokens (B,T,N,C); see ``Decoder.forward``."""
        shape = (*slots.shape[:2], self.num_tokens)  # B T N
        check_tokens(target, shape, self.feature_dim)
        slots, live = slots.flatten(0, 1), live.flatten(0, 1)  # (F,S,D) (F,S), F = B*T frames
        num_frames = len(slots)
        positions = self.positions.expand(num_frames, -1, -1)  # (F,N,width)
        if target is None or draws is None:
            # Position order; either every token is known or none is.
            known = self._tokens(target) if target is not None and self.answers_known else self.mask_token
            x, attention = self.transformer(known + positions, slots, live)
            scored = torch.ones(shape, dtype=torch.bool, device=slots.device)
            return self._decoded(x, attention, scored, shape)

        order = draws.uniform(*shape[1:]).flatten(0, 1).argsort(-1)  # (F,N) I of eq. 19
        place = order.argsort(-1)  # (F,N) where each token went: I inverted
        length = self._prefix_length(draws, shape[1]).flatten()  # (F,) n# of eq. 18
        # Only a token's place in the order decides whether it is known. The sequence itself need not be permuted, since
        # a Transformer with added positions is equivariant to the order of its tokens.
        known_here = place < length[:, None]  # (F,N) I[:n#]
        tokens = torch.where(known_here[..., None], self._tokens(target), self.mask_token.to(slots.dtype))  # eq. 21
        if self.mode == "parallel":
            x, attention = self.transformer(tokens + positions, slots, live)  # eq. 20, 22: every unknown place at once
            scored = torch.ones_like(known_here) if self.scored == "all" else ~known_here
        else:
            scored = place == length[:, None]  # the one token to predict
            seen = known_here | scored  # (F,N) I[:n# + 1] of eq. 20
            x, attention = self.transformer(tokens + positions, slots, live, keys=seen)  # eq. 22
        return self._decoded(x, attention, scored.view(shape), shape)

    def _tokens(self, target: Tensor) -> Tensor:
        return self.project_tokens(target.flatten(0, 1))  # (F,N,width)

    def _prefix_length(self, draws: Draws, num_frames: int) -> Tensor:
        """Number of known tokens of each frame, (B,T) int64."""
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
