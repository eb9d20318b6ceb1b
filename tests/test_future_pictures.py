"""Scores and GIFs of predicted masks, and the oracle's errors: which frame is compared with which."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from test_report import content, decoded
from torch import Tensor

from dias_video.batch import SlotSequence
from slotformer import futures, oracle
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.errors import RolloutErrors
from slotformer.rollouter import SlotFormer

BURN_IN, STRIDE, STEPS, SIZE = 2, 3, 4, (4, 5)
FRAMES = (BURN_IN + STEPS - 1) * STRIDE + 1  # raw: 0 and 3 are observed, 6, 9, 12 and 15 are the future
MODEL = {"burn_in": BURN_IN, "rollout": 2, "stride": STRIDE, "width": 8, "layers": 1, "heads": 2}


ERRORS = RolloutErrors(
    ["b", "a"],
    {"model": np.array([[9.0] * 4, [1, 2, np.nan, 4]]), "constant_velocity": np.full((2, 4), 1e6)},
    np.zeros(2, int),
    np.zeros(4, int),
)


def drawn(columns: Tensor) -> Tensor:
    """Masks (T,H,W): object 1 is the column that is named for a frame."""
    return (torch.arange(SIZE[1]) == columns[:, None, None]).expand(-1, *SIZE).int()


def column(frame: Tensor) -> Tensor:
    """Where the object really is at a raw frame: it moves one column every STRIDE frames."""
    return (frame // STRIDE) % SIZE[1]


class Videos:
    """The source: masks of the object at the frames asked for; 20 frames a second."""

    def seconds_shown(self, name: str, frames: range, fps: float) -> list[float]:
        return [frames.step / 20] * len(frames)

    def read(self, name: str, frames: range) -> dict[str, Any]:
        at = torch.tensor(list(frames))
        assert at.tolist() == list(range(0, FRAMES, STRIDE))
        grey = torch.zeros(len(at), 3, *SIZE, dtype=torch.uint8)
        return {"video": grey, "video_id": name, "frame_index": at, "masks": drawn(column(at)).short()}


@pytest.fixture(autouse=True)
def decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot's first channel tells the column that it is decoded to."""

    def decoded(dias: object, sequence: SlotSequence, size: tuple[int, int]) -> Tensor:
        assert size == SIZE
        return drawn(sequence.slots[0, :, 0, 0].round().long())

    monkeypatch.setattr(futures, "decode_labels", decoded)


@pytest.fixture
def cache(tmp_path: Path) -> SlotCache:
    """Two videos whose slots hold the true column at every frame, and one that is too short."""
    with SlotCacheWriter(tmp_path / "cache", dtype="fp32") as writer:
        for name, frames in (("a", FRAMES), ("b", FRAMES + 2), ("short", FRAMES - 1)):
            slots = column(torch.arange(frames))[:, None, None].expand(-1, 1, 3).float() + 0.1
            writer.write(name, slots, torch.ones(frames, 1, dtype=torch.bool))
    return SlotCache(tmp_path / "cache")


def foretold(path: Path, columns: tuple[int, ...]) -> SlotCache:
    """Predictions of the columns at the future frames."""
    about = {"burn_in": BURN_IN, "stride": STRIDE, "steps": STEPS, "start": 0}
    with SlotCacheWriter(path, dtype="fp32", **about) as writer:
        for name in ("a", "b", "short"):
            slots = torch.tensor(columns)[:, None, None].expand(-1, 1, 3).float()
            writer.write(name, slots, torch.ones(STEPS, 1, dtype=torch.bool))
    return SlotCache(path)


