"""Whatever is read is data: nothing in it is run or fetched, and whatever is wrong with it is said in one sentence."""

from __future__ import annotations

import copy
import json
import os
import pickle
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Toy, train

from dias_video.data.features import FeatureCache
from dias_video.data.folder import FolderVideos
from dias_video.data.index import file_indices
from dias_video.data.problems import Problems
from dias_video.data.simulated import describe
from dias_video.engine import runlog
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.dias import DIAS
from dias_video.model.encoders import TimmEncoder
from dias_video.model.initializers import GaussianInitializer
from dias_video.model.projection import Projection
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.model.transition import Transition
from dias_video.pretrained.weights import weights_sha256
from dias_video.stores.store import ShardWriter
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.origin import CachedVideos, dias_of

ACTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "urllib.Request")
ACTS += ("socket.connect", "socket.getaddrinfo")
happened: list[str] | None = None  # what was run or fetched while a test watches


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if happened is not None and event in ACTS:
        happened.append(f"{event} {arguments}")


sys.addaudithook(_note)  # Python itself tells of it, by whatever way it comes


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that the planted code would write; sockets don't work, and nothing may be run or fetched."""
    global happened
    canary, happened = tmp_path / "canary", []

    def closed(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(runlog, "git_commit", lambda: None)  # which runs git
    monkeypatch.setattr(socket, "create_connection", closed)
    monkeypatch.setattr(socket.socket, "connect", closed)
    yield canary
    found, happened = happened, None
    assert found == []
    assert not canary.exists()


def attacks(canary: Path) -> list[Any]:
    """Values that would act if anything built, evaluated or fetched them."""
    touch, write = f"touch {canary}", {"self": {"_target_": "pathlib.Path", "_args_": [str(canary)]}, "data": "x"}
    return [
        {"_target_": "os.system", "_args_": [touch]},
        {"_target_": "pathlib.Path.write_text", **write},
        {"type": "os.system", "command": touch},
        {"type": "dias_video.data.index.os.system", "command": touch},
        {"type": "dias_video.model.encoders.TimmEncoder", "name": "vit_tiny_patch16_224", "weights": "hub"},
        {"type": "dias_video.model.encoders.TimmEncoder", "name": "hf-hub:someone/else", "weights": "random"},
        {"type": "dias_video.model.guide.Guide", "checkpoint": "hf-hub:someone/else"},
        {"type": "dias_video.model.tokenizers.tokenizer.frozen_tokenizer", "folder": "hf-hub:someone/else"},
        [{"type": "builtins.exec", "source": f"open({str(canary)!r}, 'w')"}],
        "hf-hub:someone/else",
        "https://example.com/x",
        f"$(touch {canary})",
    ]


WRONG = [None, True, -1, 0, 1.5, float("nan"), 10**400, "x", "../../x", "\udcff", [], [[]], {}, {"type": 3}, [None]]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside a json-like value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in inside for p in places(child, (*path, key)))] if path or inside else [path]


def changed(value: Any, path: tuple[Any, ...], new: Any, gone: bool = False) -> Any:
    """A copy with ``new`` at a place, or with nothing there."""
    if not path:
        return new
    value = copy.deepcopy(value)
    at = value
    for key in path[:-1]:
        at = at[key]
    if gone:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return value


# Each maker writes valid files under a folder and gives what reads them, and the files that hold json.
Made = tuple[Callable[[], object], list[Path]]


def model(folder: Path) -> Made:
    grid, width = (2, 3), 8
    encoder = TinyEncoder(4, width=8, depth=1, input_size=(16, 24))
    aggregator = Aggregator(SlotAttention(width, width), None, reinitialize=False)
    parts = (Projection(4, width), GaussianInitializer(3, width), aggregator, Transition(width, num_heads=2))
    DIAS(encoder, *parts, MLPDecoder(4, width, grid[0] * grid[1], hidden=7)).save_pretrained(folder)
    return lambda: DIAS.from_pretrained(folder), [folder / "config.json"]


def checkpoint(folder: Path) -> Made:
    last = train(folder / "run", max_steps=1)

    def resumed() -> None:
        for name in ("metrics.jsonl", "config.yaml", "run.json"):
            (folder / "run" / name).touch()
        train(folder / "run", resume=True, max_steps=1)

    return resumed, [last / "checksums.json"]


