"""Curves of several methods in one picture show the numbers of their files."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imread
from matplotlib import pyplot
from omegaconf import OmegaConf
from test_script_options import ROOT, run, sentence

from slotformer.report import write_csv

ENDS = {"": 0.0, "_low": -0.1, "_high": 0.2}
KINDS = (("observed", 0, 0.6), ("predicted", 2, 0.65), ("predicted", 5, 0.7), ("full", 5, 0.8))


def errors(scale: float) -> list[dict[str, float]]:
    return [
        {"step": step, "oracle": float("nan")}
        | {f"{name}{end}": scale * step + shift for name in ("model", "model_relative") for end, shift in ENDS.items()}
        for step in (1, 2, 3)
    ]


def accuracies(gain: float, forms: tuple[str, ...] = ("places", "roles")) -> list[dict[str, object]]:
    rows = [
        {"readout": form, "kind": kind, "predicted_frames": frames, "scenario": scenario}
        | {"accuracy": value + gain + more, "low": value - 0.1, "high": value + 0.1}
        for more, form in enumerate(forms)
        for kind, frames, value in KINDS
        for scenario in ("drop", "all")
    ]
    people = {"readout": "", "kind": "human", "predicted_frames": "", "scenario": "all", "accuracy": 0.9}
    return [*rows, people | {"low": "", "high": ""}]


def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch, methods: dict[str, list[str]]):
    """The figure that scripts/curves.py makes of folders below ``folder``."""
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import curves

    named = {name: [f"{folder}/{one}" for one in folders] for name, folders in methods.items()}
    cfg = OmegaConf.create({"methods": named, "path": f"{folder}/new/x.png"})
    inspect.unwrap(curves.main)(cfg, cfg.methods, overwrite=True)
    monkeypatch.undo()
    (figure,) = figures
    return figure


def test_lines_are_the_numbers_of_each_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path / "a/rollout_error.csv", errors(1.0))
    write_csv(tmp_path / "b/rollout/rollout_error.csv", errors(2.0))
    write_csv(tmp_path / "b/reason/accuracy.csv", accuracies(0.1, ("roles", "places")))
    write_csv(tmp_path / "c/accuracy.csv", accuracies(0.0, ("places",)))
    figure = drawn(tmp_path, monkeypatch, {"a": ["a"], "_b": ["b/rollout", "b/reason"], "c": ["c"]})
    left, middle, right = figure.axes
    for axes in (left, middle):
        assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 2, 3], [2, 4, 6]]
        band = axes.collections[1].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == pytest.approx((1.9, 6.2))
    curves = [line for line in right.lines if line.get_linestyle() == "-"]
    assert [line.get_xdata().tolist() for line in curves] == [[0, 2, 5]] * 2
    # the form of readout that both have: the second of one, the only one of the other
    np.testing.assert_allclose([line.get_ydata() for line in curves], [[1.7, 1.75, 1.8], [0.6, 0.65, 0.7]])
    band = right.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.5, 0.8))
    full = [line for line in right.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose([line.get_ydata()[0] for line in full], [1.9, 0.8])
    assert left.lines[1].get_color() == curves[0].get_color() == full[0].get_color()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "_b", "c"]
    colours = [line.get_color() for line in legend.get_lines()]
    assert colours == [left.lines[0].get_color(), left.lines[1].get_color(), curves[1].get_color()]
    assert len(set(colours)) == 3
    pyplot.close(figure)


def test_the_script_reads_what_rollout_and_reason_wrote(tmp_path: Path) -> None:
    for name, scale in (("dias", 1.0), ("rival", 2.0)):
        write_csv(tmp_path / name / "rollout/rollout_error.csv", errors(scale))
        write_csv(tmp_path / name / "reason/accuracy.csv", accuracies(scale / 10))
    wide, narrow = tmp_path / "new/wide.png", tmp_path / "narrow.png"
    both = [f"{name}:[{tmp_path}/{name}/rollout,{tmp_path}/{name}/reason]" for name in ("dias", "rival")]
    assert run("curves", f"methods={{{','.join(both)}}}", f"path={wide}") == (0, f"{wide}\n")
    assert run("curves", f"methods={{dias:{tmp_path}/dias/reason}}", f"path={narrow}") == (0, f"{narrow}\n")
    assert imread(wide).shape[1] == 3 * imread(narrow).shape[1]


BAD_FILES = {
    "empty": "",
    "header": "step,model\n",
    "text": "readout,kind,predicted_frames,accuracy,low,high\nplaces,full,2,abc,0,1\n",
    "cut": "readout,kind,predicted_frames,accuracy,low,high\nplaces,fu",
    "other": "a,b\n1,2\n",
}


@pytest.mark.parametrize(
    ("methods", "why"),
    [
        ("{a:{w}}", "holds neither rollout_error.csv nor accuracy.csv"),
        ("{a:[{w}/good,{w}/roles]}", "is the second accuracy.csv of one method"),
        ("{a:{w}/good,b:{w}/roles}", "no form of readout in common: places; roles"),
        ("{a:[]}", "methods.a must be a folder or a list of folders"),
        ("{a:null}", "methods.a must be a folder"),
        ("{a:[[{w}/good]]}", "methods.a must be a folder"),
        ("a", "methods must be a group"),
        ("{}", "methods must be a group"),
        *((f"{{b:{{w}}/good,a:{{w}}/{name}}}", f"{name}/accuracy.csv has no rows with readout") for name in BAD_FILES),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(methods: str, why: str, tmp_path: Path) -> None:
    for name, form in (("good", "places"), ("roles", "roles")):
        write_csv(tmp_path / f"{name}/accuracy.csv", accuracies(0.0, (form,)))
    for name, text in BAD_FILES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "accuracy.csv").write_text(text)
    code, output = run("curves", f"methods={methods.replace('{w}', str(tmp_path))}", f"path={tmp_path}/x.png")
    assert code == 1
    assert why in sentence(output)
    assert not list(tmp_path.glob("*x.png*"))


def test_the_picture_is_a_png_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "accuracy.csv", accuracies(0.0))
    (tmp_path / "folder.png").mkdir()
    for path in ("x.gif", f"{tmp_path}/folder.png"):
        code, output = run("curves", f"methods={{a:{tmp_path}}}", f"path={path}")
        assert code == 1
        assert sentence(output) == f"error: path={path} must be a file that ends in .png"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["accuracy.csv", "folder.png"]
