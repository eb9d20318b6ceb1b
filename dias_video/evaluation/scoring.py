"""Scores label maps of whole videos under the two protocols, on any number of processes.

Label maps come from a *method*: any callable that turns a sample into label maps. ``methods.py`` has the model and
prediction files, ``baselines.py`` two baselines. Definitions are in ``docs/evaluation.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dias_video.data.features import FeatureCache
from dias_video.data.loading import generator_of, read_ahead, read_clip
from dias_video.data.source import VOID, Sample, VideoSource
from dias_video.data.transforms import Transform
from dias_video.evaluation.methods import BatchMethod, Method
from dias_video.evaluation.metrics import BACKGROUND
from dias_video.evaluation.protocols import (
    OCB,
    PROTOCOLS,
    VIDEO_FG,
    Measure,
    Protocol,
    mean_of_defined,
    score_video,
    standard_error,
)
from dias_video.machine.ranks import Ranks, joined

FACTS = ("frames", "height", "width", "instances")  # facts about a video, in every row before the measures


class VideoScores:
    """A row of numbers for each video, collected over processes; results need all videos."""

    def __init__(self, video_ids: Sequence[str], columns: Sequence[str]) -> None:
        self.video_ids, self.columns = list(video_ids), list(columns)
        self.rows: dict[int, dict[str, float]] = {}

    def add(self, index: int, row: Mapping[str, float]) -> None:
        """Record the numbers of video ``index``. A video recorded before (padding of a batch) is not counted again.

        Raises:
            ValueError: there is no such video, or a number is missing.
        """
        if not 0 <= index < len(self.video_ids):
            raise ValueError(f"video {index} was scored, but there are only {len(self.video_ids)}")
        if row.keys() != set(self.columns):
            raise ValueError(f"{self.video_ids[index]} was scored by {list(row)}, the others by {self.columns}")
        self.rows.setdefault(index, {name: row[name] for name in self.columns})

    def gather(self, accelerator: Accelerator) -> None:
        """Exchange rows, bit for bit, so that every process has all. Every process calls it, even without rows."""
        if accelerator.num_processes == 1:
            return
        mine = torch.full((len(self.video_ids), 1 + len(self.columns)), math.nan, dtype=torch.float64)
        mine[:, 0] = -1  # rows that this process does not have
        for index, row in self.rows.items():
            mine[index] = torch.tensor([index, *row.values()], dtype=torch.float64)
        for index, *values in accelerator.gather(mine.to(accelerator.device)).tolist():
            if index >= 0:
                self.add(int(index), dict(zip(self.columns, values, strict=True)))

    def column(self, name: str) -> list[float]:
        """The number called ``name`` of every video, in order.

        Raises:
            ValueError: videos are missing.
        """
        self.check_complete()
        return [self.rows[index][name] for index in range(len(self.video_ids))]

    def check_complete(self) -> None:
        """Refuse to go on without all videos.

        Raises:
            ValueError: videos are missing; the message names the first.
        """
        missing = [name for index, name in enumerate(self.video_ids) if index not in self.rows]
        if missing:
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise ValueError(f"{len(missing)} of {len(self.video_ids)} videos have no score ({shown}); evaluate again")

    def summary(self) -> dict[str, float]:
        """Mean of every measure over videos, with ``_stderr`` and ``_undefined`` (number of videos where it is NaN).

        Videos of one instance and of several also have separate means, as ``<protocol>/single_instance/<measure>`` and
        ``<protocol>/multi_instance/<measure>``.

        Raises:
            ValueError: videos are missing.
        """
        instances = self.column("instances")
        report: dict[str, float] = {}
        for name in (column for column in self.columns if column not in FACTS):
            values = self.column(name)
            report[name] = mean_of_defined(values)
            report[f"{name}_stderr"] = standard_error(values)
            report[f"{name}_undefined"] = sum(map(math.isnan, values))
            protocol, _, measure = name.partition("/")
            if protocol not in PROTOCOLS or "/" in measure:
                continue
            for group, wanted in (("single_instance", lambda n: n == 1), ("multi_instance", lambda n: n > 1)):
                part = [value for value, number in zip(values, instances, strict=True) if wanted(number)]
                report[f"{protocol}/{group}/{measure}"] = mean_of_defined(part)
        return report


class Videos(Dataset[Sample]):
    """Whole videos of a source by index; each sample contains its index.

    Args:
        source: the videos.
        transform: applied to every video (a resize); its random numbers are a function of the index.
        max_videos: number of first videos; None = all.
        max_frames: number of first frames of each; None = all.
        features: adds ``features`` (T,N,C), the frozen encoder's output for these frames.
        boxes: samples have boxes, if the source has them.

    Raises:
        ValueError: a limit is below 1, or ``features`` was made from another source or transform.
    """

    def __init__(
        self,
        source: VideoSource,
        transform: Transform | None = None,
        max_videos: int | None = None,
        max_frames: int | None = None,
        features: FeatureCache | None = None,
        boxes: bool = True,
    ) -> None:
        for name, limit in (("max_videos", max_videos), ("max_frames", max_frames)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, or null for all, got {limit}")
        if features is not None:
            features.check(source, transform)
        self.source, self.transform, self.max_frames, self.features = source, transform, max_frames, features
        self.keys = ("video", "masks", "boxes") if boxes else ("video", "masks")
        self.in_split = len(source)
        self.indices = range(min(self.in_split, max_videos or self.in_split))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def video_ids(self) -> list[str]:
        """The videos' ids, by index."""
        return [self.source.info(index).video_id for index in self.indices]

    def num_frames(self, index: int) -> int:
        """Number of frames of a video that are scored."""
        total = self.source.info(index).num_frames
        return min(total, self.max_frames or total)

    def __getitem__(self, index: int) -> Sample:
        """The video as a sample with masks, its ``index``, and ``num_frames``, its length without ``max_frames``.

        Raises:
            ValueError: the video can't be read, or has no masks to score against.
        """
        generator, frames = generator_of(0, 0, index), range(self.num_frames(index))
        sample = read_clip(self.source, index, frames, self.transform, generator, self.features, self.keys)
        if sample.get("masks") is None:
            raise ValueError(f"{sample['video_id']} has no masks to score against; evaluate on data that has them")
        return {**sample, "index": index, "num_frames": self.source.info(index).num_frames}


