"""Wrong options: whatever a user types, a script ends with one sentence that names the option, never a traceback."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import write_clip
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_slate import slate

import dias_video.evaluation.in_training  # noqa: F401 - what scripts import is loaded once, before the forks
import slotformer.contact.probing
import slotformer.contact.reasoning
import slotformer.fill  # noqa: F401
from dias_video.checks import Count
from dias_video.model.dias import DIAS

ROOT = Path(__file__).parents[1]
SMALL = ("simulate.size=[40,56]", "simulate.num_frames=9", "workers=1")


def run(name: str, *words: str) -> tuple[int | None, str]:
    """Exit code and output of a script, run in a fork of this process."""
    with tempfile.TemporaryDirectory() as folder:
        worker = multiprocessing.get_context("fork").Process(target=_run, args=(name, words, folder))
        worker.start()
        worker.join()
        return worker.exitcode, (Path(folder) / "printed").read_text()


def _run(name: str, words: tuple[str, ...], folder: str) -> None:
    os.chdir(folder)  # where a relative path that is tried ends up
    file = os.open("printed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    sys.path.insert(0, str(ROOT / "scripts"))
    sys.argv = [f"{name}.py", *words]
    runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name="__main__")


def sentence(output: str) -> str:
    """The one line that says what is wrong."""
    assert "Traceback" not in output, output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    return errors[0]


NONE = "chooses the model's objective, but the model of this command has none to choose;"
WRONG: list[tuple[str, tuple[str, ...], str]] = [
    ("simulate", ("simulate=toss", "root=x", "split=x", "num_videos=1", "simulate.size=null"), "must not be null"),
    ("train_video", ("max_steps=many",), "error: max_steps must be an integer, got 'many'"),
    ("train_video", ("trainer.optimization.lr=[1]",), "error: trainer.optimization.lr must be a number, got [1]"),
    ("train_video", ("resume=perhaps",), "error: resume must be true or false, got 'perhaps'"),
    ("train_video", ("data.root=3",), "error: 3/toss/train is missing"),
    ("train_video", ("+trainer.optimization.parts={aggregator: {lr: -1}}", "data.root=x"),
     "error: optimization.parts.aggregator.lr must be a number > 0, got -1"),
    *(("train_video", (f"{name}=[decoder,'']", "checkpoint=x"), f"error: {name} must not hold an empty name")
      for name in ("train_only", "begin_anew", "changed")),
    ("train_slotformer", ("cache=x", "changed=['']", "checkpoint=x"), "error: changed must not hold an empty name"),
    *((script, (f"{name}=[decoder]", *others), f"error: {name}= says how the model differs from its checkpoint, and "
       f"there is none; add checkpoint=<folder of a trained model>, or leave out {name}=") for script, name, *others in
      (("train_video", "changed"), ("train_video", "begin_anew"), ("train_slotformer", "changed", "cache=x"))),
    *(("probe_contact", (f"representation={kind}", f"{name}=x"), f"error: this representation= looks at no {name}; "
       f"leave out {name}=") for kind, name in
      (("tokens", "checkpoint"), ("clusters", "dynamics"), ("slots", "dynamics"))),
    ("train_video", ("data.clip=5",), "error: data.clip must be a group of options, {name: value}, got 5"),
    ("train_video", ("trainer.batch_sise=5",), "no option trainer.batch_sise; did you mean trainer.batch_size? "),
    ("train_video", ("experiment=mvoi_d",), "error: there is no experiment=mvoi_d; choose from clevrtex, coco, "),
    ("train_video", ("experiment=slate_original", "system=steve"), f"error: system=steve {NONE} leave out "
     "system=steve, or what chooses that model (experiment= or model=)"),
    ("train_video", ("model=slate", "experiment=rows/steve"), f"error: system=steve {NONE} leave out system=steve, or"),
    ("train_video", ("model=steve", "objective=codes"), f"error: objective= {NONE} leave out objective=, or what"),
    ("train_video", ("model=slotcontrast", "projection=frames"), "error: projection= chooses the model's projection,"),
    ("train_video", ("model=slate", "tokenizer=dvae"), "of this model is chosen by tokenizer@model.encoder.tokenizer="),
    ("train_video", ("model=slate", "projection=frames"), "error: model.projection.size refers to sizes.frame, which "
     "this command's choices lack; +sizes.frame=<value> adds it"),
    ("evaluate", ("objective=codes",), "error: there is no option objective; --help lists them all"),
    ("track", ("vidoe=x",), "error: there is no option vidoe; did you mean video? --help lists them all"),
    ("track", ("video=x", "+vidoe=x"), "error: there is no option vidoe; did you mean video?"),
    ("train_video", ("trainer.weights.contrast=1",), "+trainer.weights.contrast=<value> adds it"),
    ("train_video", ("trainer.optimization.max_skipped=-1",), "max_skipped must not be negative, got -1"),
    ("train_video", ("experiment=rows/slotdiffusion", "data.features.path=x", "model.objective.tokenizer.folder=x"),
     "error: data.features.latents is missing; add data.features.latents=<value> to the command"),
    ("train_video", ("data.root=/nowhere", "validation.num_videos=0"), "/nowhere"),  # 0 is what it is anyhow
    ("train_slotformer", ("cache=/nowhere",), "/nowhere"),
    ("train_slotformer", ("cache=x", "trainer.ema=2"), "ema must be a number"),
    ("visualize", ("video=x", "window=0"), "error: window must be at least 1, got 0"),
    ("evaluate", ("max_frames=0",), "error: max_frames must be at least 1, got 0"),
    ("evaluate", ("max_frames=1.5",), "error: max_frames must be an integer, got 1.5"),
    ("visualize", ("video=/nowhere.mp4",), "/nowhere.mp4"),
    ("track", ("video=/nowhere.mp4",), "error: /nowhere.mp4 is missing"),
    ("track", ("video=https://example.com/a.mp4",), "error: https://example.com/a.mp4 is an address, and "),
    ("visualize", ("video=s3://bucket/a.mp4",), "error: s3://bucket/a.mp4 is an address"),
    ("track", ("video=x", "slots=0"), "error: slots must be at least 1, got 0"),
    ("track", ("video=x", "encoder.tokens=many"), "error: encoder.tokens must be an integer, got 'many'"),
    ("track", ("video=x", "first_boxes=[[1,2,3,a]]"), "first_boxes must be a list of boxes of four numbers, "
     "[[x0,y0,x1,y1],…]; [1, 2, 3, 'a'] is none"),
    ("track", ("video=x", "first_boxes=[10,10,50,50]"), "[[x0,y0,x1,y1],…]; 10 is none"),
    ("track", ("video=x", "first_boxes=[[0,0,9,9],null]"), "[[x0,y0,x1,y1],…]; None is none"),
    ("visualize", ("data=simulated",), "error: data.root is missing; add data.root=<value> to the command"),
    ("whiten_encoder", ("videos=-1",), "error: videos must not be negative, got -1"),
    ("whiten_encoder", ("feature_dim=few",), "error: feature_dim must be an integer, got 'few'"),
    ("whiten_encoder", ("feature_dim=0",), "error: feature_dim must be at least 1, got 0"),
    ("whiten_encoder", ("checkpoint=null",), "error: name an encoder: checkpoint=<folder of a trained model> or"),
    ("whiten_encoder", (f"checkpoint={ROOT}/dias_video/assets/slotformer",), "no encoder but ObjectFormer; name"),
    ("cache_slots", ("split=transform",), "this data has no split 'transform'; choose from "
     "train (contact/train), eval (contact/test), readout (contact/readout)"),
    ("benchmark", ("sections=[nosuch]",), "there is no section 'nosuch'; choose from training, launches,"),
    ("rollout", ("gifs=1.5",), "error: gifs must be an integer, got 1.5"),
    ("rollout", ("checkpoint=[x,3]",), "error: checkpoint must be text, got 3"),
    ("rollout", ("checkpoint=null",), "error: checkpoint must not be null"),
    ("rollout", ("checkpoint=[]",), "error: the list of trained models is empty"),
    ("rollout", ("batch_size=null",), "error: batch_size must not be null"),
    ("reason", ("dynamics=[1.5]",), "error: dynamics must be text, got 1.5"),
    ("reason", ("human=/nowhere.csv",), "error: /nowhere.csv is missing; check its path"),
    ("reason", ("readouts=null",), "error: readouts must not be null"),
    ("reason", ("readouts=[0]",), "error: readouts must be a group of options, {name: value}, got 0"),
    ("reason", ("predicted_frames=[4,-3]",), "error: predicted_frames must not be negative, got -3"),
    ("reason", ("seeds=[0,null]",), "error: seeds must not hold null"),
    ("compare", ("train=[5]",), "error: train must be text, got 5"),
    ("rollout", ("device=fast",), "error: device must be a device such as cpu"),
    ("inspect_data", ("data=1.5", "data.root=x"), "error: there is no data=1.5; choose from base, clevrtex, coco, "),
    ("train_video", ("model=tiny_free", "projection=null"), "there is no projection=null; choose from features, "),
    ("train_video", ("experiment=null",), "error: there is no experiment=null; choose from clevrtex, "),
    ("train_video", ("model=slate", "tokenizer@model.encoder.tokenizer=true"),
     "error: there is no tokenizer@model.encoder.tokenizer=true; choose from dvae, pictures_small"),
    ("whiten_encoder", ("model=null",), "error: there is no model=null; choose from dinov2, "),
    ("train_video", ("+trainer.pace=3",), "error: trainer takes no option pace"),
    ("train_video", ("~trainer.batch_size",), "error: trainer needs the option batch_size"),
    ("inspect_data", ("data=[0,-3]", "data.root=x"), "error: the options can't be put together"),
    ("inspect_cache", ("cache=[]",), "error: [] holds no cache"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_named(tmp_path: Path, name: str, words: tuple[str, ...], message: str) -> None:
    base = {
        "train_video": ("data.root=x",),
        "probe_contact": ("data.root=x",),
        "evaluate": ("data.root=x", "checkpoint=x"),
        "rollout": ("checkpoint=x", "cache=x"),
        "reason": ("dynamics=x", "readout_cache=x", "test_cache=x"),
        "whiten_encoder": ("checkpoint=x", "data.root=x"),
        "cache_slots": ("checkpoint=x", "data=contact", "data.root=x", f"cache={tmp_path / 'out'}"),
    }
    out = () if name in ("inspect_cache", "cache_slots", "simulate") else (f"out_dir={tmp_path / 'out'}",)
    given_words = {word.split("=")[0]: word for word in (*base.get(name, ()), *out, *words)}
    code, output = run(name, *given_words.values())
    assert code == 1, output
    assert message in sentence(output)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["evaluate", "cache_slots", "life"])
def test_a_model_that_is_all_trained_takes_no_cached_features(tmp_path: Path, name: str) -> None:
    slate().save_pretrained(tmp_path / "slate")
    for clip in ("train/00000", "val/00000", "val/00001"):
        write_clip(tmp_path / f"data/toss/{clip}")
    trained = (f"checkpoint={ROOT}/dias_video/assets/dias", "data=simulated", f"data.root={tmp_path}/data")
    code, output = run("cache_features", *trained, "split=eval", f"path={tmp_path}/f")
    assert code == 0, output
    out = f"cache={tmp_path}/out" if name == "cache_slots" else f"out_dir={tmp_path}/out"
    words = (f"checkpoint={tmp_path}/slate", *trained[1:], out, f"features={tmp_path}/f")
    code, output = run(name, *words, *(["split=eval"] if name == "cache_slots" else []))
    assert code == 1, output
    said = "all of this model is trained, so it looks at no cached features: leave out features="
    assert sentence(output) == f"error: {said}{tmp_path}/f"
    assert not (tmp_path / "out").exists()


NAMES = ["clip (1).mp4", "été.mp4", "日本.mp4", "a=b.mp4", "v#1.mp4", "x,y.mp4", "it's.mp4", "a&b.mp4", "[x].mp4", "3"]
NAMES += ["a;b.mp4", "tilde~.mp4", "12:30:05.mp4", "true", "{x}", "a\\'b", "end\\", 'say "x".mp4', " x ", "%d $x ?@+"]


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What the options of a script take, with some groups chosen."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def made(name: str, *groups: str) -> Any:
        takers = runpy.run_path(str(ROOT / f"scripts/{name}.py"))["main"].takers
        config = importlib.import_module("_commands").chosen(name, groups)
        return importlib.import_module("_options").Options(OmegaConf.to_container(config, resolve=False), takers)

    return made


def test_text_is_taken_as_it_is_typed(options_of: Callable[..., Any]) -> None:
    visualize, slots = options_of("visualize", "data=ytvis"), options_of("cache_slots", "data=physion")
    as_typed = importlib.import_module("_commands").as_typed
    for known, option in (
        (visualize, "video"), (visualize, "data.root"), (visualize, "out_dir"), (visualize, "data.annotations.eval"),
        (slots, "+data.readout.labels"), (slots, "features"), (slots, "split"),
    ):  # fmt: skip
        for name in NAMES:
            (word,) = as_typed([f"{option}={name}"], known)
            (parsed,) = OverridesParser.create().parse_overrides([word])
            assert parsed.value() == name


def test_what_is_left_to_hydra(options_of: Callable[..., Any]) -> None:
    visualize = options_of("visualize")
    as_typed = importlib.import_module("_commands").as_typed
    for word in ("video=null", "video='\"a b\"'", "max_frames=5", "data=folder", "-m"):
        assert as_typed([word], visualize) == [word]
    assert as_typed(["video=~/v.mp4"], visualize) == [f"video='{Path.home()}/v.mp4'"]
    assert as_typed(["checkpoint=[a,b]"], options_of("rollout")) == ["checkpoint=[a,b]"]
    words = ["-m", "data.root=a,b", "out_dir=x (1)", "trainer.weights={a: 1}"]
    train = as_typed(words, options_of("train_video"))
    assert train == ["-m", "data.root=a,b", "out_dir='x (1)'", "trainer.weights={a: 1}"]


class Taker:
    """What a config's ``_target_`` may name."""

    def __init__(self, size: Sequence[int], weight: float | Mapping[str, Any], name: str | None = None) -> None: ...


