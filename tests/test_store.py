"""The store of sequences: what goes in comes out, also after a kill, from many processes and in part."""

import copy
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dias_video.stores.shard import save_shard
from dias_video.stores.store import ShardStore, ShardWriter, build_index, shard_files

HEADER = {"checkpoint": "abc", "settings": {"stride": 3, "size": [5, 7]}}


def item(number: int) -> dict[str, Tensor]:
    """(T,3,5) half slots, (T,3) bool mask, (T,) int64 ids; T differs between items."""
    generator = torch.Generator().manual_seed(number)
    frames = 2 + number % 4
    return {
        "slots": torch.randn(frames, 3, 5, generator=generator).to(torch.float16),
        "mask": torch.rand(frames, 3, generator=generator) > 0.5,
        "ids": torch.arange(frames) + 100 * number,
    }


def write(path: Path, numbers: range, part: int = 0, parts: int = 1, shard_bytes: int = 400) -> None:
    with ShardWriter(path, HEADER, part, parts, shard_bytes) as writer:
        for number in numbers:
            if f"clip/{number:03d}" not in writer.present:
                writer.write(f"clip/{number:03d}", **item(number))


def check(path: Path, count: int) -> None:
    store = ShardStore(path)
    assert list(store.keys) == [f"clip/{n:03d}" for n in range(count)]
    for n, key in enumerate(store.keys):
        expected = item(n)
        got = store.read(key)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in got)
        assert store.length(key) == len(expected["ids"])


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    write(tmp_path, range(23))
    assert len(shard_files(tmp_path)) > 3
    check(tmp_path, 23)
    store = ShardStore(tmp_path)
    assert store.header == HEADER
    assert store.fields["slots"] == (torch.float16, (3, 5))
    assert len(store) == 23
    assert "clip/022" in store
    assert "clip/023" not in store
    assert store.verify() == 23


def test_frame_ranges_and_fields(tmp_path: Path) -> None:
    write(tmp_path, range(9))
    store = ShardStore(tmp_path)
    part = store.read("clip/007", 1, 3, fields=["ids"])
    assert list(part) == ["ids"]
    assert part["ids"].tolist() == [701, 702]
    assert store.read("clip/007", 2, 2)["slots"].shape == (0, 3, 5)
    with pytest.raises(ValueError, match="frames 0:99 asked of 'clip/007', which has 5"):
        store.read("clip/007", 0, 99)
    with pytest.raises(ValueError, match="holds no 'clip/9'"):
        store.read("clip/9")
    with pytest.raises(ValueError, match="no field 'maps'"):
        store.read("clip/007", fields=["maps"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8, torch.int16])
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    value = (torch.rand(4, 2, 3) * 100).to(dtype)
    with ShardWriter(tmp_path / "store", {}) as writer:
        writer.write("a", value=value[:, ::1])
    assert torch.equal(ShardStore(tmp_path / "store").read("a")["value"], value)


def test_only_asked_frames_are_read(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "store", {}) as writer:
        for n in range(8):
            writer.write(str(n), x=torch.full((64, 8192), n, dtype=torch.float32))  # 2 MB each
    counters = Path("/proc/self/io")
    store = ShardStore(tmp_path / "store")
    store.read("3", 0, 1)
    before = int(counters.read_text().split()[1])
    store.read("5", 7, 9)
    assert int(counters.read_text().split()[1]) - before < 2 * 8192 * 4 + 4096


