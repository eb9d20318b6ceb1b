"""Frozen image encoders: frames to a grid of tokens.

Every encoder has ``grid`` (h,w), ``feature_dim`` C, and ``features(video)``. The latter takes all frames of a batch,
uint8 (B,T,3,H,W) of any size, and returns tokens (B,T,N,C) without gradient.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from dias_video.batch import resize_frames
from dias_video.pretrained.saving import Pretrained
from dias_video.pretrained.weights import read_weights

FRAMES_ON_CPU = 16  # number of frames that are encoded at once


class Encoder(Pretrained, nn.Module, ABC):
    """The base of all encoders; it can replace some features by colour and apply a linear map to the features.

    A subclass sets ``frame_size``, ``input_size``, ``grid`` and ``head`` (two modules, of which the second may be a
    linear layer that makes the features), and defines ``backbone(frames)``. Frames of any size are first resized to
    ``frame_size`` (:func:`~dias_video.batch.resize_frames`) and then to ``input_size``.

    Args:
        feature_dim: C.
        color: if above 0, the mean colour of a cell replaces the last three features, with about this standard
            deviation. Colour stays the same while an object turns, and DINOv2's features say little about it. Use it
            with whitened features, of which the last say least.
    """

    OPPONENT = ((5 / 3, 5 / 3, 5 / 3), (8.0, -8.0, 0.0), (-4.0, -4.0, 8.0))  # RGB to nearly uncorrelated unit variance
    opponent: Tensor  # the same on the encoder's device

    not_stored = {"weights": "random"}  # noqa: RUF012 - a constant
    frame_size: tuple[int, int] | None  # (H,W) of the first resizing; None: there is only the second
    input_size: tuple[int, int]  # (H,W) of the second
    grid: tuple[int, int]
    head: nn.Sequential
    antialias, clamp = False, False
    sees_frames = True

    def __init__(self, feature_dim: int, color: float) -> None:
        super().__init__()
        if color and feature_dim < 3:
            raise ValueError(f"color takes three features, and feature_dim is {feature_dim}")
        self.feature_dim, self.color = feature_dim, color
        self.register_buffer("opponent", torch.tensor(self.OPPONENT), persistent=False)

    @abstractmethod
    def backbone(self, frames: Tensor) -> Tensor:
        """The input (B*T,N,...) of the head, from frames (B*T,3,*input_size) in [0,1]."""

    def forward(self, video: Tensor) -> Tensor:
        """Tokens (B,T,N,C) of uint8 video (B,T,3,H,W), with gradient (for distillation)."""
        frames = video.flatten(0, 1)
        if self.frame_size is not None:
            frames = resize_frames(frames, self.frame_size)
        frames = scaled(frames, self.input_size, self.antialias, self.clamp)  # (B*T,3,H,W)
        return self.painted(self.head(self.backbone(frames)), frames).unflatten(0, video.shape[:2])

    def painted(self, tokens: Tensor, frames: Tensor) -> Tensor:
        """Tokens (M,N,C) of frames (M,3,H,W) in [0,1]; with ``color`` the last three features are colours."""
        if not self.color:
            return tokens
        mean = F.adaptive_avg_pool2d(frames, self.grid).flatten(2) - 0.5  # (M,3,N)
        paint = self.color * mean.mT @ self.opponent.T  # (M,N,3)
        return torch.cat([tokens[..., :-3], paint.to(tokens.dtype)], -1)

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """uint8 (B,T,3,H,W) of any size to tokens (B,T,N,C), without gradient."""
        return in_pieces(self, video)

    @torch.no_grad()
    def followed_by(self, matrix: Tensor, mean: Tensor) -> Encoder:
        """A copy whose features are ``matrix`` (D,C) times (features - ``mean`` (C,))."""
        weight, bias = matrix.double(), -matrix.double() @ mean.double()
        last = self.head[1]
        if isinstance(last, nn.Linear):
            weight, bias = weight @ last.weight.double(), bias + weight @ last.bias.double()
        linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        other = copy.deepcopy(self)
        other.head[1] = linear
        other.feature_dim = len(matrix)
        other.config = self.config | {"feature_dim": len(matrix)}
        return other


class TimmEncoder(Encoder):
    """A frozen Vision Transformer of timm; by default the paper's, DINOv2 ViT-S/14 at 224 px (16x16 tokens).

    Args:
        name: name of a timm model.
        weights: ``hub`` (timm downloads them), ``random``, the path of a safetensors file with timm's key names
            (position embeddings are resampled to ``input_size``), or the path of a folder with a whitened encoder. A
            saved model contains its weights.
        frame_size: (height, width) to which frames of another size are resized first; in training and evaluation
            frames have this size already. None leaves out this step.
        input_size: (height, width) of the network's input, resized bicubically.
        final_norm: whether tokens pass the final LayerNorm; in the authors' released configuration they don't.
        antialias: whether the bicubic resizing has antialiasing; in the authors' released code it has none.
        clamp: whether values that bicubic resizing puts outside of [0,1] are clamped; in the authors' code they aren't.
        feature_dim: width of a linear map of the tokens, made by ``scripts/whiten_encoder.py``; None, as in the paper,
            uses the tokens themselves.
        color: see ``Encoder``.

    Raises:
        ValueError: the model is unknown or has no patch tokens, or the weights can't be loaded or have no map.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        name: str = "vit_small_patch14_dinov2.lvd142m",
        weights: str = "hub",
        input_size: tuple[int, int] = (224, 224),
        final_norm: bool = False,
        antialias: bool = False,
        clamp: bool = False,
        feature_dim: int | None = None,
        color: float = 0.0,
        frame_size: Sequence[int] | None = (256, 256),
    ) -> None:
        if ":" in name:
            raise ValueError(
                f"{name} names a place and not a model of timm; name the model, and its weights as a safetensors file"
            )
        import timm  # imported here because it takes seconds, and smaller encoders don't need it

        saved = Path(weights).is_dir()
        if feature_dim and not saved and weights != "random":
            raise ValueError(
                f"feature_dim={feature_dim} wants a linear map of the tokens, and {weights} holds none; leave "
                "feature_dim out, or name a folder that whiten_encoder.py made: model.encoder.weights=<folder>"
            )
        overlay = None
        if weights not in ("hub", "random") and not saved:
            if not Path(weights).is_file():
                raise ValueError(f"encoder weights {weights} not found: give a .safetensors file, 'hub' or 'random'")
            if not weights.endswith(".safetensors"):
                raise ValueError(
                    f"{weights} is no safetensors file, and others may hold code; name the model.safetensors that this "
                    f"makes of it: python scripts/convert_checkpoint.py file={weights} out_dir=<folder>"
                )
            overlay = {"file": weights}
        try:
            with torch.random.fork_rng(devices=[]):  # versions draw differently; weights made next should not
                vit: Any = timm.create_model(
                    name,
                    pretrained=weights != "random" and not saved,
                    pretrained_cfg_overlay=overlay,
                    img_size=tuple(input_size),
                    num_classes=0,
                )
        except Exception as error:  # timm raises many kinds; each becomes one sentence
            raise ValueError(
                f"timm cannot make {name} with weights {weights}: {_first(error)}; {_remedy(error, name, weights)}"
            ) from error
        if not hasattr(vit, "patch_embed"):
            raise ValueError(f"{name} has no patch tokens; choose a Vision Transformer")
        if not final_norm:
            vit.norm = nn.Identity()
        super().__init__(feature_dim or vit.num_features, color)
        self.frame_size = None if frame_size is None else (int(frame_size[0]), int(frame_size[1]))
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.antialias, self.clamp = antialias, clamp
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.num_prefix: int = vit.num_prefix_tokens
        stats = vit.pretrained_cfg
        self.register_buffer("pixel_mean", torch.tensor(stats["mean"]).view(3, 1, 1), persistent=False)
        self.vit = vit
        self.register_buffer("pixel_std", torch.tensor(stats["std"]).view(3, 1, 1), persistent=False)
        with torch.random.fork_rng(devices=[]):  # weights made next are the same with and without the map
            mapped = nn.Linear(vit.num_features, feature_dim) if feature_dim else nn.Identity()
        self.head = nn.Sequential(nn.Identity(), mapped)
        if saved:
            load_encoder(self, weights)
        self.requires_grad_(False)

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """uint8 (B,T,3,H,W) of any size to tokens (B,T,N,C), without gradient."""
        if video.device.type == "cpu":  # for the reason given in ``layers.attend``
            for module in self.vit.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = not torch.is_autocast_enabled("cpu")
        return super().features(video)

    def backbone(self, frames: Tensor) -> Tensor:
        """Patch tokens (B*T,N,width) of frames (B*T,3,*input_size) in [0,1]."""
        tokens: Tensor = self.vit.forward_features((frames - self.pixel_mean) / self.pixel_std)
        return tokens[:, self.num_prefix :]


