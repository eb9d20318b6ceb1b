"""Checkpoints that appear whole or not at all.

A checkpoint is a folder ``step_000123`` that ``Pretrained.from_pretrained`` reads: ``config.json``,
``model.safetensors`` (with averaged weights, if the run averages) and, if some parameters are not trained,
``frozen.safetensors`` with these. Beside them lie ``trainer.safetensors`` and ``trainer.json`` with everything else
needed to go on, and ``checksums.json``. It is written under a hidden name, flushed to the disk and renamed. The frozen
parameters are written once: the checkpoints of a run share their file by hard links, so each checkpoint is complete and
the file takes space only once. ``last`` and ``best`` are relative links, which are replaced atomically too.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dias_video.checks import check_flag, check_integer
from dias_video.pretrained.weights import FROZEN
from dias_video.stores.files import READABLE, read_json, sha256, strict_json, sync, writing

FORMAT_VERSION = 1
CHECKSUMS = "checksums.json"
STEP = re.compile("step_[0-9]+")


@dataclass(frozen=True)
class Saving:
    """Save every ``every`` steps; keep the newest ``keep`` checkpoints and the best.

    ``metric`` names the validation result that decides which is best (None: there is no ``best`` link).
    """

    every: int = 1000
    keep: int = 2
    metric: str | None = None
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        check_integer("saving.every", self.every, least=1)
        check_integer("saving.keep", self.keep, least=1)
        if self.metric is not None and not isinstance(self.metric, str):
            raise ValueError(f"saving.metric must name a validation result, got {self.metric!r}")
        check_flag("saving.higher_is_better", self.higher_is_better)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` is better than the best so far."""
        return best is None or (value > best if self.higher_is_better else value < best)


