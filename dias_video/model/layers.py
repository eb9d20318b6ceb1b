"""Transformer pieces that several modules share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear - GELU (or another ``activation``) - Linear, ``width -> hidden -> out``."""

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int | None = None,
        bias: bool = True,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__(nn.Linear(width, hidden, bias), activation(), nn.Linear(hidden, out or width, bias))

    def begin_at_zero(self) -> None:
        """Make the output 0 for every input, until training changes it."""
        last = self[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def begin_at_unit_scale(self, squared_norm: float) -> None:
        """Make outputs of variance about 1 from inputs of this squared norm: normal weights, biases 0."""
        first, last = self[0], self[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        nn.init.normal_(first.weight, std=squared_norm**-0.5)
        nn.init.normal_(last.weight, std=(0.425 * last.in_features) ** -0.5)  # E GELU(x)^2 = 0.425 of a standard normal
        zero_biases(self)


class LayerNorm(nn.LayerNorm):
    """LayerNorm in float32 (or wider), as autocast has it on GPUs.

    On a CPU autocast leaves it in bfloat16, where PyTorch (2.14) adds up the gradients of weight and bias in bfloat16
    too: of 8,192 tokens the bias gets a third of its gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(...,C) to (...,C), float32 if it was narrower."""
        return super().forward(x if x.dtype.itemsize >= 4 else x.float())


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens (B,N,C) through the fused kernel."""

    def __init__(self, width: int, num_heads: int, bias: bool = False) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.out = nn.Linear(width, width, bias)
        begin_as_attention(self.qkv)
        zero_biases(self)

    def forward(self, x: Tensor, keys: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend to tokens where ``keys`` (B,N) is True; in a row without True, tokens attend to nothing."""
        q, k, v = rearrange(self.qkv(x), "b n (three a d) -> three b a n d", three=3, a=self.num_heads)
        mask = None if keys is None else keys[:, None, None, :]  # (B,1,1,N)
        y = attend(q, k, v, mask, causal)
        return self.out(rearrange(y, "b a n d -> b n (a d)"))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens (B,N,C) over slots (B,S,C), without biases."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        begin_as_attention(self.q, self.kv)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Attend to the live slots: ``mask`` is (B,S) bool, or a gate as for ``masked_softmax``.

        Returns:
            The update (B,N,C); with ``weights`` also the attention (B,N,S), mean over heads, exactly 0 on dead slots.
        """
        q = rearrange(self.q(x), "b n (a d) -> b a n d", a=self.num_heads)
        k, v = rearrange(self.kv(memory), "b s (two a d) -> two b a s d", two=2, a=self.num_heads)
        if not weights:
            y = attend(q, k, v, mask[:, None, None, :])
            return self.out(rearrange(y, "b a n d -> b n (a d)")), None
        attention = masked_softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, mask[:, None, None, :], dim=-1)
        y = attention.to(v.dtype) @ v
        return self.out(rearrange(y, "b a n d -> b n (a d)")), attention.mean(1)  # (B,N,S)


def begin_as_attention(*projections: nn.Linear) -> None:
    """Xavier-uniform weights with the scale of the (3C,C) matrix that ``nn.MultiheadAttention`` has for q, k and v."""
    width = projections[0].in_features
    bound = math.sqrt(6 / (width + 3 * width))
    for projection in projections:
        nn.init.uniform_(projection.weight, -bound, bound)


def zero_biases(module: nn.Module) -> None:
    """Set the biases of all linear layers and GRU cells inside ``module`` to 0, as in the authors' released code."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.GRUCell)):
            for name, parameter in part.named_parameters(recurse=False):
                if name.startswith("bias"):
                    nn.init.zeros_(parameter)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention of q (B,A,N,d) over k and v (B,A,M,d) where ``mask`` (broadcast to B,A,N,M) is True.

    PyTorch's fused kernel is not used for gates (``masked_softmax``), which it does not support, and in bfloat16 on a
    CPU, where it takes about twice the time of the three operations that it fuses.
    """
    gated = mask is not None and mask.is_floating_point()
    if gated or (q.device.type == "cpu" and q.dtype is torch.bfloat16 and not causal):
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = logits.softmax(-1) if mask is None else masked_softmax(logits, mask, -1)
        return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def masked_softmax(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax in float32 (or wider) over the entries where ``mask`` is True; exactly 0, also in gradient, elsewhere.

    Rows without any True are all zero instead of NaN.

    ``mask`` may be a gate instead: zeros and ones as floats. Then shares are multiplied by it and divided by their sum
    plus 1e-5 (AdaSlot). The values are equal to those of a mask up to about 1e-5, and the gradient also says what
    opening a closed gate would change.
    """
    wide = logits if logits.dtype.itemsize >= 4 else logits.float()
    if mask.is_floating_point():
        shares = wide.softmax(dim) * mask
        return shares / (shares.sum(dim, keepdim=True) + 1e-5)
    # Not -inf: a row without live entries must not become NaN.
    return wide.masked_fill(~mask, -1e30).softmax(dim) * mask


def fourier_features(coordinates: Tensor) -> Tensor:
    """Coordinates (...,A) in [0,1] with their sines and cosines at four octaves: (..., A * 9).

    Places near each other get similar features; a learned table of positions would have to learn this.
    """
    angles = coordinates[..., None] * math.pi * 2.0 ** torch.arange(4, device=coordinates.device)
    return torch.cat([coordinates, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1)
