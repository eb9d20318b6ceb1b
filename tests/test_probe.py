"""The recognition probe on hand-made slots: whom a slot is assigned to, what can be read from it, and how it scores."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_layouts import opened
from hydra import compose, initialize_config_dir
from PIL import Image

from dias_video.data.simulated import SimulatedVideos
from dias_video.data.source import Keys, Sample
from dias_video.data.transforms import ClipTransform
from dias_video.evaluation.probe import (
    ObjectSlots,
    RecognitionProbe,
    collect,
    fit_probe,
    joined,
    object_slots,
    probe,
    score_probe,
    vocabulary_of,
)
from dias_video.evaluation.scoring import Videos
from dias_video.model.dias import DIAS
from dias_video.simulate.toss import Toss
from dias_video.simulate.writer import write_dataset

CONFIGS = Path(__file__).parents[1] / "configs"
COLOURS = {"owl": (230, 60, 40), "pig": (40, 200, 70), "ape": (60, 80, 240)}
CATEGORIES = {"pig": 3, "ape": 44, "owl": 90}  # as COCO's, not 1, 2, 3


def test_slots_are_assigned_to_the_objects_that_their_masks_cover() -> None:
    """Two frames of 2x4 px, on a grid of the same size; objects 1 and 2 change slots between the frames."""
    true = torch.tensor([[[1, 1, 2, 0], [1, 1, 2, 0]], [[0, 1, 2, -1], [0, 1, 0, -1]]])
    owner = torch.tensor([[[2, 2, 0, 1], [2, 2, 1, 1]], [[1, 0, 2, 2], [1, 0, 1, 2]]])
    maps = torch.nn.functional.one_hot(owner, 5).permute(0, 3, 1, 2).float()  # slot 3 owns nothing
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 4] = False
    maps[:, 4] = 9.0  # dead slots own nothing, whatever their maps say
    slots = torch.arange(2 * 5 * 3).view(2, 5, 3)
    boxes = torch.rand(2, 2, 4)
    classes = {"shape": torch.tensor([7, 4])}
    got = object_slots(slots, mask, maps, true, boxes, classes)
    order = [(0, 0, 1), (0, 2, 0), (1, 0, 0), (1, 2, 1)]  # frame, slot, object
    assert got.slots.tolist() == [slots[t, s].tolist() for t, s, _ in order]
    assert torch.equal(got.boxes, torch.stack([boxes[t, k] for t, _, k in order]))
    assert got.classes["shape"].tolist() == [4, 7, 7, 4]


def test_objects_that_no_slot_overlaps_are_left_out() -> None:
    true = torch.zeros(1, 2, 4, dtype=torch.int64)
    got = object_slots(
        torch.rand(1, 3, 5), torch.ones(1, 3, dtype=torch.bool), torch.rand(1, 3, 2, 4), true, torch.rand(1, 2, 4), {}
    )
    assert got.slots.shape == (0, 5)
    some = ObjectSlots(torch.rand(6, 5), torch.rand(6, 4), torch.rand(6, 4), {}, 9)
    one, two = (ObjectSlots(*(x[:count] for x in some[:3]), {}, 9) for count in (1, 2))  # one has no deviation
    for few in (got, one):
        with pytest.raises(ValueError, match=f"of the training videos {len(few.slots)} overlap an object"):
            fit_probe(few, {}, steps=1)
    assert fit_probe(two, {}, steps=1)(some.slots)[0].isfinite().all()
    with pytest.raises(ValueError, match="no slot overlaps an object in the test videos"):
        score_probe(fit_probe(some, {}, steps=1), some, got)


def test_every_object_counts_and_pairs_of_little_overlap_are_none() -> None:
    """Five objects of 10 px: three have a slot each, the fourth shares a fifth with one, the last a twentieth."""
    true = torch.zeros(1, 5, 40, dtype=torch.int64)
    owner = torch.zeros(1, 5, 40, dtype=torch.int64)
    for item in range(5):
        true[0, item, :10] = item + 1
    for item in range(3):
        owner[0, item, :10] = item + 1
    owner[0, 3, :2] = 4  # 2 of 10 px and nothing else: IoU 0.2
    owner[0, 4, 9:19] = 5  # 1 of 19: IoU 0.05
    maps = torch.nn.functional.one_hot(owner, 6).permute(0, 3, 1, 2).float()
    live = torch.ones(1, 6, dtype=torch.bool)
    got = object_slots(torch.arange(6.0).view(1, 6, 1), live, maps, true, torch.rand(1, 5, 4), {"c": torch.arange(5)})
    assert got.classes["c"].tolist() == [0, 1, 2, 3]
    assert got.slots.flatten().tolist() == [1, 2, 3, 4]
    assert got.num_objects == 5
    assert got.regions[3].tolist() == pytest.approx([0, 0.6, 0.05, 0.8])  # of the slot, not of the object
    both = joined([got, got])
    assert both.num_objects == 10
    train = ObjectSlots(torch.rand(5, 1), torch.rand(5, 4), torch.rand(5, 4), {"c": torch.tensor([3, 3, 3, 0, 1])}, 5)
    scores = score_probe(RecognitionProbe(train, {"c": 5}, 4), train, both)
    assert scores["objects/matched"] == 0.8
    assert scores["c/most_frequent"] == 0.25  # what training says is commonest, not the test


class Resized(SimulatedVideos):
    """Videos that are of another size where they lie."""

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        return ClipTransform(size=(48, 64))(super().read(index, frames), torch.Generator())


def test_videos_are_seen_as_evaluation_sees_them(tmp_path: Path) -> None:
    """Resized by the transform they give the slots, boxes and classes of videos that had that size before."""
    pytest.importorskip("pybullet")
    write_dataset(Toss(size=(40, 56), num_frames=3), tmp_path, "val", 2, workers=1)
    stored, resized = (kind(tmp_path, "toss/val") for kind in (SimulatedVideos, Resized))
    dias = DIAS.shipped().eval()
    vocabulary = {"shape": vocabulary_of([Videos(stored)], "shape")}

    def collected(videos: Videos) -> ObjectSlots:
        return collect(dias, videos, vocabulary, boxes=True, seed=0)

    found = collected(Videos(stored, ClipTransform(size=(48, 64))))
    expected = collected(Videos(resized))
    assert len(found.slots) > 5
    assert torch.equal(found.slots, expected.slots)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.classes["shape"], expected.classes["shape"])
    assert not torch.equal(found.slots[:5], collected(Videos(stored)).slots[:5])
    with pytest.raises(ValueError, match=r"attributes: 'taste' is not known of .* toss/val/\d+; known are shape"):
        vocabulary_of([Videos(stored)], "taste")


def made_up(count: int, seed: int, informative: bool = True) -> ObjectSlots:
    """Slots that hold class and box under a fixed mixing, or nothing."""
    generator = torch.Generator().manual_seed(seed)
    shape, material = torch.randint(3, (count,), generator=generator), torch.randint(2, (count,), generator=generator)
    boxes = torch.rand(count, 4, generator=generator)
    mixing = torch.randn(9, 12, generator=torch.Generator().manual_seed(99))
    facts = torch.cat([torch.nn.functional.one_hot(shape, 3), torch.nn.functional.one_hot(material, 2), boxes], 1)
    slots = facts @ mixing if informative else torch.randn(count, 12, generator=generator)
    return ObjectSlots(slots, boxes, boxes + 0.1, {"shape": shape, "material": material}, 2 * count)


def test_what_is_in_the_slots_is_read_and_what_is_not_is_not() -> None:
    sizes = {"shape": 3, "material": 2}
    parts = [made_up(300, 0), made_up(200, 1)]
    known = score_probe(fit_probe(joined(parts), sizes, hidden=32, steps=600, lr=1e-2), joined(parts), made_up(400, 2))
    assert known["shape/top1"] > 0.98
    assert known["material/top1"] > 0.98
    assert known["box/r2"] > 0.9
    noise = made_up(2000, 0, False)
    unknown = score_probe(fit_probe(noise, sizes, hidden=8, steps=200), noise, made_up(2000, 2, False))
    assert abs(unknown["shape/top1"] - 1 / 3) < 0.06
    assert unknown["box/r2"] < 0.02


def test_scores_by_hand() -> None:
    test = made_up(50, 3)
    probe = RecognitionProbe(test, {"shape": 3, "material": 2}, 4)
    scores = score_probe(probe, test, test)
    boxes, logits = probe(test.slots)
    residual, total = (test.boxes - boxes.detach()).square().sum(0), (test.boxes - test.boxes.mean(0)).square().sum(0)
    assert scores["box/r2"] == pytest.approx(float((1 - residual / total).mean()), abs=1e-5)
    assert scores["box/r2_constant"] == pytest.approx(0, abs=1e-5)  # the mean of these very boxes
    shift = (0.1**2 / (test.boxes - test.boxes.mean(0)).square().mean(0)).mean()  # masks are 0.1 beside their objects
    assert scores["box/r2_mask"] == pytest.approx(float(1 - shift), abs=1e-5)
    assert scores["objects/matched"] == 0.5
    right = sum(
        int(row.argmax()) == int(label) for row, label in zip(logits["shape"], test.classes["shape"], strict=True)
    )
    assert scores["shape/top1"] == pytest.approx(right / 50)
    counts = [int((test.classes["material"] == c).sum()) for c in range(2)]
    assert scores["material/most_frequent"] == pytest.approx(max(counts) / 50)


def picture(root: Path, split: str, number: int, rectangles: list[tuple[int, int, str]]) -> dict[str, Any]:
    """A picture of 48x64 px with squares of 14 px, and its part of COCO's json."""
    video = np.full((48, 64, 3), 40, np.uint8)
    annotations = []
    for top, left, category in rectangles:
        video[top : top + 14, left : left + 14] = COLOURS[category]
        corners = [left, top, left + 14, top, left + 14, top + 14, left, top + 14]
        annotations.append({"image_id": number, "category_id": CATEGORIES[category], "segmentation": [corners]})
    (root / split).mkdir(exist_ok=True)
    Image.fromarray(video).save(root / split / f"{number}.png")
    return {"image": {"id": number, "file_name": f"{number}.png", "height": 48, "width": 64}, "objects": annotations}


