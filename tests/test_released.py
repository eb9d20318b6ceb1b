"""Released checkpoints: outputs against modules written here from the facts of the authors' repositories, which carry
their parameter names; conversion through the script's own way; everything left over is listed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dias_video.batch import VideoBatch
from dias_video.convert.dias import adopt_released
from dias_video.convert.foreign import adopt, read_checkpoint
from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.encoders import TimmEncoder
from dias_video.model.initializers import GaussianInitializer
from dias_video.model.losses import distillation_loss
from dias_video.model.projection import Projection
from dias_video.model.transition import Transition
from slotformer.convert import adopt_released as adopt_slotformer
from slotformer.rollouter import SlotFormer

ROOT = Path(__file__).parents[1]
VIT = "vit_small_patch14_reg4_dinov2.lvd142m"
B, S, D, C, SIDE = 2, 7, 32, 384, 4  # 64 px frames, resized to 56 px: 4x4 tokens
N = SIDE**2
EXACT = {"atol": 1e-5, "rtol": 1e-5}


class ReleasedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1q, self.norm1kv, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(C), nn.LayerNorm(D)
        self.proj_q = nn.Linear(D, D, bias=False)
        self.proj_k, self.proj_v = nn.Linear(C, D, bias=False), nn.Linear(C, D, bias=False)
        self.rnn = nn.GRUCell(D, D)
        self.ffn = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def forward(self, tokens: Tensor, slots: Tensor, iterations: int = 3) -> tuple[Tensor, list[Tensor]]:
        """Image by image and slot by slot."""
        maps = []
        for _ in range(iterations):
            shares = torch.stack(
                [
                    (self.proj_k(self.norm1kv(x)) @ self.proj_q(self.norm1q(s)).T / D**0.5).softmax(-1).T
                    for x, s in zip(tokens, slots, strict=True)
                ]
            )
            after = torch.zeros_like(slots)
            for b in range(len(slots)):
                values = self.proj_v(self.norm1kv(tokens[b]))
                for s in range(S):
                    share = shares[b, s]
                    state = self.rnn(((share / (share.sum() + 1e-5)) @ values)[None], slots[b, s][None])[0]
                    after[b, s] = state + self.ffn(self.norm2(state))
            slots = after
            maps.append(shares)
        return slots, maps


class ReleasedDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.randn(1, 1, C))
        self.posit_embed = nn.Module()
        self.posit_embed._pe = nn.Parameter(torch.randn(1, N, C))
        self.project1 = nn.Sequential(nn.Linear(C, C, bias=False), nn.LayerNorm(C))
        self.project2 = nn.Sequential(nn.Linear(D, C, bias=False), nn.LayerNorm(C))
        layer = nn.TransformerDecoderLayer(
            C, 4, 4 * C, 0.0, "gelu", batch_first=True, norm_first=True, bias=False
        )  # fmt: skip
        self.backbone = nn.TransformerDecoder(layer, 4)
        self.norm0 = self.backbone.layers[0].norm1
        self.backbone.layers[0].norm1 = nn.Identity()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else 0.05)

    def forward(self, features: Tensor, slots: Tensor, walks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Image by image: tokens walked in the order ``walks`` (B,N), the first ``known`` (B,) of them known."""
        recon, attention = torch.zeros_like(features), torch.zeros(len(slots), S, N)
        for b, walk in enumerate(walks):
            tokens = self.project1(features[b])[walk]
            tokens[known[b] :] = self.mask_token[0, 0]
            x = self.norm0(tokens + self.posit_embed._pe[0, walk])[None]
            memory = self.project2(slots[b])[None]
            for layer in self.backbone.layers:
                y = layer.norm1(x)
                x = x + layer.self_attn(y, y, y)[0]
                update, weights = layer.multihead_attn(layer.norm2(x), memory, memory, need_weights=True)
                x = x + update
                x = x + layer.linear2(F.gelu(layer.linear1(layer.norm3(x))))
            recon[b, walk], attention[b, :, walk] = x[0], weights[0].T
        return recon, attention


