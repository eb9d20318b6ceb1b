"""Tokenizers: which code stands for a cell, what is learned by, and what is said of them."""

from __future__ import annotations

import copy
import math
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_in_training import Clips
from tiny import GRID, HEIGHT, WIDTH, C, N, clips
from torch import nn

from dias_video.batch import VideoBatch
from dias_video.data.features import FeatureCache, cache_features, latent_moments
from dias_video.data.loading import ClipDataset
from dias_video.data.transforms import ClipTransform
from dias_video.draws import Draws
from dias_video.evaluation import codes as codes_module
from dias_video.evaluation.codes import CodeValidation
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.model.tokenizers.nets import (
    FeatureDecoder,
    FeatureEncoder,
    PatchDecoder,
    PatchEncoder,
    ResidualDecoder,
    ResidualEncoder,
)
from dias_video.model.tokenizers.quantizers import GumbelCodes, SimVQ, VectorQuantizer, gumbel, nearest
from dias_video.model.tokenizers.tokenizer import CodeReader, Tokenizer, check_tokenizer, frozen_tokenizer

V, E = 12, 6  # codes, width of a code's vector


def of_features(quantizer: nn.Module | None = None, backbone: bool = False) -> Tokenizer:
    torch.manual_seed(0)
    encoder = TinyEncoder(C, width=12, depth=1, input_size=(HEIGHT, WIDTH)) if backbone else None
    quantizer = quantizer or SimVQ(V, E, frozen_dim=9)
    return Tokenizer(FeatureEncoder(C, E, GRID, width=8), quantizer, FeatureDecoder(C, E), encoder)


def of_pictures(kind: str = "residual") -> Tokenizer:
    torch.manual_seed(0)
    if kind == "residual":
        size = (HEIGHT, WIDTH)  # another grid than DIAS' would be for slots that explain them
        nets = ResidualEncoder(E, size, width=8, stages=3), VectorQuantizer(V, E), ResidualDecoder(E, size, 8, 3)
    else:
        nets = PatchEncoder(V, (8, 12), width=8), GumbelCodes(V, E), PatchDecoder(E, (8, 12), width=8)
    return Tokenizer(*nets)


def training(progress: float = 0.5, count: int = 3, step: int = 0) -> Draws:
    return Draws.for_step(0, step, range(count), progress)


def test_the_nearest_vector_is_that_of_a_loop_also_in_half_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    codebook = (
        100 + torch.randn(V, E, generator=generator) * 0.1
    )  # far from the origin: bfloat16 would see no difference
    latents = codebook[torch.randint(V, (2, 3, N), generator=generator)] + 0.01 * torch.randn(
        2, 3, N, E, generator=generator
    )
    expected = torch.stack([(codebook.double() - z.double()).square().sum(-1).argmin() for z in latents.view(-1, E)])
    assert torch.equal(nearest(latents, codebook), expected.view(2, 3, N))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(latents, codebook), expected.view(2, 3, N))


def test_vq_losses_and_gradients_by_hand() -> None:
    quantizer = VectorQuantizer(3, 2)
    quantizer.vectors.data = torch.tensor([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]])
    latents = torch.tensor([[[[0.8, 0.6]]]], requires_grad=True)
    got = quantizer(latents, training(count=1))
    assert got.codes.item() == 1
    assert got.vectors.flatten().tolist() == pytest.approx([1.0, 1.0])
    assert got.losses["codebook"].item() == pytest.approx((0.04 + 0.16) / 2)
    (got.vectors * torch.tensor([2.0, 3.0])).sum().backward(retain_graph=True)
    assert latents.grad is not None
    assert latents.grad.flatten().tolist() == [2.0, 3.0]  # straight through
    assert quantizer.vectors.grad is None
    got.losses["codebook"].sum().backward(retain_graph=True)
    assert quantizer.vectors.grad[1].tolist() == pytest.approx([0.2, 0.4])
    latents.grad = None
    got.losses["commitment"].sum().backward()
    assert latents.grad.flatten().tolist() == pytest.approx([-0.2, -0.4])
    assert quantizer.vectors.grad[1].tolist() == pytest.approx([0.2, 0.4])  # of the codebook's loss alone


