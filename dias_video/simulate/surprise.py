"""The variant ``surprise``: pairs of clips that are equal until something impossible happens in one of them.

It tests violation of expectation as IntPhys does (Riochet et al., 2018): a world model should be more surprised by the
impossible clip. Scenes are those of ``contact``, so to models trained on its clips only the impossible event is new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dias_video.simulate import world
from dias_video.simulate.contact import MAX_ATTEMPTS, MIN_AREA, Contact
from dias_video.simulate.record import record_of
from dias_video.simulate.scenarios import AGENT, PATIENT, SCENARIOS
from dias_video.simulate.scene import Clip, Event, Scene, Trajectory, Vector
from dias_video.simulate.world import Meeting

# What can happen, and the scenarios in which it does.
KINDS = {
    "vanish": ("collide", "drop", "roll"),
    "pass": ("collide", "roll"),
    "jump": ("collide", "drop", "roll"),
    "stop": ("drop",),
}
SEEN_AFTER = 4  # frames in which the event must become visible, and in which the possible body stays in view
APART = 0.06  # distance of the body then from where it would be, as a part of the picture
SPEED = 0.5  # least speed of the body just before, in metres a second
FREE = 1.3  # least distance of a jump's end from all other bodies, in metres
AIR = 0.5  # least height of a body that stops in the air, in metres


@dataclass(frozen=True)
class Surprise:
    """Clips 2k and 2k + 1 are a pair: the possible and the impossible clip. ``kinds`` take turns.

    The event is never in the first third of a clip. ``size`` is (H, W).
    """

    size: tuple[int, int] = (128, 128)
    num_frames: int = 36
    fps: float = 12.0
    kinds: tuple[str, ...] = tuple(KINDS)
    max_distractors: int = 1

    name = "surprise"
    splits = ("val", "test")
    takes = 2

    def __post_init__(self) -> None:
        unknown = [name for name in self.kinds if name not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"kinds={list(self.kinds)} must be some of {', '.join(KINDS)}")

    @property
    def contact(self) -> Contact:
        """The variant that makes the scenes."""
        return Contact(self.size, self.num_frames, self.fps, max_distractors=self.max_distractors)

    def clip(self, rng: np.random.Generator, index: int) -> Clip:
        """A clip of a pair. Both clips are made from the same random numbers.

        Raises:
            ValueError: none of ``MAX_ATTEMPTS`` scenes gave a pair with a visible difference.
        """
        kind = self.kinds[index // 2 % len(self.kinds)]
        names = KINDS[kind]
        name = names[index // (2 * len(self.kinds)) % len(names)]
        for _ in range(MAX_ATTEMPTS):
            scene = self.contact.scene(rng, SCENARIOS[name][0])
            possible, meeting = world.move(scene, self.num_frames, self.fps, (AGENT, PATIENT))
            event = self._event(rng, kind, scene, possible, meeting)
            if event is None:
                continue
            impossible, _ = world.move(scene, self.num_frames, self.fps, event=event)
            if not self._can_be_seen(scene, event, possible, impossible):
                continue
            shown = impossible if index % 2 else possible
            video, masks = world.draw(scene, shown, self.size)
            told = {
                "scenario": kind,
                "pair": index // 2,
                "possible": index % 2 == 0,
                "event_frame": event.frame,  # the first frame that may differ
                "body": event.body + 1,
                "staged": name,
            }
            return Clip(video, masks, {**record_of(scene, shown, masks, self.fps), **told})
        raise ValueError(
            f"no pair of kind {kind!r} in {MAX_ATTEMPTS} attempts (size={list(self.size)}, "
            f"num_frames={self.num_frames}, fps={self.fps}); use settings nearer to the defaults, or other kinds"
        )

    def _event(
        self, rng: np.random.Generator, kind: str, scene: Scene, possible: Trajectory, meeting: Meeting
    ) -> Event | None:
        """The event of the AGENT, at a random one of the possible frames; None if there is none."""
        frames = np.arange(self.contact.observed + 1, self.num_frames - SEEN_AFTER)
        speed = np.linalg.norm(possible.velocity[frames - 1, AGENT], axis=-1)
        frames = frames[speed > SPEED]
        if kind == "pass":
            touched = [frame for frame in meeting.touched[:1] if frame in frames]
            return Event(kind, touched[0], AGENT, PATIENT) if touched else None
        if kind == "stop":
            bottom = possible.position[frames - 1, AGENT, 2] - scene.bodies[AGENT].parts[0].size[2] / 2
            frames = frames[(bottom > AIR) & (frames <= min([*meeting.touched, self.num_frames]))]
        if not len(frames):
            return None
        frame = int(rng.choice(frames))
        if kind != "jump":
            return Event(kind, frame, AGENT)
        shift = self._jump(rng, scene)
        others = np.delete(possible.position[frame - 1], AGENT, axis=0)
        place = possible.position[frame - 1, AGENT] + shift
        if np.linalg.norm(others - place, axis=-1).min(initial=np.inf) < FREE:
            return None
        return Event(kind, frame, AGENT, shift=shift)

    def _jump(self, rng: np.random.Generator, scene: Scene) -> Vector:
        """A shift across the picture, which is visible and does not change heights."""
        right = scene.camera.view()[0, :3] * rng.uniform(1.0, 1.7) * rng.choice([-1, 1])
        return (float(right[0]), float(right[1]), float(right[2]))

    def _can_be_seen(self, scene: Scene, event: Event, possible: Trajectory, impossible: Trajectory) -> bool:
        """Whether the body is in view before, would stay in view, and soon after the event is elsewhere or gone."""
        window = slice(event.frame - 1, event.frame + SEEN_AFTER)
        places = [scene.camera.project(t.position[window, event.body], self.size) for t in (possible, impossible)]
        if not ((places[0] > 0.05) & (places[0] < 0.95)).all():
            return False
        if event.kind != "vanish":
            if not ((places[1] > 0.05) & (places[1] < 0.95)).all():
                return False
            if np.linalg.norm(places[0][-1] - places[1][-1]) < APART:
                return False
        before = Trajectory(*(states[event.frame - 1 : event.frame] for states in possible))
        _, masks = world.draw(scene, before, self.size)
        return bool((masks == 1 + event.body).mean() >= MIN_AREA)
