"""An encoder that runs on a CPU, in place of the paper's Vision Transformer."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.model.encoders import Encoder, load_encoder
from dias_video.model.layers import MLP, LayerNorm


class TinyEncoder(Encoder):
    """A small convolutional encoder for machines without a GPU: stride 8, so 16x16 tokens at 128 px.

    It learns by distillation from a large frozen encoder (``Distillation``) and is frozen afterwards.

    Args:
        feature_dim: C.
        width: channels of the residual blocks.
        depth: number of residual blocks.
        input_size: (height, width) in pixels, multiples of 8.
        weights: ``random``, or the folder of a saved encoder or of a model that contains one.
        color: see ``Encoder``.
    """

    def __init__(
        self,
        feature_dim: int = 64,
        width: int = 96,
        depth: int = 4,
        input_size: tuple[int, int] = (128, 128),
        weights: str = "random",
        color: float = 0.0,
    ) -> None:
        super().__init__(feature_dim, color)
        if any(side % 8 or side < 8 for side in input_size):
            raise ValueError(f"input_size must be multiples of 8, got {tuple(input_size)}")
        self.frame_size = self.input_size = (int(input_size[0]), int(input_size[1]))
        self.grid = (self.input_size[0] // 8, self.input_size[1] // 8)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 4, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(torch.zeros(1, width, *self.grid))  # the teacher's tokens contain positions
        self.blocks = nn.Sequential(*[ConvBlock(width) for _ in range(depth)])
        self.head = nn.Sequential(LayerNorm(width), nn.Linear(width, feature_dim))
        if weights != "random":
            load_encoder(self, weights)

    def backbone(self, frames: Tensor) -> Tensor:
        """(B*T,N,width) of frames (B*T,3,*input_size) in [0,1]."""
        x = self.stem((frames * 4 - 2).contiguous(memory_format=torch.channels_last))  # (B*T,width,h,w)
        return rearrange(self.blocks(x + self.position), "b c h w -> b (h w) c")


class ConvBlock(nn.Module):
    """Depthwise 7x7 convolution, LayerNorm, MLP, residual: (B,C,h,w) to (B,C,h,w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm(width)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) to (B,C,h,w)."""
        y = self.mlp(self.norm(self.spatial(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)
