"""Temporal DIAS: identity over time on a scripted toy, invariances, exactness, windows, saving."""

from __future__ import annotations

import pytest
import torch
from tiny import GRID, HEIGHT, WIDTH, C, D, N, S, clips, tiny_dias
from torch import Tensor, nn

from dias_video.batch import CarryState, VideoBatch
from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.decoders.slot_mixer import SlotMixerDecoder
from dias_video.model.dias import DIAS, carried
from dias_video.model.initializers import BoxInitializer, GaussianInitializer
from dias_video.model.objectives import SimilarityObjective
from dias_video.model.reduction import Merging
from dias_video.model.redundancy import merge_redundant_slots
from dias_video.model.tiny import PlacedProjection
from dias_video.model.transition import Transition
from dias_video.pretrained.configured import Configured


class Nothing(Configured, nn.Module):
    """Stands in for a module that hands its first argument on."""

    grid = (1, 3)

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return x


class ScriptedAttention(Configured, nn.Module):
    """Tokens are one-hot objects. A slot that holds a present object keeps it; any other takes the first object that
    nobody holds, or else the first there is (and so becomes redundant)."""

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, tokens

    def forward(self, slots: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(slots)
        for b in range(len(slots)):
            present = [int(o) for o in keys[b].argmax(-1).unique() if keys[b][:, o].any()]
            live = [s for s in range(slots.shape[1]) if mask[b, s]]
            one_hot = {s: int(slots[b, s].argmax()) for s in live if slots[b, s].max() == slots[b, s].sum() == 1}
            holds = {s: o for s, o in one_hot.items() if o in present}
            free = [o for o in present if o not in holds.values()]
            for s in live:
                chosen = holds[s] if s in holds else (free.pop(0) if free else present[0])
                out[b, s, chosen] = 1
        return out, (out @ keys.transpose(1, 2))


def scripted(carry: str, num_slots: int = 4, boxes: bool = False) -> DIAS:
    initializer = BoxInitializer(num_slots, 3) if boxes else GaussianInitializer(num_slots, 3)
    aggregator, transition = (
        Aggregator(ScriptedAttention(), Merging(0.5)),
        Transition(3, num_heads=1),
    )  # untrained: hands on
    return DIAS(Nothing(), Nothing(), initializer, aggregator, transition, Nothing(), 2, 2, carry)


def story(*frames: tuple[int, int, int]) -> tuple[VideoBatch, Tensor]:
    """A clip whose frame t shows objects ``frames[t]``, one a token."""
    features = torch.stack([torch.eye(3)[list(f)] for f in frames])[None]  # (1,T,3,3)
    video = torch.zeros(1, len(frames), 3, 2, 2, dtype=torch.uint8)
    index = torch.arange(len(frames))[None]
    return VideoBatch(video, ["story"], index, torch.ones_like(index, dtype=torch.bool)), features


def object_of(scan, t: int) -> dict[int, int]:
    """Which track holds which object at frame t."""
    live = scan.live[0, t].nonzero().flatten().tolist()
    return {int(scan.track_id[0, t, s]): int(scan.slots[0, t, s].argmax()) for s in live}


def test_an_object_that_leaves_frees_its_slot_and_one_that_enters_gets_a_new_track() -> None:
    batch, features = story((0, 0, 1), (0, 0, 1), (0, 0, 0), (0, 0, 0), (0, 2, 0), (0, 2, 1))
    scan = scripted("reseed").scan(batch, features, Draws.for_step(0, 0, range(1)))
    assert [object_of(scan, t) for t in range(6)] == [
        {0: 0, 1: 1},
        {0: 0, 1: 1},
        {0: 0},  # object 1 left: its slot became redundant and was freed
        {0: 0},
        {0: 0, 2: 2},  # object 2 entered: a new track
        {0: 0, 2: 2, 3: 1},  # object 1 came back: nobody remembers it, a new track
    ]
    slot_of_zero = [int((scan.track_id[0, t] == 0).nonzero()) for t in range(6)]
    assert len(set(slot_of_zero)) == 1
    assert ((scan.track_id == -1) == ~scan.live).all()


def test_persist_never_reseeds() -> None:
    batch, features = story((0, 0, 1), (0, 0, 0), (0, 2, 1))
    scan = scripted("persist").scan(batch, features, Draws.for_step(0, 0, range(1)))
    assert [object_of(scan, t) for t in range(3)] == [{0: 0, 1: 1}, {0: 0}, {0: 0}]


def test_settle_seeds_and_merges_in_training_and_on_the_first_frame_in_use() -> None:
    batch, features = story((0, 0, 1), (0, 0, 0), (0, 2, 1))
    dias = scripted("settle")

    def tracks() -> list[dict[int, int]]:
        scan = dias.scan(batch, features, Draws.for_step(0, 0, range(1)))
        return [object_of(scan, t) for t in range(3)]

    dias.train()
    dias.aggregator.reduction.warmup, dias.aggregator.reduction.skip = 0.0, 0.0  # slots are merged from the start
    assert [sorted(held.values()) for held in tracks()] == [[0, 1], [0], [0, 1, 2]]
    dias.eval()
    # Four slots become two. When object 1 is hidden, its slot sees object 0 as well, but stays a track of its own.
    settled = [{0: 0, 1: 1}, {0: 0, 1: 0}, {0: 0, 1: 0}]
    assert tracks() == settled
    state, seen = None, []
    for t in range(3):  # the same window by window
        scan = dias.scan(batch.frames(t, t + 1), features[:, t : t + 1], Draws.for_step(0, 0, range(1)), state)
        state = scan.state
        seen.append(object_of(scan, 0))
    assert seen == settled


def test_of_two_that_merge_the_older_slot_stays() -> None:
    # Object 2 enters first at frame 1 and takes slot 0, which is free; object 1 lives in a higher slot since frame 0.
    dias = scripted("reseed", num_slots=3)
    batch, features = story((1, 1, 1), (1, 1, 2), (2, 2, 2))
    state = None
    seen = []
    draws = Draws.for_step(0, 0, range(1))
    for t in range(3):
        scan = dias.scan(batch.frames(t, t + 1), features[:, t : t + 1], draws, state)
        state = scan.state
        if t == 0:  # move the only live slot to the end
            order = torch.tensor([1, 2, 0])
            state.slots, state.live = state.slots[:, order], state.live[:, order]
            state.track_id, state.age = state.track_id[:, order], state.age[:, order]
        seen.append(object_of(scan, 0))
    assert seen == [{0: 1}, {0: 1, 1: 2}, {0: 2}]
    assert scan.live[0, 0].tolist() == [False, False, True]


def test_slots_without_a_box_are_off_on_the_first_frame_and_seeded_on_the_second() -> None:
    dias = tiny_dias(boxes=True, threshold=None)
    batch = clips(boxes=2)
    scan = dias.scan(batch, dias.features(batch), Draws.for_step(0, 0, range(3)))
    assert scan.live[:, 0].sum(1).tolist() == [2, 3, 3]  # the background and the boxes there are
    assert not scan.live[:, 0, 3:].any()
    assert scan.live[:, 1:].all()
    kept = tiny_dias(boxes=True, threshold=None, carry="persist")
    assert torch.equal(
        kept.scan(batch, kept.features(batch), Draws.for_step(0, 0, range(3))).live[:, 3], scan.live[:, 0]
    )


def test_track_ids_are_never_reused() -> None:
    batch_ids = torch.full((2, 3), -1)
    state = tiny_state(batch_ids)
    for mask in ([[1, 0, 1], [1, 1, 1]], [[0, 1, 1], [1, 1, 1]], [[1, 1, 1], [0, 0, 0]], [[1, 1, 0], [1, 0, 0]]):
        state = carried(state, torch.zeros(2, 3, 1), torch.tensor(mask, dtype=torch.bool))
    assert state.track_id.tolist() == [[3, 2, -1], [3, -1, -1]]
    assert state.age.tolist() == [[2, 3, 0], [1, 0, 0]]
    assert state.next_id.tolist() == [4, 4]


def tiny_state(track_id: Tensor) -> CarryState:
    zeros = torch.zeros_like(track_id)
    return CarryState(torch.zeros(*track_id.shape, 1), zeros.bool(), track_id, zeros, zeros[:, 0])


@pytest.mark.parametrize("boxes", [None, 2])
def test_padding_frames_and_other_clips_change_nothing(boxes: int | None) -> None:
    dias = tiny_dias(boxes=boxes is not None).train()
    batch = clips(frames=3, boxes=boxes)
    terms = dias(batch, Draws.for_videos(0, batch.video_id))
    longer = clips(frames=5, boxes=boxes, seed=9)
    for name in ("video", "boxes", "box_valid"):
        if getattr(batch, name) is not None:
            getattr(longer, name)[:, :3] = getattr(batch, name)
    longer.frame_valid[:, 3:] = False
    order = torch.tensor([2, 0])
    dias.eval()  # the decoder's draws depend on T; without them the scan can be compared
    whole, _ = dias.encode(batch, Draws.for_videos(0, batch.video_id))
    padded, _ = dias.encode(longer, Draws.for_videos(0, batch.video_id))
    torch.testing.assert_close(padded.slots[:, :3], whole.slots)
    shuffled = VideoBatch(
        video=batch.video[order],
        video_id=[batch.video_id[i] for i in order],
        frame_index=batch.frame_index[order],
        frame_valid=batch.frame_valid[order],
        boxes=None if batch.boxes is None else batch.boxes[order],
        box_valid=None if batch.box_valid is None else batch.box_valid[order],
    )
    torch.testing.assert_close(
        dias.encode(shuffled, Draws.for_videos(0, shuffled.video_id))[0].slots, whole.slots[order]
    )
    dias.train()
    half = dias(shuffled, Draws.for_videos(0, shuffled.video_id))
    for name, value in terms.items():
        torch.testing.assert_close(half[name], value[order])


def test_losses_of_padding_do_not_count() -> None:
    dias = tiny_dias(teacher="hard")
    batch = clips(frames=4)
    batch.frame_valid[1, 2:] = False
    terms = dias(batch, Draws.for_step(0, 0, range(3)))
    changed = clips(frames=4)
    changed.frame_valid = batch.frame_valid
    changed.video[1, 2:] = 0
    again = dias(changed, Draws.for_step(0, 0, range(3)))
    for name in ("reconstruction", "distillation"):
        torch.testing.assert_close(terms[name], again[name])


def test_split_batches_draw_the_same_numbers() -> None:
    dias = tiny_dias(boxes=True).train()
    batch = clips(batch=4, boxes=2)
    whole = dias(batch, Draws.for_step(3, 11, range(4)))
    for start in (0, 2):
        part = VideoBatch(
            batch.video[start : start + 2],
            batch.video_id[start : start + 2],
            batch.frame_index[start : start + 2],
            batch.frame_valid[start : start + 2],
            boxes=batch.boxes[start : start + 2],
            box_valid=batch.box_valid[start : start + 2],
        )
        half = dias(part, Draws.for_step(3, 11, range(start, start + 2)))
        for name, value in whole.items():
            torch.testing.assert_close(half[name], value[start : start + 2])


def test_windows_equal_the_whole_video() -> None:
    dias = tiny_dias(boxes=True)
    video = clips(batch=1, frames=7).video[0]
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9]])
    whole = dias.track(video, boxes, window=7)
    assert whole.labels.shape == (1, 7, HEIGHT, WIDTH)
    assert whole.attention.shape == (1, 7, S, *GRID)
    assert whole.slots.shape == (1, 7, S, D)
    for window in (1, 3):
        parts = dias.track(video, boxes, window=window)
        torch.testing.assert_close(parts.slots, whole.slots)
        assert torch.equal(parts.track_id, whole.track_id)
        assert torch.equal(parts.labels, whole.labels)


