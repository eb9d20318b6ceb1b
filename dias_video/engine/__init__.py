"""Training and its checkpoints. Knows no concrete model or data set; takes objects as arguments."""

from dias_video.engine.checkpoint import Saving
from dias_video.engine.loop import Trainer
from dias_video.engine.runlog import Logging, check_folder
from dias_video.engine.schedule import Optimization

__all__ = ["Logging", "Optimization", "Saving", "Trainer", "check_folder"]
