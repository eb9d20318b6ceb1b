"""Videos that are tracked together come out as each does alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import HEIGHT, WIDTH, clips, tiny_dias

from dias_video.data.features import FeatureCache, cache_features
from dias_video.data.source import VideoInfo
from dias_video.data.transforms import ClipTransform
from dias_video.draws import Draws
from dias_video.evaluation.baselines import KMeans
from dias_video.evaluation.methods import BatchMethod, ModelTracks
from dias_video.evaluation.scoring import Videos, evaluate
from dias_video.stores.store import build_index
from dias_video.tracking import encode_videos
from dias_video.visualize import overlay, tracked_pieces

LENGTHS = (5, 5, 3, 5, 5, 5)


class Random:
    """Videos of noise, most of one length, with different numbers of boxes."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(f"video{index}", LENGTHS[index])

    def read(self, index: int, frames) -> dict:
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
        alone = method.model.track(sample["video"], *given, window=3, follow_edges=follow_edges).masks
        assert found.shape == alone.shape == (5, HEIGHT, WIDTH)
        assert len(alone.unique()) > 1
        assert (found == alone).float().mean() > 0.99  # rounding may tip a pixel between two slots


def test_a_rehearsal_is_the_end_of_a_video_that_goes_forth_and_back_and_forth() -> None:
    dias = tiny_dias(threshold=None, carry="persist").eval()  # with reduction slots merge between the two
    video = Random().read(0, range(5))["video"]
    palindrome = dias.track(torch.cat([video, video.flip(0), video]), window=15)
    rehearsed = dias.track(video, window=5, rehearse=True)
    assert torch.allclose(rehearsed.slots, palindrome.slots[10:], atol=1e-5)
    assert torch.equal(rehearsed.track_ids, palindrome.track_ids[10:])
    assert not torch.allclose(rehearsed.slots[0], dias.track(video).slots[0], atol=1e-2)
    sample = Random().read(0, range(5))
    for method in (ModelTracks(dias, False, rehearse=True), ModelTracks(dias, False, window=5, rehearse=True)):
        assert (method(sample) == rehearsed.masks).float().mean() > 0.99
    short = dias.track(video, window=2, rehearse=True)  # only the first window is rehearsed
    begun = dias.track(torch.cat([video[:2], video[:2].flip(0), video]), window=9)
    assert torch.allclose(short.slots, begun.slots[4:], atol=1e-5)


def test_masks_follow_edges_the_same_way_wherever_they_are_asked_to() -> None:
    dias, sample = tiny_dias(threshold=0.4).eval(), Random().read(0, range(5))
    rough, fine = (dias.track(sample["video"], window=3, follow_edges=follow).masks for follow in (False, True))
    assert (rough != fine).float().mean() > 0.05
    method = ModelTracks(dias, False, window=2, follow_edges=True)
    assert method.mask_source == "decoder, following edges"
    assert (method(sample) == fine).float().mean() > 0.99
    (piece,) = tracked_pieces(dias, [sample["video"]], follow_edges=True)
    at_once = dias.track(sample["video"], follow_edges=True).masks
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
    live = evaluate(methods, Videos(Random()), batch_size=3)
    cache_features(dias.encoder, Random(), tmp_path, (HEIGHT, WIDTH), flips=True, batch_frames=4)
    build_index(tmp_path)

    def broken(video):
        raise AssertionError("the encoder ran")

    dias.encoder.features = broken
    transform = ClipTransform(size=(HEIGHT, WIDTH))
    cached = evaluate(methods, Videos(Random(), transform, features=FeatureCache(tmp_path)), batch_size=3)
    for name in methods:
        for measure in ("video-fg/fg_ari", "ocb/mbo"):  # features are stored in half precision
            torch.testing.assert_close(cached[name].column(measure), live[name].column(measure), atol=0.03, rtol=0)
    mirror = ClipTransform(size=(HEIGHT, WIDTH), flip=1.0)
    for shown in (transform, mirror):
        options = {"transform": shown, "window": 2, "batch_size": 3}
        dias.encoder.features = broken
        seen = list(encode_videos(dias, Random(), [5, 2, 0], features=FeatureCache(tmp_path), **options))
        del dias.encoder.features  # the method of the class again
        for one, other in zip(seen, encode_videos(dias, Random(), [5, 2, 0], **options), strict=True):
            assert one.info == other.info
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
        next(encode_videos(dias, Random(), [0], ClipTransform(size=(HEIGHT, HEIGHT)), features=FeatureCache(tmp_path)))


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
        scores = evaluate({"model": watched}, Videos(Random()), batch_size=size)["model"]
        rows.append([[scores.rows[i][name] for name in scores.columns] for i in range(len(LENGTHS))])
    assert sizes == [1] * 6 + [2, 1, 2, 1] + [2, 1, 3]
    for other in rows[1:]:
        torch.testing.assert_close(torch.tensor(other), torch.tensor(rows[0]), atol=1e-4, rtol=0, equal_nan=True)