def test_image_is_a_video_of_one_frame() -> None:
    dias = tiny_dias()
    terms = dias(clips(frames=1), Draws.for_step(0, 0, range(3)))
    assert all(torch.isfinite(v).all() and v.shape == (3,) for v in terms.values())


def test_ablations_are_one_switch_each() -> None:
    batch, draws = clips(), lambda: Draws.for_step(0, 0, range(3))
    full = tiny_dias(threshold=0.4)
    assert set(full(batch, draws())) == {"reconstruction", "distillation", *DIAS.watched}
    assert set(tiny_dias(threshold=0.4, teacher=None)(batch, draws())) == {"reconstruction", *DIAS.watched}
    scan = full.scan(batch, full.features(batch), draws())
    assert not scan.live.all()
    unreduced = tiny_dias(threshold=None)
    assert unreduced.scan(batch, unreduced.features(batch), draws()).live.all()
    sources = {s: tiny_dias(mask_source=s).encode(batch, draws())[0].attention for s in ("decoder", "aggregation")}
    assert not torch.allclose(*sources.values())


def test_tokens_may_begin_with_a_linear_code_of_their_place() -> None:
    torch.manual_seed(0)
    projection = PlacedProjection(C, C, (4, 6), residual=True, place=0.5)
    features = torch.randn(3, 24, C)
    rest = torch.nn.functional.layer_norm(features, (C,)) + projection.out.bias  # the MLP begins as a constant
    code = (projection(features, features) - rest).detach()
    torch.testing.assert_close(code[0], code[2])
    grid = code[0].view(4, 6, C)
    for steps in (grid.diff(dim=0), grid.diff(dim=1)):
        torch.testing.assert_close(steps, steps[:1, :1].expand_as(steps))
    assert code.norm(dim=-1).mean() == pytest.approx(0.5 * C**0.5, rel=1e-4)
    with pytest.raises(ValueError, match="residual"):
        PlacedProjection(C, C, (4, 6), place=0.5)


