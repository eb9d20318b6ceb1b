"""A projection with an encoder of its own, whose last blocks are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import D, clips, tiny_dias

from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.encoders import TimmEncoder
from dias_video.model.finetuned import FinetunedProjection
from dias_video.model.projection import Projection

SIZE, WIDTH = (32, 48), 192  # 2x3 tokens


def vit() -> TimmEncoder:
    return TimmEncoder("vit_tiny_patch16_224", "random", SIZE, final_norm=True, frame_size=SIZE)


def finetuned(blocks: int = 2) -> DIAS:
    """Of 12 blocks; both encoders begin with the same weights."""
    plain = tiny_dias(threshold=None, teacher=None)
    frozen, own = vit(), vit()
    own.load_state_dict(frozen.state_dict())
    decoder = RandomARDecoder(WIDTH, D, 6, width=10, num_layers=1, num_heads=2)
    aggregator = Aggregator(SlotAttention(D, D), None, reinitialize=False)
    projection = FinetunedProjection(WIDTH, D, own, blocks)
    return DIAS(frozen, projection, plain.initializer, aggregator, plain.transition, decoder, teacher=None)


def test_its_last_blocks_are_trained_and_what_is_explained_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dias, batch = finetuned(), clips(batch=2, frames=2)
    plain = Projection(WIDTH, D)
    plain.load_state_dict(dias.projection.state_dict(), strict=False)
    assert dias.inputs({"features"}) == {"video"}
    before = dias.features(batch)
    torch.testing.assert_close(dias.projection(before, batch.video), plain(before, batch.video))
    terms = dias.train()(batch, Draws.for_step(0, 0, range(2)))
    terms["reconstruction"].mean().backward()
    trained = {name for name, p in dias.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    own = {name.removeprefix("projection.encoder.vit.") for name in trained if name.startswith("projection.encoder")}
    assert {name.split(".")[1] for name in own if name.startswith("blocks")} == {"10", "11"}
    assert {name for name in own if not name.startswith("blocks")} == {"norm.weight", "norm.bias"}
    assert not any(name.startswith("encoder") for name in trained)
    torch.optim.SGD([p for p in dias.parameters() if p.requires_grad], 0.1).step()
    assert torch.equal(dias.features(batch), before)
    assert not torch.allclose(dias.projection(before, batch.video), plain(before, batch.video))
    dias.eval().save_pretrained(tmp_path)
    loaded = DIAS.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.projection(before, batch.video), dias.projection(before, batch.video))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in dias.parameters()]


def test_the_way_back_of_a_rehearsal_sees_the_frames_backwards() -> None:
    """A clip that reads the same both ways is the same to it as its mirror in time."""
    torch.manual_seed(0)
    dias, batch = finetuned().eval(), clips(batch=1, frames=3)
    seen = []
    dias.projection.register_forward_hook(lambda module, given, found: seen.append((given[1], found)))
    dias.rehearse(batch, dias.features(batch), Draws.for_videos(0, ["a"]))
    (there, tokens), (back, reversed_tokens) = seen
    assert torch.equal(back, there.flip(1))
    torch.testing.assert_close(reversed_tokens, tokens.flip(1))


def test_features_of_a_cache_are_explained_and_frames_are_looked_at() -> None:
    torch.manual_seed(0)
    dias, batch = finetuned().eval(), clips(batch=1, frames=2)
    cached = replace(batch, features=dias.features(batch))
    one, other = (dias(b, Draws.for_step(0, 0, range(1)))["reconstruction"] for b in (batch, cached))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("blocks", [0, 13])
def test_as_many_blocks_as_there_are(blocks: int) -> None:
    with pytest.raises(ValueError, match=f"finetune_blocks must be from 1 to 12, got {blocks}"):
        FinetunedProjection(WIDTH, D, vit(), blocks)
