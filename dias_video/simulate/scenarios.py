"""The scenarios of ``contact``, modelled on those of Physion: each places a red agent and a yellow patient.

Everything happens along the x axis. The agent comes from negative x, and the camera looks from the side. A scenario is
written for clips of three seconds; for other lengths ``Cast.pace`` scales time, so that a clip shows the same.
Velocities, angles, heights, friction and gaps vary enough that both outcomes are common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dias_video.simulate import looks
from dias_video.simulate.scene import IDENTITY, Body, Link, Part, Quaternion, Vector

GRAVITY = -3.5  # in clips of three seconds: a fall of two metres takes one second, which is slow enough to watch
SECONDS = 3.0
AGENT, PATIENT = 0, 1  # their places among the bodies of every scenario


class Stage(NamedTuple):
    """Placed bodies, agent and patient first, and where a camera should look and how wide (metres)."""

    bodies: tuple[Body, ...]
    target: Vector
    span: float
    links: tuple[Link, ...] = ()
    elevation: tuple[float, float] = (25.0, 50.0)  # of the camera, degrees; lower cameras hide gaps between bodies


class Cast:
    """Makes bodies (red agents, yellow patients, props in other colours) and converts speeds to clip time."""

    def __init__(self, rng: np.random.Generator, ground_color: looks.Color, pace: float) -> None:
        self.rng = rng
        self.pace = pace  # scenario seconds in a second of the clip
        self.taken = [ground_color]

    def uniform(self, low: float, high: float) -> float:
        """A random number between two."""
        return float(self.rng.uniform(low, high))

    def part(self, width: float, shapes: Sequence[str]) -> Part:
        """A random shape about ``width`` wide."""
        shape = str(self.rng.choice(list(shapes)))
        if shape == "sphere":
            return Part(shape, (width, width, width))
        if shape == "cone":
            return Part(shape, (1.1 * width, 1.1 * width, 1.2 * width))
        return Part(shape, (width, width, width * self.uniform(0.8, 1.15)))

    def agent(self, part: Part, position: Vector, velocity: Vector = (0.0, 0.0, 0.0), **physics: Any) -> Body:
        """A red body."""
        color = looks.hsv(self.uniform(-0.015, 0.015), self.uniform(0.85, 1.0), self.uniform(0.75, 1.0))
        return self._body("agent", (part,), position, color, velocity, **physics)

    def patient(self, part: Part, position: Vector, velocity: Vector = (0.0, 0.0, 0.0), **physics: Any) -> Body:
        """A yellow body."""
        color = looks.hsv(self.uniform(0.135, 0.165), self.uniform(0.85, 1.0), self.uniform(0.85, 1.0))
        return self._body("patient", (part,), position, color, velocity, **physics)

    def prop(
        self,
        parts: Sequence[Part],
        position: Vector,
        velocity: Vector = (0.0, 0.0, 0.0),
        orientation: Quaternion = IDENTITY,
        **physics: Any,
    ) -> Body:
        """Any other body, neither red nor yellow."""
        color = looks.prop_color(self.rng, self.taken)
        self.taken.append(color)
        return self._body("prop", tuple(parts), position, color, velocity, orientation, **physics)

    def _body(
        self,
        role: str,
        parts: tuple[Part, ...],
        position: Vector,
        color: looks.Color,
        velocity: Vector,
        orientation: Quaternion = IDENTITY,
        **physics: Any,
    ) -> Body:
        material = "plain" if self.rng.random() < 0.6 else str(self.rng.choice(looks.MATERIALS))
        dark = (0.72 * color[0], 0.72 * color[1], 0.72 * color[2])
        settings: dict[str, Any] = {
            "mass": float(np.prod(parts[0].size)),
            "restitution": self.uniform(0.1, 0.45),
            "rolling_friction": 0.002,
            "damping": 0.0,
            **physics,
        }
        return Body(
            parts=parts,
            position=position,
            orientation=orientation,
            texture=looks.texture(self.rng, material, color, dark, int(self.rng.integers(1, 4))),
            velocity=(velocity[0] * self.pace, velocity[1] * self.pace, velocity[2] * self.pace),
            about={"role": role, "color": [round(channel, 4) for channel in color], "material": material},
            **settings,
        )


def resting(part: Part, x: float, y: float, floor: float = 0.0) -> Vector:
    """The position of an upright part that rests on a floor; a cone's origin lies at a quarter of its height."""
    return (x, y, floor + part.size[2] * (0.25 if part.shape == "cone" else 0.5))


STANDING = ("box", "cylinder", "sphere", "cone")