def in_pieces(encode: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
    """``encode`` (B,T,3,H,W) -> (B,T,N,C) on all frames at once, or on a CPU on a few at a time.

    On a CPU the intermediate results of many frames don't fit the caches, and the system maps their memory again at
    every call: 96 frames at once take 1.7 times as long as four times 24.
    """
    if video.device.type != "cpu":
        return encode(video)
    pieces = [encode(part[None])[0] for part in video.flatten(0, 1).split(FRAMES_ON_CPU)]
    return torch.cat(pieces).unflatten(0, video.shape[:2])


def scaled(frames: Tensor, size: tuple[int, int], antialias: bool, clamp: bool) -> Tensor:
    """uint8 frames (F,3,H,W) to floats (F,3,*size), resized bicubically if needed; with ``clamp`` within [0,1]."""
    floats = frames.float() / 255
    if floats.shape[-2:] != torch.Size(size):
        floats = F.interpolate(floats, size=size, mode="bicubic", antialias=antialias, align_corners=False)
        floats = floats.clamp(0, 1) if clamp else floats
    return floats


def load_encoder(encoder: Encoder, folder: str) -> None:
    """Load the tensors of the encoder saved in ``folder``, alone or as a model's ``encoder``.

    Raises:
        ValueError: the tensors can't be read, or belong to another encoder.
    """
    tensors = read_weights(Path(folder))
    own = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")} or tensors
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        remedy = "choose the encoder's options as its config.json has them"
        raise ValueError(f"{folder} does not fit this encoder: {_first(error)}; {remedy}") from error


def _first(error: Exception) -> str:
    """What an error says first, without PyTorch's heading over a list of weights that don't fit."""
    lines = re.sub(r"^Error\(s\) in loading state_dict for \w+:", "", str(error)).strip().splitlines()
    return re.sub(', ".*', ", …", lines[0])[:300].rstrip(". ") if lines else type(error).__name__


def _remedy(error: Exception, name: str, weights: str) -> str:
    """What can be done if timm can't make a model with these weights."""
    import timm

    if not timm.is_model(name) or isinstance(error, TypeError):  # it takes no size of its input
        return "choose a Vision Transformer, see timm.list_models('vit*')"
    if isinstance(error, SafetensorError):
        return "the file is damaged, so fetch it again"
    if weights == "hub":
        option = "model.encoder.weights=<file.safetensors> (of a tokenizer model.backbone.weights=)"
        return f"without internet name a file with {option}"
    if not Path(weights).exists():  # random weights of a name with a tag that timm does not know
        return "choose another name, see timm.list_pretrained('vit*')"
    return "these weights are of another model; choose encoder.name= to fit"
