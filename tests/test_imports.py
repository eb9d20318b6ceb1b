"""Which room may import which, checked on the source with ``ast``."""

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
    assert {"dias_video.model.dias", "dias_video.engine.loop", "slotformer.rollouter"} <= {name(f) for f in SOURCES}
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


# What stands below each room; a file of a room may import its own room and these, and nothing else of the project.
BASE = ("batch", "checks", "draws", "machine", "stores")
BELOW: dict[str, tuple[str, ...]] = {
    "__main__": (),
    "batch": (),
    "checks": (),
    "draws": (),
    "machine": (),
    "stores": (),
    "pretrained": BASE,
    "tracking": BASE,  # the loop knows no model; the model offers it as ``DIAS.track``
    "model": (*BASE, "pretrained", "tracking"),
    "engine": (*BASE, "pretrained"),
    "visualize": BASE,
    "report": (*BASE, "visualize"),
    "convert": (*BASE, "pretrained", "model"),
    "data": (*BASE, "pretrained", "visualize"),
    "simulate": (*BASE, "data"),
    "auto": (*BASE, "tracking", "model", "engine", "data", "visualize", "report"),
    "evaluation": (*BASE, "pretrained", "tracking", "model", "engine", "data", "visualize", "report", "auto"),
}


def room(module: str) -> str:
    """``data`` of ``dias_video.data.loading``."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("file", [f for f in SOURCES if room(name(f)) and name(f).startswith("dias_video")], ids=name)
def test_arrows_go_down_only(file: Path) -> None:
    own = room(name(file))
    allowed = [f"dias_video.{below}" for below in (own, *BELOW[own])]
    assert [m for m in local(file) if m != "dias_video" and not within(m, *allowed)] == []


@pytest.mark.parametrize("file", [f for f in SOURCES if name(f).startswith("dias_video")], ids=name)
def test_dias_video_does_not_know_slotformer(file: Path) -> None:
    assert [module for module in imports(file) if within(module, "slotformer")] == []


def test_no_package_hands_on_what_is_not_its_own() -> None:
    packages = [file for file in SOURCES if file.name == "__init__.py"]
    assert len(packages) > 8
    for file in packages:
        assert [module for module in local(file) if not within(module, name(file))] == [], file


@pytest.mark.parametrize("file", [*SOURCES, *SCRIPTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_names_come_from_the_file_that_defines_them(file: Path) -> None:
    """``from x import y``: x defines y, or is a package whose own face y belongs to."""
    by_name = {name(source): source for source in SOURCES}
    for node in ast.walk(ast.parse(file.read_text())):
        source = by_name.get(node.module or "") if isinstance(node, ast.ImportFrom) else None
        if source is not None and source.name != "__init__.py":
            assert isinstance(node, ast.ImportFrom)
            handed_on = {alias.asname or alias.name for n in ast.parse(source.read_text()).body
                         if isinstance(n, ast.ImportFrom) for alias in n.names}  # fmt: skip
            assert [alias.name for alias in node.names if alias.name in handed_on] == [], source


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
