"""The data of a simulated scene: bodies, links, camera and light, without PyBullet.

Lengths are in metres, times in seconds, and angles in degrees where stated. Quaternions are (x, y, z, w) as in
PyBullet. z points up, and the ground is the plane z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
IDENTITY: Quaternion = (0.0, 0.0, 0.0, 1.0)
SHAPES = ("box", "sphere", "cylinder", "capsule", "cone")


@dataclass(frozen=True)
class Part:
    """A convex piece of a body, or a bundled mesh, placed in the body's own frame.

    ``shape`` is one of ``SHAPES`` or "mesh:000" to "mesh:999" (PyBullet's bundled random meshes). ``size`` is the full
    extent along the part's x, y and z. Round shapes have their axis along z; x is their diameter. For a mesh, x is its
    largest extent.
    """

    shape: str
    size: Vector
    position: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Body:
    """A rigid body. With ``mass`` 0 it never moves. ``texture`` is (h, w, 3) uint8 and wraps around."""

    parts: tuple[Part, ...]
    mass: float
    position: Vector
    texture: NDArray[np.uint8]
    orientation: Quaternion = IDENTITY
    velocity: Vector = (0.0, 0.0, 0.0)
    angular_velocity: Vector = (0.0, 0.0, 0.0)
    friction: float = 0.6
    restitution: float = 0.4
    rolling_friction: float = 0.01
    damping: float = 0.04  # part of the speed that is lost in a second
    about: dict[str, Any] = field(default_factory=dict)  # entries for the clip's json: color, material, role, ...


@dataclass(frozen=True)
class Link:
    """A ball joint between two bodies (indices into ``Scene.bodies``) at a point given in each body's own frame."""

    first: int
    second: int
    first_point: Vector
    second_point: Vector


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; ``span`` is the width in metres that the shorter side of the picture covers at the target."""

    position: Vector
    target: Vector
    span: float
    near: float = 0.1
    far: float = 100.0

    @classmethod
    def on_dome(cls, target: Vector, azimuth: float, elevation: float, distance: float, span: float) -> Camera:
        """A camera at ``distance`` from ``target``, in the direction of azimuth and elevation (degrees)."""
        turn, rise = np.radians(azimuth), np.radians(elevation)
        position = (
            target[0] + float(distance * np.cos(turn) * np.cos(rise)),
            target[1] + float(distance * np.sin(turn) * np.cos(rise)),
            target[2] + float(distance * np.sin(rise)),
        )
        return cls(position, target, span)

    def view(self) -> NDArray[np.float64]:
        """Matrix (4, 4) from world to camera, which looks along its -z with +y up, never straight up or down."""
        eye, target = np.array(self.position), np.array(self.target)
        back = (eye - target) / np.linalg.norm(eye - target)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(back, right), back])
        matrix = np.eye(4)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = -rotation @ eye
        return matrix

    def projection(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Matrix (4, 4) from camera to clip space (OpenGL) for a picture of ``size`` = (H, W)."""
        height, width = size
        distance = float(np.linalg.norm(np.array(self.position) - np.array(self.target)))
        focal = 2 * distance / self.span  # focal length for the shorter side, in half pictures
        shorter = min(height, width)
        depth = self.near - self.far
        matrix = np.zeros((4, 4))
        matrix[0, 0] = focal * shorter / width
        matrix[1, 1] = focal * shorter / height
        matrix[2, 2] = (self.far + self.near) / depth
        matrix[2, 3] = 2 * self.far * self.near / depth
        matrix[3, 2] = -1.0
        return matrix

    def project(self, points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        """Points of the world (..., 3) as (x over W, y over H) in the picture (..., 2); in view they are in [0, 1]."""
        homogeneous = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
        clip = homogeneous @ (self.projection(size) @ self.view()).T
        normalised = clip[..., :2] / clip[..., 3:]
        return np.stack([(1 + normalised[..., 0]) / 2, (1 - normalised[..., 1]) / 2], axis=-1)


@dataclass(frozen=True)
class Light:
    """A distant light with a shadow; ``direction`` points from the scene to the light."""

    direction: Vector
    ambient: float = 0.5
    diffuse: float = 0.5
    specular: float = 0.1


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that physics and renderer need. Body k is instance k + 1 of the masks."""

    bodies: tuple[Body, ...]
    camera: Camera
    light: Light
    ground: NDArray[np.uint8]  # texture (h, w, 3)
    sky: NDArray[np.uint8]  # two colours, top and horizon (2, 3)
    ground_tile: float = 2.0  # metres that one copy of the ground's texture covers
    links: tuple[Link, ...] = ()
    gravity: float = -9.81


@dataclass(frozen=True)
class Event:
    """Something impossible that happens to a body (index) between frames ``frame - 1`` and ``frame``.

    ``kind`` is ``vanish`` (the body disappears), ``pass`` (from then on it passes through the body ``other``), ``jump``
    (it is moved by ``shift`` at once, and moves on from there) or ``stop`` (it stands still where it is, even in the
    air).
    """

    kind: str
    frame: int
    body: int
    other: int = -1
    shift: Vector = (0.0, 0.0, 0.0)


class Trajectory(NamedTuple):
    """Recorded states of T frames and K bodies, float64; frame 0 is the scene as given."""

    position: NDArray[np.float64]  # (T, K, 3), centre of mass
    orientation: NDArray[np.float64]  # (T, K, 4)
    velocity: NDArray[np.float64]  # (T, K, 3), metres a second


class Clip(NamedTuple):
    """A finished clip: ``video`` (T, H, W, 3) uint8, ``masks`` (T, H, W) uint8 ids, and ``record`` for the json."""

    video: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    record: dict[str, Any]
