"""Will the agent touch the patient? Fit contact readouts on the readout videos and score the test videos, once.

python scripts/reason.py dynamics=runs/slotformer/checkpoints/last readout_cache=… test_cache=… out_dir=runs/reason
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _cached import device_of
from _main import entry
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from dias_video.files import sha256
from slotformer.cache import SlotCache
from slotformer.fitting import ReadoutSettings
from slotformer.protocol import Answers, accuracy_rows, answer, futures, record_look, settings_of
from slotformer.report import plot_accuracy, write_csv, write_json
from slotformer.rollouter import Dynamics
from slotformer.validation import check_same_encoder


def describe(point: Answers) -> dict[str, Any]:
    """What was chosen for a point of the curve, and how it did on the readout set."""
    return {
        "kind": point.kind,
        "predicted_frames": point.predicted_frames,
        "forms": [fitted.settings.form for fitted in point.fitted],
        "thresholds": [fitted.threshold for fitted in point.fitted],
        "validation_accuracy": point.validation_accuracy,
        "accuracy": float(point.correct.mean()),
    }


@entry("reason")
def main(cfg: DictConfig) -> None:
    """Write ``accuracy.csv``, ``accuracy.png`` and ``reason.json`` into ``cfg.out_dir``."""
    caches = {"readout": SlotCache(cfg.readout_cache), "test": SlotCache(cfg.test_cache)}
    model = Dynamics.from_pretrained(cfg.dynamics).to(device_of(cfg.device)).eval()
    for cache in caches.values():
        check_same_encoder(model, cache)
    points = sorted({int(n) for n in cfg.predicted_frames})
    common = OmegaConf.to_container(cfg.readout)
    assert isinstance(common, dict)
    candidates = [ReadoutSettings(**{**common, **dict(readout)}) for readout in cfg.readouts]
    seeds, observed = [int(s) for s in cfg.seeds], cfg.observed_frames or model.burn_in * model.stride

    def bar(items: Any) -> Any:
        return tqdm(items, unit="batch", desc="rollout")

    ends = {name: futures(cache, model, observed, max(points), progress=bar) for name, cache in caches.items()}
    settings = settings_of(candidates, points=points, seeds=seeds, observed=observed)
    checkpoint = sha256(Path(cfg.dynamics) / "model.safetensors")
    look = record_look(caches["test"], checkpoint, settings, cfg.second_look)
    answers = answer(
        ends["readout"], ends["test"], points, candidates, seeds, lambda p: tqdm(p, unit="point", desc="readouts")
    )
    rows = accuracy_rows(answers, ends["test"].encoded.scenario)
    out_dir = Path(cfg.out_dir)
    write_csv(out_dir / "accuracy.csv", rows)
    plot_accuracy(out_dir / "accuracy.png", rows, model.stride)
    about = {
        "look": look,  # 1: the first time that this model was scored on these test videos
        "test_videos": len(caches["test"]),
        "readout_videos": len(caches["readout"]),
        "observed_raw_frames": observed,
        "stride": model.stride,
        "seeds": seeds,
        "settings": settings,
        "dynamics": cfg.dynamics,
        "dynamics_sha256": checkpoint,
        "points": [describe(point) for point in answers],
    }
    write_json(out_dir / "reason.json", about)
    for row in rows:
        if row["scenario"] == "all":
            print(
                f"{row['kind']:>9} {row['predicted_frames']:>3} frames: accuracy {row['accuracy']:.3f} "
                f"[{row['low']:.3f}, {row['high']:.3f}], minus observed {row['minus_observed']:+.3f} "
                f"[{row['minus_observed_low']:+.3f}, {row['minus_observed_high']:+.3f}]"
            )
    print(f"{out_dir / 'accuracy.csv'}: {len(caches['test'])} test videos, look {look}")


if __name__ == "__main__":
    main()
