"""Layers compute in bfloat16 on a CPU what they compute elsewhere: attention by parts, the gradients of norms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dias_video.model.encoders import TimmEncoder
from dias_video.model.layers import LayerNorm, attend

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_is_the_fused_one(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    mask = (torch.arange(7) < torch.tensor([[4], [6]]))[:, None, None, :] if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    found = attend(*(x.bfloat16() for x in (q, k, v)), mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
    for a, b in zip(*(torch.autograd.grad(y.sum(), (q, k, v)) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)
    if mask is not None:
        nothing = torch.zeros_like(mask)
        assert not attend(*(x.bfloat16() for x in (q, k, v)), nothing).any()


def test_the_encoder_in_bfloat16_is_the_one_in_float32() -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder("vit_tiny_patch16_224", "random", (32, 48)).eval()
    video = torch.randint(0, 256, (1, 2, 3, 32, 48), dtype=torch.uint8)
    exact = encoder.features(video)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder.features(video).float()
    assert 1e-4 < (half - exact).norm() / exact.norm() < 0.02  # it did run in bfloat16
    torch.testing.assert_close(encoder.features(video), exact, atol=0, rtol=0)  # and float32 is as before


def test_a_norm_of_many_tokens_in_bfloat16_has_its_whole_gradient() -> None:
    """The bias' gradient is the sum of what comes back, the weight's that of its products with normalised tokens."""
    tokens = torch.randn(8192, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    norm = LayerNorm(24)
    with torch.autocast("cpu", torch.bfloat16):
        normed = norm(tokens)
    back = torch.full_like(normed, 0.05) + 0.1 * normed.detach()
    normed.backward(back)
    exact = tokens.double()
    exact = (exact - exact.mean(1, keepdim=True)) / (exact.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(norm.bias.grad.double(), back.double().sum(0), atol=0.1, rtol=1e-3)
    torch.testing.assert_close(norm.weight.grad.double(), (back.double() * exact).sum(0), atol=0.1, rtol=1e-3)
    assert norm.double()(exact).dtype == torch.float64


def test_every_norm_is_that_one() -> None:
    files = [*ROOT.glob("dias_video/**/*.py"), *ROOT.glob("slotformer/**/*.py")]
    assert len(files) > 150
    usual = [file.name for file in files if re.search(r"nn\.(LayerNorm|Transformer\w+Layer)\b", file.read_text())]
    assert usual == ["layers.py"]
