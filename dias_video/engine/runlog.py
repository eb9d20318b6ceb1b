"""The records of a run: config.yaml, run.json, metrics.jsonl, and on request those of a tracker."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from dias_video.checks import check_flag, check_integer, check_number, one_of
from dias_video.stores.files import check_place, read_json, read_yaml, replace_file, strict_json, write_json
from dias_video.stores.store import differences

TRACKERS = ("none", "wandb", "tensorboard", "trackio")
PACKAGES = ("torch", "accelerate", "numpy", "timm", "safetensors", "dias-video")


@dataclass(frozen=True)
class Logging:
    """Write a line of metrics every ``every`` steps (losses stay on the device in between); use a tracker on request.

    The tracker is one of Accelerate's. ``peak_tflops`` is the peak of one device in 1e12 operations a second at the
    precision used; with it the part that the model reaches (MFU) is logged. ``bar``: show progress on the terminal.
    """

    every: int = 50
    tracking: str = "none"
    peak_tflops: float | None = None
    bar: bool = True

    def __post_init__(self) -> None:
        check_integer("logging.every", self.every, least=1)
        one_of("logging.tracking", self.tracking, TRACKERS)
        if self.peak_tflops is not None:
            check_number("logging.peak_tflops", self.peak_tflops, above=0)
        check_flag("logging.bar", self.bar)


def check_folder(out_dir: str | Path, resume: bool) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        ValueError: the folder is not empty and ``resume`` is false, it is a file, or nothing can be written into it.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"out_dir={out_dir} is a file; name a folder")
    if not resume and out_dir.is_dir() and any(out_dir.iterdir()):
        raise ValueError(f"out_dir={out_dir} is not empty; continue that run with resume=true or name another folder")
    check_place(out_dir)


class RunLog:
    """The record of a run. On processes other than the main one, its methods do nothing."""

    def __init__(self, out_dir: Path, tracking: str, active: bool, num_processes: int) -> None:
        self.out_dir, self.active, self.num_processes = out_dir, active, num_processes
        self.file = out_dir / "metrics.jsonl"
        self.tracking = tracking
        self.tracking_id = ""
        self._tracker: Any = None

    def start(self, config: Mapping[str, Any], first_step: int) -> None:
        """Record this start of the run, and remove the metrics of steps that will be repeated."""
        if not self.active:
            return
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self._write_config(dict(config))
        self._write_start(first_step)
        if self.file.exists():
            kept = [line for line in self.file.read_text(errors="replace").splitlines() if _step(line) <= first_step]
            replace_file(self.file, lambda aside: aside.write_text("".join(line + "\n" for line in kept)))
        if self.tracking != "none":
            self._guarded("start", lambda: self._open_tracker(dict(config)))

    def write(self, row: Mapping[str, float | int]) -> None:
        """Append one logged step."""
        if not self.active:
            return
        with self.file.open("a") as file:
            file.write(strict_json(row))
        if self._tracker is not None:
            self._guarded("log", lambda: self._tracker.log(dict(row), step=int(row["step"])))

    def show(self, step: int, files: Sequence[Path]) -> None:
        """Pass pictures to wandb or tensorboard: GIF or PNG files in the step's folder, under their names there."""
        if self._tracker is not None:
            self._guarded("show pictures", lambda: self._show(step, files))

    def close(self) -> None:
        """Finish the tracker."""
        if self._tracker is not None:
            self._guarded("close", self._tracker.finish)
            self._tracker = None

    def _write_config(self, config: dict[str, Any]) -> None:
        file = self.out_dir / "config.yaml"
        if file.exists():
            old = read_yaml(file, "remove it, and it is written anew")
            changed = [line for line in differences(old, config) if not line.startswith("resume ")]
            if changed:
                print(f"the run goes on with other settings: {'; '.join(changed)}", file=sys.stderr, flush=True)
        replace_file(file, lambda aside: aside.write_text(yaml.safe_dump(config, sort_keys=False)))

    def _write_start(self, first_step: int) -> None:
        file = self.out_dir / "run.json"
        before = read_json(file, "remove it, and it is written anew") if file.exists() else None
        known = str((before or {}).get("tracking_id"))
        self.tracking_id = known if re.fullmatch("[0-9a-f]{8}", known) else secrets.token_hex(4)
        start = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "first_step": first_step,
            "num_processes": self.num_processes,
            "command": sys.argv,
            "git_commit": git_commit(),
            "tracking_id": self.tracking_id,  # id of the run in wandb, under which it is continued
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
        }
        if before is not None:
            earlier = before.pop("earlier_starts", [])
            start["earlier_starts"] = [*(earlier if isinstance(earlier, list) else []), before]
        write_json(file, start)

    def _open_tracker(self, config: dict[str, Any]) -> None:
        name = self.out_dir.resolve().name
        if self.tracking == "wandb":
            same = {"id": self.tracking_id, "resume": "allow"}
            tracker: Any = WandBTracker("dias-video", name=name, dir=str(self.out_dir), config=config, **same)
        elif self.tracking == "trackio":
            tracker = TrackioTracker("dias-video", name=name, config=config)
        else:
            tracker = TensorBoardTracker("", self.out_dir)  # the run's folder itself
        tracker.start()
        self._tracker = tracker

    def _show(self, step: int, files: Sequence[Path]) -> None:
        if self.tracking == "wandb":
            import wandb

            shown = {
                self._name(step, file): wandb.Video(str(file), format="gif")
                if file.suffix == ".gif"
                else wandb.Image(str(file))
                for file in files
            }
            self._tracker.log(shown, step=step)
        if self.tracking != "tensorboard":
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        for file in files:  # the encoded file is passed on, so that GIFs move on the page
            with Image.open(file) as picture:
                image = Summary.Image(width=picture.width, height=picture.height, colorspace=3)
            image.encoded_image_string = file.read_bytes()
            values = Summary(value=[Summary.Value(tag=self._name(step, file), image=image)])
            self._tracker.writer.file_writer.add_summary(values, step)

    def _name(self, step: int, file: Path) -> str:
        inside = file.relative_to(self.out_dir / "pictures" / f"step_{step:06d}")
        return f"pictures/{inside.with_suffix('').as_posix()}"

    def _guarded(self, what: str, act: Any) -> None:
        try:
            act()
        except Exception as error:  # no error of a tracker may end the run
            print(f"warning: {self.tracking} can't {what} ({error}); going on without it", file=sys.stderr, flush=True)
            self._tracker = None


def git_commit() -> str | None:
    """The commit of the source tree that holds this package, with ``+changes`` if files differ; None without one."""
    here = Path(__file__).parent
    try:
        # In an environment inside another project's repository, git would report that repository.
        tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(tracked, cwd=here, capture_output=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--short", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):  # a killed process leaves a line that is not complete
        return float("inf")