def test_what_options_take_is_said_by_what_takes_them(options_of: Callable[..., Any]) -> None:
    def script(count: Count | None, flags: Mapping[str, bool], paths: str | Path | Sequence[str]) -> None: ...
    def other(anything: Mapping[str, Any] | None) -> None: ...

    made = type(options_of("curves"))
    target = f"{__name__}.Taker"
    config = {
        "count": 3, "flags": {"a": None}, "paths": "???", "text": "x", "empty": [], "plain": {"low": -1, "on": True},
        "object": {"_target_": target, "size": "${size}", "weight": "${weight}", "name": None},
        "size": [4, 5], "weight": None, "anything": {"number": 3, "null": None},
    }  # fmt: skip
    known = made(config, [script, other])
    for option, good, bad, said in (
        ("count", [1, None], ["x", 1.5, True, 0, -1], "count must be an integer, got 'x'"),
        ("flags.a", [True], [1, None], "flags.a must be true or false, got 1"),
        ("paths", ["x", ["x", "y"]], [1, None, [1]], "paths must be text or a list, [a,b], got 1"),
        ("text", ["y"], [1, None, ["y"]], "text must be text, got 1"),
        ("anything.number", [4], ["x", None], "anything.number must be an integer, got 'x'"),
        ("anything.null", [4, "x", None], [], ""),
        ("empty", [[], ["a"]], [[1], [None], "a"], "empty must be text, got 1"),
        ("plain.low", [-3, 0], [None, "x", 0.5], "plain.low must not be null"),
        ("plain", [{"low": 1}], [3, None], "plain must be a group of options, {name: value}, got 3"),
        ("object.name", [None, "a"], [2], "object.name must be text, got 2"),
        ("size", [[1, 2]], [[1.5], None, [-1, 2]], "size must be an integer, got 1.5"),
        ("weight", [1, 0.5, {"kind": "x"}], ["x", None, -1], "weight must be a number or a group of options, {name: "),
    ):
        for value in good:
            known.check(option, value)
        for number, value in enumerate(bad):
            with pytest.raises(ValueError, match=re.escape(said) if number == 0 else option):
                known.check(option, value)


