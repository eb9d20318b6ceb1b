"""Dropout of SlotFormer in training."""

from __future__ import annotations

import pytest
import torch
from test_rollouter import MODELS, D, E, S, T, build
from torch import Tensor, nn

from dias_video.batch import SlotSequence
from dias_video.draws import Draws, Dropout
from slotformer.rollouter import Dynamics, SlotFormer


@pytest.mark.parametrize("cls", MODELS)
def test_dropout_in_training_depends_on_the_sample_alone(cls: type[Dynamics]) -> None:
    model = build(cls, dropout=0.2).train()
    generator = torch.Generator().manual_seed(3)
    slots = torch.randn(4, T + 2, S, D, generator=generator)
    live = torch.ones(4, T + 2, S, dtype=torch.bool)

    def losses(rows: slice, step: int = 1) -> Tensor:
        ids = torch.zeros_like(live[rows], dtype=torch.int64)
        batch = SlotSequence([str(n) for n in range(*rows.indices(4))], slots[rows], live[rows], ids)
        return model(batch, Draws.for_step(0, step, range(*rows.indices(4))))["slots"]

    whole = losses(slice(0, 4))
    torch.testing.assert_close(torch.cat([losses(slice(0, 1)), losses(slice(1, 4))]), whole)
    assert not torch.allclose(losses(slice(0, 4), step=2), whole)
    model.eval()
    assert torch.equal(losses(slice(0, 4)), losses(slice(0, 4), step=2))


def test_dropout_is_where_pytorchs_encoder_has_it() -> None:
    """Mean and deviation of 6,000 outputs for one input."""
    model = build(SlotFormer, layers=1)
    block = model.blocks[0]
    layer = nn.TransformerEncoderLayer(E, 2, 4 * E, dropout=0.3, norm_first=True, batch_first=True).train()
    for theirs, ours in ((layer.self_attn.out_proj, block.out), (layer.norm1, block.norm1), (layer.norm2, block.norm2),
                         (layer.linear1, block.ffn[0]), (layer.linear2, block.ffn[2])):  # fmt: skip
        theirs.load_state_dict(ours.state_dict())
    layer.self_attn.in_proj_weight.data.copy_(block.qkv.weight)
    layer.self_attn.in_proj_bias.data.copy_(block.qkv.bias)
    count = 6000
    tokens = torch.randn(1, T, E, generator=torch.Generator().manual_seed(2)).expand(count, -1, -1)
    drop = Dropout(0.3, Draws.for_step(0, 0, range(count)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = layer(tokens)
        got = block(tokens, tokens, torch.zeros(1, 1, 1, T), drop)
    error = expected.std(0) * (2 / count) ** 0.5
    assert ((got.mean(0) - expected.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(got.std(0), expected.std(0), rtol=0.06, atol=0)
