"""Recognition probe (the paper's section 4.2): a small MLP predicts an object's classes and its box from a slot.

In every frame slots are assigned to objects one-to-one by the IoU of their masks. The probe sees one slot. An object
counts if at least one of its pixels is visible. Scores are those of objects with a slot; the share of such objects is
reported too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import r2_score
from torch import Tensor, nn
from tqdm import tqdm

from dias_video.checks import device_of
from dias_video.data.boxes import boxes_from_masks
from dias_video.data.source import VideoSource, classes_of
from dias_video.data.transforms import Transform
from dias_video.data.windows import video_windows
from dias_video.evaluation.scoring import Videos
from dias_video.model.dias import DIAS
from dias_video.pretrained.weights import pinned, weights_sha256
from dias_video.stores.files import check_new, write_json
from dias_video.tracking import owners, track_videos

MIN_IOU = 0.1  # slot and object are a pair only if their IoU exceeds this (as in the DIAS authors' later code)


class ObjectSlots(NamedTuple):
    """M slots that were assigned to objects."""

    slots: Tensor  # (M,D) float
    boxes: Tensor  # (M,4) normalised xyxy, of the objects
    regions: Tensor  # (M,4) the same, of the slots' own masks
    classes: dict[str, Tensor]  # attribute -> (M,) int64
    num_objects: int  # visible objects over all frames, with a slot or without


def object_slots(
    slots: Tensor, live: Tensor, attention: Tensor, true: Tensor, boxes: Tensor, classes: dict[str, Tensor]
) -> ObjectSlots:
    """Assign the slots of one video to its objects in every frame, maximising IoU; pairs must exceed ``MIN_IOU``.

    Args:
        slots, live, attention: (T,S,D), (T,S) bool and (T,S,h,w), from the encoded video.
        true: (T,H,W) instance ids, 0 background, -1 void.
        boxes: (T,K,4); ``boxes[:,k]`` belongs to id k + 1.
        classes: attribute -> (K,) int64 of every object.
    """
    num_slots, num_objects = slots.shape[1], boxes.shape[1]
    index = torch.arange(num_slots).expand(len(slots), -1)
    owner = owners(attention, live, index, (true.shape[1], true.shape[2])).long()  # (T,H,W) slots
    regions, _ = boxes_from_masks((owner + 1).short(), num_slots)  # (T,S,4)
    kept: list[tuple[int, int, int]] = []  # frame, slot, object
    shown = 0
    for t, (own, ids) in enumerate(zip(owner, true.long(), strict=True)):
        seen = (ids >= 0) & (own >= 0)
        pairs = own[seen] * (num_objects + 1) + ids[seen]
        table = pairs.bincount(minlength=num_slots * (num_objects + 1)).view(num_slots, -1)  # (S,K+1) pixels
        union = table.sum(1, keepdim=True) + table.sum(0) - table
        iou = (table / union.clamp_min(1))[:, 1:]
        rows, columns = linear_sum_assignment(iou.numpy(), maximize=True)
        kept += [(t, s, k) for s, k in zip(rows.tolist(), columns.tolist(), strict=True) if iou[s, k] > MIN_IOU]
        shown += len(ids[ids > 0].unique())
    frame, slot, item = torch.tensor(kept, dtype=torch.int64).reshape(-1, 3).unbind(1)
    own_classes = {name: value[item] for name, value in classes.items()}
    found = slots[frame, slot].float(), boxes[frame, item], regions[frame, slot]
    return ObjectSlots(*found, own_classes, shown)


def joined(parts: list[ObjectSlots]) -> ObjectSlots:
    """The slots of several videos as one record."""
    names = parts[0].classes
    return ObjectSlots(
        torch.cat([p.slots for p in parts]),
        torch.cat([p.boxes for p in parts]),
        torch.cat([p.regions for p in parts]),
        {name: torch.cat([p.classes[name] for p in parts]) for name in names},
        sum(p.num_objects for p in parts),
    )


class RecognitionProbe(nn.Module):
    """An MLP with one hidden layer; slots are standardised with mean and deviation of the training slots."""

    mean: Tensor
    scale: Tensor

    def __init__(self, train: ObjectSlots, num_classes: dict[str, int], hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", train.slots.mean(0))
        self.register_buffer("scale", train.slots.std(0).clamp_min(1e-6))
        self.hidden = nn.Linear(train.slots.shape[1], hidden)
        self.box = nn.Linear(hidden, 4)
        self.classes = nn.ModuleDict({name: nn.Linear(hidden, count) for name, count in num_classes.items()})

    def forward(self, slots: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Slots (M,D) to boxes (M,4) and, by attribute, logits (M,classes)."""
        x = F.gelu(self.hidden((slots - self.mean) / self.scale))
        return self.box(x), {name: head(x) for name, head in self.classes.items()}