def test_odd_names_reach_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "a=b, [x] (1)'s"
    write_clip(folder / "toss/val/00000")
    code, output = run("inspect_data", f"data.root={folder}", "data.eval.split=toss/val", "split=eval",
                       f"out_dir={folder}/out: 1")  # fmt: skip
    assert code == 0, output
    assert (folder / "out: 1/eval.png").is_file()


@pytest.mark.parametrize("name", sorted({path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"hydra_defaults"}))
def test_help_shows_commands_and_what_every_option_is(name: str) -> None:
    code, output = run(name, "--help")
    assert code == 0, output
    assert f"python scripts/{name}.py " in output
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        choices = compose(name, return_hydra_config=True).hydra.runtime.choices
    files = [f"{group}/{choice}" for group, choice in choices.items() if choice and not group.startswith("hydra/")]
    if "data/simulated" in files:
        files.append("data/base")
    for file in (name, *files):
        text = (ROOT / f"configs/{file}.yaml").read_text()
        assert output.count(text) == 1, file


def test_help_of_a_choice_and_of_a_wrong_one() -> None:
    code, output = run("train_video", "data=movi", "--help")
    assert code == 0
    assert "## options of data/movi\n" in output
    code, output = run("train_video", "data=nosuch", "--help")
    assert code == 1
    assert "nosuch" in sentence(output)


