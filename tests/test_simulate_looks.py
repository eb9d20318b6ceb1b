"""What simulated bodies are drawn with: meshes of their shapes, textures of their materials."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pybullet")

from dias_video.simulate import looks
from dias_video.simulate.shapes import shape_mesh


@pytest.mark.parametrize(
    ("shape", "volume"),
    [
        ("box", 1.0 * 0.6 * 0.8),
        ("sphere", np.pi / 6),
        ("cylinder", np.pi / 4 * 1.5),
        ("cone", np.pi / 12 * 1.5),
        ("capsule", np.pi / 6 + np.pi / 4 * 0.5),
    ],
)
def test_meshes_are_closed_and_wound_outwards(shape: str, volume: float) -> None:
    mesh = shape_mesh(shape, (1.0, 0.6, 0.8) if shape == "box" else (1.0, 1.0, 1.0 if shape == "sphere" else 1.5))
    first, second, third = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    assert np.einsum("fc,fc->f", first, np.cross(second, third)).sum() / 6 == pytest.approx(volume, rel=0.04)
    faces = np.cross(second - first, third - first)
    assert (np.einsum("fc,fc->f", faces, mesh.normals[mesh.triangles].mean(axis=1)) >= -1e-12).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0)


@pytest.mark.parametrize("material", looks.MATERIALS)
def test_textures_wrap_and_mix_their_two_colours(material: str) -> None:
    pattern = looks.texture(np.random.default_rng(0), material, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), 3)
    assert pattern.shape == (64, 64, 3)
    assert pattern.dtype == np.uint8
    total = pattern[..., 0].astype(int) + pattern[..., 2]
    assert (abs(total - 255) <= 1).all()
    assert (material == "plain") == (pattern[..., 2].max() == 0)
