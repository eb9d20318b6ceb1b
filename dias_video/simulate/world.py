"""Moves a scene (``move``) and draws it (``draw``) with PyBullet. Each call starts with an empty world."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dias_video.simulate.scene import IDENTITY, Body, Event, Part, Scene, Trajectory, Vector
from dias_video.simulate.shapes import Mesh, bundled_mesh, ground_mesh, shape_mesh

if TYPE_CHECKING:
    from pybullet_utils.bullet_client import BulletClient

STEPS_PER_SECOND = 240
GROUND_DEPTH = 16.0  # metres behind the camera's target, where the sky begins
LIGHT_DISTANCE = 14.0  # the shadow map is 14 / (distance of the camera) pictures wide
SHADOW_BIAS = 0.1
GONE = (0.0, 0.0, -50.0)  # position of bodies that have vanished: far below the ground, out of every picture


@functools.cache
def bullet() -> BulletClient:
    """The physics server of this process, which is reset before each use.

    PyBullet is imported at first use: it is an optional dependency and prints a greeting.
    """
    try:
        with _quiet():
            from pybullet import DIRECT
            from pybullet_utils.bullet_client import BulletClient
    except ImportError as error:
        raise ValueError("simulating videos needs PyBullet; install it with `pip install 'dias-video[sim]'`") from error
    return BulletClient(DIRECT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard the standard error of C code inside the block."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@functools.cache
def _texture_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for textures, which PyBullet reads only from files; it is removed at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="dias_textures_")


class Meeting(NamedTuple):
    """How two bodies met while a scene moved."""

    touched: list[int]  # frames in which they touched; a touch between frames t - 1 and t counts for frame t
    near: bool  # whether they ever came nearer to each other than ``reach``


def move(
    scene: Scene,
    num_frames: int,
    fps: float,
    pair: tuple[int, int] | None = None,
    reach: float = 0.0,
    event: Event | None = None,
    until: Callable[[Meeting], bool] = lambda meeting: False,
) -> tuple[Trajectory, Meeting]:
    """Simulate ``num_frames`` frames, or fewer if ``until`` is true after one; frame 0 is the scene as given.

    The second result says how the two bodies ``pair`` (indices) met, and whether they came nearer than ``reach``
    metres. A step takes ``1 / STEPS_PER_SECOND`` seconds, rounded so that a frame has a whole number of steps. Frames
    before an ``event`` are equal to those without it.
    """
    p = bullet()
    p.resetSimulation()
    steps = max(1, round(STEPS_PER_SECOND / fps))
    p.setPhysicsEngineParameter(fixedTimeStep=1 / (fps * steps), deterministicOverlappingPairs=1, enableFileCaching=0)
    p.setGravity(0, 0, scene.gravity)
    ground = p.createMultiBody(0, p.createCollisionShape(p.GEOM_PLANE))
    p.changeDynamics(ground, -1, lateralFriction=0.8, restitution=0.95)
    ids = [_add_physics(p, body) for body in scene.bodies]
    for link in scene.links:
        _add_link(p, ids[link.first], ids[link.second], link.first_point, link.second_point)
    first, second = (ids[body] for body in pair) if pair is not None else (-1, -1)
    states, touched, near = [_states(p, ids)], [], False
    for frame in range(1, num_frames):
        touching = False
        if event is not None and frame == event.frame:
            _befall(p, ids, event)
        for _ in range(steps):
            p.stepSimulation()
            if pair is not None:
                touching = touching or _touch(p, first, second)
                near = near or bool(p.getClosestPoints(first, second, reach))
        if touching:
            touched.append(frame)
        states.append(_states(p, ids))
        if until(Meeting(touched, near)):
            break
    position, orientation, velocity = (np.array(kind) for kind in zip(*states, strict=True))
    return Trajectory(position, orientation, velocity), Meeting(touched, near)


def _befall(p: BulletClient, ids: list[int], event: Event) -> None:
    body = ids[event.body]
    if event.kind == "pass":
        p.setCollisionFilterPair(body, ids[event.other], -1, -1, 0)
        return
    position, orientation = p.getBasePositionAndOrientation(body)
    if event.kind == "jump":
        velocity = p.getBaseVelocity(body)
        position = [float(at + by) for at, by in zip(position, event.shift, strict=True)]
    else:
        velocity = ((0, 0, 0), (0, 0, 0))
        p.changeDynamics(body, -1, mass=0)  # it never moves again
    if event.kind == "vanish":
        position, orientation = GONE, IDENTITY
    p.resetBasePositionAndOrientation(body, position, orientation)
    p.resetBaseVelocity(body, *velocity)


def _add_physics(p: BulletClient, body: Body) -> int:
    shapes = [_collision(p, part) for part in body.parts]
    if len(shapes) == 1:
        collision = p.createCollisionShape(**shapes[0])
    else:
        collision = p.createCollisionShapeArray(
            shapeTypes=[shape["shapeType"] for shape in shapes],
            halfExtents=[shape.get("halfExtents", (0, 0, 0)) for shape in shapes],
            radii=[shape.get("radius", 0.0) for shape in shapes],
            lengths=[shape.get("height", 0.0) for shape in shapes],
            collisionFramePositions=[part.position for part in body.parts],
        )
    number = p.createMultiBody(body.mass, collision, -1, body.position, body.orientation)
    p.changeDynamics(
        number,
        -1,
        lateralFriction=body.friction,
        restitution=body.restitution,
        rollingFriction=body.rolling_friction,
        linearDamping=body.damping,
        angularDamping=body.damping,
        spinningFriction=body.rolling_friction,
        activationState=p.ACTIVATION_STATE_DISABLE_SLEEPING,
    )
    p.resetBaseVelocity(number, body.velocity, body.angular_velocity)
    return int(number)


def _collision(p: BulletClient, part: Part) -> dict[str, Any]:
    """Arguments of ``createCollisionShape``; cones and bundled meshes are convex hulls, or unions of these."""
    diameter, _, height = part.size
    if part.shape == "box":
        return {"shapeType": p.GEOM_BOX, "halfExtents": [extent / 2 for extent in part.size]}
    if part.shape == "sphere":
        return {"shapeType": p.GEOM_SPHERE, "radius": diameter / 2}
    if part.shape == "cylinder":
        return {"shapeType": p.GEOM_CYLINDER, "radius": diameter / 2, "height": height}
    if part.shape == "capsule":
        return {"shapeType": p.GEOM_CAPSULE, "radius": diameter / 2, "height": height - diameter}
    if part.shape.startswith("mesh:"):
        found = bundled_mesh(part.shape)
        scale = [part.size[0] / found.extent] * 3
        shift = [-middle * scale[0] for middle in found.middle]
        return {
            "shapeType": p.GEOM_MESH, "fileName": found.path, "meshScale": scale, "collisionFramePosition": shift,
        }  # fmt: skip
    return {"shapeType": p.GEOM_MESH, "vertices": shape_mesh(part.shape, part.size).vertices.tolist()}


def _add_link(p: BulletClient, first: int, second: int, first_point: Vector, second_point: Vector) -> None:
    axis = (0, 0, 0)
    p.setCollisionFilterPair(first, second, -1, -1, 0)
    p.createConstraint(first, -1, second, -1, p.JOINT_POINT2POINT, axis, first_point, second_point)


def _touch(p: BulletClient, first: int, second: int) -> bool:
    """Whether two bodies are in contact; PyBullet also lists near misses, with a positive distance."""
    points = p.getContactPoints(first, second)
    return any(point[8] <= 0.0 for point in points)


def _states(p: BulletClient, ids: list[int]) -> tuple[list[Any], list[Any], list[Any]]:
    poses = [p.getBasePositionAndOrientation(number) for number in ids]
    velocities = [p.getBaseVelocity(number)[0] for number in ids]
    return [pose[0] for pose in poses], [pose[1] for pose in poses], velocities


def draw(scene: Scene, trajectory: Trajectory, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render every frame of ``trajectory`` at ``size`` = (H, W).

    Returns the video (T, H, W, 3) uint8 RGB and the instance ids (T, H, W) uint8: 0 for ground and sky, k + 1 for body
    k. Both come from one call of PyBullet's CPU renderer.
    """
    p = bullet()
    p.resetSimulation()
    height, width = size
    p.setPhysicsEngineParameter(enableFileCaching=0)
    ground = _add_visual(p, ground_mesh(scene.camera, size, GROUND_DEPTH, scene.ground_tile), scene.ground)
    parts = [
        (index, part, _add_visual(p, _visual(part), body.texture))
        for index, body in enumerate(scene.bodies)
        for part in body.parts
    ]
    instance = np.zeros(max([ground, *(number for _, _, number in parts)]) + 2, dtype=np.uint8)
    for index, _, number in parts:
        instance[number] = index + 1  # the last entry stays 0; index -1 (nothing hit) reads it
    camera = {
        "viewMatrix": scene.camera.view().T.ravel().tolist(),  # PyBullet takes matrices by columns
        "projectionMatrix": _renderer_projection(scene.camera.projection(size)).T.ravel().tolist(),
        "lightDirection": scene.light.direction,
        "lightColor": (1, 1, 1),
        "lightDistance": LIGHT_DISTANCE,
        "shadow": 1,
        "lightAmbientCoeff": scene.light.ambient,
        "lightDiffuseCoeff": scene.light.diffuse,
        "lightSpecularCoeff": scene.light.specular,
        "renderer": p.ER_TINY_RENDERER,
    }
    num_frames = len(trajectory.position)
    video = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    masks = np.empty((num_frames, height, width), dtype=np.uint8)
    top, horizon = scene.sky.astype(np.float64)
    blend = np.linspace(0, 1, height)[:, None, None]
    sky = np.broadcast_to(((1 - blend) * top + blend * horizon).astype(np.uint8), (height, width, 3))
    poses = [
        (number, trajectory.position[:, index] + _rotate(turned, part.position), turned)
        for index, part, number in parts
        for turned in [trajectory.orientation[:, index]]
    ]
    for frame in range(num_frames):
        for number, position, orientation in poses:
            p.resetBasePositionAndOrientation(number, position[frame], orientation[frame])
        _, _, color, _, hit = p.getCameraImage(width, height, **camera)
        hit = np.reshape(hit, (height, width))
        video[frame] = np.reshape(color, (height, width, 4))[..., :3]
        video[frame][hit < 0] = sky[hit < 0]
        masks[frame] = instance[hit]
    return video, masks


