"""Curves of several methods in one picture show the numbers of their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imread
from matplotlib import pyplot
from test_script_options import run, sentence

from slotformer.report import plot_methods, write_csv


def errors(scale: float) -> list[dict[str, float]]:
    return [
        {"step": step, "oracle": float("nan")}
        | {f"{name}{end}": scale * step + shift for name in ("model", "model_relative") for end, shift in ENDS.items()}
        for step in (1, 2, 3)
    ]


ENDS = {"": 0.0, "_low": -0.1, "_high": 0.2}
KINDS = (("observed", 0, 0.6), ("predicted", 2, 0.65), ("predicted", 5, 0.7), ("full", 5, 0.8))


def accuracies(gain: float) -> list[dict[str, object]]:
    return [
        {"readout": form, "kind": kind, "predicted_frames": frames, "scenario": scenario}
        | {"accuracy": value + gain + more, "low": value - 0.1, "high": value + 0.1}
        for form, more in (("places", 0.0), ("roles", 0.05))
        for kind, frames, value in KINDS
        for scenario in ("drop", "all")
    ]


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    plot_methods(tmp_path / "x.png", {"a": errors(1.0), "b": errors(2.0)}, {"b": accuracies(0.1), "c": accuracies(0.0)})
    monkeypatch.undo()
    yield figures[0]
    pyplot.close(figures[0])


def test_lines_are_the_numbers_of_each_method(drawn) -> None:
    left, middle, right = drawn.axes
    for axes in (left, middle):
        assert [line.get_label() for line in axes.lines] == ["a", "b"]
        assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 2, 3], [2, 4, 6]]
    curves = [line for line in right.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in curves] == ["b", "c"]
    assert [line.get_xdata().tolist() for line in curves] == [[0, 2, 5]] * 2
    np.testing.assert_allclose([line.get_ydata() for line in curves], [[0.7, 0.75, 0.8], [0.6, 0.65, 0.7]])
    full = [line for line in right.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose([line.get_ydata()[0] for line in full], [0.9, 0.8])
    assert left.lines[1].get_color() == curves[0].get_color() == full[0].get_color()
    assert len({line.get_color() for line in [*left.lines, curves[1]]}) == 3  # one colour a method


def test_the_script_reads_what_rollout_and_reason_wrote(tmp_path: Path) -> None:
    for name, scale in (("dias", 1.0), ("rival", 2.0)):
        write_csv(tmp_path / name / "rollout/rollout_error.csv", errors(scale))
        write_csv(tmp_path / name / "reason/accuracy.csv", accuracies(scale / 10))
    wide, narrow = tmp_path / "new/wide.png", tmp_path / "narrow.png"
    both = [f"{name}:[{tmp_path}/{name}/rollout,{tmp_path}/{name}/reason]" for name in ("dias", "rival")]
    assert run("curves", f"methods={{{','.join(both)}}}", f"path={wide}") == (0, f"{wide}\n")
    code, output = run("curves", f"methods={{dias:{tmp_path}/dias/reason}}", f"path={narrow}")
    assert (code, output) == (0, f"{narrow}\n")
    assert imread(wide).shape[1] == 3 * imread(narrow).shape[1]
    wrong = {
        (f"methods={{dias:{tmp_path}/dias}}", f"path={wide}"): "holds neither rollout_error.csv nor accuracy.csv",
        (
            f"methods={{dias:[{tmp_path}/dias/reason,{tmp_path}/rival/reason]}}",
            f"path={wide}",
        ): "is the second accuracy.csv",
        (f"methods={{dias:{tmp_path}/dias/reason}}", "path=x.gif"): "path=x.gif must end in .png",
        ("methods=dias", f"path={wide}"): "methods must be a group",
        (f"path={wide}",): "methods is missing",
    }
    for words, why in wrong.items():
        code, output = run("curves", *words)
        assert code == 1
        assert why in sentence(output)
