"""Attention by parts, as a CPU does it in bfloat16, is the fused one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dias_video.model.encoders import TimmEncoder
from dias_video.model.layers import attend


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
