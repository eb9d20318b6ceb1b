"""The benchmarks measure what they say: the plain step trains the same model, and counts are as done by hand."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny import HEIGHT, WIDTH, clips, tiny_dias
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import cache, cost, inference
from benchmarks.launches import Trace, backward, trace
from benchmarks.measure import Bench, Count
from benchmarks.plain import Plain
from dias_video.draws import Draws

ROOT = Path(__file__).parents[1]
CEILINGS = {"float32": 1e9, "bfloat16": 2e9, "copy": 1e8}


@pytest.mark.parametrize(("boxes", "carry"), [(False, "reseed"), (True, "reseed"), (True, "persist"), (True, "settle")])
def test_the_plain_step_has_our_losses_and_weights(boxes: bool, carry: str) -> None:
    ours = tiny_dias(boxes, carry=carry, threshold=0.4).train()
    ours.aggregator.reduction.skip = 0.3
    plain = Plain(copy.deepcopy(ours))
    adam = torch.optim.Adam([p for p in ours.parameters() if p.requires_grad], lr=5e-5)
    batch = clips(batch=3, frames=4, boxes=2)
    if not boxes:
        batch.boxes = batch.box_valid = None
    batch.masks = torch.randint(0, 3, (3, 4, HEIGHT, WIDTH), dtype=torch.int16)
    merged = 0
    for step in range(3):
        terms = ours(batch, Draws.for_step(0, step, range(3)))
        with torch.no_grad():
            merged += int((~ours.scan(batch, ours.features(batch), Draws.for_step(0, step, range(3))).live).sum())
        mine = {name: value.mean() for name, value in terms.items() if name not in ours.watched}
        adam.zero_grad()
        sum(mine.values(), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_([p for p in ours.parameters() if p.requires_grad], 0.05)
        adam.step()
        theirs = plain.step(batch, Draws.for_step(0, step, range(3)))
        assert 0 < theirs.pop("mbo") < 1
        assert theirs == pytest.approx({name: value.item() for name, value in mine.items()}, rel=1e-5)
    assert merged > 0  # else the clusterings would not have been compared


def test_operations_and_bytes_by_hand() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    with Count() as count:
        (a @ b).T.relu()
    assert count.operations == 2 * 3 * 5 * 7
    assert count.bytes == 4 * (15 + 35 + 21) + 4 * (21 + 21)  # the product; then, after a view that is free, the relu
    bench = Bench("cpu", torch.get_num_threads(), ceilings=CEILINGS)
    assert bench.least(count) == pytest.approx(max(210 / 1e9, 284 / 1e8) + 168 / 1e8)


def test_compiled_work_is_counted_as_it_is_without() -> None:
    plain, x = torch.nn.Linear(5, 7), torch.randn(3, 5)
    whole = torch.compile(plain, fullgraph=True, backend="eager")
    bench = Bench("cpu", torch.get_num_threads(), rounds=1, ceilings=CEILINGS)
    rows = bench.compare("linear", {"plain": lambda: plain(x), "compiled": lambda: whole(x)})
    assert [row.operations for row in rows] == [2 * 3 * 5 * 7] * 2


def test_inference_mode_counts_the_same() -> None:
    layer, x = torch.nn.Linear(5, 7), torch.randn(3, 5)
    counts = []
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode, Count() as count:
            layer(x)
        counts.append((count.operations, count.bytes))
    assert counts[0] == counts[1] == (2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 7 + 3 * 7))


def test_expanded_tensors_count_as_stored() -> None:
    row = torch.randn(1, 4)
    with Count() as count:
        row.expand(1000, 4).sum()
    assert count.bytes == 4 * 4 + 4


def test_memory_and_ratios() -> None:
    bench = Bench("cpu", torch.get_num_threads(), rounds=3, ceilings=CEILINGS)
    small, large = bench.compare(
        "ones", {"small": lambda: torch.ones(1 << 20), "large": lambda: torch.ones(1 << 25)}, units=2, unit="tensors"
    )
    assert large.memory is not None
    assert large.memory == pytest.approx(4 << 25, rel=0.1)
    assert (small.ratio, large.ratio) == (1, small.seconds / large.seconds)
    assert large.fastest <= large.seconds


def test_aggregation_is_one_graph() -> None:
    """A captured or compiled scan needs it: nothing in it depends on a value that the host reads."""
    aggregator = tiny_dias(threshold=0.4).aggregator
    queries, keys, values = torch.randn(3, 5, 8), torch.randn(3, 6, 8), torch.randn(3, 6, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 5])
    given = (queries, keys, values, mask, 3, torch.randint(0, 4, (3, 5)), torch.tensor([True, False, False]))
    traced = torch.compile(aggregator, fullgraph=True, backend="eager")(*given)
    expected = aggregator(*given)
    assert expected.live.sum() < mask.sum()  # something merged
    for a, b in zip(traced[:5], expected[:5], strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture(scope="module")
def traced() -> tuple[Trace, Trace]:
    """Forward pass and whole update of MOVi-D's experiment, 8 clips of 6 frames in bfloat16, on a GPU that isn't."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        overrides = ["experiment/train_video=movi_d", "data.root=none", "out_dir=none", "model.encoder.weights=random"]
        config = instantiate(compose("train_video", overrides).model).config
    return trace(config, "movi_d")


