"""Physion v1.5: the frames that its official loader shows, names, labels, what it leaves out."""

import json
import shutil

import pytest
import torch
from data_files import SHARED, reads_shared
from physion15_files import LENGTHS, STEMS, write_physion15
from video_files import number_shown, write

from dias_video.data.physion15 import (
    SCENARIOS,
    Physion15Videos,
    bad_stimuli,
    read_labels,
    scenarios_of,
    shown_frames,
)
from dias_video.data.source import fingerprint

ROLLED, HIT = "pilot_it2_rollingSliding_simple_collision_box_0001", "pilot_it2_collision_non-sphere_box_0003"


def every(first, last, step):
    return list(range(first, last + (1 if step > 0 else -1), step))


# What the official loader showed of made-up clips (a fake video reader): gap, least number, frames of the clip,
# then the frames of a clip that is no collision, and of a collision.
PREDICT = [
    (150, 4, 200, [0, 15, 30, 45], [0, 0, 0, 15]),
    (150, 4, 60, [0, 15, 30, 45], [0, 0, 0, 15]),
    (150, 4, 30, [0, 15, 29, 29], [0, 0, 0, 15]),
    (150, 8, 200, [0, 0, 0, 0, 0, 15, 30, 45], [0] * 7 + [15]),
    (150, 1, 200, [0, 15, 30, 45], [0, 0, 0, 15]),
    (100, 4, 200, [5, 15, 25, 35, 45], [5, 5, 5, 5, 15]),
    (100, 4, 30, [5, 15, 25, 29, 29], [5, 5, 5, 5, 15]),
    (50, 4, 200, every(0, 45, 5), [0] * 7 + [5, 10, 15]),
    (50, 4, 30, [0, 5, 10, 15, 20, 25, 29, 29, 29, 29], [0] * 7 + [5, 10, 15]),
    (40, 4, 200, every(1, 45, 4), [3] * 9 + [7, 11, 15]),
    (33, 4, 200, [1, 1, *every(1, 45, 4)], [3] * 11 + [7, 11, 15]),
    (450, 2, 200, [0, 45], [15, 15]),
    (10, 4, 200, every(0, 45, 1), [0] * 30 + every(0, 15, 1)),
]
# Gap, least number, frames of the clip, frame of the contact, shown.
DETECT = [
    (150, 4, 200, 100, [115, 115, 100, 85]),
    (150, 4, 200, 5, [20, 20, 5, 0]),
    (150, 4, 200, 195, [199, 199, 195, 180]),
    (150, 4, 60, 20, [35, 35, 20, 5]),
    (150, 4, 30, 15, [29, 29, 15, 0]),
    (100, 4, 200, 100, [115, 115, 105, 95, 85]),
    (100, 4, 200, 5, [20, 20, 10, 0, 0]),
    (50, 4, 200, 100, [115, *every(115, 75, -5)]),
    (50, 4, 30, 15, [29, 29, 25, 20, 15, 10, 5, 0, 0, 0]),
    (33, 4, 200, 100, [115, 115, 115, *every(115, 75, -4)]),
]


@pytest.mark.parametrize(("gap", "least", "length", "shown", "of_collision"), PREDICT)
def test_frames_to_predict_from(gap, least, length, shown, of_collision):
    assert shown_frames("predict", ROLLED, length, 100, gap, least) == shown
    assert shown_frames("predict", HIT, length, 100, gap, least) == of_collision


@pytest.mark.parametrize(("gap", "least", "length", "contact", "shown"), DETECT)
def test_frames_to_detect_in(gap, least, length, contact, shown):
    for stem in (ROLLED, HIT):
        assert shown_frames("detect", stem, length, contact, gap, least) == shown


