"""The content of a clip's json."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dias_video.data.boxes import boxes_of
from dias_video.simulate.scene import Body, Scene, Trajectory

DECIMALS = 6


def record_of(scene: Scene, trajectory: Trajectory, masks: NDArray[np.uint8], fps: float) -> dict[str, Any]:
    """Boxes, states, bodies and camera of a clip as plain json values; ``masks`` (T, H, W) are its instance ids."""
    num_frames, height, width = masks.shape
    boxes, valid = boxes_of(masks, len(scene.bodies))
    camera = scene.camera
    return {
        "fps": fps,
        "size": [height, width],
        "num_frames": num_frames,
        "num_instances": len(scene.bodies),
        "boxes": _plain(boxes),
        "box_valid": valid.tolist(),
        "bodies": [_body(body) for body in scene.bodies],
        "state": {name: _plain(value) for name, value in trajectory._asdict().items()},
        "camera": {
            "position": _plain(np.array(camera.position)),
            "target": _plain(np.array(camera.target)),
            "view": _plain(camera.view()),
            "projection": _plain(camera.projection((height, width))),
        },
        "light": {"direction": _plain(np.array(scene.light.direction))},
    }


def _body(body: Body) -> dict[str, Any]:
    parts = [{"shape": part.shape, "size": list(part.size), "position": list(part.position)} for part in body.parts]
    return {
        "shape": body.parts[0].shape if len(parts) == 1 else "compound",
        "scale": max(max(part.size) for part in body.parts),
        "parts": parts,
        "mass": body.mass,
        "friction": body.friction,
        "restitution": body.restitution,
        **body.about,
    }


def _plain(values: NDArray[np.float64]) -> Any:
    return (np.round(values, DECIMALS) + 0.0).tolist()  # + 0.0: no negative zeros
