"""Decoding by diffusion: what the U-Net sees, what is compared, and what is sampled, against formulas."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.decoders.diffusion import SAMPLED, STRATA, DiffusionDecoder

B, T, S, D, C, GRID = 2, 3, 4, 6, 5, (3, 5)
N = GRID[0] * GRID[1]
BETAS = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
LEFT = np.cumprod(1 - BETAS)  # alpha-bar, the part of the variance that is not noise


def decoder(grid: tuple[int, int] = GRID) -> DiffusionDecoder:
    torch.manual_seed(0)
    return DiffusionDecoder(C, D, grid, [8, 12], num_layers=1, num_heads=2, num_groups=4)


class Stub(nn.Module):
    """In the place of the U-Net: notes what it is given, and predicts ``answer(x, t)``."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer, self.seen = answer, []

    def forward(self, x: Tensor, t: Tensor, slots: Tensor, cross_attention_kwargs: Any, **_: Any) -> tuple[Tensor]:
        self.seen.append((x, t))
        cross_attention_kwargs["maps"].append(torch.full((len(x), 2 * 3, slots.shape[1]), 1 / slots.shape[1]))
        return (self.answer(x, t),)


def stubbed(answer: Any) -> DiffusionDecoder:
    made = decoder()
    made.unet = Stub(answer)
    return made


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    live = torch.ones(B, T, S, dtype=torch.bool)
    return torch.randn(B, T, S, D, generator=generator), live, torch.randn(B, T, N, C, generator=generator)


def picture(tokens: Tensor) -> Tensor:
    """Tokens (...,N,C) as (...,C,h,w), cell by cell."""
    out = torch.empty(*tokens.shape[:-2], C, *GRID)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            out[..., row, column] = tokens[..., row * GRID[1] + column, :]
    return out


def left(t: Tensor) -> Tensor:
    return torch.as_tensor(LEFT)[t].float()[..., None, None]


def test_the_schedule_is_that_of_the_paper() -> None:
    assert LEFT[[0, 250, 500, 750, 999]] == pytest.approx([0.9985, 0.508, 0.115, 0.0083, 0.0001], abs=5e-4)
    for schedule in (decoder().noising, decoder().sampling):
        assert schedule.alphas_cumprod.numpy() == pytest.approx(LEFT, rel=1e-4)


def test_the_benchmarks_u_net_has_135_million_parameters_and_eight_heads() -> None:
    with torch.device("meta"):
        unet = DiffusionDecoder(4, 256, (16, 16), [128, 256, 384, 512]).unet
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(135e6, rel=0.001)
    heads = [{part.heads for part in net.modules() if hasattr(part, "heads")} for net in (unet, decoder().unet)]
    assert heads == [{8}, {2}]
    with_attention = [hasattr(block, "attentions") for block in (*unet.down_blocks, *unet.up_blocks)]
    assert with_attention == [False, True, True, True, True, True, True, False]


def test_in_training_every_frame_has_its_own_noise_and_t() -> None:
    model = stubbed(lambda x, t: x / 2)
    slots, live, latents = inputs()
    got = model(slots, live, latents, Draws.for_step(7, 3, range(B)))
    draws = Draws.for_step(7, 3, range(B))
    noise, t = draws.normal(T, N, C), (draws.uniform(T) * 1000).long()
    assert len(t.unique()) == B * T
    noisy = left(t).sqrt() * latents + (1 - left(t)).sqrt() * noise
    ((seen, at),) = model.unet.seen
    assert torch.equal(at, t.flatten())
    torch.testing.assert_close(seen, picture(noisy).flatten(0, 1))
    torch.testing.assert_close((got.reconstruction - latents).square(), (noisy / 2 - noise).square())
    assert got.scored.all()


def test_evaluation_has_fixed_noise_at_the_middle_of_every_part_of_t() -> None:
    model = stubbed(lambda x, t: x / 2)
    slots, live, latents = inputs()
    got = model(slots, live, latents)
    middles = [125, 375, 625, 875]
    assert [at.unique().tolist() for _, at in model.unet.seen] == [[t] for t in middles]
    assert len(model.noise) == STRATA == 4
    assert float(model.noise.std()) == pytest.approx(1, abs=0.1)
    errors = []
    for noise, t in zip(model.noise, middles, strict=True):
        noisy = LEFT[t] ** 0.5 * latents + (1 - LEFT[t]) ** 0.5 * noise  # the same for every frame
        errors.append((noisy / 2 - noise).square())
    torch.testing.assert_close((got.reconstruction - latents).square(), torch.stack(errors).mean(0).float())
    assert torch.equal(model.noise, decoder().noise)


