"""Track the objects of any video: masks, boxes, slots, an overlay and a page, in a folder for each video.

python scripts/track.py video=path/to/any.mp4 out_dir=runs/mine    # or a folder of frames, or of videos
python scripts/track.py video=path/to/any.mp4 out_dir=runs/mine encoder.weights=path/to/dinov2_vits14.safetensors
python scripts/track.py video=path/to/any.mp4 out_dir=runs/mine checkpoint=runs/x/checkpoints/last
python scripts/track.py video=path/to/videos out_dir=runs/mine resume=true    # go on; finished videos are kept
"""

from __future__ import annotations

import signal
import sys

from _main import entry, options
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from dias_video.auto.run import Untracked, track_files
from dias_video.auto.track import Tracker


@entry("track", track_files, Tracker)
def main(cfg: DictConfig) -> None:
    """Track the videos in ``cfg.video`` and write their files into ``cfg.out_dir``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background processes ignore SIGINT
    try:
        for written in track_files(encoder=instantiate(cfg.encoder), **options(cfg, but=("encoder",))):
            tqdm.write(str(written))  # not into the progress bar
            sys.stdout.flush()
    except Untracked as error:
        for problem in error.problems:
            print(f"error: {problem.sentence}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        done = f"interrupted; the files of finished videos are complete in {cfg.out_dir}"
        print(f"{done}; the same command with resume=true goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
