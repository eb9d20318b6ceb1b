"""What people answered about Physion's videos, joined by stimulus."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from data_files import CASES, SHARED, reads_shared

from dias_video.data.physion import stimulus
from slotformer.contact.people import human_rows, read_human


def test_people_are_joined_by_stimulus(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("stim_ID,correct\na_0001_img,0.5\nb_0002,1.0\nc_0003,0.25\n")
    table = read_human(file, lambda name: name.removesuffix("_img"))
    assert table == {"a_0001": 0.5, "b_0002": 1.0, "c_0003": 0.25}
    ids = ["test/drop/a_0001", "test/roll/b_0002", "test/roll/unseen"]
    rows = human_rows(table, ids, ["drop", "roll", "roll"], lambda name: name)
    assert [(r["scenario"], r["accuracy"], r["videos"]) for r in rows] == [
        ("drop", 0.5, 1),
        ("roll", 1.0, 1),
        ("all", 0.75, 2),
    ]
    file.write_text("stim_ID,correct\na,1.5\n")
    with pytest.raises(ValueError, match="line 2"):
        read_human(file, str)
    file.write_text("name\na\n")
    with pytest.raises(ValueError, match="stim_ID"):
        read_human(file, str)


@reads_shared
def test_tables_of_people_that_other_programs_fail_on() -> None:
    assert read_human(CASES / "csv/h_per_person.csv", stimulus) == {"roll_a_0001": pytest.approx(2 / 3)}
    assert read_human(CASES / "csv/h_bom.csv", stimulus) == {"roll_a_0001": 0.75, "roll_b_0002": 0.5}
    for name, sentence in (
        ("h_short_row", "line 2: correct must be a number, it is absent"),
        ("h_utf16", "not in UTF-8"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.csv.*{sentence}"):
            read_human(CASES / f"csv/{name}.csv", stimulus)


@reads_shared
def test_people_of_the_real_table() -> None:
    """All 1,200 stimuli, 150 a scenario, each with a value."""
    file = SHARED / "physion_sample/stimulus_names_and_labels.csv"
    table = read_human(file, stimulus)
    assert len(table) == 1200
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    ids = [f"test/{row['scenario']}/{row['stim_ID']}" for row in rows]
    people = human_rows(table, ids, [row["scenario"] for row in rows], stimulus)
    assert [r["videos"] for r in people] == [150] * 8 + [1200]
    assert people[-1]["accuracy"] == pytest.approx(np.mean([float(row["correct"]) for row in rows]))
