"""Make GIFs of tracked slots: frames | slots, each track in one colour | boxes.

python scripts/visualize.py checkpoint=runs/x/checkpoints/last data=simulated data.root=… out_dir=runs/x/gifs
python scripts/visualize.py video=path/to/any.mp4 out_dir=runs/mine     # a video, a GIF or a folder of frames
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from _main import entry, options
from _videos import source_of
from omegaconf import DictConfig
from tqdm import tqdm

from dias_video.batch import VideoBatch
from dias_video.checks import Count, device_of
from dias_video.data.folder import OneVideo
from dias_video.data.source import VideoSource, has_boxes, seconds_shown
from dias_video.data.windows import video_windows
from dias_video.model.dias import DIAS
from dias_video.stores.files import check_new
from dias_video.tracking import track_windows
from dias_video.visualize import BACKGROUND, NOBODY, gif_file, tracked_pictures, write_gif


def shown(windows: Iterator[VideoBatch], name: str, num_frames: int) -> Iterator[VideoBatch]:
    """The windows of a video with a progress bar."""
    with tqdm(total=num_frames, unit="frame", desc=name) as bar:
        for window in windows:
            yield window
            bar.update(window.num_frames)


def visualize_one(
    dias: DIAS,
    source: VideoSource,
    index: int,
    *,
    out_dir: str,
    overwrite: bool,
    boxes: bool,
    rehearse: bool,
    follow_edges: bool,
    window: Count,
    max_frames: Count | None,
    height: Count,
    fps: float,
    precision: str,
) -> Path:
    """Write the GIF of one video and return its path."""
    info = source.info(index)
    path = gif_file(out_dir, info.video_id)
    check_new(path, overwrite)
    if info.num_frames == 0:
        raise ValueError(f"{info.video_id} has no frames")
    num_frames = min(info.num_frames, max_frames or info.num_frames)
    with_boxes = boxes and has_boxes(source)
    keys = ("video", "boxes") if with_boxes else ("video",)
    windows = video_windows(source, [index], window=window, max_frames=num_frames, keys=keys)
    given = with_boxes and dias.takes_boxes
    start = {"boxes": given, "rehearse": rehearse and not given}
    shown_windows = shown(windows, info.video_id, num_frames)
    tracked = track_windows(dias, shown_windows, labels=True, follow_edges=follow_edges, precision=precision, **start)
    seconds = seconds_shown(source, index, range(num_frames), fps)
    write_gif(path, tracked_pictures(tracked, with_boxes, height, BACKGROUND if given else NOBODY), seconds)
    return path


@entry("visualize", visualize_one)
def main(
    cfg: DictConfig, video: str | None, checkpoint: str | None, num_videos: Count | None, device: str | None
) -> None:
    """Track ``num_videos`` videos of ``cfg.data.eval``, or the one named by ``video``."""
    if (video is None) == (cfg.get("data") is None):
        raise ValueError("say what to look at: video=<file or folder of frames>, or data=<source> data.root=<folder>")
    source = OneVideo(video) if video is not None else source_of(cfg, "eval")
    dias = (DIAS.from_pretrained(checkpoint) if checkpoint else DIAS.shipped()).to(device_of(device))
    given = options(cfg, but=("data", "video", "checkpoint", "num_videos", "device"))
    for index in range(min(len(source), num_videos or len(source))):
        print(visualize_one(dias, source, index, **given))


if __name__ == "__main__":
    main()
