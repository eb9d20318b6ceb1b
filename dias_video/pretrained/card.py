"""The model card of a model on the Hub: what the model is, and how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dias_video.stores.files import read_json, read_yaml

MADE_OF = ("data", "cache")  # names of the data in a run's configuration
NOT_TOLD = "Not told."


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that contains a checkpoint's folder; None if there is none."""
    run = checkpoint.resolve().parent.parent
    return run if (run / "run.json").is_file() and (run / "config.yaml").is_file() else None


def model_card(model: Any, repository: str, run: str | Path | None, metrics: str | Path | None, licence: str) -> str:
    """The text of ``README.md``; see ``Pretrained.push_to_hub``.

    Raises:
        ValueError: ``run`` or ``metrics`` can't be read; the message names the file.
    """
    started = {} if run is None else _read(Path(run) / "run.json")
    config = {} if run is None else _read(Path(run) / "config.yaml")
    scores = {} if metrics is None else _read(Path(metrics))
    count = sum(p.numel() for p in model.parameters())
    data = {name: config[name] for name in MADE_OF if name in config}
    parts = [
        f"---\nlicense: {licence}\nlibrary_name: dias-video\n---\n# {repository}",
        f"A `{model.config['type']}` of {count:,} parameters. `config.json` describes it; it is read by\n"
        f'`{type(model).__name__}.from_pretrained("hf-hub:{repository}")`.',
        f"## Data\n{_fenced(yaml.safe_dump(data, sort_keys=False), 'yaml') if data else NOT_TOLD}",
        f"## Command\n{_fenced(shlex.join(started['command'])) if 'command' in started else NOT_TOLD}",
        f"## Commit\n{started.get('git_commit') or NOT_TOLD}",
        f"## Results\n{_results(scores) if scores else NOT_TOLD}",
        f"## Licence\n{licence}",
    ]
    return "\n\n".join(parts) + "\n"


def _read(file: Path) -> dict[str, Any]:
    """The mapping in a file of a run."""
    remedy = "name the folder of a run, or a metrics.json"
    return read_json(file, remedy) if file.suffix == ".json" else read_yaml(file, remedy)


def _fenced(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip()}\n```"


def _results(scores: Mapping[str, Any]) -> str:
    """What was scored, and a table of the measures, from metrics.json."""
    about = scores.get("about", {})
    told = ", ".join(f"{key} {about[key]}" for key in ("source", "split", "videos", "condition") if key in about)
    rows = [f"| {name} | {value:.4g} |" for name, value in scores.items() if isinstance(value, (int, float))]
    return "\n".join([f"`metrics.json`: {told}.", "", "| measure | value |", "| --- | ---: |", *rows])
