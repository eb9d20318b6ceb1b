"""Precision is a value of everything that runs a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import clips, tiny_dias
from torch import Tensor
from toy_slots import toy_cache

from dias_video.machine.precision import autocast, check_precision, set_matmul_precision
from dias_video.tracking import track_videos
from slotformer.prediction import predict_cache
from slotformer.rollouter import SlotFormer


def test_tracking_in_bfloat16_is_near_and_hands_over_float32() -> None:
    model, batch = tiny_dias(threshold=None), clips(frames=5)
    seen: list[Tensor] = []
    model.aggregator.attention.query.register_forward_hook(lambda module, given, out: seen.append(out))
    (exact,), (half,) = (track_videos(model, batch.windows(2), precision=p) for p in ("fp32", "bf16"))
    assert {x.dtype for x in seen} == {torch.float32, torch.bfloat16}
    assert half.attention is not None
    assert {x.dtype for x in (half.slots, half.attention)} == {torch.float32}
    assert not torch.equal(half.slots, exact.slots)
    torch.testing.assert_close(half.slots, exact.slots, atol=0.1, rtol=0.1)
    assert torch.equal(half.track_id, exact.track_id)


@pytest.mark.parametrize(("precision", "sentence"), [("half", "must be one of fp32, bf16"), ("fp16", "needs a GPU")])
def test_what_a_device_does_not_have_is_refused(precision: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_precision(precision, "cpu")
    with pytest.raises(ValueError, match=sentence):
        next(track_videos(tiny_dias(), clips().windows(2), precision=precision))
    check_precision("fp16", "cuda")


def test_a_rollout_in_bfloat16_is_near_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cache = toy_cache(tmp_path / "cache", 3, num_frames=9)
    model = SlotFormer(12, burn_in=3, rollout=4, stride=1, width=16, layers=1, heads=2).eval()
    exact, half = (predict_cache(model, cache, tmp_path / p, 4, precision=p) for p in ("fp32", "bf16"))
    assert "precision" not in exact.header  # as before there was a choice
    assert half.header["precision"] == "bf16"
    for name in cache.video_ids:
        assert not torch.equal(half.read(name).slots, exact.read(name).slots)
        torch.testing.assert_close(half.read(name).slots, exact.read(name).slots, atol=0.1, rtol=0.1)
    with pytest.raises(ValueError, match="made with other settings"):
        predict_cache(model, cache, tmp_path / "bf16", 4)


def test_autocast_is_off_in_float32() -> None:
    a = torch.randn(3, 3)
    with autocast("fp32", "cpu"):
        assert (a @ a).dtype == torch.float32
    with autocast("bf16", "cpu"):
        assert (a @ a).dtype == torch.bfloat16


def test_matrix_products_on_a_cpu_keep_all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", said.append)
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        set_matmul_precision("high")
    assert said == ["high"]
    with pytest.raises(ValueError, match="matmul_precision must be one of highest, high, medium, got 'tf32'"):
        set_matmul_precision("tf32")
