"""Physion v1.5's probe, score and files against plain ones; and its four kinds of features from mp4 to the score."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from physion15_files import NUMBERS, STEMS, write_physion15
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from test_script_options import run, sentence
from tiny import HEIGHT, WIDTH, D, tiny_dias

import slotformer.contact.probing  # noqa: F401 - what the script imports is loaded once, before the forks
from dias_video.data.physion15 import SCENARIOS, Physion15Videos
from dias_video.draws import Draws
from dias_video.pretrained.weights import weights_sha256
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.clusters import cluster_means
from slotformer.contact.physion15 import (
    STRENGTHS,
    Clip,
    check_shown_alike,
    check_source,
    clips_of,
    export_features,
    exporter,
    fit_probe,
    score_rows,
)
from slotformer.contact.pooled import pooled, pooled_slots
from slotformer.rollouter import SlotFormer


def answers(seed: int, count: int = 90) -> tuple[np.ndarray, list[float]]:
    """Features (V,T,D) that tell something of the label, and the labels."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 3 == 0
    features = rng.normal(size=(count, 3, 20)) * np.geomspace(0.01, 100, 20)
    features[:, 1, 4] += label * features[:, 1, 4].std()
    return features.astype(np.float32), label.astype(float).tolist()


def test_the_probe_is_a_plain_grid_search_in_half_precision() -> None:
    """Fold by fold, without pipeline and search; of equally good strengths the smallest."""
    (features, label), (held_out, _) = answers(0), answers(1)
    x, y = features.astype(np.float16).reshape(90, 60), np.array(label)

    def fitted(strength: float, rows: np.ndarray) -> tuple[StandardScaler, LogisticRegression]:
        scaler = StandardScaler().fit(x[rows])
        return scaler, LogisticRegression(C=strength, max_iter=20_000).fit(scaler.transform(x[rows]), y[rows])

    means = []
    for strength in (1e-6, 1e-5, 0.01, 0.1, 1, 5, 10, 20):
        right = []
        for train, kept in StratifiedKFold(5, shuffle=True, random_state=42).split(x, y):
            scaler, regression = fitted(strength, train)
            right.append((regression.predict(scaler.transform(x[kept])) == y[kept]).mean())
        means.append(np.mean(right))
    best = STRENGTHS[int(np.argmax(means))]
    assert len(set(means)) > 3
    probe = fit_probe(features, label)
    assert probe.strength == best
    scaler, regression = fitted(best, np.arange(90))
    assert probe.train_accuracy == (regression.predict(scaler.transform(x)) == y).mean()
    rows = scaler.transform(held_out.astype(np.float16).reshape(90, 60))
    assert np.array_equal(probe.probabilities(held_out), regression.predict_proba(rows)[:, 1])


def test_what_the_probe_cant_be_fitted_on() -> None:
    features, label = answers(0)
    with pytest.raises(ValueError, match="over 65,504"):
        fit_probe(features * 1e4, label)
    with pytest.raises(ValueError, match="at least 5 train clips of either answer"):
        fit_probe(features, [1.0] * 86 + [0.0] * 4)


def test_the_score_is_the_plain_mean_of_the_scenarios_by_hand() -> None:
    """Two clips of `drop`, one of which counts for `link` too, and one of each other scenario."""
    clips = [Clip("a", ("drop",), 1.0), Clip("b", ("drop", "link"), 0.0)]
    clips += [Clip(name, (name,), 1.0) for name in SCENARIOS if name not in ("drop", "link")]
    probability = np.array([0.9, 0.8, 0.6, 0.5, 0.7, 0.8, 0.1])  # right: a; wrong: b; collision, not towers, ...
    rows = {row["scenario"]: row for row in score_rows(probability, clips)}
    expected = {"collision": 1, "drop": 0.5, "towers": 0, "link": 0, "roll": 1, "contain": 1, "dominoes": 0}
    assert {name: rows[name]["accuracy"] for name in SCENARIOS} == expected
    assert [rows[name]["clips"] for name in ("drop", "link", "roll", "mean")] == [2, 1, 1, 7]
    assert rows["mean"]["accuracy"] == pytest.approx(3.5 / 7)
    assert (rows["mean"]["low"], rows["mean"]["high"]) == pytest.approx((3 / 7, 4 / 7))  # only `drop` can vary