def test_the_host_waits_once_an_update(traced: tuple[Trace, Trace]) -> None:
    _, update = traced
    assert update.waits == {"dias_video::assign": 1}
    assert update.launches["aten::_fused_adamw_"] == 1  # it is a whole update


def test_launches_of_a_forward_pass(traced: tuple[Trace, Trace]) -> None:
    forward, update = traced
    assert forward.launches["dias_video::merge"] == 6  # one a frame
    assert forward.launches.total() <= 900
    assert update.launches.total() <= 2300
    assert all(update.launches[name] >= count for name, count in forward.launches.items())


def test_a_trace_sees_what_keeps_the_host_waiting() -> None:
    with FakeTensorMode(), Trace() as seen:
        here, there = torch.randn(3), torch.empty(3, device="cuda")
        assert not seen.launches
        there.add(1.0).add(torch.tensor(2.0))  # a number on the host goes along
        assert not seen.waits
        torch.empty(3, pin_memory=True).to("cuda", non_blocking=True)
        assert not seen.waits
        here.to("cuda", non_blocking=True)  # from ordinary memory
        there.new_tensor([1.0, 2.0])
        there.cpu()
        there.copy_(here)
    assert seen.waits == {"aten::_to_copy": 3, "aten::copy_": 1}
    assert seen.launches == {"aten::add": 2, "aten::_to_copy": 4, "aten::copy_": 1}


def test_backward_in_python_is_autograds() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 4))
    gradients = []
    for walk in (torch.Tensor.backward, backward):
        net.zero_grad()
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
        hidden = net[0](x)
        first, _, last = net(x).split((1, 1, 2), 1)  # a part that is not used
        walk((first * last).sum() + hidden.square().sum())
        gradients.append([p.grad for p in net.parameters()])
    for ours, autograds in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, autograds)


def test_caching_and_evaluation_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "VIDEOS", 1)
    monkeypatch.setattr(inference, "FRAMES", 4)
    rows = inference.run(Bench("cpu", torch.get_num_threads(), rounds=1, ceilings=CEILINGS))
    assert [row.name for row in rows[:4]] == [
        f"{what}, {kind}" for kind in ("float32", "bfloat16") for what in ("encoder alone", "slot cache")
    ]
    assert len(rows) == 8
    assert all(row.units == 4 for row in rows)
    assert 0 < rows[0].operations < rows[1].operations  # caching runs the encoder and more


