"""SLATE and STEVE as their authors built them: a tokenizer that is trained along, and slots of its tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_tokenizers import E, V, of_features, training
from tiny import HEIGHT, WIDTH, D, S, clips
from torch import nn

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.evaluation.codes import CodeValidation
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.decoders.causal import CausalDecoder
from dias_video.model.dias import DIAS
from dias_video.model.dictionary import Dictionary
from dias_video.model.frame_projection import FrameProjection
from dias_video.model.initializers import BoxInitializer, GaussianInitializer
from dias_video.model.slate import SLATE, TokenProjection
from dias_video.model.tokenizers.nets import PatchDecoder, PatchEncoder
from dias_video.model.tokenizers.quantizers import GumbelCodes, SimVQ
from dias_video.model.tokenizers.tokenizer import Tokenizer
from dias_video.model.transition import Transition

SIZE, GRID, N = (8, 12), (2, 3), 6


def slate(name: str = "slate", boxes: bool = False, quantizer: nn.Module | None = None) -> SLATE:
    torch.manual_seed(0)
    codes = quantizer or GumbelCodes(V, E)
    nets = PatchEncoder(codes.latent_dim, SIZE, width=8), codes, PatchDecoder(E, SIZE, width=8)
    projection = TokenProjection(10, N) if name == "slate" else FrameProjection(10, (16, 24), GRID, width=8)
    return SLATE(
        Dictionary(Tokenizer(*nets), 10),
        projection,
        BoxInitializer(S, D, hidden=9) if boxes else GaussianInitializer(S, D),
        Aggregator(SlotAttention(D, 10, mlp_ratio=1), None, reinitialize=False),
        Transition(D, num_heads=2),
        CausalDecoder(10, D, GRID, width=10, num_layers=2, num_heads=2, out_dim=V),
        first_iterations=2,
    )


def grouped(model: SLATE) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of the tokenizer, and all others."""
    own = list(model.encoder.tokenizer.parameters())
    return own, [p for p in model.parameters() if all(p is not q for q in own)]


@pytest.mark.parametrize("name", ["slate", "steve"])
def test_it_trains_encodes_decodes_and_is_saved(name: str, tmp_path: Path) -> None:
    model, batch = slate(name, boxes=name == "steve").train(), clips(boxes=2 if name == "steve" else None)
    terms = model(batch, training())
    assert set(terms) - set(model.watched) == {"reconstruction", "cross_entropy"}
    assert all(p.requires_grad for p in model.parameters())  # nothing is frozen
    assert model.frozen == {}
    assert model.inputs() == ({"video", "boxes"} if name == "steve" else {"video"})
    model.save_pretrained(tmp_path)
    loaded = DIAS.from_pretrained(tmp_path)
    assert all(p.requires_grad for p in loaded.parameters())
    model.eval()
    (one, _), (other, _) = (m.encode(batch, Draws.for_videos(0, batch.video_id)) for m in (model, loaded))
    assert one.slots.shape == (3, 4, S, D)
    assert one.attention.shape == (3, 4, S, *GRID)
    torch.testing.assert_close(one.slots, other.slots)
    known, maps = loaded.decode_slots(one.slots, one.live)
    assert known.shape == (3, 4, N, E)
    torch.testing.assert_close(maps.sum(2), torch.ones(3, 4, *GRID))
    tokenizer = loaded.encoder.tokenizer
    assert tokenizer.decoder.shown(tokenizer.decoder(known)).shape == (3, 4, 3, *SIZE)  # pictures


def test_greedy_generation_is_a_loop_over_tokens() -> None:
    """Every token is the likeliest after the ones before it, whose vectors of the dictionary are fed back."""
    model = slate().eval()
    slots, live = torch.randn(2, 1, S, D), torch.ones(2, 1, S, dtype=torch.bool)
    codes = torch.zeros(2, 1, N, dtype=torch.int64)
    with torch.no_grad():
        for n in range(N):
            logits = model.decoder(slots, live, model.encoder(codes)).reconstruction  # token n sees those before it
            codes[..., n] = logits[..., n, :].argmax(-1)
    assert len(codes.unique()) > 1
    torch.testing.assert_close(model.decode_slots(slots, live)[0], model.encoder.tokenizer.vectors(codes))


