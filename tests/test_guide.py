"""SPOT's teacher: what it says, what the student makes of it, and that it stays outside of the student."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import C, D, N, S, clips, tiny_dias
from torch import Tensor

from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.decoders.causal import CausalDecoder
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.guide import MaskTeacher
from dias_video.model.learned_initializer import LearnedInitializer


def spot(seed: int = 0, guide: MaskTeacher | None = None) -> DIAS:
    dias = tiny_dias(seed=seed, threshold=None, teacher=None)
    initializer, bilevel = (dias.initializer, False) if guide is None else (LearnedInitializer(S, D), True)
    aggregator = Aggregator(dias.aggregator.attention, None, reinitialize=False, bilevel=bilevel)
    decoder = CausalDecoder(C, D, (2, 3), width=10, num_layers=2, num_heads=2, num_orders=9)
    return DIAS(
        dias.encoder, dias.projection, initializer, aggregator, dias.transition, decoder, teacher=None, guide=guide
    )


@pytest.fixture
def teacher(tmp_path: Path) -> MaskTeacher:
    spot().save_pretrained(tmp_path / "teacher")
    return MaskTeacher(tmp_path / "teacher")


@pytest.mark.parametrize("scored", ["all", "unknown"])
def test_no_masks_are_read_where_the_teacher_learned_none(
    scored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dias = tiny_dias(threshold=None, teacher=None)
    decoder = RandomARDecoder(C, D, N, width=10, num_layers=2, num_heads=2, scored=scored)
    parts = (dias.encoder, dias.projection, dias.initializer, dias.aggregator, dias.transition, decoder)
    DIAS(*parts, teacher=None).save_pretrained(tmp_path / scored)
    teacher, batch = MaskTeacher(tmp_path / scored), clips(batch=3, frames=2)
    decoded: list[Any] = []
    teacher.model.decoder.register_forward_hook(lambda *given: decoded.append(given))
    features, draws = teacher.model.features(batch), Draws.for_step(0, 0, range(3))
    with monkeypatch.context() as patch:  # the host waits for no value
        patch.setattr(Tensor, "__bool__", lambda _: pytest.fail("a value is read"))
        live, masks = teacher.masks(batch, features, draws)
    assert len(decoded) == 1
    read, _ = teacher.model.encode(batch, Draws.for_step(0, 0, range(3)))
    torch.testing.assert_close(live, read.live)
    assert torch.allclose(masks, read.attention.flatten(-2), atol=1e-6) == (scored == "unknown")


class Says:
    """A teacher that has these masks (B,T,S,N) and live slots (B,T,S)."""

    def __init__(self, masks: Tensor, live: Tensor | None = None) -> None:
        self.masks_, self.live = masks, torch.ones(masks.shape[:3], dtype=torch.bool) if live is None else live

    def losses(self, student: DIAS, batch, scan, teacher: MaskTeacher) -> Tensor:
        teacher.masks = lambda *_: (self.live, self.masks_)  # type: ignore[method-assign]
        return teacher.losses(batch, student.features(batch), scan, Draws.for_step(0, 0, range(len(batch))))[
            "teacher_masks"
        ]


def by_brute_force(student: Tensor, owner: Tensor, num_slots: int) -> list[float]:
    """Cross-entropies of one frame (S,N) with labels (N,) under the best of all assignments of slots by IoU."""
    regions = student.argmax(0)

    def iou(slot: int, other: int) -> float:
        a, b = owner == slot, regions == other
        union = int((a | b).sum())
        return int((a & b).sum()) / union if union else 0.0

    table = [[iou(slot, other) for other in range(num_slots)] for slot in range(num_slots)]
    totals = {p: sum(table[s][p[s]] for s in range(num_slots)) for p in itertools.permutations(range(num_slots))}
    best = [p for p, value in totals.items() if value > max(totals.values()) - 1e-6]
    return [float(-torch.stack([student[p[int(s)], n].log() for n, s in enumerate(owner)]).mean()) for p in best]


def test_the_loss_is_the_cross_entropy_under_the_best_assignment(teacher: MaskTeacher) -> None:
    """Among others with a teacher's slot that owns nothing, and one that is off and would own everything."""
    student, batch = spot(seed=1, guide=teacher).train(), clips(batch=2, frames=2)
    scan = student.scan(batch, student.features(batch), Draws.for_step(0, 0, range(2)))
    assert scan.attention is not None
    attention = scan.attention.flatten(-2).detach()
    for sharpness in (1, 40):  # nearly uniform, and regions of their own
        scan.attention = (attention.log() * sharpness).softmax(2).unflatten(-1, (2, 3))
        owner = torch.tensor([[[0, 0, 1, 1, 2, 3], [4, 4, 4, 4, 4, 0]], [[1, 1, 1, 3, 3, 3], [2, 2, 2, 2, 2, 2]]])
        masks = torch.nn.functional.one_hot(owner, S).mT.float()  # (B,T,S,N)
        masks[0, 0, 4] = 5.0
        live = torch.ones(2, 2, S, dtype=torch.bool)
        live[0, 0, 4] = False
        got = Says(masks, live).losses(student, batch, scan, teacher)
        frames = scan.attention.flatten(-2)
        for b in range(2):
            each = (by_brute_force(frames[b, t], owner[b, t], S) for t in range(2))
            assert min(abs(float(got[b]) - sum(pair) / 2) for pair in itertools.product(*each)) < 1e-5
            assert abs(float(got[b]) + float(frames[b].log().mean())) > 1e-3  # what no assignment at all would give