def test_two_processes_make_the_same_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    # Even and odd clips: neither process writes a run of neighbours.
    workers = [context.Process(target=write, args=(tmp_path, range(p, 20, 2), p, 2)) for p in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with pytest.raises(ValueError, match="unfinished"):
        ShardStore(tmp_path)
    build_index(tmp_path)
    check(tmp_path, 20)


def test_resumes_with_another_number_of_processes(tmp_path: Path) -> None:
    write(tmp_path, range(1, 14, 2), part=1, parts=2)
    write(tmp_path, range(30))
    check(tmp_path, 30)


def slow_write(path: Path) -> None:
    with ShardWriter(path, HEADER, shard_bytes=400) as writer:
        for number in range(40):
            if f"clip/{number:03d}" not in writer.present:
                writer.write(f"clip/{number:03d}", **item(number))
                time.sleep(0.002)


@pytest.mark.slow
def test_kill_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(12):
        worker = context.Process(target=slow_write, args=(tmp_path,))
        worker.start()
        time.sleep(0.01 + 0.007 * attempt)
        os.kill(worker.pid, signal.SIGKILL)  # type: ignore[arg-type]
        worker.join()
    slow_write(tmp_path)
    check(tmp_path, 40)
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_error_keeps_the_complete_items(tmp_path: Path) -> None:
    def fail_after_one() -> None:
        with ShardWriter(tmp_path, HEADER) as writer:
            writer.write("clip/000", **item(0))
            raise RuntimeError("bad video")

    with pytest.raises(RuntimeError, match="bad video"):
        fail_after_one()
    with pytest.raises(ValueError, match=r"unfinished.*run the writing command again"):
        ShardStore(tmp_path)
    write(tmp_path, range(3))
    check(tmp_path, 3)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    other = {"checkpoint": "abc", "settings": {"stride": 1, "size": [5, 7]}}
    with pytest.raises(ValueError, match=r"settings\.stride is 3, now 1"):
        ShardWriter(tmp_path, other)
    stranger = tmp_path / "other"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not empty and holds no cache"):
        ShardWriter(stranger, HEADER)


def test_items_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, HEADER)
    writer.write("a", **item(0))
    with pytest.raises(ValueError, match="already"):
        writer.write("a", **item(0))
    with pytest.raises(ValueError, match="has fields"):
        writer.write("b", slots=torch.zeros(2, 3, 6))
    with pytest.raises(ValueError, match="number of frames"):
        writer.write("b", **{**item(0), "ids": torch.arange(9)})


def test_one_key_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    save_shard(tmp_path / "shard-0007-00000.safetensors", ["clip/001"], [5], item(3))
    with pytest.raises(ValueError, match=r"'clip/001' is in both .*shard-0000.* and .*shard-0007"):
        build_index(tmp_path)


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    write(tmp_path, range(10))
    victim = shard_files(tmp_path)[1]
    content = victim.read_bytes()

    flipped = bytearray(content)
    flipped[-200] ^= 4
    victim.write_bytes(flipped)
    with pytest.raises(ValueError, match=f"{victim.name} is damaged .*checksum.*run the writing command again"):
        ShardStore(tmp_path).verify()

    victim.write_bytes(content[:-40])
    with pytest.raises(ValueError, match=f"{victim.name} has .* bytes instead of"):
        ShardStore(tmp_path)

    victim.unlink()
    with pytest.raises(ValueError, match=f"{victim.name} is missing; delete that file and run"):
        ShardStore(tmp_path)
    write(tmp_path, range(10))  # the remedy that the message names
    check(tmp_path, 10)


@pytest.mark.parametrize("content", [b"", b"123", b"\xff" * 64, (8).to_bytes(8, "little") + b"[1, 2, 3"])
def test_a_file_that_is_no_shard(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, range(2))
    shard_files(tmp_path)[0].write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-0000-00000.safetensors is damaged"):
        build_index(tmp_path)


def test_headers_of_other_versions(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    file = tmp_path / "header.json"
    file.write_text(json.dumps({"format": 99, "header": {}}))
    with pytest.raises(ValueError, match="format 99"):
        ShardStore(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"header\.json is damaged"):
        ShardStore(tmp_path)
    with pytest.raises(ValueError, match="holds no cache"):
        ShardStore(tmp_path / "nowhere")


def test_travels_to_workers(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    original = ShardStore(tmp_path)
    assert original.__getstate__() == {"path": tmp_path}  # a worker process is sent no index and no open file
    store = copy.deepcopy(original)
    assert store.read("clip/003")["ids"].tolist() == item(3)["ids"].tolist()


@pytest.mark.slow
def test_a_million_items_open_at_once(tmp_path: Path) -> None:
    count = 1_000_000
    with ShardWriter(tmp_path, {}):
        keys = [f"physion/scenario/{n:07d}" for n in range(count)]
        save_shard(tmp_path / "shard-0000-00000.safetensors", keys, [1] * count, {"x": torch.arange(count)})
    del keys

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before, start = resident(), time.perf_counter()
    store = ShardStore(tmp_path)
    assert len(store) == count
    assert time.perf_counter() - start < 1
    chosen = np.random.default_rng(0).integers(0, count, 1000)
    for n in chosen.tolist():
        assert store.read(f"physion/scenario/{n:07d}")["x"].item() == n
    assert time.perf_counter() - start < 3
    assert resident() - before < 4096  # kB
