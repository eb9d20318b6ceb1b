"""A first look at a data set: counts, sizes, lengths, instances, a contact sheet, and all problems found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dias_video.data.checking import check_videos
from dias_video.data.problems import Problem, annotations_of, problems_of
from dias_video.data.source import FileSource, Sample, VideoSource
from dias_video.data.transforms import resize
from dias_video.stores.files import replace_file
from dias_video.visualize import draw_boxes, overlay

SHEET_FRAMES = 4  # frames of each video on the sheet
LISTED = 50  # the most problems that a table lists
SHEET_HEIGHT = 128  # height of each frame, in pixels


class Inspection:
    """Facts about one source.

    Args:
        source: the videos.
        num_looked_at: number of videos, spread evenly over the source, of which some frames are read.
        check: read every frame of every video.
    """

    def __init__(self, source: VideoSource, num_looked_at: int = 16, check: bool = False) -> None:
        self.source = source
        self.problems: list[Problem] = problems_of(source) + missing_files(source)
        self.check = check
        if check:
            known = {problem.name for problem in self.problems if not problem.harmless}
            self.problems += [problem for _, problem in check_videos(source) if problem.name not in known]
        self.samples = self._look(num_looked_at)

    def facts(self) -> dict[str, Any]:
        """Counts and ranges, as a json-like table."""
        infos = [self.source.info(index) for index in range(len(self.source))]
        lengths = [info.num_frames for info in infos]
        facts: dict[str, Any] = {
            "videos": len(infos),
            "frames": sum(lengths),
            "frames a video": _range(lengths),
            "frame sizes (height x width)": _counted(
                f"{s['video'].shape[2]}x{s['video'].shape[3]}" for s in self.samples
            ),
        }
        if isinstance(self.source, FileSource):
            files = {file for index in range(len(infos)) for file in self.source.files(index) if file.is_file()}
            facts["files"] = len(files)
            facts["megabytes"] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
        if (annotations := annotations_of(self.source)) is not None:
            facts["annotations"] = annotations
        if scenarios := [info.scenario for info in infos if info.scenario is not None]:
            facts["scenarios"] = _counted(scenarios)
        if labels := [info.label for info in infos if info.label is not None]:
            facts["labels"] = _counted(f"{label:g}" for label in labels)
        masked = [sample for sample in self.samples if "masks" in sample]
        if masked:
            facts["instances a video"] = _range([_num_instances(sample) for sample in masked])
            facts["background"] = f"{np.mean([(s['masks'] == 0).float().mean() for s in masked]):.0%} of the pixels"
            facts["void"] = f"{np.mean([(s['masks'] < 0).float().mean() for s in masked]):.1%} of the pixels"
        facts["looked at"] = f"{len(self.samples)} videos" + (", all frames read" if self.check else "")
        return facts

    def contact_sheet(self) -> Tensor:
        """A picture (H,W,3) uint8 with a row for each video: some frames, and beside them their masks and boxes.

        Raises:
            ValueError: no video could be read.
        """
        if not self.samples:
            raise ValueError("no video could be read, so there is nothing to show")
        rows = [_row(sample) for sample in self.samples]
        width = max(row.shape[1] for row in rows)
        sheet = torch.zeros(sum(row.shape[0] for row in rows), width, 3, dtype=torch.uint8)
        top = 0
        for row in rows:
            sheet[top : top + row.shape[0], : row.shape[1]] = row
            top += row.shape[0]
        return sheet

    def _look(self, count: int) -> list[Sample]:
        chosen = np.unique(np.linspace(0, len(self.source) - 1, min(count, len(self.source))).round().astype(int))
        samples = []
        for index in tqdm(chosen.tolist(), desc="looking", unit="video", delay=2):
            info = self.source.info(index)
            frames = np.unique(np.linspace(0, info.num_frames - 1, SHEET_FRAMES).round().astype(int)).tolist()
            try:
                samples.append(self.source.read(index, frames))
            except ValueError as error:
                if all(problem.name != info.video_id or problem.harmless for problem in self.problems):
                    self.problems.append(Problem(info.video_id, str(error)))
        return samples


def missing_files(source: VideoSource) -> list[Problem]:
    """A problem for each video that lacks a file."""
    if not isinstance(source, FileSource):
        return []
    found = []
    for index in range(len(source)):
        files = source.files(index)
        missing = [file for file in files if not file.is_file()]
        if missing:
            sentence = f"{missing[0]} is missing ({len(missing)} of {len(files)} files); download it again"
            found.append(Problem(source.info(index).video_id, sentence))
    return found


def save_picture(path: str | Path, picture: Tensor) -> None:
    """Write a picture (H,W,3) uint8 as PNG."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(Path(path), lambda aside: Image.fromarray(picture.numpy()).save(aside, format="PNG"))


def table(facts: dict[str, Any], problems: Sequence[Problem]) -> str:
    """Facts and problems as text; at most ``LISTED`` problems are listed."""
    width = max(len(key) for key in facts)
    lines = [f"  {key:<{width}}  {value}" for key, value in facts.items()]
    serious = sum(not problem.harmless for problem in problems)
    lines.append(f"  {'problems':<{width}}  {serious}, and {len(problems) - serious} notes")
    ordered = sorted(problems, key=lambda problem: problem.harmless)
    lines += [f"    {'note' if problem.harmless else 'PROBLEM'}: {problem.sentence}" for problem in ordered[:LISTED]]
    if len(ordered) > LISTED:
        lines.append(f"    … and {len(ordered) - LISTED} more")
    return "\n".join(lines)


def _row(sample: Sample) -> Tensor:
    height, width = sample["video"].shape[2:]
    scaled = resize(sample, (SHEET_HEIGHT, max(1, round(width * SHEET_HEIGHT / height))))  # before lines are drawn
    pictures = [scaled["video"].permute(0, 2, 3, 1)]
    if "masks" in scaled:
        coloured = overlay(scaled["video"], scaled["masks"])
        shown = torch.where((scaled["masks"] > 0)[..., None], coloured, pictures[0])
        pictures.append(draw_boxes(shown, scaled["boxes"], scaled["box_valid"]))
    tiles = [tile for frame in zip(*pictures, strict=True) for tile in frame]  # each (H,W,3)
    return torch.cat([torch.nn.functional.pad(tile, (0, 0, 0, 2, 0, 2)) for tile in tiles], dim=1)


def _num_instances(sample: Sample) -> int:
    return int(sample["boxes"].shape[1]) if "boxes" in sample else int(sample["masks"].max())


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}, median {np.median(values):g}"


def _counted(values: Any) -> str:
    counts = Counter(values).most_common()
    more = f", and {len(counts) - 8} others" if len(counts) > 8 else ""
    return ", ".join(f"{value}: {count}" for value, count in counts[:8]) + more
