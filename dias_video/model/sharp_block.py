"""The Transformer layer of VideoSAUR and SlotContrast."""

from __future__ import annotations

import math

from einops import rearrange
from torch import Tensor, nn

from dias_video.model.layers import MLP, LayerNorm, attend


class SharpBlock(nn.Module):
    """Pre-norm Transformer layer as in the released code of VideoSAUR and SlotContrast, with ReLU.

    Its logits are q.k *times* the square root of a head's width d. Other Transformers divide by it, so these logits are
    larger by a factor d.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.norm1 = LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = LayerNorm(width)
        self.mlp = MLP(width, 4 * width, activation=nn.ReLU)
        for linear in (self.q, self.kv, self.out):  # Xavier of square matrices, as if q, k and v were separate
            nn.init.uniform_(linear.weight, -math.sqrt(3 / width), math.sqrt(3 / width))
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, live: Tensor, memory: Tensor | None = None) -> Tensor:
        """Tokens x (B,N,C) attend to one another, or to ``memory`` (B,S,C), where ``live`` (B,N or B,S) is True."""
        normed = self.norm1(x)
        q = rearrange(self.q(normed), "b n (a d) -> b a n d", a=self.num_heads)
        kv = self.kv(normed if memory is None else memory)
        k, v = rearrange(kv, "b s (two a d) -> two b a s d", two=2, a=self.num_heads)
        attended = attend(q * q.shape[-1], k, v, live[:, None, None, :])
        x = x + self.out(rearrange(attended, "b a n d -> b n (a d)"))
        return x + self.mlp(self.norm2(x))
