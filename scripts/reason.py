"""Will the agent touch the patient? Fit contact readouts on the readout videos and score the test videos, once.

python scripts/reason.py dynamics=runs/slotformer/checkpoints/last readout_cache=… test_cache=… out_dir=runs/reason
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from _cached import device_of, folders
from _main import entry
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from dias_video.data.physion import stimulus
from dias_video.files import sha256
from slotformer.cache import SlotCache
from slotformer.contact import LabelledSlots
from slotformer.fitting import ReadoutSettings
from slotformer.human import human_rows, read_human
from slotformer.places import PlaceProbe, fit_probe
from slotformer.protocol import Answers, accuracy_rows, answer, futures, join_answers, record_look, settings_of
from slotformer.report import plot_accuracy, write_csv, write_json
from slotformer.validation import check_same_encoder, load_dynamics


class Reasoned(NamedTuple):
    """What one dynamics model leads to."""

    answers: list[Answers]
    about: dict[str, Any]
    test: LabelledSlots


def describe(point: Answers) -> dict[str, Any]:
    """What was chosen for a point of the curve, and how it did on the readout set."""
    return {
        "kind": point.kind,
        "readout": point.readout,
        "predicted_frames": point.predicted_frames,
        "thresholds": [fitted.threshold for fitted in point.fitted],
        "validation_accuracy": point.validation_accuracy,
        "accuracy": float(point.correct.mean()),
    }


def reason(
    cfg: DictConfig,
    folder: str,
    caches: dict[str, SlotCache],
    candidates: list[ReadoutSettings],
    probe: PlaceProbe | None,
) -> Reasoned:
    """Roll out with one dynamics model, fit readouts, score the test videos."""
    model = load_dynamics(folder).to(device_of(cfg.device))
    for cache in caches.values():
        check_same_encoder(model, cache)
    points, seeds = sorted({int(n) for n in cfg.predicted_frames}), [int(s) for s in cfg.seeds]
    observed = int(cfg.observed_frames or model.burn_in * model.stride)

    def bar(items: Any) -> Any:
        return tqdm(items, unit="batch", desc="rollout")

    ends = {name: futures(cache, model, observed, max(points), progress=bar) for name, cache in caches.items()}
    fitted_on = sha256(caches["readout"].path / "index.safetensors")
    settings = settings_of(candidates, points=points, seeds=seeds, observed=observed, readout=fitted_on)
    if probe is not None:
        ends = {name: end.with_places(probe) for name, end in ends.items()}
    checkpoint = sha256(Path(folder) / "model.safetensors")
    look = record_look(caches["test"], checkpoint, settings, cfg.second_look)
    answers = answer(
        ends["readout"], ends["test"], points, candidates, seeds, lambda p: tqdm(p, unit="point", desc="readouts")
    )
    about = {
        "dynamics": folder,
        "dynamics_sha256": checkpoint,
        "look": look,  # 1: the first time that this model was scored on these test videos
        "observed_raw_frames": observed,
        "stride": model.stride,
        "settings": settings,
        "points": [describe(point) for point in answers],
    }
    return Reasoned(answers, about, ends["test"].encoded)


@entry("reason")
def main(cfg: DictConfig) -> None:
    """Write ``accuracy.csv``, ``accuracy.png`` and ``reason.json`` into ``cfg.out_dir``."""
    caches = {"readout": SlotCache(cfg.readout_cache), "test": SlotCache(cfg.test_cache)}
    common = OmegaConf.to_container(cfg.readout)
    assert isinstance(common, dict)
    candidates = [ReadoutSettings(**{**common, **dict(readout)}) for readout in cfg.readouts]
    needs_places = any(candidate.form == "places" for candidate in candidates)
    probe = fit_probe(caches["readout"]) if needs_places else None
    parts = [reason(cfg, folder, caches, candidates, probe) for folder in folders(cfg.dynamics)]
    test, out_dir = parts[0].test, Path(cfg.out_dir)
    rows = accuracy_rows(join_answers([part.answers for part in parts]), test.scenario)
    if cfg.human:
        rows += human_rows(read_human(Path(cfg.human), stimulus), test.video_id, test.scenario, stimulus)
    write_csv(out_dir / "accuracy.csv", rows)
    plot_accuracy(out_dir / "accuracy.png", rows, parts[0].about["stride"])
    counts = {f"{name}_videos": len(cache) for name, cache in caches.items()}
    explained = None if probe is None else [round(v, 4) for v in probe.explained.tolist()]
    about = {**counts, "places_explained": explained, "runs": [part.about for part in parts]}
    write_json(out_dir / "reason.json", about)
    for row in rows:
        if row["scenario"] == "all":
            gain = "minus_observed" in row and (
                f", minus observed {row['minus_observed']:+.3f} "
                f"[{row['minus_observed_low']:+.3f}, {row['minus_observed_high']:+.3f}]"
            )
            print(
                f"{row.get('readout', ''):>9} {row['kind']:>9} {row['predicted_frames']:>3} frames: accuracy "
                f"{row['accuracy']:.3f} "
                f"[{row['low']:.3f}, {row['high']:.3f}]{gain or ''}"
            )
    look = max(part.about["look"] for part in parts)
    print(f"{out_dir / 'accuracy.csv'}: {len(caches['test'])} test videos, look {look}")


if __name__ == "__main__":
    main()
