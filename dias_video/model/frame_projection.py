"""A projection whose tokens come from the frames themselves, by convolutions (STEVE, after SAVi)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.model.encoders import scaled
from dias_video.model.relu_projection import ReLUProjection


class FrameProjection(ReLUProjection):
    """Four 5x5 convolutions of the frames, a linear map of the cells' places, LayerNorm and an MLP with ReLU.

    Args:
        out_dim: width of the tokens.
        size: (H,W) of the frames, which are resized to it.
        grid: (h,w) of the tokens. Both sides are those of ``size``, halved by as many of the first convolutions as are
            needed.
        width: channels of the convolutions.

    Raises:
        ValueError: the grid does not fit the size.
    """

    sees_frames = True
    places: Tensor

    def __init__(self, out_dim: int, size: tuple[int, int], grid: tuple[int, int], width: int = 64) -> None:
        super().__init__(out_dim, out_dim, out_dim)
        self.size, self.grid = (int(size[0]), int(size[1])), (int(grid[0]), int(grid[1]))
        halved = next((n for n in range(5) if self.size == (self.grid[0] << n, self.grid[1] << n)), None)
        if halved is None:
            raise ValueError(f"frames of {list(size)} can't be halved to a grid of {list(grid)}")
        layers: list[nn.Module] = []
        for i in range(4):
            before, after, last = 3 if i == 0 else width, out_dim if i == 3 else width, i == 3
            conv = nn.Conv2d(before, after, 5, stride=2 if i < halved else 1, padding=2, bias=last)
            if last:
                nn.init.xavier_uniform_(conv.weight)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                layers.append(conv)
            else:
                nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
                layers += [conv, nn.GroupNorm(1, after), nn.ReLU()]
        self.net = nn.Sequential(*layers)
        y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in self.grid), indexing="ij")
        self.register_buffer("places", torch.stack([x, y, 1 - x, 1 - y], -1).flatten(0, 1), persistent=False)  # (N,4)
        self.place = nn.Linear(4, out_dim)

    def forward(self, features: Tensor, video: Tensor | None) -> Tensor:
        """Tokens (B,T,N,out_dim) of video (B,T,3,H,W) uint8; ``features`` are not used."""
        assert video is not None, "this projection is of frames"
        frames = self.net(scaled(video.flatten(0, 1), self.size, antialias=True, clamp=True))
        tokens = rearrange(frames, "(b t) c h w -> b t (h w) c", b=len(video))
        return super().forward(tokens + self.place(self.places), None)
