"""VideoSAUR's and SlotContrast's checkpoints, in their public layout with random weights, against a plain forward pass
written here from the published formulas."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_facts import leaves
from torch import Tensor

from dias_video.batch import VideoBatch
from dias_video.convert.foreign import read_checkpoint
from dias_video.convert.videosaur import convert_videosaur, is_videosaur
from dias_video.draws import Draws
from dias_video.model.dias import DIAS

ROOT = Path(__file__).parents[1]
VIT, PATCH, SIDE = "vit_small_patch14_dinov2.lvd142m", 14, 4
B, T, S, D, C, N, HIDDEN, HEADS = 2, 3, 5, 24, 384, SIDE**2, 20, 4
EXACT = {"atol": 1e-5, "rtol": 1e-5}
Weights = dict[str, Tensor]

_VIT, _CORRECTOR, _DECODER = "encoder.module.backbone.model.", "processor.module.corrector.", "decoder.module."


def made(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    """Random weights: matrices keep the scale of what they are given, norms are near 1 and biases near 0."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, shape in shapes.items():
        near_one = len(shape) == 1 and name.endswith("weight") and ("norm" in name or "layers.0." in name)
        near_one = near_one or name.endswith("gamma")
        scale = 1.0 if name.startswith("initializer") else shape[-1] ** -0.5 if len(shape) > 1 else 0.2
        drawn[name] = torch.randn(shape, generator=generator) * scale + near_one
    return drawn


def block(prefix: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}norm{i}.{kind}": (D,) for i in (1, 2) for kind in ("weight", "bias")
    }
    linear = {"self_attn.qkv": (3 * D, D), "self_attn.out_proj": (D, D), "linear1": (4 * D, D), "linear2": (D, 4 * D)}
    return shapes | linears(linear, prefix)


def linears(shapes: dict[str, tuple[int, int]], prefix: str = "") -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        found |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
    return found


def common(vit_side: int = SIDE) -> Weights:
    """Backbone, projection, corrector without MLP and predictor."""
    vit = timm.create_model(VIT, pretrained=False, img_size=PATCH * vit_side, num_classes=0)
    shapes = {f"{_VIT}{n}": tuple(w.shape) for n, w in vit.state_dict().items() if not n.startswith("norm.")}
    shapes |= {f"encoder.module.output_transform.layers.0.{kind}": (C,) for kind in ("weight", "bias")}
    shapes |= linears({"1": (HIDDEN, C), "3": (D, HIDDEN)}, "encoder.module.output_transform.layers.")
    shapes |= {f"{_CORRECTOR}norm_{x}.{kind}": (D,) for x in ("features", "slots") for kind in ("weight", "bias")}
    shapes |= {f"{_CORRECTOR}to_{x}.weight": (D, D) for x in "qkv"}
    shapes |= {f"{_CORRECTOR}gru.weight_{x}h": (3 * D, D) for x in "ih"}
    shapes |= {f"{_CORRECTOR}gru.bias_{x}h": (3 * D,) for x in "ih"}
    weights = made(shapes | block("processor.module.predictor.blocks.0."), seed=1)
    for name in weights:  # not what they are made like in timm, whose first and second moments are small
        if name.endswith(("qkv.weight", "fc1.weight", "fc2.weight", "proj.weight")) and name.startswith(_VIT):
            weights[name] = 0.5 * weights[name]
    return weights


def slotcontrast(vit_side: int = SIDE) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {"initializer.slots": (1, S, D), f"{_DECODER}pos_emb": (1, 1, N, D)}
    shapes |= {f"{_CORRECTOR}mlp.layers.0.{kind}": (D,) for kind in ("weight", "bias")}
    shapes |= linears({"1": (4 * D, D), "3": (D, 4 * D)}, f"{_CORRECTOR}mlp.layers.")
    decoder = {"0": (HIDDEN, D), "2": (HIDDEN, HIDDEN), "4": (HIDDEN, HIDDEN), "6": (C + 1, HIDDEN)}
    return common(vit_side) | made(shapes | linears(decoder, f"{_DECODER}mlp.layers."), seed=2)


