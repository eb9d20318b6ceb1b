"""The variant ``contact``: will the red agent touch the yellow patient? Scenarios after Physion, labels balanced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dias_video.simulate import looks, world
from dias_video.simulate.record import record_of
from dias_video.simulate.scenarios import AGENT, GRAVITY, PATIENT, SCENARIOS, SECONDS, Cast, Stage, resting
from dias_video.simulate.scene import Body, Camera, Clip, Scene, Trajectory

MAX_ATTEMPTS = 500
MIN_AREA = 0.004  # the least area of agent and of patient in frame 0, as a part of the picture


@dataclass(frozen=True)
class Contact:
    """Clips whose first third never shows the touch. ``scenarios`` and both outcomes take turns.

    A clip shows three seconds of scenario time, for any length of the clip (``scenarios.GRAVITY``). ``size`` is (H, W).
    Clips in which the two come within ``near_miss`` metres without a touch are drawn again: bodies are 0.6 to 1.1 m
    wide, and on the pictures such a miss looks like a touch.
    """

    size: tuple[int, int] = (128, 128)
    num_frames: int = 36
    fps: float = 12.0
    scenarios: tuple[str, ...] = tuple(SCENARIOS)
    max_distractors: int = 1
    near_miss: float = 0.2

    name = "contact"
    splits = ("train", "readout", "test")
    takes = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.scenarios if name not in SCENARIOS]
        if unknown or not self.scenarios:
            raise ValueError(f"scenarios={list(self.scenarios)} must be some of {', '.join(SCENARIOS)}")
        if self.num_frames < 6:
            raise ValueError(f"num_frames={self.num_frames} must be at least 6: a third of a contact clip is observed")
        if not 0 <= self.max_distractors <= 3:
            raise ValueError(f"max_distractors={self.max_distractors} must be from 0 to 3")
        if self.near_miss < 0:
            raise ValueError(f"near_miss={self.near_miss} is a distance in metres and can't be negative")

    @property
    def observed(self) -> int:
        """Number of frames before any touch: the first third."""
        return self.num_frames // 3

    def clip(self, rng: np.random.Generator, index: int) -> Clip:
        """A clip; ``index`` determines scenario, label and version, so that 2 * len(scenarios) clips are balanced.

        Raises:
            ValueError: none of ``MAX_ATTEMPTS`` scenes had the wanted outcome.
        """
        scenario = self.scenarios[index % len(self.scenarios)]
        label = index // len(self.scenarios) % 2
        versions = SCENARIOS[scenario]
        version = versions[index // (2 * len(self.scenarios)) % len(versions)]

        def refused(meeting: world.Meeting) -> bool:
            """Whether the scene can be dropped now, since no later frame can make it fit."""
            early = meeting.touched and meeting.touched[0] < self.observed
            return bool(early or (not label and (meeting.touched or meeting.near)))

        for _ in range(MAX_ATTEMPTS):
            scene, pair = self.scene(rng, version), (AGENT, PATIENT)
            trajectory, met = world.move(scene, self.num_frames, self.fps, pair, self.near_miss, until=refused)
            if refused(met) or bool(met.touched) != bool(label) or not self._in_view(scene, trajectory):
                continue
            video, masks = world.draw(scene, trajectory, self.size)
            if min((masks[0] == 1 + body).mean() for body in pair) < MIN_AREA:
                continue
            record = record_of(scene, trajectory, masks, self.fps)
            outcome = {
                "label": label,
                "scenario": scenario,
                "first_contact_frame": met.touched[0] if met.touched else None,
                "agent": AGENT + 1,
                "patient": PATIENT + 1,
                "num_observed": self.observed,
            }
            return Clip(video, masks, {**record, **outcome})
        raise ValueError(
            f"no {scenario!r} clip with label {label} in {MAX_ATTEMPTS} attempts (size={list(self.size)}, "
            f"num_frames={self.num_frames}, fps={self.fps}); use settings nearer to the defaults, or other scenarios"
        )

    def scene(self, rng: np.random.Generator, version: Callable[[Cast], Stage]) -> Scene:
        """A scenario on its ground, with distractors, camera and light."""
        ground, ground_color = looks.ground_look(rng)
        pace = SECONDS / (self.num_frames / self.fps)
        cast = Cast(rng, ground_color, pace)
        stage = version(cast)
        distractors = [_distractor(cast) for _ in range(int(rng.integers(0, self.max_distractors + 1)))]
        side = rng.uniform(50, 130) * rng.choice([-1, 1])
        camera = Camera.on_dome(
            stage.target,
            side,
            rng.uniform(*stage.elevation),
            rng.uniform(8.0, 10.0),
            stage.span * rng.uniform(0.86, 0.97),
        )
        return Scene(
            bodies=(*stage.bodies, *distractors),
            camera=camera,
            light=looks.light_look(rng, camera),
            ground=ground,
            sky=looks.sky_look(rng),
            ground_tile=rng.uniform(1.5, 4.0),
            links=stage.links,
            gravity=GRAVITY * pace**2,
        )

    def _in_view(self, scene: Scene, trajectory: Trajectory) -> bool:
        """Whether agent and patient are in view in the observed frames, and for most of the clip."""
        places = scene.camera.project(trajectory.position[:, [AGENT, PATIENT]], self.size)
        in_view = np.all((places > 0.03) & (places < 0.97), axis=-1)  # (T, 2)
        return bool(in_view[: self.observed].all() and in_view.mean(axis=0).min() > 0.6)


def _distractor(cast: Cast) -> Body:
    """A body that stands at some distance from the action."""
    part = cast.part(cast.uniform(0.6, 0.9), ("box", "cylinder", "sphere", "cone"))
    side = float(cast.rng.choice([-1.0, 1.0]))
    return cast.prop((part,), resting(part, cast.uniform(-2.0, 2.0), side * cast.uniform(2.0, 2.6)))
