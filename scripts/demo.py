"""The whole chain on simulated videos, on two CPU cores in minutes; ends with runs/demo/summary.md.

Every stage is a command that a user could type; each is printed before it runs. `make demo` calls this.
"""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path("runs/demo")
DATA = ROOT / "data"
ASSETS = Path("dias_video/assets")
STAGES = (
    ("Simulate toss videos to train on", f"simulate simulate=toss root={DATA} split=train num_videos=48"),
    ("Simulate unseen toss videos", f"simulate simulate=toss root={DATA} split=val num_videos=16"),
    ("Simulate contact videos for the dynamics", f"simulate simulate=contact root={DATA} split=training num_videos=42"),
    ("Simulate contact videos for the readout", f"simulate simulate=contact root={DATA} split=readout num_videos=350"),
    ("Simulate contact videos for the test", f"simulate simulate=contact root={DATA} split=test num_videos=140"),
    (
        "Train DIAS a little further",
        f"train_video experiment=demo data.root={DATA} checkpoint={ASSETS}/dias out_dir={ROOT}/dias",
    ),
    (
        "Evaluate it beside two baselines",
        f"evaluate checkpoint={ROOT}/dias/checkpoints/last data=simulated data.root={DATA} out_dir={ROOT}/evaluate",
    ),
    (
        "Look at its slots",
        f"visualize checkpoint={ROOT}/dias/checkpoints/last data=simulated data.root={DATA} num_videos=4"
        f" out_dir={ROOT}/gifs",
    ),
    *(
        (
            f"Cache the slots of contact/{split}",
            f"cache_slots checkpoint={ROOT}/dias/checkpoints/last data=contact data.root={DATA} split={name}"
            f" cache={ROOT}/slots/{split}",
        )
        for split, name in (("training", "train"), ("readout", "readout"), ("test", "eval"))
    ),
    (
        "Train SlotFormer",
        f"train_slotformer experiment=demo checkpoint={ASSETS}/slotformer cache={ROOT}/slots/training"
        f" out_dir={ROOT}/slotformer",
    ),
    (
        "Predict the future",
        f"rollout checkpoint={ROOT}/slotformer/checkpoints/last cache={ROOT}/slots/test out_dir={ROOT}/rollout",
    ),
    (
        "Will they touch?",
        f"reason dynamics={ROOT}/slotformer/checkpoints/last readout_cache={ROOT}/slots/readout"
        f" test_cache={ROOT}/slots/test out_dir={ROOT}/reason",
    ),
)


def run(command: str) -> float:
    """Run a script of this folder and return the seconds it took."""
    script, *arguments = shlex.split(command)
    words = [sys.executable, f"scripts/{script}.py", *arguments]
    if script.startswith("train"):
        words[1:1] = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    started = time.perf_counter()
    if subprocess.run(words, check=False).returncode:
        sys.exit(f"this stage failed: python scripts/{command}")
    return time.perf_counter() - started


def scores() -> list[str]:
    """The evaluation as a table: the model and the baselines, both protocols."""
    metrics = json.loads((ROOT / "evaluate/metrics.json").read_text())
    columns = ("video-fg/fg_ari", "video-fg/mbo", "video-fg/miou", "ocb/ari", "ocb/mbo", "ocb/miou")
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, prefix in (
        ("DIAS", ""),
        ("first boxes held fixed", "baselines/boxes_fixed/"),
        ("k-means", "baselines/kmeans/"),
    ):
        values = [f"{metrics[prefix + c]:.3f}" if prefix + c in metrics else "" for c in columns]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return lines


def table(file: Path, keep: dict[str, str], columns: tuple[str, ...]) -> list[str]:
    """Some rows and columns of a csv file as a table."""
    with file.open() as handle:
        rows = [row for row in csv.DictReader(handle) if all(row[k] == v for k, v in keep.items())]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        shown = (row[c] if not _is_number(row[c]) or row[c].isdigit() else f"{float(row[c]):.3f}" for c in columns)
        lines.append("| " + " | ".join(shown) + " |")
    return lines


def summary(seconds: dict[str, float]) -> str:
    """The page that the demo ends with."""
    gifs = [f"![{g.stem}]({g.relative_to(ROOT)})" for g in sorted(ROOT.glob("gifs/*.gif"))]
    futures = [f"![{g.stem}]({g.relative_to(ROOT)})" for g in sorted(ROOT.glob("rollout/gifs/*.gif"))]
    parts = [
        "# What the demo did",
        "## Objects: unseen toss videos, first-frame boxes given",
        *scores(),
        "\nFrames, slots in colours that stay with their object, true boxes:\n",
        *gifs,
        "\n## Futures: normalised error of predicted slots, by step",
        *table(ROOT / "rollout/rollout_error.csv", {}, ("step", "model", "repeat_last", "constant_velocity", "oracle")),
        "\n![error](rollout/rollout_error.png)\n\nObserved, true future, predicted:\n",
        *futures,
        "\n## Contact: accuracy on unseen test videos",
        *table(
            ROOT / "reason/accuracy.csv",
            {"scenario": "all"},
            ("kind", "predicted_frames", "accuracy", "low", "high", "videos"),
        ),
        "\n![accuracy](reason/accuracy.png)\n\n## Time",
        "| stage | seconds |\n|---|---|",
        *(f"| {name} | {value:.0f} |" for name, value in seconds.items()),
        f"| all | {sum(seconds.values()):.0f} |",
    ]
    return "\n".join(parts) + "\n"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def main() -> None:
    """Run every stage and write the summary."""
    shutil.rmtree(ROOT, ignore_errors=True)
    seconds: dict[str, float] = {}
    for number, (name, command) in enumerate(STAGES, 1):
        print(f"\n[{number}/{len(STAGES)}] {name}\n$ python scripts/{command}", flush=True)
        seconds[name] = run(command)
    (ROOT / "summary.md").write_text(summary(seconds))
    print(f"\n{ROOT / 'summary.md'}: {sum(seconds.values()) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()
