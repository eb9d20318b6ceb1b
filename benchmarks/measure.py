"""What every section measures with: time, operations, bytes and memory, beside what the device can do.

- Time: contestants take turns, so that other work on the machine meets them alike; the median and the fastest turn. On
  one CPU thread it is the process' CPU time, which other work disturbs little; otherwise it is wall time.
- Operations: floating-point operations of matrix products, convolutions and attention, as ``torch.utils.flop_counter``
  has them; other arithmetic is not counted.
- Bytes: of every operator, what it reads and writes, each tensor once; views cost nothing. Caches and fusion need less.
- Least time: the sum over operators of the longer of operations at the measured matrix ceiling and bytes at the
  measured copy bandwidth. Its part of the time taken is the fraction reached; work that stays in caches can pass 1.
- Memory: on CUDA the peak that the allocator gave out, elsewhere how far the resident memory of the process rose.
"""

from __future__ import annotations

import ctypes
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One contestant of one comparison."""

    group: str  # what is compared
    name: str
    seconds: float | None = None  # of a call, the median over turns
    fastest: float | None = None
    units: float | None = None  # what a call does, counted in ``unit``
    unit: str = "frames"
    operations: float | None = None
    bytes: float | None = None
    least: float | None = None  # seconds that operations and bytes allow
    memory: float | None = None  # bytes
    ratio: float | None = None  # to the group's first row: times as fast
    note: str = ""


class Count(TorchDispatchMode):
    """Counts the operators that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[float, float, torch.dtype]] = []  # operations, bytes, type of the largest input

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:  # in inference mode composite operators arrive whole
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if func.is_view:
            return out
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        counter = flop_registry.get(func.overloadpacket)
        operations = float(counter(*args, **kwargs, out_val=out)) if counter else 0.0
        dtype = max(read or written, key=Tensor.numel, default=torch.empty(0)).dtype
        self.operators.append((operations, float(sum(map(_bytes, read)) + sum(map(_bytes, written))), dtype))
        return out

    @property
    def operations(self) -> float:
        """Floating-point operations of all operators."""
        return sum(o for o, _, _ in self.operators)

    @property
    def bytes(self) -> float:
        """Bytes that all operators read and write."""
        return sum(b for _, b, _ in self.operators)


def _bytes(x: Tensor) -> int:
    return min(x.numel() * x.itemsize, x.untyped_storage().nbytes())  # an expanded tensor is read as it is stored


@dataclass
class Bench:
    """Settings of a run and the ceilings of its device, measured when it is made."""

    device: str
    threads: int
    rounds: int = 5
    seconds: float = 20.0  # a contestant gets no further turn after so long
    models: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: a ``Configured`` model's config
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: a ``benchmarks.cost.Training``
    ceilings: dict[str, float] = field(default_factory=dict)  # operations a second by type, and bytes a second

    def __post_init__(self) -> None:
        if self.device == "cpu":
            torch.set_num_threads(self.threads)
        self.ceilings = self.ceilings or ceilings(self.device)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def least(self, count: Count) -> float:
        """Seconds that the counted operators take at the ceilings."""
        matrix = {getattr(torch, name): value for name, value in self.ceilings.items() if name != "copy"}
        slowest = min(matrix.values())
        return sum(max(o / matrix.get(t, slowest), b / self.ceilings["copy"]) for o, b, t in count.operators)

    def compare(
        self, group: str, contestants: Mapping[str, Work], units: float = 1, unit: str = "frames", counted: bool = True
    ) -> list[Row]:
        """Rows of contestants that do the same work; ``units`` a call. The first one is what ratios refer to.

        ``counted=False`` for work that is not done by PyTorch's operators.
        """
        memory, counts, times = {}, {}, {name: [] for name in contestants}
        for name, work in contestants.items():
            memory[name] = peak_memory(work, self.device)  # also warms up
            if counted:
                with torch.compiler.set_stance("force_eager"), Count() as count:  # compiled code shows no operators
                    work()
                counts[name] = count
        for _ in range(self.rounds):
            for name, work in contestants.items():
                if sum(times[name]) < self.seconds:
                    times[name].append(seconds(work, self.device))
        base = statistics.median(times[next(iter(contestants))])
        rows = []
        for name, taken in times.items():
            median, count = statistics.median(taken), counts.get(name)
            facts = (None,) * 3 if count is None else (count.operations, count.bytes, self.least(count))
            rows.append(Row(group, name, median, min(taken), units, unit, *facts, memory[name], base / median))
        return rows


def seconds(work: Work, device: str) -> float:
    """Time of one call, the device's queue emptied before and after."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    synchronize(device)
    start = clock()
    work()
    synchronize(device)
    return clock() - start


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_memory(work: Work, device: str) -> float | None:
    """Bytes that a call needs beyond what was there before; None where it can't be told (no Linux)."""
    before, peak, _ = peaks(work, device)
    return None if peak is None or before is None else peak - before


def peaks(work: Work, device: str) -> tuple[float | None, float | None, float | None]:
    """Bytes before a call, their peak in it, and on CUDA the peak that was reserved; None where it can't be told."""
    if device.startswith("cuda"):
        synchronize(device)
        torch.cuda.empty_cache()  # what earlier work reserved
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        synchronize(device)
        return before, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    if platform.system() != "Linux":
        work()
        return None, None, None
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the process still holds would hide the rise
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again
    before = resident("VmRSS")
    work()
    return before, resident("VmHWM"), None


def resident(key: str) -> int:
    """Bytes of the process' memory, as Linux tells them."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def ceilings(device: str) -> dict[str, float]:
    """Operations a second of a large matrix product by type, and bytes a second of a copy (read and written)."""
    side, types = (8192, ("float32", "bfloat16", "float16")) if device != "cpu" else (2048, ("float32", "bfloat16"))
    found = {}
    for name in types:
        a, b = (torch.randn(side, side, device=device).to(getattr(torch, name)) for _ in range(2))
        found[name] = 2 * side**3 / _fastest(lambda a=a, b=b: a @ b, device)
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.numel() * 4 / _fastest(lambda: target.copy_(source), device)
    return found


def _fastest(work: Work, device: str, turns: int = 8) -> float:
    work()
    return min(seconds(work, device) for _ in range(turns))