def test_cost_sums_stages_and_counts_parameters() -> None:
    """A student after its teacher, whose parameters are frozen beside it; hours from one clip instead of four."""
    model = tiny_dias(boxes=False)
    described = {"model": model.config, "steps": 5000, "batch": 4, "frames": 2, "side": 20, "boxes": 0}
    described |= {"precision": "fp32", "needs": []}
    trainings = {"first": described, "second": {**described, "needs": ["first"], "guided": True}}
    bench = Bench("cpu", torch.get_num_threads(), rounds=3, trainings=trainings, ceilings=CEILINGS)
    rows = cost.run(bench)
    groups = ["cost of training, encoder in the loop"] * 2 + ["cost of training, frozen parts cached"] * 2
    assert [(row.group, row.name) for row in rows] == list(zip(groups, ["first", "second"] * 2, strict=True))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    for first, second in (rows[:2], rows[2:]):
        assert first.note.startswith(f"{trained / 1e6:.3g} M trained, {(total - trained) / 1e6:.3g} M frozen, batch 1,")
        assert second.note.startswith(f"{trained / 1e6:.3g} M trained, {(2 * total - trained) / 1e6:.3g} M frozen")
        own, other = (row.seconds * 5000 * 4 / 3600 for row in (first, second))
        assert first.note.endswith(f", {own:.3g} h for 5,000 steps (extrapolated)")
        assert second.note.endswith(f"(extrapolated), {own + other:.3g} h with first (extrapolated)")
        assert first.memory > 1e8  # the whole process


def test_every_system_whose_cost_is_measured_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("benchmark")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        listed = compose("benchmark").cost
        made = {name: script.training(name, list(needs)) for name, needs in listed.items()}
    assert all(set(made[name]["needs"]) <= set(list(made)[:place]) for place, name in enumerate(made))
    assert [name for name in made if made[name]["guided"]] == ["coco+spot_teacher", "coco+spot_finetuned"]
    systems = {file.stem for file in (ROOT / "configs/system").glob("*.yaml")}
    assert {name.partition("+")[2] for name in made} == systems - {"slotcontrast"} | {
        ""
    }  # it is in no table of the paper
    assert made["coco+slate"]["model"]["objective"]["tokenizer"]["encoder"]["type"].endswith("ResidualEncoder")
    assert made["coco+vvo_mlp"]["model"]["objective"]["tokenizer"]["encoder"]["type"].endswith("FeatureEncoder")
    assert (made["movi_d+steve"]["boxes"], made["coco"]["boxes"]) == (20, 0)


def test_threads_are_timed_alone_and_beside_busy_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    section = importlib.import_module("benchmarks.threads")
    monkeypatch.setattr(section, "TURN", 1)
    seen, beside = [], []

    def noted(work: Any) -> float:
        work()  # every kind of work runs
        seen.append(torch.get_num_threads())
        return float(len(seen))

    class Process:
        def __init__(self, *_: Any) -> None:
            beside.append(1)

        def kill(self) -> None:
            beside.pop()

        def wait(self) -> None: ...

    monkeypatch.setattr(section, "wall", noted)
    monkeypatch.setattr(section.subprocess, "Popen", Process)
    monkeypatch.setattr(section, "cpus", lambda: 3)
    rows = section.run(Bench("cpu", 1, rounds=2, ceilings=CEILINGS))
    assert seen == [1, 3] * 8  # two kinds of work, two rounds, alone and beside others
    assert beside == []  # all are ended
    assert [row.name for row in rows] == ["1 thread", "3 threads"] * 4
    assert [row.group.endswith("beside 3 busy processes") for row in rows] == [False] * 4 + [True] * 4
    assert rows[1].ratio == pytest.approx(2 / 3)  # medians 2 and 3


def test_a_cache_is_opened_and_trained_on(tmp_path: Path) -> None:
    assert cache.write(tmp_path / "x", 3, 12, 2, 4) == sum(file.stat().st_size for file in (tmp_path / "x").iterdir())
    count, opening, grown, reading = cache.opened(str(tmp_path / "x"), "2")
    assert count == 3
    assert min(opening, reading) > 0 <= grown
    seconds, peak = cache.trained(str(tmp_path / "x"), "2")
    assert seconds > 0
    assert peak > 1e7
