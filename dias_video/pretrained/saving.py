"""Saves models as json and safetensors, and loads them from a folder or from the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from dias_video.pretrained.card import model_card, run_of
from dias_video.pretrained.configured import Configured, OtherKind, build
from dias_video.pretrained.weights import WEIGHTS, instead, load_weights, located
from dias_video.stores.files import READABLE, read_json
from dias_video.stores.store import differences

Model = TypeVar("Model", bound="Pretrained")

FORMAT_VERSION = 2


class Pretrained(Configured):
    """Mixin for modules that are saved with their configuration."""

    read_from: Path | None = None  # the folder that the model was loaded from

    def save_pretrained(self, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` (weights and buffers; others if given) into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        assert isinstance(self, torch.nn.Module)
        tensors = {k: v.detach().cpu().contiguous() for k, v in (weights or self.state_dict()).items()}
        save_file(tensors, folder / WEIGHTS)
        (folder / WEIGHTS).chmod(READABLE)
        described = {"format": FORMAT_VERSION, "model": self.config}
        (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n")

    def push_to_hub(
        self,
        repository: str,
        private: bool = True,
        run: str | Path | None = None,
        metrics: str | Path | None = None,
        licence: str = "unknown",
    ) -> None:
        """Upload what ``save_pretrained`` writes, and a model card, to the Hub repository ``user/name``.

        The repository is made if it does not exist. The card contains the command and the paths of the run, so read it
        before you make the repository public.

        Args:
            repository: ``user/name``.
            private: whether a new repository is visible only to its owner.
            run: run folder of the training, which has data, command and commit; None = the run of the checkpoint that
                this model was loaded from, if there is one.
            metrics: a ``metrics.json`` of ``scripts/evaluate.py``; it is uploaded too.
            licence: licence of the weights by its name on the Hub, for example ``mit`` or ``apache-2.0``.

        Raises:
            ValueError: ``run`` or ``metrics`` can't be read; nothing is uploaded then.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            found = run if run is not None or self.read_from is None else run_of(self.read_from)
            card = model_card(self, repository, found, metrics, licence)
            (Path(folder) / "README.md").write_text(card)
            if metrics is not None:
                shutil.copyfile(metrics, Path(folder) / "metrics.json")
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """Load a saved model from a folder, or from a Hugging Face Hub repository.

        A repository is named ``hf-hub:user/name`` or, for one revision, ``hf-hub:user/name@revision``. A name without
        this prefix (which timm uses too) is a folder, and no server is contacted.

        Raises:
            ValueError: there is no such folder, or a file is missing, is cut off, or belongs to another class or has
                other shapes; the message names the file.
            OSError: the repository could not be read.
        """
        folder = located(folder)
        model = described(folder, cls)
        load_weights(model, folder)
        model.read_from = folder
        return model


def described(folder: Path, kind: type[Model]) -> Model:
    """A model with the configuration in a folder and with new weights.

    Raises:
        ValueError: the file is missing or damaged, or describes no model of this kind.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no model: {file} is missing; {instead(folder)}")
    content = read_json(file, "use another checkpoint")
    try:
        version, config = content["format"], content["model"]
    except KeyError as error:
        raise ValueError(f"{file} is damaged ({error} is missing); use another checkpoint") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{file} has format {version}, this version reads {FORMAT_VERSION}; use another checkpoint")
    try:
        model: Model = build(config, kind)
        return model
    except OtherKind as error:
        raise ValueError(f"{file} describes {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} describes no model that this version can build: {error}") from error


def start_from(
    model: Pretrained, folder: str | Path, changed: Sequence[str] = (), begin_anew: Sequence[str] = ()
) -> None:
    """Load the weights of a saved model with the same configuration into a new model.

    The configurations are compared because weights often fit in spite of other options: numbers of heads, strides and
    iterations don't change their shapes.

    Args:
        model: the new model.
        folder: as for ``Pretrained.from_pretrained``.
        changed: arguments that may differ, for example ``aggregator.reduction.threshold``.
        begin_anew: parts that keep their present weights; their arguments may differ too.

    Raises:
        ValueError: other arguments differ, or the weights don't fit; nothing is loaded then.
    """
    folder = located(folder)
    saved = described(folder, type(model))
    lines = {line.split(" is ", 1)[0]: line for line in differences(saved.config, model.config)}
    anew = [name for name in lines if any(f"{name}.".startswith(f"{part}.") for part in begin_anew)]
    if other := [name for name in lines if name not in [*changed, *anew]]:
        shown = "; ".join(lines[name] for name in other[:5]) + ("; …" if other[5:] else "")
        raise ValueError(
            f"{folder} is of another configuration: {shown}; use its options, or say what may differ: "
            f"changed=[{','.join(other)}]"
        )
    load_weights(model, folder, begin_anew)
