"""The notebook's figures of better futures are those of their raw file."""

from __future__ import annotations

import csv
from pathlib import Path

from test_docs_figures import rows_of

ROOT = Path(__file__).parents[1]


def test_better_futures_are_those_of_their_raw_file() -> None:
    with (ROOT / "results/futures/accuracy.csv").open() as file:
        names = ("set", "model", "seed", "kind", "predicted_frames")
        rows = {tuple(row[name] for name in names): row for row in csv.DictReader(file)}

    def told(clips: str, model: str, seed: str, frames: str, name: str, sign: str = "") -> str:
        row = rows[clips, model, seed, "predicted", frames]
        mean, low, high = (f"{float(row[name + end]):{sign}.3f}" for end in ("", "_low", "_high"))
        return f"{mean} [{low}, {high}]"

    head, *found = rows_of("Better futures", "docs/notebook.md")
    assert len(head) == 5
    more = "objects, 6503 clips, 12 frames"
    models = {
        "`tiny`": "tiny",
        "`objects`": "objects",
        "`objects`, and a loss on places": "objects, places",
        "2,002 clips, 4,000 updates": "objects, 4000 updates",
        "3,502 clips, 4,000 updates": "objects, 3502 clips",
        "5,750 clips, 6,000 updates, width 160, 3 layers": "objects, wide, 5750 clips",
        "6,503 clips, 8,000 updates": "objects, 6503 clips",
        "the same, then 4,000 updates on 12 predicted frames": more,
    }
    differences = {"difference": "objects", "its difference to `tiny`": more}
    models["`objects`, 6,503 clips"] = more
    tested = [row for row in found if row[0] in ("new test", "test")]
    assert len(tested) == 10
    for clips, model, *cells in tested:
        for cell, frames in zip(cells, ("4", "8", "12"), strict=True):
            if model in differences:
                assert cell == told(clips, differences[model], "mean", frames, "minus_tiny", "+")
            else:
                assert cell == told(clips, models[model], "0" if model == "`tiny`" else "mean", frames, "accuracy")
    assert len([row for row in found if row[0] in models]) == 8
    for model, *_, accuracy, better in (row for row in found if row[0] in models):
        assert accuracy.replace("*", "") == told("validation", models[model], "0", "12", "accuracy")
        assert better == ("" if model == "`tiny`" else told("validation", models[model], "0", "12", "minus_tiny", "+"))