def test_a_perfect_prediction_is_sampled_back() -> None:
    """If the predicted noise is what leaves these latents, they are sampled, and in the steps of DDIM."""
    slots, live, latents = inputs()
    wanted = 3 * picture(latents[0, 0])  # outside of [-1,1] too
    scale = lambda t: left(t)[..., None]  # noqa: E731
    model = stubbed(lambda x, t: (x - scale(t).sqrt() * wanted) / (1 - scale(t)).sqrt())
    got = model(slots, live)
    torch.testing.assert_close(picture(got.reconstruction), wanted.expand(B, T, -1, -1, -1), atol=1e-3, rtol=1e-3)
    assert [int(t[0]) for _, t in model.unet.seen] == list(range(999, 0, -1000 // SAMPLED))
    torch.testing.assert_close(model.unet.seen[0][0][0], picture(model.noise[0]))


def test_a_loss_is_the_same_alone_and_in_a_batch() -> None:
    model = decoder()
    slots, live, latents = inputs()
    live[1, 2, :3] = False
    whole = model(slots, live, latents, Draws.for_videos(0, ["a", "b"]))
    for b, name in enumerate("ab"):
        own = slice(b, b + 1)
        alone = model(slots[own], live[own], latents[own], Draws.for_videos(0, [name]))
        torch.testing.assert_close(alone.reconstruction, whole.reconstruction[own])
    parts = [model(slots[p], live[p], latents[p], Draws.for_step(0, 5, range(p.start, p.stop))).reconstruction
             for p in (slice(0, 1), slice(1, 2))]  # fmt: skip
    together = model(slots, live, latents, Draws.for_step(0, 5, range(B)))
    torch.testing.assert_close(torch.cat(parts), together.reconstruction)


@pytest.mark.parametrize("grid", [(3, 5), (5, 2), (1, 1)])
def test_one_slot_of_one_frame_has_all_cells(grid: tuple[int, int]) -> None:
    model, count = decoder(grid), grid[0] * grid[1]
    slots, live = torch.randn(1, 1, 1, D), torch.ones(1, 1, 1, dtype=torch.bool)
    for target in (torch.randn(1, 1, count, C), None):
        got = model(slots, live, target)
        assert got.reconstruction.shape == (1, 1, count, C)
        torch.testing.assert_close(got.attention, torch.ones(1, 1, 1, count))


def test_where_no_slot_lives_none_has_a_share_or_an_influence() -> None:
    model = decoder()
    slots, live, latents = inputs()
    live[0] = False
    got, other = (model(s, live, latents) for s in (slots, slots + 9))
    assert (got.attention[0] == 0).all()
    assert torch.equal(got.reconstruction[0], other.reconstruction[0])
    assert not torch.allclose(got.reconstruction[1], other.reconstruction[1])


def test_a_gate_is_a_mask_with_a_gradient() -> None:
    model = decoder()
    slots, live, latents = inputs()
    live[0, 1, 2] = live[1, :, 0] = False
    gate = live.float().requires_grad_()
    gated, masked = (model(slots, kept, latents) for kept in (gate, live))
    torch.testing.assert_close(gated.reconstruction, masked.reconstruction, atol=1e-4, rtol=1e-4)
    (gated.reconstruction - latents).square().sum().backward()
    assert gate.grad is not None
    assert (gate.grad[~live].abs() > 0).all()  # what opening it would change
    assert float(gate.grad.abs().max()) < 1e3


def test_widths_and_the_missing_library_are_answered_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="divisible by num_groups 4 and num_heads 2, got 10"):
        DiffusionDecoder(C, D, GRID, [8, 10], num_heads=2, num_groups=4)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"needs diffusers; install it with pip install 'dias-video\[diffusion\]'"):
        decoder()
