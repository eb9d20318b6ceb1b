"""Training of the tiny encoder: it predicts the tokens of a large frozen encoder."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.encoders import Encoder
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.pretrained.saving import Pretrained


class Distillation(Pretrained, nn.Module):
    """A student encoder whose tokens are the coordinates of the teacher's tokens in a learned subspace.

    The teacher's tokens come with the batch (``features``, from the frozen-feature cache) and are standardised over
    their channels. The decoding matrix has orthonormal columns. A student's token of C numbers is therefore a rotation
    of the teacher's leading principal components, scaled to unit variance on average, and distances between the
    student's tokens are distances between the teacher's.
    """

    frozen: dict[str, Any] = {}  # noqa: RUF012 - a constant
    of_any = frozenset({"features"})  # any encoder can be the teacher

    def __init__(self, encoder: TinyEncoder, teacher_dim: int) -> None:
        super().__init__()
        if encoder.feature_dim > teacher_dim:
            raise ValueError(f"the student's {encoder.feature_dim} features exceed the teacher's {teacher_dim}")
        self.encoder = encoder
        self.scale = (teacher_dim / encoder.feature_dim) ** 0.5
        self.basis = nn.Parameter(torch.randn(teacher_dim, encoder.feature_dim))
        self.offset = nn.Parameter(torch.zeros(teacher_dim))

    def inputs(self, cached: Collection[str] = ()) -> set[str]:
        """What it needs of a training batch beside the teacher's features: the frames."""
        return {"video"}

    def forward(self, batch: VideoBatch, draws: Draws) -> dict[str, Tensor]:
        """``distillation`` (B,): the squared error to the teacher's tokens, whose mean square is 1.

        Raises:
            ValueError: the batch has no cached features, or they are on another grid or of another width.
        """
        tokens = self.encoder(batch.pixels)  # (B,T,N,C)
        expected = (*tokens.shape[:3], len(self.basis))
        if batch.features is None or batch.features.shape != expected:
            got = None if batch.features is None else tuple(batch.features.shape)
            said = f"distillation needs cached teacher features {expected}, got {got}"
            raise ValueError(f"{said}; model.teacher_dim= is their width")
        columns, upper = torch.linalg.qr(self.basis.float())  # (C_teacher,C) orthonormal
        columns = columns * upper.diagonal().sign()  # with these signs QR is continuous in the basis
        target = F.layer_norm(batch.features.float(), batch.features.shape[-1:])
        error = (self.scale * tokens @ columns.T + self.offset - target).square().mean(-1)  # (B,T,N)
        valid = batch.frame_valid[..., None].to(error.dtype)
        return {"distillation": (error * valid).sum((1, 2)) / (valid.sum((1, 2)) * error.shape[-1])}


def check_kept(encoder: Encoder, feature_dim: int) -> None:
    """Refuse to keep ``feature_dim`` features of an encoder.

    Raises:
        ValueError: the encoder has fewer features, or some of them are colour.
    """
    if encoder.color:
        raise ValueError("whiten an encoder without colour (color=0), and give it colour when it is used")
    if not 1 <= feature_dim <= encoder.feature_dim:
        raise ValueError(f"the encoder has {encoder.feature_dim} features, of which {feature_dim} can't be kept")


@torch.no_grad()
def whiten(
    encoder: Encoder,
    tokens: Tensor,
    feature_dim: int,
    smoothness: float = 0.0,
    kept: float = 0.0,
    turned_back: bool = False,
) -> tuple[Encoder, Tensor]:
    """An encoder whose features are the leading principal components of the given one, with mean 0 and variance 1.

    A few directions of DINOv2's features hold nearly all the variance and say little about objects. After whitening,
    all directions have equal weight in a squared error or a distance.

    Args:
        encoder: the encoder to whiten.
        tokens: (M,h,w,C) float, a sample of its tokens over whole frames, many more than ``feature_dim``.
        feature_dim: number of features to keep.
        smoothness: gives a direction the variance v**-smoothness, where v is the variance of its difference between
            neighbouring cells. A feature that changes slowly over a picture separates objects; one that changes from
            cell to cell shows their edges and textures.
        kept: a principal component of variance v gets the variance v**kept: 0 whitens, 1 would change nothing. With
            ``kept`` or ``smoothness``, the features have falling variances with mean 1.
        turned_back: whether the components, weighted so, are turned back to the encoder's own channels, as near to them
            as they can be: C features, also where ``feature_dim`` is less. Distances between features are the same,
            but norms and Adam look at single channels, so slots can learn from these what they can't from components.

    Returns:
        The encoder, and (C,) the share of the variance that each direction had before, falling.

    Raises:
        ValueError: there are no more tokens than features to keep, the encoder has fewer features than that, or some
            of its features are colour.
    """
    check_kept(encoder, feature_dim)
    flat = tokens.flatten(0, 2).double()
    if len(flat) <= feature_dim:
        raise ValueError(f"whitening {feature_dim} features needs more than {len(flat)} tokens")
    mean = flat.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov(flat.T))
    variance, directions = variance.flip(0).clamp_min(1e-12), directions.flip(1)
    matrix = (directions / variance.sqrt()).T[:feature_dim]  # (D,C)
    if smoothness or kept:
        white = (tokens.double() - mean) @ matrix.T
        steps = torch.cat([white.diff(dim=1).flatten(0, 2), white.diff(dim=2).flatten(0, 2)])
        roughness, smooth = torch.linalg.eigh(torch.cov(steps.T))
        larger = variance[:feature_dim, None] ** (kept / 2) * smooth * roughness.clamp_min(1e-12) ** (-smoothness / 2)
        _, scale, turn = torch.linalg.svd(larger @ smooth.T)  # turned, so that features stay uncorrelated
        matrix = (scale / scale.square().mean().sqrt())[:, None] * turn @ matrix
    if turned_back:  # the symmetric factor of the polar decomposition
        _, scale, directions = torch.linalg.svd(matrix, full_matrices=False)
        matrix = directions.T * scale @ directions
    return encoder.followed_by(matrix, mean), variance / variance.sum()
