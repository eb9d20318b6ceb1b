"""Contact prediction with Physion v1.5's official probe on frozen features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dias_video.data.physion15 import SCENARIOS
from dias_video.data.source import VideoSource
from dias_video.engine.runlog import check_folder
from dias_video.machine.ranks import Ranks, joined
from dias_video.stores.files import write_json
from slotformer.contact.frozen import FrozenFeatures
from slotformer.contact.physion15 import check_shown_alike, clips_of, exporter, fit_probe, score_rows
from slotformer.report import write_csv


def probe_contact(
    *,
    train: VideoSource,
    test: VideoSource,
    features: FrozenFeatures,
    out_dir: str | Path,
    resume: bool = False,
    export: str | None = None,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Make features of the frames that Physion v1.5 shows, fit its probe on the train clips, and score the test clips.

    Under ``accelerate launch`` the processes make the features together; the main process fits and scores.

    Args:
        train, test: the two splits of ``Physion15Videos``, with one task and the same choice of frames.
        features: the features to make.
        out_dir: the folder for accuracy.csv, clips.csv and probe.json; train/ and test/ hold the caches of features.
        resume: continue in a used ``out_dir`` with the caches that exist.
        export: ``physion15`` also writes files for the official readout script into ``out_dir/physion15``.
        device: "cpu" keeps ``accelerate launch`` from using GPUs; the features have a device of their own.

    Returns:
        The rows of accuracy.csv; none on processes other than the main one.

    Raises:
        ValueError: the sources are others or can't give the official score, or the folder is used already.
    """
    sources = dict(zip(("train", "test"), check_shown_alike(train, test), strict=True))
    exporters = {split: exporter(export, source) for split, source in sources.items()}
    out_dir, processes = Path(out_dir), joined(device)
    with Ranks().together():
        if processes.is_main_process:
            check_folder(out_dir, resume)
            out_dir.mkdir(parents=True, exist_ok=True)
    made = {split: features(source, out_dir / split) for split, source in sources.items()}
    if not processes.is_main_process:
        return []
    for split, write in exporters.items():
        if write is not None:
            write(out_dir / "physion15", made[split])
    clips = {split: clips_of(source) for split, source in sources.items()}
    probe = fit_probe(made["train"], [clip.label for clip in clips["train"]])
    probability = probe.probabilities(made["test"])
    rows = score_rows(probability, clips["test"])
    test_source = sources["test"]
    about: dict[str, Any] = {
        "accuracy": rows[-1]["accuracy"],  # the official score: the mean over scenarios
        "scenarios": len(SCENARIOS),
        "task": test_source.task,
        "frame_gap": test_source.frame_gap,
        "num_frames": test_source.num_frames,
        "frames_read": made["test"].shape[1],  # shown, or seen and predicted
        "width": made["test"].shape[2],
        "pooling": "mean, maximum, minimum over the parts of a frame",
        "train_clips": len(clips["train"]),
        "test_clips": len(clips["test"]),
        "train_accuracy": probe.train_accuracy,
        "C": probe.strength,
        **features.describe(),
    }
    write_csv(out_dir / "accuracy.csv", rows)
    write_csv(out_dir / "clips.csv", [
        {"clip": clip.stem, "scenario": "+".join(clip.scenarios), "probability": float(p), "label": int(clip.label)}
        for clip, p in zip(clips["test"], probability, strict=True)
    ])  # fmt: skip
    write_json(out_dir / "probe.json", about)
    return rows
