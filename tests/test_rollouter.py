"""SlotFormer against a slow reference, dead slots, the loss, baselines and errors."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_slots import toy_cache

from dias_video.batch import SlotSequence
from dias_video.draws import Draws
from slotformer.batch import SlotWindows, pack, slot_statistics
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.causal import CausalSlotFormer, Past, rotate, rotation
from slotformer.errors import constant_velocity, normalised_error, repeat_last
from slotformer.fast import OVERHEAD, fast_rollout, grouped
from slotformer.objects import ObjectFormer
from slotformer.prediction import cache_errors
from slotformer.rollouter import Dynamics, SlotFormer, births, context_live, key_bias, scored_live
from slotformer.statistics import ratio_interval

B, T, S, D, E = 2, 5, 3, 6, 8
SETTINGS = {"slot_dim": D, "burn_in": T, "rollout": 4, "stride": 1, "width": E, "layers": 3, "heads": 2}
MODELS: list[type[Dynamics]] = [SlotFormer, CausalSlotFormer, ObjectFormer]


def build(cls: type[Dynamics], **changes: object) -> Dynamics:
    torch.manual_seed(0)
    model = cls(**{**SETTINGS, **changes})  # type: ignore[arg-type]
    for parameter in model.parameters():  # biases and norms too, so that none is forgotten
        nn.init.normal_(parameter, std=0.3)
    model.set_statistics(torch.randn(D), torch.tensor(1.7))
    return model.eval()


def slots_and_live(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    live = torch.rand(B, T, S, generator=generator) > 0.3
    live[:, -1, 0] = True
    return torch.randn(B, T, S, D, generator=generator), live & live[:, -1:]


def reference(model: SlotFormer, slots: Tensor, steps: int) -> Tensor:
    """The published loop with PyTorch's own encoder, all slots live."""
    layer = nn.TransformerEncoderLayer(E, 2, 4 * E, dropout=0.0, norm_first=True, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for theirs, ours in zip(encoder.layers, model.blocks, strict=True):
        pairs = [
            (theirs.self_attn.out_proj, ours.out),
            (theirs.norm1, ours.norm1),
            (theirs.norm2, ours.norm2),
            (theirs.linear1, ours.ffn[0]),
            (theirs.linear2, ours.ffn[2]),
        ]
        for one, other in pairs:
            one.load_state_dict(other.state_dict())
        theirs.self_attn.in_proj_weight.data.copy_(ours.qkv.weight)
        theirs.self_attn.in_proj_bias.data.copy_(ours.qkv.bias)
    age = torch.arange(T - 1, -1, -1.0)
    position = torch.zeros(T, E)
    for channel in range(E // 2):
        angle = age / 10000 ** (2 * channel / E)
        position[:, channel], position[:, E // 2 + channel] = angle.sin(), angle.cos()
    window, predicted = (slots - model.slot_mean) / model.slot_scale, []
    for _ in range(steps):
        tokens = model.in_proj(window) + position[:, None]
        tokens = encoder(tokens.reshape(B, T * S, E)).reshape(B, T, S, E)
        following = model.out_proj(tokens[:, -1])
        predicted.append(following * model.slot_scale + model.slot_mean)
        window = torch.cat([window[:, 1:], following[:, None]], 1)
    return torch.stack(predicted, 1)


def test_the_published_model_matches_a_slow_reference() -> None:
    model = build(SlotFormer)
    slots, _ = slots_and_live()
    with torch.no_grad():
        ours = model.rollout(slots, torch.ones(B, T, S, dtype=torch.bool), 7)
        theirs = reference(model, slots, 7)  # type: ignore[arg-type]
    assert ours.shape == (B, 7, S, D)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_cached_keys_change_nothing() -> None:
    """Every step from scratch, with a mask for frames that are too old, gives what the cache gives."""
    model = build(CausalSlotFormer, context=6)
    assert isinstance(model, CausalSlotFormer)
    slots, live = slots_and_live()
    with torch.no_grad():
        ours = model.rollout(slots, live, 5)
        window, seen = model.normalise(slots), live
        for step in range(5):
            frames = torch.arange(window.shape[1]).repeat_interleave(S)
            distance = frames[:, None] - frames
            hidden = (distance < 0) | (distance >= 6)
            bias = key_bias(seen.flatten(1), window.dtype) + torch.where(hidden, -1e4, 0.0)
            tokens = model.in_proj(window).flatten(1, 2)
            following = model.out_proj(model.advance(tokens, frames, bias, Past(3, 10**6))[:, -S:])
            predicted = (following * model.slot_scale + model.slot_mean) * live[:, -1, :, None]
            assert torch.allclose(ours[:, step], predicted, atol=1e-4)
            window, seen = torch.cat([window, following[:, None]], 1), torch.cat([seen, live[:, -1:]], 1)
    with_gradient = model.rollout(slots, live, 40)  # kept another way
    with torch.no_grad():
        assert torch.allclose(with_gradient, model.rollout(slots, live, 40), rtol=1e-3, atol=1e-3)


def test_rotary_products_depend_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 10), torch.randn(1, 1, 1, 10)

    def product(i: int, j: int) -> Tensor:
        turned = [rotate(x, rotation(torch.tensor([n]), 10, x.dtype)) for x, n in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum()

    assert torch.allclose(product(3, 1), product(9, 7), atol=1e-5)
    assert not torch.allclose(product(3, 1), product(3, 2), atol=1e-3)


@pytest.mark.parametrize("cls", MODELS)
def test_dead_slots_neither_attend_nor_come_back(cls: type[Dynamics]) -> None:
    model = build(cls)
    slots, live = slots_and_live()
    assert not live.all()
    other = torch.where(live[..., None], slots, 50.0)
    with torch.no_grad():
        one, two = model.rollout(slots, live, 3), model.rollout(other, live, 3)
        nothing = model.rollout(slots, torch.zeros_like(live), 3)
    assert torch.allclose(one, two, atol=1e-5)
    assert (one[~live[:, -1:].expand(-1, 3, -1)] == 0).all()
    assert (nothing == 0).all()  # and not NaN


@pytest.mark.parametrize("cls", MODELS)
def test_the_order_of_slots_means_nothing(cls: type[Dynamics]) -> None:
    model = build(cls)
    slots, live = slots_and_live()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        straight = model.rollout(slots, live, 3)
        mixed = model.rollout(slots[:, :, order], live[:, :, order], 3)
    assert torch.allclose(straight[:, :, order], mixed, atol=1e-4)


@pytest.mark.parametrize("cls", MODELS)
def test_only_the_last_frames_are_context_and_fewer_will_do(cls: type[Dynamics]) -> None:
    model = build(cls)
    slots, live = slots_and_live()
    longer = torch.cat([torch.randn(B, 2, S, D), slots], 1)
    with torch.no_grad():
        same = model.rollout(longer, torch.cat([live[:, :2], live], 1), 3)
        assert torch.allclose(same, model.rollout(slots, live, 3), atol=1e-5)
        assert model.rollout(slots[:, -2:], live[:, -2:], 3).shape == (B, 3, S, D)


@pytest.mark.parametrize("burn_in", [1, T])
@pytest.mark.parametrize("cls", [SlotFormer, ObjectFormer])
def test_the_window_slides(cls: type[Dynamics], burn_in: int) -> None:
    """Predicted frames take the place of seen ones, one at a time."""
    model, seen, live = build(cls, burn_in=burn_in), torch.randn(B, T, S, D), torch.ones(B, T, S, dtype=torch.bool)
    with torch.no_grad():
        at_once = model.rollout(seen, live, 3)
        for step in range(3):
            following = model.rollout(seen, live, 1)
            assert torch.allclose(at_once[:, step], following[:, 0], atol=1e-4)
            seen = torch.cat([seen[:, 1:], following], 1)


@pytest.mark.parametrize("cls", MODELS)
def test_a_residual_model_starts_as_repeat_the_last_frame(cls: type[Dynamics]) -> None:
    model = cls(**SETTINGS, residual=True)  # type: ignore[arg-type]
    slots, live = slots_and_live()
    with torch.no_grad():
        assert torch.allclose(model.rollout(slots, live, 4), repeat_last(slots, live, 4), atol=1e-6)


@pytest.mark.parametrize("cls", MODELS)
def test_a_saved_model_predicts_the_same(cls: type[Dynamics], tmp_path: Path) -> None:
    model = build(cls, encoder="abc")
    model.save_pretrained(tmp_path)
    again = Dynamics.from_pretrained(tmp_path).eval()
    slots, live = slots_and_live()
    with torch.no_grad():
        assert torch.equal(model.rollout(slots, live, 3), again.rollout(slots, live, 3))
    assert again.encoder == "abc"


def test_what_lives_is_frozen_at_the_last_context_frame() -> None:
    """Slot 0 stays; slot 1 changes its track at frame 1; slot 2 dies at frame 3; slot 3 is born at frame 3."""
    track = torch.tensor([[[0, 1, 2, -1], [0, 4, 2, -1], [0, 4, 2, -1], [0, 4, -1, 5], [0, 6, -1, 5]]])
    mask = track >= 0
    burn_in = 3
    seen = context_live(mask[:, :burn_in], track[:, :burn_in])
    expected = [[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert torch.equal(seen[0], torch.tensor(expected, dtype=torch.bool))
    scored = scored_live(mask, track, burn_in)
    assert torch.equal(scored[0], torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool))
    assert births(mask, track, burn_in).tolist() == [2]  # track 5 at frame 3 and track 6 at frame 4


def test_the_loss_counts_scored_slots_only() -> None:
    model = build(SlotFormer, burn_in=2, residual=True)
    nn.init.zeros_(model.out_proj.weight)  # type: ignore[arg-type]
    nn.init.zeros_(model.out_proj.bias)  # type: ignore[arg-type]
    slots = torch.zeros(B, 4, S, D)
    slots[0, 2, 0] = 3.0  # one of 2 scored slot-frames is off by 3
    slots[0, 2, 1] = 99.0  # dead at the last context frame
    mask = torch.ones(B, 4, S, dtype=torch.bool)
    mask[0, :, 2] = False
    mask[0, 1, 1] = False
    terms = model(SlotSequence(["a", "b"], slots, mask, torch.where(mask, 0, -1)), Draws.for_step(0, 0, range(B)))
    assert set(terms) == {"slots"}
    assert torch.allclose(terms["slots"], torch.tensor([9 / 1.7**2 / 2, 0.0]), atol=1e-5)


def test_an_object_that_was_not_there_counts_as_one_that_stood_still() -> None:
    model = build(ObjectFormer)
    slots, live = torch.randn(B, T, S, D), torch.ones(B, T, S, dtype=torch.bool)
    live[:, :3, 1] = False
    still = slots.clone()
    still[:, :3, 1] = slots[:, 3, 1][:, None]
    with torch.no_grad():
        late, stood = model.rollout(slots, live, 3), model.rollout(still, torch.ones_like(live), 3)
        assert torch.allclose(late, stood, atol=1e-5)
        assert not torch.allclose(late, model.rollout(slots, torch.ones_like(live), 3), atol=1e-2)
        fewer = slots[:, 3:]  # as if nothing had moved before
        repeated = torch.cat([fewer[:, :1].expand(-1, T - fewer.shape[1], -1, -1), fewer], 1)
        all_on = torch.ones_like(live)
        expected = model.rollout(repeated, all_on, 3)
        assert torch.allclose(model.rollout(fewer, all_on[:, 3:], 3), expected, atol=1e-5)


def test_wrong_shapes_and_settings_are_named() -> None:
    model = build(SlotFormer)
    slots = torch.zeros(B, T, S, D)
    batch = SlotSequence(["a", "b"], slots, torch.ones(B, T, S, dtype=torch.bool), torch.zeros(B, T, S).long())
    with pytest.raises(ValueError, match="burn-in"):
        model(batch, Draws.for_step(0, 0, range(B)))
    with pytest.raises(ValueError, match="divisible"):
        build(SlotFormer, heads=3)
    with pytest.raises(ValueError, match="at least 1"):
        build(SlotFormer, stride=0)
    with pytest.raises(ValueError, match="context"):
        build(CausalSlotFormer, context=2)


def test_constant_velocity_is_exact_on_straight_lines() -> None:
    time = torch.arange(9.0)[None, :, None, None]
    slots = torch.randn(B, 1, S, D) + time * torch.randn(B, 1, S, D)
    live = torch.ones(B, 4, S, dtype=torch.bool)
    live[0, 2, 0] = False  # was not there on the frame before last: stands still
    guess = constant_velocity(slots[:, :4], live, 5)
    assert torch.allclose(guess[1], slots[1, 4:], atol=1e-4)
    assert torch.equal(guess[0, :, 0], slots[0, 3, 0].expand(5, -1))


def test_the_normalised_error_by_hand() -> None:
    encoded = torch.tensor([[[[3.0, 4.0], [6.0, 8.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]])  # (1,2,3,2)
    predicted = encoded + torch.tensor([1.0, 2.0])
    scored = torch.tensor([[[True, True, False], [False, False, False]]])
    error = normalised_error(predicted, encoded, scored)
    assert error[0, 0] == pytest.approx(10 / 125)
    assert torch.isnan(error[0, 1])


def test_intervals_hold_the_mean_and_shrink() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    mean, low, high = ratio_interval(values, np.ones(400))
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert ratio_interval(2 * values, values) == pytest.approx((2, 2, 2))  # paired
    assert np.isnan(ratio_interval(np.full(3, np.nan), np.ones(3))[0])


def test_statistics_are_those_of_live_slots(tmp_path: Path) -> None:
    slots, mask = torch.randn(40, S, D) * 3 + 5, torch.rand(40, S) > 0.5
    with SlotCacheWriter(tmp_path / "c", dtype="fp32") as writer:
        writer.write("v", slots, mask)
    mean, scale = slot_statistics(SlotCache(tmp_path / "c"))
    live = slots[mask]
    assert torch.allclose(mean, live.mean(0), atol=1e-5)
    assert scale == pytest.approx(live.var(0, unbiased=False).mean().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_the_fast_rollout_is_the_same(layers: int, residual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(SlotFormer, layers=layers, residual=residual)
    assert isinstance(model, SlotFormer)
    generator = torch.Generator().manual_seed(2)
    live = torch.rand(7, T, S, generator=generator) > 0.4
    live &= live[:, -1:]
    live[3] = False
    slots = torch.randn(7, T, S, D, generator=generator)
    with torch.no_grad():
        slow = model.rollout(slots, live, 9)
    for overhead in (1e-3, 1e12):  # every number of live slots by itself, and all together
        monkeypatch.setitem(OVERHEAD, "cpu", overhead)
        fast = fast_rollout(model, slots, live, 9, batch_size=3)
        assert torch.allclose(slow, fast, atol=1e-4 * float(slow.abs().max()))


@pytest.mark.parametrize("overhead", [0.0, 3.0, 8.0, 1e6])
def test_videos_are_grouped_with_the_least_work(overhead: float) -> None:
    """Against every way to cut the sorted numbers of live slots; never more work than the plain loop's."""
    count = torch.tensor([5, 3, 0, 4, 4, 7, 3, 3, 5, 0, 6, 3])
    widths = [3, 4, 5, 6, 7]

    def work(groups: list[tuple[int, int]]) -> float:
        videos = [sum(least <= c <= most for c in count.tolist()) for least, most in groups]
        return sum(v * most for v, (_, most) in zip(videos, groups, strict=True)) + overhead * len(groups)

    ways = []
    for cuts in itertools.product([False, True], repeat=4):
        ends = [at for at, cut in enumerate(cuts) if cut] + [4]
        begins = [0, *(end + 1 for end in ends[:-1])]
        ways.append([(widths[begin], widths[end]) for begin, end in zip(begins, ends, strict=True)])
    found = grouped(count, overhead)
    assert found in ways
    assert work(found) == min(map(work, ways))
    assert len(found) == {0.0: 5, 1e6: 1}.get(overhead, len(found))
    assert grouped(torch.zeros(3, dtype=torch.int64), overhead) == []


@pytest.mark.parametrize("cls", MODELS)
def test_slots_that_never_live_change_no_loss(cls: type[Dynamics]) -> None:
    """A batch without them, against one that holds every slot."""
    model, frames, num_slots = build(cls), T + 4, 5
    alive = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()  # (B,S)
    generator = torch.Generator().manual_seed(3)
    mask = alive[:, None] & (torch.rand(3, frames, num_slots, generator=generator) > 0.2)
    mask[:, T - 1] = alive
    slots = torch.randn(3, frames, num_slots, D, generator=generator) * mask[..., None]
    ids = torch.arange(num_slots).expand(3, frames, -1).where(mask, -1)
    clips = [SlotSequence([f"v{i}"], slots[i, None], mask[i, None], ids[i, None]) for i in range(3)]
    packed, everything = pack(clips), SlotSequence.batched(clips)
    assert packed.video_id == everything.video_id == ["v0", "v1", "v2"]
    assert packed.slots.shape == (3, frames, 3, D)
    assert packed.track_id[0, T - 1].tolist() == [1, 3, 4]
    losses = [model(batch, Draws.for_step(0, 0, range(3)))["slots"] for batch in (packed, everything)]
    assert losses[0][:2].min() > 0
    assert torch.allclose(*losses, rtol=1e-5)
    assert pack(clips[2:]).slots.shape == (1, frames, 1, D)


@pytest.mark.slow
@pytest.mark.parametrize("cls", MODELS)
def test_bouncing_points_are_learned(cls: type[Dynamics], tmp_path: Path) -> None:
    """Far better than repeating the last frame, and than constant velocity once points have bounced."""
    cache, unseen = toy_cache(tmp_path / "a", 200, num_frames=20), toy_cache(tmp_path / "b", 50, seed=1, num_frames=20)
    torch.manual_seed(0)
    size = {"burn_in": 4, "rollout": 6, "stride": 1, "width": 48, "layers": 2, "heads": 4, "ffn_ratio": 2}
    model = cls(cache.slot_dim, **size, residual=True)  # type: ignore[arg-type]
    model.set_statistics(*slot_statistics(cache))
    windows, optimizer = SlotWindows(cache, 10), torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 300)
        batch = pack([windows[(step, i % len(windows))] for i in range(16 * step, 16 * step + 16)])
        loss = model(batch, Draws.for_step(0, step, range(16)))["slots"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rows = cache_errors(model.eval(), unseen, steps=8).table()
    assert rows[2]["model_relative"] < 0.3
    assert rows[7]["model_relative"] < 0.5
    assert rows[7]["model"] < rows[7]["constant_velocity"]
