"""Frozen encoders, and the tiny one that learns from a large one."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from data_files import SHARED, reads_shared
from safetensors.torch import save_file
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA
from torchvision.transforms import v2

from dias_video.batch import VideoBatch, resize_frames
from dias_video.draws import Draws
from dias_video.model.distillation import Distillation, whiten
from dias_video.model.encoders import Encoder, TimmEncoder
from dias_video.model.tiny_encoder import TinyEncoder

WEIGHTS = SHARED.parent / "weights/dinov2_vits14_fp16.safetensors"
TINY_VIT = "vit_tiny_patch16_224.augreg_in21k"


def video(batch: int = 2, frames: int = 3, height: int = 20, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, frames, 3, height, width), generator=generator, dtype=torch.uint8)


def test_timm_tokens_are_the_patch_tokens_of_the_model() -> None:
    encoder = TimmEncoder(TINY_VIT, "random", (32, 48), final_norm=True, frame_size=(32, 48)).eval()
    assert encoder.grid == (2, 3)
    got = encoder.features(video(height=32, width=48))
    assert got.shape == (2, 3, 6, 192)
    pixels = (video(height=32, width=48)[1, 2].float() / 255 - 0.5) / 0.5  # this model's statistics
    expected = encoder.vit.forward_features(pixels[None])[0, 1:]  # without the class token
    torch.testing.assert_close(got[1, 2], expected)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_frames_of_any_size_are_resized_as_in_training_and_evaluation() -> None:
    """Bilinearly with antialiasing to uint8 frames, and from there bicubically without."""
    encoder = TimmEncoder(TINY_VIT, weights="random", input_size=(32, 48), frame_size=(36, 54)).eval()
    large = video(height=101, width=77)
    small = v2.Resize((36, 54), v2.InterpolationMode.BILINEAR, antialias=True)(large)
    assert torch.equal(encoder.features(large), encoder.features(small))
    seen = F.interpolate(small.flatten(0, 1).float() / 255, (32, 48), mode="bicubic", align_corners=False)
    expected = encoder.vit.forward_features((seen - 0.5) / 0.5)[:, 1:]
    torch.testing.assert_close(encoder.features(large).flatten(0, 1), expected)
    assert TimmEncoder(TINY_VIT, weights="random").frame_size == (256, 256)
    tiny = TinyEncoder(input_size=(16, 24))
    assert torch.equal(tiny.features(large), tiny.features(resize_frames(large, (16, 24))))


def test_timm_weights_from_a_file(tmp_path: Path) -> None:
    donor = timm.create_model(TINY_VIT, num_classes=0, img_size=224)
    save_file({k: v.contiguous() for k, v in donor.state_dict().items()}, tmp_path / "vit.safetensors")
    encoder = TimmEncoder(TINY_VIT, str(tmp_path / "vit.safetensors"), (32, 48)).eval()
    assert torch.equal(encoder.vit.blocks[0].attn.qkv.weight, donor.blocks[0].attn.qkv.weight)
    assert encoder.config["weights"] == "random"  # a saved model does not need the file again


def test_timm_user_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not found"):
        TimmEncoder(TINY_VIT, str(tmp_path / "nothing.safetensors"))
    with pytest.raises(ValueError, match=r"make no_such_vit .*; choose a Vision Transformer, see timm"):
        TimmEncoder("no_such_vit")
    with pytest.raises(ValueError, match=r"make resnet10t .*; choose a Vision Transformer, see timm"):
        TimmEncoder("resnet10t", "random")
    with pytest.raises(
        ValueError, match=r"tag \(augreg_in21k\.nope\).*; choose another name, see timm.list_pretrained"
    ):
        TimmEncoder(f"{TINY_VIT}.nope", "random")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"broken.*; the file is damaged, so fetch it again"):
        TimmEncoder(TINY_VIT, str(tmp_path / "broken.safetensors"))


def test_weights_that_can_not_be_fetched_are_answered_with_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    message = (
        r"^timm cannot make .* with weights hub: .*; without internet name a file with model\.encoder\.weights=<file"
    )
    with pytest.raises(ValueError, match=message):
        TimmEncoder(TINY_VIT, input_size=(32, 48))


def test_of_weights_of_another_model_the_first_that_does_not_fit_is_named(tmp_path: Path) -> None:
    donor = timm.create_model(TINY_VIT, num_classes=0, embed_dim=96, depth=2)
    save_file(donor.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"another model; choose encoder\.name= to fit$") as told:
        TimmEncoder(TINY_VIT, str(tmp_path / "vit.safetensors"), (32, 48))
    assert str(told.value).count("size mismatch for ") == 1
    assert "\n" not in str(told.value)
    TinyEncoder(input_size=(16, 24)).save_pretrained(tmp_path / "tiny")
    with pytest.raises(
        ValueError, match=r"tiny does not fit this encoder: .*; choose the encoder's options as "
    ) as told:
        TinyEncoder(width=12, weights=str(tmp_path / "tiny"))
    assert "\n" not in str(told.value)
    message = r"Missing key\(s\) in state_dict: \"vit\.cls_token\", …; choose the encoder's options"
    with pytest.raises(ValueError, match=message):
        TimmEncoder(TINY_VIT, str(tmp_path / "tiny"), (32, 48))


@reads_shared
def test_dinov2_from_a_local_file() -> None:
    encoder = TimmEncoder(weights=str(WEIGHTS)).eval()
    assert (encoder.grid, encoder.feature_dim) == ((16, 16), 384)
    plain = torch.zeros(1, 1, 3, 256, 256, dtype=torch.uint8)
    half = plain.clone()
    half[..., 128:] = 200
    a, b = encoder.features(plain), encoder.features(half)
    assert torch.isfinite(a).all()
    assert not torch.allclose(a, b, atol=0.1)


def test_tiny_encoder_sizes_and_training() -> None:
    encoder = TinyEncoder(feature_dim=5, width=12, depth=2, input_size=(16, 24))
    assert encoder.grid == (2, 3)
    assert encoder(video()).shape == (2, 3, 6, 5)
    assert encoder(video()).requires_grad
    assert not encoder.features(video()).requires_grad
    one = encoder.features(video()[1:, 2:])
    torch.testing.assert_close(encoder.features(video())[1:, 2:], one)
    with pytest.raises(ValueError, match="multiples of 8"):
        TinyEncoder(input_size=(20, 24))


def test_distillation_learns_the_teacher_and_hands_its_encoder_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = Distillation(TinyEncoder(6, width=16, depth=1, input_size=(16, 24)), teacher_dim=10)
    frames = video(batch=4, frames=1)
    mixing = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    cells = torch.nn.functional.adaptive_avg_pool2d(frames[:, 0].float() / 255, (2, 3)).flatten(2).transpose(1, 2)
    features = (cells @ mixing)[:, None]  # (4,1,6,10): a teacher that sees average colours
    index = torch.zeros(4, 1, dtype=torch.int64)
    batch = VideoBatch(frames, list("abcd"), index, torch.ones(4, 1, dtype=torch.bool), features=features)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    losses = []
    for step in range(150):
        loss = student(batch, Draws.for_step(0, step, range(4)))["distillation"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
    student.save_pretrained(tmp_path)
    loaded = TinyEncoder(6, width=16, depth=1, input_size=(16, 24), weights=str(tmp_path))
    assert torch.equal(loaded.features(frames), student.encoder.features(frames))
    for wrong in (None, features[..., :7], features[:, :, :5]):  # none, of another width, on another grid
        batch.features = wrong
        with pytest.raises(ValueError, match=r"teacher features \(4, 1, 6, 10\), got .*; model.teacher_dim= is"):
            student(batch, Draws.for_step(0, 0, range(4)))


ENCODERS = {
    "tiny": lambda: TinyEncoder(6, width=16, depth=1, input_size=(64, 96)),
    "timm": lambda: TimmEncoder(TINY_VIT, "random", (64, 96)),
}


def pictures() -> torch.Tensor:
    """(1,40,3,64,96) uint8 of smooth colours under noise."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(40, 3, 9, 11, generator=generator), size=(64, 96), mode="bilinear")
    noise = torch.rand(40, 3, 64, 96, generator=generator)
    return (255 * (0.8 * smooth + 0.2 * noise)).to(torch.uint8)[None]


