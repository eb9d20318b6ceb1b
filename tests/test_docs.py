"""README and docs: commands compose, Python runs, errors are the program's own, links lead somewhere.

The notebook's commands belong to the commits that they name, so they are not looked at.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from data_files import write_clip
from data_layouts import composed, davis, opened
from omegaconf import OmegaConf
from safetensors.torch import save_file

from dias_video.data.simulated import SimulatedVideos
from dias_video.data.transforms import ClipTransform
from slotformer import cache_slots

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *(page for page in DOCS if page.name != "notebook.md")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "python", "text", "bibtex"}
PROGRAMS = ("python", "accelerate", "pip", "uv", "make")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def typed(page: Path, folder: Path) -> list[list[str]]:
    """The commands that bash makes of all blocks of a page, one after the other, with nothing behind them."""
    log, stubs = folder / "typed", folder / "bin"
    stubs.mkdir()
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    (folder / ".venv/bin/activate").touch()
    for program in PROGRAMS:
        stub = stubs / program
        stub.write_text(f"#!/bin/sh\nprintf '%s\\0' {program} \"$@\" >> '{log}'\nprintf '\\0' >> '{log}'\n")
        stub.chmod(0o755)
    script = "\n".join(["set -eu", *blocks(page, "bash")])
    bash = ["/bin/bash", "--noprofile", "--norc", "-c", script]
    done = subprocess.run(bash, cwd=folder, env={"PATH": str(stubs)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [one.split("\0") for one in log.read_text().removesuffix("\0\0").split("\0\0")] if log.exists() else []


def of_script(words: list[str]) -> tuple[str, list[str]]:
    """The script that ``python`` or ``accelerate launch`` starts, and its own words."""
    if words[0] == "accelerate":
        assert words[1] == "launch"
        launched = launch_command_parser().parse_args(words[2:])
        words = ["python", launched.training_script, *launched.training_script_args]
    folder, _, file = words[1].rpartition("/")
    assert (folder, (ROOT / words[1]).is_file()) == ("scripts", True), words
    own = words[2:]
    if {"-m", "--multirun"} & set(own):  # the first run of a sweep
        own = [re.sub(r"^(seed=\d+),[\d,]+$", r"\1", word) for word in own if word not in ("-m", "--multirun")]
    return file.removesuffix(".py"), own


class Composed(Exception):
    """Raised where the work would begin."""


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script with its words up to where the work begins: options composed, and of the kinds that are asked for."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import _main

    configs: list[Any] = []

    def stop(*_: Any) -> None:
        raise Composed

    def watched(config: Any, typed_options: Any = _main.typed_options) -> Iterator[tuple[str, Any]]:
        configs.append(config)
        return typed_options(config)

    monkeypatch.setattr(_main, "typed_options", watched)
    monkeypatch.setattr(_main, "_set_up", stop)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # some commands are for a GPU

    def run(name: str, words: list[str]) -> Any:
        import runpy

        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        with pytest.raises(Composed):
            runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name="__main__")
        return configs[-1]

    return run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_composed(page: Path, tmp_path: Path, compose: Any, capsys: Any) -> None:
    for words in typed(page, tmp_path):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif words[0] not in ("pip", "uv"):
            name, own = of_script(words)
            try:
                config = compose(name, own)
            except SystemExit:
                pytest.fail(f"{' '.join(words)}\n{capsys.readouterr().err}")
            assert OmegaConf.missing_keys(config) == set(), words
            if name == "compare":  # what its rows are trained and scored with
                compose("train_video", [f"experiment=rows/{config.rows[0]}", f"data.root={config.root}", *config.train])
                compose("evaluate", [f"data.root={config.root}", *config.evaluate])


def test_the_command_for_movi_d_on_four_gpus(tmp_path: Path, compose: Any) -> None:
    """The one that README has: the paper's settings, and a batch that four processes can share."""
    (words,) = [one for one in typed(ROOT / "README.md", tmp_path) if "--num_processes" in one]
    launched = launch_command_parser().parse_args(words[2:])
    assert (launched.multi_gpu, launched.num_processes) == (True, 4)
    config = compose(*of_script(words))
    assert (config.sizes.num_slots, config.max_steps, config.trainer.batch_size % 4) == (21, 50000, 0)


def test_bash_makes_the_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nX='a=b  c=\"d e\"'\nfor i in 1 2; do\n    python s.py $X \\\n  i=$i # why\ndone\n```\n")
    assert typed(page, tmp_path) == [["python", "s.py", "a=b", 'c="d', 'e"', f"i={i}"] for i in (1, 2)]
    page.write_text("```bash\npython s.py $UNSET\n```\n")
    shutil.rmtree(tmp_path / "bin")
    with pytest.raises(AssertionError, match="UNSET"):
        typed(page, tmp_path)


