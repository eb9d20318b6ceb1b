"""A small data set decoded once and kept in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dias_video.data.chosen import Chosen
from dias_video.data.source import Keys, Sample, VideoSource, frames_in_range


class InMemory(Chosen):
    """Reads each video of ``source`` once, whole, and returns its frames from memory after that.

    The data set must fit into memory: a frame of 128 x 128 px with masks takes 80 KiB. Every data-loading process keeps
    its own copy, so use ``trainer.num_workers=0``.
    """

    def __init__(self, source: VideoSource) -> None:
        super().__init__(source, range(len(source)))
        self._videos: dict[tuple[int, frozenset[str] | None], Sample] = {}

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Frames of video ``index``, copied out of memory."""
        place = index, None if keys is None else frozenset(keys)
        if place not in self._videos:
            self._videos[place] = self.source.read(index, range(self.source.info(index).num_frames), keys)
        whole = self._videos[place]
        wanted = torch.tensor(frames_in_range(frames, len(whole["frame_index"]), whole["video_id"]))
        return {key: value[wanted] if torch.is_tensor(value) else value for key, value in whole.items()}