def videosaur(blocks: int = 3, render: int = 3, out: int = C + N) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {f"initializer.{name}": (1, 1, D) for name in ("mean", "log_std")}
    shapes |= {f"{_DECODER}pos_emb": (1, N, D), f"{_DECODER}to_q.weight": (D, D), f"{_DECODER}to_k.weight": (D, D)}
    shapes |= {f"{_DECODER}norm_{x}.{kind}": (D,) for x in ("memory", "q", "k") for kind in ("weight", "bias")}
    for i in range(blocks):
        shapes |= block(f"{_DECODER}allocator.blocks.{i}.")
    shapes |= linears({str(2 * i): (HIDDEN, HIDDEN if i else D) for i in range(render)}, f"{_DECODER}renderer.layers.")
    return common() | made(shapes | linears({"output_transform": (out, HIDDEN)}, _DECODER), seed=3)


class Published:
    """The published formulas, one clip, frame, head and slot at a time."""

    def __init__(self, weights: Weights) -> None:
        self.w = weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.w.get(f"{name}.bias")
        return x @ self.w[f"{name}.weight"].T + (0 if bias is None else bias)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def layer(self, prefix: str, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Logits are divided by d^-0.5."""
        normed = self.norm(f"{prefix}norm1", x)
        weight, bias = (self.w[f"{prefix}self_attn.qkv.{kind}"] for kind in ("weight", "bias"))
        q, k, v = (
            (normed if i == 0 or memory is None else memory) @ weight[i * D : (i + 1) * D].T + bias[i * D : (i + 1) * D]
            for i in range(3)
        )
        width = D // HEADS
        heads = []
        for h in range(HEADS):
            at = slice(h * width, (h + 1) * width)
            heads.append(((q[:, at] / width**-0.5) @ k[:, at].T).softmax(-1) @ v[:, at])
        x = x + self.linear(f"{prefix}self_attn.out_proj", torch.cat(heads, -1))
        hidden = self.linear(f"{prefix}linear1", self.norm(f"{prefix}norm2", x)).clamp_min(0)
        return x + self.linear(f"{prefix}linear2", hidden)

    def tokens(self, features: Tensor) -> Tensor:
        name = "encoder.module.output_transform.layers."
        return self.linear(f"{name}3", self.linear(f"{name}1", self.norm(f"{name}0", features)).clamp_min(0))

    def correct(self, slots: Tensor, tokens: Tensor, iterations: int) -> tuple[Tensor, list[Tensor]]:
        tokens, maps = self.norm(f"{_CORRECTOR}norm_features", tokens), []
        keys, values = self.linear(f"{_CORRECTOR}to_k", tokens), self.linear(f"{_CORRECTOR}to_v", tokens)
        for _ in range(iterations):
            slots = self.norm(f"{_CORRECTOR}norm_slots", slots)
            maps.append((self.linear(f"{_CORRECTOR}to_q", slots) @ keys.T / D**0.5).softmax(0))
            new = []
            for share, old in zip(maps[-1] + 1e-8, slots, strict=True):
                x = (share / share.sum()) @ values
                gates = zip(
                    (x @ self.w[f"{_CORRECTOR}gru.weight_ih"].T + self.w[f"{_CORRECTOR}gru.bias_ih"]).split(D),
                    (old @ self.w[f"{_CORRECTOR}gru.weight_hh"].T + self.w[f"{_CORRECTOR}gru.bias_hh"]).split(D),
                    strict=True,
                )
                (r0, r1), (z0, z1), (n0, n1) = gates
                keep = (z0 + z1).sigmoid()
                new.append((1 - keep) * (n0 + (r0 + r1).sigmoid() * n1).tanh() + keep * old)
            slots = torch.stack(new)
            if f"{_CORRECTOR}mlp.layers.1.weight" in self.w:
                hidden = self.linear(
                    f"{_CORRECTOR}mlp.layers.1", self.norm(f"{_CORRECTOR}mlp.layers.0", slots)
                ).clamp_min(0)
                slots = slots + self.linear(f"{_CORRECTOR}mlp.layers.3", hidden)
        return slots, maps

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction (N,C) and masks (S,N)."""
        positions = self.w[f"{_DECODER}pos_emb"].view(N, D)
        if f"{_DECODER}mlp.layers.0.weight" in self.w:
            parts = slots[:, None] + positions
            for i in (0, 2, 4):
                parts = self.linear(f"{_DECODER}mlp.layers.{i}", parts).clamp_min(0)
            parts = self.linear(f"{_DECODER}mlp.layers.6", parts)
            masks = parts[..., -1].softmax(0)
            return sum(mask[:, None] * part[:, :-1] for mask, part in zip(masks, parts, strict=True)), masks
        x, memory, i = positions, self.norm(f"{_DECODER}norm_memory", slots), 0
        while f"{_DECODER}allocator.blocks.{i}.norm1.weight" in self.w:
            x, i = self.layer(f"{_DECODER}allocator.blocks.{i}.", x, memory), i + 1
        queries = self.linear(f"{_DECODER}to_q", self.norm(f"{_DECODER}norm_q", x))
        keys = self.linear(f"{_DECODER}to_k", self.norm(f"{_DECODER}norm_k", slots))
        masks = (queries @ keys.T * D**-0.5).softmax(-1)
        y, i = masks @ slots + positions, 0
        while f"{_DECODER}renderer.layers.{i}.weight" in self.w:
            y, i = self.linear(f"{_DECODER}renderer.layers.{i}", y).clamp_min(0), i + 2
        return self.linear(f"{_DECODER}output_transform", y), masks.T


def features_of(weights: Weights, video: Tensor, vit_side: int = SIDE) -> Tensor:
    """Block 12's patch tokens (T,N,C) of uint8 frames (T,3,H,W): bicubic without antialiasing, clamped, ImageNet."""
    vit = timm.create_model(VIT, pretrained=False, img_size=PATCH * vit_side, num_classes=0, dynamic_img_size=True)
    own = {name.removeprefix(_VIT): w for name, w in weights.items() if name.startswith(_VIT)}
    vit.load_state_dict(own | {"norm.weight": torch.zeros(C), "norm.bias": torch.zeros(C)})
    last = []
    vit.eval().blocks[11].register_forward_hook(lambda module, given, out: last.append(out))
    size = (PATCH * SIDE, PATCH * SIDE)
    frames = F.interpolate(video.float() / 255, size=size, mode="bicubic").clamp(0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    vit((frames - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    return last[0][:, 1:]


def videos() -> VideoBatch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (B, T, 3, 30, 30), generator=generator, dtype=torch.uint8)
    index = torch.arange(T).expand(B, -1)
    return VideoBatch(video, ["a", "b"], index, index >= 0)


@pytest.mark.parametrize(
    ("weights", "vit_side"),
    [
        (slotcontrast(), SIDE),  # YouTube-VIS
        (slotcontrast(vit_side=SIDE + 2), SIDE + 2),  # MOVi: the backbone's positions are resampled
        (videosaur(), SIDE),  # YouTube-VIS
        (videosaur(blocks=2, render=4, out=N), SIDE),  # MOVi: similarities alone
    ],
    ids=["slotcontrast", "slotcontrast movi", "videosaur", "videosaur movi"],
)
@torch.no_grad()
def test_the_converted_model_is_the_published_function(tmp_path: Path, weights: Weights, vit_side: int) -> None:
    torch.save(lightning(weights), tmp_path / "model.ckpt")
    tensors = read_checkpoint(tmp_path / "model.ckpt")
    assert is_videosaur(tensors)
    convert_videosaur(tensors, S).save_pretrained(tmp_path / "model")
    model, batch, theirs = DIAS.from_pretrained(tmp_path / "model").eval(), videos(), Published(weights)
    features = model.features(batch)
    scan = model.scan(batch, features, Draws.for_videos(0, batch.video_id))
    decoded = model.decoder(scan.slots, scan.live)
    sequence, _ = model.encode(batch, Draws.for_videos(0, batch.video_id))
    noise = Draws.for_videos(0, batch.video_id).normal(S, D)
    for b in range(B):
        expected = features_of(weights, batch.video[b], vit_side)
        torch.testing.assert_close(features[b], expected, **EXACT)
        if "initializer.slots" in weights:
            queries = weights["initializer.slots"][0]
        else:
            queries = weights["initializer.mean"][0] + noise[b] * weights["initializer.log_std"][0].exp()
        for t in range(T):
            slots, maps = theirs.correct(queries, theirs.tokens(expected[t]), 2 if t else 3)
            torch.testing.assert_close(scan.slots[b, t], slots, **EXACT)
            torch.testing.assert_close(scan.first[b, t].flatten(1), maps[0], **EXACT)
            torch.testing.assert_close(scan.attention[b, t].flatten(1), maps[-1], **EXACT)
            reconstruction, masks = theirs.decode(slots)
            torch.testing.assert_close(decoded.attention[b, t], masks, **EXACT)
            torch.testing.assert_close(
                decoded.reconstruction[b, t][:, -reconstruction.shape[1] :], reconstruction, **EXACT
            )
            torch.testing.assert_close(sequence.attention[b, t].flatten(1), masks, **EXACT)
            assert masks.std() > 0.005  # the comparison could fail
            assert maps[-1].std() > 0.01
            queries = theirs.layer("processor.module.predictor.blocks.0.", slots)
    assert features.std() > 0.1
    assert (sequence.track_id == torch.arange(S)).all()


def test_the_experiment_trains_the_model_that_checkpoints_are_of() -> None:
    """Classes and switches; numbers differ, since the model here is small."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = ["experiment/train_video=slotcontrast", "data.root=x", "out_dir=x", "model.encoder.weights=random"]
        config = compose("train_video", words)
    own, theirs = (leaves(model.config) for model in (instantiate(config.model), convert_videosaur(slotcontrast())))
    sizes = {name for name, value in own.items() if type(value) in (int, list)}
    different = {name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name)} - sizes
    assert different == {"encoder.name"}  # a smaller backbone
    assert theirs["encoder.clamp"] is own["encoder.clamp"] is True


def lightning(weights: Weights) -> dict[str, object]:
    """What a checkpoint of PyTorch Lightning holds besides."""
    return {
        "epoch": 3,
        "global_step": 100000,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": {"total": {"ready": 5, "started": 5}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": "/logs"}},
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 4e-4, "params": [0]}]}
        ],
        "lr_schedulers": [{"last_epoch": 5, "lr_lambdas": [{}]}],
    }


def test_other_architectures_are_refused() -> None:
    weights = videosaur()
    with pytest.raises(ValueError, match="add num_slots=7 for YouTube-VIS"):
        convert_videosaur(weights)
    scaled = weights | {"processor.module.predictor.blocks.0.scale1.gamma": torch.ones(D)}
    with pytest.raises(ValueError, match=r"another architecture.*scale1\.gamma \(24,\): has no counterpart"):
        convert_videosaur(scaled, S)
    kernel = f"{_VIT}patch_embed.proj.weight"
    with pytest.raises(ValueError, match="no released checkpoint has patches of 9 px, width 384 and 16 tokens"):
        convert_videosaur(weights | {kernel: torch.zeros(C, 3, 9, 9)}, S)
    del weights["encoder.module.output_transform.layers.3.weight"]
    with pytest.raises(ValueError, match=r"has no encoder\.module\.output_transform\.layers\.3\.weight"):
        convert_videosaur(weights, S)


@pytest.mark.slow
def test_script_converts_and_tells_how_to_read_more_than_weights(tmp_path: Path) -> None:
    def convert(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts/convert_checkpoint.py"), f"out_dir={tmp_path / 'model'}", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    torch.save(lightning(slotcontrast()) | {"hyper_parameters": OmegaConf.create({"a": 1})}, tmp_path / "more.ckpt")
    told = convert(f"file={tmp_path / 'more.ckpt'}").stderr
    assert "more.ckpt holds more than plain weights (" in told
    assert "omegaconf.dictconfig.DictConfig" in told
    assert "weights_only=False" not in told
    remedy = re.search(r"python -c \"(.+)\"", told)
    assert remedy is not None
    subprocess.run([sys.executable, "-c", remedy[1]], cwd=tmp_path, check=True)
    done = convert(f"file={tmp_path / 'weights.pth'}")
    assert f"model: {len(slotcontrast())} tensors read; 0 names" in done.stdout, done.stderr
    video = videos().video[0]
    assert DIAS.from_pretrained(tmp_path / "model").track(video).labels.shape == (1, T, 30, 30)
    told = convert(f"file={tmp_path / 'weights.pth'}", "model=released_image", "overwrite=true").stderr
    assert "leave out model=" in told
