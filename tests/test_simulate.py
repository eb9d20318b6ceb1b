"""Simulated videos: deterministic, consistent with their physics and their files, honest labels, safe to interrupt."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pybullet")

from dias_video.simulate import contact as contact_module
from dias_video.simulate import world
from dias_video.simulate.contact import Contact
from dias_video.simulate.scenarios import SCENARIOS
from dias_video.simulate.scene import Body, Camera, Light, Part, Scene, Trajectory
from dias_video.simulate.toss import Toss
from dias_video.simulate.writer import clip_generator, write_dataset

REPOSITORY = Path(__file__).parents[1]


def read_masks(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
        assert names == [f"{frame:05d}.png" for frame in range(len(names))]
        return np.stack([np.array(Image.open(io.BytesIO(archive.read(name)))) for name in names])


def read_video(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_record(path: Path) -> dict:
    return json.loads(path.read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def contact_clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, np.ndarray]]:
    """Two clips of each scenario: records and masks."""
    variant = Contact(size=(40, 56), num_frames=15, fps=5.0, max_distractors=0)
    folder = write_dataset(variant, tmp_path_factory.mktemp("contact"), "readout", 2 * len(SCENARIOS), workers=1)
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    return [(record, read_masks(folder / f"{index:05d}.masks.zip")) for index, record in enumerate(records)]


# Determinism


def test_same_bytes_for_any_number_of_workers_and_any_company(tmp_path: Path) -> None:
    variant = Toss(size=(32, 48), num_frames=5)
    alone = files_of(write_dataset(variant, tmp_path / "one", "val", 3, seed=4, workers=1))
    shared = files_of(write_dataset(variant, tmp_path / "two", "val", 3, seed=4, workers=2))
    assert alone == shared
    assert len(alone) == 9
    last = variant.clip(clip_generator(variant, "val", 4, 2), 2)  # here after other clips, there after fewer
    assert json.loads(alone["00002.json"]) == last.record


def test_splits_seeds_and_variants_share_no_random_numbers() -> None:
    draws = [
        clip_generator(variant, split, seed, index).integers(2**62)
        for variant in (Toss(), Contact())
        for split in variant.splits
        for seed in (0, 1)
        for index in range(5)
    ]
    assert len(set(draws)) == 2 * 3 * 2 * 5


# Pictures, masks, boxes and states agree


def test_boxes_are_tight_around_visible_pixels(tmp_path: Path) -> None:
    folder = write_dataset(
        Toss(size=(48, 72), num_frames=7, min_bodies=4, max_bodies=5), tmp_path, "train", 2, workers=1
    )
    for path in folder.glob("*.json"):
        record, masks = read_record(path), read_masks(path.with_suffix(".masks.zip"))
        assert masks.shape == (7, 48, 72)
        assert masks.max() <= record["num_instances"]
        for frame in range(7):
            for index in range(record["num_instances"]):
                rows, columns = np.nonzero(masks[frame] == index + 1)
                assert record["box_valid"][frame][index] == (len(rows) > 0)
                expected = [0.0] * 4
                if len(rows):
                    expected = [columns.min() / 72, rows.min() / 48, (columns.max() + 1) / 72, (rows.max() + 1) / 48]
                assert record["boxes"][frame][index] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (48, 90), (75, 40)])
def test_projected_centre_of_a_lone_body_lies_in_its_mask(size: tuple[int, int]) -> None:
    variant = Toss(size=size, num_frames=9, min_bodies=1, max_bodies=1)
    seen = 0
    for index in range(4):
        clip = variant.clip(clip_generator(variant, "test", 0, index), index)
        view, projection = (np.array(clip.record["camera"][name]) for name in ("view", "projection"))
        for frame, (position,) in enumerate(clip.record["state"]["position"]):
            x, y, _, w = projection @ view @ np.array([*position, 1.0])
            column, row = int((1 + x / w) / 2 * size[1]), int((1 - y / w) / 2 * size[0])
            if 0 <= row < size[0] and 0 <= column < size[1]:
                assert clip.masks[frame, row, column] == 1
                seen += 1
    assert seen > 25


def test_bodies_stand_out_and_mostly_stay_in_view() -> None:
    variant = Toss(size=(128, 128), num_frames=12)
    records = [variant.clip(clip_generator(variant, "train", 0, index), index).record for index in range(4)]
    sides = [
        128 * (box[2] - box[0] + box[3] - box[1]) / 2
        for record in records
        for boxes, valid in zip(record["boxes"], record["box_valid"], strict=True)
        for box, here in zip(boxes, valid, strict=True)
        if here
    ]
    assert 22 < np.median(sides) < 40
    assert np.mean([record["box_valid"] for record in records if record["num_instances"] == 3] or [[1]]) > 0.8
    assert {record["num_instances"] for record in records} <= {3, 4, 5, 6}


def test_free_fall_follows_gravity() -> None:
    texture = np.full((8, 8, 3), 128, np.uint8)
    body = Body(
        (Part("sphere", (0.5, 0.5, 0.5)),), 1.0, (0.0, 0.0, 4.0), texture, velocity=(1.0, 0.0, 2.0), damping=0.0
    )
    scene = Scene((body,), Camera((5, 0, 3), (0, 0, 1), 5.0), Light((0, 0, 1)), texture, np.zeros((2, 3), np.uint8))
    trajectory, meeting = world.move(scene, 9, 10.0)
    seconds = np.arange(9) / 10
    np.testing.assert_allclose(trajectory.position[:, 0, 0], seconds, atol=1e-3)
    np.testing.assert_allclose(trajectory.position[:, 0, 2], 4 + 2 * seconds - 9.81 / 2 * seconds**2, atol=0.03)
    np.testing.assert_allclose(trajectory.velocity[:, 0, 2], 2 - 9.81 * seconds, atol=1e-3)
    assert meeting == ([], False)


def test_two_balls_touch_or_pass_at_a_known_distance() -> None:
    """Two balls of 0.5 m fly at each other with 2 m/s, their centres 3 m apart: surfaces meet after 1.25 s."""
    texture = np.full((8, 8, 3), 128, np.uint8)
    part = Part("sphere", (0.5, 0.5, 0.5))

    def moved(offset: float, reach: float, **options: Any) -> tuple[Trajectory, world.Meeting]:
        left = Body((part,), 1.0, (-1.5, 0.0, 3.0), texture, velocity=(1.0, 0.0, 0.0), damping=0.0)
        right = Body((part,), 1.0, (1.5, offset, 3.0), texture, velocity=(-1.0, 0.0, 0.0), damping=0.0)
        camera, sky = Camera((0, 5, 3), (0, 0, 3), 5.0), np.zeros((2, 3), np.uint8)
        scene = Scene((left, right), camera, Light((0, 0, 1)), texture, sky, gravity=0.0)
        return world.move(scene, 20, 10.0, (0, 1), reach, **options)

    whole, meeting = moved(0.0, 0.0)
    assert meeting.touched[0] == 13
    assert moved(0.8, 0.29)[1] == ([], False)  # they pass 0.3 m apart
    assert moved(0.8, 0.31)[1] == ([], True)
    begun, meeting = moved(0.0, 0.0, until=lambda met: bool(met.touched))
    assert meeting.touched == [13]
    for part, all_of_it in zip(begun, whole, strict=True):
        np.testing.assert_array_equal(part, all_of_it[:14])


def test_bundled_meshes() -> None:
    variant = Toss(size=(40, 40), num_frames=3, bodies="meshes", min_bodies=3, max_bodies=3)
    clip = variant.clip(clip_generator(variant, "train", 0, 0), 0)
    assert all(body["shape"].startswith("mesh:") for body in clip.record["bodies"])
    assert set(np.unique(clip.masks)) == {0, 1, 2, 3}


# Contact: labels


def test_labels_are_balanced_in_each_scenario(contact_clips: list[tuple[dict, np.ndarray]]) -> None:
    found = sorted((record["scenario"], record["label"]) for record, _ in contact_clips)
    assert found == sorted((scenario, label) for scenario in SCENARIOS for label in (0, 1))


def test_agent_is_red_patient_yellow_and_both_are_seen(contact_clips: list[tuple[dict, np.ndarray]]) -> None:
    for record, masks in contact_clips:
        agent, patient = (np.array(record["bodies"][record[role] - 1]["color"]) for role in ("agent", "patient"))
        assert agent[0] > 3 * max(agent[1:])
        assert min(patient[:2]) > 3 * patient[2]
        assert (masks[0] == record["agent"]).any()
        assert (masks[0] == record["patient"]).any()
        others = [body["color"] for body in record["bodies"] if body["role"] == "prop"]
        assert all(max(color[1:]) > color[0] for color in others)


def test_labels_agree_with_distances_between_replayed_bodies(contact_clips: list[tuple[dict, np.ndarray]]) -> None:
    towed = Contact(
        size=(40, 56), num_frames=15, fps=5.0, scenarios=("link",)
    )  # the second version of link comes third
    more = [towed.clip(clip_generator(towed, "test", 0, index), index).record for index in (2, 3)]
    for record in [record for record, _ in contact_clips] + more:
        gaps = replayed_gaps(record)
        first = record["first_contact_frame"]
        assert record["num_observed"] == 5
        assert (first is None) == (record["label"] == 0)
        until = record["num_frames"] if first is None else first
        assert min(gaps[:until]) > 0, record["scenario"]
        if first is not None:
            assert first >= record["num_observed"]
            assert min(gaps[first - 1 : first + 1]) < 0.35, record["scenario"]  # they touched between two frames


def replayed_gaps(record: dict) -> list[float]:
    """Distance of agent and patient in every frame, from the json alone, in a physics world of its own."""
    import pybullet

    client = pybullet.connect(pybullet.DIRECT)
    numbers = [record["agent"] - 1, record["patient"] - 1]
    ids = [
        pybullet.createMultiBody(1, replayed_shape(pybullet, client, record["bodies"][k]), physicsClientId=client)
        for k in numbers
    ]
    gaps = []
    for position, orientation in zip(record["state"]["position"], record["state"]["orientation"], strict=True):
        for k, body in zip(numbers, ids, strict=True):
            pybullet.resetBasePositionAndOrientation(body, position[k], orientation[k], physicsClientId=client)
        points = pybullet.getClosestPoints(*ids, distance=100.0, physicsClientId=client)
        gaps.append(min(point[8] for point in points))
    pybullet.disconnect(client)
    return gaps


def replayed_shape(pybullet: object, client: int, body: dict) -> int:
    width, depth, height = body["parts"][0]["size"]
    angles = np.linspace(0, 2 * np.pi, 40)
    ring = [[width / 2 * np.cos(angle), width / 2 * np.sin(angle), -height / 4] for angle in angles]
    arguments = {
        "box": {"shapeType": pybullet.GEOM_BOX, "halfExtents": [width / 2, depth / 2, height / 2]},
        "sphere": {"shapeType": pybullet.GEOM_SPHERE, "radius": width / 2},
        "cylinder": {"shapeType": pybullet.GEOM_CYLINDER, "radius": width / 2, "height": height},
        "cone": {"shapeType": pybullet.GEOM_MESH, "vertices": [*ring, [0, 0, 3 * height / 4]]},
    }
    return pybullet.createCollisionShape(**arguments[body["shape"]], physicsClientId=client)


def test_rejection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_module, "MAX_ATTEMPTS", 0)
    with pytest.raises(ValueError, match="no 'drop' clip with label 0 in 0 attempts"):
        Contact(scenarios=("drop",)).clip(np.random.default_rng(0), 0)


def test_near_misses_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would have been the clip is told to be near: without a touch another is drawn, with one it stays."""
    variant = Contact(size=(24, 32), num_frames=9, fps=3.0, scenarios=("drop",))
    moved, move = [0], world.move
    near: set[int] = set()  # attempts

    def told(*arguments: object, **options: object) -> tuple[object, world.Meeting]:
        moved[0] += 1
        trajectory, meeting = move(*arguments, **options)
        return trajectory, world.Meeting(meeting.touched, moved[0] in near or meeting.near)

    def attempts(label: int) -> int:
        moved[0] = 0
        assert variant.clip(np.random.default_rng(1), label).record["label"] == label
        return moved[0]

    monkeypatch.setattr(world, "move", told)
    apart, touching = attempts(0), attempts(1)
    near |= {apart, touching}
    assert attempts(0) > apart
    assert attempts(1) == touching

    still = move(variant.scene(np.random.default_rng(0), SCENARIOS["drop"][0]), 9, 3.0)[0]
    monkeypatch.setattr(world, "move", lambda *_, **__: (still, world.Meeting([], True)))
    monkeypatch.setattr(contact_module, "MAX_ATTEMPTS", 3)
    with pytest.raises(ValueError, match="no 'drop' clip with label 0 in 3 attempts"):
        variant.clip(np.random.default_rng(0), 0)