class ReleasedDIAS(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        vit = timm.create_model(VIT, pretrained=False, img_size=14 * SIDE, num_classes=0)
        vit.norm = nn.Identity()
        for block in vit.blocks:  # LayerScale begins at 1e-5, which would hide what the blocks do
            nn.init.constant_(block.ls1.gamma, 0.3)
            nn.init.constant_(block.ls2.gamma, 0.3)
        self.encode_backbone = nn.Sequential(nn.Identity(), vit)
        self.encode_project = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, C), nn.GELU(), nn.Linear(C, C))
        self.initializ = nn.Module()
        self.initializ.mean = nn.Parameter(torch.randn(1, 1, D))
        self.initializ.logstd = nn.Parameter(torch.randn(1, 1, D))
        self.aggregat = ReleasedAttention()
        self.decode = ReleasedDecoder()
        for norm in (m for m in self.modules() if isinstance(m, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1, 0.1)

    def features(self, image: Tensor) -> Tensor:
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        image = (image.float() - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        small = F.interpolate(image, None, 0.875, "bicubic")
        return self.encode_backbone[1].forward_features(small)[:, 5:]  # after the class and four register tokens


def ours() -> DIAS:
    return DIAS(
        TimmEncoder(VIT, "random", (14 * SIDE, 14 * SIDE), frame_size=(64, 64)),
        Projection(C, C),
        GaussianInitializer(S, D),
        Aggregator(SlotAttention(D, C), None, reinitialize=False),
        Transition(D),
        RandomARDecoder(C, D, N, width=C),
        teacher="soft",
    )


@pytest.fixture(scope="module")
def released() -> ReleasedDIAS:
    return ReleasedDIAS().eval()


@pytest.fixture(scope="module")
def converted(released: ReleasedDIAS, tmp_path_factory: pytest.TempPathFactory) -> DIAS:
    """Through a file with the names that the released one has."""
    file = tmp_path_factory.mktemp("released") / "best.pth"
    torch.save({f"m.{name}": value for name, value in released.state_dict().items()}, file)
    model = ours()
    leftover = adopt_released(model, read_checkpoint(file))
    assert [line for line in leftover if not line.startswith("transition.")] == []
    assert len(leftover) == len(list(model.transition.parameters()))
    return model.eval()


def images(seed: int = 0) -> VideoBatch:
    video = torch.randint(0, 256, (B, 1, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    one = torch.zeros(B, 1, dtype=torch.int64)
    return VideoBatch(video, [f"image{i}" for i in range(B)], one, one == 0)


@torch.no_grad()
def test_image_model_equals_the_released_one(released: ReleasedDIAS, converted: DIAS) -> None:
    batch = images()
    features = released.features(batch.video[:, 0])
    assert features.std() > 0.1
    torch.testing.assert_close(converted.features(batch)[:, 0], features, **EXACT)

    noise = Draws.for_videos(0, batch.video_id).normal(S, D)
    queries = released.initializ.mean + noise * released.initializ.logstd.exp()
    slots, maps = released.aggregat(released.encode_project(features), queries)
    scan = converted.scan(batch, features[:, None], Draws.for_videos(0, batch.video_id))
    torch.testing.assert_close(scan.slots[:, 0], slots, **EXACT)
    torch.testing.assert_close(scan.first[:, 0].flatten(-2), maps[0], **EXACT)
    torch.testing.assert_close(scan.attention[:, 0].flatten(-2), maps[2], **EXACT)

    everything = torch.arange(N).expand(B, -1), torch.full((B,), N)
    recon, attention = released.decode(features, slots, *everything)
    decoded = converted.decoder(scan.slots, scan.live, features[:, None])
    torch.testing.assert_close(decoded.reconstruction[:, 0], recon, **EXACT)
    torch.testing.assert_close(decoded.attention[:, 0], attention, **EXACT)
    assert attention.std() > 0.005  # neither uniform
    assert maps[2].std() > 0.005
    loss = distillation_loss(scan.first.flatten(-2), scan.attention.flatten(-2), scan.live, "soft", batch.frame_valid)
    expected = [F.cross_entropy(a[None], b[None]) for a, b in zip(maps[0], maps[2], strict=True)]
    torch.testing.assert_close(loss, torch.stack(expected), **EXACT)
    assert converted.encode(batch, Draws.for_videos(0, batch.video_id))[0].attention.shape == (B, 1, S, SIDE, SIDE)


@torch.no_grad()
def test_random_decoding_in_training_equals_the_released_one(released: ReleasedDIAS, converted: DIAS) -> None:
    generator = torch.Generator().manual_seed(1)
    features, slots = torch.randn(B, N, C, generator=generator), torch.randn(B, S, D, generator=generator)
    for step in range(3):
        draws = Draws.for_step(0, step, range(B))
        walks = draws.uniform(1, N)[:, 0].argsort(-1)
        uniform = (draws.uniform(1) * N).long()[:, 0]
        known = torch.where(draws.uniform(1)[:, 0] < 0.5, uniform, int(0.1 * N))
        recon, attention = released.decode(features, slots, walks, known)
        live = torch.ones(B, 1, S, dtype=torch.bool)
        got = converted.decoder(slots[:, None], live, features[:, None], Draws.for_step(0, step, range(B)))
        torch.testing.assert_close(got.reconstruction[:, 0], recon, **EXACT)
        torch.testing.assert_close(got.attention[:, 0], attention, **EXACT)


class ReleasedRollouter(nn.Module):
    def __init__(self, slots: int, frames: int, positions_over_slots: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.slots, self.frames = slots, frames
        self.in_proj, self.out_proj = nn.Linear(12, 32), nn.Linear(32, 12)
        layer = nn.TransformerEncoderLayer(32, 4, 64, norm_first=True, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        table = [
            [(torch.sin if j < 16 else torch.cos)(torch.tensor(age / 10000 ** (2 * (j % 16) / 32))) for j in range(32)]
            for age in range(frames - 1, -1, -1)
        ]
        self.enc_t_pe = nn.Parameter(torch.tensor(table)[None], requires_grad=False)
        for parameter in self.transformer_encoder.parameters():
            nn.init.normal_(parameter, std=0.2)

    def forward(self, window: Tensor, steps: int) -> Tensor:
        """(B,T,S,12) -> (B,steps,S,12)"""
        predicted = []
        for _ in range(steps):
            tokens = self.in_proj(window) + self.enc_t_pe[:, :, None]
            new = self.out_proj(self.transformer_encoder(tokens.flatten(1, 2))[:, -self.slots :])
            predicted.append(new)
            window = torch.cat([window[:, 1:], new[:, None]], 1)
        return torch.stack(predicted, 1)


@torch.no_grad()
def test_slotformer_equals_the_released_one(tmp_path: Path) -> None:
    theirs = ReleasedRollouter(slots=6, frames=5).eval()
    state = {f"rollouter.{name}": value for name, value in theirs.state_dict().items()}
    state["decoder.pos.weight"] = torch.zeros(3, 4)
    torch.save({"state_dict": state, "epoch": 7, "amp": {"scale": 2.0}}, tmp_path / "model_25.pth")
    model = SlotFormer(12, burn_in=5, rollout=4, width=32, layers=3, heads=4, ffn_ratio=2).eval()
    leftover = adopt_slotformer(model, read_checkpoint(tmp_path / "model_25.pth"))
    assert leftover == [
        "decoder.pos.weight (3, 4): has no counterpart",
        "slot_mean (12,): not in the checkpoint",
        "slot_scale (): not in the checkpoint",
    ]
    slots = torch.randn(B, 5, 6, 12, generator=torch.Generator().manual_seed(2))
    got = model.rollout(slots, torch.ones(B, 5, 6, dtype=torch.bool), 4)
    torch.testing.assert_close(got, theirs(slots, 4), **EXACT)


def test_what_does_not_fit_is_listed_with_its_reason(released: ReleasedDIAS) -> None:
    tensors = {name: value for name, value in released.state_dict().items() if not name.startswith("encode_b")}
    tensors["initializ.mean"] = torch.zeros(1, S, D)  # of a Gaussian a slot
    tensors["decode.posit_embed._project.weight"] = torch.zeros(C, 9)
    del tensors["aggregat.rnn.bias_hh"]
    model = ours()
    before = model.initializer.mean.clone()
    leftover = adopt_released(model, tensors)
    assert "initializ.mean (1, 7, 32): the model wants initializer.mean (1, 32)" in leftover
    assert "initializer.mean (1, 32): not in the checkpoint" in leftover
    assert "decode.posit_embed._project.weight (384, 9): has no counterpart" in leftover
    assert "aggregator.attention.gru.bias_hh (96,): not in the checkpoint" in leftover
    assert sum(line.startswith("encoder.vit.") for line in leftover) == len(model.encoder.state_dict())
    assert torch.equal(model.initializer.mean, before)
    other_width = SlotFormer(12, burn_in=4, width=32, layers=1, heads=4)
    theirs = ReleasedRollouter(slots=6, frames=5)
    listed = adopt_slotformer(other_width, {f"rollouter.{k}": v for k, v in theirs.state_dict().items()})
    assert "rollouter.enc_t_pe (1, 5, 32): has no counterpart" in listed  # another number of frames
    assert any("layers.1.norm1.weight" in line and "the model has no blocks.1.norm1.weight" in line for line in listed)


def test_a_tensor_can_be_cut_and_is_taken_once() -> None:
    model = nn.ModuleDict({name: nn.Linear(2, rows, bias=False) for name, rows in (("a", 1), ("b", 3), ("c", 1))})
    whole, other = torch.arange(8.0).view(4, 2), torch.ones(1, 2)
    rules = [(r"ab|again", "a.weight+b.weight"), ("c", "c.weight")]
    assert adopt(model, {"ab": whole[:3], "c": other}, rules)[0].startswith(
        "ab (3, 2): the model wants a.weight (1, 2) and b.wei"
    )
    assert adopt(model, {"ab": whole, "again": whole, "c": other}, rules) == [
        "again (4, 2): the model has no a.weight and no b.weight to fill"
    ]
    assert torch.equal(model["b"].weight, whole[1:])
    with pytest.raises(ValueError, match="none of the 2 tensors fits a ModuleDict"):
        adopt(model, {"ab": whole[:3], "d": other}, rules)


def test_files(tmp_path: Path) -> None:
    save_file({"module.x": torch.ones(2)}, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.safetensors").keys() == {"x"}
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")  # a pickled object: not only weights
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    (tmp_path / "broken.pth").write_bytes(b"junk")
    for name, words in (
        ("code", "plain weights"), ("none", "no state dict"), ("broken", "plain weights"), ("gone", "is missing"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name}\.pth.*{words}"):
            read_checkpoint(tmp_path / f"{name}.pth")


@pytest.mark.slow
def test_script_converts_both_kinds(tmp_path: Path, released: ReleasedDIAS) -> None:
    """At the published sizes, as a user would start it; the models load and the list is printed."""
    theirs = {k: v for k, v in released.state_dict().items() if k.startswith(("encode_project", "decode.project1"))}
    torch.save({f"m.{name}": value for name, value in theirs.items()}, tmp_path / "dias.pth")
    rollouter = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(256, 8, 1024, norm_first=True, batch_first=True), 8, enable_nested_tensor=False
    )
    state = {f"rollouter.transformer_encoder.{k}": v for k, v in rollouter.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "slotformer.pth")
    for words, kind, tensor, value in (
        (["model=released_image", f"file={tmp_path / 'dias.pth'}"], DIAS, "projection.out.weight", "encode_project.3"),
        (
            ["slotformer=published", "slot_dim=192", f"file={tmp_path / 'slotformer.pth'}"],
            SlotFormer, "blocks.7.ffn.0.weight", None,
        ),
    ):  # fmt: skip
        out = tmp_path / kind.__name__
        command = [sys.executable, str(ROOT / "scripts/convert_checkpoint.py"), *words, f"out_dir={out}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "not in the checkpoint" in done.stdout
        expected = (
            theirs[f"{value}.weight"] if value else state["rollouter.transformer_encoder.layers.7.linear1.weight"]
        )
        assert torch.equal(kind.from_pretrained(out).state_dict()[tensor], expected)
