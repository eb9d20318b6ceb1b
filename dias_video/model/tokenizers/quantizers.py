"""Quantizers: from latents to codes. A code is the number of the codebook's vector that represents a cell.

Every quantizer has ``num_codes`` V, ``latent_dim`` (width of the latents that it takes), ``dim`` (width of a code's
vector) and ``codebook()`` (V,dim). ``quantizer(latents, draws)`` takes latents (B,T,N,latent_dim) and returns
``Quantized``; ``draws`` are given in training and are None afterwards. Distances are computed in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.pretrained.configured import Configured


class Quantized(NamedTuple):
    """Codes of latents, with their vectors and losses for training."""

    codes: Tensor  # (B,T,N) int64
    vectors: Tensor  # (B,T,N,dim) the input of the decoder, with a gradient to the latents
    losses: dict[str, Tensor]  # each (B,T,N)


class VectorQuantizer(Configured, nn.Module):
    """The nearest vector of a learned codebook, with straight-through gradient (VQ-VAE: van den Oord et al. 2017).

    Losses: ``codebook`` moves the vector towards the latent (weight 1), ``commitment`` the latent towards the vector
    (weight 0.25).
    """

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__()
        self.num_codes, self.latent_dim, self.dim = num_codes, dim, dim
        self.vectors = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))

    def codebook(self) -> Tensor:
        """(V,dim)."""
        return self.vectors

    def forward(self, latents: Tensor, draws: Draws | None = None) -> Quantized:
        """See the module."""
        codebook = self.codebook()
        codes = nearest(latents, codebook)
        chosen = F.embedding(codes, codebook)
        losses = {"codebook": squared(chosen, latents.detach()), "commitment": squared(latents, chosen.detach())}
        return Quantized(codes, latents + (chosen - latents).detach(), losses)


class SimVQ(Configured, nn.Module):
    """A codebook that is a learned linear map of frozen Gaussian vectors (VVO; SimVQ: Zhu et al. 2024).

    All vectors move together, so none stays unused. In training the code is drawn with Gumbel noise. Its logits are the
    negative distances, shifted and scaled by mean and deviation of the length of a standard normal vector, times a
    factor that grows from 1 to 2.35. Over the first half of the training the input of the decoder changes gradually
    from the latent to the code's vector (straight-through). Losses: ``codebook`` (weight 1), ``commitment`` of the
    latent to the decoder's input (0.25), and ``standard`` (0.1), which keeps a frame's latents at mean 0, variance 1.

    Args:
        num_codes: V.
        dim: width of the latents and of a code's vector.
        frozen_dim: width of the frozen vectors.
    """

    SHARPEST = 2.35
    frozen: Tensor

    def __init__(self, num_codes: int, dim: int, frozen_dim: int = 1024) -> None:
        super().__init__()
        self.num_codes, self.latent_dim, self.dim = num_codes, dim, dim
        self.register_buffer("frozen", torch.randn(num_codes, frozen_dim))
        self.project = nn.Linear(frozen_dim, dim)
        # The mean and deviation of the length of a standard normal vector (chi distribution).
        self.mean = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
        self.std = math.sqrt(max(dim - self.mean**2, 1e-12))

    def codebook(self) -> Tensor:
        """(V,dim), computed at every call, since a stored one would be out of date after loading weights."""
        return self.project(self.frozen)

    def forward(self, latents: Tensor, draws: Draws | None = None) -> Quantized:
        """See the module."""
        codebook = self.codebook()
        codes = nearest(latents, codebook) if draws is None else self._drawn(latents, codebook, draws)
        chosen = F.embedding(codes, codebook)
        left = 0.0 if draws is None else 0.5 * (1 + math.cos(math.pi * min(1.0, 2 * draws.progress)))
        decoded = left * latents + (1 - left) * chosen
        standard = F.layer_norm(latents.float(), latents.shape[-2:]).detach()
        losses = {
            "codebook": squared(chosen, latents.detach()),
            "commitment": squared(latents, decoded.detach()),
            "standard": squared(latents, standard),
        }
        return Quantized(codes, latents + (decoded - latents).detach(), losses)

    @torch.no_grad()
    def _drawn(self, latents: Tensor, codebook: Tensor, draws: Draws) -> Tensor:
        risen = 0.5 * (1 - math.cos(math.pi * draws.progress))
        factor = self.SHARPEST**risen  # its logarithm rises on a cosine
        with torch.autocast(latents.device.type, enabled=False):
            distance = torch.cdist(latents.float(), codebook.float())  # (B,T,N,V)
            logits = (self.mean - distance) / self.std * factor
        return (logits + gumbel(draws, logits)).argmax(-1)


class GumbelCodes(Configured, nn.Module):
    """Codes drawn by Gumbel-softmax (the discrete VAE of SLATE and STEVE).

    In training a Gumbel-softmax sample mixes the codebook's vectors. Its temperature falls on a cosine from 1 to 0.1
    over the part ``until`` of the training (30,000 updates in the authors' code). The codes are a second sample. After
    training the code is that of the largest logit.
    """

    def __init__(self, num_codes: int, dim: int, until: float = 0.15) -> None:
        super().__init__()
        if not 0 < until <= 1:
            raise ValueError(f"until is a part of the training, above 0 to 1, got {until}")
        self.num_codes, self.latent_dim, self.dim, self.until = num_codes, num_codes, dim, until
        self.vectors = nn.Parameter(torch.randn(num_codes, dim))

    def codebook(self) -> Tensor:
        """(V,dim)."""
        return self.vectors

    def forward(self, latents: Tensor, draws: Draws | None = None) -> Quantized:
        """See the module; ``latents`` are the logits."""
        if draws is None:
            codes = latents.argmax(-1)
            return Quantized(codes, F.embedding(codes, self.vectors), {})
        cosine = math.cos(math.pi * min(1.0, draws.progress / self.until))
        temperature = 0.1 + 0.9 * 0.5 * (1 + cosine)
        soft = ((latents.float() + gumbel(draws, latents)) / temperature).softmax(-1)
        codes = (latents.float() + gumbel(draws, latents)).argmax(-1)
        return Quantized(codes, soft.to(self.vectors.dtype) @ self.vectors, {})


Quantizer = VectorQuantizer | SimVQ | GumbelCodes


@torch.no_grad()
def nearest(latents: Tensor, codebook: Tensor) -> Tensor:
    """The index (...) of the vector of ``codebook`` (V,C) that is nearest to each of the latents (...,C)."""
    with torch.autocast(latents.device.type, enabled=False):
        flat, vectors = latents.float().flatten(0, -2), codebook.float()
        distance = vectors.square().sum(-1) - 2 * flat @ vectors.T  # without the latent's square, equal for all vectors
    return distance.argmin(-1).view(latents.shape[:-1])


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared error (...) in float32, mean over the last axis."""
    return (a.float() - b.float()).square().mean(-1)


def gumbel(draws: Draws, like: Tensor) -> Tensor:
    """Gumbel noise with the shape of ``like`` (B,...), drawn on its device, since there are V numbers for each cell."""
    uniform = draws.on(like.device).uniform(*like.shape[1:]).clamp_min(torch.finfo(torch.float32).tiny)
    return -(-uniform.log()).log()
