"""Messages about errors and about a finished training, each one sentence in a user's words."""

from __future__ import annotations

import difflib
import re
import shlex
from typing import Any

import hydra
from _commands import CONFIGS
from _options import Options, leaves
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, MissingMandatoryValue

from dias_video.machine.memory import lack_of_memory

PARTS = ("backbone", "decoder", "initializer", "objective", "projection", "reduction", "tokenizer")  # of models
LOWER = ("batch_size", "batch_frames", "window", "num_workers", "workers")  # options on which the memory depends


def of_work(error: Exception, cfg: DictConfig) -> str:
    """The sentence for an error during the work that ``cfg`` describes."""
    cause = error.__cause__ if isinstance(error, hydra.errors.InstantiationException) else None
    if (lacking := lack_of_memory(error)) is not None:
        return f"{lacking}; {_smaller(cfg)}"
    text = " ".join(str(cause or error).split())
    if isinstance(error, OSError) and error.filename:  # a message of the system begins with a number
        text = f"{error.filename}: {error.strerror}"
    if cause is not None and not isinstance(cause, (ValueError, OSError)):
        wrong = re.search(r"(unexpected|missing) .*argument.*?'(\w+)'", text)  # in Python's words
        said = {"unexpected": "takes no option", "missing": "needs the option"}
        text = f"{said[wrong[1]]} {wrong[2]}" if wrong else f"can't be made of its options: {text}"
        text = f"{_place(error)} {text}"
        if _place(error).startswith("model"):
            text += "; what the command chooses (experiment=, model=, system= and parts) does not fit together"
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        option = _missing(cfg, error.full_key)
        text = f"{option} is missing; add {option}=<value> to the command"
    if isinstance(error, InterpolationKeyError) and (found := re.search(r"key '([\w.]+)' not found", text)):
        text = f"{error.full_key} refers to {found[1]}, which this command's choices lack; +{found[1]}=<value> adds it"
    return text


def _smaller(cfg: DictConfig) -> str:
    """What a user can do to need less memory."""
    values = dict(leaves(OmegaConf.to_container(cfg, resolve=False)))
    lower = [name for name, value in values.items() if name.rpartition(".")[2] in LOWER and value not in (0, 1)]
    ways = ["set data.in_memory=false"] if values.get("data.in_memory") else []
    if "trainer" in cfg:
        ways += ["raise trainer.accumulation"] if "trainer.batch_size" in lower else []
        lower += ["data.clip.num_frames"] if "data" in cfg else []
    ways += [f"lower {', '.join(lower)}"] if lower else []
    return ", or ".join(ways) or "end other programs, or use a machine with more"


def of_trained(out_dir: str, script: str | None = None, /, **options: str) -> str:
    """The sentence for a finished training: the folder of the model, and a command that shows it."""
    last = f"{out_dir}/checkpoints/last"
    said = f"the trained model lies in {last}"
    if script is None:
        return f"{said}; other scripts take it as checkpoint={last}"
    words = [f"{name}={value}" for name, value in {"checkpoint": last, **options}.items()]
    return f"{said}; look at it with: python scripts/{script}.py {shlex.join(words)}"


def of_start(error: Exception, config_name: str, known: Options) -> str:
    """The sentence for an error in composing the config."""
    text = " ".join(str(error).split())
    found = re.match(r"(?:In '([\w/]+)': )?Could not override '([\w.]+)'", text)
    if found and found[2] in PARTS and "- model:" in (CONFIGS / f"{config_name}.yaml").read_text():
        text = _of_part(
            found[1].replace(f"experiment/{config_name}/", "experiment/") if found[1] else "", found[2], text
        )
    elif found and not found[1] and found[2].rpartition(".")[2] not in _beside(found[2], known):  # not within a group
        text = of_unknown(found[2], known)
    if isinstance(error, hydra.errors.MissingConfigException) and error.options:
        file = str(error.missing_cfg_file).replace(f"experiment/{config_name}/", "experiment/", 1)
        text = f"there is no {'='.join(file.rsplit('/', 1))}; choose from {', '.join(error.options)}"
    if isinstance(error, TypeError):  # raised by Hydra for words of the wrong kind
        text = f"the options can't be put together: {text}"
    return text


def _of_part(file: str, part: str, text: str) -> str:
    """The sentence for the choice of a part of a model by a config file, or typed, that the model does not have."""
    choice = "=".join(file.rsplit("/", 1)) if file else f"{part}="
    if not file and (meant := re.search(r"Did you mean to override (\S+?)\?", text)):
        return f"the {part} of this model is chosen by {meant[1]}="
    return (
        f"{choice} chooses the model's {part}, but the model of this command has none to choose; leave out {choice}, "
        "or what chooses that model (experiment= or model=)"
    )


def of_unknown(option: str, known: Options) -> str:
    """The sentence for an unknown option, with the option of the nearest name in its group."""
    group, dot, name = option.rpartition(".")
    near = difflib.get_close_matches(name, _beside(option, known), 1)
    question = "".join(f"did you mean {group}{dot}{one}? " for one in near)
    adding = f"; +{option}=<value> adds it" if known.annotation(option) is not None else ""
    return f"there is no option {option}; {question}--help lists them all{adding}"


def _beside(option: str, known: Options) -> list[str]:
    """The names in an option's group."""
    group = option.rpartition(".")[0]
    beside = known.default(group) if group else known.config
    return list(beside) if isinstance(beside, dict) else []


def _place(error: Exception) -> str:
    """The path of the part of the config that could not be instantiated."""
    found = re.search(r"full_key: (\S+)", str(error))
    return found.group(1) if found else "an object"


def _missing(cfg: DictConfig, option: str) -> str:
    """The option to add if a value is missing: the option that it refers to, if it refers to one."""
    group, _, name = option.rpartition(".")
    values: Any = OmegaConf.to_container(OmegaConf.select(cfg, group) if group else cfg, resolve=False)
    found = re.fullmatch(r"\$\{([\w.]+)\}", str(values[name]))
    return found.group(1) if found else option
