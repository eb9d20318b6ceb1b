"""Decoders: masking, orders, un-permutation, what is scored; every decoder behind one interface."""

import pytest
import torch

from dias_video.draws import Draws
from dias_video.model.decoders.causal import CausalDecoder, fixed_orders
from dias_video.model.decoders.diffusion import DiffusionDecoder
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.decoders.slot_mixer import SlotMixerDecoder

B, T, S, D, C, GRID = 2, 3, 4, 6, 5, (3, 5)
N = GRID[0] * GRID[1]


def decoders() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {
        "parallel": RandomARDecoder(C, D, N, width=8, num_layers=2, num_heads=2),
        "unknown": RandomARDecoder(C, D, N, width=C * 2, num_layers=1, num_heads=2, scored="unknown"),
        "next_token": RandomARDecoder(C, D, N, width=8, num_layers=2, num_heads=2, mode="next_token"),
        "causal": CausalDecoder(C, D, GRID, width=8, num_layers=2, num_heads=2),
        "spot": CausalDecoder(C, D, GRID, width=8, num_layers=2, num_heads=2, num_orders=9),
        "mlp": MLPDecoder(C, D, N, hidden=16),
        "slot_mixer": SlotMixerDecoder(C, D, N, num_layers=2, num_heads=2, hidden=16),
        "diffusion": DiffusionDecoder(C, D, GRID, [8, 12], num_layers=1, num_heads=2, num_groups=4),
    }


NAMES = list(decoders())


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randn(B, T, S, D, generator=generator)
    mask = torch.ones(B, T, S, dtype=torch.bool)
    mask[0, 1, 2] = mask[1, :, 0] = False
    return slots * mask[..., None], mask, torch.randn(B, T, N, C, generator=generator)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["train", "known", "nothing known"])
def test_every_decoder_keeps_the_contract(name: str, way: str) -> None:
    decoder = decoders()[name]
    slots, mask, target = inputs()
    draws = Draws.for_step(0, 0, range(B)) if way == "train" else None
    got = decoder(slots, mask, None if way == "nothing known" else target, draws)
    assert got.reconstruction.shape == (B, T, N, C)
    assert got.attention.shape == (B, T, S, N)
    assert got.scored.shape == (B, T, N)
    assert (got.attention[~mask] == 0).all()
    torch.testing.assert_close(got.attention.sum(2), torch.ones(B, T, N))
    draws = Draws.for_step(0, 0, range(B)) if way == "train" else None
    noisy = decoder(slots + 50 * ~mask[..., None], mask, None if way == "nothing known" else target, draws)
    torch.testing.assert_close(noisy.reconstruction, got.reconstruction)


@pytest.mark.parametrize("name", NAMES)
def test_masking_a_slot_equals_removing_it(name: str) -> None:
    decoder = decoders()[name]
    slots, mask, target = inputs()
    mask[:] = True
    mask[:, :, 1] = False
    kept = [0, 2, 3]
    full = decoder(slots, mask, target)
    less = decoder(slots[:, :, kept], mask[:, :, kept], target)
    torch.testing.assert_close(full.reconstruction, less.reconstruction)
    torch.testing.assert_close(full.attention[:, :, kept], less.attention)


@pytest.mark.parametrize("name", NAMES)
def test_frames_do_not_see_each_other(name: str) -> None:
    decoder = decoders()[name]
    slots, mask, target = inputs()
    got = decoder(slots, mask, target)
    alone = decoder(slots[1:, 2:], mask[1:, 2:], target[1:, 2:])
    torch.testing.assert_close(got.reconstruction[1:, 2:], alone.reconstruction)


@pytest.mark.parametrize("name", ["unknown", "next_token", "parallel"])
def test_masks_are_read_only_where_the_decoder_learns_to_answer(name: str) -> None:
    """A decoder that is not taught known tokens looks at none; its masks are those of predicted slots."""
    decoder = decoders()[name]
    slots, mask, target = inputs()
    tokens = torch.nn.Parameter(target)
    read = decoder(slots, mask, tokens)
    (gradient,) = torch.autograd.grad(read.attention.square().sum(), tokens, allow_unused=True)
    if name == "parallel":
        assert (gradient != 0).all()
    else:
        assert gradient is None
        torch.testing.assert_close(read.attention, decoder(slots, mask).attention, rtol=0, atol=0)


def place_in_order(order_uniform: torch.Tensor) -> torch.Tensor:
    return order_uniform.argsort(-1).argsort(-1)


def test_random_prefix_and_scored_tokens() -> None:
    slots, mask, target = inputs()
    draws = Draws.for_step(7, 3, range(B))
    place = place_in_order(draws.uniform(T, N))
    length = (draws.uniform(T) * N).long()
    short = draws.uniform(T) >= 0.5
    parallel = torch.where(short, int(0.1 * N), length)
    got = decoders()["unknown"](slots, mask, target, Draws.for_step(7, 3, range(B)))
    assert torch.equal(got.scored, place >= parallel[..., None])
    got = decoders()["next_token"](slots, mask, target, Draws.for_step(7, 3, range(B)))
    assert torch.equal(got.scored, place == length[..., None])
    assert (got.scored.sum(-1) == 1).all()
    assert decoders()["parallel"](slots, mask, target, Draws.for_step(7, 3, range(B))).scored.all()