def test_a_choice_for_a_place_is_in_the_help() -> None:
    output = run("train_video", "model=slate", "tokenizer@model.encoder.tokenizer=pictures_small", "--help")[1]
    assert "## options of tokenizer/pictures_small\n" in output


def test_parts_that_do_not_fit_a_model_are_said_to_be_a_choice(tmp_path: Path) -> None:
    write_clip(tmp_path / "toss/train/00000")
    common = (f"data.root={tmp_path}", f"out_dir={tmp_path}/out")
    said = "what the command chooses (experiment=, model=, system= and parts) does not fit together"
    for *words, lacking in (
        ("experiment=slate_small", "system=spot", "model takes no option teacher"),
        ("model=tiny_free", "model.encoder.weights=random", "projection=features",
         "model.projection takes no option residual"),
        ("model=slate", "projection=features", "model.projection needs the option feature_dim"),
    ):  # fmt: skip
        code, output = run("train_video", *words, *common)
        assert code == 1
        assert sentence(output) == f"error: {lacking}; {said}"
    assert not (tmp_path / "out").exists()


def test_help_may_be_cut_off() -> None:
    command = f"{sys.executable} scripts/train_video.py --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Train a model on clips of video.\n"


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("name", ["evaluate", "rollout"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # in the fork too
    words = {"evaluate": ("data.root=x",), "rollout": ("cache=x",)}[name]
    code, output = run(name, "checkpoint=x", "out_dir=x", *words, f"device={device}")
    assert (code, sentence(output)) == (1, f"error: device={device} was asked for and there is no GPU; use device=cpu")


def test_a_fault_of_ours_is_not_blamed_on_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: str) -> DIAS:
        raise TypeError("our mistake")

    monkeypatch.setattr(DIAS, "from_pretrained", broken)
    write_clip(tmp_path / "toss/val/00000")
    code, output = run("evaluate", "checkpoint=x", f"data.root={tmp_path}", "out_dir=x")
    assert code == 1
    assert "Traceback" in output
    assert "error: " not in output.replace("TypeError: our mistake", "")


@pytest.mark.parametrize("name", ["evaluate", "probe", "life", "cache_slots"])
def test_the_model_goes_to_the_device_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def moved(model: DIAS, device: torch.device | str) -> DIAS:
        raise ValueError(f"moved to {device}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(DIAS, "to", moved)
    for split in ("train", "val", "test"):
        write_clip(tmp_path / f"toss/{split}/00000")
    out = "cache=x" if name == "cache_slots" else "out_dir=x"
    root = f"data.root={tmp_path}"
    code, output = run(name, f"checkpoint={ROOT}/dias_video/assets/dias", root, out, "device=cuda:1")
    assert (code, sentence(output)) == (1, "error: moved to cuda:1")


@pytest.mark.parametrize(
    ("words", "message"),
    [  # toss has a schedule there, demo a number
        (("experiment=toss", "trainer.weights.distillation=0.5"), "/nowhere/toss/train"),
        (("experiment=demo", "trainer.weights.distillation={kind: linear, start: 0, end: 1}"), "/nowhere/toss/train"),
        (("experiment=toss", "trainer.weights.distillation=much"), "weights.distillation must be"),
        (("experiment=demo", "trainer.weights.distillation=[1]"), "weights.distillation must be"),
        (("experiment=demo", "trainer.weights.distillation={kind: sine}"), "weights.distillation must be"),
        (("experiment=demo", "trainer.weights=3"), "trainer.weights must be a group of options"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_loss_weight_is_a_number_or_a_schedule(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    common = ("data.root=/nowhere", f"out_dir={tmp_path}/out", "model.encoder.weights=random")
    code, output = run("train_video", *common, *words)
    assert code == 1
    assert message in sentence(output)
