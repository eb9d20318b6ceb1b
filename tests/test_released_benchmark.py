"""Baselines of the paper's comparison with the weights of modules written here from facts of the authors' benchmark."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.convert.dias import RULES
from dias_video.convert.foreign import adopt
from dias_video.model.decoders.causal import CausalDecoder
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.initializers import GaussianInitializer
from dias_video.model.projection import Projection

B, S, D, C, GRID, V = 2, 5, 8, 6, (2, 3), 11
N = GRID[0] * GRID[1]
EXACT = {"atol": 1e-5, "rtol": 1e-5}


class Ours(nn.Module):
    """The parts of a model that hold the weights."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def loud(module: nn.Module) -> nn.Module:
    """The module with weights that leave nothing near zero or one."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.1, 0.5)
    return module


@torch.no_grad()
def test_tokens_and_queries_of_dinosaur_and_slate() -> None:
    """The projection is twice as wide inside as the features, and makes tokens as wide as slots."""
    torch.manual_seed(0)
    theirs = Ours(
        encode_project=nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, D)),
        initializ=nn.ParameterDict({"mean": torch.empty(1, S, D), "logstd": torch.empty(1, S, D)}),
    )
    tensors = loud(theirs).state_dict()
    ours = Ours(projection=Projection(C, D, hidden=2 * C), initializer=GaussianInitializer(S, D, shared=False))
    assert adopt(ours, tensors, RULES) == []
    features = torch.randn(B, N, C)
    expected = theirs.encode_project(features)
    torch.testing.assert_close(ours.projection(features, None), expected, **EXACT)
    assert expected.std() > 0.1
    assert torch.equal(ours.initializer.mean[None], theirs.initializ["mean"])


@torch.no_grad()
def test_the_broadcast_decoder_of_dinosaur_and_vvo() -> None:
    torch.manual_seed(1)
    place = nn.Parameter(torch.randn(1, N, D))
    theirs = nn.Sequential(nn.Linear(D, 7), nn.GELU(), nn.Linear(7, 7), nn.GELU(), nn.Linear(7, C + 1))
    ours = MLPDecoder(C, D, N, hidden=7, num_layers=3, activation="gelu")
    ours.positions.copy_(place[0])
    for part, layer in zip((ours.mlp[0][0], ours.mlp[1][0], ours.mlp[2]), theirs[::2], strict=True):
        part.load_state_dict(layer.state_dict())
    slots = torch.randn(B, S, D)
    both = theirs(slots[:, :, None] + place[None])  # (B,S,N,C+1)
    alpha = both[..., -1:].softmax(1)
    got = ours(slots[:, None], torch.ones(B, 1, S, dtype=torch.bool))
    torch.testing.assert_close(got.reconstruction[:, 0], (both[..., :-1] * alpha).sum(1), **EXACT)
    torch.testing.assert_close(got.attention[:, 0], alpha[..., 0], **EXACT)


class Transformer(nn.Module):
    """The decoder of SLATE, STEVE and VVO-Tfd: a norm in front of all layers instead of that before self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.bos, self.pe = nn.Parameter(torch.empty(1, 1, D)), nn.Parameter(torch.empty(1, N, D))
        options = {"batch_first": True, "norm_first": True, "bias": False}
        layer = nn.TransformerDecoderLayer(D, 2, 4 * D, 0.0, "gelu", **options)
        self.backbone = nn.TransformerDecoder(layer, 3)
        self.norm0 = self.backbone.layers[0].norm1
        self.backbone.layers[0].norm1 = nn.Identity()
        self.readout = nn.Linear(D, V, bias=False)

    def forward(self, tokens: Tensor, slots: Tensor) -> Tensor:
        x = torch.cat([self.bos.expand(len(tokens), -1, -1), tokens[:, :-1]], 1) + self.pe
        later = torch.triu(torch.ones(N, N, dtype=torch.bool), 1)
        return self.readout(self.backbone(self.norm0(x), memory=slots, tgt_mask=later))


@torch.no_grad()
def test_the_transformer_over_codes_of_slate_steve_and_vvo() -> None:
    torch.manual_seed(2)
    theirs = loud(Transformer()).eval()
    ours = CausalDecoder(D, D, GRID, width=D, num_layers=3, num_heads=2, out_dim=V, direct=True)
    tensors = {f"decode.{name}": value for name, value in theirs.state_dict().items()}
    ours.begin.copy_(tensors.pop("decode.bos")[0])
    ours.positions.copy_(tensors.pop("decode.pe")[0])
    leftover = adopt(Ours(decoder=ours), tensors, RULES)
    assert sorted(line.split()[0] for line in leftover) == ["decoder.begin", "decoder.positions"]
    tokens, slots = torch.randn(B, N, D), torch.randn(B, S, D)
    got = ours(slots[:, None], torch.ones(B, 1, S, dtype=torch.bool), tokens[:, None]).reconstruction[:, 0]
    expected = theirs(tokens, slots)
    torch.testing.assert_close(got, expected, **EXACT)
    assert not torch.allclose(
        expected, theirs(tokens, F.layer_norm(slots, (D,))), atol=1e-2
    )  # slots are not normalised
