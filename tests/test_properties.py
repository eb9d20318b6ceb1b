"""What must hold of the whole model whatever the weights, the clips and the choices: drawn by hypothesis."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRID, C, D, N, S, clips, tiny_dias
from torch import Tensor

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.decoders.causal import CausalDecoder
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.dias import DIAS
from dias_video.model.initializers import BoxInitializer
from dias_video.model.reduction import Merging
from dias_video.model.redundancy import merge_redundant_slots

SEEDS = st.integers(0, 10_000)
THRESHOLDS = st.sampled_from([None, 0.1, 0.5])
few = settings(max_examples=8, deadline=None, derandomize=True)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


class SlotsPermuted(Draws):
    """The same numbers, those of the slots in another order."""

    def __init__(self, draws: Draws, order: Tensor) -> None:
        super().__init__(draws.generators)
        self.order = order

    def normal(self, *shape: int) -> Tensor:
        noise = super().normal(*shape)
        return noise[:, self.order] if shape == (S, D) else noise


def of_videos(batch: VideoBatch) -> Draws:
    return Draws.for_videos(0, batch.video_id)


def subset(batch: VideoBatch, order: Tensor) -> VideoBatch:
    """Clips ``order`` of a batch."""
    return VideoBatch(
        video_id=[batch.video_id[i] for i in order],
        **{
            name: None if (value := getattr(batch, name)) is None else value[order]
            for name in ("video", "frame_index", "frame_valid", "boxes", "box_valid")
        },
    )


def permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@few
@given(seed=SEEDS, teacher=st.sampled_from(["soft", None]))
def test_permuting_slots_permutes_everything(seed: int, teacher: str | None) -> None:
    dias = tiny_dias(seed=seed, threshold=None, teacher=teacher).train()
    batch, order = clips(seed=seed), permutation(S, seed)
    plain = dias.encode(batch, of_videos(batch))[0]
    permuted = dias.encode(batch, SlotsPermuted(of_videos(batch), order))[0]
    torch.testing.assert_close(permuted.slots, plain.slots[:, :, order], **CLOSE)
    torch.testing.assert_close(permuted.attention, plain.attention[:, :, order], **CLOSE)
    terms = dias(batch, of_videos(batch))
    for name, value in dias(batch, SlotsPermuted(of_videos(batch), order)).items():
        torch.testing.assert_close(value, terms[name], **CLOSE)


@few
@given(seed=SEEDS, threshold=st.sampled_from([0.1, 0.5]))
def test_permuting_slots_permutes_merged_ones_up_to_their_representative(seed: int, threshold: float) -> None:
    dias = tiny_dias(seed=seed, threshold=threshold, carry="persist", teacher=None).train()
    batch, order = clips(seed=seed), permutation(S, seed)
    plain = dias.encode(batch, of_videos(batch))[0]
    permuted = dias.encode(batch, SlotsPermuted(of_videos(batch), order))[0]
    assert torch.equal(permuted.live.sum(-1), plain.live.sum(-1))
    for b in range(len(batch)):
        for t in range(batch.video.shape[1]):
            one, other = plain.live[b, t], permuted.live[b, t]
            places = torch.cdist(plain.slots[b, t, one], permuted.slots[b, t, other]).argmin(1)
            assert len(set(places.tolist())) == int(one.sum())  # one to one
            torch.testing.assert_close(permuted.slots[b, t, other][places], plain.slots[b, t, one], **CLOSE)
            torch.testing.assert_close(permuted.attention[b, t, other][places], plain.attention[b, t, one], **CLOSE)
    terms = dias(batch, of_videos(batch))
    again = dias(batch, SlotsPermuted(of_videos(batch), order))
    torch.testing.assert_close(again["reconstruction"], terms["reconstruction"], **CLOSE)


@few
@given(
    seed=SEEDS,
    threshold=THRESHOLDS,
    boxes=st.sampled_from([None, 2]),
    carry=st.sampled_from(["reseed", "persist"]),
    teacher=st.sampled_from(["hard", "soft"]),
)
def test_permuting_the_batch_permutes_the_results(seed, threshold, boxes, carry, teacher) -> None:
    dias = tiny_dias(boxes is not None, seed, threshold, carry=carry, teacher=teacher).train()
    batch = clips(seed=seed, boxes=boxes)
    batch.frame_valid[1, 3:] = False
    order = permutation(3, seed)[: 1 + seed % 3]  # some of them too
    shuffled = subset(batch, order)
    plain, other = dias.encode(batch, of_videos(batch))[0], dias.encode(shuffled, of_videos(shuffled))[0]
    for name in ("slots", "live", "track_id", "attention"):
        torch.testing.assert_close(getattr(other, name), getattr(plain, name)[order], **CLOSE)
    terms = dias(batch, of_videos(batch))
    for name, value in dias(shuffled, of_videos(shuffled)).items():
        torch.testing.assert_close(value, terms[name][order], **CLOSE)


def without_draws(dias: DIAS) -> DIAS:
    """Random orders are drawn for as many frames as there are; this decoder draws nothing."""
    torch.manual_seed(1)
    dias.decoder = MLPDecoder(C, D, N, hidden=16)
    return dias


@few
@given(seed=SEEDS, threshold=THRESHOLDS, boxes=st.sampled_from([None, 2]), extra=st.integers(1, 3))
def test_padding_frames_change_nothing(seed: int, threshold: float | None, boxes: int | None, extra: int) -> None:
    dias = without_draws(tiny_dias(boxes is not None, seed, threshold, carry="persist"))
    batch = clips(frames=3, boxes=boxes, seed=seed)
    padded = clips(frames=3 + extra, boxes=boxes, seed=seed + 1)
    for name in ("video", "boxes", "box_valid"):
        if getattr(batch, name) is not None:
            getattr(padded, name)[:, :3] = getattr(batch, name)
    padded.frame_valid[:, 3:] = False
    plain, longer = dias.encode(batch, of_videos(batch))[0], dias.encode(padded, of_videos(padded))[0]
    for name in ("slots", "live", "track_id", "attention"):
        torch.testing.assert_close(getattr(longer, name)[:, :3], getattr(plain, name), **CLOSE)
    terms = dias(batch, of_videos(batch))
    for name, value in dias(padded, of_videos(padded)).items():
        torch.testing.assert_close(value, terms[name], **CLOSE)


@few
@given(
    seed=SEEDS,
    threshold=THRESHOLDS,
    present=st.lists(st.booleans(), min_size=S - 1, max_size=S - 1).filter(any),
    teacher=st.sampled_from(["soft", None]),
)
def test_masked_slots_equal_removed_slots(seed: int, threshold: float | None, present: list, teacher) -> None:
    """A box that is not there leaves its slot off; a model without that slot does the same to the others."""
    dias = without_draws(tiny_dias(True, seed, threshold, carry="persist", teacher=teacher))
    batch = clips(batch=1, boxes=S - 1, seed=seed)
    valid = torch.tensor(present)
    batch.box_valid[:] = valid
    kept = torch.cat([torch.tensor([True]), valid]).nonzero().flatten()
    smaller = without_draws(tiny_dias(True, seed, threshold, carry="persist", teacher=teacher))
    smaller.initializer = BoxInitializer(len(kept), D, hidden=9)
    smaller.load_state_dict(dias.state_dict())
    removed = subset(batch, torch.tensor([0]))
    removed.boxes, removed.box_valid = batch.boxes[:, :, valid], batch.box_valid[:, :, valid]
    plain, other = dias.encode(batch, of_videos(batch))[0], smaller.encode(removed, of_videos(removed))[0]
    off = torch.ones(S, dtype=torch.bool).index_fill(0, kept, False)
    assert not plain.live[:, :, off].any()
    assert not plain.attention[:, :, off].any()
    for name in ("slots", "live", "track_id", "attention"):
        torch.testing.assert_close(getattr(plain, name)[:, :, kept], getattr(other, name), **CLOSE)
    terms = smaller(removed, of_videos(removed))
    for name, value in dias(batch, of_videos(batch)).items():
        torch.testing.assert_close(value, terms[name], **CLOSE)


@few
@given(seed=SEEDS)
def test_each_ablation_changes_exactly_what_it_should(seed: int) -> None:
    """The four switches of Table 6, one at a time, on the same weights."""
    batch = clips(frames=1, seed=seed)
    full = tiny_dias(seed=seed, threshold=0.5).train()
    features = full.features(batch)

    def results(dias: DIAS) -> tuple:
        return dias.scan(batch, features, of_videos(batch)), dias(batch, of_videos(batch))

    def with_aggregator(threshold: float | None, reinitialize: bool) -> DIAS:
        dias = tiny_dias(seed=seed, threshold=0.5).train()
        dias.aggregator = Aggregator(dias.aggregator.attention, threshold and Merging(threshold), reinitialize)
        return dias

    scan, terms = results(full)

    undistilled = tiny_dias(seed=seed, threshold=0.5, teacher=None).train()
    other, other_terms = results(undistilled)
    assert torch.equal(other.slots, scan.slots)
    assert torch.equal(other.attention, scan.attention)
    assert other_terms.keys() == {"reconstruction", *DIAS.watched} - {"live_later", "steadiness"}
    assert torch.equal(other_terms["reconstruction"], terms["reconstruction"])

    causal = tiny_dias(seed=seed, threshold=0.5).train()
    causal.decoder = CausalDecoder(C, D, GRID, width=10, num_layers=2, num_heads=2)
    other, other_terms = results(causal)
    assert torch.equal(other.slots, scan.slots)
    assert torch.equal(other_terms["distillation"], terms["distillation"])
    assert not torch.equal(other_terms["reconstruction"], terms["reconstruction"])

    unreduced = with_aggregator(None, reinitialize=False)
    whole, _ = results(unreduced)  # neither: every slot lives
    assert torch.equal(whole.first, scan.first)
    assert whole.live.all()

    other, _ = results(with_aggregator(0.5, reinitialize=False))  # reduction alone comes last (eq. 6)
    reduced = merge_redundant_slots(whole.slots[:, 0], 0.5)
    assert torch.equal(other.first, scan.first)
    assert torch.equal(other.slots[:, 0], reduced.slots)
    assert torch.equal(other.live[:, 0], reduced.live)

    unreduced.first_iterations -= 1  # both: reduction after all but one iteration (eq. 8-10)
    before, _ = results(unreduced)
    assert torch.equal(scan.live[:, 0], merge_redundant_slots(before.slots[:, 0], 0.5).live)
