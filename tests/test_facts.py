"""What is named after a paper is the paper's: every number of such an experiment against tests/facts.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

OWN = "${model.encoder}"  # of the experiment
CONFIGS = Path(__file__).parents[1] / "configs"
FACTS: dict[str, dict[str, list[Any]]] = yaml.load(Path(__file__).with_name("facts.yaml").read_text(), yaml.SafeLoader)
NEEDED = {  # options without a default
    "train_video": ["data.root=x", "out_dir=x"],
    "train_slotformer": ["cache=x", "out_dir=x"],
    "reason": ["dynamics=x", "readout_cache=x", "test_cache=x", "out_dir=x"],
    "evaluate": ["data.root=x", "out_dir=x"],
    "probe_contact": ["data.root=x", "out_dir=x"],
}
SETS = ("coco", "clevrtex", "voc", "movi_d", "ytvis", "physion", "physion_videosaur", "slotcontrast")
SETS += ("slate_original", "steve_original")
PAPERS = {f"train_video/{name}" for name in SETS}
PAPERS |= {f"{script}/{name}" for script in ("train_slotformer", "reason") for name in ("physion", "physion_dias")}
PAPERS |= {f"evaluate/{name}" for name in ("coco", "clevrtex", "voc", "movi_d", "ytvis")} | {"probe_contact/physion15"}
PAPERS |= {f"train_video/tokenizers/{name}" for name in ("vqvae", "vqvae4", "dvae", "vvo")}
IMAGES = (
    "dinosaur",
    "bo_qsa",
    "adaslot",
    "spot",
    "spot_teacher",
    "spot_finetuned",
    "slate",
    "vvo_tfd",
    "vvo_mlp",
    "dias_vvo",
    "slotdiffusion",
)
PAPERS |= {f"train_video/coco+{system}" for system in IMAGES} | {"train_video/movi_d+steve"}
PAPERS |= {f"train_video/ytvis+{system}" for system in ("videosaur", "slotcontrast", "solv")}


def as_numbers(value: Any) -> Any:
    """YAML reads 2e-4 as text, Hydra as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def settings(experiment: str) -> dict[str, Any]:
    """The composed configuration with the model's part replaced by all of its arguments, defaults included."""
    script, name = experiment.split("/", 1)
    name, _, system = name.partition("+")
    config = composed_of(script, [f"experiment/{script}={name}", *([f"system={system}"] if system else [])])
    composed: Any = OmegaConf.to_container(config, resolve=True)
    with torch.device("meta"):  # without values
        if "model" in config:
            guide = composed["model"].get("guide")  # is not stored
            composed["model"] |= instantiate(alone(config.model)).config | {"guide": guide}
        if "slotformer" in config:
            composed["slotformer"] = instantiate(config.slotformer, slot_dim=64).config
    return composed


def alone(model: Any) -> Any:
    """A model's configuration without what is trained or downloaded before it."""
    for frozen in ("encoder", "backbone"):
        if "weights" in model.get(frozen, {}):
            model[frozen].weights = "random"
    if "tokenizer" in model.get("objective", {}):
        tokenizer = OmegaConf.to_container(composed_of("train_video", ["model=vqvae"]).model, resolve=True)
        model.objective.tokenizer = tokenizer
    if "moments" in model.get("objective", {}):
        model.objective.moments = None
    if "guide" in model:
        model.guide = None
    return model


def composed_of(script: str, words: list[str]) -> Any:
    """A script's configuration."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(script, [*NEEDED[script], *words])


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its dotted name."""
    if not isinstance(tree, dict):
        return {path: tree}
    found: dict[str, Any] = {}
    for name, branch in tree.items():
        found |= leaves(branch, f"{path}.{name}" if path else name)
    return found


def test_every_experiment_named_after_a_paper_has_facts() -> None:
    assert FACTS.keys() == PAPERS
    systems = {file.stem for file in (CONFIGS / "system").glob("*.yaml")}
    assert {name.partition("+")[2] for name in FACTS} == systems | {""}


@pytest.mark.parametrize("experiment", sorted(PAPERS))
def test_settings_are_those_of_the_facts(experiment: str) -> None:
    found = leaves(settings(experiment))
    for option, (value, *_) in FACTS[experiment].items():
        assert option in found, f"{experiment} has no {option}"
        assert as_numbers(found[option]) == as_numbers(value), option


@pytest.mark.parametrize("experiment", sorted(PAPERS))
def test_every_number_that_the_experiment_sets_has_a_row(experiment: str) -> None:
    name, _, system = experiment.partition("+")
    file = f"system/{system}.yaml" if system else f"experiment/{name}.yaml"
    written = yaml.load((CONFIGS / file).read_text(), yaml.SafeLoader)
    written.pop("defaults", None)
    said = {option: value for option, value in leaves(written).items() if not option.endswith("_target_")}
    numbers = {option for option, value in said.items() if value not in (OWN, "???")}
    assert numbers <= FACTS[experiment].keys()


@pytest.mark.parametrize("experiment", ["coco", "clevrtex", "voc"])
@pytest.mark.parametrize("system", [*IMAGES, "solv", "steve"])
def test_every_system_has_the_sizes_of_every_image_set(experiment: str, system: str) -> None:
    found = settings(f"train_video/{experiment}+{system}")
    sets = {"coco": ("PanopticImages", 7), "clevrtex": ("ClevrTexImages", 11), "voc": ("VocImages", 6)}
    source, slots = sets[experiment]
    assert found["data"]["train"]["_target_"].endswith(source)
    assert found["data"]["clip"]["num_frames"] == 1
    assert found["model"]["initializer"]["num_slots"] == slots
    assert found["model"]["initializer"]["slot_dim"] == 256
    assert found["trainer"]["batch_size"] == 32


def test_every_row_has_a_source_and_every_deviation_a_reason() -> None:
    sources = ("paper", "released", "benchmark", "SlotFormer", "VideoSAUR", "SOLV", "SlotContrast", "linear", "ours")
    sources += ("AdaSlot", "BO-QSA", "SPOT", "SLATE", "SlotDiffusion", "Physion v1.5")
    for experiment, rows in FACTS.items():
        for option, (value, source, *deviation) in rows.items():
            assert str(source).startswith(sources), (experiment, option)
            assert len(deviation) in (0, 2), (experiment, option)
            if deviation:
                published, reason = deviation
                assert as_numbers(published) != as_numbers(value), (experiment, option)
                assert len(reason) > 10, (experiment, option)
