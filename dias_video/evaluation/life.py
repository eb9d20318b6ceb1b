"""Signs of life: slots say something of their own clip, and a learned choice keeps more of them for more objects.

The loss of a model's objective is computed four times: with the slots of a clip, with those of another clip, without
slots, and with all its slots, dropped ones too. The four have the same random numbers: order and prefix of tokens, or
noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from dias_video.batch import VideoBatch
from dias_video.checks import check_integer, device_of
from dias_video.data.features import cached_features
from dias_video.data.loading import generator_of, read_clip
from dias_video.data.source import VideoSource
from dias_video.data.transforms import Transform
from dias_video.draws import Draws
from dias_video.model.dias import DIAS
from dias_video.pretrained.weights import pinned, weights_sha256
from dias_video.stores.files import check_new, write_json, write_rows

COLUMNS = ("own", "rolled", "none", "all", "kept", "objects")


@torch.no_grad()
def clip_numbers(model: DIAS, batch: VideoBatch, seed: int = 0) -> dict[str, Tensor]:
    """The ``COLUMNS`` of every clip, each (B,).

    ``own``, ``rolled``, ``none`` and ``all``: the sum of the objective's losses with the clip's slots, with those of
    the clip before it in the batch (for the first: of the last), without slots, and with all its slots. ``kept`` and
    ``objects``: slots that remain and visible objects of a frame, mean over frames.
    """
    features = model.features(batch)
    target = model.objective.target(features, batch)
    scan = model.scan(batch, features, Draws.for_videos(seed, batch.video_id, features.device))

    def loss(slots: Tensor, live: Tensor) -> Tensor:
        draws = Draws.for_videos(seed, batch.video_id, features.device)
        decoded = model.decoder(slots, live, target.known, draws)
        counted = decoded.scored & batch.frame_valid[..., None]
        losses = model.objective.losses(decoded.reconstruction, target, counted, batch)
        return torch.stack(list(losses.values())).sum(0)

    assert batch.masks is not None
    objects = [[len(ids[ids > 0].unique()) for ids in clip] for clip in batch.masks]
    return {
        "own": loss(scan.slots, scan.live),
        "rolled": loss(scan.slots.roll(1, 0), scan.live.roll(1, 0)),
        "none": loss(scan.slots, torch.zeros_like(scan.live)),
        "all": loss(scan.slots, (scan.slots != 0).any(-1)),  # slots that merging ended are zeros
        "kept": scan.live.sum(-1).double().mean(1),
        "objects": torch.tensor(objects).double().mean(1),
    }


def summary(numbers: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means over clips of the ``COLUMNS``, and what follows from them; NaN where it is undefined.

    ``standard_errors``: the mean of ``rolled`` - ``own`` in standard errors over clips. ``kept_min``, ``kept_max``, and
    ``kept_spearman``: the rank correlation of ``kept`` and ``objects``.
    """
    kept, objects = numbers["kept"], numbers["objects"]
    gain = numbers["rolled"] - numbers["own"]
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    varied = np.ptp(kept) > 0 and np.ptp(objects) > 0
    return {name: float(numbers[name].mean()) for name in COLUMNS} | {
        "standard_errors": float(gain.mean() / error) if error > 0 else math.nan,
        "kept_min": float(kept.min()),
        "kept_max": float(kept.max()),
        "kept_spearman": float(spearmanr(kept, objects).statistic) if varied else math.nan,
    }


def life(
    *,
    checkpoint: str | Path,
    videos: VideoSource,
    out_dir: str | Path,
    overwrite: bool = False,
    transform: Transform | None = None,
    features: str | Path | None = None,
    frames: Sequence[int] = (0,),
    max_videos: int | None = None,
    batch_size: int = 16,
    boxes: bool | None = None,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, float]:
    """Write ``life.csv``, the numbers of every clip, and ``life.json``, their summary, which is returned.

    Args:
        checkpoint: a model's folder, or ``hf-hub:user/name`` or ``hf-hub:user/name@revision``.
        videos: videos with masks.
        out_dir: the folder for the two files.
        overwrite: replace existing ones.
        transform: applied to every video (a resize).
        features: folder of these videos' cached features; the encoder then does not run.
        frames: the frames that make a clip of each video.
        max_videos: number of first videos; None = all.
        batch_size: number of clips that are computed at once, and among which slots are rolled (or nearly twice as
            many).
        boxes: start from the boxes of the first of the frames; None: if the model takes them.
        seed: seed of the noise of queries and of the order of tokens.
        device: the model's device; None = cuda if there is one.

    Raises:
        ValueError: there are fewer than two videos, ``boxes`` is True and the model takes none, no frame is named, or
            there are no masks.
    """
    check_new(Path(out_dir) / "life.json", overwrite)
    check_integer("batch_size", batch_size, least=2)
    checkpoint = pinned(checkpoint)
    model = DIAS.from_pretrained(checkpoint).to(device_of(device)).eval()
    if boxes and not model.takes_boxes:
        raise ValueError(f"boxes=true, but {checkpoint} takes no boxes; leave the option out")
    told = model.takes_boxes if boxes is None else boxes
    count = min(len(videos), max_videos or len(videos))
    if count < 2 or not frames:
        raise ValueError(
            f"slots are compared with those of another clip: name frames, and at least 2 videos, not {count}"
        )
    cache = cached_features(features, model.frozen)
    if cache is not None:
        cache.check(videos, transform)
    keys = ("video", "masks", "boxes") if told else ("video", "masks")
    parts = []
    for indices in tqdm(np.array_split(np.arange(count), max(1, count // batch_size)), unit="batch", desc="life"):
        read = [read_clip(videos, int(i), frames, transform, generator_of(0, 0, int(i)), cache, keys) for i in indices]
        if any(sample.get("masks") is None for sample in read):
            raise ValueError("kept slots are compared with the objects of masks, and these videos have no masks")
        batch = VideoBatch.stack(read).to(device_of(device))
        found = {name: value.double().cpu().numpy() for name, value in clip_numbers(model, batch, seed).items()}
        parts.append((batch.video_id, found))
    numbers = {name: np.concatenate([found[name] for _, found in parts]) for name in COLUMNS}
    scores = summary(numbers)
    about = {
        "checkpoint": checkpoint,
        "checkpoint_sha256": weights_sha256(checkpoint),
        "condition": "boxes" if told else "none",
        "videos": count,
        "frames": list(frames),
        "seed": seed,
    }
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    names = [name for ids, _ in parts for name in ids]
    columns = {"video_id": names} | {name: numbers[name].tolist() for name in COLUMNS}
    write_rows(
        out_dir / "life.csv", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )
    write_json(out_dir / "life.json", {"about": about, **scores})
    return scores
