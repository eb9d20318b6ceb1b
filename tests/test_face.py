"""The public face: names at the top of both packages, loaded when asked for; functions that take what scripts take."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import dias_video
import slotformer
from dias_video.auto.run import track_files
from dias_video.auto.track import Tracker
from dias_video.evaluation.life import life
from dias_video.evaluation.probe import probe
from slotformer.contact.probing import probe_contact
from slotformer.contact.settings import ReadoutSettings
from slotformer.fill import cache_states
from slotformer.surprise import surprise

ROOT = Path(__file__).parents[1]
# Scripts, the function that each calls, and what the function is given instead of the config's groups.
FUNCTIONS: dict[str, tuple[Callable[..., Any], set[str], set[str]]] = {
    "evaluate": (dias_video.evaluate, {"source", "transform", "encoder"}, {"data"}),
    "track": (track_files, {"encoder"}, set()),
    "probe": (probe, {"train", "test", "transform"}, {"data"}),
    "life": (life, {"videos", "transform"}, {"data"}),
    "cache_slots": (slotformer.cache_slots, {"source", "transform"}, {"data", "split", "export"}),
    "cache_states": (cache_states, {"source"}, {"data", "split"}),
    "rollout": (slotformer.predict, {"data"}, {"export", "data"}),
    "reason": (slotformer.reason, set(), set()),
    "surprise": (surprise, set(), set()),
    "probe_contact": (
        probe_contact,
        {"train", "test", "features"},
        {"data", "model", "representation", "checkpoint", "dynamics", "seed"},
    ),
}


@pytest.mark.parametrize("package", ["dias_video", "slotformer"])
def test_a_package_loads_nothing_until_it_is_asked(package: str) -> None:
    code = f"import sys, {package}; print([m for m in ('torch', 'numpy', 'timm', 'accelerate') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_models_load_no_encoder_that_they_do_not_need() -> None:
    code = "import sys; from dias_video import DIAS; DIAS.shipped(); print({'timm', 'kornia'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_simulating_loads_no_torch() -> None:
    """Every one of its processes would load it first, for seconds, and not use it."""
    code = "import sys; sys.path.append('scripts'); import simulate; print({'torch', 'hydra'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "{'hydra'}\n"


@pytest.mark.parametrize("package", [dias_video, slotformer])
def test_every_name_is_what_its_file_defines(package: Any) -> None:
    assert set(package.__all__) == set(package._PLACES) <= set(dir(package))
    for name, place in package._PLACES.items():
        found = getattr(package, name)
        assert found is getattr(importlib.import_module(place), name)
        assert found.__module__ == place
        assert found.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("package", ["dias_video", "slotformer"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("script", list(FUNCTIONS))
def test_a_function_takes_what_its_script_takes(script: str) -> None:
    """Names and defaults; every argument by name alone."""
    function, objects, groups = FUNCTIONS[script]
    stated = yaml.safe_load((ROOT / f"configs/{script}.yaml").read_text())
    options = {name: value for name, value in stated.items() if name != "defaults" and name not in groups}
    parameters = dict(inspect.signature(function).parameters)
    if parameters.pop("options", None):  # are handed on
        parameters |= inspect.signature(Tracker).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert set(parameters) - objects == set(options)
    for name, value in options.items():
        default = parameters[name].default
        if value == "???":
            assert default is inspect.Parameter.empty
        elif (script, name) == ("reason", "readout"):
            assert {**asdict(ReadoutSettings()), **value} == asdict(ReadoutSettings())
        else:
            assert (list(default) if isinstance(default, tuple) else default) == value, name
