"""One loop: every way to a video's slots gives the same ones, alone or with others, in any windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import HEIGHT, WIDTH, clips, tiny_dias

from dias_video.batch import SlotSequence
from dias_video.data.features import FeatureCache, cache_features
from dias_video.data.source import VideoInfo
from dias_video.data.transforms import ClipTransform
from dias_video.data.windows import video_windows
from dias_video.draws import Draws
from dias_video.evaluation.baselines import KMeans
from dias_video.evaluation.methods import BatchMethod, ModelTracks
from dias_video.evaluation.scoring import Videos, score_methods
from dias_video.model.dias import DIAS
from dias_video.tracking import track_videos, track_windows
from dias_video.visualize import overlay, tracked_pictures

LENGTHS = (5, 5, 3, 5, 5, 5)


class Random:
    """Videos of noise, most of one length, with different numbers of boxes."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(f"video{index}", LENGTHS[index])

    def read(self, index: int, frames, keys=None) -> dict:
        generator = torch.Generator().manual_seed(index)
        boxes = torch.rand(LENGTHS[index], 1 + index, 2, 2, generator=generator).sort(-2).values.flatten(-2)
        video = torch.randint(0, 256, (LENGTHS[index], 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
        masks = torch.randint(0, 3, (LENGTHS[index], HEIGHT, WIDTH), generator=generator, dtype=torch.int16)
        return {
            "video": video[list(frames)],
            "video_id": f"video{index}",
            "frame_index": torch.tensor(list(frames)),
            "masks": masks[list(frames)],
            "boxes": boxes[list(frames)],
            "box_valid": torch.ones(len(frames), 1 + index, dtype=torch.bool),
        }


@pytest.mark.parametrize("follow_edges", [False, True])
@pytest.mark.parametrize("boxes", [False, True])
def test_a_batch_of_videos_is_tracked_as_each_alone(boxes: bool, follow_edges: bool) -> None:
    method = ModelTracks(tiny_dias(boxes, threshold=0.4).eval(), boxes, window=2, follow_edges=follow_edges)
    samples = [Random().read(index, range(5)) for index in (5, 0, 3)]
    for found, sample in zip(method.batch(samples), samples, strict=True):
        given = (sample["boxes"][0], sample["box_valid"][0]) if boxes else (None, None)
        options = {"video_id": sample["video_id"], "window": 3, "follow_edges": follow_edges}
        alone = method.model.track(sample["video"], *given, **options).labels[0]
        assert found.shape == alone.shape == (5, HEIGHT, WIDTH)
        assert len(alone.unique()) > 1
        assert (found == alone).float().mean() > 0.99  # rounding may tip a pixel between two slots


def slots_through_every_entry(dias: DIAS, index: int, window: int, seed: int) -> dict[str, SlotSequence]:
    """One video of ``Random`` alone, by all ways to its slots."""
    sample, options = Random().read(index, range(LENGTHS[index])), {"seed": seed, "labels": True}
    given = (sample["boxes"][0], sample["box_valid"][0]) if dias.takes_boxes else ()
    (cached,) = track_videos(dias, video_windows(Random(), [index], window=window), **options)
    in_windows = list(track_windows(dias, video_windows(Random(), [index], window=window), **options))
    evaluated = ModelTracks(dias, dias.takes_boxes, window, seed)(sample)
    return {
        "DIAS.track": dias.track(sample["video"], *given, video_id=sample["video_id"], window=window, seed=seed),
        "cache": cached,
        "pictures": SlotSequence.joined([sequence for _, sequence in in_windows]),
        "evaluation": replace(cached, labels=evaluated[None]),
    }


@pytest.mark.parametrize("boxes", [False, True])
def test_every_entry_gives_the_same_slots_bit_for_bit(boxes: bool) -> None:
    dias = tiny_dias(boxes, threshold=0.4)
    found = slots_through_every_entry(dias, 3, window=2, seed=7)
    first = found["DIAS.track"]
    for name, other in found.items():
        for field in ("slots", "live", "track_id", "attention", "labels"):
            assert torch.equal(getattr(first, field), getattr(other, field)), (name, field)
    together = track_videos(dias, video_windows(Random(), [0, 1, 3], window=3, batch_size=3), seed=7)
    row = next(sequence.slots[sequence.video_id.index("video3")] for sequence in together)
    torch.testing.assert_close(row, first.slots[0], atol=1e-4, rtol=0)  # another window and batch
    video = Random().read(3, range(5))["video"]
    if not boxes:  # whose noise is also in the queries of the first frame
        for other in (dias.track(video, video_id="video3", seed=8), dias.track(video, video_id="another", seed=7)):
            assert not torch.allclose(other.slots[0], first.slots[0], atol=1e-2)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_in_its_mode(training: bool) -> None:
    dias = tiny_dias().train(training)
    video = Random().read(0, range(5))["video"]
    dias.track(video)
    assert dias.training is dias.aggregator.training is training
    windows = track_windows(dias, video_windows(Random(), [0], window=2))
    next(windows)
    windows.close()  # given up on halfway
    assert dias.training is training


def test_boxes_for_a_model_that_takes_none_are_refused() -> None:
    sample = Random().read(1, range(3))
    for boxes in (sample["boxes"][0], torch.zeros(0, 4)):
        with pytest.raises(ValueError, match="takes no boxes"):
            tiny_dias().track(sample["video"], boxes)
    with pytest.raises(ValueError, match="takes no boxes"):
        list(track_windows(tiny_dias(), video_windows(Random(), [1]), boxes=True))


def test_boxes_are_given_where_they_are_wanted_and_there() -> None:
    dias, windows = tiny_dias(boxes=True), [video_windows(Random(), [1]) for _ in range(3)]
    given, default, left_out = (
        next(track_videos(dias, some, boxes=boxes)).slots
        for some, boxes in zip(windows, (True, None, False), strict=True)
    )
    assert torch.equal(given, default)
    assert not torch.allclose(given, left_out)
    without = [replace(window, boxes=None, box_valid=None) for window in video_windows(Random(), [1])]
    with pytest.raises(ValueError, match="video1 has no boxes; set boxes=false"):
        list(track_windows(dias, without, boxes=True))
    assert torch.equal(next(track_videos(dias, without)).slots, left_out)


def test_a_rehearsal_is_the_end_of_a_video_that_goes_forth_and_back_and_forth() -> None:
    dias = tiny_dias(threshold=None, carry="persist").eval()  # with reduction slots merge between the two
    video = Random().read(0, range(5))["video"]
    palindrome = dias.track(torch.cat([video, video.flip(0), video]), video_id="video0", window=15)
    rehearsed = dias.track(video, video_id="video0", window=5, rehearse=True)
    assert torch.allclose(rehearsed.slots, palindrome.slots[:, 10:], atol=1e-5)
    assert torch.equal(rehearsed.track_id, palindrome.track_id[:, 10:])
    assert not torch.allclose(rehearsed.slots[:, 0], dias.track(video, video_id="video0").slots[:, 0], atol=1e-2)
    sample = Random().read(0, range(5))
    for method in (ModelTracks(dias, False, rehearse=True), ModelTracks(dias, False, window=5, rehearse=True)):
        assert (method(sample) == rehearsed.labels[0]).float().mean() > 0.99
    short = dias.track(video, window=2, rehearse=True)  # only the first window is rehearsed
    begun = dias.track(torch.cat([video[:2], video[:2].flip(0), video]), window=9)
    assert torch.allclose(short.slots, begun.slots[:, 4:], atol=1e-5)


def test_masks_follow_edges_the_same_way_wherever_they_are_asked_to() -> None:
    dias, sample = tiny_dias(threshold=0.4).eval(), Random().read(0, range(5))
    options = {"video_id": sample["video_id"], "window": 3}
    rough, fine = (dias.track(sample["video"], **options, follow_edges=follow).labels[0] for follow in (False, True))
    assert (rough != fine).float().mean() > 0.05
    method = ModelTracks(dias, False, window=2, follow_edges=True)
    assert method.mask_source == "decoder, following edges"
    assert (method(sample) == fine).float().mean() > 0.99
    tracked = track_windows(dias, video_windows(Random(), [0]), labels=True, follow_edges=True)
    (piece,) = tracked_pictures(tracked)
    at_once = dias.track(sample["video"], video_id=sample["video_id"], follow_edges=True).labels[0]
    assert torch.equal(piece[:, -HEIGHT:, WIDTH:], overlay(sample["video"], at_once))


def test_there_is_nothing_to_rehearse_with_boxes() -> None:
    sample = Random().read(1, range(3))
    with pytest.raises(ValueError, match="nothing to rehearse"):
        ModelTracks(tiny_dias(boxes=True), True, rehearse=True)(sample)


def test_clips_of_several_lengths_are_not_rehearsed_together() -> None:
    batch = clips(frames=4)
    batch.frame_valid[1, 3] = False
    with pytest.raises(ValueError, match="encode those of one length at once"):
        tiny_dias().encode(batch, Draws.for_videos(0, batch.video_id), rehearse=True)


def test_cached_features_take_the_encoders_place(tmp_path: Path) -> None:
    dias = tiny_dias(boxes=True, threshold=0.4).eval()
    methods = {"model": ModelTracks(dias, True, window=2), "kmeans": KMeans(dias.encoder, 4, boxes=True, window=2)}
    live = score_methods(methods, Videos(Random()), batch_size=3)
    transform = ClipTransform(size=(HEIGHT, WIDTH))
    cache_features(dias.encoder, Random(), tmp_path, transform, flips=True, batch_frames=4, device="cpu")

    def broken(video):
        raise AssertionError("the encoder ran")

    dias.encoder.features = broken
    cached = score_methods(methods, Videos(Random(), transform, features=FeatureCache(tmp_path)), batch_size=3)
    for name in methods:
        for measure in ("video-fg/fg_ari", "ocb/mbo"):  # features are stored in half precision
            torch.testing.assert_close(cached[name].column(measure), live[name].column(measure), atol=0.03, rtol=0)
    mirror = ClipTransform(size=(HEIGHT, WIDTH), flip=1.0)
    for shown in (transform, mirror):
        options = {"transform": shown, "window": 2, "batch_size": 3}
        dias.encoder.features = broken
        stored = video_windows(Random(), [5, 2, 0], features=FeatureCache(tmp_path), **options)
        seen = list(track_videos(dias, stored))
        del dias.encoder.features  # the method of the class again
        for one, other in zip(seen, track_videos(dias, video_windows(Random(), [5, 2, 0], **options)), strict=True):
            assert one.video_id == other.video_id
            torch.testing.assert_close(one.slots, other.slots, atol=0.02, rtol=0)
        sample = Videos(Random(), shown, features=FeatureCache(tmp_path))[1]
        torch.testing.assert_close(
            sample["features"], dias.encoder.features(sample["video"][None])[0], atol=0.02, rtol=0
        )
    short = Videos(Random(), transform, max_frames=3, features=FeatureCache(tmp_path))
    assert short[0]["features"].shape == (3, 6, 7)
    with pytest.raises(ValueError, match="the transform makes"):
        Videos(Random(), ClipTransform(size=(HEIGHT, HEIGHT)), features=FeatureCache(tmp_path))
    with pytest.raises(ValueError, match="the transform makes"):
        video_windows(Random(), [0], ClipTransform(size=(HEIGHT, HEIGHT)), features=FeatureCache(tmp_path))


def test_scores_do_not_depend_on_the_batch() -> None:
    method = ModelTracks(tiny_dias(threshold=0.4).eval(), boxes=False)
    assert isinstance(method, BatchMethod)
    sizes = []

    class Watched(ModelTracks):
        def batch(self, samples):
            sizes.append(len(samples))
            return super().batch(samples)

    rows = []
    for size in (1, 2, 8):
        watched = Watched(method.model, boxes=False)
        scores = score_methods({"model": watched}, Videos(Random()), batch_size=size)["model"]
        rows.append([[scores.rows[i][name] for name in scores.columns] for i in range(len(LENGTHS))])
    assert sizes == [1] * 6 + [2, 1, 2, 1] + [2, 1, 3]
    for other in rows[1:]:
        torch.testing.assert_close(torch.tensor(other), torch.tensor(rows[0]), atol=1e-4, rtol=0, equal_nan=True)