def fit_probe(
    train: ObjectSlots,
    num_classes: dict[str, int],
    hidden: int = 256,
    steps: int = 2000,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
) -> RecognitionProbe:
    """Train with Adam on cross-entropies and the squared error of boxes in units of their standard deviation.

    Raises:
        ValueError: fewer than two slots were assigned to objects.
    """
    if len(train.slots) < 2:
        raise ValueError(
            f"of the slots of the training videos {len(train.slots)} overlap an object, and a probe needs at least 2; "
            f"take more videos or a better model"
        )
    torch.manual_seed(seed)
    probe = RecognitionProbe(train, num_classes, hidden)
    unit = train.boxes.std(0).clamp_min(1e-6)
    optimizer = torch.optim.Adam(probe.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(train.slots), (batch_size,))
        boxes, logits = probe(train.slots[chosen])
        loss = ((boxes - train.boxes[chosen]) / unit).square().mean()
        for name, value in logits.items():
            loss = loss + F.cross_entropy(value, train.classes[name][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe


@torch.no_grad()
def score_probe(probe: RecognitionProbe, train: ObjectSlots, test: ObjectSlots) -> dict[str, float]:
    """Scores of slots with an object: ``<attribute>/top1``, and ``box/r2`` (mean over the four coordinates).

    The baselines are ``<attribute>/most_frequent`` (always the most frequent class in training), ``box/r2_constant``
    (always the mean box of training) and ``box/r2_mask`` (the box around the slot's own mask). ``objects/matched`` is
    the share of objects with a slot.

    Raises:
        ValueError: no slot was assigned to an object.
    """
    if not len(test.slots):
        raise ValueError("no slot overlaps an object in the test videos; there is nothing to score")
    boxes, logits = probe(test.slots)
    scores = {}
    for name, value in logits.items():
        true = test.classes[name]
        scores[f"{name}/top1"] = float((value.argmax(1) == true).double().mean())
        scores[f"{name}/most_frequent"] = float((true == train.classes[name].bincount().argmax()).double().mean())
    constant = train.boxes.mean(0).expand_as(test.boxes)
    for name, said in (("box/r2", boxes), ("box/r2_constant", constant), ("box/r2_mask", test.regions)):
        scores[name] = float(r2_score(test.boxes.numpy(), said.numpy()))
    scores["objects/matched"] = len(test.slots) / test.num_objects
    return scores


def probe(
    *,
    checkpoint: str | Path,
    train: VideoSource,
    test: VideoSource,
    out_dir: str | Path,
    overwrite: bool = False,
    transform: Transform | None = None,
    train_videos: int | None = 200,
    test_videos: int | None = 64,
    attributes: Sequence[str] = ("shape", "material"),
    boxes: bool | None = None,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, float]:
    """Fit a probe on videos whose objects have known classes, and score it on others; slots are those of evaluation.

    Args:
        checkpoint: a model's folder, or ``hf-hub:user/name`` or ``hf-hub:user/name@revision``.
        train, test: simulated videos or COCO's images.
        train_videos, test_videos: number of first videos to use; None = all.
        out_dir: the folder for probe.json.
        overwrite: replace an existing probe.json.
        transform: applied to every video (a resize).
        attributes: attributes of the simulated bodies, or COCO's ``category``.
        boxes: start from the first frame's boxes; None: if the model takes them.
        seed: seed of the noise of queries and of the probe.
        device: the model's device; None = cuda if there is one.

    Returns:
        The scores of ``score_probe``.

    Raises:
        ValueError: ``boxes`` is True and the model takes none, or an attribute is not known for every object.
    """
    check_new(Path(out_dir) / "probe.json", overwrite)
    checkpoint = pinned(checkpoint)
    model = DIAS.from_pretrained(checkpoint).to(device_of(device)).eval()
    if boxes and not model.takes_boxes:
        raise ValueError(f"boxes=true, but {checkpoint} takes no boxes; leave the option out")
    told = model.takes_boxes if boxes is None else boxes
    videos = {"train": Videos(train, transform, train_videos), "test": Videos(test, transform, test_videos)}
    vocabulary = {name: vocabulary_of(list(videos.values()), name) for name in attributes}
    slots = {name: collect(model, part, vocabulary, told, seed) for name, part in videos.items()}
    fitted = fit_probe(slots["train"], {name: len(known) for name, known in vocabulary.items()}, seed=seed)
    scores = score_probe(fitted, slots["train"], slots["test"])
    about = {
        "checkpoint": checkpoint,
        "checkpoint_sha256": weights_sha256(checkpoint),
        "condition": "boxes" if told else "none",
        "slots": {name: len(value.slots) for name, value in slots.items()},
        "classes": vocabulary,
        "seed": seed,
    }
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_json(out_dir / "probe.json", {"about": about, **scores})
    return scores


def vocabulary_of(videos: list[Videos], attribute: str) -> list[str]:
    """The classes of an attribute in all videos.

    Raises:
        ValueError: the attribute is not known for every object.
    """
    found: set[str] = set()
    for part in videos:
        for index in part.indices:
            known = classes_of(part.source, index)
            if "" in (named := known.get(attribute, [""])):
                there = ", ".join(known) or "none: take data=simulated or data=coco"
                name = part.source.info(index).video_id
                raise ValueError(f"attributes: {attribute!r} is not known of every object of {name}; known are {there}")
            found.update(named)
    return sorted(found)


def collect(model: DIAS, videos: Videos, vocabulary: dict[str, list[str]], boxes: bool, seed: int) -> ObjectSlots:
    """Slots assigned to objects."""
    by_id = dict(zip(videos.video_ids, videos.indices, strict=True))
    parts = []
    windows = video_windows(
        videos.source, videos.indices, videos.transform, keys=("video", "boxes") if boxes else ("video",)
    )
    for video in tqdm(
        track_videos(model, windows, seed=seed, boxes=boxes), total=len(videos), unit="video", desc="slots"
    ):
        index = by_id[video.video_id[0]]
        sample, named = videos[index], classes_of(videos.source, index)
        classes = {
            name: torch.tensor([k.index(c) for c in named[name]], dtype=torch.int64) for name, k in vocabulary.items()
        }
        assert video.attention is not None
        found = (video.slots[0], video.live[0], video.attention[0])
        parts.append(object_slots(*found, sample["masks"], sample["boxes"], classes))
    return joined(parts)