def test_a_decoder_may_also_predict_similarities() -> None:
    dias = tiny_dias(threshold=None, teacher=None, objective=SimilarityObjective(C, 0.1))
    dias.decoder = SlotMixerDecoder(C + N, D, N, num_heads=2, hidden=11)
    terms = dias(clips(), Draws.for_step(0, 0, range(3)))
    assert set(terms) == {"reconstruction", "similarity", *DIAS.watched}
    terms["similarity"].sum().backward()
    last = dias.decoder.output.weight.grad  # (C + N, hidden)
    assert last is not None
    assert (last[:C] == 0).all()
    assert (last[C:] != 0).any()
    sequence, _ = dias.encode(clips(), Draws.for_step(0, 0, range(3)))
    assert dias.decode_slots(sequence.slots, sequence.live)[0].shape == (3, 4, N, C)


def test_decoding_predicted_slots_looks_at_nothing_else() -> None:
    dias = tiny_dias()
    sequence, _ = dias.encode(clips(), Draws.for_step(0, 0, range(3)))
    features, maps = dias.decode_slots(sequence.slots, sequence.live)
    assert features.shape == (3, 4, N, C)
    assert maps.shape == (3, 4, S, *GRID)
    assert (maps[~sequence.live] == 0).all()


def test_gradients_in_float64() -> None:
    dias = tiny_dias(threshold=None, teacher="soft").double()
    batch = clips(batch=1, frames=2)
    batch.features = torch.randn(1, 2, N, C, dtype=torch.float64)
    slots = torch.randn(1, S, D, dtype=torch.float64)
    dias.features = lambda b: b.features  # keep float64
    parameters = [dias.aggregator.attention.query.weight, dias.transition.mlp[0].weight, dias.decoder.mask_token]

    def loss(*values: Tensor) -> Tensor:
        state = dict(dias.named_parameters())
        names = {id(p): n for n, p in state.items()}
        replaced = {names[id(p)]: v for p, v in zip(parameters, values, strict=True)}
        terms = torch.func.functional_call(dias, replaced, (batch, Draws.for_step(0, 0, range(1))))
        return terms["reconstruction"].double() + terms["distillation"].double() + slots.sum() * 0

    small = [p.detach().clone().requires_grad_(True) for p in parameters]
    # The losses are accumulated in float32, so the finite difference can't be finer than that.
    assert torch.autograd.gradcheck(loss, small, eps=1e-2, atol=2e-3, rtol=5e-2, fast_mode=True)


