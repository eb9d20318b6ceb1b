"""The rows of the tables: each is built from its config and differs from full DIAS in what its name says."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.engine.loop import Trainer
from dias_video.model.dias import DIAS

CONFIGS = Path(__file__).parents[1] / "configs"
TECHNIQUES = {"reduction", "reinitialization", "distillation", "random order"}
ON = {
    "base": TECHNIQUES - {"distillation"},
    "full": TECHNIQUES,
    "no_reduction": {"distillation", "random order"},
    "no_reinitialization": TECHNIQUES - {"reinitialization"},
    "no_distillation": TECHNIQUES - {"distillation"},
    "plain": {"random order"},
    "causal": TECHNIQUES - {"random order"},
    "dinosaur": set(),
    "slotcontrast": set(),
    "videosaur": set(),
    "spot": set(),
    "solv": {"reduction"},
    "adaslot": {"reduction"},
    "bo_qsa": set(),
    "spot_teacher": set(),
    "slate": set(),
    "steve": set(),
    "vvo_tfd": set(),
    "vvo_mlp": set(),
    "dias_vvo": TECHNIQUES,
    "slotdiffusion": set(),
}
# A tokenizer has to be trained before.
ON_TOKENIZERS = ("slate", "steve", "vvo_tfd", "vvo_mlp", "dias_vvo", "slotdiffusion")
LEARNED = ("bo_qsa", "spot_teacher")  # queries, which take no boxes
OBJECTIVES = {"videosaur": "SimilarityObjective", "vvo_mlp": "CodeVectorObjective", "dias_vvo": "CodeVectorObjective"}
OBJECTIVES |= dict.fromkeys(("slate", "steve", "vvo_tfd"), "CodeObjective") | {"slotdiffusion": "LatentObjective"}
GUIDES = {"slotcontrast": "SlotContrast", "spot_teacher": "MaskTeacher"}
DECODERS = {
    "causal": ("CausalDecoder", "num_orders", 1),
    "spot": ("CausalDecoder", "num_orders", 9),
    "dinosaur": ("MLPDecoder", "hidden", 128),
    "slotcontrast": ("MLPDecoder", "hidden", 128),
    "solv": ("MLPDecoder", "hidden", 128),
    "adaslot": ("MLPDecoder", "hidden", 128),
    "bo_qsa": ("MLPDecoder", "hidden", 128),
    "spot_teacher": ("CausalDecoder", "num_orders", 9),
    "slate": ("CausalDecoder", "out_dim", 256),
    "steve": ("CausalDecoder", "out_dim", 256),
    "vvo_tfd": ("CausalDecoder", "out_dim", 256),
    "vvo_mlp": ("MLPDecoder", "feature_dim", [64, 384]),
    "videosaur": ("SlotMixerDecoder", "feature_dim", [384, 256]),
    "slotdiffusion": ("DiffusionDecoder", "channels", [32, 64, 96]),
}


def composed(row: str, folder: str = "rows", *words: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        common = [f"experiment/train_video={folder}/{row}", "data.root=x", "out_dir=x"]
        common += ["+data.features.path=x", "+data.features.latents=x"]
        part = {"rows": "encoder", "tokenizers": "backbone"}[folder]
        common += [] if row == "pictures_small" else [f"model.{part}.weights=random"]
        return compose("train_video", [*common, *words])


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """Backbones of one layer, with the same random weights wherever they are made."""
    make = timm.create_model

    def shallow_model(name: str, **options: Any) -> torch.nn.Module:
        torch.manual_seed(0)
        return make(name, **options, depth=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", shallow_model)
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DictConfig]:
    """A row's configuration, with what has to be trained before it made of random weights."""
    folders: dict[tuple[str, ...], Path] = {}

    def made(name: str, folder: str, *words: str) -> Path:
        key = (name, *words)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(name)
            instantiate(composed(name, folder, *words).model).save_pretrained(folders[key])
        return folders[key]

    def begin(row: str) -> DictConfig:
        cfg = composed(row)
        if row == "spot_teacher":
            cfg.model.guide.checkpoint = str(made("spot", "rows"))
        if "tokenizer" in cfg.model.objective:
            kind = "features_small" if "vvo" in row else "pictures_small"
            folder = made(kind, "tokenizers", f"sizes.code_dim={cfg.sizes.code_dim}")
            cfg.model.objective.tokenizer.folder = str(folder)
        if "moments" in cfg.model.objective:
            cfg.model.objective.moments = None
        return cfg

    return begin


