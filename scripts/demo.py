"""Run all stages on simulated videos, in minutes on two CPU cores; writes runs/demo/summary.md and report.html.

Every stage is a command that a user can type, and is printed before it runs. `make demo` calls this.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from _stages import Taken, run, total

from dias_video.report.page import join_reports

ROOT, ASSETS = Path("runs/demo"), Path("dias_video/assets")
DATA, SLOTS = ROOT / "data", ROOT / "slots"
DIAS, SLOTFORMER = ROOT / "dias/checkpoints/last", ROOT / "slotformer/checkpoints/last"
CACHE = f"cache_slots.py checkpoint={DIAS} data=contact data.root={DATA}"
STAGES = {
    "Simulate toss videos to train on": f"simulate.py simulate=toss root={DATA} split=train num_videos=48",
    "Simulate unseen toss videos": f"simulate.py simulate=toss root={DATA} split=val num_videos=16",
    "Simulate contact videos for dynamics": f"simulate.py simulate=contact root={DATA} split=train num_videos=42",
    "Simulate contact videos for readouts": f"simulate.py simulate=contact root={DATA} split=readout num_videos=252",
    "Simulate contact videos for tests": f"simulate.py simulate=contact root={DATA} split=test num_videos=98",
    "Train DIAS a little further": f"train_video.py experiment=demo data.root={DATA} checkpoint={ASSETS}/dias"
    f" out_dir={ROOT}/dias",
    "Evaluate it beside two baselines": f"evaluate.py checkpoint={DIAS} data=simulated data.root={DATA}"
    f" out_dir={ROOT}/evaluate",
    "Look at its slots": f"visualize.py checkpoint={DIAS} data=simulated data.root={DATA} out_dir={ROOT}/gifs"
    " num_videos=4",
    "Cache the slots of contact/train": f"{CACHE} split=train cache={SLOTS}/train",
    "Cache the slots of contact/readout": f"{CACHE} split=readout cache={SLOTS}/readout",
    "Cache the slots of contact/test": f"{CACHE} split=eval cache={SLOTS}/test",
    "Train SlotFormer": f"train_slotformer.py experiment=demo checkpoint={ASSETS}/slotformer cache={SLOTS}/train"
    f" out_dir={ROOT}/slotformer",
    "Predict the future": f"rollout.py checkpoint={SLOTFORMER} cache={SLOTS}/test out_dir={ROOT}/rollout",
    "Will they touch?": f"reason.py dynamics={SLOTFORMER} readout_cache={SLOTS}/readout test_cache={SLOTS}/test"
    # There are few clips, so a readout does not find the roles from most random initial weights.
    " readout.epochs=20 readout.restarts=8"
    f" out_dir={ROOT}/reason",
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers that are not integers get three digits."""
    lines = [header, ["---"] * len(header)]
    lines += [[f"{float(x):.3f}" if re.search(r"\d[.e]", x) else x for x in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scores() -> str:
    """The evaluation: the model and the baselines, both protocols."""
    metrics = json.loads((ROOT / "evaluate/metrics.json").read_text())
    columns = ("video-fg/fg_ari", "video-fg/mbo", "video-fg/miou", "ocb/ari", "ocb/mbo", "ocb/miou")
    names = {"": "DIAS", "baselines/boxes_fixed/": "first boxes held fixed", "baselines/kmeans/": "k-means"}
    rows = [[name, *(str(metrics.get(prefix + c, "")) for c in columns)] for prefix, name in names.items()]
    return table(["", *columns], rows)


def selected(file: Path, columns: Sequence[str], scenario: str | None = None) -> str:
    """Some columns of a csv file; of one scenario, if it is named."""
    rows = [row for row in csv.DictReader(file.read_text().splitlines()) if scenario in (None, row.get("scenario"))]
    return table(columns, [[row[c] for c in columns] for row in rows])


def summary(taken: dict[str, Taken]) -> str:
    """The summary page of the demo."""
    found = [sorted((ROOT / folder).rglob("*.gif")) for folder in ("gifs", "rollout/gifs")]
    gifs, futures = ([f"![{g.stem}]({g.relative_to(ROOT)})" for g in part] for part in found)
    curves = ("step", "model", "repeat_last", "constant_velocity", "oracle")
    accuracies = ("kind", "predicted_frames", "accuracy", "low", "high", "videos")
    parts = [
        "# What the demo did\n\nSlots, tracks and futures, frame by frame: [report.html](report.html)\n",
        "## Objects: unseen toss videos, first-frame boxes given",
        scores(),
        "\nFrames, slots in colours that stay with their object, true boxes:\n",
        *gifs,
        "\n## Futures: normalised error of predicted slots, by step",
        selected(ROOT / "rollout/rollout_error.csv", curves),
        "\n![error](rollout/rollout_error.png)\n\nObserved, true future, predicted:\n",
        *futures,
        "\n## Contact: accuracy on unseen test videos",
        selected(ROOT / "reason/accuracy.csv", accuracies, "all"),
        "\nSo few clips leave wide intervals (low to high: 95 %); `docs/notebook.md` has more.\n",
        "![accuracy](reason/accuracy.png)\n\n## Time",
        table(
            ("stage", "seconds", "of CPU time"),
            [(name, f"{one.wall:.0f}", f"{one.cpu:.0f}") for name, one in {**taken, "all": total(taken)}.items()],
        ),
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Run every stage and write the summary."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # there are no options, but --help must not start it
    shutil.rmtree(ROOT, ignore_errors=True)
    taken: dict[str, Taken] = {}
    for number, (name, command) in enumerate(STAGES.items(), 1):
        print(f"\n[{number}/{len(STAGES)}] {name}\n$ python scripts/{command}", flush=True)
        taken[name] = run(command)
    pages = {name: ROOT / name / "report.html" for name in ("evaluate", "rollout")}
    join_reports(ROOT / "report.html", "What the demo did", pages)
    (ROOT / "summary.md").write_text(summary(taken))
    print(
        f"\n{ROOT / 'summary.md'}: {total(taken).wall / 60:.1f} minutes in all, {total(taken).cpu / 60:.1f} of CPU time"
    )


if __name__ == "__main__":
    main()