def test_training_is_deterministic_by_seed() -> None:
    def train() -> Tensor:
        dias = tiny_dias(boxes=True).train()
        optimizer = torch.optim.Adam(dias.parameters(), 1e-3)
        for step in range(3):
            loss = sum(v.mean() for v in dias(clips(boxes=2), Draws.for_step(0, step, range(3))).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return torch.cat([p.flatten() for p in dias.parameters()])

    assert torch.equal(train(), train())


@pytest.mark.slow
def test_bf16_stays_finite_over_200_steps() -> None:
    dias = tiny_dias().train()
    optimizer = torch.optim.Adam(dias.parameters(), 1e-3)
    for step in range(200):
        with torch.autocast("cpu", torch.bfloat16):
            terms = dias(clips(seed=step % 5), Draws.for_step(0, step, range(3)))
        loss = sum(v.mean() for v in terms.values())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(dias.parameters(), 1.0, error_if_nonfinite=True)
        assert torch.isfinite(loss)
        assert torch.isfinite(norm)
        optimizer.step()


def test_saved_model_is_the_same_model(tmp_path) -> None:
    dias = tiny_dias(boxes=True, carry="persist")
    dias.save_pretrained(tmp_path)
    loaded = DIAS.from_pretrained(tmp_path)
    assert loaded.config == dias.config
    video = clips(batch=1).video[0]
    assert torch.equal(loaded.track(video).slots, dias.track(video).slots)


def test_user_errors() -> None:
    dias = tiny_dias()
    video = clips(batch=1).video[0]
    with pytest.raises(ValueError, match="no frames"):
        dias.track(video[:0])
    with pytest.raises(ValueError, match="uint8"):
        dias.track(video.float())
    for box in ([0.0, 0.0, 2.0, 1.0], [0.5, 0.1, 0.4, 0.9], [0.1, 0.5, 0.9, 0.4], [0.1, 0.1, 0.9, float("nan")], [0.5]):
        with pytest.raises(ValueError, match=r"\[0,1\]"):
            dias.track(video, boxes=torch.tensor([box]))
    with pytest.raises(ValueError, match="later_iterations"):
        tiny_dias(later_iterations=1)
    with pytest.raises(ValueError, match="carry"):
        tiny_dias(carry="drop")


def test_merging_uses_the_age_that_the_scan_keeps() -> None:
    """The ages handed to the aggregator are those of the tracks (not of the frame)."""
    dias = tiny_dias(threshold=0.3)
    seen = []

    def spy(slots, threshold, mask, age):
        seen.append(age.clone())
        return merge_redundant_slots(slots, threshold, mask, age)

    import dias_video.model.reduction as module

    original, module.merge_redundant_slots = module.merge_redundant_slots, spy
    try:
        batch = clips(frames=3)
        scan = dias.scan(batch, dias.features(batch), Draws.for_step(0, 0, range(3)))
    finally:
        module.merge_redundant_slots = original
    assert (seen[0] == 0).all()
    for t in (1, 2):
        alive_before = scan.live[:, t - 1]
        assert ((seen[t] > 0) == alive_before).all()
