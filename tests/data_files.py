"""Small videos for the tests of the data sources."""

import io
import json
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dias_video.data.source import Sample, VideoInfo

SHARED = Path(__file__).parents[2] / "shared" / "data"  # real data for tests marked `data`
CASES = SHARED.parent / "cases"  # small inputs that other programs were reported to fail on
LENGTHS = (5, 11, 8)


def reads_shared(test):
    """Marks a test that reads ../shared; where that is there, a part of it that is missing is a failure."""
    return pytest.mark.data(pytest.mark.skipif(not SHARED.parent.is_dir(), reason="no ../shared here")(test))


class Counting:
    """Videos whose pixels say which video and frame they are."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(f"v{index}", LENGTHS[index])

    def read(self, index: int, frames, keys=None) -> Sample:
        frames = torch.tensor(list(frames))
        video = torch.zeros(len(frames), 3, 6, 9, dtype=torch.uint8)
        video[:, 0] = index
        video[:, 1] = frames.view(-1, 1, 1)
        return {"video": video, "video_id": f"v{index}", "frame_index": frames}


def write_clip(path, num_frames=5, size=(32, 48), label=None):
    """A grey clip whose square instance 2 moves right by 4 pixels a frame; instance 1 never shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    masks = np.zeros((num_frames, *size), np.uint8)
    for t in range(num_frames):
        masks[t, 8:16, 4 + 4 * t : 12 + 4 * t] = 2
    with av.open(f"{path}.mp4", "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for mask in masks:
            picture = np.repeat((60 + 70 * mask)[..., None], 3, axis=-1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    with zipfile.ZipFile(f"{path}.masks.zip", "w") as archive:
        for t, mask in enumerate(masks):
            data = io.BytesIO()
            Image.fromarray(mask).save(data, format="PNG")
            archive.writestr(f"{t:05d}.png", data.getvalue())
    facts = {"num_frames": num_frames, "num_instances": 2, "label": label, "scenario": label and "drop"}
    path.with_name(path.name + ".json").write_text(json.dumps(facts))
    return masks


def assert_same(one: Sample, other: Sample) -> None:
    """Every entry of two samples is equal, bit for bit."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key], key
