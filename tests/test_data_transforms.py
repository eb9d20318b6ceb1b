"""Transforms on frames that are not square: the picture, the masks and the boxes stay together."""

import numpy as np
import pytest
import torch
from data_files import assert_same
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop, v2

from dias_video.batch import resize_frames
from dias_video.data.boxes import boxes_from_masks
from dias_video.data.loading import generator_of
from dias_video.data.transforms import ATTEMPTS, ClipTransform, crop, flip, random_crop, resize

HEIGHT, WIDTH = 20, 36


def rectangles(masks_too: bool = True):
    """Two rectangles over three frames; the video shows exactly the masks."""
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.int16)
    for t in range(3):
        masks[t, 2:9, 5 + t : 15 + t] = 1
        masks[t, 12:18, 22:33] = 2
    masks[2][masks[2] == 2] = 0
    boxes, valid = boxes_from_masks(masks, 3)
    video = (masks * 100).to(torch.uint8)[:, None].expand(3, 3, HEIGHT, WIDTH)
    sample = {"video": video, "video_id": "v", "frame_index": torch.arange(3), "boxes": boxes, "box_valid": valid}
    return {**sample, "masks": masks} if masks_too else sample


def test_boxes_from_masks_by_hand():
    sample = rectangles()
    expected = torch.tensor([6 / WIDTH, 2 / HEIGHT, 16 / WIDTH, 9 / HEIGHT])
    torch.testing.assert_close(sample["boxes"][1, 0], expected)
    assert sample["box_valid"].tolist() == [[True, True, False], [True, True, False], [True, False, False]]
    assert not sample["boxes"][2, 1:].any()


def test_void_and_higher_ids_have_no_box():
    masks = torch.tensor([[[-1, 0, 7], [0, 1, 1]]], dtype=torch.int16)
    boxes, valid = boxes_from_masks(masks, 1)
    torch.testing.assert_close(boxes, torch.tensor([[[1 / 3, 0.5, 1.0, 1.0]]]))
    assert valid.all()


def test_a_crop_cuts_boxes_alike_with_and_without_masks():
    place = {"top": 4, "left": 8, "height": 12, "width": 18}
    with_masks, without = crop(rectangles(), **place), crop(rectangles(masks_too=False), **place)
    assert with_masks["video"].shape == (3, 3, 12, 18)
    torch.testing.assert_close(with_masks["boxes"], without["boxes"])  # rectangles: the clipped box is the tight box
    assert torch.equal(with_masks["box_valid"], without["box_valid"])
    torch.testing.assert_close(with_masks["boxes"][0, 0], torch.tensor([0, 0, 7 / 18, 5 / 12]))


def test_a_box_cropped_away_is_absent():
    cropped = crop(rectangles(masks_too=False), top=0, left=0, height=10, width=20)
    assert not cropped["box_valid"][:, 1].any()
    assert not cropped["boxes"][:, 1].any()


@pytest.mark.parametrize("size", [(224, 224), (256, 341), (16, 20), (33, 70)])
def test_frames_are_resized_as_the_release_does(size):
    video = torch.randint(0, 256, (2, 3, 40, 57), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    theirs = v2.Resize(size, v2.InterpolationMode.BILINEAR, antialias=True)(video)
    assert torch.equal(resize_frames(video, size), theirs)
    assert torch.equal(resize_frames(torch.stack([video, video]), size)[1], theirs)
    pillow = [
        Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR) for frame in video
    ]
    shown = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in pillow])
    assert (shown.int() - theirs.int()).abs().max() <= 1


def test_resized_masks_agree_with_the_picture_and_boxes():
    resized = resize(rectangles(), (40, 54))
    masks = resized["masks"]
    shown = (resized["video"][:, 0].float() / 100).round().to(torch.int16)
    assert (shown == masks).float().mean() > 0.97  # all but edges
    boxes, _ = boxes_from_masks(masks, 3)
    assert (boxes - resized["boxes"]).abs().max() <= 1 / 40
    assert resized["video"].dtype == torch.uint8


@pytest.mark.parametrize("size", [(7, 11), (20, 36), (33, 90)])
def test_masks_are_resized_to_the_nearest_pixel_centre(size):
    masks = torch.randint(-1, 9, (2, HEIGHT, WIDTH), dtype=torch.int16)
    sample = {"video": torch.zeros(2, 3, HEIGHT, WIDTH, dtype=torch.uint8), "masks": masks}
    expected = torch.nn.functional.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0]
    assert torch.equal(resize(sample, size)["masks"], expected.to(torch.int16))


def test_flip_twice_is_nothing_and_boxes_follow():
    sample = rectangles()
    once = flip(sample)
    boxes, valid = boxes_from_masks(once["masks"], 3)
    torch.testing.assert_close(once["boxes"], boxes)
    assert torch.equal(once["box_valid"], valid)
    twice = flip(once)
    assert torch.equal(twice["video"], sample["video"])
    torch.testing.assert_close(twice["boxes"], sample["boxes"])