def collide(cast: Cast) -> Stage:
    """The agent rolls or slides towards a patient that stands still or crosses its way."""
    agent = cast.part(cast.uniform(0.8, 1.05), ("sphere", "box", "cylinder"))
    patient = cast.part(cast.uniform(0.85, 1.05), STANDING)
    start, end = (cast.uniform(-2.9, -2.2), cast.uniform(-0.7, 0.7)), (cast.uniform(0.4, 1.5), cast.uniform(-0.7, 0.7))
    aim = end[1] + cast.uniform(-1.5, 1.5)
    way = np.array([end[0] - start[0], aim - start[1]])
    speed = cast.uniform(1.1, 2.6)
    vx, vy = (speed * way / np.linalg.norm(way)).tolist()
    moves = cast.rng.random() < 0.4
    drift = (cast.uniform(-0.15, 0.15), cast.uniform(-0.5, 0.5), 0.0) if moves else (0.0, 0.0, 0.0)
    glide = {"friction": cast.uniform(0.02, 0.2)} if agent.shape != "sphere" else {}
    return Stage(
        (
            cast.agent(agent, resting(agent, *start), (vx, vy, 0.0), **glide),
            cast.patient(patient, resting(patient, *end), drift, **({"friction": 0.03} if moves else {})),
        ),
        target=(-0.4, 0.0, 0.4),
        span=5.4,
    )


def drop(cast: Cast) -> Stage:
    """The agent is tossed up in an arc and falls on the patient, or beside it."""
    agent, patient = (
        cast.part(cast.uniform(0.75, 1.0), STANDING),
        cast.part(1.0, STANDING),
    )
    height, rise = cast.uniform(1.5, 2.4), cast.uniform(0.6, 2.0)
    seconds = (rise + np.sqrt(rise**2 - 2 * GRAVITY * (height - 0.9))) / -GRAVITY
    place = (cast.uniform(-0.2, 1.2), cast.uniform(-0.4, 0.4))
    start = (place[0] - cast.uniform(0.3, 1.9), cast.uniform(-0.5, 0.5))
    land = (place[0] + cast.uniform(-1.6, 1.6), place[1] + cast.uniform(-0.9, 0.9))
    velocity = ((land[0] - start[0]) / seconds, (land[1] - start[1]) / seconds, rise)
    return Stage(
        (
            cast.agent(agent, (*start, height), velocity),
            cast.patient(patient, resting(patient, *place)),
        ),
        target=(0.0, 0.0, 1.2),
        span=5.4,
    )


def roll(cast: Cast) -> Stage:
    """The agent rolls down a ramp and on towards the patient."""
    agent, patient = cast.part(cast.uniform(0.7, 0.9), ("sphere",)), cast.part(cast.uniform(0.8, 1.0), STANDING)
    slope = np.radians(cast.uniform(17, 30))
    length, width, thick = 2.4, cast.uniform(1.6, 2.0), 0.16
    # The upper surface ends at the origin; the plank hangs below it along its own axis.
    middle = -length / 2 * np.array([np.cos(slope), -np.sin(slope)])
    down = thick / 2 * np.array([-np.sin(slope), -np.cos(slope)])
    ramp = cast.prop(
        (Part("box", (length, width, thick)),),
        (float(middle[0] + down[0]) - 0.6, 0.0, float(middle[1] + down[1])),
        orientation=(0.0, float(np.sin(slope / 2)), 0.0, float(np.cos(slope / 2))),
        mass=0.0,
        restitution=0.2,
    )
    up = cast.uniform(1.2, 2.2)
    radius = agent.size[0] / 2
    x = -up * np.cos(slope) + radius * np.sin(slope) - 0.6
    z = up * np.sin(slope) + radius * np.cos(slope) + 0.01
    speed = cast.uniform(-0.4, 1.4)
    side = cast.uniform(-0.6, 0.6)
    velocity = (float(speed * np.cos(slope)), side, float(-speed * np.sin(slope)))
    place = (cast.uniform(0.7, 2.0), cast.uniform(-0.5, 0.5))
    return Stage(
        (
            cast.agent(agent, (float(x), cast.uniform(-0.4, 0.4), float(z)), velocity, rolling_friction=0.01),
            cast.patient(patient, resting(patient, *place)),
            ramp,
        ),
        target=(-0.4, 0.0, 0.4),
        span=5.4,
    )


