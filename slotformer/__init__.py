"""World models on slots: what a DIAS saw is cached, a SlotFormer predicts it further, readouts answer questions.

from slotformer import SlotCache, SlotFormer, cache_slots, predict, reason
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotformer.cache import SlotCache
    from slotformer.contact.reasoning import reason
    from slotformer.fill import cache_slots
    from slotformer.prediction import predict
    from slotformer.rollouter import SlotFormer

__all__ = ["SlotCache", "SlotFormer", "cache_slots", "predict", "reason"]

_PLACES = {
    "SlotCache": "slotformer.cache",
    "SlotFormer": "slotformer.rollouter",
    "cache_slots": "slotformer.fill",
    "predict": "slotformer.prediction",
    "reason": "slotformer.contact.reasoning",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that ``import slotformer`` costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """What ``import *`` and completion see."""
    return [*globals(), *__all__]
