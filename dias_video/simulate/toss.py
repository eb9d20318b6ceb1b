"""The variant ``toss``: several bodies are thrown towards the middle of a scene, bounce, and occlude each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dias_video.simulate import looks, world
from dias_video.simulate.record import record_of
from dias_video.simulate.scene import SHAPES, Body, Camera, Clip, Part, Quaternion, Scene, Trajectory
from dias_video.simulate.shapes import NUM_BUNDLED, bundled_mesh, is_usable

MAX_ATTEMPTS = 20
MIN_IN_VIEW = 0.7  # part of the frames in which the centre of every body must be in view
PICTURE_SPAN = 5.6  # metres across the shorter side of the picture, at the middle of the scene


@dataclass(frozen=True)
class Toss:
    """Clips of ``min_bodies`` to ``max_bodies`` bodies; ``bodies`` is "shapes" or "meshes"; ``size`` is (H, W)."""

    size: tuple[int, int] = (128, 128)
    num_frames: int = 24
    fps: float = 12.0
    bodies: str = "shapes"
    min_bodies: int = 3
    max_bodies: int = 6

    name = "toss"
    splits = ("train", "val", "test")
    takes = 1

    def __post_init__(self) -> None:
        if self.bodies not in ("shapes", "meshes"):
            raise ValueError(f"bodies must be shapes or meshes, got {self.bodies!r}")
        if not 1 <= self.min_bodies <= self.max_bodies <= 20:
            raise ValueError(
                f"min_bodies={self.min_bodies} and max_bodies={self.max_bodies} must be from 1 to 20, in this order"
            )

    def clip(self, rng: np.random.Generator, index: int) -> Clip:
        """Make, simulate and render a clip. ``index`` is not used: all clips are drawn in the same way."""
        scene, trajectory = self._moved_scene(rng)
        video, masks = world.draw(scene, trajectory, self.size)
        return Clip(video, masks, record_of(scene, trajectory, masks, self.fps))

    def _moved_scene(self, rng: np.random.Generator) -> tuple[Scene, Trajectory]:
        """The first scene that keeps its bodies in view, or the best of ``MAX_ATTEMPTS``; moving takes little time."""
        best: tuple[Scene, Trajectory] | None = None
        best_in_view = -1.0
        for _ in range(MAX_ATTEMPTS):
            scene = self._scene(rng)
            trajectory, _ = world.move(scene, self.num_frames, self.fps)
            in_view = _share_in_view(scene.camera, trajectory, self.size)
            if best is None or in_view > best_in_view:
                best, best_in_view = (scene, trajectory), in_view
            if in_view >= MIN_IN_VIEW:
                break
        assert best is not None
        return best

    def _scene(self, rng: np.random.Generator) -> Scene:
        ground, ground_color = looks.ground_look(rng)
        camera = _camera(rng)
        bodies: list[Body] = []
        colors = [ground_color]
        for _ in range(int(rng.integers(self.min_bodies, self.max_bodies + 1))):
            colors.append(looks.body_color(rng, colors))
            bodies.append(self._body(rng, colors[-1], bodies))
        return Scene(
            bodies=tuple(bodies),
            camera=camera,
            light=looks.light_look(rng, camera),
            ground=ground,
            sky=looks.sky_look(rng),
            ground_tile=rng.uniform(1.5, 4.0),
        )

    def _body(self, rng: np.random.Generator, color: looks.Color, others: list[Body]) -> Body:
        """A body at the edge of the scene, apart from ``others``, thrown towards a point near the middle."""
        part = self._part(rng)
        position = _free_place(rng, max(part.size), others)
        aim = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7)])
        towards = aim - position[:2]
        velocity = towards / np.linalg.norm(towards) * rng.uniform(1.2, 4.0)
        material = str(rng.choice(looks.MATERIALS))
        pattern = looks.texture(rng, material, color, looks.second_color(rng, color), int(rng.integers(1, 4)))
        return Body(
            parts=(part,),
            mass=float(np.prod(part.size)),
            position=(float(position[0]), float(position[1]), float(position[2])),
            texture=pattern,
            orientation=random_orientation(rng),
            velocity=(float(velocity[0]), float(velocity[1]), rng.uniform(-1.0, 4.5)),
            angular_velocity=tuple(rng.uniform(-4, 4, size=3).tolist()),
            friction=rng.uniform(0.3, 0.8),
            restitution=rng.uniform(0.6, 0.9),
            rolling_friction=0.004,
            about={"color": [round(channel, 4) for channel in color], "material": material},
        )

    def _part(self, rng: np.random.Generator) -> Part:
        if self.bodies == "meshes":
            return Part(_random_mesh(rng), (rng.uniform(1.2, 1.8),) * 3)
        shape = str(rng.choice(SHAPES))
        width = rng.uniform(0.95, 1.5)
        if shape == "box":
            depth, height = width * rng.uniform(0.7, 1.0), width * rng.uniform(0.6, 1.0)
            return Part(shape, (width, depth, height))
        if shape == "sphere":
            return Part(shape, (width, width, width))
        if shape == "capsule":
            return Part(shape, (0.65 * width, 0.65 * width, width * rng.uniform(1.05, 1.4)))
        width *= 0.9
        return Part(shape, (width, width, width * rng.uniform(0.8, 1.3)))


def _random_mesh(rng: np.random.Generator) -> str:
    while True:
        shape = f"mesh:{rng.integers(NUM_BUNDLED):03d}"
        if is_usable(bundled_mesh(shape)):
            return shape


def _camera(rng: np.random.Generator) -> Camera:
    """A camera on a dome around the middle of the scene, which looks at a point near the middle."""
    azimuth, elevation, distance = rng.uniform(0, 360), rng.uniform(25, 55), rng.uniform(7.0, 10.0)
    target = (rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(0.5, 0.8))
    return Camera.on_dome(target, azimuth, elevation, distance, PICTURE_SPAN * rng.uniform(0.95, 1.08))


def _free_place(rng: np.random.Generator, extent: float, others: list[Body]) -> NDArray[np.float64]:
    """A place at which the bounding sphere touches no other, or the best of 60 places."""
    best, best_gap = np.zeros(3), -np.inf
    for _ in range(60):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 2.1)
        place = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(0.75 * extent, 2.0)])
        gap = min(
            (
                float(np.linalg.norm(place - other.position)) - 0.55 * (extent + max(other.parts[0].size))
                for other in others
            ),
            default=np.inf,
        )
        if gap > best_gap:
            best, best_gap = place, gap
        if gap > 0:
            break
    return best


def random_orientation(rng: np.random.Generator) -> Quaternion:
    """A random orientation, uniform over rotations."""
    drawn = rng.normal(size=4)
    x, y, z, w = (drawn / np.linalg.norm(drawn)).tolist()
    return (x, y, z, w)


def _share_in_view(camera: Camera, trajectory: Trajectory, size: tuple[int, int]) -> float:
    """The part of the frames with a body's centre in view, for the body with the smallest part."""
    places = camera.project(trajectory.position, size)
    in_view = ((places > 0.02) & (places < 0.98)).all(axis=-1)  # (T, K)
    return float(in_view.mean(axis=0).min())