def dominoes(cast: Cast) -> Stage:
    """A ball hits a row of dominoes; the agent is the last domino and may reach the patient."""
    height, width = cast.uniform(1.0, 1.3), cast.uniform(0.55, 0.8)
    domino = Part("box", (cast.uniform(0.16, 0.24), width, height))
    count = int(cast.rng.integers(1, 3))
    gap = cast.uniform(0.4, 0.75) * height
    first = -0.5 * gap * count - 0.1
    row = [
        cast.prop((domino,), resting(domino, first + gap * place, 0.0), friction=0.7, restitution=0.05)
        for place in range(count)
    ]
    last = first + gap * count
    patient = cast.part(cast.uniform(0.6, 0.85), STANDING)
    ball = Part("sphere", (0.6, 0.6, 0.6))
    distance = cast.uniform(0.8, 1.2)
    speed = cast.uniform(0.7, 2.6)
    side = cast.uniform(-0.35, 0.35)
    pusher = cast.prop(
        (ball,),
        resting(ball, first - distance, cast.uniform(-0.2, 0.2)),
        (speed, side * speed / distance, 0.0),
        mass=cast.uniform(0.5, 1.2) * height * width * domino.size[0] * 1.5,
    )
    return Stage(
        (
            cast.agent(domino, resting(domino, last, 0.0), friction=0.7, restitution=0.05),
            cast.patient(
                patient, resting(patient, last + height * cast.uniform(0.75, 1.35), cast.uniform(-0.25, 0.25))
            ),
            *row,
            pusher,
        ),
        target=(-0.1, 0.0, 0.5),
        span=5.0,
    )


def pendulum(cast: Cast) -> Stage:
    """The agent hangs from a rod and swings towards the patient."""
    agent, patient = cast.part(cast.uniform(0.65, 0.8), ("sphere", "box")), cast.part(cast.uniform(0.7, 0.85), STANDING)
    radius = agent.size[0] / 2
    length = cast.uniform(1.5, 1.9)
    pivot = (cast.uniform(-0.4, 0.2), 0.0, length + radius + cast.uniform(0.1, 0.35))
    angle = np.radians(cast.uniform(25, 45))  # between the rod and the vertical
    along = np.array([-np.sin(angle), 0.0, -np.cos(angle)])
    rod = Part("box", (0.14, 0.14, length))
    swing = cast.uniform(-1.8, 1.8)  # m/s at the agent, along the swing
    tangent = np.array([np.cos(angle), 0.0, -np.sin(angle)])
    side = cast.uniform(-2.0, 2.0)
    velocity = swing * tangent + np.array([0.0, side, 0.0])
    middle, end = np.array(pivot) + along * length / 2, np.array(pivot) + along * length
    turn: Quaternion = (0.0, float(np.sin(angle / 2)), 0.0, float(np.cos(angle / 2)))
    place = (pivot[0] + cast.uniform(1.1, 1.6), cast.uniform(-0.4, 0.4))
    return Stage(
        (
            cast.agent(agent, _vector(end), _vector(velocity), restitution=0.3),
            cast.patient(patient, resting(patient, *place)),
            cast.prop((Part("box", (0.35, 0.35, 0.35)),), pivot, mass=0.0),
            cast.prop((rod,), _vector(middle), _vector(velocity / 2), orientation=turn, mass=0.1),
        ),
        target=(0.0, 0.0, 1.1),
        span=5.2,
        links=(
            Link(2, 3, (0.0, 0.0, 0.0), (0.0, 0.0, length / 2)),
            Link(3, 0, (0.0, 0.0, -length / 2), (0.0, 0.0, 0.0)),
        ),
    )


def tow(cast: Cast) -> Stage:
    """The agent is joined to a ball by a bar; both move towards the patient and turn around each other."""
    agent, tug = cast.part(cast.uniform(0.7, 0.9), ("sphere",)), Part("sphere", (0.6, 0.6, 0.6))
    patient = cast.part(cast.uniform(0.75, 1.0), STANDING)
    start = (cast.uniform(-2.7, -2.2), cast.uniform(-0.5, 0.5))
    bar = Part("box", (cast.uniform(1.0, 1.3), 0.14, 0.14))
    height = 0.5 * min(agent.size[2], tug.size[2])
    heading = cast.uniform(-0.5, 0.5)
    speed = cast.uniform(1.0, 2.1)
    velocity = (float(speed * np.cos(heading)), float(speed * np.sin(heading)), 0.0)
    side = cast.uniform(-0.9, 0.9)  # lets the pair rotate
    half = bar.size[0] / 2
    place = (cast.uniform(0.4, 1.6), start[1] + cast.uniform(-0.5, 0.5))
    return Stage(
        (
            cast.agent(agent, resting(agent, *start), (velocity[0], velocity[1] + side, 0.0)),
            cast.patient(patient, resting(patient, *place)),
            cast.prop((bar,), (start[0] + half, start[1], height), velocity, mass=0.1),
            cast.prop((tug,), resting(tug, start[0] + 2 * half, start[1]), (velocity[0], velocity[1] - side, 0.0)),
        ),
        target=(-0.3, 0.0, 0.4),
        span=5.6,
        links=(
            Link(2, 0, (-half, 0.0, 0.0), (0.0, 0.0, height - agent.size[2] / 2)),
            Link(2, 3, (half, 0.0, 0.0), (0.0, 0.0, height - tug.size[2] / 2)),
        ),
    )


