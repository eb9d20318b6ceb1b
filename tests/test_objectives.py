"""Objectives of codes, and the systems on them: what is known, what is wanted, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_tokenizers import E, V, of_features, of_pictures
from tiny import GRID, C, D, N, S, clips, tiny_dias

from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.decoders.causal import CausalDecoder
from dias_video.model.decoders.diffusion import DiffusionDecoder
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.objectives import CodeObjective, CodeVectorObjective, LatentObjective, Objective
from dias_video.model.tokenizers.quantizers import SimVQ, VectorQuantizer
from dias_video.model.tokenizers.tokenizer import Tokenizer

MOMENTS = [[0.5 * c for c in range(E)], [1.0 + c for c in range(E)]]  # mean and deviation of each channel of latents


def system(name: str, tokenizer: Tokenizer | None = None, boxes: bool = False) -> DIAS:
    """A tiny model of one of the systems on codes or latents."""
    tokenizer = tokenizer or (of_features() if "vvo" in name else of_pictures())
    dias = tiny_dias(boxes, threshold=0.1 if name == "dias_vvo" else None)
    torch.manual_seed(5)
    objective: Objective = CodeObjective(tokenizer)
    if name == "vvo_mlp":
        objective = CodeVectorObjective(tokenizer, features=True)
        decoder = MLPDecoder([E, C], D, N, hidden=11, num_layers=3, activation="gelu")
    elif name == "dias_vvo":
        objective = CodeVectorObjective(tokenizer)
        decoder = RandomARDecoder(E, D, N, width=E, num_layers=2, num_heads=2)
    elif name == "slotdiffusion":
        objective = LatentObjective(tokenizer, MOMENTS)
        decoder = DiffusionDecoder(E, D, GRID, [8, 12], num_layers=1, num_heads=2, num_groups=4)
    else:
        decoder = CausalDecoder(E, D, GRID, width=10, num_layers=2, num_heads=2, out_dim=V)
    aggregator = dias.aggregator
    if name != "dias_vvo":
        aggregator = Aggregator(aggregator.attention, None, reinitialize=False, bilevel=name != "steve")
    parts = (dias.encoder, dias.projection, dias.initializer, aggregator, dias.transition, decoder)
    teacher = "hard" if name == "dias_vvo" else None
    return DIAS(*parts, later_iterations=1 if name == "steve" else 2, teacher=teacher, objective=objective)


ON_CODES = {
    "slate": {"cross_entropy"},
    "steve": {"cross_entropy"},
    "vvo_tfd": {"cross_entropy"},
    "vvo_mlp": {"codes", "reconstruction"},
    "dias_vvo": {"codes", "distillation"},
}
TERMS = ON_CODES | {"slotdiffusion": {"latents"}}


@pytest.mark.parametrize("name", TERMS)
def test_a_system_trains_encodes_decodes_and_is_saved(name: str, tmp_path: Path) -> None:
    dias, batch = system(name, boxes=name == "steve").train(), clips(boxes=2 if name == "steve" else None)
    terms = dias(batch, Draws.for_step(0, 0, range(3)))
    assert set(terms) - set(dias.watched) == TERMS[name]
    torch.stack([terms[term].sum() for term in TERMS[name]]).sum().backward()
    assert dias.aggregator.attention.query.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in dias.objective.parameters())  # frozen, and what is known has no gradient
    assert not dias.objective.tokenizer.training
    dias.save_pretrained(tmp_path)
    loaded = DIAS.from_pretrained(tmp_path)
    dias.eval()
    (one, _), (other, _) = (m.encode(batch, Draws.for_videos(0, batch.video_id)) for m in (dias, loaded))
    torch.testing.assert_close(one.slots, other.slots)
    torch.testing.assert_close(one.attention, other.attention)
    known, maps = loaded.decode_slots(one.slots, one.live)
    assert known.shape == (3, 4, N, E + C if name == "vvo_mlp" else E)
    torch.testing.assert_close(maps.sum(2), torch.ones(3, 4, *GRID))


def test_cross_entropy_is_that_of_a_loop_over_tokens() -> None:
    dias, batch = system("vvo_tfd").eval(), clips()
    batch.frame_valid[2, 3] = False
    features = dias.features(batch)
    target = dias.objective.target(features, batch)
    logits = torch.randn(3, 4, N, V)
    counted = batch.frame_valid[..., None].expand(-1, -1, N)
    got = dias.objective.losses(logits, target, counted, batch)["cross_entropy"]
    for b in range(3):
        cells = [(t, n) for t in range(4) for n in range(N) if batch.frame_valid[b, t]]
        each = [-logits[b, t, n].log_softmax(-1)[target.wanted[b, t, n]] for t, n in cells]
        torch.testing.assert_close(got[b], torch.stack(each).mean())
    with pytest.raises(ValueError, match=f"chooses among {V + 1} codes, the tokenizer has {V}; set sizes.num_codes"):
        dias.objective.losses(torch.randn(3, 4, N, V + 1), target, counted, batch)


@pytest.mark.parametrize("name", ON_CODES)
def test_a_tokenizer_whose_codes_have_another_width_is_answered_in_a_sentence(name: str) -> None:
    dias, batch = system(name).train(), clips()
    quantizer = VectorQuantizer(V, E + 1) if name in ("slate", "steve") else SimVQ(V, E + 1, frozen_dim=9)
    dias.objective.tokenizer.quantizer = quantizer
    batch.codes = torch.zeros(3, 4, N, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"wide.* set sizes\.code_dim"):
        dias(batch, Draws.for_step(0, 0, range(3)))


def test_what_is_known_are_the_vectors_of_the_frames_own_codes() -> None:
    dias, batch = system("vvo_mlp").train(), clips()
    features = dias.features(batch)
    target = dias.objective.target(features, batch)
    tokenizer = dias.objective.tokenizer
    codes = tokenizer.codes(batch.video, features)
    assert torch.equal(target.known, torch.cat([tokenizer.quantizer.codebook()[codes], features], -1))
    assert torch.equal(target.known, dias.objective.target(features, batch).known)  # no noise, though the model trains
    predicted = target.wanted + 1
    counted = torch.ones(3, 4, N, dtype=torch.bool)
    losses = dias.objective.losses(predicted, target, counted, batch)
    assert {name: value.tolist() for name, value in losses.items()} == {
        "codes": pytest.approx([1.0] * 3), "reconstruction": pytest.approx([1.0] * 3)
    }  # fmt: skip


def test_cached_codes_replace_the_tokenizer() -> None:
    dias, batch = system("slate").train(), clips()
    expected = dias(batch, Draws.for_step(0, 0, range(3)))["cross_entropy"]
    batch.codes = dias.objective.tokenizer.codes(batch.video).int()
    torch.testing.assert_close(dias(batch, Draws.for_step(0, 0, range(3)))["cross_entropy"], expected)
    assert dias.inputs({"features"}) == {"video"}
    assert dias.inputs({"codes"}) == {"video"}
    assert dias.inputs({"features", "codes"}) == set()
    batch.features, batch.video = dias.features(batch), None
    torch.testing.assert_close(dias(batch, Draws.for_step(0, 0, range(3)))["cross_entropy"], expected)
    batch.codes = (batch.codes + 1) % V
    assert not torch.allclose(dias(batch, Draws.for_step(0, 0, range(3)))["cross_entropy"], expected)


def test_latents_are_standardised_and_cached_ones_replace_the_tokenizer() -> None:
    dias, batch = system("slotdiffusion").train(), clips()
    batch.frame_valid[2, 3] = False
    latents = dias.objective.tokenizer.encoder(batch.video).detach()
    target = dias.objective.target(dias.features(batch), batch)
    for c in range(E):
        torch.testing.assert_close(target.wanted[..., c], (latents[..., c] - 0.5 * c) / (1.0 + c))
    assert target.known is target.wanted
    predicted = target.wanted + torch.arange(4.0)[:, None, None]  # every number of frame t is t off
    counted = batch.frame_valid[..., None].expand(-1, -1, N)
    losses = dias.objective.losses(predicted, target, counted, batch)
    assert {name: value.tolist() for name, value in losses.items()} == {"latents": pytest.approx([3.5, 3.5, 5 / 3])}

    def loss() -> torch.Tensor:
        return dias(batch, Draws.for_step(0, 0, range(3)))["latents"]

    assert (dias.inputs({"features"}), dias.inputs({"features", "latents"})) == ({"video"}, set())
    expected = loss()
    batch.features, batch.latents, batch.video = dias.features(batch), latents, None
    torch.testing.assert_close(loss(), expected)
    batch.latents = latents + 1
    assert not torch.allclose(loss(), expected)


def test_latents_that_do_not_fit_are_answered_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=f"latents are {E} wide, moments are of 2 and 2"):
        LatentObjective(of_pictures(), [[0.0, 0.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="a channel of the latents never changes"):
        LatentObjective(of_pictures(), [[0.0] * E, [1.0] * (E - 1) + [0.0]])
    dias, batch = system("slotdiffusion").train(), clips()
    dias.objective = LatentObjective(of_pictures())
    dias.decoder = DiffusionDecoder(E + 1, D, GRID, [8, 12], num_layers=1, num_heads=2, num_groups=4)
    with pytest.raises(ValueError, match=rf"tokens that are {E + 1} wide, these are {E}: set sizes\.code_dim"):
        dias(batch, Draws.for_step(0, 0, range(3)))


def test_greedy_generation_is_a_loop_over_tokens() -> None:
    """Every token is the likeliest after the ones before it; their vectors are fed back."""
    dias = system("slate").eval()
    decoder, tokenizer = dias.decoder, dias.objective.tokenizer
    slots, live = torch.randn(2, 1, S, D), torch.ones(2, 1, S, dtype=torch.bool)
    codes = torch.zeros(2, 1, N, dtype=torch.int64)
    with torch.no_grad():
        for n in range(N):
            logits = decoder(slots, live, tokenizer.vectors(codes)).reconstruction  # token n sees those before it
            codes[..., n] = logits[..., n, :].argmax(-1)
    known, _ = dias.decode_slots(slots, live)
    torch.testing.assert_close(known, tokenizer.vectors(codes))
    assert len(codes.unique()) > 1


def test_a_direct_decoder_has_the_published_parameters() -> None:
    """No projection and no bias, and a readout to the codes."""
    decoder = CausalDecoder(8, 8, GRID, width=8, num_layers=2, num_heads=2, out_dim=V, direct=True)
    names = {name.split(".")[-2] for name, _ in decoder.named_parameters() if "." in name}
    assert names == {"norm", "norm1", "norm2", "norm3", "qkv", "q", "kv", "out", "0", "2", "readout"}
    assert not [name for name, _ in decoder.named_parameters() if name.endswith("bias")]
    assert decoder.readout.weight.shape == (V, 8)
    assert not any(
        name.startswith(("project_tokens", "transformer.project_slots")) for name, _ in decoder.named_parameters()
    )
    with pytest.raises(ValueError, match="slots of width 8, got 6 and 8"):
        CausalDecoder(6, 8, GRID, width=8, direct=True)
