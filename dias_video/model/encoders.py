"""Frozen image encoders: frames in, a grid of tokens out.

Every encoder has ``grid`` (h,w), ``feature_dim`` C, and ``features(video)``: uint8 (B,T,3,H,W) of any size to tokens
(B,T,N,C) without gradient, all frames of the batch in one call.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.batch import resize_frames
from dias_video.pretrained.saving import Pretrained
from dias_video.pretrained.weights import read_weights

FRAMES_ON_CPU = 16  # encoded at a time


class Encoder(Pretrained, nn.Module, ABC):
    """What all encoders share: colour among the features, and a linear map that can be put after them.

    A subclass sets ``frame_size``, ``input_size`` and ``grid``, ``head`` (two modules, of which the second may be a
    linear layer that makes the features), and ``backbone(frames)``. Frames of any size are brought to ``frame_size`` as
    everywhere (:func:`~dias_video.batch.resize_frames`), and from there to ``input_size``.

    Args:
        feature_dim: C.
        color: above 0, the last three features are a cell's mean colour instead, of about this standard deviation:
            what keeps an object the same while it turns, which DINOv2's features don't tell well. Meant for whitened
            ones, whose last directions tell least.
    """

    OPPONENT = ((5 / 3, 5 / 3, 5 / 3), (8.0, -8.0, 0.0), (-4.0, -4.0, 8.0))  # nearly uncorrelated, of variance about 1
    opponent: Tensor  # on the device

    not_stored = {"weights": "random"}  # noqa: RUF012 - a constant
    frame_size: tuple[int, int] | None  # (H,W); None: they go straight to the next
    input_size: tuple[int, int]  # (H,W)
    grid: tuple[int, int]
    head: nn.Sequential
    antialias, clamp = False, False

    def __init__(self, feature_dim: int, color: float) -> None:
        super().__init__()
        if color and feature_dim < 3:
            raise ValueError(f"color takes three features, and feature_dim is {feature_dim}")
        self.feature_dim, self.color = feature_dim, color
        self.register_buffer("opponent", torch.tensor(self.OPPONENT), persistent=False)

    @abstractmethod
    def backbone(self, frames: Tensor) -> Tensor:
        """What the head is given (B*T,N,...) of frames (B*T,3,*input_size) in [0,1]."""

    def forward(self, video: Tensor) -> Tensor:
        """Tokens (B,T,N,C) of uint8 video (B,T,3,H,W), with gradient (for distillation)."""
        frames = video.flatten(0, 1)
        if self.frame_size is not None:
            frames = resize_frames(frames, self.frame_size)
        frames = scaled(frames, self.input_size, self.antialias, self.clamp)  # (B*T,3,H,W)
        return self.painted(self.head(self.backbone(frames)), frames).unflatten(0, video.shape[:2])

    def painted(self, tokens: Tensor, frames: Tensor) -> Tensor:
        """Tokens (M,N,C) of frames (M,3,H,W) in [0,1], with their colours for the last three features if ``color``."""
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
        """A copy whose features are ``matrix`` (D,C) times these features less their ``mean`` (C,)."""
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
    """Any timm Vision Transformer, frozen; by default what the paper uses, DINOv2 ViT-S/14 at 224 px (16x16 tokens).

    Args:
        name: a timm model name.
        weights: ``hub`` (timm downloads them), ``random``, or the path of a safetensors file under timm's key names
            (position embeddings are resampled to ``input_size``), or of a folder that holds a whitened encoder. A saved
            model carries its weights with it.
        frame_size: (height, width) that frames of another size are resized to first; in training and evaluation they
            have it already. None: no such step.
        input_size: (height, width) that the network sees, resized bicubically.
        final_norm: whether tokens pass the final LayerNorm; the authors' released configuration leaves it out.
        antialias: of the bicubic resizing; the authors' released code resizes without.
        clamp: what bicubic resizing overshoots to [0,1]; the authors' released code does not.
        feature_dim: of a linear map of the tokens, which ``scripts/whiten_encoder.py`` makes; None, the paper's way,
            for the tokens themselves.
        color: see ``Encoder``.

    Raises:
        ValueError: unknown model, a model without patch tokens, or weights that cannot be loaded.
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
        import timm  # takes seconds to import, and smaller encoders do without

        saved = Path(weights).is_dir()
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
            remedy = "; without internet give a .safetensors file as weights" if weights == "hub" and not saved else ""
            raise ValueError(f"timm cannot make {name} with weights {weights}: {error}{remedy}") from error
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

    There, intermediate results of many frames leave the caches, and the system maps their memory anew at every call:
    96 frames at once take 1.7 times as long as four times 24.
    """
    if video.device.type != "cpu":
        return encode(video)
    pieces = [encode(part[None])[0] for part in video.flatten(0, 1).split(FRAMES_ON_CPU)]
    return torch.cat(pieces).unflatten(0, video.shape[:2])


def scaled(frames: Tensor, size: tuple[int, int], antialias: bool, clamp: bool) -> Tensor:
    """uint8 frames (F,3,H,W) to floats (F,3,*size), bicubic where sizes differ; in [0,1] with ``clamp``."""
    floats = frames.float() / 255
    if floats.shape[-2:] != torch.Size(size):
        floats = F.interpolate(floats, size=size, mode="bicubic", antialias=antialias, align_corners=False)
        floats = floats.clamp(0, 1) if clamp else floats
    return floats


def load_encoder(encoder: Encoder, folder: str) -> None:
    """Take the tensors of the encoder that was saved in ``folder``, by itself or as a model's ``encoder``.

    Raises:
        ValueError: they can't be read, or are another encoder's.
    """
    tensors = read_weights(Path(folder))
    own = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")} or tensors
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit this encoder: {' '.join(str(error).split())[:300]}") from error