def _renderer_projection(projection: NDArray[np.float64]) -> NDArray[np.float64]:
    """The camera's projection with a depth row that the renderer's shadows need.

    The renderer draws its shadow map with the camera's projection, and a point is lit if its distance exceeds the map's
    depth (third row) by less than 0.05. Therefore the third row must be the distance. ``SHADOW_BIAS`` is added so that
    the map's coarse pixels don't shade the ground on which they lie. The row does not change where points appear.
    """
    matrix = projection.copy()
    matrix[2] = (0.0, 0.0, -1.0, SHADOW_BIAS)
    return matrix


def _visual(part: Part) -> Mesh:
    if part.shape.startswith("mesh:"):
        return bundled_mesh(part.shape).mesh_of(part.size[0])
    return shape_mesh(part.shape, part.size)


def _add_visual(p: BulletClient, mesh: Mesh, texture: NDArray[np.uint8]) -> int:
    """Add a body that is only drawn; returns its number, which the renderer writes into its segmentation mask."""
    shape = p.createVisualShape(
        p.GEOM_MESH,
        vertices=mesh.vertices.tolist(),
        normals=mesh.normals.tolist(),
        uvs=mesh.uvs.tolist(),
        indices=mesh.triangles.ravel().tolist(),
        rgbaColor=(1, 1, 1, 1),
    )
    number = p.createMultiBody(0, -1, shape)
    path = Path(_texture_folder().name) / f"{number}.png"
    Image.fromarray(texture).save(path, compress_level=1)
    loaded = p.loadTexture(str(path))
    path.unlink()  # overwriting a file could wait until the disk has its old content
    p.changeVisualShape(number, -1, textureUniqueId=loaded)
    return int(number)


def _rotate(quaternion: NDArray[np.float64], vector: Vector) -> NDArray[np.float64]:
    """``vector`` rotated by unit quaternions (..., 4) in the order x, y, z, w: (..., 3)."""
    axis, real = quaternion[..., :3], quaternion[..., 3:]
    turned = np.cross(axis, vector)
    return np.asarray(vector + 2 * (real * turned + np.cross(axis, turned)))
