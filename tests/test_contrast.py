"""Slot-slot contrast: the released formula, closed forms, what is dead or over, one process and two."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import FORK
from tiny import clips, tiny_dias
from torch import Tensor

from dias_video.batch import SlotSequence
from dias_video.draws import Draws
from dias_video.model.contrast import SlotContrast, contrast_loss

B, T, S, D, TAU = 3, 4, 5, 6, 0.1


def sequence(slots: Tensor, live: Tensor | None = None, track_id: Tensor | None = None) -> SlotSequence:
    live = torch.ones(slots.shape[:3], dtype=torch.bool) if live is None else live
    ids = torch.arange(slots.shape[2]).expand(live.shape) if track_id is None else track_id
    return SlotSequence([f"clip{i}" for i in range(len(slots))], slots, live, ids.masked_fill(~live, -1))


def random_slots(seed: int = 0) -> Tensor:
    return torch.randn(B, T, S, D, generator=torch.Generator().manual_seed(seed))


def all_valid(batch: int = B, frames: int = T) -> Tensor:
    return torch.ones(batch, frames, dtype=torch.bool)


def test_mean_is_the_released_loss() -> None:
    """Similarities (T-1, slots before, slots after), cross-entropy over axis 1 with the identity as probabilities."""
    slots = random_slots()
    unit = slots / slots.norm(dim=-1, keepdim=True)
    side_by_side = torch.cat(list(unit), dim=1)  # (T,B*S,D)
    similarity = torch.stack([side_by_side[t] @ side_by_side[t + 1].T for t in range(T - 1)]) / TAU
    identity = torch.eye(B * S).expand(T - 1, -1, -1)
    expected = torch.nn.CrossEntropyLoss()(similarity, identity)
    other_direction = torch.nn.CrossEntropyLoss()(similarity.mT, identity)
    got = contrast_loss(sequence(slots), TAU, all_valid())
    assert got.shape == (B,)
    torch.testing.assert_close(got.mean(), expected)
    assert abs(expected - other_direction) > 0.01


def test_slots_that_stay_and_are_orthogonal_have_the_closed_form() -> None:
    slots = torch.eye(4).view(1, 1, 4, 4).expand(1, 3, -1, -1) * torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1)
    got = contrast_loss(sequence(slots), TAU, all_valid(1, 3))
    assert got.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / TAU)), rel=1e-2)
    same = contrast_loss(sequence(torch.ones(2, 3, 4, 4)), TAU, all_valid(2, 3))
    torch.testing.assert_close(same, torch.full((2,), math.log(8)))


def test_dead_slots_are_not_there() -> None:
    live = torch.ones(B, T, S, dtype=torch.bool)
    live[:, :, 3] = False
    slots = random_slots()
    got = contrast_loss(sequence(slots, live), TAU, all_valid())
    rest = [0, 1, 2, 4]
    torch.testing.assert_close(got, contrast_loss(sequence(slots[:, :, rest]), TAU, all_valid()))
    loud = slots + 100 * ~live[..., None]
    torch.testing.assert_close(got, contrast_loss(sequence(loud, live), TAU, all_valid()))


def test_a_new_track_in_an_old_place_is_not_the_slot_it_was() -> None:
    ids = torch.arange(S).repeat(B, T, 1)
    ids[0, 2:, 1] = S  # re-seeded
    slots = random_slots()
    got = contrast_loss(sequence(slots, track_id=ids), TAU, all_valid())
    whole = contrast_loss(sequence(slots), TAU, all_valid())
    torch.testing.assert_close(got[1:], whole[1:])  # for others it is a slot like any
    unit = torch.nn.functional.normalize(slots, dim=-1)
    logits = unit[0, 2, 1] @ unit[:, 1].flatten(0, 1).T / TAU
    left_out = torch.logsumexp(logits, 0) - logits[1]
    torch.testing.assert_close(got[0] * (S * (T - 1) - 1), whole[0] * S * (T - 1) - left_out)


def test_what_is_over_and_single_frames() -> None:
    valid = all_valid()
    valid[1, 2:] = False
    valid[2, 1:] = False
    slots = random_slots()
    got = contrast_loss(sequence(slots), TAU, valid)
    assert torch.equal(got, contrast_loss(sequence(slots + 9 * ~valid[..., None, None]), TAU, valid))
    assert got[2] == 0  # one frame has nothing to be compared with
    with pytest.raises(ValueError, match="at least 2 frames"):
        contrast_loss(sequence(slots[:, :1]), TAU, valid[:, :1])


def _share(rank: int, port: int, out: Path, lengths: tuple[int, int]) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weight = torch.eye(D, requires_grad=True)
    slots = (torch.cat([random_slots(), random_slots(1)]) @ weight).tensor_split(2)[rank][:, : lengths[rank]]
    try:
        loss = contrast_loss(sequence(slots), TAU, all_valid(B, lengths[rank]))
    except ValueError as error:
        (out / f"{rank}").write_text(str(error))
        return
    loss.mean().backward()
    torch.save((loss.detach(), weight.grad), out / f"{rank}")


def shared(out: Path, lengths: tuple[int, int]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    members = [FORK.Process(target=_share, args=(rank, port, out, lengths)) for rank in range(2)]
    for member in members:
        member.start()
    for member in members:
        member.join(120)
        assert member.exitcode == 0


def test_two_processes_contrast_with_each_others_slots(tmp_path: Path) -> None:
    """Losses as of the whole batch, and the mean over processes of the gradients is its gradient."""
    weight = torch.eye(D, requires_grad=True)
    whole = contrast_loss(sequence(torch.cat([random_slots(), random_slots(1)]) @ weight), TAU, all_valid(2 * B))
    whole.mean().backward()
    shared(tmp_path, (T, T))
    losses, gradients = zip(*(torch.load(tmp_path / f"{rank}") for rank in range(2)), strict=True)
    torch.testing.assert_close(torch.cat(losses), whole.detach())
    torch.testing.assert_close(sum(gradients) / 2, weight.grad)


def test_two_processes_with_clips_of_two_lengths_are_refused(tmp_path: Path) -> None:
    shared(tmp_path, (T, T - 1))
    for rank in range(2):
        assert "needs clips of one length" in (tmp_path / f"{rank}").read_text()


def test_it_guides_any_model_and_is_not_saved_with_it() -> None:
    dias = tiny_dias(threshold=None, teacher=None, guide=SlotContrast(TAU))
    assert dias.config == tiny_dias(threshold=None, teacher=None).config
    assert dias.inputs() == {"video"}
    dias.check_parts()
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        SlotContrast(0.0)
    terms = dias(clips(), Draws.for_step(0, 0, range(3)))
    assert set(terms) == {"reconstruction", "contrast", *dias.watched}
    terms["contrast"].sum().backward()
    assert dias.aggregator.attention.query.weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in dias.decoder.parameters())
    scan = dias.scan(clips(), dias.features(clips()), Draws.for_step(0, 0, range(3)))
    expected = contrast_loss(scan, TAU, clips().frame_valid)
    torch.testing.assert_close(terms["contrast"], expected)
    with torch.autocast("cpu", torch.bfloat16):
        (exact,) = dias.guide.losses(clips(), dias.features(clips()), scan, Draws([])).values()
    assert torch.equal(exact, expected)