def test_tokens_of_a_row_can_have_positions() -> None:
    """Cells of the same features have the same tokens, and others with ``projection=placed``."""
    made = list(composed("full", "rows", "projection=placed").model)
    assert made.index("encoder") < made.index("projection") < made.index("transition")  # a seed's first weights stay
    same = torch.ones(1, 256, 384)
    usual = instantiate(composed("full").model.projection)(same, None)[0]
    placed = instantiate(composed("full", "rows", "projection=placed").model.projection)(same, None)[0]
    assert usual.shape == placed.shape
    assert len(usual.unique(dim=0)) == 1
    assert len(placed.unique(dim=0)) == 256


def test_every_row_is_known() -> None:
    assert {file.stem for file in (CONFIGS / "experiment/train_video/rows").glob("*.yaml")} == set(ON)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compared = compose("compare", ["root=x", "encoder=x", "features=x", "out_dir=x"]).rows
    assert set(compared) == set(ON) - {"base", *ON_TOKENIZERS}


def one_step(model: DIAS) -> None:
    """An update and a look at clips of cached features and boxes."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(2).expand(2, -1)
    batch = VideoBatch(torch.zeros(2, 2, 3, 16, 24, dtype=torch.uint8), ["a", "b"], index, index >= 0)
    batch.features = torch.randn(2, 2, 256, model.encoder.feature_dim, generator=generator)
    batch.boxes, batch.box_valid = torch.tensor([0.1, 0.2, 0.5, 0.9]).expand(2, 2, 1, 4), index[..., None] >= 0
    model.check_parts()
    terms = model.train()(batch, Draws.for_step(0, 0, range(2), progress=0.5))
    sum(value.mean() for name, value in terms.items() if name not in model.watched).backward()
    if not model.takes_boxes:
        batch.boxes = None
    sequence, _ = model.eval().encode(batch, Draws.for_videos(0, batch.video_id))
    assert sequence.slots.shape == (2, 2, 8, model.slot_dim)
    assert sequence.attention.shape == (2, 2, 8, 16, 16)


def techniques_of(model: DIAS) -> set[str]:
    on = {
        "reduction": model.aggregator.reduction is not None,
        "reinitialization": model.aggregator.reinitialize,
        "distillation": model.teacher is not None,
        "random order": type(model.decoder).__name__ == "RandomARDecoder",
    }
    return {name for name, is_on in on.items() if is_on}


@pytest.mark.parametrize("model", ["tiny", "dinov2_whitened"])
@pytest.mark.parametrize("row", [*(row for row in sorted(ON) if row.startswith("no_")), "full", "plain", "causal"])
def test_the_rows_of_techniques_fit_the_small_model_s_recipe(row: str, model: str) -> None:
    made: DIAS = instantiate(composed(row, "rows", f"model={model}").model)
    assert techniques_of(made) == ON[row]
    one_step(made)


def test_on_dinov2_the_small_model_s_recipe_is_that_of_the_small_model() -> None:
    small, large = (composed("full", "rows", f"model={name}").model for name in ("tiny", "dinov2_whitened"))
    widths = ("feature_dim", "out_dim", "slot_dim", "token_dim")

    def other_than_widths(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {name: other_than_widths(value) for name, value in node.items() if name not in widths}

    ours, theirs = (OmegaConf.to_container(model, resolve=True) for model in (small, large))
    encoders = [model.pop("encoder") for model in (ours, theirs)]
    assert other_than_widths(ours) == other_than_widths(theirs)
    assert [encoder["color"] for encoder in encoders] == [6.0, 8.0]


@pytest.mark.parametrize("row", sorted(ON))
def test_a_row_is_built_makes_a_step_and_has_its_techniques(row: str, begun: Callable[[str], DictConfig]) -> None:
    cfg = begun(row)
    model: DIAS = instantiate(cfg.model)
    trainer: Trainer = instantiate(cfg.trainer)
    one_step(model)
    assert techniques_of(model) == ON[row]
    if row in DECODERS:
        kind, name, value = DECODERS[row]
        assert type(model.decoder).__name__ == kind
        assert model.decoder.config[name] == value
    own = {"videosaur": {"similarity"}, "slotcontrast": {"contrast"}, "adaslot": {"kept"}}
    own["spot_teacher"] = {"teacher_masks"}
    assert set(trainer.weights) == ({"distillation"} if "distillation" in ON[row] else own.get(row, set()))
    assert type(model.objective).__name__ == OBJECTIVES.get(row, "FeatureObjective")
    assert type(model.guide).__name__ == GUIDES.get(row, "NoneType")
    assert type(model.aggregator.reduction).__name__ == (
        "KeepOrDrop" if row == "adaslot" else "Merging" if "reduction" in ON[row] else "NoneType"
    )


@pytest.mark.parametrize("row", sorted(set(ON) - {"full"}))
def test_rows_share_everything_else(row: str) -> None:
    def shared(name: str) -> Any:
        plain = OmegaConf.to_container(composed(name), resolve=True)
        assert isinstance(plain, dict)
        for key in ("decoder", "teacher", "objective", "guide", "initializer", "mask_source"):
            plain["model"].pop(key, None)
        for key in ("reduction", "reinitialize", "bilevel"):
            plain["model"]["aggregator"].pop(key, None)
        for key in ("code_dim", "num_codes"):
            plain["sizes"].pop(key, None)
        plain["data"]["features"].pop("latents", None)
        for option, own, value in (("later_iterations", ("steve",), 1), ("first_iterations", LEARNED, 3)):
            if name in own:
                assert plain["model"].pop(option) == value
                plain["model"][option] = 2
        plain["trainer"].pop("weights")
        return plain

    assert shared(row) == shared("full")


def scores_of(*values: float) -> str:
    """The table of an evaluation's videos, a value for every measure that is compared."""
    names = ("video_id", "video-fg/fg_ari", "video-fg/mbo", "ocb/ari")
    lines = [(f"v{number}", value, value / 2, "" if number == 1 else value) for number, value in enumerate(values)]
    return "\n".join(",".join(map(str, line)) for line in (names, *lines)) + "\n"


