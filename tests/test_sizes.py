"""Parts of a model whose sizes differ are refused before training, in one sentence that names the option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from data_files import write_clip
from hydra.utils import instantiate
from test_facts import composed_of
from test_rows import shallow  # noqa: F401 - a fixture
from test_script_options import run, sentence
from tiny import HEIGHT, WIDTH, C, D, N, S, clips, tiny_dias
from torch import nn

from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.initializers import GaussianInitializer
from dias_video.model.projection import Projection
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.model.transition import Transition

SIZE = (HEIGHT, WIDTH)
OTHER: list[tuple[str, Callable[[], nn.Module], str]] = [
    ("encoder", lambda: TinyEncoder(C + 2, 12, 1, SIZE), "model.projection.feature_dim is 7 and must be 9 like the "
     "encoder's; sizes.feature_dim sets it everywhere"),
    ("encoder", lambda: TinyEncoder(C, 12, 1, (24, 24)), "model.projection.grid is [2, 3] and must be [3, 3] like the "
     "encoder's"),
    ("projection", lambda: Projection(C, D + 2), "model.aggregator.attention.token_dim is 8 and must be 10 like the "
     "projection's out_dim"),
    ("initializer", lambda: GaussianInitializer(S, D + 2), "model.transition.slot_dim is 8 and must be 10 like the "
     "initializer's"),
    ("aggregator", lambda: Aggregator(SlotAttention(D + 2, D), None, False), "attention.slot_dim is 10 and must be 8"),
    ("transition", lambda: Transition(D + 2, num_heads=2), "model.transition.slot_dim is 10 and must be 8"),
    ("decoder", lambda: RandomARDecoder(C, D + 2, N, width=12), "model.decoder.slot_dim is 10 and must be 8"),
    ("decoder", lambda: MLPDecoder(C + 2, D, N, hidden=9), "model.decoder.feature_dim is 9 and must be 7"),
    ("decoder", lambda: MLPDecoder(C, D, N + 2, hidden=9), "model.decoder.num_tokens is 8 and must be 6"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "make", "said"), OTHER)
def test_a_part_of_another_size_is_named_and_would_fail(part: str, make: Callable[[], nn.Module], said: str) -> None:
    plain = tiny_dias(threshold=None)
    names = ("encoder", "projection", "initializer", "aggregator", "transition", "decoder")
    parts = {name: getattr(plain, name) for name in names}
    draws = Draws.for_step(0, 0, range(3))
    fitting, other = DIAS(**parts), DIAS(**parts | {part: make()})
    fitting.check_parts()
    fitting(clips(), draws)
    with pytest.raises((RuntimeError, ValueError)):
        other(clips(), draws)
    with pytest.raises(ValueError, match="must be") as error:
        other.check_parts()
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_boxes", "dinov2_image", "slate", "slotcontrast", "steve", "tiny"])
def test_the_parts_of_a_configuration_fit(name: str) -> None:
    words = [f"model={name}", *([] if name in ("slate", "steve") else ["model.encoder.weights=random"])]
    instantiate(composed_of("train_video", words).model).check_parts()


@pytest.mark.parametrize(
    ("words", "said", "remedy"),
    [
        (("model=dinov2", "+model.encoder.feature_dim=64"), "projection.feature_dim is 384 and must be 64 like the "
         "encoder's; sizes.feature_dim sets it everywhere", ["sizes.feature_dim=64"]),
        (("model=tiny_free", "model.encoder.input_size=[64,64]"), "projection.grid is [16, 16] and must be [8, 8] like "
         "the encoder's; sizes.grid sets it everywhere", ["sizes.grid=[8,8]", "sizes.num_tokens=64"]),
    ],
)  # fmt: skip
def test_a_training_of_other_sizes_ends_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], said: str, remedy: list[str]
) -> None:
    write_clip(tmp_path / "toss/train/00000", num_frames=2)
    words = (*words, "model.encoder.weights=random")
    where = (f"data.root={tmp_path}", f"out_dir={tmp_path}/out", "data.clip.num_frames=2", "max_steps=1")
    code, output = run("train_video", *words, *where, "trainer.num_workers=0")
    assert (code, sentence(output)) == (1, f"error: model.{said}")
    assert not (tmp_path / "out").exists()
    instantiate(composed_of("train_video", [*words, *remedy]).model).check_parts()
