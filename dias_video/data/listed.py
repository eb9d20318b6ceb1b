"""The base of sources whose videos are video files, or folders of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dias_video.data.source import Keys, Sample, VideoInfo, frames_in_range, wanted
from dias_video.data.video_file import VideoFiles
from dias_video.pretrained.configured import Configured


class ListedVideos(Configured):
    """A source with a list of paths and of facts, which a subclass makes when it is opened."""

    _videos: VideoFiles  # that reads the paths
    _paths: list[Path]
    _infos: list[VideoInfo]

    def __len__(self) -> int:
        return len(self._paths)

    def info(self, index: int = 0) -> VideoInfo:
        """Name and length; also label and scenario, where they are known."""
        return self._infos[index]

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """The frames asked for, with the video's label and scenario; ``frame_index`` has their places in the file."""
        path, info = self._paths[index], self.info(index)
        places = frames_in_range(frames, info.num_frames, str(path))
        if info.frames is not None:
            places = [info.frames[at] for at in places]
        sample: Sample = {"video_id": info.video_id, "frame_index": torch.tensor(places)}
        sample |= {} if info.label is None else {"label": info.label}
        sample |= {} if info.scenario is None else {"scenario": info.scenario}
        return sample | ({"video": self._videos.read(path, places)} if wanted("video", keys) else {})

    def times(self, index: int = 0) -> NDArray[np.float64] | None:
        """When each frame is shown (N,), in seconds since the first; None where it is not known."""
        return self._videos.times(self._paths[index])

    def files(self, index: int = 0) -> list[Path]:
        """The video file, or the pictures."""
        return self._videos.files(self._paths[index])