def test_simvq_scales_distances_by_the_chi_distribution() -> None:
    """Facts of the authors' code for width 256 and 4; and of a sample."""
    wide, narrow = SimVQ(2, 256, 3), SimVQ(2, 4, 3)
    assert (wide.mean, wide.std) == pytest.approx((15.98, 0.707), abs=0.005)
    assert (narrow.mean, narrow.std) == pytest.approx((1.88, 0.68), abs=0.005)
    lengths = torch.randn(40000, 4, generator=torch.Generator().manual_seed(0)).norm(dim=-1)
    assert (narrow.mean, narrow.std) == pytest.approx((float(lengths.mean()), float(lengths.std())), abs=0.02)


def test_simvq_draws_codes_as_often_as_their_distances_say() -> None:
    torch.manual_seed(1)
    quantizer, count = SimVQ(4, 2, 5), 20000
    latents = torch.randn(1, 1, 1, 2).expand(count, -1, -1, -1)
    for progress, factor in ((0.0, 1.0), (1.0, 2.35)):
        drawn = quantizer(latents, training(progress, count)).codes.flatten()
        distance = (quantizer.codebook() - latents[0, 0]).norm(dim=-1)
        expected = ((quantizer.mean - distance) / quantizer.std * factor).softmax(-1)
        torch.testing.assert_close(drawn.bincount(minlength=4) / count, expected.detach(), atol=0.015, rtol=0)
    assert len(quantizer(latents).codes.unique()) == 1  # later there is no noise
    assert quantizer(latents).codes[0].item() == distance.argmin()


def test_simvq_passes_from_the_latent_to_the_code() -> None:
    torch.manual_seed(2)
    quantizer, latents = SimVQ(V, E, 9), torch.randn(3, 2, N, E, requires_grad=True)
    for progress, left in ((0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)):
        got = quantizer(latents, training(progress))
        chosen = quantizer.codebook()[got.codes]
        torch.testing.assert_close(got.vectors, left * latents + (1 - left) * chosen)
        torch.testing.assert_close(got.losses["commitment"], ((1 - left) * (latents - chosen)).square().mean(-1))
    (gradient,) = torch.autograd.grad(got.vectors.sum(), latents, retain_graph=True)
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert torch.autograd.grad(got.losses["codebook"].sum(), quantizer.project.weight)[0].abs().sum() > 0
    mean, std = latents.mean((-2, -1), keepdim=True), latents.var((-2, -1), keepdim=True, unbiased=False)
    standard = (latents - mean) / (std + 1e-5).sqrt()
    torch.testing.assert_close(got.losses["standard"], (latents - standard.detach()).square().mean(-1))


def test_a_projected_codebook_is_that_of_the_weights_that_were_loaded(tmp_path: Path) -> None:
    model, other = of_features(), of_features(SimVQ(V, E, frozen_dim=9)).eval()
    with torch.no_grad():
        model.quantizer.project.weight.normal_()
    before = other.vectors(torch.arange(V))  # asked for before the weights come
    model.save_pretrained(tmp_path)
    other.load_state_dict(model.state_dict())
    for loaded in (other, frozen_tokenizer(tmp_path)):
        assert torch.equal(loaded.vectors(torch.arange(V)), model.quantizer.codebook().detach())
    assert not torch.equal(other.vectors(torch.arange(V)), before)


def test_gumbel_codes_mix_at_a_temperature_that_falls() -> None:
    torch.manual_seed(3)
    quantizer, latents = GumbelCodes(V, E, until=0.5), torch.randn(3, 2, N, V)
    for progress, temperature in ((0.0, 1.0), (0.25, 0.55), (0.5, 0.1), (1.0, 0.1)):
        noise = gumbel(training(progress), latents)
        expected = ((latents + noise) / temperature).softmax(-1) @ quantizer.vectors
        torch.testing.assert_close(quantizer(latents, training(progress)).vectors, expected)
    later = quantizer(latents)
    assert torch.equal(later.codes, latents.argmax(-1))
    assert torch.equal(later.vectors, quantizer.vectors[later.codes])