class Checkpoints:
    """The ``checkpoints`` folder of a run. Only the main process writes."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(
        self,
        step: int,
        write_model: Callable[[Path], object],
        frozen: dict[str, Tensor],
        tensors: dict[str, Tensor],
        state: dict[str, Any],
    ) -> Path:
        """Write the checkpoint of a step, let ``last`` point to it, and remove checkpoints that are too old.

        A checkpoint that the folder already holds under this name is replaced.

        Args:
            step: completed updates.
            write_model: writes the model without its frozen parameters into a folder.
            frozen: parameters of the model that are the same in every checkpoint of the run.
            tensors, state: what else the trainer needs to go on.

        Raises:
            OSError: it could not be written; what was there before is untouched.
        """
        final = self.folder / f"step_{step:06d}"
        with writing(final, "make room, then go on from the checkpoint before with resume=true"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            aside = self.folder / f".{final.name}.tmp"
            aside.mkdir()
            try:
                write_model(aside)
                known = self._share(frozen, aside) if frozen else {}
                save_file(tensors, aside / "trainer.safetensors")
                about = {"format": FORMAT_VERSION, "step": step, **state}
                (aside / "trainer.json").write_text(strict_json(about, indent=1))
                sums = {file.name: known.get(file.name) or sha256(file) for file in sorted(aside.iterdir())}
                (aside / CHECKSUMS).write_text(strict_json(sums, indent=1))
                for file in aside.iterdir():
                    file.chmod(READABLE)
                    sync(file)
                sync(aside)
                self._discard(final)
                aside.rename(final)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            sync(self.folder)
            self.point("last", final)
            self._prune()
        return final

    def _share(self, frozen: dict[str, Tensor], aside: Path) -> dict[str, str]:
        """Put the frozen parameters into ``aside``: the file of the newest checkpoint, or a new one if it has none.

        Returns the checksum of a linked file, so that the file need not be read again.
        """
        newest = next(reversed(self.steps()), None)
        if newest is None or _names(newest / FROZEN) != frozen.keys():
            save_file(frozen, aside / FROZEN)
            return {}
        try:
            os.link(newest / FROZEN, aside / FROZEN)
        except OSError:  # a file system without hard links
            shutil.copyfile(newest / FROZEN, aside / FROZEN)
            return {}
        return {FROZEN: read_json(newest / CHECKSUMS, "remove that checkpoint")[FROZEN]}

    def point(self, name: str, checkpoint: Path) -> None:
        """Make the link ``name`` lead to a checkpoint."""
        aside = self.folder / f".{name}.tmp"
        aside.unlink(missing_ok=True)
        aside.symlink_to(checkpoint.name)
        if not (self.folder / name).is_symlink():  # a copy that followed the links has a folder there
            self._discard(self.folder / name)
        os.replace(aside, self.folder / name)
        sync(self.folder)

    def steps(self) -> list[Path]:
        """Folders called ``step_<digits>``, oldest first; all others are ignored."""
        found = (p for p in self.folder.glob("step_*") if STEP.fullmatch(p.name) and p.is_dir())
        return sorted(found, key=step_of)

    def newest(self) -> Path | None:
        """The newest undamaged checkpoint, None when there is none at all; damaged ones are reported on stderr.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        found = self.steps()
        for checkpoint in reversed(found):
            problem = damage(checkpoint)
            if problem is None:
                return checkpoint
            print(f"warning: {problem}; trying the checkpoint before it", file=sys.stderr, flush=True)
        if found:
            raise ValueError(f"every checkpoint in {self.folder} is damaged; delete the run folder and start again")
        return None

    def drop_after(self, step: int) -> None:
        """Remove checkpoints of later steps: the damaged ones that a resumed run does not start from."""
        for checkpoint in self.steps():
            if step_of(checkpoint) > step:
                self._discard(checkpoint)

    def _prune(self) -> None:
        best = self.folder / "best"
        kept = self.steps()[-self.keep :]
        for checkpoint in self.steps():
            if checkpoint not in kept and not (best.exists() and best.resolve() == checkpoint.resolve()):
                self._discard(checkpoint)

    def _discard(self, checkpoint: Path) -> None:
        """Remove a folder. It gets a hidden name first, so that a part of it is never taken for a checkpoint."""
        if checkpoint.exists():
            hidden = self.folder / f".{checkpoint.name}.old.tmp"
            checkpoint.rename(hidden)
            shutil.rmtree(hidden)

    def _sweep(self) -> None:
        for left in self.folder.glob(".*.tmp"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def step_of(checkpoint: Path) -> int:
    """The number of completed updates, from the name of a checkpoint folder."""
    return int(checkpoint.name.removeprefix("step_"))


def _names(file: Path) -> set[str]:
    """The names of the tensors in a safetensors file; empty if there is no such file."""
    if not file.is_file():
        return set()
    with safe_open(file, "pt") as opened:
        return set(opened.keys())


def damage(checkpoint: Path) -> str | None:
    """What is damaged or missing in a checkpoint folder; None if nothing is."""
    file = checkpoint / CHECKSUMS
    if not file.is_file():
        return f"{file} is missing"
    try:
        sums = read_json(file, "the checkpoint can't be trusted")
    except ValueError as error:
        return str(error)
    if not sums:
        return f"{file} is damaged (it names no files)"
    for name, digest in sums.items():
        if not (checkpoint / name).is_file():
            return f"{checkpoint / name} is missing"
        if sha256(checkpoint / name) != digest:
            return f"{checkpoint / name} is damaged (its checksum differs)"
    return None


def read_state(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trainer's tensors and plain state.

    Raises:
        ValueError: a file is damaged, or has another format version.
    """
    file, remedy = checkpoint / "trainer.json", "delete that checkpoint to use the one before"
    state = read_json(file, remedy)
    try:
        tensors = load_file(checkpoint / "trainer.safetensors")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{checkpoint / 'trainer.safetensors'} is damaged ({error}); {remedy}") from error
    if state.get("format") != FORMAT_VERSION:
        raise ValueError(f"{file} has format {state.get('format')}, this version reads {FORMAT_VERSION}; {remedy}")
    return tensors, state
