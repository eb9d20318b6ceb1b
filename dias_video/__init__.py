"""Video object-centric learning with temporal DIAS: each slot stays on its object over time.

from dias_video import DIAS, VideoBatch, evaluate, track
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dias_video.auto.track import track
    from dias_video.batch import SlotSequence, VideoBatch
    from dias_video.evaluation.run import evaluate
    from dias_video.model.dias import DIAS

__all__ = ["DIAS", "SlotSequence", "VideoBatch", "evaluate", "track"]

_PLACES = {
    "DIAS": "dias_video.model.dias",
    "SlotSequence": "dias_video.batch",
    "VideoBatch": "dias_video.batch",
    "evaluate": "dias_video.evaluation.run",
    "track": "dias_video.auto.track",
}


def __getattr__(name: str) -> Any:
    """Import a name at its first use, so that ``import dias_video`` takes no time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """The names for ``import *`` and for completion."""
    return [*globals(), *__all__]
