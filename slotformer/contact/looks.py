"""Records how often test videos were scored: each look is noted beside the test cache and in the results."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from slotformer.cache import SlotCache

LOOKS = "looks.jsonl"


class Looks(NamedTuple):
    """The two places where looks at test videos are noted: beside the cache, if possible, and in a results folder."""

    cache: SlotCache
    out_dir: Path

    def number(self, dynamics: str, settings: dict[str, Any], allow_second: bool = False) -> int:
        """The number of the look at the test videos with these settings (1 = the first look).

        The same settings give the same scores, so repeating them is not a new look. Other settings for the same
        dynamics model are a new look, since its test scores are known.

        Args:
            dynamics: identifies the dynamics model.
            settings: everything else that the scores depend on.
            allow_second: allow a further look; its number says so.

        Raises:
            ValueError: this would be a second look, and ``allow_second`` is False.
        """
        own = {look["settings"]: look for look in self._noted() if look["dynamics"] == dynamics}
        if look := own.get(_key(settings)):
            return int(look["number"])
        if own and not allow_second:
            first = next(iter(own.values()))
            raise ValueError(
                f"{self.cache.path} was scored with this dynamics model on {first['time']}; settings chosen after "
                f"seeing the test scores make them worthless, so tune on the readout set; second_look=true scores "
                f"again and says so"
            )
        return len(own) + 1

    def note(self, dynamics: str, settings: dict[str, Any], number: int) -> bool:
        """Note a look after it was scored; returns whether it could be noted beside the cache too."""
        look = {"dynamics": dynamics, "settings": _key(settings), "number": number}
        self.out_dir.mkdir(parents=True, exist_ok=True)
        _note(self.out_dir / LOOKS, look)
        try:
            _note(self.cache.path / LOOKS, look)
        except OSError as error:
            print(f"this look can't be noted beside {self.cache.path} ({error.strerror}), only in {self.out_dir}")
            return False
        return True

    def _noted(self) -> list[dict[str, Any]]:
        return [look for folder in (self.cache.path, self.out_dir) for look in _looks(folder / LOOKS)]


def _looks(file: Path) -> list[dict[str, Any]]:
    looks = []
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        try:
            look = dict(json.loads(line))
            looks.append({name: look[name] for name in ("dynamics", "settings", "number", "time")})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged ({error!r}); remove its line {line[:80]!r}") from error
    return looks


def _note(file: Path, look: dict[str, Any]) -> None:
    if not any(look["dynamics"] == one["dynamics"] and look["settings"] == one["settings"] for one in _looks(file)):
        with file.open("a") as out:
            out.write(json.dumps({**look, "time": time.strftime("%Y-%m-%d %H:%M:%S")}) + "\n")


def _key(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
