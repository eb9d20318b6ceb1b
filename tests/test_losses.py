"""Loss terms against per-sample loops written from the equations."""

import math
from itertools import permutations

import pytest
import torch

from dias_video.model.losses import distillation_loss, match_regions, reconstruction_loss, similarity_loss

B, T, S, N, C = 3, 2, 4, 61, 5


def attention(seed: int, off: torch.Tensor | None = None) -> torch.Tensor:
    logits = 3 * torch.randn(B, T, S, N, generator=torch.Generator().manual_seed(seed))
    if off is not None:
        logits = logits.masked_fill(off[..., None], -torch.inf)
    return logits.softmax(2)


def test_reconstruction_is_a_mean_over_counted_tokens_of_each_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, B, T, N, C, generator=generator)
    counted = torch.rand(B, T, N, generator=generator) < 0.4
    got = reconstruction_loss(predicted, target, counted)
    for b in range(B):
        errors = [((predicted - target)[b, t, n] ** 2).mean() for t in range(T) for n in range(N) if counted[b, t, n]]
        torch.testing.assert_close(got[b], torch.stack(errors).mean())


def slow_hard(first: torch.Tensor, last: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """Eq. 14-15 for one frame: first, last (S,N), mask (S,); every assignment is tried.

    Returns the loss of each assignment that is best (there may be ties).
    """
    live = [s for s in range(S) if mask[s]]
    on = [s for s in range(S) if first[s].max() > 0]
    label = [max(live, key=lambda s: float(last[s, n])) for n in range(N)]
    region = [int(first[:, n].argmax()) for n in range(N)]

    def iou(a: int, b: int) -> float:
        both = sum(x == a and y == b for x, y in zip(label, region, strict=True))
        either = sum(x == a or y == b for x, y in zip(label, region, strict=True))
        return both / either if either else 0.0

    table = {(a, b): iou(a, b) for a in live for b in on}
    totals = {p: sum(table[pair] for pair in zip(live, p, strict=True)) for p in permutations(on, len(live))}
    losses = []
    for assignment, total in totals.items():
        if total > max(totals.values()) - 1e-6:
            matched = dict(zip(live, assignment, strict=True))
            losses.append(float(torch.stack([-first[matched[label[n]], n].log() for n in range(N)]).mean()))
    return losses


@pytest.mark.parametrize("case", ["all on", "some off"])
def test_hard_distillation_equals_the_equations(case: str) -> None:
    off = torch.zeros(B, T, S, dtype=torch.bool)
    dead = torch.zeros(B, T, S, dtype=torch.bool)
    if case == "some off":
        off[0, :, 3] = off[2, 0, 1] = True
        dead = off.clone()
        dead[1, 1, 0] = dead[0, 1, 2] = True
    for seed in range(8):
        first, last = attention(seed, off), attention(seed + 100, dead)
        whole = distillation_loss(first, last, ~dead, "hard", torch.ones(B, T, dtype=torch.bool))
        frames = torch.stack(
            [
                distillation_loss(
                    first[:, t : t + 1], last[:, t : t + 1], ~dead[:, t : t + 1], "hard", torch.ones(B, 1)
                )
                for t in range(T)
            ],
            1,
        )
        torch.testing.assert_close(whole, frames.mean(1))
        for b in range(B):
            for t in range(T):
                expected = slow_hard(first[b, t], last[b, t], ~dead[b, t])
                assert min(abs(float(frames[b, t]) - e) for e in expected) < 1e-5


def test_dead_slots_are_never_labels() -> None:
    first = attention(0)
    last = torch.full((B, T, S, N), 0.01)
    last[:, :, 2] = 0.9  # the strongest slot of the last map is dead
    mask = torch.ones(B, T, S, dtype=torch.bool)
    mask[:, :, 2] = False
    moved = last.clone()
    moved[:, :, 2] = 0.02
    valid = torch.ones(B, T, dtype=torch.bool)
    a, b = (distillation_loss(first, x, mask, "hard", valid) for x in (last, moved))
    assert torch.equal(a, b)


def test_soft_distillation_is_cross_entropy_on_the_first_map_as_logits() -> None:
    first, last = attention(1), attention(2)
    got = distillation_loss(first, last, torch.ones(B, T, S, dtype=torch.bool), "soft", torch.ones(B, T).bool())
    for b in range(B):
        expected = torch.nn.functional.cross_entropy(first[b], last[b])  # frames as batch, slots as classes
        torch.testing.assert_close(got[b], expected)


@pytest.mark.parametrize("teacher", ["hard", "soft"])
def test_teacher_is_detached_and_padding_left_out(teacher: str) -> None:
    first, last = attention(1).requires_grad_(True), attention(2).requires_grad_(True)
    mask = torch.ones(B, T, S, dtype=torch.bool)
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[1, 1] = False
    loss = distillation_loss(first, last, mask, teacher, valid)
    loss.sum().backward()
    assert last.grad is None
    assert first.grad is not None
    assert (first.grad[1, 1] == 0).all()
    alone = distillation_loss(first[:, :1], last[:, :1], mask[:, :1], teacher, valid[:, :1])
    torch.testing.assert_close(loss[1], alone[1])


def test_perfect_first_map_needs_no_learning() -> None:
    labels = torch.randint(0, S, (B, T, N), generator=torch.Generator().manual_seed(3))
    labels[..., :S] = torch.arange(S)
    sharp = torch.nn.functional.one_hot(labels, S).float().transpose(2, 3)
    shuffled = sharp[:, :, torch.tensor([2, 0, 3, 1])]  # another naming of the same regions
    mask = torch.ones(B, T, S, dtype=torch.bool)
    loss = distillation_loss(sharp, shuffled, mask, "hard", torch.ones(B, T, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.zeros(B))


def test_matching_one_slot_and_unknown_teacher() -> None:
    one = torch.zeros(1, 1, N, dtype=torch.int64)
    assert match_regions(one, one, torch.ones(1, 1, 1).bool(), torch.ones(1, 1, 1).bool()).tolist() == [[[0]]]
    with pytest.raises(ValueError, match="teacher"):
        distillation_loss(attention(0), attention(1), torch.ones(B, T, S).bool(), "medium", torch.ones(B, T).bool())


def test_similarity_loss_equals_a_loop_over_tokens() -> None:
    generator = torch.Generator().manual_seed(4)
    frames, tokens = 3, 6
    features = torch.randn(B, frames, tokens, C, generator=generator)
    features[0, 1] = features[0, 1].abs()
    features[0, 0, 2] = -1.0  # no token of the next frame looks like this one
    logits = torch.randn(B, frames, tokens, tokens, generator=generator)
    valid = torch.ones(B, frames, dtype=torch.bool)
    valid[2, 2] = False
    got = similarity_loss(logits, features, 0.2, valid)
    for b in range(B):
        losses = []
        for t in range(1 if b == 2 else 2):
            for n in range(tokens):
                cosine = [
                    float(torch.cosine_similarity(features[b, t, n], other, dim=0)) for other in features[b, t + 1]
                ]
                kept = [c >= 0 for c in cosine] if max(cosine) >= 0 else [True] * tokens
                weights = [math.exp(c / 0.2) if k else 0.0 for c, k in zip(cosine, kept, strict=True)]
                total = math.log(sum(math.exp(float(x)) for x in logits[b, t, n]))
                parts = [w / sum(weights) * (total - float(x)) for w, x in zip(weights, logits[b, t, n], strict=True)]
                losses.append(sum(parts))
        assert float(got[b]) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_similarity_needs_a_next_frame() -> None:
    with pytest.raises(ValueError, match="at least 2 frames"):
        similarity_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 2), 0.1, torch.ones(1, 1, dtype=torch.bool))
