"""Too little memory: one sentence that names what to lower, from wherever the error comes."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_clip
from test_script_options import ROOT, run, sentence
from toy import Numbers, Points, Toy

from dias_video.data.loading import read_ahead
from dias_video.engine.loop import Trainer
from dias_video.engine.state import TrainingState
from dias_video.machine import ranks
from dias_video.machine.memory import lack_of_memory
from dias_video.model.dias import DIAS

SHIPPED = f"checkpoint={ROOT}/dias_video/assets/dias"
ON_GPU = torch.cuda.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 9 GiB"
)


def of_numpy(_: int = 0) -> Any:
    return np.empty(2**60, np.uint8)


def of_torch(_: int = 0) -> Any:
    return torch.empty(2**60, dtype=torch.uint8)


def mistaken(_: int) -> None:
    raise RuntimeError("our mistake")


@pytest.mark.parametrize(
    ("make", "amount"),
    [
        (of_numpy, " for a further 1.00 EiB"),
        (of_torch, " for a further 1099511627776.0 MiB"),
        (lambda: bytearray(2**60), ""),
        (lambda: list(read_ahead(of_numpy, [0], 1)), " for a further 1.00 EiB"),
        (lambda: list(read_ahead(of_torch, [0], 1)), " for a further 1099511627776.0 MiB"),
    ],
)
def test_errors_of_python_numpy_and_pytorch(make: Callable[[], Any], amount: str) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as error:
        make()
    assert lack_of_memory(error.value) == f"there is not enough memory{amount}"


def test_errors_of_others() -> None:
    assert lack_of_memory(ON_GPU) == "there is not enough memory of the GPU for a further 20.00 GiB"
    broken = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert lack_of_memory(broken) == "there is not enough memory of the GPU"
    little = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 786432 bytes.")
    assert lack_of_memory(little) == "there is not enough memory for a further 0.8 MiB"
    assert lack_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) == "there is not enough memory"
    for other in (RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), ValueError("can't allocate memory")):
        assert lack_of_memory(other) is None


@pytest.mark.parametrize("error", [MemoryError(), ON_GPU], ids=["python", "gpu"])
def test_a_script_names_its_own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    said = f"error: {lack_of_memory(error)}; "
    for split in ("train", "val", "test"):
        write_clip(tmp_path / f"toss/{split}/00000")
    root, out = f"data.root={tmp_path}", f"out_dir={tmp_path}/out"
    monkeypatch.setattr(Trainer, "fit", failing)
    training = ("experiment=smoke", "model.encoder.weights=random", root, out)
    code, output = run("train_video", *training, "trainer.num_workers=3", "data.in_memory=true")
    assert code == 1
    ways = "set data.in_memory=false, or raise trainer.accumulation, or lower trainer.batch_size, trainer.num_workers, "
    assert sentence(output) == f"{said}{ways}data.clip.num_frames"
    code, output = run("train_video", *training, "trainer.batch_size=1")
    assert (code, sentence(output)) == (1, f"{said}lower data.clip.num_frames")
    monkeypatch.setattr(DIAS, "from_pretrained", failing)
    for name, words, lower in (
        ("evaluate", (out, "batch_size=1"), "window"),
        ("cache_slots", (f"cache={tmp_path}/out", "num_workers=2"), "window, batch_size, num_workers"),
        ("visualize", ("data=simulated", out), "window"),
    ):
        code, output = run(name, SHIPPED, root, *words)
        assert (code, sentence(output)) == (1, f"{said}lower {lower}")
    monkeypatch.setenv("DIAS_TRACEBACK", "1")
    assert "Traceback" in run("evaluate", SHIPPED, root, out)[1]


def test_a_model_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perhaps for one process alone, which then leaves no others, since these wait for it."""
    monkeypatch.setattr(DIAS, "__init__", lambda *_, **__: of_torch())
    monkeypatch.setattr(ranks, "part", lambda: print("has left the others", flush=True))
    write_clip(tmp_path / "toss/train/00000")
    words = ("experiment=smoke", "model.encoder.weights=random", f"data.root={tmp_path}", f"out_dir={tmp_path}/out")
    code, output = run("train_video", *words)
    assert code == 1
    assert sentence(output).startswith("error: there is not enough memory for a further 1099511627776.0 MiB; ")
    assert "has left the others" not in output
    code, output = run("train_video", *words, "model.initializer.num_slots=0")  # which all processes see
    assert code == 1
    assert "num_slots must be at least 1" in sentence(output)
    assert "has left the others" in output


def test_a_checkpoint_for_which_there_is_no_room_is_not_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train: dict[str, Any] = {"batch_size": 4, "num_workers": 0}
    Trainer(1, **train).fit(Toy(), Points(), Numbers.stack, tmp_path / "run")

    def failing(*_: Any) -> None:
        raise ON_GPU

    monkeypatch.setattr(TrainingState, "_load_optimizer", failing)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        Trainer(2, **train).fit(Toy(), Points(), Numbers.stack, tmp_path / "run", resume=True)


def test_a_process_that_reads_ahead_and_dies_is_reported() -> None:
    with pytest.raises(OSError, match=r"^a process that loads data died \(.*memory; lower num_workers$"):
        list(read_ahead(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0], 1))
    with pytest.raises(RuntimeError, match="our mistake"):  # of the program, which is no death
        list(read_ahead(mistaken, [0], 1))