def contain(cast: Cast) -> Stage:
    """The agent is thrown at an open container that holds the patient."""
    width, wall, height = cast.uniform(1.6, 2.0), 0.12, cast.uniform(0.45, 0.75)
    half = (width - wall) / 2
    parts = [Part("box", (width, width, wall), (0.0, 0.0, wall / 2))]
    for sign in (-1.0, 1.0):
        parts.append(Part("box", (wall, width, height), (sign * half, 0.0, height / 2)))
        parts.append(Part("box", (width, wall, height), (0.0, sign * half, height / 2)))
    place = (cast.uniform(0.0, 1.0), cast.uniform(-0.3, 0.3))
    bowl = cast.prop(parts, (*place, 0.0), mass=0.0, restitution=0.3)
    agent = cast.part(cast.uniform(0.62, 0.8), ("sphere", "box", "cylinder"))
    patient = cast.part(cast.uniform(0.65, 0.85), STANDING)
    inside = half - 0.6
    spot = (place[0] + cast.uniform(-inside, inside), place[1] + cast.uniform(-inside, inside))
    start, tall = (place[0] - cast.uniform(1.6, 2.6), cast.uniform(-0.5, 0.5)), cast.uniform(1.2, 2.0)
    rise = cast.uniform(1.0, 2.2)
    seconds = (rise + np.sqrt(rise**2 - 2 * GRAVITY * (tall - 0.6))) / -GRAVITY
    aim = (place[0] + cast.uniform(-1.7, 1.7), place[1] + cast.uniform(-1.0, 1.0))
    velocity = ((aim[0] - start[0]) / seconds, (aim[1] - start[1]) / seconds, rise)
    return Stage(
        (
            cast.agent(agent, (*start, tall), velocity),
            cast.patient(patient, resting(patient, *spot, floor=wall)),
            bowl,
        ),
        target=(-0.2, 0.0, 1.0),
        span=5.6,
        elevation=(32.0, 50.0),
    )


def support(cast: Cast) -> Stage:
    """The agent slides along a table; it may stop there, fall on the patient below the edge, or fly over it."""
    agent, patient = (
        cast.part(cast.uniform(0.75, 0.95), ("box", "cylinder")),
        cast.part(cast.uniform(0.75, 1.0), STANDING),
    )
    length, height = cast.uniform(2.0, 2.4), cast.uniform(0.9, 1.4)
    edge = cast.uniform(-0.5, 0.1)
    table = Part("box", (length, cast.uniform(1.4, 1.8), height))
    x, y = edge - cast.uniform(1.4, length - 0.35), cast.uniform(-0.3, 0.3)
    velocity = (cast.uniform(0.6, 2.3), cast.uniform(-0.3, 0.3), 0.0)
    place = (edge + patient.size[0] * 0.55 + cast.uniform(0.15, 1.5), cast.uniform(-0.5, 0.5))
    return Stage(
        (
            cast.agent(agent, resting(agent, x, y, floor=height), velocity, friction=cast.uniform(0.1, 0.5)),
            cast.patient(patient, resting(patient, *place)),
            cast.prop((table,), resting(table, edge - length / 2, 0.0), mass=0.0, friction=0.6),
        ),
        target=(-0.2, 0.0, 0.7),
        span=5.4,
    )


def _vector(values: np.ndarray) -> Vector:
    x, y, z = values.tolist()
    return (x, y, z)


# Each name with its versions. Versions take turns; if they were drawn, a version would tell the more likely outcome.
SCENARIOS: dict[str, tuple[Callable[[Cast], Stage], ...]] = {
    "collide": (collide,),
    "contain": (contain,),
    "dominoes": (dominoes,),
    "drop": (drop,),
    "link": (pendulum, tow),
    "roll": (roll,),
    "support": (support,),
}