def test_impossible_gaps():
    with pytest.raises(ValueError, match="frame_gap=460 leaves no frame"):
        shown_frames("detect", HIT, 200, 100, 460)
    for gap, least in ((0, 4), (150, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            shown_frames("predict", HIT, 200, 100, gap, least)


def test_scenarios_by_the_words_of_a_name():
    assert scenarios_of(ROLLED) == ("roll",)
    assert scenarios_of(HIT) == ("collision",)
    assert scenarios_of("pilot_linking_dropped") == ("drop", "link")  # such a clip counts for both
    assert scenarios_of("test10_0001") == ()
    for scenario, stems in STEMS.items():
        assert [scenarios_of(stem) for stem in stems] == [(scenario,)] * len(stems)


def test_the_list_of_clips_left_out():
    bad = bad_stimuli()
    counts = {word: sum(word in scenarios_of(name) for name in bad) for word in SCENARIOS}
    assert counts == {"towers": 13, "contain": 7, "link": 7, "roll": 7, "collision": 3, "drop": 3, "dominoes": 1}
    assert "pilot_linking_nl1-8_mg000_aNone_bCyl_tdwroom_small_rings_0033" not in bad  # named in a comment only


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """In a folder whose name has other scenarios' words, which mislead the official code."""
    root = tmp_path_factory.mktemp("archive") / "dropbox/roll"
    return root, write_physion15(root, (64, 96))


def sources(archive, split="test", **options):
    return Physion15Videos(archive[0], split, **options)


def test_whole_clips(archive):
    source = sources(archive, "train")
    infos = [source.info(index) for index in range(len(source))]
    assert len(source) == 16
    assert len({info.video_id for info in infos}) == 16
    assert {info.num_frames for info in infos} == set(LENGTHS)
    assert infos[0].video_id == "train/contain/pilot-containment-cone-plate_0100"  # natural order of the names
    assert {info.scenario for info in infos} == set(SCENARIOS)
    for index, info in enumerate(infos):
        said = archive[1]["train"][info.video_id.rpartition("/")[2]]
        assert (info.label, source.label(index).frame) == (said["label"], said["contact_frame_label"])
    assert all(problem.harmless for problem in source.problems)
    assert "5,608" in source.problems[0].sentence


@pytest.mark.parametrize("task", ["predict", "detect"])
@pytest.mark.parametrize("gap", [150, 100])
def test_read_shows_exactly_these_frames(archive, task, gap):
    source = sources(archive, task=task, frame_gap=gap)
    for index in range(len(source)):
        info, label = source.info(index), source.label(index)
        stem = info.video_id.rpartition("/")[2]
        length = LENGTHS[list(archive[1]["test"]).index(stem) % 3]
        expected = shown_frames(task, stem, length, label.frame, gap)
        sample = source.read(index, range(info.num_frames))
        assert sample["frame_index"].tolist() == expected == list(info.frames)
        assert [number_shown(frame.permute(1, 2, 0).numpy()) for frame in sample["video"]] == expected
        assert (sample["label"], sample["scenario"]) == (info.label, info.scenario)
        assert torch.equal(source.read(index, [2, 0])["video"], sample["video"][[2, 0]])


def test_other_frames_are_another_set(archive):
    """Caches of features must not be taken for those of other frames, be they as many."""
    kinds = [{"task": "predict"}, {"task": "detect"}, {"task": "predict", "frame_gap": 160}, {}]
    shown = [sources(archive, **kind) for kind in kinds]
    assert {source.info(0).num_frames for source in shown[:3]} == {4}
    assert len({fingerprint(source) for source in shown}) == 4


def test_what_is_left_out_of_the_test_clips(tmp_path):
    folder = tmp_path / "physion_mp4s/test"
    bad = "pilot_it2_drop_simple_box_0042"
    first = write(folder / f"{bad}.mp4", count=3, size=(16, 16))
    shutil.copy(first, folder / "pilot_it2_drop_simple_box_0043.mp4")
    row = {"label": True, "contact_frame_label": 2}
    table = {bad: row, "pilot_it2_drop_simple_box_0043": row, "pilot_it2_drop_simple_box_0044": row}
    (folder / "all_video_labels.json").write_text(json.dumps(table))
    source = Physion15Videos(tmp_path, "test")
    assert [source.info(0).video_id] == ["test/drop/pilot_it2_drop_simple_box_0043"]
    assert any(bad in problem.sentence and problem.harmless for problem in source.problems)
    assert any("0044 has no clip" in problem.sentence for problem in source.problems)
    assert len(Physion15Videos(tmp_path, "test", exclude_bad=False)) == 2
    shutil.copytree(folder, folder.with_name("train"))
    assert len(Physion15Videos(tmp_path, "train")) == 2  # the list is of test clips


def test_clips_that_cant_be_used_are_named(tmp_path, archive):
    root = tmp_path / "copy"
    shutil.copytree(archive[0], root)
    folder = root / "physion_mp4s/test"
    some = next(folder.glob("*.mp4"))
    for name, sentence in (("test10_0001", "tells no scenario"), ("pilot_towers_0001", "has no label")):
        shutil.copy(some, folder / f"{name}.mp4")
        table = json.loads((folder / "all_video_labels.json").read_text())
        table |= {"test10_0001": {"label": 0, "contact_frame_label": 0}}
        (folder / "all_video_labels.json").write_text(json.dumps(table))
        with pytest.raises(ValueError, match=sentence):
            Physion15Videos(root, "test")
        source = Physion15Videos(root, "test", on_error="skip_and_report")
        assert len(source) == 16
        assert any(name in problem.sentence for problem in source.problems)
        (folder / f"{name}.mp4").unlink()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "holds a list and no mapping"),
        ("{", "is damaged"),
        ('{"a": 1}', "a must have label"),
        ('{"a": {"label": 2, "contact_frame_label": 0}}', "a must have label"),
        ('{"a": {"label": 1, "contact_frame_label": -1}}', "a must have label"),
        ('{"a": {"label": 1, "contact_frame_label": 1.5}}', "a must have label"),
        ('{"a": {"label": null, "contact_frame_label": 1}}', "a must have label"),
        ('{"a": {"label": "1", "contact_frame_label": 1}}', "a must have label"),
    ],
)
def test_tables_of_labels(tmp_path, content, sentence):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_labels(tmp_path / "labels.json")