# Files


@pytest.mark.parametrize(("size", "num_frames"), [((33, 47), 1), ((32, 50), 4)])
def test_mp4_shows_what_was_drawn(tmp_path: Path, size: tuple[int, int], num_frames: int) -> None:
    variant = Toss(size=size, num_frames=num_frames, fps=7.5)
    folder = write_dataset(variant, tmp_path, "train", 1, workers=1)
    drawn = variant.clip(clip_generator(variant, "train", 0, 0), 0)
    video = read_video(folder / "00000.mp4")
    assert video.shape == (num_frames, *size, 3)
    with av.open(str(folder / "00000.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(7.5)
    error = np.mean((video.astype(float) - drawn.video) ** 2)
    assert 10 * np.log10(255**2 / error) > 24
    np.testing.assert_array_equal(read_masks(folder / "00000.masks.zip"), drawn.masks)
    with zipfile.ZipFile(folder / "00000.masks.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert Image.open(io.BytesIO(archive.read("00000.png"))).mode == "P"


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    variant = Toss(size=(20, 24), num_frames=2)
    folder = write_dataset(variant, tmp_path, "train", 3, seed=1, workers=1)
    whole = files_of(folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "00001.json").unlink()  # as after a kill: the json is written last
    (folder / "00001.mp4").write_bytes(b"half")
    write_dataset(variant, tmp_path, "train", 3, seed=1, workers=1)
    assert files_of(folder) == whole
    untouched = [name for name in whole if not name.startswith("00001")]
    assert all((folder / name).stat().st_mtime_ns == times[name] for name in untouched)
    write_dataset(variant, tmp_path, "train", 4, seed=1, workers=1)
    meta = read_record(tmp_path / "toss" / "meta.json")
    assert meta["splits"]["train"] == {"seed": 1, "num_videos": 4}
    with pytest.raises(ValueError, match=r"num_frames is 2 there, 5 here"):
        write_dataset(dataclasses.replace(variant, num_frames=5), tmp_path, "val", 1, workers=1)
    with pytest.raises(ValueError, match=r"train seed is 1 there, 2 here"):
        write_dataset(variant, tmp_path, "train", 4, seed=2, workers=1)
    assert len(files_of(folder)) == 12
    assert not (tmp_path / "toss" / "val").exists() or not files_of(tmp_path / "toss" / "val")


# Errors


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ({}, {"num_videos": 0}, "num_videos must be at least 1, got 0"),
        ({}, {"split": "readout"}, "no split 'readout'; choose from train, val, test"),
        ({}, {"workers": 0}, "workers must be at least 1"),
        ({}, {"seed": -1}, "seed must be at least 0"),
        ({"size": (8, 128)}, {}, "each from 16"),
        ({"num_frames": 0}, {}, "num_frames=0"),
        ({"fps": 0}, {}, "fps=0"),
    ],
)
def test_user_errors_are_one_sentence(tmp_path: Path, variant: dict, options: dict, message: str) -> None:
    settings = {"split": "train", "num_videos": 1, **options}
    with pytest.raises(ValueError, match=message):
        write_dataset(Toss(**variant), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="bodies must be shapes or meshes"):
        Toss(bodies="cubes")
    with pytest.raises(ValueError, match="min_bodies=5 and max_bodies=3"):
        Toss(min_bodies=5, max_bodies=3)
    with pytest.raises(ValueError, match="must be some of collide"):
        Contact(scenarios=("explode",))
    with pytest.raises(ValueError, match="at least 6"):
        Contact(num_frames=3)


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't be written to"):
        write_dataset(Toss(size=(16, 16)), tmp_path / "file", "train", 1, workers=1)


def test_missing_pybullet_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    world.bullet.cache_clear()
    with pytest.raises(ValueError, match=r"dias-video\[sim\]"):
        world.bullet()


def test_script(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/simulate.py", f"root={tmp_path}", "split=test", *options]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    done = run("simulate.size=[18,31]", "simulate.num_frames=1", "num_videos=1", "workers=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "toss" / "test" / "00000.json").exists()
    failed = run("num_videos=0")
    assert failed.returncode == 1
    assert failed.stderr.strip() == "error: num_videos must be at least 1, got 0"
    with pytest.raises(ValueError, match="num_videos must be at least 1, got 0"):
        write_dataset(Toss(size=(16, 16)), tmp_path, "train", 0)