SIZES = [(480, 640), (640, 480), (256, 256), (31, 90)]


@pytest.mark.parametrize("size", SIZES)
def test_random_crops_are_those_of_torchvision_measured_by_the_largest_square(size):
    """As the release does it: the areas asked of RandomResizedCrop are those of the square over that of the frame."""
    height, width = size
    square = min(size) ** 2
    ours = np.array([random_crop(size, (0.75, 1.0), (3 / 4, 4 / 3), uniform(draw)) for draw in range(3000)])
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    picture, scale = torch.zeros(1, height, width), [part * square / (height * width) for part in (0.75, 1.0)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = [RandomResizedCrop.get_params(picture, scale, [3 / 4, 4 / 3]) for _ in range(3000)]
    theirs = np.array(draws)
    for name, measure in {
        "area": lambda crops: crops[:, 2] * crops[:, 3] / square,
        "aspect": lambda crops: crops[:, 3] / crops[:, 2],
        "top": lambda crops: crops[:, 0] / height,
        "left": lambda crops: crops[:, 1] / width,
    }.items():
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3, name


def uniform(seed: int) -> list[float]:
    return np.random.default_rng(seed).random(2 + 2 * ATTEMPTS).tolist()


@pytest.mark.parametrize(
    ("size", "drawn", "expected"),
    [
        ((256, 256), 1.0, (0, 0, 256, 256)),  # the square itself
        ((200, 640), 0.0, (0, 186, 200, 267)),  # 4/3, not the frame's 3.2
        ((640, 200), 1.0, (186, 0, 267, 200)),  # 3/4
    ],
)
def test_where_no_crop_fits_the_largest_allowed_one_is_taken(size, drawn, expected):
    """As much as the square holds, but longer across the frame than that is: ten times drawn, it never fits."""
    assert random_crop(size, (1.0, 1.0), (3 / 4, 4 / 3), [0.5, 0.5, *[0.5, drawn] * ATTEMPTS]) == expected


@pytest.mark.parametrize(
    ("size", "kept"), [((480, 640), (0, 80, 480, 480)), ((640, 480), (80, 0, 480, 480)), ((5, 8), (0, 1, 5, 5))]
)
def test_the_largest_centred_square(size, kept):
    rows, columns = torch.arange(size[0])[:, None] % 251, torch.arange(size[1])[None] % 251
    video = torch.stack([rows.expand(size), columns.expand(size), rows * 0 + columns * 0])[None].to(torch.uint8)
    masks = torch.zeros(1, *size, dtype=torch.int16)
    top, left, height, width = kept
    masks[:, : top + height // 2, : left + width // 2] = 1  # reaches to the middle
    masks[:, -1:, -1:] = 2  # in a corner that is cut away unless the frame is square
    boxes, valid = boxes_from_masks(masks, 2)
    sample = {"video": video, "masks": masks, "boxes": boxes, "box_valid": valid, "video_id": "v"}
    out = ClipTransform(square=True)(sample, generator_of(0))
    assert torch.equal(out["video"], video[..., top : top + height, left : left + width])
    assert torch.equal(out["masks"], masks[..., top : top + height, left : left + width])
    edges = [0, 0, (width // 2) / width, (height // 2) / height]
    torch.testing.assert_close(out["boxes"][0, 0], torch.tensor(edges))
    assert out["box_valid"].tolist() == [[True, False]]
    assert not out["boxes"][0, 1].any()


def test_random_crops_are_one_for_the_clip():
    sample = rectangles()
    sample["video"] = torch.arange(HEIGHT * WIDTH).view(1, 1, HEIGHT, WIDTH).expand(3, 3, HEIGHT, WIDTH)
    shapes = set()
    transform = ClipTransform(crop_area=(0.75, 1.0), crop_ratio=(0.8, 1.25))
    for draw in range(100):
        out = transform(sample, generator_of(draw))
        height, width = out["video"].shape[-2:]
        assert 0.68 <= height * width / HEIGHT**2 <= 1.05
        assert (out["video"] == out["video"][0, 0]).all()
        shapes.add((height, width))
    assert len(shapes) > 20


def test_a_transform_is_a_function_of_its_generator_and_changes_nothing_in_place():
    sample, transform = rectangles(), ClipTransform((16, 22), (0.5, 0.9), flip=0.5)
    before = {key: value.clone() for key, value in sample.items() if torch.is_tensor(value)}
    outs = [transform(sample, generator_of(3)) for _ in range(2)]
    assert_same(*outs)
    for key, value in before.items():
        assert torch.equal(sample[key], value)
    assert {transform(sample, generator_of(seed))["flipped"] for seed in range(20)} == {True, False}


@pytest.mark.parametrize(
    "option", [{"size": (5,)}, {"crop_area": (0, 1)}, {"crop_area": (0.9, 0.5)}, {"crop_ratio": (0, 1)}, {"flip": 2}]
)
def test_wrong_options_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        ClipTransform(**option)
