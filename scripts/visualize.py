"""GIFs of tracked slots: frames | slots in colours that stay with their object | boxes.

python scripts/visualize.py checkpoint=runs/x/checkpoints/last data=simulated data.root=… out_dir=runs/x/gifs
python scripts/visualize.py video=path/to/any.mp4 out_dir=runs/mine     # a video, a GIF or a folder of frames
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from dias_video.data.folder import open_video
from dias_video.data.source import VideoSource
from dias_video.model.dias import DIAS
from dias_video.visualize import tracked_pieces, write_gif


def windows(source: VideoSource, index: int, num_frames: int, window: int) -> Iterator[Tensor]:
    """The frames of one video, ``window`` at a time, under a progress bar."""
    info = source.info(index)
    with tqdm(total=num_frames, unit="frame", desc=info.video_id) as bar:
        for start in range(0, num_frames, window):
            frames = source.read(index, range(start, min(start + window, num_frames)))["video"]
            yield frames
            bar.update(len(frames))


def visualize_one(cfg: DictConfig, dias: DIAS, source: VideoSource, index: int) -> Path:
    """Write the GIF of one video and return its path."""
    info = source.info(index)
    if info.num_frames == 0:
        raise ValueError(f"{info.video_id} has no frames")
    num_frames = min(info.num_frames, cfg.max_frames or info.num_frames)
    boxes = box_valid = None
    if cfg.boxes and source.read(index, [0]).get("boxes") is not None:
        sample = source.read(index, range(num_frames))
        boxes, box_valid = sample["boxes"], sample["box_valid"]
    frames = windows(source, index, num_frames, cfg.window)
    pieces = tracked_pieces(dias, frames, boxes, box_valid, cfg.height, cfg.rehearse, cfg.follow_edges)
    path = Path(cfg.out_dir) / f"{info.video_id.strip('/').replace('/', '_')}.gif"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, pieces, cfg.fps)
    return path


@entry("visualize")
def main(cfg: DictConfig) -> None:
    """Track ``cfg.num_videos`` videos of ``cfg.data.eval``, or the one named by ``cfg.video``."""
    if (cfg.video is None) == (cfg.get("data") is None):
        raise ValueError("say what to look at: video=<file or folder of frames>, or data=<source> data.root=<folder>")
    source = open_video(cfg.video) if cfg.video is not None else instantiate(cfg.data.eval)
    dias = DIAS.from_pretrained(cfg.checkpoint).to(cfg.device) if cfg.checkpoint else DIAS.shipped().to(cfg.device)
    count = len(source) if cfg.num_videos is None else min(len(source), cfg.num_videos)
    for index in range(count):
        print(visualize_one(cfg, dias, source, index))


if __name__ == "__main__":
    main()
