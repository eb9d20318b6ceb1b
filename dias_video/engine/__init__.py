"""Training, checkpoints and stores. Knows no concrete model or data set; takes objects as arguments."""

from dias_video import shards
from dias_video.engine.checkpoint import Saving
from dias_video.engine.loop import Trainer
from dias_video.engine.ranks import Interrupted
from dias_video.engine.schedule import Optimization
from dias_video.engine.tracking import Logging, check_folder
from dias_video.pretrained import Configured, build, load_weights

__all__ = [
    "Configured",
    "Interrupted",
    "Logging",
    "Optimization",
    "Saving",
    "Trainer",
    "build",
    "check_folder",
    "load_weights",
    "shards",
]
