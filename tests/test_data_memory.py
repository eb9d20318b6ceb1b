"""Videos kept in memory are the videos of the source, read once."""

import torch

from dias_video.data.memory import InMemory
from dias_video.data.source import VideoInfo


class Counting:
    """Two made-up videos that count how often they are read."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 2

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(f"v{index}", 5 + index)

    def read(self, index, frames, keys=None):
        self.reads.append(index)
        wanted = torch.tensor(list(frames))
        video = (wanted + 10 * index).view(-1, 1, 1, 1).expand(-1, 3, 2, 4).to(torch.uint8)
        return {"video": video, "video_id": f"v{index}", "frame_index": wanted, "label": 1.0}


def test_memory_serves_what_the_source_has() -> None:
    source = Counting()
    memory = InMemory(source)
    for index, frames in ((0, [3, 1]), (1, [5]), (0, [0, 4]), (1, [2, 3, 4])):
        got, expected = memory.read(index, frames), Counting().read(index, frames)
        assert torch.equal(got["video"], expected["video"])
        assert torch.equal(got["frame_index"], expected["frame_index"])
        assert (got["video_id"], got["label"]) == (expected["video_id"], 1.0)
        got["video"].zero_()  # what a user does to a clip stays out of the memory
    assert source.reads == [0, 1]
    assert len(memory) == 2
    assert memory.info(1).num_frames == 6
