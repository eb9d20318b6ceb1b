"""Random colours, procedural textures, skies and lights, all drawn from a numpy Generator."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dias_video.simulate.scene import Camera, Light

TEXTURE_SIZE = 64
MATERIALS = ("plain", "checker", "stripes", "noise")
Color = tuple[float, float, float]  # RGB in [0, 1]

APART = 0.45  # least RGB distance of bodies' colours


def hsv(hue: float, saturation: float, value: float) -> Color:
    """RGB in [0,1] from hue (1 is a full circle), saturation and value in [0,1]."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def texture(rng: np.random.Generator, material: str, color: Color, second: Color, cells: int) -> NDArray[np.uint8]:
    """A texture (64, 64, 3) uint8 that wraps around: ``color`` mixed with ``second``, ``cells`` periods on a side."""
    place = np.arange(TEXTURE_SIZE) * cells * 2 // TEXTURE_SIZE
    mix: NDArray[np.floating]
    if material == "plain":
        mix = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE))
    elif material == "checker":
        mix = (place[:, None] + place[None]) % 2.0
    elif material == "stripes":
        mix = np.broadcast_to(place[:, None] % 2.0, (TEXTURE_SIZE, TEXTURE_SIZE))
    elif material == "noise":
        mix = _smooth_noise(rng, cells)
    else:
        raise ValueError(f"unknown material {material!r}; choose from {', '.join(MATERIALS)}")
    mixed = (1 - mix[..., None]) * np.array(color) + mix[..., None] * np.array(second)
    return np.round(255 * mixed).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, cells: int) -> NDArray[np.float64]:
    """Value noise in [0, 1] on a torus: random grid values, interpolated with a smooth step."""
    grid = rng.random((cells * 2, cells * 2))
    along = np.arange(TEXTURE_SIZE) * (cells * 2) / TEXTURE_SIZE
    low = along.astype(int)
    high = (low + 1) % (cells * 2)
    step = along - low
    step = step * step * (3 - 2 * step)
    rows = grid[low] * (1 - step[:, None]) + grid[high] * step[:, None]
    return rows[:, low] * (1 - step) + rows[:, high] * step


def body_color(rng: np.random.Generator, others: Sequence[Color]) -> Color:
    """A saturated colour at an RGB distance of at least ``APART`` from ``others``, or the farthest of 30 tries."""
    tries: list[Color] = []
    while len(tries) < 30 and not (tries and _distance(tries[-1], others) >= APART):
        tries.append(hsv(rng.random(), rng.uniform(0.55, 1.0), rng.uniform(0.55, 1.0)))
    return max(tries, key=lambda color: _distance(color, others))


def prop_color(rng: np.random.Generator, others: Sequence[Color]) -> Color:
    """A colour that differs from ``others`` and is neither red nor yellow: green, blue or purple."""
    tries = [hsv(rng.uniform(0.3, 0.8), rng.uniform(0.4, 1.0), rng.uniform(0.4, 1.0)) for _ in range(20)]
    return max(tries, key=lambda color: _distance(color, others))


def _distance(color: Color, others: Sequence[Color]) -> float:
    """RGB distance from the nearest of ``others``."""
    return min((float(np.linalg.norm(np.subtract(color, other))) for other in others), default=np.inf)


def second_color(rng: np.random.Generator, color: Color) -> Color:
    """The second colour of a pattern: mostly a darker or lighter shade, so that a body seems to have one colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    if rng.random() < 0.5:
        return hsv(hue + rng.uniform(-0.05, 0.05), saturation, value * rng.uniform(0.35, 0.6))
    return hsv(hue + rng.uniform(-0.08, 0.08), saturation * rng.uniform(0.1, 0.45), min(1.0, value * 1.25))


def ground_look(rng: np.random.Generator) -> tuple[NDArray[np.uint8], Color]:
    """A pale or dark ground texture and its mean colour."""
    color = hsv(rng.random(), rng.uniform(0.0, 0.3), rng.uniform(0.25, 0.85))
    shade = rng.uniform(0.7, 0.92)
    second = (color[0] * shade, color[1] * shade, color[2] * shade)
    pattern = texture(rng, str(rng.choice(MATERIALS)), color, second, int(rng.integers(1, 5)))
    red, green, blue = (float(mean) / 255 for mean in pattern.mean(axis=(0, 1)))
    return pattern, (red, green, blue)


def sky_look(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colours of the top of the sky and of the horizon, (2, 3) uint8."""
    hue = rng.random()
    top = hsv(hue, rng.uniform(0.0, 0.35), rng.uniform(0.5, 0.9))
    horizon = hsv(hue, rng.uniform(0.0, 0.1), rng.uniform(0.8, 1.0))
    return np.round(255 * np.array([top, horizon])).astype(np.uint8)


def light_look(rng: np.random.Generator, camera: Camera) -> Light:
    """A light high above the ground, on the far side: the renderer darkens distant ground beyond its shadow map."""
    away = np.subtract(camera.target, camera.position)
    azimuth = np.arctan2(away[1], away[0]) + np.radians(rng.uniform(-70, 70))
    elevation = np.radians(rng.uniform(52, 78))
    direction = (
        float(np.cos(azimuth) * np.cos(elevation)),
        float(np.sin(azimuth) * np.cos(elevation)),
        float(np.sin(elevation)),
    )
    ambient = rng.uniform(0.45, 0.6)
    return Light(direction, ambient, 1.05 - ambient, rng.uniform(0.0, 0.25))
