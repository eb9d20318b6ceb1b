"""Errors over several models, batches and whole caches, and what is watched of them while a dynamics model trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_script_options import run, sentence
from toy_slots import toy_cache

from slotformer.batch import slot_statistics
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.errors import RolloutErrors, over_models
from slotformer.prediction import cache_errors, known_futures, validate_rollouts
from slotformer.rollouter import SlotFormer
from slotformer.statistics import ratio_interval

NAN = float("nan")
SIZE = {"burn_in": 3, "rollout": 2, "stride": 2, "width": 8, "layers": 1, "heads": 2}


def of_model(model: list[list[float]]) -> RolloutErrors:
    """Three videos, two steps; on the last video nothing is scored at the second step."""
    errors = {
        "model": model,
        "repeat_last": [[0.4, 0.5], [0.6, 1.5], [0.8, NAN]],
        "constant_velocity": [[1.0, 2.0], [3.0, 4.0], [5.0, NAN]],
        "oracle": [[0.1, NAN], [0.3, NAN], [NAN, NAN]],  # of two videos at the first step
    }
    values = {name: np.array(value) for name, value in errors.items()}
    return RolloutErrors(["a", "b", "c"], values, np.zeros(3, int), np.array([9, 5]))


def test_several_models_by_hand() -> None:
    one, other = of_model([[0.1, 0.3], [0.2, 0.5], [0.6, NAN]]), of_model([[0.3, 0.1], [0.4, 0.3], [0.8, NAN]])
    first, second = over_models([one, other])
    assert first["model"] == pytest.approx(0.4)  # of 0.3 and 0.5
    assert first["model_std"] == pytest.approx(0.2 / 2**0.5)
    assert first["model_relative"] == pytest.approx(0.4 / 0.6)
    assert first["model_relative_std"] == pytest.approx(0.2 / 0.6 / 2**0.5)
    assert first["oracle"] == pytest.approx(0.2)
    assert first["oracle_relative"] == pytest.approx(0.2 / 0.5)  # on its own two videos
    assert second["model"] == pytest.approx(0.3)  # of 0.4 and 0.2, each over two videos
    assert second["model_relative"] == pytest.approx(0.3)
    assert np.isnan(second["oracle"])
    assert [(row["step"], row["videos"], row["scored_slots"]) for row in (first, second)] == [(1, 3, 9), (2, 2, 5)]
    assert over_models([one])[0]["model_std"] == 0


def test_a_ratio_is_over_videos_where_both_are_known() -> None:
    assert ratio_interval(np.array([1.0, 2.0, NAN]), np.array([NAN, 4.0, 9.0])).tolist() == [0.5, 0.5, 0.5]
    assert np.isnan(ratio_interval(np.array([1.0, NAN]), np.array([NAN, 4.0]))).all()


def test_intervals_are_those_of_a_loop_over_draws_and_columns() -> None:
    generator = np.random.default_rng(1)
    values, others = generator.random((2, 40, 3, 2))
    values[generator.random(values.shape) < 0.4] = NAN  # other videos in every column
    values[:, 2, 1] = NAN
    draws = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), 500)
    found = ratio_interval(values, others, level=0.8, seed=7, samples=500)
    assert found.shape == (3, 3, 2)
    for step, column in np.ndindex(3, 2):
        one, other = values[:, step, column], others[:, step, column]
        known = np.isfinite(one)
        if not known.any():
            assert np.isnan(found[:, step, column]).all()
            continue
        ratios = [np.repeat(one, draw * known).sum() / np.repeat(other, draw * known).sum() for draw in draws]
        expected = [one[known].mean() / other[known].mean(), *np.quantile(ratios, [0.1, 0.9])]
        assert found[:, step, column] == pytest.approx(expected)
        alone = ratio_interval(one, other, level=0.8, seed=7, samples=500)
        assert alone == pytest.approx(found[:, step, column])


def write(path: Path, lengths: tuple[int, ...]) -> SlotCache:
    """Videos of those lengths; every slot of the n-th is n."""
    with SlotCacheWriter(path, dtype="fp32") as writer:
        for number, frames in enumerate(lengths):
            writer.write(f"v{number}", torch.full((frames, 2, 4), float(number)), torch.ones(frames, 2).bool())
    return SlotCache(path)


def test_how_much_is_known_of_a_video_after_the_context(tmp_path: Path) -> None:
    model = SlotFormer(4, **SIZE)
    cache = write(tmp_path / "a", (6, 13, 9, 2))
    assert known_futures(cache, model).tolist() == [0, 4, 2, 0]  # of 9: 0 2 4 | 6 8
    assert known_futures(cache, model, start=2).tolist() == [0, 3, 1, 0]  # of 9: 2 4 6 | 8
    assert known_futures(cache, model, start=20, needed=False).tolist() == [0] * 4
    with pytest.raises(ValueError, match="no video is longer than the 3 frames of context, 2 apart"):
        known_futures(write(tmp_path / "b", (6, 5)), model)


@pytest.mark.parametrize(("many", "one", "scored"), [(15, 7, [11, 10]), (7, 15, [11, 1])])
def test_one_video_of_another_length_decides_nothing(tmp_path: Path, many: int, one: int, scored: list[int]) -> None:
    """Neither the step that is watched nor an error of the others; every step counts its videos."""
    plain = toy_cache(tmp_path / "plain", 10, num_frames=many)
    with SlotCacheWriter(tmp_path / "mixed", dtype="fp32") as writer:
        for name in plain.video_ids:
            writer.write(name, plain.read(name).slots[0], plain.read(name).live[0])
        writer.write("odd", torch.randn(one, 4, plain.slot_dim), torch.ones(one, 4).bool())
    mixed = SlotCache(tmp_path / "mixed")
    torch.manual_seed(0)
    model = SlotFormer(plain.slot_dim, **SIZE).eval()
    steps = 2 if many == 15 else 1
    alone, found = cache_errors(model, plain, steps), cache_errors(model, mixed, 2, batch_size=3)
    assert found.video_id == ["odd", *alone.video_id]
    for name, values in alone.errors.items():
        assert np.allclose(found.errors[name][1:, :steps], values, rtol=1e-4)
    rows = found.table()
    assert [row["videos"] for row in rows] == scored
    watched = validate_rollouts(model, 8, mixed)["val/relative_error"]
    assert watched == pytest.approx(rows[steps - 1]["model_relative"], rel=1e-4)


def test_statistics_come_from_all_over_the_cache(tmp_path: Path) -> None:
    cache = write(tmp_path / "c", (2, 2, 2, 2, 2, 2))
    assert slot_statistics(cache)[0].tolist() == [2.5] * 4
    assert slot_statistics(cache, max_videos=3)[0].tolist() == pytest.approx([7 / 3] * 4)  # videos 0, 2 and 5


@pytest.mark.parametrize(("frames", "steps"), [(15, 2), (7, 1)])
def test_what_is_watched_is_the_error_at_the_end_of_a_training_rollout(tmp_path: Path, frames: int, steps: int) -> None:
    """Or of the longest that the videos allow."""
    cache = toy_cache(tmp_path / "cache", 5, num_frames=frames)
    torch.manual_seed(0)
    model = SlotFormer(cache.slot_dim, **SIZE).eval()
    found = validate_rollouts(model, 8, cache)
    errors = cache_errors(model, cache, steps).errors
    last = {name: errors[name][:, steps - 1].mean() for name in ("model", "repeat_last")}
    assert found == pytest.approx(
        {"val/error": last["model"], "val/relative_error": last["model"] / last["repeat_last"]}
    )
    assert last["repeat_last"] != pytest.approx(errors["constant_velocity"][:, steps - 1].mean())


def test_a_model_is_not_watched_on_another_encoders_slots(tmp_path: Path) -> None:
    """The other slots have the same width, so nothing else would tell."""
    for name, encoder in (("train", "a" * 64), ("same", "a" * 64), ("other", "b" * 64)):
        with SlotCacheWriter(tmp_path / name, dtype="fp32", checkpoint_sha256=encoder) as writer:
            for video in range(2):
                writer.write(str(video), torch.randn(9, 3, 4), torch.ones(9, 3, dtype=torch.bool))
    words = ("slotformer=tiny", "slotformer.width=8", "slotformer.heads=2", "slotformer.burn_in=2", "max_steps=1")
    words += ("slotformer.rollout=2", "slotformer.stride=1", "trainer.num_workers=0", "trainer.batch_size=2")
    given = (*words, f"cache={tmp_path}/train", f"out_dir={tmp_path}/run")
    code, output = run("train_slotformer", *given, f"val_cache={tmp_path}/other")
    assert code == 1
    assert "was made by DIAS checkpoint bbbbbbbbbbbb" in sentence(output)
    code, output = run("train_slotformer", *given, f"val_cache={tmp_path}/same")
    assert code == 0, output
