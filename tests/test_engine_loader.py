"""Order of samples, shares of a batch, schedules."""

import itertools
import os
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from toy import Numbers, Points

from dias_video.engine.loader import Order, Share, batches
from dias_video.engine.schedule import Optimization, named_weights, weight_at


def test_every_epoch_shows_every_sample_once() -> None:
    order = Order(num_samples=13, batch_size=5, seed=1)
    stream = [key for step in range(26) for key in order.keys(step)]  # 130 places = 10 epochs
    for epoch in range(10):
        assert sorted(index for e, index in stream if e == epoch) == list(range(13))
    assert [epoch for epoch, _ in stream] == sorted(epoch for epoch, _ in stream)
    firsts = {tuple(index for e, index in stream if e == epoch) for epoch in range(10)}
    assert len(firsts) == 10
    assert Order(13, 5, seed=2).keys(0) != order.keys(0)


def test_order_is_a_function_of_the_step() -> None:
    forward = Order(7, 4, seed=0)
    there = [forward.keys(step) for step in range(30)]
    back = Order(7, 4, seed=0)
    assert [back.keys(step) for step in reversed(range(30))] == there[::-1]


def test_a_batch_larger_than_the_data() -> None:
    counts = Counter(index for _, index in Order(3, 8, seed=0).keys(0))
    assert sorted(counts.values()) == [2, 3, 3]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 1), (3, 4)])
def test_shares_tile_the_batch(processes: int, accumulation: int) -> None:
    places = [span for p in range(processes) for span in Share.of(24, p, processes, accumulation).micro_batches()]
    assert len(places) == processes * accumulation
    assert [start for start, _ in places] + [24] == [0] + [stop for _, stop in places]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size=10 .* 2 processes .* 3 accumulation steps; use a multiple of 6"):
        Share.of(10, 0, 2, 3)


def seen(processes: int, accumulation: int, workers: int, steps: tuple[int, int]) -> list[list[str]]:
    """Video ids of every step's global batch, put together from all processes."""
    order = Order(11, 12, seed=5)
    by_step: list[list[str]] = [[] for _ in range(*steps)]
    for process in range(processes):
        share = Share.of(12, process, processes, accumulation)
        got = list(batches(Points(11), Numbers.stack, order, share, steps, workers))
        for number, step in enumerate(by_step):
            for batch in got[number * accumulation : (number + 1) * accumulation]:
                step += batch.video_id
    return by_step


def test_the_split_changes_nothing() -> None:
    alone = seen(1, 1, 0, (0, 6))
    assert seen(2, 1, 0, (0, 6)) == alone
    assert seen(3, 2, 0, (0, 6)) == alone
    assert seen(1, 2, 2, (0, 6)) == alone
    assert seen(1, 1, 1, (4, 6)) == alone[4:]


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    seen(1, 1, 2, (0, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_is_named(workers: int) -> None:
    stream = batches(Points(5, missing=2), Numbers.stack, Order(5, 5, 0), Share.of(5, 0, 1, 1), (0, 2), workers)
    next(stream)
    with pytest.raises(ValueError, match=r"^clips/2\.mp4 is gone$"):
        next(stream)


def test_a_dead_worker_is_reported() -> None:
    stream = batches(Points(5, kill=2), Numbers.stack, Order(5, 5, 0), Share.of(5, 0, 1, 1), (0, 50), 1)
    with pytest.raises(OSError, match=r"a process that loads data died.*resume=true"):
        list(stream)


def torch_schedule(lr: float, steps: int, warmup: int) -> list[float]:
    """The same curve from PyTorch's schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    rise = LinearLR(optimizer, 1e-12, 1.0, warmup)  # from 0, which it does not take
    fall = CosineAnnealingLR(optimizer, steps - warmup, eta_min=lr * 1e-3)
    both = SequentialLR(optimizer, [rise, fall], [warmup])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    return rates


def test_learning_rate_matches_pytorch() -> None:
    ours = [Optimization(lr=0.3, warmup=0.05).lr_at(step, 200) for step in range(200)]
    assert ours[0] == 0  # as in the DIAS authors' code
    np.testing.assert_allclose(ours, torch_schedule(0.3, 200, 10), rtol=1e-9, atol=1e-12)


def test_learning_rate_ends_at_the_floor_and_stays() -> None:
    settings = Optimization(lr=2.0, floor=1e-3)
    assert settings.lr_at(100, 100) == pytest.approx(2e-3)
    assert settings.lr_at(250, 100) == pytest.approx(2e-3)
    assert Optimization(lr=2.0, warmup=0.0).lr_at(0, 100) == 2.0


def test_weights_over_training() -> None:
    cosine = {"kind": "cosine", "start": 0.0, "end": 2.0}
    assert [round(weight_at(cosine, p), 9) for p in (0, 0.5, 1, 1.5)] == [0, 1, 2, 2]
    assert weight_at(cosine, 1 / 3) == pytest.approx(2 * 0.25)
    assert weight_at({"kind": "linear", "start": 3, "end": 1}, 0.25) == 2.5
    assert weight_at(0.5, 0.9) == 0.5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"a": -1}, r"weights\.a must be a number >= 0, got -1"),
    ({"a": "much"}, r"weights\.a must be a number"),
    ({"a": {"kind": "step", "start": 0, "end": 1}}, r"weights\.a must be \{kind"),
    ({"a": {"kind": "cosine", "start": 0}}, r"weights\.a must be \{kind"),
    ({"a": {"kind": "cosine", "start": 0, "end": float("nan")}}, r"weights\.a\.end must be a number"),
]


@pytest.mark.parametrize(("weights", "message"), WRONG)
def test_wrong_weights_are_named(weights: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_weights(weights)


def test_a_weight_of_none_counts_as_not_named() -> None:
    assert named_weights({"a": None, "b": 0.5}) == {"b": 0.5}


def test_workers_survive_a_signal_to_the_group() -> None:
    stream = batches(Points(64), Numbers.stack, Order(64, 2, 0), Share.of(2, 0, 1, 1), (0, 400), 1)
    next(stream)
    children = [int(p) for p in os.popen(f"pgrep -P {os.getpid()}").read().split()]
    for child, number in itertools.product(children, (2, 15)):
        try:
            with open(f"/proc/{child}/cmdline", "rb") as file:
                if b"python" in file.read():
                    os.kill(child, number)
        except (ProcessLookupError, FileNotFoundError):
            pass
    assert len(list(stream)) == 399
