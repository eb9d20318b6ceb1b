"""Writes tables and curves as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dias_video.stores.files import replace_file, write_rows

LABELS = {
    "model": "SlotFormer",
    "repeat_last": "repeat the last frame",
    "constant_velocity": "constant velocity",
    "oracle": "oracle: the future, encoded anew",
}
COLOURS = {"model": "tab:blue", "repeat_last": "tab:gray", "constant_velocity": "tab:orange", "oracle": "tab:green"}
Row = Mapping[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a table (``write_rows``) whose numbers have six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows])


def plot_errors(path: Path, rows: Sequence[Row], stride: int) -> None:
    """Draw normalised error, and error relative to repeating the last frame, over predicted steps with intervals."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    steps = [row["step"] for row in rows]
    for name in [name for name in LABELS if name in rows[0]]:
        _curve(left, steps, rows, name, LABELS[name], COLOURS[name])
        if name != "repeat_last":
            _curve(right, steps, rows, f"{name}_relative", LABELS[name], COLOURS[name])
    right.axhline(1, color=COLOURS["repeat_last"], linewidth=1)
    # Errors of constant velocity can be larger by orders of magnitude, so they don't set the scale.
    highest = np.nanmax([1e-9, *(row[name] for row in rows for name in ("model_high", "repeat_last_high"))])
    left.set(ylabel="squared error / squared norm", title="slots", ylim=(0, 1.3 * highest))
    ratio = np.nanmax([1.0, *(row["model_relative_high"] for row in rows)])
    right.set(ylabel="error / error of repeating the last frame", title="relative", ylim=(0, 1.3 * ratio))
    for axes in (left, right):
        axes.set_xlabel(f"predicted step ({stride} frame{'s' if stride > 1 else ''} each)")
        axes.grid(alpha=0.3)
    left.legend()
    _save(figure, path)


def plot_accuracy(path: Path, rows: Sequence[Row], stride: int) -> None:
    """Draw accuracy over predicted frames, with a panel for every form of readout and people's accuracy in each."""
    forms = list(dict.fromkeys(row["readout"] for row in rows if row["kind"] != "human"))
    figure, panels = pyplot.subplots(
        1, len(forms), figsize=(7 * len(forms), 4.5), squeeze=False, sharey=True, layout="constrained"
    )
    for axes, form in zip(panels[0], forms, strict=True):
        _accuracy(axes, [row for row in rows if row["kind"] == "human" or row["readout"] == form])
        axes.set(xlabel=f"predicted frames ({stride} raw each)", title=f"will they touch? readout: {form}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=2)
    panels[0, 0].set_ylabel("accuracy on test")
    _save(figure, path)


def plot_methods(path: Path, errors: Mapping[str, Sequence[Row]], accuracies: Mapping[str, Sequence[Row]]) -> None:
    """Draw methods in different colours: errors, errors relative to repeating the last frame, accuracies.

    Args:
        path: the file of the picture.
        errors: by method, rows of ``rollout_error.csv``.
        accuracies: by method, rows of ``accuracy.csv`` of all scenarios together and one form of readout.
    """
    titles = ["squared error / squared norm", "error / error of repeating the last frame"] if errors else []
    titles += ["accuracy on test (dashed: full video)"] if accuracies else []
    figure, panels = pyplot.subplots(1, len(titles), figsize=(5 * len(titles), 4), squeeze=False, layout="constrained")
    names = list(dict.fromkeys([*errors, *accuracies]))
    palette = pyplot.get_cmap("tab10") if len(names) <= 10 else pyplot.get_cmap("turbo", len(names))
    colours = {name: palette(at) for at, name in enumerate(names)}
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set(ylabel=title, xlabel="predicted steps")
        axes.grid(alpha=0.3)
    for name, rows in errors.items():
        for axes, measure in zip(panels[0], ("model", "model_relative"), strict=False):
            _curve(axes, [row["step"] for row in rows], rows, measure, name, colours[name])
    for name, rows in accuracies.items():
        axes = panels[0, -1]
        points = [row for row in rows if row["kind"] in ("observed", "predicted")]
        curve = [{"accuracy": r["accuracy"], "accuracy_low": r["low"], "accuracy_high": r["high"]} for r in points]
        _curve(axes, [row["predicted_frames"] for row in points], curve, "accuracy", name, colours[name])
        for row in [row for row in rows if row["kind"] == "full"]:
            axes.axhline(row["accuracy"], linestyle="--", color=colours[name], linewidth=1)
    handles = [Line2D([], [], color=colours[name], label=name) for name in names]
    figure.legend(handles=handles, labels=names, loc="outside upper center", ncols=min(len(names), 4), frameon=False)
    _save(figure, path)


def accuracy_line(row: Row) -> str:
    """A row of the accuracies for the terminal."""
    place = f"{row.get('readout', ''):>9} {row['kind']:>9} {row['predicted_frames']:>3} frames"
    text = f"{place}: accuracy {row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    if "minus_observed" in row:
        interval = f"[{row['minus_observed_low']:+.3f}, {row['minus_observed_high']:+.3f}]"
        text += f", minus observed {row['minus_observed']:+.3f} {interval}"
    return text


def _accuracy(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the curves of scenarios, that of all with its interval, and the observed and full readouts."""
    for name in [*sorted({row["scenario"] for row in rows} - {"all"}), "all"]:
        own = [r for r in rows if r["scenario"] == name and r["kind"] in ("observed", "predicted")]
        bold = name == "all"
        frames = [r["predicted_frames"] for r in own]
        (line,) = axes.plot(
            frames, [r["accuracy"] for r in own], "o-", label=name, linewidth=3 if bold else 1, alpha=1 if bold else 0.6
        )
        if bold:
            low, high = [r["low"] for r in own], [r["high"] for r in own]
            axes.fill_between(frames, low, high, color=line.get_color(), alpha=0.2)
            axes.axhline(own[0]["accuracy"], linestyle=":", color="black", linewidth=1, label="observed only")
    for kind, label, style, colour in (("full", "full video", "--", "black"), ("human", "people", "-.", "tab:red")):
        for row in rows:
            if row["kind"] == kind and row["scenario"] == "all":
                axes.axhline(row["accuracy"], linestyle=style, color=colour, linewidth=1, label=label)
    axes.axhline(0.5, color="tab:gray", linewidth=1)


def _curve(axes: Axes, steps: Sequence[float], rows: Sequence[Row], name: str, label: str, colour: Any) -> None:
    axes.plot(steps, [row[name] for row in rows], label=label, color=colour)
    low, high = [row[f"{name}_low"] for row in rows], [row[f"{name}_high"] for row in rows]
    axes.fill_between(steps, low, high, color=colour, alpha=0.2)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda aside: figure.savefig(aside, format="png", dpi=120))
    pyplot.close(figure)