def test_labels_are_0_and_1_or_false_and_true(tmp_path):
    rows = {"a": {"label": True, "contact_frame_label": 3}, "b": {"label": 0, "contact_frame_label": 0}}
    (tmp_path / "labels.json").write_text("\ufeff" + json.dumps(rows))
    assert read_labels(tmp_path / "labels.json") == {"a": (True, 3), "b": (False, 0)}


def test_options(archive):
    with pytest.raises(ValueError, match="physion_mp4s/train is missing"):
        Physion15Videos(archive[0] / "nowhere")
    with pytest.raises(ValueError, match="split must be"):
        sources(archive, "readout")
    with pytest.raises(ValueError, match="task must be"):
        sources(archive, task="ocp")
    with pytest.raises(ValueError, match="unknown scenario 'drape'"):
        sources(archive, scenarios=["roll", "drape"])
    chosen = sources(archive, scenarios=["roll", "link"])
    assert sorted(chosen.info(index).scenario for index in range(len(chosen))) == ["link"] * 2 + ["roll"] * 4


@reads_shared
def test_real_clips(tmp_path):
    """Ten real clips of dominoes, with the frames of contact that their authors wrote down."""
    shared = SHARED / "physion_sample"
    table = {}
    for number, known in enumerate(json.loads((shared / "metadata.json").read_text())):
        contact = known["does_target_contact_zone"]
        frame = known["first_target_contact_zone_frame"] if contact else known["num_frames"] // 2
        table[f"pilot_dominoes_{number:04d}"] = {"label": contact, "contact_frame_label": frame}
        target = tmp_path / f"physion_mp4s/train/pilot_dominoes_{number:04d}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared / f"{number:04d}_img.mp4", target)
    (target.parent / "all_video_labels.json").write_text(json.dumps(table))
    whole = Physion15Videos(tmp_path)
    assert [whole.info(0).num_frames, whole.info(1).num_frames] == [163, 205]
    shown = Physion15Videos(tmp_path, task="predict")
    assert shown.read(9, range(4))["frame_index"].tolist() == [0, 15, 30, 45]
    assert torch.equal(shown.read(9, [3])["video"], whole.read(9, [45])["video"])
    detect = Physion15Videos(tmp_path, task="detect")
    assert detect.info(0).frames == (142, 142, 127, 112)
    assert torch.equal(detect.read(0, [2])["video"], whole.read(0, [127])["video"])