def test_blocks_say_what_they_are() -> None:
    kinds = {kind for page in PAGES for kind, _ in BLOCK.findall(page.read_text())}
    assert {"bash", "python"} <= kinds <= LANGUAGES
    for page in PAGES:
        assert len(re.findall(r"^```", page.read_text(), re.MULTILINE)) == 2 * len(BLOCK.findall(page.read_text()))


def check_links(page: Path) -> None:
    """Every link of ``page`` leads to a file, and to a heading of it if it names one."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match("https?://", link):
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), (page, link)
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], (
                page,
                link,
            )


def test_links_of_the_notebook_and_the_lists_lead_somewhere() -> None:
    for page in (ROOT / "docs/notebook.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"):
        check_links(page)


def test_pages_are_short_and_links_lead_somewhere() -> None:
    assert len(PAGES) > 12
    for page in PAGES:
        text = page.read_text()
        assert len(text.splitlines()) <= 200, page
        check_links(page)
        for kept in re.findall(
            r"`((?:results|docs|tests|configs|dias_video|slotformer|scripts|benchmarks)/[\w./-]+)`", text
        ):
            assert (ROOT / kept).exists(), (page, kept)


def test_the_site_has_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(file for entry in nav for file in entry.values()) == [page.name for page in DOCS]


def said(node: ast.AST) -> str:
    """A text of the source, with … for what is only known when it is said."""
    if isinstance(node, ast.JoinedStr):
        return "".join(said(value) for value in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def test_errors_of_the_docs_are_the_programs_own() -> None:
    files = [file for room in ("dias_video", "slotformer", "scripts") for file in (ROOT / room).rglob("*.py")]
    texts = {said(node) for file in files for node in ast.walk(ast.parse(file.read_text()))
             if isinstance(node, (ast.JoinedStr, ast.Constant))}  # fmt: skip
    sentences = re.findall(r"^> (.+)$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(set(sentences)) >= 20
    for sentence in sentences:
        assert len(sentence.replace("…", "")) > 10
        assert any(sentence in text for text in texts), sentence


def world(folder: Path) -> None:
    """The folder in which README's and the docs' blocks are tried: the checkout, and what the blocks say is there."""
    for name in ("dias_video", "scripts", "configs"):
        (folder / name).symlink_to(ROOT / name)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    world(tmp_path)
    if page.stem == "tracking":
        write_clip(tmp_path / "any", 3)
        vit = timm.create_model("vit_small_patch14_dinov2.lvd142m")  # random weights
        save_file(vit.state_dict(), tmp_path / "dinov2_vits14.safetensors")
    if page.stem == "world_model":
        write_clip(tmp_path / "data/contact/test/00000", 34, (40, 160), label=1)
        source = SimulatedVideos(str(tmp_path / "data"), "contact/test")
        square = ClipTransform((128, 128), square=True)  # as the page's cache_slots.py makes them
        cache_slots(
            checkpoint="dias_video/assets/dias", source=source, cache="runs/slots/test", transform=square, device="cpu"
        )
    for number, block in enumerate(blocks(page, "python")):
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        runpy.run_path(str(file))


def own_video(folder: Path) -> list[str]:
    write_clip(folder / "path/to/any", 5)
    return ["runs/mine/any/tracks.npz", "runs/mine/any/overlay.mp4", "runs/mine/report.html", "runs/small/report.html"]


def masks_of_another_program(folder: Path) -> list[str]:
    davis(folder / "path/to/DAVIS")
    source = opened(composed("data=davis", f"data.root={folder}/path/to/DAVIS"), "eval")
    for index in range(len(source)):
        sample = source.read(index, range(source.info(index).num_frames))
        file = folder / f"path/to/maps/{sample['video_id']}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, sample["masks"].numpy())
    return ["runs/other/metrics.json", "runs/other/videos.csv"]


FETCHING = '*track.py*) set -- "$@" encoder.weights=random ;;'  # instead of weights from the network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "prepare"), [("Your own video", own_video), ("Score another program's masks", masks_of_another_program)]
)
def test_blocks_of_seconds_run(title: str, prepare: Any, tmp_path: Path) -> None:
    """As they are pasted; ``python`` is this one."""
    world(tmp_path)
    written = prepare(tmp_path)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\ncase "$*" in *checkpoint=*) ;; {FETCHING} esac\nexec \'{sys.executable}\' "$@"\n')
    python.chmod(0o755)
    section = (ROOT / "README.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    ((_, block),) = BLOCK.findall(section)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["/bin/bash", "-eu", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in written if not (tmp_path / name).is_file()] == []
