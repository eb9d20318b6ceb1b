"""How often test videos were scored: the test cache itself remembers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from slotformer.cache import SlotCache
from slotformer.contact.fitting import ReadoutSettings

LOOKS = "looks.jsonl"


def record_look(
    cache: SlotCache, dynamics: str, settings: dict[str, Any], allow_second: bool = False, note: bool = True
) -> int:
    """Note in the test cache that it is about to be scored; the number of this look (1 = the first).

    The same settings give the same numbers, so repeating them is no new look. Other settings for the same dynamics
    model after its test scores are known are.

    Args:
        cache: the test cache.
        dynamics: identifies the dynamics model.
        settings: everything else that the scores depend on.
        allow_second: look again all the same; the number says so.
        note: False only asks, before work whose outcome would be refused.

    Raises:
        ValueError: this would be a second look and ``allow_second`` is False.
    """
    file = cache.path / LOOKS
    looks = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    own = [look for look in looks if look["dynamics"] == dynamics]
    for look in own:
        if look["settings"] == key:
            return int(look["number"])
    if own and not allow_second:
        raise ValueError(
            f"{cache.path} was scored with this dynamics model on {own[0]['time']}; settings chosen after seeing the "
            f"test scores make them worthless, so tune on the readout set; second_look=true scores again and says so"
        )
    entry = {"dynamics": dynamics, "settings": key, "number": len(own) + 1, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    if note:
        with file.open("a") as out:
            out.write(json.dumps(entry) + "\n")
    return len(own) + 1


def settings_of(candidates: Sequence[ReadoutSettings], **others: Any) -> dict[str, Any]:
    """Readout candidates and whatever else as one plain dict, for :func:`record_look`."""
    return {"candidates": [asdict(c) for c in candidates], **others}