def test_gumbel_noise_is_the_same_however_a_batch_is_split() -> None:
    like = torch.zeros(4, 2, N, V)
    whole = gumbel(Draws.for_step(5, 1, range(4)), like)
    parts = [gumbel(Draws.for_step(5, 1, places), like[:2]) for places in (range(2), range(2, 4))]
    assert torch.equal(whole, torch.cat(parts))
    assert float(whole.mean()) == pytest.approx(0.5772, abs=0.1)  # of the Gumbel distribution


@pytest.mark.parametrize("make", [of_features, of_pictures, lambda: of_pictures("patch")])
def test_every_tokenizer_learns_and_has_one_code_a_cell(make) -> None:
    model, batch = make(), clips()
    batch.features = torch.randn(3, 4, N, C, generator=torch.Generator().manual_seed(1))
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    weights = {"commitment": 0.25, "standard": 0.1}
    losses = []
    assert model.inputs() == {"video"}
    for step in range(25):
        terms = model.train()(batch, training(step / 25, step=step))
        loss = torch.stack([weights.get(name, 1.0) * value.mean() for name, value in terms.items()]).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(terms["reconstruction"].mean()))
        assert all(value.shape == (3,) for value in terms.values())
    assert min(losses[-3:]) < losses[0]
    model.eval()
    codes = model.codes(batch.video, batch.features)
    assert codes.shape == (3, 4, model.encoder.grid[0] * model.encoder.grid[1])
    assert codes.max() < V
    assert torch.equal(codes, model.codes(batch.video, batch.features))
    one = model.codes(batch.video[1:2, 2:3], batch.features[1:2, 2:3])
    assert torch.equal(codes[1:2, 2:3], one)  # whatever is in a batch with it
    if not model.inputs({"features"}):
        batch.video = None
    assert (batch.video is None) == isinstance(model.encoder, FeatureEncoder)
    decoded = model.decoder(model.vectors(codes))
    assert decoded.shape == model.decoder.target(batch.video, batch.features).shape


def test_padding_is_not_counted() -> None:
    model, batch = of_pictures("patch"), clips()
    batch.frame_valid[1, 2:] = False
    terms = model(batch, training())
    batch.video[1, 2:] = 0
    assert torch.equal(model(batch, training())["reconstruction"], terms["reconstruction"])


def test_grids_are_those_of_the_papers() -> None:
    """64 px make 16x16 codes by stride 4, 128 px by stride 8; other sizes are refused."""
    assert PatchEncoder(V).grid == ResidualEncoder(E).grid == (16, 16)
    assert PatchEncoder(V, (20, 12)).grid == (5, 3)
    with pytest.raises(ValueError, match="multiples of 4"):
        PatchEncoder(V, (66, 64))


def test_a_frozen_tokenizer_has_no_backbone_and_makes_the_same_codes(tmp_path: Path) -> None:
    trained, batch = of_features(backbone=True).eval(), clips()
    trained.save_pretrained(tmp_path)
    frozen = frozen_tokenizer(tmp_path)
    assert frozen.backbone is None
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen.training
    features = trained.features(batch)
    assert torch.equal(frozen.codes(batch.video, features), trained.codes(batch.video, features))
    with pytest.raises(ValueError, match="give it a backbone, or cached features"):
        frozen.features(batch)
    reader = CodeReader(trained)
    assert torch.equal(reader.features(batch.video), trained.codes(batch.video, features))
    assert reader.config == CodeReader(frozen).config
    assert reader.state_dict().keys() == CodeReader(frozen).state_dict().keys()