def test_pooling_by_hand() -> None:
    slots = torch.tensor([[[1.0, -2.0], [3.0, 6.0], [99.0, 99.0]], [[4.0, 5.0], [7.0, 7.0], [8.0, 8.0]]])  # (T,S,D)
    live = torch.tensor([[True, True, False], [False, False, False]])
    assert pooled(slots, live).tolist() == [[2, 2, 3, 6, 1, -2], [0, 0, 0, 0, 0, 0]]


def test_clusters_are_means_of_tokens_frame_by_frame() -> None:
    """Two directions; in the second frame one of them is not there."""
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 0.2], [0.0, 5.0]], [[2.0, 0.0], [1.0, 0.1], [6.0, 0.0]]])  # (T,N,C)
    slots, live = cluster_means(tokens, 2, Draws.for_videos(0, ["v"]))
    first = int(slots[0, 1, 0] > slots[0, 0, 0])  # the cluster along the first axis
    assert torch.allclose(slots[0, first], torch.tensor([2.0, 0.1]))
    assert torch.allclose(slots[0, 1 - first], torch.tensor([0.0, 5.0]))
    assert torch.allclose(slots[1, first], torch.tensor([3.0, 0.1 / 3]))
    assert live[0].all()
    assert live[1].tolist() == [first == 0, first == 1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_physion15(root)
    return root


def test_seen_slots_end_with_the_last_shown_and_predicted_ones_follow(archive: Path, tmp_path: Path) -> None:
    """Of 16 shown frames a stride of 3 sees 0, 3, … 15."""
    source = Physion15Videos(archive, "test", "predict", frame_gap=30)
    names = [source.info(index).video_id for index in range(len(source))]
    with SlotCacheWriter(tmp_path / "seen", dtype="fp32") as writer:
        for at, name in enumerate(names):
            slots = torch.arange(16.0)[:, None, None].expand(-1, 2, 1) + 100 * at
            writer.write(name, slots, torch.ones(16, 2).bool())
    cache = SlotCache(tmp_path / "seen")
    for start, folder in ((9, "future"), (8, "early")):
        about = {"burn_in": 3, "stride": 3, "steps": 2, "start": start}
        with SlotCacheWriter(tmp_path / folder, dtype="fp32", **about) as writer:
            for at, name in enumerate(names):
                slots = torch.tensor([16.0, 17.0])[:, None, None].expand(-1, 2, 1) + 100 * at
                writer.write(name, slots, torch.ones(2, 2).bool())
    features = pooled_slots(cache, source, SlotCache(tmp_path / "future"))
    assert features.shape == (16, 8, 3)
    assert (features[5, :, 0] - 500).tolist() == [0, 3, 6, 9, 12, 15, 16, 17]
    assert np.array_equal(features[..., 0], features[..., 2])
    assert pooled_slots(cache, source).shape == (16, 16, 3)
    with pytest.raises(
        ValueError, match=r"early was predicted from frame 14 on, .* ends with frame 15; predict with o"
    ):
        pooled_slots(cache, source, SlotCache(tmp_path / "early"))


def test_exported_files(archive: Path, tmp_path: Path) -> None:
    source = Physion15Videos(archive, "test", "detect")
    features = np.random.default_rng(0).normal(size=(16, 4, 6)).astype(np.float32)
    write = exporter("physion15", source)
    assert write is not None
    assert write(tmp_path, features) == tmp_path / "test_features.hdf5"
    clips = clips_of(source)
    with h5py.File(tmp_path / "test_features.hdf5") as file:
        assert np.array_equal(file["features"][...], features)
        assert file["features"].dtype == np.float32
        assert file["label"].dtype == np.float64
        assert file["label"][...].tolist() == [clip.label for clip in clips]
        assert file["frame_labels"].dtype == np.int64
        assert file["frame_labels"][...].tolist() == [source.label(index).frame for index in range(16)]
        paths = [name.decode() for name in file["filenames"][...]]
    assert [Path(path).stem for path in paths] == [clip.stem for clip in clips]
    assert all(Path(path).is_file() for path in paths)
    rows = json.loads((tmp_path / "test_json.json").read_text())
    assert list(rows) == list(SCENARIOS)
    for name in SCENARIOS:
        assert [clips[row].stem for row in rows[name]] == [
            f"{stem}_{number:04d}" for stem in sorted(STEMS[name]) for number in NUMBERS["test"]
        ]
    assert json.loads((tmp_path / "test_scenario_map.json").read_text()) == {path: at for at, path in enumerate(paths)}
    features[3, 1, 2] = np.nan
    with pytest.raises(ValueError, match=f"{clips[3].stem} are not finite"):
        export_features(tmp_path, source, features)


def test_refusals(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (Physion15Videos(archive, split, "predict") for split in ("train", "test"))
    assert check_shown_alike(train, test) == (train, test)
    for others, message in (
        ((train, Physion15Videos(archive, "test", "detect")), "must be shown alike"),
        ((train, Physion15Videos(archive, "test", "predict", 100)), "must be shown alike"),
        ((test, train), "fitted on split=train"),
        ((train, Physion15Videos(archive, "test", "predict", scenarios=["roll"])), "no test clip is of scenario 'coll"),
        ((train, Physion15Videos(archive, "test")), "data.task=predict"),
    ):
        with pytest.raises(ValueError, match=message):
            check_shown_alike(*others)
    with pytest.raises(ValueError, match="export=hdf5 is unknown"):
        exporter("hdf5", test)
    with pytest.raises(ValueError, match="export=physion15 needs the frames"):
        exporter("physion15", Physion15Videos(archive, "test"))
    assert exporter(None, test) is None
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match=r"pip install 'dias-video\[physion15\]'"):
        exporter("physion15", check_source(test, "x"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DIAS and a dynamics model of its slots, which have learned nothing."""
    root = tmp_path_factory.mktemp("models")
    tiny_dias().save_pretrained(root / "dias")
    size: dict[str, Any] = {"burn_in": 3, "rollout": 2, "stride": 2, "width": 8, "layers": 1, "heads": 2}
    SlotFormer(D, **size, encoder=weights_sha256(root / "dias")).save_pretrained(root / "dynamics")
    return root


TOKENS = ("model=tiny_free", "model.encoder.weights=random", "model.encoder.input_size=[16,24]")
FOUND = {  # words of a kind; frames read, of 4 or 16 shown; width
    "tokens": (TOKENS, 4, 3 * 64),
    "clusters": ((*TOKENS, "representation.num_clusters=3"), 4, 3 * 64),
    "slots": ((), 4, 3 * D),
    "futures": (("data.frame_gap=30",), 8 + 2, 3 * D),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOUND)
def test_one_command_a_kind_of_features(kind: str, archive: Path, models: Path, tmp_path: Path) -> None:
    """And the same again from what is made; the export holds what the probe read."""
    words, frames, width = FOUND[kind]
    out = tmp_path / "out"
    words = ("experiment=physion15", f"representation={kind}", f"data.root={archive}", f"out_dir={out}", *words)
    words += (f"data.size=[{HEIGHT},{WIDTH}]", f"checkpoint={models}/dias", f"dynamics={models}/dynamics", "device=cpu")
    code, output = run("probe_contact", *words, "export=physion15")
    assert code == 0, output
    about = json.loads((out / "probe.json").read_text())
    assert (about["features"], about["frames_read"], about["width"]) == (kind, frames, width)
    assert (about["task"], about["train_clips"], about["test_clips"]) == ("predict", 16, 16)
    with (out / "accuracy.csv").open() as file:
        rows = {row["scenario"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*SCENARIOS, "mean"]
    mean = np.mean([float(rows[name]["accuracy"]) for name in SCENARIOS])
    assert (
        about["accuracy"] == pytest.approx(float(rows["mean"]["accuracy"]), abs=1e-6) == pytest.approx(mean, abs=1e-5)
    )
    with (out / "clips.csv").open() as file:
        clips = list(csv.DictReader(file))
    linked = [(float(c["probability"]) > 0.5) == (c["label"] == "1") for c in clips if c["scenario"] == "link"]
    assert (len(clips), np.mean(linked)) == (16, pytest.approx(float(rows["link"]["accuracy"])))
    arrays = {}
    for split, count in (("train", 16), ("test", 16)):
        with h5py.File(out / f"physion15/{split}_features.hdf5") as exported:
            arrays[split] = exported["features"][...]
            assert arrays[split].shape == (count, frames, width)
            assert len(np.unique(arrays[split][:, -1, 0])) >= 4  # the last shown frames: 45, 34, 19, of collisions 15
    code, output = run("probe_contact", *words)
    assert code == 1
    assert "resume=true" in sentence(output)
    before = (out / "clips.csv").read_bytes()
    code, output = run("probe_contact", *words, "resume=true")
    assert code == 0, output
    assert (out / "clips.csv").read_bytes() == before


@pytest.mark.slow
def test_caching_and_rolling_out_export_too(archive: Path, models: Path, tmp_path: Path) -> None:
    """What they write is what the probe's own export has."""
    data = ("data=physion15", f"data.root={archive}", "data.task=predict", "data.frame_gap=30", "split=eval")
    data += (f"data.size=[{HEIGHT},{WIDTH}]", "export=physion15", "device=cpu")
    slots = tmp_path / "slots"
    for script, words in (
        ("cache_slots", (f"checkpoint={models}/dias", f"cache={slots}", "attention=false", *data)),
        ("cache_features", (f"path={tmp_path / 'tokens'}", *TOKENS, *data)),
        ("rollout", (f"checkpoint={models}/dynamics", f"cache={slots}", f"out_dir={tmp_path / 'rollout'}",
                     "export=physion15", "device=cpu")),
    ):  # fmt: skip
        code, output = run(script, *words)
        assert code == 0, output
        assert "test_features.hdf5" in output
    words = ("experiment=physion15", "representation=futures", f"data.root={archive}", "data.frame_gap=30")
    words += (f"data.size=[{HEIGHT},{WIDTH}]", f"checkpoint={models}/dias", f"dynamics={models}/dynamics", "device=cpu")
    code, output = run("probe_contact", *words, "export=physion15", f"out_dir={tmp_path / 'probe'}")
    assert code == 0, output

    def features(folder: str) -> np.ndarray:
        with h5py.File(tmp_path / folder / "physion15/test_features.hdf5") as file:
            return np.asarray(file["features"][...])

    futures = features("rollout")
    assert np.array_equal(futures, features("probe"))
    assert np.array_equal(futures[:, :8], features("slots")[:, 1::2])
    assert features("tokens").shape == (16, 16, 3 * 64)


def test_missing_models_and_short_contexts_are_named(archive: Path, models: Path, tmp_path: Path) -> None:
    words = ("experiment=physion15", f"data.root={archive}", f"out_dir={tmp_path / 'out'}", "device=cpu")
    words += (f"data.size=[{HEIGHT},{WIDTH}]",)
    for others, message in (
        (("representation=slots",), "add checkpoint=<folder of a trained DIAS>"),
        (("representation=futures", f"checkpoint={models}/dias"), "add dynamics=<folder of a trained SlotFormer>"),
        (
            ("representation=futures", f"checkpoint={models}/dias", f"dynamics={models}/dynamics"),
            "4 frames are shown, the dyn",
        ),
        (("representation=slots", f"checkpoint={models}/dias", "data.task=null"), "data.task=predict"),
    ):
        code, output = run("probe_contact", *words, *others)
        assert code == 1
        assert message in sentence(output)