def test_every_predicted_frame_is_scored_against_its_own(cache: SlotCache, tmp_path: Path) -> None:
    """The truth is in columns 2, 3, 4, 0; one model is right at all steps, another at the second alone.

    Where a mask is wrong the object's 4 cells are best overlapped by the 16 of the predicted background.
    """
    both = [foretold(tmp_path / "0", (2, 3, 4, 0)), foretold(tmp_path / "1", (0, 3, 1, 2))]
    about = futures.report_futures(both, None, cache, Videos(), ERRORS, tmp_path, masks=9, gifs=1, fps=3)
    assert about["masks_of_videos"] == 2  # the short one has no true future
    with (tmp_path / "mask_scores.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["encoded_mbo"] for row in rows] == [1, 1, 1, 1]
    assert [row["model_mbo"] for row in rows] == [0.625, 1, 0.625, 0.625]  # means of both
    assert [row["model_mbo_std"] for row in rows] == pytest.approx([0.75 / 2**0.5, 0, *[0.75 / 2**0.5] * 2], abs=1e-5)
    assert [row["repeat_last_mbo"] for row in rows] == [0.25] * 4  # it stays in column 1
    whole = about["masks"]["model_video_mbo"]
    second = 12 / (64 + 16 - 12)  # of all frames at once, the background's again
    assert whole["mean"] == pytest.approx((1 + second) / 2)
    assert whole["std"] == pytest.approx((1 - second) / 2**0.5)
    (gif,) = tmp_path.glob("gifs/*.gif")
    assert gif.name == "a.gif"
    assert len(iio.imread(gif, index=None)) == BURN_IN + STEPS


def test_the_page_has_observed_true_and_predicted_with_the_error_of_its_frame(cache: SlotCache, tmp_path: Path) -> None:
    both = [foretold(tmp_path / "0", (2, 4, 3, 0)), foretold(tmp_path / "1", (0, 3, 1, 2))]
    futures.report_futures(both, None, cache, Videos(), ERRORS, tmp_path, masks=0, gifs=1, fps=3)
    ((video,),) = [group["videos"] for group in content(tmp_path / "report.html")]
    assert (video["name"], video["headline"], video["total"]) == ("a", "error at the end 4.000", BURN_IN + STEPS)
    assert video["fps"] == pytest.approx(20 / STRIDE)
    _, observed, true, predicted = video["panels"]
    assert [panel["title"] for panel in video["panels"][1:]] == ["observed", "true future", "predicted"]
    assert (observed["hold"], predicted["blank"]) == (BURN_IN, BURN_IN)
    for panel, columns in ((true, (0, 1, 2, 3, 4, 0)), (predicted, (0, 1, 2, 4, 3, 0))):
        for at, where in enumerate(columns):
            labels = np.array(panel["ids"])[decoded(panel["labels"][at])].reshape(SIZE)
            assert (labels == drawn(torch.tensor([where]))[0].numpy()).all()
    (curve,) = video["curve"]["series"]
    assert (curve["name"], curve["values"]) == ("model", [None, None, 1, 2, None, 4])
    assert video["tracks"][1]["alive"] == BURN_IN + STEPS
    assert video["tracks"][1]["switches"] == 0


def test_the_last_observed_frame_is_the_one_repeated(cache: SlotCache, tmp_path: Path) -> None:
    video = cache.read("a", 0, FRAMES, STRIDE)
    future = foretold(tmp_path / "0", (2, 3, 4, 0)).read("a")
    labels = futures.labels_of(None, video, future, SIZE)
    assert torch.equal(labels["repeat_last"], drawn(torch.tensor([1, 1, 1, 1])))
    assert torch.equal(labels["encoded"], drawn(torch.tensor([0, 1, 2, 3, 4, 0])))


def test_the_oracle_is_compared_with_the_same_frames(
    monkeypatch: pytest.MonkeyPatch, cache: SlotCache, tmp_path: Path
) -> None:
    """It encodes from the last observed frame on; were its slots those of the cache, it would make no error."""

    def anew(dias: object, cache: SlotCache, source: object, name: str, frames: range) -> Tensor:
        assert list(frames) == list(range((BURN_IN - 1) * STRIDE, FRAMES))
        return cache.read(name).slots[0, list(frames)]

    monkeypatch.setattr(oracle, "encode_anew", anew)
    errors = oracle.oracle_errors(SlotFormer(3, **MODEL), None, cache, None, ["b", "a"], STEPS, 0)
    assert errors.shape == (2, STEPS)
    assert np.allclose(errors, 0)


def test_videos_to_look_at_are_spread_over_scenarios(tmp_path: Path) -> None:
    """Each scenario's as evenly as it goes, in its order; a scenario with few gives all it has."""
    names = {"drop": [f"a{n}" for n in range(9)], "link": ["b0"], "roll": [f"c{n}" for n in range(5)]}
    with SlotCacheWriter(tmp_path / "cache", scenarios=list(names)) as writer:
        for scenario, videos in names.items():
            for name in videos:
                writer.write(name, torch.ones(2, 1, 3), torch.ones(2, 1).bool(), scenario=scenario)
    cache = SlotCache(tmp_path / "cache")
    assert futures.spread(cache, cache.video_ids, 7) == ["a0", "a4", "a8", "b0", "c0", "c2", "c4"]
    assert futures.spread(cache, cache.video_ids, 2) == ["a0", "b0"]
    assert futures.spread(cache, cache.video_ids, 99) == list(cache.video_ids)
    assert futures.spread(cache, cache.video_ids, 0) == futures.spread(cache, [], 3) == []


@pytest.mark.parametrize(("masks", "gifs"), [(1, 2), (2, 0), (0, 1)])
def test_as_many_are_scored_and_drawn_as_asked_for(cache: SlotCache, tmp_path: Path, masks: int, gifs: int) -> None:
    future = [foretold(tmp_path / "0", (2, 3, 4, 0))]
    about = futures.report_futures(future, None, cache, Videos(), ERRORS, tmp_path, masks=masks, gifs=gifs, fps=3)
    assert about["masks_of_videos"] == masks
    assert len(list(tmp_path.glob("gifs/*.gif"))) == gifs
    assert (tmp_path / "mask_scores.csv").exists() == (masks > 0)