def slot_cache(folder: Path) -> Made:
    videos = FolderVideos(pictures(folder / "videos"))
    DIAS.shipped().save_pretrained(folder / "dias")
    made_by = {"checkpoint": str(folder / "dias"), "checkpoint_sha256": weights_sha256(folder / "dias")}
    with SlotCacheWriter(folder / "c", "fp32", ["roll"], data=videos.config, transform=None, **made_by) as writer:
        writer.write("one", torch.randn(3, 2, 4), torch.ones(3, 2, dtype=torch.bool), scenario="roll")

    def read() -> None:
        cache = SlotCache(folder / "c")
        assert (cache.slot_dim, cache.info("one").scenario is not None) == (4, True)
        cache.read("one")
        CachedVideos(cache).read("one", range(2))
        dias_of(cache)

    return read, [folder / "c/header.json"]


def feature_cache(folder: Path) -> Made:
    header = {"kind": "features", "encoder": "x", "grid": [2, 3], "size": [16, 24], "flips": False, "data": "y"}
    with ShardWriter(folder / "f", header) as writer:
        writer.write("one", features=torch.randn(3, 6, 4))

    def read() -> None:
        FeatureCache(folder / "f").read("one", [0, 2])

    return read, [folder / "f/header.json"]


def clip(folder: Path) -> Made:
    file = folder / "clips/one.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"num_frames": 3, "num_instances": 2, "label": 1.0, "scenario": "roll"}))

    def read() -> None:
        describe.cache_clear()
        describe(folder / "clips/one")

    return read, [file]


MAKERS = {f.__name__: f for f in (model, checkpoint, slot_cache, feature_cache, clip)}


def pictures(folder: Path) -> Path:
    from PIL import Image

    (folder / "one").mkdir(parents=True)
    for t in range(3):
        Image.new("RGB", (30, 20), (60 * t, 0, 0)).save(folder / f"one/{t}.png")
    return folder


def said(read: Callable[[], object], *, must: bool) -> None:
    """Read; an error must be a user's, in one line."""
    try:
        read()
        sentence = None
    except (ValueError, OSError) as error:
        sentence = str(error)
    assert sentence is not None or not must, "it was read"
    assert sentence is None or ("\n" not in sentence and len(sentence.split()) > 3), sentence


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_planted_anywhere_acts(tmp_path: Path, watch: Path, kind: str) -> None:
    read, files = MAKERS[kind](tmp_path)
    read()
    for file in files:
        stored = json.loads(file.read_text())
        for number, place in enumerate(places(stored)):
            for attack in attacks(watch)[number % 4 :: 4]:  # every place sees some, and each is seen at many
                file.write_text(json.dumps(changed(stored, place, attack)))
                said(read, must=False)
        file.write_text(json.dumps(stored))
    read()