def test_each_loss_trains_its_own_weights() -> None:
    """Cross-entropy of tokens with a gradient to the tokenizer would make it choose tokens that are easy to predict."""
    model, batch = slate().train(), clips()
    own, others = grouped(model)
    terms = model(batch, training())
    for name, reached, spared in (("reconstruction", own, others), ("cross_entropy", others, own)):
        model.zero_grad()
        terms[name].sum().backward(retain_graph=True)
        assert all(p.grad is None for p in spared)
        assert sum(p.grad is not None for p in reached) > 0.9 * len(reached)
    assert model.encoder.vectors.grad.abs().sum() > 0


def test_cross_entropy_is_of_the_sampled_tokens_given_those_before_them() -> None:
    """Written out: the tokens drawn, their vectors with positions to the slots, and one token after the other."""
    model, batch = slate(), clips(batch=2, frames=1)
    draws = training(count=2)
    model.train()
    got = model(batch, draws)["cross_entropy"]
    with torch.no_grad():
        again = training(count=2)
        _, codes = model.encoder.tokenizer.sampled(batch, again)
        vectors = torch.stack([model.encoder.vectors[code] for code in codes.flatten()]).view(2, N, 10)
        norm, positions = model.projection.norm, model.projection.positions
        tokens = model.projection.mlp(F.layer_norm(vectors + positions, (10,), norm.weight, norm.bias))
        queries, live = model.initializer(tokens, again)
        keys, values = model.aggregator.attention.keys_values(tokens)
        for _ in range(2):
            queries, _ = model.aggregator.attention(queries, keys, values, live)
        for b in range(2):
            each = []
            for n in range(N):
                hidden = vectors[b : b + 1, None].clone()
                hidden[:, :, n:] = 99.0  # what comes later can't matter
                logits = model.decoder(queries[b : b + 1, None], live[b : b + 1, None], hidden).reconstruction
                each.append(-logits[0, 0, n].log_softmax(-1)[codes[b, 0, n]])
            torch.testing.assert_close(got[b], torch.stack(each).mean())


def test_tokens_are_drawn_in_training_as_often_as_their_logits_say_and_the_likeliest_later() -> None:
    quantizer = GumbelCodes(3, E)
    latents = torch.tensor([0.2, 1.5, -0.7]).expand(1, 1, 4000, 3)
    share = quantizer(latents, training(count=1)).codes.flatten().bincount(minlength=3) / 4000
    torch.testing.assert_close(share, latents[0, 0, 0].softmax(-1), rtol=0, atol=0.03)  # four deviations
    assert quantizer(latents).codes.unique().tolist() == [1]
    model, batch = slate(), clips()
    codes = model.encoder.tokenizer.codes(batch.video)
    assert torch.equal(model.features(batch), model.encoder.vectors[codes])
    assert torch.equal(model.objective.target(model.features(batch), batch).wanted, codes)


def test_the_decoders_sample_is_not_the_tokens() -> None:
    """At a low temperature the tokenizer's decoder nearly gets single codes; the tokens are drawn once more."""
    quantizer, latents = GumbelCodes(V, E), torch.zeros(2, 3, N, V)
    found = quantizer(latents, training(progress=1.0, count=2))
    chosen = torch.cdist(found.vectors, quantizer.vectors).argmin(-1)
    assert float((chosen == found.codes).float().mean()) < 0.5


def test_a_sample_has_the_same_terms_alone_and_in_a_batch() -> None:
    model, batch = slate().train(), clips()
    whole = model(batch, Draws.for_step(0, 4, range(3), 0.5))
    alone = model(batch.changed(lambda value: value[1:2]), Draws.for_step(0, 4, range(1, 2), 0.5))
    for name, value in alone.items():
        torch.testing.assert_close(value[0], whole[name][1])
    assert whole["codes"].tolist() == [float(len(codes.unique())) for codes in drawn(model, batch)]
    batch.frame_valid[0, 1:] = False
    padded = model(batch, Draws.for_step(0, 4, range(3), 0.5))
    assert float(padded["codes"][0]) == len(drawn(model, batch)[0, 0].unique()) < float(whole["codes"][0])