def test_a_tokenizer_belongs_to_the_encoder_whose_features_it_was_trained_on(tmp_path: Path) -> None:
    trained = of_features(backbone=True)
    trained.save_pretrained(tmp_path / "trained")
    frozen_tokenizer(tmp_path / "trained").save_pretrained(tmp_path / "frozen")  # as in a model that was trained on it
    reader = CodeReader(frozen_tokenizer(tmp_path / "frozen"))
    assert trained.backbone is not None
    same, other = (copy.deepcopy(trained.backbone) for _ in range(2))
    check_tokenizer({"features": same, "codes": reader})
    with torch.no_grad():
        next(other.parameters()).add_(1)
    larger = TinyEncoder(C, width=12, depth=1, input_size=(2 * HEIGHT, WIDTH))
    for encoder in (other, larger):
        with pytest.raises(ValueError, match=r"on the features of another encoder than model\.encoder; train it with"):
            check_tokenizer({"features": encoder, "codes": reader})
    check_tokenizer({"features": other, "codes": CodeReader(of_features())})  # made without an encoder: not known
    check_tokenizer({"features": other, "codes": CodeReader(of_pictures())})
    check_tokenizer({"features": other})


@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_what_a_tokenizer_makes_is_cached_beside_features_and_belongs_to_it(kind: str, tmp_path: Path) -> None:
    """What training reads is of its frames; other tokenizers', other videos' and what no model looks at are refused."""
    source, trained = Clips(masks=False), of_features(backbone=True).eval()
    transform, folder = ClipTransform(size=(HEIGHT, WIDTH)), tmp_path / kind
    assert trained.backbone is not None
    cache_features(trained.backbone, source, tmp_path / "features", transform, batch_frames=3)
    cache_features(trained.frozen[kind], source, folder, transform, batch_frames=3, kind=kind)
    cache = FeatureCache(tmp_path / "features", **{kind: folder})
    clip = ClipDataset(source, 3, stride=2, transform=transform, features=cache)[4, 2]
    batch = VideoBatch.stack([clip])
    features = trained.backbone.features(source.batch.video[2:3, batch.frame_index[0]])
    latents = trained.encoder(None, features).detach()
    if kind == "codes":
        assert batch.codes is not None
        assert batch.latents is None
        assert batch.codes.dtype == torch.int64
        assert torch.equal(batch.codes, nearest(latents, trained.quantizer.codebook()))
    else:
        assert batch.latents is not None
        assert batch.codes is None
        torch.testing.assert_close(batch.latents, latents, atol=1e-5, rtol=1e-3)  # half precision
    cache.check_encoders(trained.frozen)
    for other in ("codes", "latents"):
        if other != kind:
            with pytest.raises(ValueError, match=f"{kind} is not a cache of {other}"):
                FeatureCache(tmp_path / "features", **{other: folder})
    torch.nn.init.zeros_(trained.quantizer.project.bias)
    if kind == "latents":  # the quantizer has no part in them
        cache.check_encoders(trained.frozen)
        torch.nn.init.zeros_(trained.encoder.net[0].weight)
    with pytest.raises(ValueError, match=f"{kind} was made by another encoder"):
        cache.check_encoders(trained.frozen)
    sentence = rf"this model looks at no {kind}: leave out data\.features\.{kind}"
    with pytest.raises(ValueError, match=sentence):
        cache.check_encoders({"features": trained.backbone})
    with pytest.raises(ValueError, match=r"this model looks at no features: leave out data\.features="):
        cache.check_encoders({})  # as of a tokenizer of frames, or of SLATE with one of its own
    with pytest.raises(ValueError, match=f"{kind} is not a cache of features"):
        FeatureCache(folder)
    cache_features(trained.backbone, Clips(), tmp_path / "others", transform, flips=True)
    with pytest.raises(ValueError, match=f"{kind} has {kind} of other videos than .*others has features of"):
        FeatureCache(tmp_path / "others", **{kind: folder})
    cache_features(trained.backbone, source, tmp_path / "squares", ClipTransform(size=(HEIGHT, WIDTH), square=True))
    with pytest.raises(ValueError, match=f"{kind} is of whole frames, .*squares is not; cache both with the same"):
        FeatureCache(tmp_path / "squares", **{kind: folder})