@pytest.mark.parametrize("kind", MAKERS)
def test_whatever_is_wrong_is_one_sentence(tmp_path: Path, watch: Path, kind: str) -> None:
    read, files = MAKERS[kind](tmp_path)
    for file in files:
        content = file.read_bytes()
        stored = json.loads(content)
        for number, place in enumerate(places(stored)):
            for wrong in WRONG[number % 5 :: 5] if place else WRONG:
                file.write_text(json.dumps(changed(stored, place, wrong)))
                said(read, must=not place)
            if place:
                file.write_text(json.dumps(changed(stored, place, None, gone=True)))
                said(read, must=False)
        deep = b"[" * 100_000 + b"]" * 100_000
        for broken in (b"", b"{", content[:-9], b"\xff\xfe\x00", b"null", b"[1]", deep, b'{"format": ' + deep + b"}"):
            file.write_bytes(broken)
            said(read, must=True)
        file.write_bytes(content)
    read()


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """The json at the beginning of a safetensors file, and the rest."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_safetensors(file: Path, header: Any, rest: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + rest)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "checkpoint", "slot_cache", "feature_cache"])
def test_wrong_tensors_are_one_sentence(tmp_path: Path, watch: Path, kind: str) -> None:
    read, _ = MAKERS[kind](tmp_path)
    files = [file for file in sorted(tmp_path.rglob("*.safetensors")) if file.parent.name != "dias"]
    assert files
    for file in files:
        content = file.read_bytes()
        header, rest = header_of(file)
        for number, place in enumerate(places(header)[1:50]):
            for wrong in (None, -1, 10**400, "x", [], {}, attacks(watch)[0])[number % 3 :: 3]:
                write_safetensors(file, changed(header, place, wrong), rest)
                said(read, must=False)
        for broken in (b"", content[:20], content[:-3], b"\x80\x04." + content, b"\xff" * 64):
            file.write_bytes(broken)
            said(read, must=True)
        if "index" in file.name:
            shards = json.loads(header["__metadata__"]["shards"])
            for name in ("../header.json", "/etc/passwd", "header.json", ["x"], 3):
                own = {**header["__metadata__"], "shards": json.dumps([[name, shards[0][1]]])}
                write_safetensors(file, {**header, "__metadata__": own}, rest)
                said(read, must=True)
        file.write_bytes(content)
    read()


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.jsonl"])
def test_run_files_are_data(tmp_path: Path, watch: Path, name: str) -> None:
    train(tmp_path / "run", max_steps=1)
    file = tmp_path / "run" / name
    evil = f"!!python/object/apply:os.system ['touch {watch}']"
    deep = "[" * 3000 + "]" * 3000
    for broken in (evil.encode(), b"\xff\xfe", b"[1]", b"3", deep.encode(), f'{{"step": "{evil}"}}\n'.encode(), b"{"):
        file.write_bytes(broken)
        said(lambda: train(tmp_path / "run", resume=True, max_steps=1), must=False)


def test_a_trainer_state_is_checked(tmp_path: Path, watch: Path) -> None:
    from dias_video.engine.checkpoint import Checkpoints
    from dias_video.engine.state import TrainingState

    toy = Toy()
    state = TrainingState(toy, torch.optim.Adam(toy.net.parameters()), None, None)
    folder = Checkpoints(tmp_path, keep=1).save(1, toy.save_pretrained, {}, {}, state.plain())
    stored = json.loads((folder / "trainer.json").read_text())
    state.load(folder)
    for name in ("step", "best", "best_step", "skipped", "flops"):
        for wrong in ("x", [], {}, True if name == "step" else "3"):
            (folder / "trainer.json").write_text(json.dumps({**stored, name: wrong}))
            with pytest.raises(ValueError, match="can't be resumed from"):
                state.load(folder)


def test_an_index_of_a_downloaded_data_folder_is_made_again(tmp_path: Path, watch: Path) -> None:
    """Indexes lie beside the data, so they come along with it."""
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"x")
    built: list[Path] = []

    def build(path: Path) -> dict[str, Any]:
        built.append(path)
        return {"times": torch.arange(4).numpy()}

    def made() -> dict[str, Any]:
        return file_indices(tmp_path, "videos", ["times"], [file], build, Problems("raise"))[file]

    made()
    made()
    assert len(built) == 1
    index = next(tmp_path.rglob(".dias_index/*.safetensors"))
    header, rest = header_of(index)
    facts = json.loads(header["__metadata__"]["facts"])
    for number, place in enumerate(places(facts)):
        for wrong in (*WRONG, *attacks(watch))[number % 3 :: 3]:
            text = json.dumps(changed(facts, place, wrong))
            write_safetensors(index, {**header, "__metadata__": {**header["__metadata__"], "facts": text}}, rest)
            said(made, must=False)
    for broken in (b"", b"\x80\x04.", index.read_bytes()[:-3]):
        index.write_bytes(broken)
        assert made()["times"].tolist() == [0, 1, 2, 3]


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_pickled_weights_are_refused_with_the_remedy(tmp_path: Path, watch: Path, how: str) -> None:
    global happened
    file = tmp_path / "backbone.pth"
    with file.open("wb") as opened:
        pickle.dump(Evil(watch), opened) if how == "pickle" else torch.save({"w": Evil(watch)}, opened)
    message = r"backbone\.pth is no safetensors file.* scripts/convert_checkpoint\.py file=.*backbone\.pth out_dir="
    with pytest.raises(ValueError, match=message):
        TimmEncoder("vit_tiny_patch16_224", weights=str(file), input_size=(32, 48))
    renamed = file.rename(tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match="timm cannot make"):
        TimmEncoder("vit_tiny_patch16_224", weights=str(renamed), input_size=(32, 48))


@pytest.mark.slow
def test_a_pickled_backbone_of_plain_weights_is_converted(tmp_path: Path) -> None:
    from test_script_options import run

    name, size = "test_vit", (32, 48)
    vit = TimmEncoder(name, weights="random", input_size=size).vit
    torch.save({f"module.{key}": value for key, value in vit.state_dict().items()}, tmp_path / "backbone.pth")
    code, output = run("convert_checkpoint", f"file={tmp_path}/backbone.pth", f"out_dir={tmp_path}/out")
    assert code == 0, output
    encoder = TimmEncoder(name, weights=f"{tmp_path}/out/model.safetensors", input_size=size)
    assert all(torch.equal(value, encoder.vit.state_dict()[key]) for key, value in vit.state_dict().items())
    with (tmp_path / "evil.pth").open("wb") as opened:
        torch.save({"w": Evil(tmp_path / "canary")}, opened)
    code, output = run("convert_checkpoint", f"file={tmp_path}/evil.pth", f"out_dir={tmp_path}/evil")
    assert code == 1
    assert "holds more than plain weights" in output
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "evil").exists()