def grid_tokens(encoder: Encoder) -> torch.Tensor:
    """(T,h,w,C) float64."""
    return encoder.features(pictures())[0].unflatten(1, encoder.grid).double()


def test_what_timm_draws_moves_no_weights_that_are_made_afterwards() -> None:
    """Its versions draw differently, and a seed would give other trainings."""
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    first = TimmEncoder(TINY_VIT, "random")
    assert torch.equal(torch.rand(5), expected)
    torch.manual_seed(4)
    other = TimmEncoder(TINY_VIT, "random")
    assert not torch.equal(first.vit.pos_embed, other.vit.pos_embed)


def test_a_linear_map_that_no_file_holds_is_refused() -> None:
    """It would be random, and frozen."""
    with pytest.raises(
        ValueError, match=r"feature_dim=4 .* hub holds none; leave feature_dim out, .* model\.encoder\.weights=<"
    ):
        TimmEncoder(TINY_VIT, "hub", feature_dim=4)


def test_a_whitened_encoder_moves_no_weights_that_are_made_afterwards() -> None:
    """So that a model of whitened features begins with the weights of one of features as they are."""
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    TimmEncoder(TINY_VIT, "random", feature_dim=4)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("smoothness", [0.0, 0.7])
def test_whitened_features_are_uncorrelated_and_smooth_ones_larger(kind: str, smoothness: float) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS[kind]().eval()
    before = grid_tokens(encoder)
    whitened, share = whiten(encoder, before, 4, smoothness)
    after = grid_tokens(whitened)
    assert torch.equal(grid_tokens(encoder), before)  # the encoder given is left as it was
    assert after.shape[-1] == whitened.feature_dim == 4
    assert share.sum() == pytest.approx(1.0)
    covariance = torch.cov(after.flatten(0, 2).T)
    variance = covariance.diagonal()
    torch.testing.assert_close(covariance, variance.diag(), atol=1e-2, rtol=0)
    assert variance.mean() == pytest.approx(1.0, abs=1e-2)
    torch.testing.assert_close(after.flatten(0, 2).mean(0), torch.zeros(4).double(), atol=1e-2, rtol=0)
    rows, columns = after[:, 1:] - after[:, :-1], after[:, :, 1:] - after[:, :, :-1]
    change = torch.cat([rows.flatten(0, 2), columns.flatten(0, 2)]).var(0) / variance
    expected = change**-smoothness
    torch.testing.assert_close(variance, expected / expected.mean(), atol=2e-2, rtol=2e-2)
    assert change.max() > 1.2 * change.min()  # or the test says nothing


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_leading_directions_are_those_of_the_principal_components(kind: str) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS[kind]().eval()
    before = grid_tokens(encoder)
    whitened, share = whiten(encoder, before, 3)
    pca = PCA(3, whiten=True).fit(before.flatten(0, 2).numpy())
    expected = torch.from_numpy(pca.transform(before.flatten(0, 2).numpy()))
    got = grid_tokens(whitened).flatten(0, 2)
    correlation = torch.corrcoef(torch.cat([got, expected], 1).T)[:3, 3:].abs()
    torch.testing.assert_close(correlation, torch.eye(3).double(), atol=1e-2, rtol=0)  # up to signs
    torch.testing.assert_close(share[:3], torch.from_numpy(pca.explained_variance_ratio_), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("smoothness", [0.0, 0.5])
def test_principal_components_keep_a_part_of_their_variance(smoothness: float) -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(TINY_VIT, "random", (64, 96)).eval()
    before = grid_tokens(encoder).double()
    whitened, _ = whiten(encoder, before, 4, smoothness, kept=0.3)
    after = grid_tokens(whitened).double().flatten(0, 2)
    pca = PCA(4, whiten=True)
    expected = torch.tensor(pca.fit_transform(before.flatten(0, 2).numpy()) * pca.explained_variance_**0.15)
    covariance = torch.cov(after.T)
    variance = covariance.diagonal()
    torch.testing.assert_close(covariance, variance.diag(), atol=1e-2, rtol=0)
    assert variance.mean() == pytest.approx(1.0, abs=1e-2)
    assert (variance.diff() < 0).all()
    if not smoothness:
        expected /= expected.var(0).mean().sqrt()
        torch.testing.assert_close(after.abs(), expected.abs(), atol=2e-2, rtol=2e-2)  # signs are arbitrary


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_whitened_features_turned_back_are_a_power_of_the_covariance(kept: float) -> None:
    torch.manual_seed(0)
    encoder = TinyEncoder(6, width=16, depth=1, input_size=(40, 56)).eval()
    before = grid_tokens(encoder).double()
    whitened, _ = whiten(encoder, before, 6, kept=kept, turned_back=True)
    flat = before.flatten(0, 2)
    power = torch.from_numpy(fractional_matrix_power(torch.cov(flat.T).numpy(), (kept - 1) / 2))
    expected = (flat - flat.mean(0)) @ power
    expected /= expected.var(0).mean().sqrt()
    torch.testing.assert_close(grid_tokens(whitened).double().flatten(0, 2), expected, atol=1e-3, rtol=1e-3)


def test_turning_back_changes_no_distances() -> None:
    torch.manual_seed(0)
    encoder = TinyEncoder(6, width=16, depth=1, input_size=(40, 56)).eval()
    before = grid_tokens(encoder)
    components, turned = (whiten(encoder, before, 6, 0.5, 0.3, turned)[0] for turned in (False, True))
    one, other = (grid_tokens(made).double().flatten(0, 2)[::3] for made in (components, turned))
    torch.testing.assert_close(torch.cdist(one, one), torch.cdist(other, other), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(one, other, atol=0.1)


def test_whitening_twice_is_whitening_once() -> None:
    encoder = TimmEncoder(TINY_VIT, "random", (64, 96)).eval()
    once, _ = whiten(encoder, grid_tokens(encoder), 5)
    twice, share = whiten(once, grid_tokens(once), 5)
    torch.testing.assert_close(share, torch.full((5,), 0.2).double(), atol=1e-3, rtol=0)
    after = grid_tokens(twice).flatten(0, 2)
    torch.testing.assert_close(torch.cov(after.T), torch.eye(5).double(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_whitened_encoder_is_saved_and_begins_models(kind: str, tmp_path: Path) -> None:
    encoder = ENCODERS[kind]().eval()
    whitened, _ = whiten(encoder, grid_tokens(encoder), 4, 0.5)
    whitened.save_pretrained(tmp_path)
    again = type(whitened).from_pretrained(tmp_path).eval()
    assert torch.equal(grid_tokens(again), grid_tokens(whitened))
    arguments = {k: v for k, v in whitened.config.items() if k not in ("type", "weights", "color")}
    painted = type(whitened)(**arguments, weights=str(tmp_path), color=2.0).eval()
    assert torch.equal(grid_tokens(painted)[..., :1], grid_tokens(whitened)[..., :1])
    assert not any(p.requires_grad for p in painted.parameters()) or kind == "tiny"  # which is still to be distilled
    with pytest.raises(ValueError, match="does not fit"):
        type(whitened)(**arguments | {"feature_dim": 5}, weights=str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        type(whitened)(**arguments, weights=str(tmp_path))


def test_whitening_wants_enough_tokens() -> None:
    encoder = TinyEncoder(6, width=16, depth=1, input_size=(16, 24))
    with pytest.raises(ValueError, match="more than 6"):
        whiten(encoder, torch.rand(1, 2, 3, 6), 6)
    with pytest.raises(ValueError, match="of which 7"):
        whiten(encoder, torch.rand(5, 2, 3, 6), 7)
    painted = TinyEncoder(6, width=16, depth=1, input_size=(16, 24), color=4.0)
    with pytest.raises(ValueError, match="without colour"):
        whiten(painted, torch.rand(5, 2, 3, 6), 6)


@pytest.mark.parametrize("kind", ["tiny", "timm"])
def test_the_mean_colour_of_a_cell_takes_the_last_three_features(kind: str) -> None:
    """Cells of one colour each: grey tells lightness alone, red against green and blue against both the rest."""
    if kind == "tiny":
        plain, painted = (TinyEncoder(5, width=12, depth=1, input_size=(16, 24), color=c) for c in (0.0, 2.0))
    else:
        plain, painted = (
            TimmEncoder(TINY_VIT, "random", (32, 48), feature_dim=5, color=c, frame_size=(32, 48)) for c in (0.0, 2.0)
        )
    painted.load_state_dict(plain.state_dict())
    side = plain.input_size[0] // 2  # of a cell
    frame = torch.zeros(1, 1, 3, 2 * side, 3 * side, dtype=torch.uint8)
    frame[..., :side, :side] = 255  # the first cell is white
    frame[:, :, 0, side:, 2 * side :] = 255  # the last cell is red
    before, after = plain.eval().features(frame)[0, 0], painted.eval().features(frame)[0, 0]  # (6,5)
    assert torch.equal(before[:, :2], after[:, :2])
    assert torch.allclose(after[0, 2:], 2 * torch.tensor([2.5, 0.0, 0.0]), atol=1e-5)
    assert torch.allclose(after[1, 2:], 2 * torch.tensor([-2.5, 0.0, 0.0]), atol=1e-5)
    assert torch.allclose(after[5, 2:], 2 * torch.tensor([5 / 3 - 2.5, 8.0, -4.0]), atol=1e-5)


def test_colour_takes_three_features() -> None:
    with pytest.raises(ValueError, match="color takes three features, and feature_dim is 2"):
        TinyEncoder(feature_dim=2, width=12, depth=1, input_size=(16, 24), color=0.5)
    TinyEncoder(feature_dim=2, width=12, depth=1, input_size=(16, 24))
    TinyEncoder(feature_dim=3, width=12, depth=1, input_size=(16, 24), color=0.5)