def test_categories_of_coco_are_recognised(tmp_path: Path) -> None:
    """Three objects a picture and all of them count; a picture without any is no hindrance."""
    places = random.Random(0)
    for split, count in (("train2017", 12), ("val2017", 4)):
        made = [
            picture(
                tmp_path,
                split,
                n,
                [(places.randrange(30), left, c) for left, c in zip((2, 22, 42), COLOURS, strict=True)],
            )
            for n in range(count)
        ]
        made.append(picture(tmp_path, split, count, []))
        described = {
            "images": [one["image"] for one in made],
            "annotations": [annotation for one in made for annotation in one["objects"]],
            "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(described))
    DIAS.shipped().save_pretrained(tmp_path / "dias")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = ["experiment/probe=coco", f"data.root={tmp_path}", "checkpoint=x", "out_dir=x"]
        cfg = compose("probe", words)
    sources = {"train": opened(cfg, "train"), "test": opened(cfg, "eval")}
    options = {"checkpoint": tmp_path / "dias", "transform": ClipTransform(size=(96, 128)), "out_dir": tmp_path / "out"}
    scores = probe(**sources, **options, attributes=cfg.attributes, train_videos=cfg.train_videos)
    about = json.loads((tmp_path / "out/probe.json").read_text())["about"]
    assert about["classes"] == {"category": ["ape", "owl", "pig"]}
    assert about["slots"]["test"] == 12 * scores["objects/matched"] > 8
    assert scores["category/top1"] > 0.9
    assert scores["category/most_frequent"] < 0.5
    assert scores["box/r2"] > 0.8
    with pytest.raises(ValueError, match="attributes: 'shape' is not known of every object of 0; known are category"):
        probe(**sources, **options, overwrite=True)
