"""World models on slots: the slots of a DIAS are cached, a SlotFormer predicts future slots, readouts answer questions.

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
    """Import a name at its first use, so that ``import slotformer`` takes no time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """The names for ``import *`` and for completion."""
    return [*globals(), *__all__]
