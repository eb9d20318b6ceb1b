"""Transforms on frames that are not square: the picture, the masks and the boxes stay together."""

import pytest
import torch
from data_files import assert_same

from dias_video.data.boxes import boxes_from_masks
from dias_video.data.loading import generator_of
from dias_video.data.transforms import ClipTransform, crop, flip, resize

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


def test_random_crops_keep_within_area_and_aspect_and_are_one_for_the_clip():
    sample = rectangles()
    sample["video"] = torch.arange(HEIGHT * WIDTH).view(1, 1, HEIGHT, WIDTH).expand(3, 3, HEIGHT, WIDTH)
    shapes = set()
    transform = ClipTransform(crop_area=(0.75, 1.0), crop_ratio=(0.8, 1.25))
    for draw in range(100):
        out = transform(sample, generator_of(draw))
        height, width = out["video"].shape[-2:]
        assert 0.68 <= height * width / (HEIGHT * WIDTH) <= 1
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