def test_moments_are_those_of_all_latents_of_a_cache(tmp_path: Path) -> None:
    source, trained = Clips(), of_pictures().eval()
    transform = ClipTransform(size=(HEIGHT, WIDTH))
    cache_features(trained.frozen["latents"], source, tmp_path, transform, batch_frames=3, kind="latents")
    latents = trained.encoder(source.batch.video).detach().double().numpy()  # (4,7,N,E)
    mean, std = latent_moments(tmp_path)
    assert mean == pytest.approx(latents.mean((0, 1, 2)), abs=1e-3)  # half precision
    assert std == pytest.approx(latents.std((0, 1, 2)), rel=1e-3)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("kind", ["features", "codes", "latents"])
def test_the_disk_is_full_at_one_byte_less_than_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, flips: bool
) -> None:
    trained, transform = of_features(backbone=True).eval(), ClipTransform(size=(HEIGHT, WIDTH))
    options: dict[str, Any] = {"transform": transform, "flips": flips, "kind": kind}
    cache_features(trained.frozen[kind], Clips(), tmp_path / "whole", **options)
    cache = FeatureCache(tmp_path / "whole", kind=kind)
    stored = sum(cache.store.read(key)[kind].nbytes for key in cache.store.keys)  # int32 or half precision
    for free, told in ((stored - 1, pytest.raises(ValueError, match=f"the {kind} take ")), (stored, nullcontext())):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with told:
            cache_features(trained.frozen[kind], Clips(), tmp_path / "other", **options)


def test_processes_count_what_all_of_them_will_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, transform = of_features(backbone=True).frozen["features"], ClipTransform(size=(HEIGHT, WIDTH))
    one_of_two = SimpleNamespace(number=1, count=2, is_main=False, together=nullcontext)
    monkeypatch.setattr("dias_video.data.features.Ranks", lambda: one_of_two)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 7 * N * C * 2))
    with pytest.raises(ValueError, match="the features take "):  # room for three of the four clips of seven frames
        cache_features(encoder, Clips(), tmp_path, transform)


def test_validation_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perplexity, dead codes, explained variance and PSNR over all frames, against NumPy-like loops."""
    model, source = of_pictures("patch").eval(), Clips()
    found = CodeValidation(source, None, num_videos=3, num_frames=5).validate(model, 0)
    video = source.batch.video[:3, :5]
    codes = model.codes(video)
    share = [float((codes == v).float().mean()) for v in range(V)]
    assert found["val/perplexity"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share if p)), rel=1e-5)
    assert found["val/dead_codes"] == sum(p == 0 for p in share)
    true = model.decoder.shown(model.decoder.target(video)).flatten(0, 1)
    got = model.decoder.shown(model.decoder(model.vectors(codes))).flatten(0, 1)
    error, around = float((got - true).square().mean()), float((true - true.mean(0)).square().mean())
    assert found["val/explained"] == pytest.approx(1 - error / around, rel=1e-4)
    assert found["val/psnr"] == pytest.approx(10 * math.log10(1 / error), rel=1e-4)
    assert found["val/psnr_mean"] == pytest.approx(10 * math.log10(1 / around), rel=1e-4)
    whole, four = (CodeValidation(source, None, count, 5) for count in (None, 4))
    assert whole.validate(model, 0) == four.validate(model, 0) != found
    monkeypatch.setattr(codes_module, "SHOWN", 2)
    files = whole.preview(model, tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["some/clip0.gif", "some/clip1.gif"]


def test_validation_of_features_has_no_pictures(tmp_path: Path) -> None:
    looks, model = CodeValidation(Clips(), None, 2, 3), of_features(backbone=True).eval()
    assert set(looks.validate(model, 0)) == {"val/perplexity", "val/dead_codes", "val/explained"}
    assert looks.preview(model, tmp_path) == []
    looks.check(model)
    with pytest.raises(ValueError, match="not for a Linear"):
        looks.check(nn.Linear(1, 1))
