"""The commands of docs/baselines.md, one after the other: each model fits the models that it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from test_docs import ROOT, of_script, typed
from test_facts import composed_of
from test_rows import shallow  # noqa: F401 - a fixture

from dias_video.pretrained.saving import start_from


@pytest.mark.slow
def test_every_system_fits_what_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same configuration where it goes on from a checkpoint; a tokenizer of the same data and of the same encoder."""
    commands = [of_script(words) for words in typed(ROOT / "docs/baselines.md", tmp_path) if words[0] != "pip"]
    monkeypatch.chdir(tmp_path)
    data: dict[str, str] = {}  # what the model in a folder was trained on
    started = []
    for name, typed_words in commands:
        if name != "train_video" or typed_words[-1] == "out_dir=runs/dinosaur":
            continue
        words = [word.replace("experiment=", f"experiment/{name}=") for word in typed_words if "data.root=" not in word]
        config = composed_of(name, words)
        for part in ("encoder", "backbone"):
            if "weights" in config.model.get(part, {}):
                config.model[part].weights = "random"
        smaller = ("slot_dim", "width", "code_dim") if "objective" in config.model else ("slot_dim", "feature_dim")
        config.sizes.update({name: 16 for name in smaller if name in config.sizes})
        if "hidden" in config.model.decoder:
            config.model.decoder.hidden = 8
        if "channels" in config.model.decoder:
            config.model.decoder.channels = [32]
        if "moments" in config.model.get("objective", {}):
            config.model.objective.moments = None
        model = instantiate(config.model)
        begun = [config.checkpoint, config.model.get("guide", {}).get("checkpoint")]
        begun.append(config.model.get("objective", {}).get("tokenizer", {}).get("folder"))
        for folder in filter(None, begun):
            assert data[folder] == config.data.train._target_
            started.append(config.out_dir)
        if config.checkpoint:
            start_from(model, config.checkpoint, config.changed, config.begin_anew)
        if hasattr(model, "check_parts"):
            model.check_parts()
        end = f"{config.out_dir}/checkpoints/last"
        if any(end in word for _, later in commands for word in later):
            data[end] = config.data.train._target_
            model.save_pretrained(end)
    assert started == ["runs/adaslot", "runs/spot2", "runs/slate", "runs/steve", "runs/vvo_mlp", "runs/slotdiffusion"]
