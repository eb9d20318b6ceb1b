"""Triangle meshes of the simple shapes, with texture coordinates and smooth normals."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dias_video.simulate.scene import Camera, Vector


class Mesh(NamedTuple):
    """Vertices (V, 3), unit normals (V, 3), texture coordinates (V, 2), triangles (F, 3) that face outwards."""

    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    uvs: NDArray[np.float64]
    triangles: NDArray[np.int64]


def shape_mesh(shape: str, size: Vector) -> Mesh:
    """The mesh of a simple shape (``scene.SHAPES``) with full extents ``size``, centred as PyBullet does."""
    if shape == "box":
        return _box(size)
    return _revolve(shape, size[0] / 2, size[2])


NUM_BUNDLED = 1000
SEGMENTS = 24  # around the axis of round shapes
MAX_BUNDLED_TRIANGLES = 800  # the few larger meshes would take most of the rendering time


class BundledMesh(NamedTuple):
    """One of the random meshes that come with PyBullet, in its file's own units."""

    path: str
    extent: float  # the largest extent
    middle: tuple[float, float, float]  # middle of the bounding box
    corners: NDArray[np.float64]  # (F, 3, 3) corners of each triangle

    def mesh_of(self, extent: float) -> Mesh:
        """The flat-shaded mesh with largest extent ``extent`` and the middle of its bounding box at the origin."""
        corners = (self.corners - np.array(self.middle)) * (extent / self.extent)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals / np.where(length > 0, length, 1.0)
        vertices = corners.reshape(-1, 3)
        uvs = vertices[:, :2] / extent + vertices[:, 2:] / extent * 0.5 + 1.0  # planar, slanted, positive
        return Mesh(vertices, np.repeat(normals, 3, axis=0), uvs, np.arange(len(vertices)).reshape(-1, 3))


@functools.lru_cache(maxsize=NUM_BUNDLED)
def bundled_mesh(shape: str) -> BundledMesh:
    """Read "mesh:000" to "mesh:999"."""
    import pybullet_data

    number = shape.removeprefix("mesh:")
    path = Path(pybullet_data.getDataPath()) / "random_urdfs" / number / f"{number}.obj"
    if not path.is_file():
        raise ValueError(f"PyBullet bundles no mesh {number!r}; use mesh:000 to mesh:999")
    words = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([row[1:4] for row in words if row and row[0] == "v"], dtype=np.float64)
    faces = np.array([[w.split("/")[0] for w in row[1:4]] for row in words if row and row[0] == "f"], dtype=np.int64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    x, y, z = ((low + high) / 2).tolist()
    return BundledMesh(str(path), float((high - low).max()), (x, y, z), vertices[faces - 1])


def is_usable(found: BundledMesh) -> bool:
    """Whether a bundled mesh is complete, not flat, and small enough to draw quickly."""
    extents = found.corners.max(axis=(0, 1)) - found.corners.min(axis=(0, 1))
    return bool(
        np.isfinite(extents).all()
        and extents.min() > 0.3 * extents.max()
        and len(found.corners) <= MAX_BUNDLED_TRIANGLES
    )


def ground_mesh(camera: Camera, size: tuple[int, int], depth: float, tile: float) -> Mesh:
    """The part of the plane z = 0 that ``camera`` sees up to ``depth`` metres behind its target, for a picture (H, W).

    All of it lies in front of the camera. The texture repeats every ``tile`` metres and is fixed to the world.
    """
    away = np.subtract(camera.target, camera.position)[:2]
    distance = float(np.linalg.norm(np.subtract(camera.target, camera.position)))
    reach = float(np.linalg.norm(away))
    forward = away / reach
    half_width = camera.span / 2 * size[1] / min(size) * (distance + depth) / distance + 1.0
    rows, columns = 4, 4
    along, across = np.meshgrid(
        np.linspace(-0.95 * reach, depth, rows + 1), np.linspace(half_width, -half_width, columns + 1), indexing="ij"
    )
    ground = np.array(camera.target[:2]) + along[..., None] * forward
    ground += across[..., None] * np.array([-forward[1], forward[0]])
    vertices = np.concatenate([ground, np.zeros((*along.shape, 1))], axis=-1).reshape(-1, 3)
    uvs = (
        vertices[:, :2] - vertices[:, :2].min(axis=0) // tile * tile
    ) / tile  # positive, since the renderer wraps only positive coordinates
    return Mesh(vertices, np.tile([0.0, 0.0, 1.0], (len(vertices), 1)), uvs, _grid_triangles(rows, columns)[:, ::-1])


def _box(size: Vector) -> Mesh:
    half = np.array(size) / 2
    corner = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    vertices: list[NDArray[np.float64]] = []
    normals: list[NDArray[np.float64]] = []
    uvs: list[NDArray[np.float64]] = []
    triangles: list[list[int]] = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            first, second = (axis + 1) % 3, (axis + 2) % 3
            face = np.zeros((4, 3))
            face[:, axis] = sign
            face[:, first] = corner[:, 0] * sign  # mirrored faces keep the order of their corners
            face[:, second] = corner[:, 1]
            start = 4 * len(vertices)
            triangles += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
            vertices.append(face * half)
            normals.append(np.tile(np.eye(3)[axis] * sign, (4, 1)))
            uvs.append((corner + 1) / 2)
    return Mesh(np.concatenate(vertices), np.concatenate(normals), np.concatenate(uvs), np.array(triangles))


def _revolve(shape: str, radius: float, height: float) -> Mesh:
    """A surface of revolution about z from a profile of rows (r, z, normal r, normal z), from bottom to top."""
    profile = np.array(_profile(shape, radius, height))
    angle = np.linspace(0.0, 2 * np.pi, SEGMENTS + 1)  # the seam occurs twice, with two texture coordinates
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (A, 2)
    rows = len(profile)
    vertices = np.empty((SEGMENTS + 1, rows, 3))
    normals = np.empty_like(vertices)
    vertices[..., :2] = circle[:, None] * profile[None, :, :1]
    vertices[..., 2] = profile[:, 1]
    normals[..., :2] = circle[:, None] * profile[None, :, 2:3]
    normals[..., 2] = profile[:, 3]
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(profile[:, :2], axis=0), axis=1))])
    u, v = np.meshgrid(2 * angle / (2 * np.pi), travelled / travelled[-1], indexing="ij")
    uvs = np.stack([u, v], axis=-1)
    triangles = _grid_triangles(SEGMENTS, rows - 1)
    return Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), uvs.reshape(-1, 2), triangles)


