"""Who may import whom (docs: the rules of the house), checked on the source with ``ast``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for room in ("dias_video", "slotformer") for p in (ROOT / room).rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
LOCAL = ("dias_video", "slotformer")
SCRIPTS_ONLY = ("hydra", "omegaconf", "argparse")


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth; ``from a import b`` gives both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, *rooms: str) -> bool:
    """Whether a module is one of ``rooms`` or lies in one."""
    return any(module == room or module.startswith(room + ".") for room in rooms)


def local(file: Path) -> list[str]:
    return [module for module in imports(file) if within(module, *LOCAL)]


def name(file: Path) -> str:
    """``dias_video.data.loading`` for its file."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_there_is_something_to_check() -> None:
    assert {"dias_video.model", "dias_video.engine.loop", "slotformer.rollouter"} <= {name(f) for f in SOURCES}
    assert ROOT / "scripts/train_video.py" in SCRIPTS


def test_the_walk_sees_every_form(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("import a.b as c\ndef f():\n    from d import e\nif True:\n    import g, h\n")
    assert set(imports(file)) == {"a.b", "d", "d.e", "g", "h"}
    assert within("a.b", "a")
    assert not within("ab", "a")


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_libraries_know_no_configuration_system(file: Path) -> None:
    assert [module for module in imports(file) if within(module, *SCRIPTS_ONLY)] == []


def test_batch_imports_nothing_local() -> None:
    assert local(ROOT / "dias_video/batch.py") == []


def test_the_model_knows_neither_data_nor_engine() -> None:
    """Neither itself nor through anything that it imports."""
    by_name = {name(file): file for file in SOURCES}
    seen, todo = set(), ["dias_video.model"]
    while todo:
        module = todo.pop()
        if module in by_name and module not in seen:
            seen.add(module)
            todo += local(by_name[module])
    assert len(seen) > 5
    assert [module for module in seen if within(module, "dias_video.data", "dias_video.engine")] == []


@pytest.mark.parametrize("file", [f for f in SOURCES if "engine" in f.parts], ids=name)
def test_the_engine_knows_no_model_and_no_data(file: Path) -> None:
    allowed = ("batch", "engine", "pretrained", "shards", "files")
    rooms = [f"dias_video.{room}" for room in allowed]
    assert [m for m in local(file) if m != "dias_video" and not within(m, *rooms)] == []


@pytest.mark.parametrize("file", [f for f in SOURCES if name(f).startswith("slotformer")], ids=name)
def test_slotformer_stands_on_batch_and_engine(file: Path) -> None:
    rooms = ("slotformer", "dias_video.batch", "dias_video.engine")
    assert [m for m in local(file) if m != "dias_video" and not within(m, *rooms)] == []


@pytest.mark.parametrize("file", [f for f in SOURCES if name(f).startswith("dias_video")], ids=name)
def test_dias_video_does_not_know_slotformer(file: Path) -> None:
    assert [module for module in imports(file) if within(module, "slotformer")] == []


@pytest.mark.parametrize("file", [*SOURCES, *SCRIPTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_no_pickle_no_eval(file: Path) -> None:
    assert [m for m in imports(file) if within(m, "pickle", "dill", "joblib", "cloudpickle", "shelve")] == []
    calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    assert [call.id for call in calls if isinstance(call, ast.Name) and call.id in ("eval", "exec")] == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 125


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_files_are_of_a_size_to_read(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