def test_an_interrupted_row_is_resumed_and_a_finished_one_left_alone_if_its_options_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is killed, then stopped at the middle, then the second evaluation of four is; then all is there."""
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    compare = importlib.import_module("compare")
    folder, ran = tmp_path / "full/s7", []

    def run(script: str, *words: str) -> None:
        ran.append(script)
        given = dict(word.split("=", 1) for word in words)
        assert ("resume" in given) == (script == "train_video")
        if len(ran) in (1, 5):
            raise ValueError("cut off")
        if script == "train_video":
            assert given["out_dir"] == str(folder)
            for step in (5,) if len(ran) == 2 else (5, 10):  # a stopped training ends with 0 as a finished one does
                (folder / f"checkpoints/step_{step:06d}").mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text("max_steps: 10\n")
        else:
            scored, step = Path(given["out_dir"]), Path(given["checkpoint"]).name
            assert scored == folder / f"eval/{step}_{given['mask_source']}"
            scored.mkdir(parents=True)
            split = given["data.eval.split"]
            found = dict.fromkeys(compare.MEASURES, int(step.removeprefix("step_")) / 20) | {"about": {"split": split}}
            (scored / "metrics.json").write_text(json.dumps(found))

    monkeypatch.setattr(compare, "run", run)
    options = dict.fromkeys(("root", "encoder", "features"), "x") | dict(out_dir=str(tmp_path), after={}, own=None)
    options |= dict(first=[], train=[], evaluate=[], earlier=["data.eval.split=toss/val"])
    for end in ("cut off", "full/s7 was stopped before its last update; the same command goes on", "cut off"):
        with pytest.raises(ValueError, match=end):
            list(compare.score(OmegaConf.create(options), "full", 7))
    for _ in range(2):
        found = list(compare.score(OmegaConf.create(options), "full", 7))
    assert [(row["step"], row["split"], row["mask_source"], row["ocb/ari"]) for row, _ in found] == [
        (5, "toss/val", "decoder", 0.25), (5, "toss/val", "aggregation", 0.25),
        (10, "toss/test", "decoder", 0.5), (10, "toss/test", "aggregation", 0.5),
    ]  # fmt: skip
    cut_off = ["train_video", "train_video", "train_video", "evaluate", "evaluate"]
    assert ran == [*cut_off, "train_video", "evaluate", "evaluate", "evaluate", "train_video"]
    for name in ("train", "evaluate"):
        message = (
            rf"full/s7 was made with other options \({name} is \[\], now \['max_steps=5'\]\); name another out_dir"
        )
        with pytest.raises(ValueError, match=message):
            list(compare.score(OmegaConf.create({**options, name: ["max_steps=5"]}), "full", 7))
    with pytest.raises(ValueError, match=r"full/s7 was made with other options \(own is new\)"):
        list(compare.score(OmegaConf.create({**options, "own": {"full": ["max_steps=5"]}}), "full", 7))
    (folder / "options.json").unlink()  # as in folders of before it was kept
    with pytest.raises(ValueError, match="full/s7 was made with other options"):
        list(compare.score(OmegaConf.create(options), "full", 7))
    assert len(ran) == 10
    (folder / "options.json").write_text(
        json.dumps({name: options[name] for name in set(compare.OPTIONS) - {"own", "earlier"}})
    )
    alone = list(compare.score(OmegaConf.create({**options, "earlier": None}), "full", 7))
    assert [(row["step"], row["split"]) for row, _ in alone] == [(10, "toss/test")] * 2


def test_rows_are_compared_video_by_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of two rows; every video of the second row has 0.1 more, or 0.3 more, whatever it has in the first."""
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    compare = importlib.import_module("compare")

    def score(cfg: DictConfig, row: str, seed: int) -> Any:
        for step in (5, 10):
            folder = tmp_path / f"{row}{seed}{step}"
            folder.mkdir(exist_ok=True)
            more = (0.0 if row == "full" else 0.1 + 0.2 * seed) if step == 10 else 9.0
            (folder / "videos.csv").write_text(scores_of(*(value + more for value in (0.2, 0.5, 0.3))))
            found = {"row": row, "seed": seed, "step": step, "mask_source": "decoder"}
            yield found | dict.fromkeys(compare.MEASURES, 0.25 + seed / 4 + more), folder

    for row, seed in product(("full", "plain"), (0, 1)):
        log = [{"step": 1, "loss": 2.5}, {"step": 50, "loss": 1.5, "distillation": seed + 0.25, "step_s": 0.1}]
        (tmp_path / f"{row}/s{seed}").mkdir(parents=True)
        (tmp_path / f"{row}/s{seed}/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    monkeypatch.setattr(compare, "score", score)
    cfg = OmegaConf.create({"rows": ["full", "plain"], "own": None, "seeds": [0, 1], "out_dir": str(tmp_path)})
    for wrong in ({"rows": ["full", "plian"]}, {"own": {"plian": ["max_steps=7"]}}):
        with pytest.raises(ValueError, match=r"there is no row 'plian'; choose from adaslot, .*, plain, "):
            compare.main.__wrapped__(OmegaConf.merge(cfg, wrong))
    assert not (tmp_path / "table.md").exists()
    compare.main.__wrapped__(cfg)
    head, _, full, plain = (tmp_path / "table.md").read_text().splitlines()
    assert head.endswith("| video-fg/fg_ari, more than full | video-fg/mbo, more than full | ocb/ari, more than full |")
    assert full.endswith("| 0.375 ± 0.177 |  |  |  |")
    gains = ["+0.200 [+0.200, +0.200]", "+0.100 [+0.100, +0.100]", "+0.200 [+0.200, +0.200]"]
    assert plain == f"| plain | decoder | {' | '.join(['0.575 ± 0.318'] * 6 + gains)} |"
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
    head, *curves = (tmp_path / "curves.csv").read_text().splitlines()
    watched = "live_first,live_later,largest_share,steadiness"
    assert head == f"row,seed,step,loss,reconstruction,distillation,{watched},grad_norm"
    assert curves[2:4] == ["full,1,1,2.5,,,,,,,", "full,1,50,1.5,,1.25,,,,,"]
    assert len(curves) == 2 * 2 * 2


def test_a_row_may_begin_where_another_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    compare = importlib.import_module("compare")
    ran: list[tuple[str, ...]] = []

    def run(*words: str) -> None:
        ran.append(words)
        folder = Path(dict(word.split("=", 1) for word in words[1:])["out_dir"])
        (folder / "checkpoints/step_000001").mkdir(parents=True)
        (folder / "config.yaml").write_text("max_steps: 1\n")

    monkeypatch.setattr(compare, "run", run)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = ["first=['train_only=[decoder]']", "own={adaslot:['trainer.weights.kept=0.3'],full:['max_steps=7']}"]
        cfg = compose("compare", ["root=x", "encoder=x", "features=x", f"out_dir={tmp_path}", *words])
    assert compare.train(cfg, "adaslot", 3) == tmp_path / "adaslot/s3"
    assert [word for words in ran for word in words if word.startswith(("experiment", "out_dir", "checkpoint"))] == [
        "experiment=rows/dinosaur", f"out_dir={tmp_path}/dinosaur/s3/first",
        "experiment=rows/dinosaur", f"checkpoint={tmp_path}/dinosaur/s3/first/checkpoints/step_000001",
        f"out_dir={tmp_path}/dinosaur/s3",
        "experiment=rows/adaslot", f"checkpoint={tmp_path}/dinosaur/s3/checkpoints/last",
        f"out_dir={tmp_path}/adaslot/s3",
    ]  # fmt: skip
    assert "begin_anew=[aggregator.reduction]" in ran[-1]
    assert ["trainer.weights.kept=0.3" in words for words in ran] == [False, False, True]
    assert ["train_only=[decoder]" in words for words in ran] == [True, False, False]  # the last has its start
    assert not any("max_steps=7" in words for words in ran)  # another row's own option


def test_a_cell_has_the_sample_deviation_of_several_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    cell = importlib.import_module("_table").cell
    assert cell([0.25]) == "0.250"
    assert cell([0.1, 0.3]) == "0.200 ± 0.141"


def test_the_small_tokenizer_of_pictures_uses_many_codes_at_once() -> None:
    """With a plain codebook it is 3 of them, with Gumbel-softmax about 10."""
    torch.manual_seed(0)
    cfg = composed("pictures_small", "tokenizers")
    model = instantiate(cfg.model)
    trainer: Trainer = instantiate(cfg.trainer)
    colours = torch.randint(256, (2, 1, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    video = colours.repeat_interleave(8, -2).repeat_interleave(8, -1)  # 64 px, 4 cells a colour
    index = torch.zeros(2, 1, dtype=torch.int64)
    batch = VideoBatch(video, ["a", "b"], index, index == 0)
    optimizer = torch.optim.Adam(model.parameters(), trainer.optimization.lr)
    for step in range(40):
        terms = model(batch, Draws.for_step(0, step, range(2), progress=step / 40))
        loss = sum(value.mean() * trainer.weights.get(name, 1.0) for name, value in terms.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(model.codes(video).unique()) > 15
