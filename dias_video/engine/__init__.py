"""Training, checkpoints and stores. Knows no concrete model or data set; takes objects as arguments."""

from dias_video import shards
from dias_video.pretrained import Configured

__all__ = ["Configured", "shards"]