def score_methods(
    methods: Mapping[str, Method],
    videos: Videos,
    protocols: Sequence[Protocol] = (VIDEO_FG, OCB),
    tracking: bool = True,
    num_workers: int = 0,
    accelerator: Accelerator | None = None,
    batch_size: int = 1,
    measures: Mapping[str, Measure] | None = None,
) -> dict[str, VideoScores]:
    """Score every method on every video; each process takes its share, and all return all results.

    A ``BatchMethod`` gets up to ``batch_size`` successive videos of equal shape at once. Without one, all methods get a
    video before the next is read, so that what they share is computed once.

    For equal label maps, results are equal to the bit for any number of workers and processes.

    Raises:
        ValueError: a video can't be read, or a method returns maps of another shape; the message names the video.
    """
    accelerator = accelerator or joined()
    share = videos.indices[accelerator.process_index :: accelerator.num_processes]
    nothing = torch.zeros(1, 1, 1, dtype=torch.int64)
    columns = [*FACTS, *score_video(nothing, nothing, protocols, tracking, measures)]
    scores = {name: VideoScores(videos.video_ids, columns) for name in methods}
    total = sum(videos.num_frames(index) for index in share)
    hidden = not accelerator.is_main_process
    if not any(isinstance(method, BatchMethod) for method in methods.values()):
        batch_size = 1
    with Ranks().together(), tqdm(total=total, unit="frame", desc="evaluate", disable=hidden) as bar:
        for samples in _grouped(read_ahead(videos.__getitem__, share, num_workers), batch_size):
            facts = [_facts(sample["masks"]) for sample in samples]
            for name, method in methods.items():
                found = method.batch(samples) if isinstance(method, BatchMethod) else map(method, samples)
                for sample, fact, maps in zip(samples, facts, found, strict=True):
                    pred = maps.cpu()
                    if pred.shape != sample["masks"].shape:
                        raise ValueError(
                            f"{sample['video_id']} has masks {tuple(sample['masks'].shape)} (T,H,W), but {name} gives "
                            f"maps {tuple(pred.shape)}; make them of the same frames and size, or set native_size=true "
                            "if they are of the size that the videos have on disk"
                        )
                    found_scores = score_video(pred, sample["masks"], protocols, tracking, measures, method.background)
                    scores[name].add(sample["index"], fact | found_scores)
            bar.update(sum(len(sample["video"]) for sample in samples))
    for collected in scores.values():
        collected.gather(accelerator)
        collected.check_complete()
    return scores


def _grouped(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Groups of up to ``size`` successive samples whose videos have equal shape."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) == size or sample["video"].shape != group[0]["video"].shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _facts(true: Tensor) -> dict[str, float]:
    instances = len(true[(true != BACKGROUND) & (true != VOID)].unique())
    return dict(zip(FACTS, (*map(float, true.shape), float(instances)), strict=True))