ProfileRow = tuple[float, float, float, float]


def _profile(shape: str, radius: float, height: float) -> list[ProfileRow]:
    def arc(start: float, stop: float, z: float, steps: int) -> list[ProfileRow]:
        angles = np.radians(np.linspace(start, stop, steps))
        return [
            (radius * np.cos(a), z + radius * np.sin(a), float(np.cos(a)), float(np.sin(a))) for a in angles.tolist()
        ]

    if shape == "sphere":
        return arc(-90.0, 90.0, 0.0, 13)
    if shape == "capsule":
        straight = height / 2 - radius
        return arc(-90.0, 0.0, -straight, 6) + arc(0.0, 90.0, straight, 6)
    if shape == "cylinder":
        half = height / 2
        side = [(radius, -half, 1.0, 0.0), (radius, half, 1.0, 0.0)]
        return [
            (0.0, -half, 0.0, -1.0),
            (radius, -half, 0.0, -1.0),
            *side,
            (radius, half, 0.0, 1.0),
            (0.0, half, 0.0, 1.0),
        ]
    if shape == "cone":  # the centre of mass of a cone lies at a quarter of its height
        bottom, top = -height / 4, 3 * height / 4
        slope = math.hypot(radius, height)
        out, up = height / slope, radius / slope
        return [(0.0, bottom, 0.0, -1.0), (radius, bottom, 0.0, -1.0), (radius, bottom, out, up), (0.0, top, out, up)]
    raise ValueError(f"unknown shape {shape!r}; use box, sphere, cylinder, capsule, cone or mesh:000 to mesh:999")


@functools.lru_cache(maxsize=64)
def _grid_triangles(rows: int, columns: int) -> NDArray[np.int64]:
    """Two triangles for each cell of a (rows + 1, columns + 1) grid of vertices."""
    index = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return np.stack([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)], axis=2).reshape(-1, 3)
