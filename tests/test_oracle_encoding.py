"""The oracle's videos are encoded as the cache's were: from boxes where those were, without where those were not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.dias import DIAS
from slotformer.oracle import encode_anew

SEED, FRAMES = 4, range(2, 5)


class Source:
    """One video of 6 frames, with or without boxes of two objects."""

    def __init__(self, boxes: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.video = torch.randint(0, 256, (6, 3, 32, 48), generator=generator, dtype=torch.uint8)
        self.boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.3, 0.9, 0.8]]).expand(6, 2, 4) if boxes else None

    def read(self, name: str, frames: range) -> dict[str, Any]:
        at = list(frames)
        boxes = {} if self.boxes is None else {"boxes": self.boxes[at], "box_valid": torch.ones(len(at), 2).bool()}
        return {"video": self.video[at], "video_id": name, "frame_index": torch.tensor(at), **boxes}


@pytest.fixture(scope="module")
def dias() -> DIAS:
    return DIAS.shipped().eval()  # takes boxes


@pytest.fixture
def anew(dias: DIAS) -> Callable[[str, bool], Tensor]:
    """``encode_anew`` of the video, by a cache's queries and whether its source has boxes."""

    def encoded(queries: str, boxes: bool) -> Tensor:
        cache = SimpleNamespace(header={"protocol": {"queries": queries, "seed": SEED}})
        return encode_anew(dias, cache, Source(boxes), "one", FRAMES)

    return encoded


def expected(dias: DIAS, boxes: bool) -> Tensor:
    """Encoded directly, with noise other than the cache's."""
    encoded, _ = dias.encode(VideoBatch.stack([Source(boxes).read("one", FRAMES)]), Draws.for_videos(SEED + 1, ["one"]))
    return torch.where(encoded.live[..., None], encoded.slots, 0)[0]


def test_learned_queries_need_no_boxes_and_look_at_none(dias: DIAS, anew: Callable[[str, bool], Tensor]) -> None:
    found = anew("learned", False)
    assert found.shape == (len(FRAMES), dias.num_slots, 64)
    assert torch.equal(found, expected(dias, boxes=False))
    assert torch.equal(found, anew("learned", True))


def test_a_cache_from_boxes_is_encoded_from_boxes(dias: DIAS, anew: Callable[[str, bool], Tensor]) -> None:
    found = anew("boxes", True)
    assert torch.equal(found, expected(dias, boxes=True))
    assert not torch.allclose(found, anew("learned", True))
