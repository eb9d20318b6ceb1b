"""The samples of each step, and their loading. The position in the data depends only on the number of the step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dias_video.machine.threads import cpus
from dias_video.machine.workers import Caught, Failure, living

Key = tuple[int, int]  # (epoch, index)


class KeyedDataset(Protocol):
    """A data set whose samples are a pure function of (epoch, index)."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Key) -> Any: ...


class Order:
    """The endless stream of samples; each epoch is a permutation that depends only on (seed, epoch).

    A batch may cross the end of an epoch, so that every step has the same size.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def keys(self, step: int, start: int = 0, stop: int | None = None) -> list[Key]:
        """Places ``start:stop`` of the global batch of a step."""
        stop = self.batch_size if stop is None else stop
        return [self._key(step * self.batch_size + place) for place in range(start, stop)]

    def _key(self, position: int) -> Key:
        epoch, place = divmod(position, self.num_samples)
        if epoch != self._epoch[0]:
            generator = np.random.default_rng([self.seed, epoch])
            self._epoch = (epoch, generator.permutation(self.num_samples))
        return epoch, int(self._epoch[1][place])


class Share(NamedTuple):
    """The part of the global batch that one process has, in ``accumulation`` micro-batches."""

    batch_size: int  # global
    start: int
    stop: int
    accumulation: int

    @classmethod
    def of(cls, batch_size: int, process: int, num_processes: int, accumulation: int) -> Share:
        """The share of ``process``, which is contiguous.

        Raises:
            ValueError: the global batch can't be divided evenly.
        """
        parts = num_processes * accumulation
        if batch_size % parts:
            raise ValueError(
                f"batch_size={batch_size} is the sum over all processes and can't be divided by {num_processes} "
                f"processes * {accumulation} accumulation steps; use a multiple of {parts}"
            )
        size = batch_size // num_processes
        return cls(batch_size, process * size, (process + 1) * size, accumulation)

    def micro_batches(self) -> list[tuple[int, int]]:
        """Places (start, stop) in the global batch of every micro-batch."""
        size = (self.stop - self.start) // self.accumulation
        return [(at, at + size) for at in range(self.start, self.stop, size)]


def _collated(samples: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    return next((sample for sample in samples if isinstance(sample, Failure)), None) or collate(samples)


def batches(
    dataset: KeyedDataset,
    collate: Callable[[list[Any]], Any],
    order: Order,
    share: Share,
    steps: tuple[int, int],
    num_workers: int,
    pin_memory: bool = False,
) -> Generator[Any, None, None]:
    """The micro-batches of this process for steps ``steps[0]:steps[1]``, in order, loaded ahead by worker processes.

    Close the generator to end the workers.

    Raises:
        ValueError: a sample could not be read; the message is that of the data set.
        OSError: a worker died.
    """
    loader: DataLoader[Any] = DataLoader(
        Caught(dataset.__getitem__),  # type: ignore[arg-type]
        batch_sampler=(order.keys(step, *places) for step in range(*steps) for places in share.micro_batches()),
        collate_fn=partial(_collated, collate=Caught(collate)),
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(order.seed),  # otherwise the loader draws from the global generator
    )
    with living("lower num_workers and go on with resume=true"):
        for batch in loader:
            if isinstance(batch, Failure):
                raise ValueError(batch.message)
            yield batch


def default_workers(local_processes: int) -> int:
    """Number of worker processes: the cores left for this process, at most 8; 0 on a single core."""
    cores = cpus() // max(1, local_processes)
    return min(8, cores) if cores > 1 else 0


def _start_worker(number: int) -> None:
    # Only the trainer handles a signal that the whole process group gets (Ctrl-C, a cluster's SIGTERM): it saves and
    # then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
