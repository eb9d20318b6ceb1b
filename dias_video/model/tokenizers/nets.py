"""Encoders and decoders of tokenizers.

Encoders have ``grid`` (h,w); ``encoder(video, features)`` takes video (B,T,3,H,W) uint8 and features (B,T,N,C), and
returns latents (B,T,N,out_dim). A decoder maps vectors (B,T,N,dim) to a reconstruction (B,T,...) of
``target(video, features)``. Its ``shown`` turns a reconstruction of frames into pictures in [0,1]. ``sees_frames`` says
whether an encoder or decoder uses the video or the features; the other may be None.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dias_video.model.encoders import scaled
from dias_video.pretrained.configured import Configured

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, with which frames are normalised


class _Pictures(nn.Module):
    """Base of encoders and decoders of frames, which are resized to one size and normalised."""

    mean: Tensor
    std: Tensor
    sees_frames = True

    def __init__(self, size: tuple[int, int], stride: int) -> None:
        super().__init__()
        if any(side % stride or side < stride for side in size):
            raise ValueError(f"the size must be multiples of {stride}, got {tuple(size)}")
        self.size = (int(size[0]), int(size[1]))
        self.grid = (self.size[0] // stride, self.size[1] // stride)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def normalised(self, video: Tensor | None) -> Tensor:
        """uint8 video (B,T,3,H,W) to (B,T,3,*size)."""
        assert video is not None, "this tokenizer is of frames"
        frames = (scaled(video.flatten(0, 1), self.size, antialias=True, clamp=True) - self.mean) / self.std
        return frames.unflatten(0, video.shape[:2])


class _PictureEncoder(_Pictures):
    net: nn.Sequential

    def forward(self, video: Tensor | None, features: Tensor | None = None) -> Tensor:
        """Latents (B,T,N,out_dim) of video (B,T,3,H,W)."""
        frames = self.normalised(video)
        return rearrange(self.net(frames.flatten(0, 1)), "(b t) c h w -> b t (h w) c", b=len(frames))


class _PictureDecoder(_Pictures):
    net: nn.Sequential

    def target(self, video: Tensor | None, features: Tensor | None = None) -> Tensor:
        """Normalised frames (B,T,3,*size)."""
        return self.normalised(video)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (B,T,N,dim) to normalised frames (B,T,3,*size)."""
        x = rearrange(vectors, "b t (h w) c -> (b t) c h w", h=self.grid[0])
        return self.net(x).unflatten(0, vectors.shape[:2])

    def shown(self, frames: Tensor) -> Tensor:
        """Normalised frames (...,3,H,W) as pictures in [0,1]."""
        return (frames * self.std + self.mean).clamp(0, 1)


class PatchEncoder(Configured, _PictureEncoder):
    """SLATE's encoder: 1x1 convolutions on separate patches of 4x4 px; 64x64 px make 16x16 cells."""

    def __init__(self, out_dim: int, size: tuple[int, int] = (64, 64), width: int = 64) -> None:
        super().__init__(size, stride=4)
        blocks = [_conv_block(3, width, 4, stride=4), *(_conv_block(width, width, 1) for _ in range(6))]
        self.net = nn.Sequential(*blocks, nn.Conv2d(width, out_dim, 1))


class PatchDecoder(Configured, _PictureDecoder):
    """SLATE's decoder: a few convolutions on the grid, then twice a doubling of the size with further convolutions."""

    def __init__(self, dim: int, size: tuple[int, int] = (64, 64), width: int = 64) -> None:
        super().__init__(size, stride=4)

        def enlarging() -> list[nn.Module]:
            return [_conv_block(width, width, 3), _conv_block(width, width, 1), _conv_block(width, width, 1),
                    _conv_block(width, 4 * width, 1), nn.PixelShuffle(2)]  # fmt: skip

        first = [_conv_block(dim, width, 1)]
        self.net = nn.Sequential(*first, *enlarging(), *enlarging(), nn.Conv2d(width, 3, 1))


class ResidualEncoder(Configured, _PictureEncoder):
    """The tiny autoencoder for Stable Diffusion (TAESD) without its last layer, then GroupNorm and a 1x1 convolution.

    It halves the size ``stages`` times: 128x128 px make 16x16 cells with 3 stages, 64x64 px with 2.
    """

    def __init__(self, out_dim: int, size: tuple[int, int] = (128, 128), width: int = 64, stages: int = 3) -> None:
        super().__init__(size, stride=2**stages)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), ResidualBlock(width)]
        for _ in range(stages):
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            layers += [ResidualBlock(width) for _ in range(3)]
        self.net = nn.Sequential(*layers, nn.GroupNorm(1, width), nn.Conv2d(width, out_dim, 1))


class ResidualDecoder(Configured, _PictureDecoder):
    """The decoder for ``ResidualEncoder``: 1x1 convolution, GroupNorm, then TAESD's decoder without its first layer."""

    def __init__(self, dim: int, size: tuple[int, int] = (128, 128), width: int = 64, stages: int = 3) -> None:
        super().__init__(size, stride=2**stages)
        layers: list[nn.Module] = [nn.Conv2d(dim, width, 1), nn.GroupNorm(1, width)]
        for _ in range(stages):
            layers += [ResidualBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        self.net = nn.Sequential(*layers, ResidualBlock(width), nn.Conv2d(width, 3, 3, padding=1))


class FeatureEncoder(Configured, nn.Module):
    """VVO's encoder of frozen features: three 3x3 convolutions over the grid, GroupNorm and a 1x1 convolution."""

    sees_frames = False

    def __init__(self, feature_dim: int, out_dim: int, grid: tuple[int, int], width: int | None = None) -> None:
        super().__init__()
        self.grid = (int(grid[0]), int(grid[1]))
        width = width or feature_dim

        def three(before: int) -> nn.Conv2d:
            return nn.Conv2d(before, width, 3, padding=1)

        layers = [
            three(feature_dim),
            nn.GroupNorm(1, width),
            nn.SiLU(),
            three(width),
            nn.GroupNorm(1, width),
            nn.SiLU(),
        ]
        self.net = nn.Sequential(*layers, three(width), nn.GroupNorm(1, width), nn.Conv2d(width, out_dim, 1))

    def forward(self, video: Tensor | None, features: Tensor | None = None) -> Tensor:
        """Latents (B,T,N,out_dim) of features (B,T,N,C)."""
        assert features is not None, "this tokenizer is of features"
        x = rearrange(features, "b t (h w) c -> (b t) c h w", h=self.grid[0])
        return rearrange(self.net(x), "(b t) c h w -> b t (h w) c", b=len(features))


class FeatureDecoder(Configured, nn.Module):
    """An MLP that maps each cell back to its features, for machines without a GPU; VVO's authors prefer pictures."""

    sees_frames = False

    def __init__(self, feature_dim: int, dim: int, width: int | None = None) -> None:
        super().__init__()
        width = width or feature_dim
        self.net = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, feature_dim))

    def target(self, video: Tensor | None, features: Tensor | None = None) -> Tensor:
        """The features (B,T,N,C)."""
        assert features is not None, "this tokenizer is of features"
        return features

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (B,T,N,dim) to features (B,T,N,C)."""
        return self.net(vectors)

    def shown(self, features: Tensor) -> Tensor:
        """The features, unchanged."""
        return features


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions with ReLU between them, and ReLU after the sum with the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        """(F,C,h,w) to (F,C,h,w)."""
        return F.relu(self.conv(x) + x)


def _conv_block(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2 if stride == 1 else 0, bias=False)
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(1, after), nn.ReLU())
