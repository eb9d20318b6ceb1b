"""Errors that say that there is too little memory."""

from __future__ import annotations

import errno
import re

GPU = "out of memory|ALLOC_FAILED"  # of PyTorch on a GPU; on the CPU it can't allocate
SAID = f"{GPU}|[Aa]llocate [0-9.]|allocate memory|not enough memory"


def lack_of_memory(error: BaseException) -> str | None:
    """The beginning of a sentence for an error by lack of memory, or None for any other error.

    Python and NumPy raise a MemoryError, the system an OSError. PyTorch raises a RuntimeError, also for an error of a
    process that loads data. What is raised from one of these counts too, but for a ValueError or an OSError, which
    say themselves what is wrong.
    """
    text = str(error)
    by_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    by_torch = isinstance(error, RuntimeError) and re.search(SAID, text)
    if not (isinstance(error, MemoryError) or by_system or by_torch):
        cause = None if isinstance(error, (ValueError, OSError)) else error.__cause__
        return None if cause is None else lack_of_memory(cause)
    where = "memory of the GPU" if re.search(GPU, text) else "memory"
    asked = re.search(r"llocate ([0-9.]+) (bytes|[KMGTPE]iB)", text)
    if asked is None:
        return f"there is not enough {where}"
    amount = f"{int(asked[1]) / 2**20:.1f} MiB" if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"
    return f"there is not enough {where} for a further {amount}"
