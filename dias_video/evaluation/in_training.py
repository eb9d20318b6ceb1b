"""Validation of a DIAS in training: scores and GIFs of a few validation videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from einops import rearrange
from torch import Tensor, nn

from dias_video.checks import check_integer
from dias_video.data.loading import generator_of, read_clip
from dias_video.data.source import Sample, VideoSource, seconds_shown
from dias_video.data.transforms import Transform
from dias_video.evaluation.methods import ModelTracks
from dias_video.evaluation.protocols import VIDEO_FG, mean_of_defined, score_video
from dias_video.model.dias import DIAS
from dias_video.visualize import BACKGROUND, NOBODY, gif_file, overlay, side_by_side, write_gif

FPS = 12  # frames a second in GIFs, for videos without times


class FirstVideos:
    """The first frames of a source's first videos.

    Args:
        source: validation videos.
        transform: applied to every video (a resize).
        num_videos: number of videos; None: all.
        num_frames: number of first frames of each.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(
        self, source: VideoSource, transform: Transform | None, num_videos: int | None, num_frames: int
    ) -> None:
        if num_videos is not None:
            check_integer("validation.num_videos", num_videos, least=1)
        check_integer("validation.num_frames", num_frames, least=1)
        self.source, self.transform, self.num_frames = source, transform, num_frames
        self.indices = range(len(source))[:num_videos]

    def read(self, index: int) -> Sample:
        """A video as a sample."""
        frames = range(min(self.num_frames, self.source.info(index).num_frames))
        return read_clip(self.source, index, frames, self.transform, generator_of(0, 0, index))


class ClipValidation(FirstVideos):
    """``validate`` and ``preview`` for the trainer: tracks first videos; those with masks are scored."""

    tracks: Sequence[tuple[Sample, Tensor]] = ()  # those of the model that was scored last

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if ``model`` does not track objects."""
        if not isinstance(model, DIAS):
            raise ValueError(f"validation.num_videos needs a model that tracks objects, not a {type(model).__name__}")

    def validate(self, model: DIAS, step: int) -> dict[str, float]:
        """Means over the videos under the protocol video-fg: ``val/fg_ari``, ``val/mbo`` and ``val/miou``."""
        samples = [self.read(index) for index in self.indices]
        self.tracks = [(sample, ModelTracks(model, self._boxes(model, sample))(sample)) for sample in samples]
        scores = [
            score_video(pred, sample["masks"], (VIDEO_FG,), tracking=False)
            for sample, pred in self.tracks
            if sample.get("masks") is not None
        ]
        names = [name for name in (scores[0] if scores else {}) if name.count("/") == 1]  # not those of single frames
        return {f"val/{name.split('/')[1]}": mean_of_defined([score[name] for score in scores]) for name in names}

    def preview(self, model: DIAS, folder: Path) -> list[Path]:
        """GIFs of the videos that ``validate`` scored last: frames | slots | true masks where there are any."""
        files = []
        for index, (sample, pred) in zip(self.indices, self.tracks, strict=True):
            video = sample["video"]
            background = BACKGROUND if self._boxes(model, sample) else NOBODY
            panels = {
                "video": rearrange(video, "t c h w -> t h w c"),
                "slots": overlay(video, pred, background=background),
            }
            if sample.get("masks") is not None:
                panels["truth"] = overlay(video, sample["masks"], background=BACKGROUND)
            files.append(gif_file(folder, sample["video_id"]))
            shown = seconds_shown(self.source, index, range(len(video)), FPS)
            write_gif(files[-1], side_by_side(list(panels.values()), list(panels)), shown)
        return files

    @staticmethod
    def _boxes(model: DIAS, sample: Sample) -> bool:
        return model.takes_boxes and sample.get("boxes") is not None
