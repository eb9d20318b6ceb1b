"""Decoding by diffusion: a U-Net that looks at slots predicts the noise in noisy latents (SlotDiffusion)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dias_video.draws import Draws
from dias_video.model.decoders.decoded import Decoded, Decoder, check_tokens
from dias_video.model.layers import attend, masked_softmax

STEPS = 1000  # t runs from 0, hardly any noise, to STEPS - 1
STRATA = 4  # parts of t in evaluation
SAMPLED = 10  # steps from noise to latents
# Beta is linear in its square root, which others call linear and the library calls scaled.
BETAS = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


class DiffusionDecoder(Decoder):
    """The conditional U-Net of the library diffusers over the grid of latents, with cross-attention to slots.

    In training a noise and a t are drawn for every frame. The reconstruction is the known latents plus the error of the
    predicted noise, so its squared error to the latents is that of the noise. Without draws every frame is decoded with
    the same noises, one at the middle of each of ``STRATA`` equal parts of t; the squared error is their mean. Slots
    without known latents are decoded by DDIM: ``SAMPLED`` steps from the first of these noises. A_d is the last
    cross-attention, mean over heads, resized to the grid.

    Args:
        feature_dim: C of the latents.
        grid: (h,w) of the latents; N = h*w.
        channels: width of each level of the U-Net. A level has half the height and width of the one before. The first
            has no attention.
        num_layers: residual blocks of a level on the way down; on the way up there is one more.
        num_heads: heads of every attention.
        num_groups: groups of every GroupNorm.

    Raises:
        ValueError: a width is not divisible by ``num_groups`` or ``num_heads``, or diffusers is not installed.
    """

    noise: Tensor

    def __init__(
        self,
        feature_dim: int,
        slot_dim: int,
        grid: tuple[int, int],
        channels: list[int],
        num_layers: int = 2,
        num_heads: int = 8,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.feature_dim, self.grid = feature_dim, (grid[0], grid[1])
        for width in channels:
            if width % num_groups or width % num_heads:
                raise ValueError(
                    f"channels must be divisible by num_groups {num_groups} and num_heads {num_heads}, got {width}"
                )
        models, schedulers = _diffusers()
        inner = len(channels) - 1
        self.unet = models.UNet2DConditionModel(
            in_channels=feature_dim,
            out_channels=feature_dim,
            block_out_channels=tuple(channels),
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * inner),
            up_block_types=(*("CrossAttnUpBlock2D",) * inner, "UpBlock2D"),
            layers_per_block=num_layers,
            cross_attention_dim=slot_dim,
            attention_head_dim=num_heads,  # the library's name for the number of heads
            norm_num_groups=num_groups,
        )
        self.unet.set_attn_processor(SlotProcessor())
        self.attended = tuple(-(-side // 2 ** min(1, inner)) for side in grid)  # grid of the last cross-attention
        self.noising = schedulers.DDPMScheduler(STEPS, **BETAS)
        # By default the library clips what it samples to [-1,1], and begins one stride before the last t.
        self.sampling = schedulers.DDIMScheduler(STEPS, **BETAS, clip_sample=False, timestep_spacing="trailing")
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(STRATA, grid[0] * grid[1], feature_dim, generator=generator, device="cpu")
        self.register_buffer("noise", noise, persistent=False)  # (STRATA,N,C)

    def forward(self, slots: Tensor, live: Tensor, target: Tensor | None = None, draws: Draws | None = None) -> Decoded:
        """Slots (B,T,S,D) to latents (B,T,N,C); ``draws`` choose noise and t."""
        batch, frames = slots.shape[:2]
        shape = (batch, frames, self.noise.shape[1])
        check_tokens(target, shape, self.feature_dim)
        look = (slots.flatten(0, 1), live.flatten(0, 1))
        if target is None:
            tokens, attention = self._sample(*look)
        elif draws is None:
            fixed = self._fixed(batch, frames)
            errors, maps = zip(*(self._error(target, noise, t, *look) for noise, t in fixed), strict=True)
            tokens = target + torch.stack(errors).square().mean(0).sqrt()
            attention = torch.stack(maps).mean(0)
        else:
            noise = draws.normal(*shape[1:], self.feature_dim)
            t = (draws.uniform(frames) * STEPS).long()
            error, attention = self._error(target, noise, t, *look)
            tokens = target + error
        return Decoded(
            tokens.view(*shape, self.feature_dim),
            attention.unflatten(0, (batch, frames)),
            torch.ones(shape, dtype=torch.bool, device=slots.device),
        )

    def _fixed(self, batch: int, frames: int) -> list[tuple[Tensor, Tensor]]:
        """Noise (B,T,N,C) and t (B,T) of every stratum."""
        middles = range(STEPS // (2 * STRATA), STEPS, STEPS // STRATA)
        every = torch.ones(batch, frames, dtype=torch.int64, device=self.noise.device)
        return [(n.expand(batch, frames, -1, -1), t * every) for n, t in zip(self.noise, middles, strict=True)]

    def _error(self, clean: Tensor, noise: Tensor, t: Tensor, slots: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted minus true noise (B,T,N,C) in ``clean`` latents (B,T,N,C), and A_d (B*T,S,N)."""
        flat = noise.flatten(0, 1)  # (B*T,N,C)
        noisy = self.noising.add_noise(clean.float().flatten(0, 1), flat, t.flatten())
        predicted, attention = self._predict(noisy, t.flatten(), slots, live)
        return (predicted - flat).view_as(clean), attention

    def _predict(self, noisy: Tensor, t: Tensor, slots: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """The noise (F,N,C) in latents (F,N,C) at t (F,), and A_d (F,S,N)."""
        maps: list[Tensor] = []  # each (F,n,S), n cells of the level of the attention
        x = rearrange(noisy, "f (h w) c -> f c h w", h=self.grid[0])
        (x,) = self.unet(x, t, slots, cross_attention_kwargs={"live": live, "maps": maps}, return_dict=False)
        seen = rearrange(maps[-1], "f (h w) s -> f s h w", h=self.attended[0])
        seen = F.interpolate(seen, self.grid, mode="bilinear", align_corners=False)
        return rearrange(x.float(), "f c h w -> f (h w) c"), seen.flatten(2)

    def _sample(self, slots: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (F,N,C) of slots, and A_d (F,S,N) of the last step."""
        latents = self.noise[0].expand(len(slots), -1, -1)
        self.sampling.set_timesteps(SAMPLED, device=slots.device)
        for t in self.sampling.timesteps:
            predicted, attention = self._predict(latents, t.expand(len(slots)), slots, live)
            latents = self.sampling.step(predicted, t, latents).prev_sample
        return latents, attention


class SlotProcessor:
    """The arithmetic of the U-Net's attentions: to slots as in the other decoders, so dead ones have exactly no share.

    It replaces that of diffusers, whose mask subtracts 10,000 from logits: all slots share a frame without live ones,
    and a gate has no useful gradient.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        live: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Cells (F,n,width) that look at slots (F,S,D), or at each other if there are no slots.

        Args:
            attn: the library's module with the projections.
            hidden_states, encoder_hidden_states: cells, slots.
            attention_mask: not used.
            live: (F,S), as for ``Decoder``.
            maps: gets the attention to slots (F,n,S), mean over heads.
        """
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)
        q, k, v = (rearrange(x, "f n (a d) -> f a n d", a=attn.heads) for x in projected)
        if encoder_hidden_states is None:
            y = attend(q, k, v)
        else:
            assert live is not None
            assert maps is not None
            weights = masked_softmax(q @ k.transpose(-1, -2) * attn.scale, live[:, None, None], -1)
            maps.append(weights.mean(1))
            y = weights.to(v.dtype) @ v
        y = rearrange(y, "f a n d -> f n (a d)")
        for layer in attn.to_out:
            y = layer(y)
        return y


def _diffusers() -> tuple[Any, Any]:
    """The modules of diffusers with U-Nets and with schedules, which only this decoder needs.

    Raises:
        ValueError: the library is not installed.
    """
    try:
        from diffusers import models, schedulers
    except ImportError as error:
        raise ValueError(
            "decoder=diffusion needs diffusers; install it with pip install 'dias-video[diffusion]'"
        ) from error
    return models, schedulers
