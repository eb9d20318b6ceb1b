"""Physion: layouts, labels by the published name rules, scenarios, the list of bad stimuli, mismatches."""

import csv
import shutil

import pytest
from data_files import CASES, SHARED, reads_shared, write_clip

from dias_video.data.physion import SCENARIOS, PhysionVideos, bad_stimuli, read_labels, scenario_of, stimulus

TABLES = SHARED / "physion_sample"
HEAD = ",ground truth outcome\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip"
    write_clip(path)
    return path.with_name("clip.mp4")


def put(clip, *paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)


@pytest.fixture
def physion(tmp_path, clip):
    """One or two videos of three scenarios in each subset; stems repeat between subsets."""
    train, test = tmp_path / "PhysionTrainMP4s", tmp_path / "PhysionTestMP4s"
    roll = "pilot_it2_rollingSliding_simple_collision_box"  # holds two scenarios' words
    for subset in ("training", "readout"):
        put(
            clip,
            train / f"Roll_{subset}_MP4s/{roll}_0000.mp4",
            train / f"Roll_{subset}_MP4s/{roll}_0001.mp4",
            train / f"Contain_{subset}_MP4s/pilot-containment-box_0004.mp4",
        )
    (train / "readout_labels.csv").write_text(
        HEAD + f"{roll}_0000,True\n{roll}_0001,False\npilot-containment-box_0004,False\ntest10_0003,True\n"
    )
    put(
        clip,
        test / f"Roll/mp4s-redyellow/{roll}-redyellow_0000_img.mp4",
        test / "Contain/mp4s-redyellow/pilot-containment-box-redyellow_0004_img.mp4",  # on the list of bad stimuli
        test / "Contain/mp4s-redyellow/pilot-containment-box-redyellow_0005_img.mp4",
        test / "Contain/mp4s/pilot-containment-box_0005_img.mp4",
        test / "Drape/mp4s-redyellow/test10-redyellow_0001_img.mp4",
        test / "Drape/mp4s-redyellow/test10-redyellow_0002_img.mp4",
    )
    (test / "labels.csv").write_text(
        HEAD
        + f"{roll}_0000_img,True\npilot-containment-box_0004_img,True\n"
        + "pilot-containment-box_0005_img,False\ntest10_0001_img,True\n"
    )
    return tmp_path


def ids(source):
    return [source.info(i).video_id for i in range(len(source))]


def test_training_videos_have_scenarios_and_no_labels(physion):
    source = PhysionVideos(physion, "training")
    assert ids(source) == [
        "training/contain/pilot-containment-box_0004",  # the list of bad stimuli is about the test set
        "training/roll/pilot_it2_rollingSliding_simple_collision_box_0000",
        "training/roll/pilot_it2_rollingSliding_simple_collision_box_0001",
    ]
    assert [source.info(i).scenario for i in range(3)] == ["contain", "roll", "roll"]
    assert source.info(0).label is None
    assert "label" not in source.read(0, [0, 3])


def test_readout_labels_are_matched_and_labels_without_a_video_listed(physion):
    source = PhysionVideos(physion, "readout")
    assert [source.info(i).label for i in range(3)] == [0.0, 1.0, 0.0]
    sample = source.read(1, [4, 1])
    assert sample["label"] == 1.0
    assert sample["scenario"] == "roll"
    assert [problem.sentence for problem in source.problems] == ["the label of test10_0003 has no video"]


def test_test_labels_follow_the_name_rules_and_bad_stimuli_are_left_out(physion):
    source = PhysionVideos(physion, "test")
    assert ids(source) == [
        "test/contain/pilot-containment-box-redyellow_0005_img",
        "test/drape/test10-redyellow_0001_img",
        "test/roll/pilot_it2_rollingSliding_simple_collision_box-redyellow_0000_img",
    ]
    assert [source.info(i).label for i in range(3)] == [0.0, 1.0, 1.0]
    sentences = {problem.sentence.rsplit("/", 1)[-1]: problem.harmless for problem in source.problems}
    assert sentences == {
        "test10-redyellow_0002_img.mp4 has no label; it is left out": False,
        "pilot-containment-box-redyellow_0004_img.mp4 is on the authors' list of bad stimuli; it is left out": True,
    }
    assert len(PhysionVideos(physion, "test", exclude_bad=False)) == 4


def test_scenarios_choose(physion):
    assert {name.split("/")[1] for name in ids(PhysionVideos(physion, "test", scenarios=["drape", "roll"]))} == {
        "drape",
        "roll",
    }