@pytest.mark.parametrize("name", ["parallel", "next_token"])
def test_predictions_depend_on_known_tokens_only(name: str) -> None:
    decoder = decoders()[name]
    slots, mask, target = inputs()
    draws = Draws.for_step(7, 3, range(B))
    place = place_in_order(draws.uniform(T, N))
    length = (draws.uniform(T) * N).long()
    if name == "parallel":
        length = torch.where(draws.uniform(T) < 0.5, length, int(0.1 * N))
    unknown = place >= length[..., None]
    got = decoder(slots, mask, target, Draws.for_step(7, 3, range(B)))
    hidden_changed = decoder(slots, mask, target + 9 * unknown[..., None], Draws.for_step(7, 3, range(B)))
    torch.testing.assert_close(hidden_changed.reconstruction[got.scored], got.reconstruction[got.scored])
    known_changed = decoder(slots, mask, target + 9 * ~unknown[..., None], Draws.for_step(7, 3, range(B)))
    some_known = (length > 0)[..., None] & got.scored & unknown
    assert not torch.allclose(known_changed.reconstruction[some_known], got.reconstruction[some_known])


def test_next_token_equals_the_short_sequence_of_the_equations() -> None:
    """Eq. 18-22 literally: known tokens in their order, then one mask token, as a sequence of n# + 1."""
    decoder = decoders()["next_token"]
    slots, mask, target = inputs()
    draws = Draws.for_step(5, 1, range(B))
    order = draws.uniform(T, N).argsort(-1)
    length = (draws.uniform(T) * N).long()
    got = decoder(slots, mask, target, Draws.for_step(5, 1, range(B)))
    for b in range(B):
        for t in range(T):
            n, walk = int(length[b, t]), order[b, t]
            known = decoder.project_tokens(target[b, t, walk[:n]])
            sequence = torch.cat([known, decoder.mask_token[None]]) + decoder.positions[walk[: n + 1]]
            x, weights = decoder.transformer(sequence[None], slots[b, t][None], mask[b, t][None])
            torch.testing.assert_close(got.reconstruction[b, t, walk[n]], decoder.readout(x)[0, n])
            torch.testing.assert_close(got.attention[b, t, :, walk[n]], weights[0, n])


def test_causal_decoding_never_looks_ahead() -> None:
    decoder = decoders()["causal"]
    slots, mask, target = inputs()
    got = decoder(slots, mask, target).reconstruction
    for n in range(N):
        changed = target.clone()
        changed[:, :, n] += 5
        again = decoder(slots, mask, changed).reconstruction
        torch.testing.assert_close(again[:, :, : n + 1], got[:, :, : n + 1])
        assert n == N - 1 or not torch.allclose(again[:, :, n + 1], got[:, :, n + 1])


def test_causal_generation_feeds_on_itself() -> None:
    decoder = decoders()["causal"]
    slots, mask, _ = inputs()
    generated = decoder(slots, mask).reconstruction
    torch.testing.assert_close(decoder(slots, mask, generated).reconstruction, generated)


def test_attention_lands_on_the_right_cells() -> None:
    """Rigged so that the query is the position alone: cell n asks for slot n % S, whatever the order."""
    decoder = RandomARDecoder(S, S, N, width=S, num_layers=1, num_heads=1)
    eye = torch.eye(S)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        for norm in (m for m in decoder.modules() if isinstance(m, torch.nn.LayerNorm)):
            norm.weight.fill_(1)
        decoder.positions.copy_(10 * eye[torch.arange(N) % S])
        layer = decoder.transformer.layers[0]
        layer.cross_attention.q.weight.copy_(10 * eye)
        layer.cross_attention.kv.weight[:S].copy_(10 * eye)
        decoder.transformer.project_slots[0].weight.copy_(eye)
    slots = eye.expand(B, T, S, S)
    mask = torch.ones(B, T, S, dtype=torch.bool)
    target = torch.randn(B, T, N, S)
    for draws in (None, Draws.for_step(0, 0, range(B)), Draws.for_step(0, 1, range(B))):
        owner = decoder(slots, mask, target, draws).attention.argmax(2)
        assert torch.equal(owner, (torch.arange(N) % S).expand(B, T, N))


def test_nine_orders_are_nine_permutations() -> None:
    orders = fixed_orders(*GRID)
    assert orders.shape == (9, N)
    assert torch.equal(orders.sort(1).values, torch.arange(N).expand(9, N))
    assert len({tuple(o.tolist()) for o in orders}) == 9
    assert orders[0].tolist() == list(range(N))
    assert orders[8, :7].tolist() == [0, 1, 2, 3, 4, 9, 14]  # the spiral turns the first corner


def test_user_errors() -> None:
    slots, mask, target = inputs()
    with pytest.raises(ValueError, match="grid"):
        decoders()["parallel"](slots, mask, target[:, :, 1:])
    with pytest.raises(ValueError, match="mode"):
        RandomARDecoder(C, D, N, 8, mode="serial")
    with pytest.raises(ValueError, match="num_orders"):
        CausalDecoder(C, D, GRID, 8, num_orders=3)
    with pytest.raises(ValueError, match="divisible"):
        RandomARDecoder(C, D, N, width=9, num_heads=2)
