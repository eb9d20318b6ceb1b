"""One section in a process of its own: ``python -m benchmarks <section>``, settings of ``Bench`` as json on stdin.

Rows and ceilings go to stdout as one line of json.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict

from benchmarks.measure import Bench

if __name__ == "__main__":
    bench = Bench(**json.load(sys.stdin))
    rows = importlib.import_module(f"benchmarks.{sys.argv[1]}").run(bench)
    print(json.dumps({"ceilings": bench.ceilings, "rows": [asdict(row) for row in rows]}))
