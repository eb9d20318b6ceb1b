"""Merging as a Triton kernel, on a GPU or in Triton's interpreter, against scikit-learn and the plain version."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_redundancy import partition, sets_of_slots, sklearn_partition

from dias_video.model import redundancy
from dias_video.model.redundancy import checked, merge_plainly

kernel = pytest.importorskip("dias_video.model.merge_kernel", reason="Triton is missing")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = torch.device("cpu")


def given(slots: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slots, which live (the first always) and ages, some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    live = torch.rand(slots.shape[:2], generator=generator) < 0.7
    live[:, 0] = True
    age = torch.randint(0, 4, slots.shape[:2], generator=generator)
    return slots.to(DEVICE), live.to(DEVICE), age.to(DEVICE)


@pytest.mark.parametrize("num_slots", [2, 3, 7, 21])
def test_partition_equals_scikit_learn(num_slots: int) -> None:
    slots, live, age = given(sets_of_slots(6, num_slots, 5, seed=num_slots), num_slots)
    merges = 0
    for threshold in (0.1, 0.6):
        _, _, representative, _ = kernel.merge(slots, threshold, live, age, None)
        for one, members, own in zip(slots.cpu().numpy(), live.cpu().numpy(), representative.tolist(), strict=True):
            expected = sklearn_partition(one, np.flatnonzero(members), threshold)
            assert partition(own) == expected
            merges += int(members.sum()) - len(expected)
    assert merges > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 1, 4), (5, 6, 70), (2, 33, 3)])
def test_everything_equals_the_plain_version(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    slots, live, age = given(sets_of_slots(*shape, seed=1).to(dtype))
    slots[0, -1] = 0  # at distance 1 to all
    arguments = (slots, 0.4, live, age, None)
    merged, remaining, representative, share = kernel.merge(*arguments)
    expected = merge_plainly(*arguments)
    assert torch.equal(remaining, expected[1])
    assert torch.equal(representative, expected[2])
    torch.testing.assert_close(share, expected[3])
    torch.testing.assert_close(merged, expected[0])
    assert merged.dtype == dtype
    assert not merged[~remaining].any()


def test_given_distances_and_nobody_at_all() -> None:
    slots, live, age = given(sets_of_slots(4, 5, 6, seed=2))
    distance = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    distance = (distance + distance.mT) / 2
    arguments = (slots, 0.5, live, age, distance)
    for got, expected in zip(kernel.merge(*arguments), merge_plainly(*arguments), strict=True):
        torch.testing.assert_close(got, expected)
    merged, remaining, representative, share = kernel.merge(slots, 2.0, live & False, age, None)
    assert not remaining.any()
    assert not merged.any()
    assert not share.any()
    assert (representative == -1).all()


def test_the_threshold_is_exclusive_and_of_double_precision() -> None:
    slots = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], device=DEVICE)  # cosine distance exactly 1
    live, age = torch.ones(1, 2, dtype=torch.bool, device=DEVICE), torch.zeros(1, 2, dtype=torch.int64, device=DEVICE)
    for threshold, left in ((1.0, 2), (1.0 + 1e-12, 1), (0.0, 2)):  # as float32 the second is 1
        assert int(kernel.merge(slots, threshold, live, age, None)[1].sum()) == left


def test_a_kernel_is_used_only_if_it_merges_rightly(capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(kernel.merge, DEVICE, torch.float32, 5, 6) is kernel.merge
    assert capsys.readouterr().err == ""

    def greedy(slots: torch.Tensor, threshold: float, *others: object) -> object:
        return merge_plainly(slots, 2 * threshold, *others)  # type: ignore[arg-type]

    def heavy(*arguments: object) -> object:
        merged, *others = merge_plainly(*arguments)  # type: ignore[arg-type]
        return 1.001 * merged, *others

    def broken(*_: object) -> object:
        raise RuntimeError("no such\ninstruction")

    for wrong, reason in ((greedy, "makes other clusters"), (heavy, "makes other means"), (broken, "no such instr")):
        assert checked(wrong, CPU, torch.float32, 5, 6) is merge_plainly  # type: ignore[arg-type]
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert reason in said
        assert "PyTorch's operators" in said


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_takes_the_kernel_and_its_gradient() -> None:
    slots, live, age = given(sets_of_slots(8, 21, 64, seed=3))
    results = []
    for device in ("cuda", "cpu"):
        leaf = slots.detach().to(device).requires_grad_()
        merged = redundancy.merge_redundant_slots(leaf, 0.12, live.to(device), age.to(device))
        (merged.slots * torch.linspace(0, 1, 64, device=device)).sum().backward()
        results.append((merged.slots.cpu(), merged.live.cpu(), merged.representative.cpu(), leaf.grad.cpu()))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    assert redundancy._merge_for(torch.device("cuda:0"), torch.float32, 21, 64) is kernel.merge


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("given_distances", [False, True])
def test_it_compiles_for_a_gpu_that_is_not_there(dtype: str, given_distances: bool) -> None:
    """The interpreter takes what the compiler does not. It needs no GPU, and a process without the interpreter."""
    pointers = {"slots": dtype, "distance": "fp64", "live": "i1", "age": "i64", "merged": dtype}
    pointers |= {"remaining": "i1", "representative": "i64", "share": "fp32"}
    signature = {name: f"*{kind}" for name, kind in pointers.items()}
    signature |= {"num_slots": "i32", "dim": "i32", "threshold_bits": "i64"}
    constants = {"GIVEN": given_distances, "S": 32, "COLUMNS": kernel.COLUMNS}
    program = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dias_video.model.merge_kernel import _merge
constants = {constants!r}
source = ASTSource(_merge, {signature!r} | dict.fromkeys(constants, "constexpr"), constants)
print(len(triton.compile(source, target=GPUTarget("cuda", 90, 32), options={{"num_warps": 1}}).asm["cubin"]))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 1000
