"""The paper's experiments, composed as the script does, at their full sizes: each is built and takes a training step.

Reduced: the batch (1), the frames of a clip (2), the precision (a CPU without bf16 units takes minutes a step), and the
encoder's weights are random instead of downloaded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import data_layouts as layouts
import pytest
from data_records import write_movi
from safetensors.torch import load_file
from test_resume_scripts import script

from dias_video.model.dias import DIAS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "data", "frames", "slots", "slot_dim", "iterations"),
    [
        ("coco", layouts.coco_panoptic, 1, 7, 256, (3, 2)),
        ("movi_d", write_movi, 2, 21, 64, (2, 2)),
        ("ytvis", layouts.ytvis_hq, 2, 7, 64, (3, 2)),
        ("physion", layouts.physion, 2, 6, 64, (3, 2)),
    ],
)
def test_experiment_takes_a_step(tmp_path: Path, name, data, frames, slots, slot_dim, iterations) -> None:
    root, out = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    data(root)
    script(
        "train_video", f"experiment={name}", f"data.root={root}", f"out_dir={out}", "max_steps=1",
        "model.encoder.weights=random", f"data.clip.num_frames={frames}", "trainer.batch_size=1",
        "trainer.precision=fp32", "trainer.num_workers=0", "trainer.logging.every=1", "trainer.optimization.warmup=0",
    )  # fmt: skip
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"reconstruction", "distillation", "live_first", "largest_share"} <= row.keys()
    assert all(math.isfinite(value) for value in row.values())
    assert row["grad_norm"] > 0
    dias = DIAS.from_pretrained(out / "checkpoints/last")
    assert (dias.num_slots, dias.slot_dim) == (slots, slot_dim)
    assert (dias.first_iterations, dias.later_iterations) == iterations
    assert dias.encoder.grid == (16, 16)
    assert len(dias.decoder.transformer.layers) == 4
    assert dias.decoder.config["num_heads"] == 4
    assert dias.aggregator.reinitialize
    assert dias.teacher == "hard"
    moments = load_file(out / "checkpoints/last/trainer.safetensors")
    assert moments  # the optimizer has seen a gradient


@pytest.mark.parametrize("name", layouts.SETS)
def test_rows_of_the_docs_take_a_step(tmp_path: Path, name: str) -> None:
    """Every command of the table in docs/data.md, on a miniature of the set."""
    layouts.SETS[name](tmp_path / "data")
    _, words = layouts.table_of_the_docs()[name]
    words = [word.replace("checkpoint=", f"checkpoint={layouts.CONFIGS.parent}/") for word in words]
    pictures = {"experiment=coco", "experiment=clevrtex", "experiment=voc"} & set(words)
    frames = [] if pictures else ["data.clip.num_frames=2"]
    script(
        "train_video", *words, f"data.root={tmp_path / 'data'}", f"out_dir={tmp_path / 'run'}", "max_steps=1", *frames,
        "model.encoder.weights=random", "trainer.batch_size=1", "trainer.precision=fp32", "trainer.num_workers=0",
        "trainer.logging.every=1",
    )  # fmt: skip
    (row,) = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert math.isfinite(row["loss"])


def test_slotcontrast_takes_a_step(tmp_path: Path) -> None:
    layouts.ytvis_2021(tmp_path / "data")
    out = tmp_path / "run"
    script(
        "train_video", "experiment=slotcontrast", f"data.root={tmp_path / 'data'}", f"out_dir={out}",
        "max_steps=1", "model.encoder.weights=random", "data.clip.num_frames=2", "trainer.batch_size=1",
        "trainer.num_workers=0", "trainer.logging.every=1", "trainer.optimization.warmup=0",
    )  # fmt: skip
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"reconstruction", "contrast"} <= row.keys()
    assert row["loss"] == pytest.approx(row["reconstruction"] + 0.5 * row["contrast"], rel=1e-4)
    assert row["grad_norm"] > 0
    dias = DIAS.from_pretrained(out / "checkpoints/last")
    assert (dias.num_slots, dias.slot_dim, dias.encoder.grid) == (7, 64, (37, 37))


@pytest.mark.parametrize(
    ("name", "data", "slots", "codes", "grid"),
    [("slate_original", layouts.voc, 3, 1024, (16, 16)), ("steve_original", write_movi, 15, 4096, (32, 32))],
)
def test_originals_take_a_step(tmp_path: Path, name, data, slots, codes, grid) -> None:
    root, out = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    data(root)
    words = ["data=voc"] if name == "slate_original" else []
    script(
        "train_video", f"experiment={name}", *words, f"data.root={root}", f"out_dir={out}", "max_steps=1",
        "trainer.batch_size=1", "trainer.num_workers=0", "trainer.logging.every=1",
    )  # fmt: skip
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] == pytest.approx(row["reconstruction"] + row["cross_entropy"], rel=1e-4)
    assert row["cross_entropy"] == pytest.approx(math.log(codes), abs=1)
    model = DIAS.from_pretrained(out / "checkpoints/last")
    assert (model.num_slots, model.encoder.tokenizer.num_codes, model.encoder.grid) == (slots, codes, grid)