def drawn(model: SLATE, batch: VideoBatch) -> torch.Tensor:
    return model.encoder.tokenizer.sampled(batch, Draws.for_step(0, 4, range(3), 0.5))[1]


def test_other_quantizers_have_their_losses_too() -> None:
    model = slate(quantizer=SimVQ(V, E, frozen_dim=9)).train()
    terms = model(clips(), training())
    assert set(terms) - set(model.watched) == {
        "reconstruction", "codebook", "commitment", "standard", "cross_entropy"
    }  # fmt: skip


def test_a_decoder_of_another_number_of_codes_is_answered_in_a_sentence() -> None:
    model = slate()
    model.decoder.readout = nn.Linear(10, V + 1)
    with pytest.raises(ValueError, match=f"chooses among {V + 1} codes, the tokenizer has {V}; set sizes.num_codes"):
        model(clips(), training())


def test_a_tokenizer_of_features_can_t_be_trained_along() -> None:
    with pytest.raises(ValueError, match="choose a tokenizer of frames"):
        Dictionary(of_features(), 10)


def test_a_validation_of_codes_looks_at_the_tokenizer_within(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = slate().eval(), clips(batch=1)
    sample = {"video": batch.video[0], "video_id": "a", "frame_index": batch.frame_index[0]}
    validation = CodeValidation([sample], None, num_videos=1, num_frames=4)
    monkeypatch.setattr(validation, "read", lambda index: sample)
    validation.check(model)
    assert validation.validate(model, 0) == validation.validate(model.encoder.tokenizer, 0)


def test_frames_become_tokens_by_convolutions_of_what_is_near_and_by_places() -> None:
    torch.manual_seed(0)
    projection = FrameProjection(10, (HEIGHT, WIDTH), (4, 6), width=8)
    video = clips(batch=1, frames=2).video
    assert projection(torch.empty(0), video).shape == (1, 2, 24, 10)
    corner = projection.places.view(4, 6, 4)
    assert corner[0, 0].tolist() == pytest.approx([1 / 12, 1 / 8, 11 / 12, 7 / 8])  # x, y and what is left of them
    assert corner[3, 5].tolist() == pytest.approx([11 / 12, 7 / 8, 1 / 12, 1 / 8])
    strides = [layer.stride for layer in projection.net if isinstance(layer, nn.Conv2d)]
    assert strides == [(2, 2), (2, 2), (1, 1), (1, 1)]
    larger = projection(torch.empty(0), video.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert larger.shape == (1, 2, 24, 10)  # frames are resized
    nn.init.zeros_(projection.net[-1].weight)  # nothing is seen of the frames: a token is of its place alone
    of_places = projection.mlp(projection.norm(projection.place(projection.places)))
    torch.testing.assert_close(projection(torch.empty(0), video), of_places.expand(1, 2, -1, -1))
    assert len(of_places.unique(dim=0)) == 24


@pytest.mark.parametrize(("size", "grid"), [((16, 24), (4, 12)), ((16, 24), (3, 6)), ((64, 96), (2, 3))])
def test_a_grid_that_frames_can_t_be_halved_to_is_refused(size: tuple[int, int], grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"can't be halved to a grid of"):
        FrameProjection(10, size, grid)


def test_features_of_a_cache_are_not_what_it_looks_at() -> None:
    """Training makes its own, whatever a batch has."""
    model, batch = slate().train(), clips()
    other = replace(batch, features=torch.randn(3, 4, N, 10), codes=torch.zeros(3, 4, N, dtype=torch.int64))
    one, two = (model(b, Draws.for_step(0, 4, range(3), 0.5))["cross_entropy"] for b in (batch, other))
    torch.testing.assert_close(one, two)
