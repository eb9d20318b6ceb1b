"""The variant ``surprise``: pairs of clips, equal until something impossible happens in one (violation of expectation).

After IntPhys (Riochet et al., 2018) and its like: a model of the world should be more surprised by the impossible clip.
Scenes are those of ``contact``, so that models of its clips know everything but the impossible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dias_video.simulate import world
from dias_video.simulate.contact import MIN_AREA, Contact
from dias_video.simulate.record import record_of
from dias_video.simulate.scenarios import SCENARIOS, Stage
from dias_video.simulate.scene import Clip, Event, Scene, Trajectory, Vector
from dias_video.simulate.world import Meeting

# What can happen, and the scenarios in which it does.
KINDS = {
    "vanish": ("collide", "drop", "roll"),
    "pass": ("collide", "roll"),
    "jump": ("collide", "drop", "roll"),
    "stop": ("drop",),
}
MAX_ATTEMPTS = 500
SEEN_AFTER = 4  # frames after the event in which it must be seen, and in which the possible body stays in view
APART = 0.06  # of the picture, how far the body is then from where it would be
SPEED = 0.5  # metres a second, at least, of the body just before
FREE = 1.3  # metres from all other bodies, of where a body jumps to
AIR = 0.5  # metres below a body that stops in the air


@dataclass(frozen=True)
class Surprise:
    """Clips 2k and 2k + 1 are a pair: the possible one and the impossible one; ``kinds`` in turn.

    Nothing happens in the first third of a clip. ``size`` is (H, W).
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
            raise ValueError(f"kinds={list(self.kinds)}: use some of {', '.join(KINDS)}.")

    @property
    def contact(self) -> Contact:
        """What sets the scenes."""
        return Contact(self.size, self.num_frames, self.fps, max_distractors=self.max_distractors)

    def clip(self, rng: np.random.Generator, index: int) -> Clip:
        """One of a pair. Both are invented from the same numbers, so both know of the other.

        Raises ValueError when ``MAX_ATTEMPTS`` scenes have not given a pair whose difference can be seen.
        """
        kind = self.kinds[index // 2 % len(self.kinds)]
        names = KINDS[kind]
        name = names[index // (2 * len(self.kinds)) % len(names)]
        for _ in range(MAX_ATTEMPTS):
            scene, stage = self.contact.scene(rng, SCENARIOS[name][0])
            possible, meeting = world.move(scene, self.num_frames, self.fps, (stage.agent, stage.patient))
            event = self._event(rng, kind, scene, stage, possible, meeting)
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
                "event_frame": event.frame,  # the first that may differ
                "body": event.body + 1,
                "staged": name,
            }
            return Clip(video, masks, {**record_of(scene, shown, masks, self.fps), **told})
        raise ValueError(
            f"no pair of kind {kind!r} in {MAX_ATTEMPTS} attempts (size={list(self.size)}, "
            f"num_frames={self.num_frames}, fps={self.fps}): use settings nearer to the defaults or other kinds."
        )

    def _event(
        self,
        rng: np.random.Generator,
        kind: str,
        scene: Scene,
        stage: Stage,
        possible: Trajectory,
        meeting: Meeting,
    ) -> Event | None:
        """What happens to the agent, at a random one of the frames at which it can; None if it can't."""
        agent = stage.agent
        frames = np.arange(self.contact.observed + 1, self.num_frames - SEEN_AFTER)
        speed = np.linalg.norm(possible.velocity[frames - 1, agent], axis=-1)
        frames = frames[speed > SPEED]
        if kind == "pass":
            touched = [frame for frame in meeting.touched[:1] if frame in frames]
            return Event(kind, touched[0], agent, stage.patient) if touched else None
        if kind == "stop":
            bottom = possible.position[frames - 1, agent, 2] - scene.bodies[agent].parts[0].size[2] / 2
            frames = frames[(bottom > AIR) & (frames <= min([*meeting.touched, self.num_frames]))]
        if not len(frames):
            return None
        frame = int(rng.choice(frames))
        if kind != "jump":
            return Event(kind, frame, agent)
        shift = self._jump(rng, scene)
        others = np.delete(possible.position[frame - 1], agent, axis=0)
        place = possible.position[frame - 1, agent] + shift
        if np.linalg.norm(others - place, axis=-1).min(initial=np.inf) < FREE:
            return None
        return Event(kind, frame, agent, shift=shift)

    def _jump(self, rng: np.random.Generator, scene: Scene) -> Vector:
        """Across the picture, so that it is seen and heights stay what they are."""
        right = scene.camera.view()[0, :3] * rng.uniform(1.0, 1.7) * rng.choice([-1, 1])
        return (float(right[0]), float(right[1]), float(right[2]))

    def _can_be_seen(self, scene: Scene, event: Event, possible: Trajectory, impossible: Trajectory) -> bool:
        """The body is there before, would stay in view, and is elsewhere soon after the event, or nowhere."""
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
