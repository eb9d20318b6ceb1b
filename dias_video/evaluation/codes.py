"""Validation of a tokenizer in training, alone or along with slots: the use of its codes, and its reconstructions."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from dias_video.batch import VideoBatch
from dias_video.evaluation.in_training import FirstVideos
from dias_video.model.slate import SLATE
from dias_video.model.tokenizers.nets import FeatureDecoder
from dias_video.model.tokenizers.tokenizer import Tokenizer
from dias_video.visualize import gif_file, side_by_side, write_gif

SHOWN = 8  # the most videos that are drawn


class CodeValidation(FirstVideos):
    """``validate`` and ``preview`` for the trainer, on first videos."""

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if ``model`` neither is a tokenizer nor trains one along."""
        if not isinstance(model, (Tokenizer, SLATE)):
            raise ValueError(f"this validation is for tokenizers, not for a {type(model).__name__}")

    @torch.no_grad()
    def validate(self, model: Tokenizer | SLATE, step: int) -> dict[str, float]:
        """Figures over all frames together, since a single batch uses only some codes.

        - ``val/perplexity``: perplexity of the codes' frequencies, at most V.
        - ``val/dead_codes``: number of codes that were not used.
        - ``val/explained``: the part of the variance around the mean picture (or features) that is reconstructed.
        - ``val/psnr`` and ``val/psnr_mean``: for pictures only, PSNR in dB, and that of the mean picture.
        """
        model = _tokenizer(model)
        counts = torch.zeros(model.num_codes)
        total: Tensor | float = 0.0
        squares, error, frames = 0.0, 0.0, 0
        for index in self.indices:
            batch = VideoBatch.stack([self.read(index)]).to(next(model.parameters()).device)
            features = model.features(batch)
            codes = model.codes(batch.video, features)
            counts += codes.cpu().flatten().bincount(minlength=model.num_codes)
            target = model.decoder.shown(model.decoder.target(batch.video, features))[0].double()  # (T,...)
            error += float((_decoded(model, codes)[0].double() - target).square().flatten(1).mean(1).sum())
            total = total + target.sum(0)
            squares += float(target.square().flatten(1).mean(1).sum())
            frames += len(target)
        share = counts / counts.sum()
        used = share[share > 0]
        variance = squares / frames - float((torch.as_tensor(total) / frames).square().mean())
        found = {
            "val/perplexity": float((-(used * used.log()).sum()).exp()),
            "val/dead_codes": float((counts == 0).sum()),
            "val/explained": 1 - error / frames / max(variance, 1e-12),
        }
        if not isinstance(model.decoder, FeatureDecoder):
            found |= {"val/psnr": _psnr(error / frames), "val/psnr_mean": _psnr(variance)}
        return found

    @torch.no_grad()
    def preview(self, model: Tokenizer | SLATE, folder: Path) -> list[Path]:
        """GIFs of ``SHOWN`` videos beside their reconstruction from codes, if the tokenizer reconstructs pictures."""
        model, files = _tokenizer(model), []
        for index in () if isinstance(model.decoder, FeatureDecoder) else self.indices[:SHOWN]:
            batch = VideoBatch.stack([self.read(index)]).to(next(model.parameters()).device)
            codes = model.codes(batch.video, model.features(batch))
            both = [model.decoder.shown(model.decoder.target(batch.video)), _decoded(model, codes)]
            panels = [rearrange((255 * x[0]).round().byte().cpu(), "t c h w -> t h w c") for x in both]
            files.append(gif_file(folder, batch.video_id[0]))
            write_gif(files[-1], side_by_side(panels, ["video", "codes"]))
        return files


def _tokenizer(model: Tokenizer | SLATE) -> Tokenizer:
    return model.encoder.tokenizer if isinstance(model, SLATE) else model


def _decoded(model: Tokenizer, codes: Tensor) -> Tensor:
    """The reconstruction from codes, as pictures or features."""
    return model.decoder.shown(model.decoder(model.vectors(codes)))


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, 1e-12))