def test_the_layout_of_the_official_archive(physion):
    (physion / "PhysionTestMP4s").rename(physion / "Physion")
    assert len(PhysionVideos(physion, "test")) == 3
    assert len(PhysionVideos(physion / "Physion", "test")) == 3
    assert len(PhysionVideos(physion / "PhysionTrainMP4s", "readout")) == 3


def test_a_video_in_the_wrong_folder_is_told(physion, clip):
    put(clip, physion / "PhysionTrainMP4s/Roll_training_MP4s/pilot_towers_nb2_0001.mp4")
    source = PhysionVideos(physion, "training")
    assert "training/support/pilot_towers_nb2_0001" in ids(source)
    assert "is named as support" in source.problems[0].sentence


def test_one_stimulus_twice_is_refused(physion, clip):
    put(clip, physion / "PhysionTestMP4s/Drape/mp4s-redyellow/test10_0001.mp4")
    with pytest.raises(ValueError, match="are one stimulus; remove one"):
        PhysionVideos(physion, "test")


def test_videos_that_can_not_be_opened_are_named_or_left_out(physion):
    bad = physion / "PhysionTestMP4s/Drape/mp4s-redyellow/test10-redyellow_0001_img.mp4"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"test10-redyellow_0001_img.mp4 is not a readable video"):
        PhysionVideos(physion, "test")
    source = PhysionVideos(physion, "test", on_error="skip_and_report")
    assert [source.info(i).scenario for i in range(len(source))] == ["contain", "roll"]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("name,answer\nx_0001,True\n", "no column 'ground truth outcome'"),
        (HEAD + "x_0001,True\nx_0001,False\n", "line 3: x_0001 has two labels"),
        (HEAD + "x_0001,maybe\n", "line 2: the label must be True or False"),
        (HEAD + "x_0001\n", "line 2 has 1 of 2 columns"),
        ("", "no column"),
        (HEAD + "x" * 200_000 + ",True\n", "line 2: field larger than field limit"),
        (HEAD.encode("utf-16"), "is not in UTF-8 .byte 0.; save it as UTF-8"),
        (HEAD.encode() + b"b\xe4r_0001,True\n", "is not in UTF-8"),
    ],
)
def test_wrong_tables_are_named(tmp_path, table, sentence):
    (tmp_path / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(ValueError, match=rf"labels.csv.*{sentence}"):
        read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_people_save_them(tmp_path, encoding, end):
    table = f"{HEAD}roll_a_0001_img,True\nroll_b_0002_img,False\n\n".replace("\n", end)
    (tmp_path / "labels.csv").write_bytes(table.encode(encoding))
    assert read_labels(tmp_path / "labels.csv") == {"roll_a_0001": 1.0, "roll_b_0002": 0.0}


@reads_shared
def test_tables_that_other_programs_fail_on():
    assert read_labels(CASES / "csv/index_col.csv") == {"roll_a_0001": 1.0, "roll_b_0002": 0.0}
    with pytest.raises(ValueError, match=r"huge_field.csv, line 2: field larger than field limit"):
        read_labels(CASES / "csv/huge_field.csv")


def test_missing_tables_folders_and_options_are_named(physion):
    (physion / "PhysionTestMP4s/labels.csv").unlink()
    with pytest.raises(ValueError, match=r"labels.csv is missing, .* it lies in the archive of the test videos"):
        PhysionVideos(physion, "test")
    with pytest.raises(ValueError, match="split must be one of"):
        PhysionVideos(physion, "val")
    with pytest.raises(ValueError, match="unknown scenario 'rolling'"):
        PhysionVideos(physion, "training", scenarios=["rolling"])
    with pytest.raises(ValueError, match="holds no PhysionTrainMP4s"):
        PhysionVideos(physion / "PhysionTestMP4s", "training")


def test_the_list_of_bad_stimuli_has_26_names():
    assert len(bad_stimuli()) == 26


@reads_shared
def test_the_real_tables():
    with (TABLES / "stimulus_names_and_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = read_labels(TABLES / "stimulus_names_and_labels.csv")
    assert len(table) == len(rows) == 1200
    assert sum(table.values()) == 600  # balanced by design
    for row in rows:
        assert scenario_of(row["stim_ID"]) == row["scenario"]
        shown = row["stim_url"].rsplit("/", 1)[1].removesuffix(".mp4")
        assert stimulus(shown) == row["stim_ID"]
        red = f"{row['stim_ID'][:-5]}-redyellow{row['stim_ID'][-5:]}_img"
        assert stimulus(red) == row["stim_ID"]
    assert bad_stimuli() <= table.keys()
    readout = read_labels(TABLES / "readout_labels.csv")
    assert len(readout) == 8005
    assert {scenario_of(name) for name in readout} == set(SCENARIOS)
