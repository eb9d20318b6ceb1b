"""The two baselines on videos whose answer is known, and the model as a method."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dias_video.data.boxes import boxes_from_masks
from dias_video.draws import Draws
from dias_video.evaluation.baselines import FixedBoxes, KMeans
from dias_video.evaluation.methods import ModelTracks
from dias_video.evaluation.metrics import adjusted_rand_index
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.clusters import kmeans, squared_distances
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.dias import DIAS
from dias_video.model.initializers import BoxInitializer, GaussianInitializer
from dias_video.model.projection import Projection
from dias_video.model.reduction import Merging
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.model.transition import Transition


class Colours(nn.Module):
    """Features = mean colour of each 4 x 4 cell, turned into directions of 5 dimensions."""

    grid = (5, 8)

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))

    def features(self, video: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(video[0].float() / 255, 4)  # (T,3,h,w)
        return (cells.flatten(2).transpose(1, 2) @ self.mixing)[None]


def coloured_video(num_frames: int = 6) -> dict:
    """Three coloured rectangles, the first of which moves, on a fourth colour."""
    masks = torch.zeros(num_frames, 20, 32, dtype=torch.int16)
    for t in range(num_frames):
        masks[t, 4:12, 2 * t : 2 * t + 8] = 1
        masks[t, 12:20, 24:32] = 2
        masks[t, 0:4, 20:32] = 3
    palette = torch.tensor([[20, 20, 20], [220, 20, 10], [10, 200, 30], [40, 30, 250]], dtype=torch.uint8)
    boxes, valid = boxes_from_masks(masks, 4)
    video = palette[masks.long()].permute(0, 3, 1, 2)
    return {
        "video": video,
        "video_id": "v",
        "frame_index": torch.arange(len(video)),
        "masks": masks,
        "boxes": boxes,
        "box_valid": valid,
    }


def test_fixed_boxes_hold_the_first_frame() -> None:
    sample = coloured_video()
    maps = FixedBoxes()(sample)
    assert maps.shape == sample["masks"].shape
    assert torch.equal(maps[0], sample["masks"][0].long())  # rectangles: their boxes are the masks
    assert all(torch.equal(frame, maps[0]) for frame in maps)


def test_small_boxes_lie_on_large_ones() -> None:
    boxes = torch.tensor([[[0.25, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.75, 0.5], [0.0, 0.0, 0.1, 0.1]]])
    valid = torch.tensor([[True, True, True, False]])
    sample = {"video": torch.zeros(1, 3, 4, 8, dtype=torch.uint8), "video_id": "v", "boxes": boxes, "box_valid": valid}
    top = [3, 3, 1, 1, 3, 3, 2, 2]
    assert FixedBoxes()(sample)[0].tolist() == [top, top, [2] * 8, [2] * 8]
    with pytest.raises(ValueError, match="v has no boxes"):
        FixedBoxes()({**sample, "boxes": None})


def test_kmeans_finds_colours_as_tracks() -> None:
    sample = coloured_video(8)
    maps = KMeans(Colours(), num_slots=9, boxes=True, window=3)(sample)
    assert maps.shape == sample["masks"].shape
    assert set(maps.unique().tolist()) <= {0, 1, 2, 3}  # three boxes are valid, and the background
    assert adjusted_rand_index(maps[None], sample["masks"][None]).item() > 0.6
    assert torch.equal(maps, KMeans(Colours(), 9, boxes=True, window=8)(sample))
    assert len(KMeans(Colours(), 6, boxes=False)(sample).unique()) > 4
    features = Colours().features(sample["video"][None])[0]
    length = torch.rand(len(features), features.shape[1], 1, generator=torch.Generator().manual_seed(2)) + 0.1
    cached = {**sample, "features": features * length}  # of any length: only directions count
    assert (KMeans(Colours(), 9, boxes=True)(cached) == maps).float().mean() > 0.99


def test_clusters_follow_edges_if_asked() -> None:
    sample = coloured_video(8)
    rough, fine = (KMeans(Colours(), 9, boxes=True, follow_edges=follow) for follow in (False, True))
    scores = [adjusted_rand_index(method(sample)[None], sample["masks"][None]).item() for method in (rough, fine)]
    assert scores[1] > scores[0] + 0.1
    assert fine.mask_source == rough.mask_source + ", following edges"


def test_kmeans_finds_groups_and_depends_on_draws_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    middle = torch.randn(5, 7, generator=generator) * 9
    points = (middle[:, None] + torch.randn(5, 40, 7, generator=generator)).flatten(0, 1)
    centres = kmeans(points, 5, Draws.for_videos(0, ["a"]))
    means = points.view(5, 40, 7).mean(1)
    nearest = squared_distances(means, centres).argmin(1)
    assert sorted(nearest.tolist()) == list(range(5))
    torch.testing.assert_close(centres[nearest], means)
    assert torch.equal(centres, kmeans(points, 5, Draws.for_videos(0, ["a"])))
    others = [kmeans(points, 9, Draws.for_videos(0, [name]), restarts=1) for name in "ab"]
    assert not torch.equal(*others)


@pytest.mark.filterwarnings("error")
def test_kmeans_of_fewer_points_or_colours_than_clusters() -> None:
    assert torch.equal(kmeans(torch.ones(6, 2), 4, Draws.for_videos(0, ["a"])), torch.ones(4, 2))
    two = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert sorted(kmeans(two, 4, Draws.for_videos(0, ["a"])).tolist()) == two.tolist()


def small_model(initializer: nn.Module) -> DIAS:
    attention = SlotAttention(slot_dim=16, token_dim=16)
    return DIAS(
        TinyEncoder(feature_dim=12, input_size=[32, 64], weights="random"),
        Projection(12, 16),
        initializer,
        Aggregator(attention, Merging(0.12)),
        Transition(16),
        MLPDecoder(feature_dim=12, slot_dim=16, num_tokens=32, hidden=24),
    ).eval()


def test_the_model_is_a_method() -> None:
    torch.manual_seed(0)
    sample = coloured_video(5)
    with_boxes = ModelTracks(small_model(BoxInitializer(5, 16)), boxes=True)
    maps = with_boxes(sample)
    assert maps.shape == sample["masks"].shape
    assert with_boxes.mask_source == "decoder"
    moved = {**sample, "boxes": sample["boxes"].flip(-1)}
    assert not torch.equal(maps, with_boxes(moved))  # it does look at them
    with pytest.raises(ValueError, match="takes no boxes"):
        ModelTracks(small_model(GaussianInitializer(5, 16)), boxes=True)
    with pytest.raises(ValueError, match="no boxes"):
        with_boxes({**sample, "boxes": None})
