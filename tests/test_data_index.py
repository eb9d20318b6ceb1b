"""Indices of data: made once whatever is asked of them, by one process, found where they lie, never in the way."""

import json
import multiprocessing
import time

import numpy as np
import pytest
import torch

from dias_video.data import index
from dias_video.data.index import cached_index, file_indices, index_files
from dias_video.data.problems import Problems

FIELDS = ["fact", "x"]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("DIAS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    return tmp_path


def made(log):
    with log.open("a") as file:
        file.write("made\n")
    return {"fact": [1, "b"]}, {"x": torch.arange(3)}


def times_made(log):
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_an_index_is_kept_beside_the_data_until_its_key_changes(places):
    log = places / "log"
    for key, count in (([1, "a"], 1), ([1, "a"], 1), ([2, "a"], 2)):
        facts, tensors = cached_index(places / "data", "n", FIELDS, key, lambda: made(log))
        assert facts == {"fact": [1, "b"]}
        assert tensors["x"].tolist() == [0, 1, 2]
        assert times_made(log) == count
    assert [file.name for file in (places / "data/.dias_index").glob("*.safetensors")] == ["n.safetensors"]


def test_an_index_of_other_fields_is_made_again(places):
    log = places / "log"
    for fields, count in ((FIELDS, 1), (FIELDS[::-1], 1), ([*FIELDS, "y"], 2), (FIELDS, 3)):
        cached_index(places / "data", "n", fields, 1, lambda: made(log))
        assert times_made(log) == count
    with pytest.raises(AssertionError):  # a field that is not named
        cached_index(places / "data", "n", ["x"], 1, lambda: made(log))
    file = places / "data/file"
    file.write_text("content")
    for fields, length in ((["x"], 3), (["x"], 3), (["x", "y"], 5), (["x"], 6)):
        found = file_indices(places / "data", "f", fields, [file], lambda _, n=length: {"x": np.arange(n)}, Problems())
        assert counted(found) == {"file": length}


def test_what_is_known_of_a_file_may_not_be_enough(places):
    file = places / "data/file"
    file.write_text("content")
    for length, least, expected in ((3, 0, 3), (7, 2, 3), (7, 5, 7), (1, 6, 7)):
        found = file_indices(
            places / "data",
            "n",
            ["x"],
            [file],
            lambda _, n=length: {"x": np.arange(n)},
            Problems(),
            enough=lambda known, n=least: len(known["x"]) >= n,
        )
        assert counted(found) == {"file": expected}


def test_a_ready_index_is_used_wherever_it_lies(places, monkeypatch):
    log = places / "log"
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    monkeypatch.setattr(index, "_alone", None)  # nothing has to be written to
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    monkeypatch.setenv("DIAS_CACHE", str(places / "elsewhere"))
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    assert times_made(log) == 1


def test_where_the_data_can_not_be_written_to_the_users_folder_serves(places):
    log = places / "log"
    (places / "data/.dias_index").write_text("no folder")
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    assert len(list((places / "home/dias_video").rglob("*.safetensors"))) == 1
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    assert times_made(log) == 1


@pytest.mark.parametrize("reason", ["no place", "no space"])
def test_an_index_that_can_not_be_kept_costs_a_warning(places, monkeypatch, capsys, reason):
    log = places / "log"
    if reason == "no place":
        (places / "data/.dias_index").write_text("no folder")
        (places / "home").write_text("no folder")
    else:

        def full(*_, **__):
            raise OSError("No space left on device")

        monkeypatch.setattr(index, "replace_file", full)
    facts, _ = cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    assert facts == {"fact": [1, "b"]}
    assert "warning: the index of the data can't be kept" in capsys.readouterr().err


def test_damaged_indices_are_made_again(places):
    log = places / "log"
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    file = places / "data/.dias_index/n.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(log))
    assert times_made(log) == 2


def one_of_many(places):
    def slowly():
        time.sleep(1)
        return made(places / "log")

    facts, _ = cached_index(places / "data", "n", FIELDS, 1, slowly)
    (places / f"seen{time.monotonic_ns()}").write_text(json.dumps(facts))


def test_one_process_makes_it_and_the_others_wait(places):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_of_many, args=(places,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert times_made(places / "log") == 1
    assert len(list(places.glob("seen*"))) == 3


def test_a_process_that_fails_lets_the_next_one_try(places):
    def fail():
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cached_index(places / "data", "n", FIELDS, 1, fail)
    cached_index(places / "data", "n", FIELDS, 1, lambda: made(places / "log"))
    assert times_made(places / "log") == 1


def counted(found):
    """Rows of what was learned of each file."""
    return {file.name: len(arrays["x"]) for file, arrays in found.items()}


def test_what_is_learned_of_files_is_kept_and_that_of_removed_ones_forgotten(places):
    files = [places / "data" / name for name in ("a", "b", "c")]
    for file in files:
        file.write_text(file.name)
    opened = []

    def count(file):
        opened.append(file.name)
        if file.name == "b":
            raise ValueError("b is broken")
        return {"x": np.arange(7)}

    for _ in range(2):
        problems = Problems("skip_and_report")
        assert counted(file_indices(places / "data", "n", ["x"], files, count, problems)) == {"a": 7, "c": 7}
        assert [problem.sentence for problem in problems] == ["b is broken"]
    assert opened == ["a", "b", "c", "b"]
    with pytest.raises(ValueError, match="b is broken"):
        file_indices(places / "data", "n", ["x"], files, count, Problems())
    files[0].unlink()
    files[1].write_text("another b")
    found = file_indices(places / "data", "n", ["x"], files[1:], lambda file: {"x": np.arange(8)}, Problems())
    assert counted(found) == {"b": 8, "c": 7}
    assert [array.tolist() for array in found[files[2]].values()] == [[0, 1, 2, 3, 4, 5, 6]]
    assert set(index._known_files(index_files(places / "data", "n"), [index.FORMAT_VERSION, ["x"]])) == {"b", "c"}


def test_an_interruption_keeps_what_was_counted(places):
    files = [places / "data" / name for name in ("a", "b")]
    for file in files:
        file.write_text("x")

    def interrupted(file):
        if file.name == "b":
            raise KeyboardInterrupt
        return {"x": np.arange(3)}

    with pytest.raises(KeyboardInterrupt):
        file_indices(places / "data", "n", ["x"], files, interrupted, Problems())
    opened = []
    file_indices(
        places / "data", "n", ["x"], files, lambda file: opened.append(file.name) or {"x": np.arange(4)}, Problems()
    )
    assert opened == ["b"]
