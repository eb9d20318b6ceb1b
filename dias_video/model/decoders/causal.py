"""Autoregressive decoding in fixed orders (paper eq. 16-17)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.decoders.decoded import Decoded, Decoder, check_tokens
from dias_video.model.decoders.slot_transformer import SlotTransformer
from dias_video.model.layers import LayerNorm, zero_biases


class CausalDecoder(Decoder):
    """Autoregressive decoding in fixed orders (eq. 16-17): one raster order (SLATE), or the nine of SPOT.

    Each order has its own beginning-of-sequence token, and tokens attend to earlier ones only. In training an order is
    drawn for every frame; evaluation uses the raster order. Slots without features are decoded token by token, each
    from the tokens predicted before; this costs N times the work.

    Args:
        feature_dim: C of the known tokens.
        grid: (h,w) of the tokens; N = h*w.
        num_orders: 1 (random AR off: causal raster) or 9.
        out_dim: width of a prediction, for example the number of codes; None: C.
        direct: tokens and slots, both ``width`` wide, enter without a projection, and the readout has no bias (VVO's
            Transformer). False: each passes a linear map and LayerNorm.
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
        out_dim: int | None = None,
        direct: bool = False,
    ) -> None:
        super().__init__()
        if num_orders not in (1, 9):
            raise ValueError(f"num_orders must be 1 (raster) or 9 (SPOT's), got {num_orders}")
        self.num_tokens, self.feature_dim = grid[0] * grid[1], feature_dim
        self.register_buffer("orders", fixed_orders(*grid)[:num_orders], persistent=False)  # (orders,N)
        if direct and not feature_dim == slot_dim == width:
            raise ValueError(
                f"direct=true needs tokens and slots of width {width}, got {feature_dim} and {slot_dim}; make their "
                "sizes equal, or set model.decoder.direct=false"
            )
        projected = nn.Sequential(nn.Linear(feature_dim, width, bias=False), LayerNorm(width))
        self.project_tokens = nn.Identity() if direct else projected
        self.begin = nn.Parameter(torch.randn(num_orders, width) * width**-0.5)  # E_bos
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.num_tokens, width)))
        self.transformer = SlotTransformer(slot_dim, width, num_layers, num_heads, mlp_ratio, direct=direct)
        itself = out_dim is None and width == feature_dim
        self.readout = nn.Identity() if itself else nn.Linear(width, out_dim or feature_dim, bias=not direct)
        zero_biases(self)

    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to tokens (B,T,N,C); ``draws`` choose the orders, None takes the first order."""
        batch, frames = slots.shape[:2]
        check_tokens(target, (batch, frames, self.num_tokens), self.feature_dim)
        slots, live = slots.flatten(0, 1), live.flatten(0, 1)
        if draws is None:
            which = torch.zeros(batch * frames, dtype=torch.int64, device=slots.device)
        else:
            which = (draws.uniform(frames) * len(self.orders)).long().flatten()
        order = self.orders[which]  # (F,N) I^j
        if target is None:
            x, attention = self._generate(slots, live, which, order)
        else:
            known = self.project_tokens(_gather(target.flatten(0, 1), order)[:, :-1])  # (F,N-1,width)
            x, attention = self._pass(known, slots, live, which, order)
        back = order.argsort(-1)
        return Decoded(
            rearrange(_gather(self.readout(x), back), "(b t) n c -> b t n c", b=batch),
            rearrange(_gather(attention, back), "(b t) n s -> b t s n", b=batch),
            torch.ones(batch, frames, self.num_tokens, dtype=torch.bool, device=slots.device),
        )

    def _pass(self, known: Tensor, slots: Tensor, live: Tensor, which: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Predict each token from the tokens before it; ``known`` (F,n,width) are projected tokens in order, n < N."""
        x = torch.cat([self.begin[which][:, None], known], 1)  # (F,n+1,width) eq. 16
        x = x + self.positions[order[:, : x.shape[1]]]
        return self.transformer(x, slots, live, causal=True)  # eq. 17

    def _generate(self, slots: Tensor, live: Tensor, which: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        known = slots.new_zeros(len(slots), 0, self.begin.shape[-1])
        for _ in range(self.num_tokens):
            x, attention = self._pass(known, slots, live, which, order)
            known = torch.cat([known, self.project_tokens(self.feedback(self.readout(x[:, -1:])))], 1)
        return x, attention


def fixed_orders(height: int, width: int) -> Tensor:
    """Nine orders (9,N) of a grid's cells: rows and columns from each of the four corners, and a spiral inwards.

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