def test_only_the_student_learns_and_the_teacher_stays_in_evaluation(teacher: MaskTeacher) -> None:
    student, batch = spot(seed=1, guide=teacher).train(), clips()
    terms = student(batch, Draws.for_step(0, 0, range(3)))
    assert set(terms) - set(student.watched) == {"reconstruction", "teacher_masks"}
    terms["teacher_masks"].sum().backward()
    assert not any(part.training for part in teacher.model.modules())
    assert all(p.grad is None for p in teacher.model.parameters())
    assert student.initializer.slots.grad.abs().sum() > 0  # straight through
    assert student.aggregator.attention.query.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in student.decoder.parameters())


def test_the_student_draws_what_it_draws_without_a_teacher(teacher: MaskTeacher) -> None:
    """The teacher's noise and order are its own: another part of the same stream, and a random order."""
    student, batch = spot(seed=1, guide=teacher).train(), clips()
    with_teacher = student(batch, Draws.for_step(0, 3, range(3)))
    student.guide = None
    torch.testing.assert_close(
        with_teacher["reconstruction"], student(batch, Draws.for_step(0, 3, range(3)))["reconstruction"]
    )
    features = student.features(batch)
    seen = [teacher.masks(batch, features, Draws.for_step(0, step, range(3)))[1] for step in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_the_students_file_does_not_hold_the_teacher(teacher: MaskTeacher, tmp_path: Path) -> None:
    student = spot(seed=1, guide=teacher)
    student.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())["model"]
    assert described["guide"] is None
    assert not any("guide" in name for name in student.state_dict())
    assert DIAS.from_pretrained(tmp_path).guide is None


def test_a_teacher_of_boxes_is_given_them_though_its_student_takes_none(tmp_path: Path) -> None:
    tiny_dias(boxes=True, threshold=None, teacher=None).save_pretrained(tmp_path)
    student = spot(seed=1, guide=MaskTeacher(tmp_path))
    assert not student.takes_boxes
    assert student.inputs({"features"}) == {"boxes"}
    batch = clips(boxes=3)
    terms = student(batch, Draws.for_step(0, 0, range(3)))
    batch.boxes = batch.boxes.flip(2)
    others = student(batch, Draws.for_step(0, 0, range(3)))
    assert torch.equal(others["reconstruction"], terms["reconstruction"])
    assert not torch.equal(others["teacher_masks"], terms["teacher_masks"])
    with pytest.raises(ValueError, match="the teacher's first queries come from boxes, and these clips have none"):
        student(clips(), Draws.for_step(0, 0, range(3)))


def test_a_teacher_of_another_encoder_s_features_is_refused(teacher: MaskTeacher, tmp_path: Path) -> None:
    spot(guide=teacher).check_parts()
    named = re.escape(str(tmp_path / "teacher"))
    with pytest.raises(ValueError, match=f"the teacher in {named} was trained on the features of another encoder"):
        spot(seed=1, guide=teacher).check_parts()
    teacher.model.encoder.config = {**teacher.model.encoder.config, "color": 2.0}
    with pytest.raises(ValueError, match="give the student the same options and weights"):
        spot(guide=teacher).check_parts()


def test_a_teacher_of_other_slots_is_refused(teacher: MaskTeacher) -> None:
    teacher.model.initializer.num_slots = S + 1
    student, batch = spot(seed=1, guide=teacher), clips()
    with pytest.raises(ValueError, match=f"the teacher has {S + 1} slots, the student {S}"):
        student(batch, Draws.for_step(0, 0, range(3)))


def test_learned_queries_lose_their_noise() -> None:
    queries = LearnedInitializer(S, D, noise_until=0.5)
    with torch.no_grad():
        queries.slots[:] = torch.arange(1.0, S + 1)[:, None]
    tokens, clips_ = torch.zeros(2000, N, D), range(2000)
    spread = [float(queries(tokens, Draws.for_step(0, 0, clips_, p))[0][:, 2].std() / 3) for p in (0.0, 0.25, 0.5, 1.0)]
    assert spread == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=0.03)
    assert torch.equal(queries.eval().reseed(2, Draws.for_videos(0, ["a", "b"])), queries.slots.expand(2, -1, -1))
    with pytest.raises(ValueError, match="noise_until"):
        LearnedInitializer(S, D, noise_until=1.5)
