"""The encoder of a video's own model, and the size of its input."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from tqdm import tqdm

from dias_video.checks import Count
from dias_video.model.encoders import TimmEncoder

TINY = (
    "Without weights and internet track.py checkpoint=shipped uses the small model of the package: it finds a few "
    "simple things that move before a plain ground, as in simulated videos, and little in real ones"
)
FRAME_SIDE = 256  # pixels


class Backbone:
    """A frozen Vision Transformer of timm whose input has the shape of the video's frames.

    Args:
        name: name of a timm model.
        weights: ``hub`` (downloaded at first use, after a message), ``random``, or a safetensors file.
        tokens: approximate number of tokens of a frame; frames keep their aspect ratio.
        final_norm: whether tokens pass the final LayerNorm.
    """

    def __init__(
        self,
        name: str = "vit_small_patch14_dinov2.lvd142m",
        weights: str = "hub",
        tokens: Count = 256,
        final_norm: bool = False,
    ) -> None:
        self.name, self.weights, self.tokens, self.final_norm = name, weights, tokens, final_norm
        self._made: tuple[tuple[int, int], TimmEncoder] | None = None

    def encoder(self, size: tuple[int, int], device: torch.device) -> TimmEncoder:
        """The encoder for frames of ``size`` (H,W) pixels, on the device.

        Raises:
            ValueError: the model is unknown, or its weights can't be loaded.
        """
        grid = grid_of(size, self.tokens)
        if self._made is not None and self._made[0] == grid:
            return self._made[1]
        if self._made is None and self.weights == "hub":
            said = f"{self.name}: weights from timm, fetched where they are not on this machine yet"
            tqdm.write(said, file=sys.stderr)  # not into a progress bar
        patch = _patch(self.name)
        try:
            input_size = (grid[0] * patch[0], grid[1] * patch[1])
            # Resized first, with antialiasing, as in training; never to less than what the network sees.
            frame_size = tuple(max(FRAME_SIDE, side) for side in input_size)
            encoder = TimmEncoder(self.name, self.weights, input_size, self.final_norm, frame_size=frame_size)
            encoder = encoder.to(device).eval()
        except ValueError as error:
            if self.weights != "hub":
                raise
            raise ValueError(
                f"the weights of {self.name} can't be fetched; name a file with encoder.weights=<file.safetensors>. "
                f"{TINY}. (timm: {' '.join(str(error.__cause__ or error).split())[:200]})"
            ) from error
        self._made = grid, encoder
        return encoder


def grid_of(size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """Rows and columns of a grid of about ``tokens`` nearly square cells, for frames of ``size`` (H,W)."""
    rows = max(1, round(math.sqrt(tokens * size[0] / size[1])))
    return rows, max(1, round(tokens / rows))


def _patch(name: str) -> tuple[int, int]:
    """Pixels (height, width) of a patch of a timm model.

    Raises:
        ValueError: timm has no such model, or it has no patches.
    """
    import timm

    try:
        with torch.device("meta"):
            vit: Any = timm.create_model(name, pretrained=False, num_classes=0)
        height, width = vit.patch_embed.patch_size
    except Exception as error:  # timm raises errors of many kinds
        raise ValueError(
            f"timm has no Vision Transformer called {name} ({error}); see timm.list_models('vit*')"
        ) from error
    return int(height), int(width)
