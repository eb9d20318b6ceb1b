"""What training starts from: weights of the same configuration, encoders that were asked for, enough options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_files import write_clip
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file
from test_pretrained import Part, Whole
from test_script_options import run, sentence
from torch import Tensor, nn

from dias_video.model.dias import DIAS
from dias_video.model.distillation import Distillation
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.pretrained.saving import start_from
from dias_video.pretrained.weights import read_weights

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "dias_video/assets/dias"


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_model_starts_from_one_of_the_same_configuration_alone(tmp_path: Path) -> None:
    """The scale of a part leaves no trace in the shapes of the weights."""
    saved = Whole(Part(4, scale=0.5))
    saved.save_pretrained(tmp_path)
    same = Whole(Part(4, scale=0.5))
    start_from(same, tmp_path)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in saved.state_dict().items())
    other = Whole(Part(4, scale=3.0), name="b")
    before = weights_of(other)
    message = r"part.scale is 0.5, now 3.0; use its options, or say what may differ: changed=\[name,part.scale\]"
    with pytest.raises(ValueError, match=message):
        start_from(other, tmp_path)
    with pytest.raises(ValueError, match=r"another configuration: name is None, now 'b'; .*changed=\[name\]"):
        start_from(other, tmp_path, ["part.scale"])
    with pytest.raises(ValueError, match="class Whole where Part is needed; name the folder of a Part model"):
        start_from(Part(4), tmp_path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in before.items())
    start_from(other, tmp_path, ["part.scale", "name"])
    assert torch.equal(other.part.linear.weight, saved.part.linear.weight)


def test_a_part_that_begins_anew_may_be_another(tmp_path: Path) -> None:
    saved = Whole(Part(4, scale=0.5))
    saved.save_pretrained(tmp_path)
    other = Whole(Part(6, scale=3.0))
    before = weights_of(other)
    start_from(other, tmp_path, begin_anew=["part"])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="name is None"):
        start_from(Whole(Part(6, scale=3.0), name="b"), tmp_path, begin_anew=["part"])


@pytest.mark.parametrize("experiment", ["demo", "toss"])
def test_the_shipped_model_starts_its_experiments(experiment: str) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = [f"experiment/train_video={experiment}", "data.root=x", "out_dir=x", "model.encoder.weights=random"]
        model = instantiate(compose("train_video", words).model)
    start_from(model, SHIPPED)
    expected = DIAS.from_pretrained(SHIPPED).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_training_without_options_says_what_there_is_to_say(tmp_path: Path) -> None:
    code, output = run("train_video")
    assert code == 1
    said = sentence(output)
    assert said.startswith("error: say what to train: experiment=<")
    assert {"coco", "movi_d", "ytvis", "physion"} <= set(said.partition("<")[2].partition(">")[0].split(", "))
    assert said.endswith("> data.root=<folder of the data> out_dir=<run folder>")


def test_what_an_experiment_sets_can_be_switched_off(tmp_path: Path) -> None:
    words = ("experiment=ytvis", "data=ytvis", "data.root=/nowhere", "checkpoint=x", f"out_dir={tmp_path / 'out'}")
    code, output = run("evaluate", *words, "frozen_split=null", "max_frames=null")
    assert code == 1
    assert "/nowhere" in sentence(output)  # the options are right, there is no data


@pytest.mark.parametrize("name", ["train_video", "cache_features"])
def test_an_encoder_of_random_weights_is_asked_for_and_announced(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / "toss/train/00000", num_frames=2)
    out = "path" if name == "cache_features" else "out_dir"
    words = ["data=simulated", "model=tiny_free", f"data.root={tmp_path}", f"{out}={tmp_path / 'out'}"]
    words += ["max_steps=1", "trainer.num_workers=0", "data.clip.num_frames=2"] if name == "train_video" else []
    code, output = run(name, *words)
    expected = "error: model.encoder.weights is missing; add model.encoder.weights=<value> to the command"
    assert (code, sentence(output)) == (1, expected)
    code, output = run(name, *words, "model.encoder.weights=random")
    assert code == 0, output
    assert "the encoder is frozen with random weights" in output


def test_whitening_sees_the_part_of_the_frames_that_training_sees(tmp_path: Path) -> None:
    write_clip(tmp_path / "toss/train/00000", num_frames=4)  # 32 x 48 pixels
    Distillation(TinyEncoder(8, width=8, depth=1), 8).save_pretrained(tmp_path / "distilled")
    common = (f"checkpoint={tmp_path / 'distilled'}", f"data.root={tmp_path}", "stride=1")

    def whitened(square: str, name: str, *more: str) -> dict[str, Tensor]:
        where = (f"data.eval_transform.square={square}", f"out_dir={tmp_path / name}")
        code, output = run("whiten_encoder", *common, *where, *more)
        assert code == 0, output
        return read_weights(tmp_path / name)

    one, same, whole = whitened("true", "a"), whitened("true", "b"), whitened("false", "c")
    for option in ("kept=0.5", "smoothness=0.5", "turned_back=true"):
        other = whitened("true", option, option)
        assert not torch.allclose(other["head.1.weight"], one["head.1.weight"], rtol=0.01), option
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, whole[name]) for name, value in one.items())
    assert torch.equal(whitened("true", "few", "feature_dim=5")["head.1.weight"], one["head.1.weight"][:5])


def test_a_tiny_encoder_learns_from_the_features_of_any_encoder(tmp_path: Path) -> None:
    """The commands of docs/training.md."""
    write_clip(tmp_path / "toss/train/00000", num_frames=2)  # 512 tokens, for 128 features
    data, white = f"data.root={tmp_path}", str(tmp_path / "white")

    def done(script: str, *words: str) -> None:
        code, output = run(script, *words, data)
        assert code == 0, output

    of_dinov2 = ("model=dinov2", "model.encoder.weights=random", "feature_dim=128", "smoothness=0.5", "stride=1")
    done("whiten_encoder", *of_dinov2, f"out_dir={white}")
    teacher = (f"model.encoder.weights={white}", "+model.encoder.feature_dim=128")
    done("cache_features", "model=dinov2", *teacher, "data=simulated", f"path={tmp_path / 'teacher'}")
    words = ["experiment=distill", f"data.features.path={tmp_path / 'teacher'}", "max_steps=1", "trainer.num_workers=0"]
    done("train_video", *words, f"out_dir={tmp_path / 'out'}")
    student = ("smoothness=0.25", "stride=1", f"out_dir={tmp_path / 'encoder'}")
    done("whiten_encoder", f"checkpoint={tmp_path / 'out/checkpoints/last'}", *student)
    assert read_weights(tmp_path / "encoder")["head.1.weight"].shape == (64, 96)


def test_whitening_takes_the_encoder_of_a_configuration(tmp_path: Path) -> None:
    write_clip(tmp_path / "toss/train/00000", num_frames=4)
    size = "model.encoder.input_size=[126,168]"  # 108 tokens a frame, for 384 features
    words = ("model=dinov2", "model.encoder.weights=random", size, "kept=0.5", "turned_back=true", "stride=1")
    code, output = run("whiten_encoder", *words, f"data.root={tmp_path}", f"out_dir={tmp_path / 'half'}")
    assert code == 0, output
    assert "the encoder is frozen with random weights" in output
    assert read_weights(tmp_path / "half")["head.1.weight"].shape == (384, 384)


def test_more_features_than_there_are_are_refused_before_videos_are_read(tmp_path: Path) -> None:
    write_clip(tmp_path / "toss/train/00000", num_frames=4)
    (tmp_path / "toss/train/00000.mp4").write_bytes(b"")
    common = ("model=dinov2", "model.encoder.weights=random", f"data.root={tmp_path}", f"out_dir={tmp_path / 'out'}")
    code, output = run("whiten_encoder", *common, "feature_dim=385")
    assert (code, sentence(output)) == (1, "error: the encoder has 384 features, of which 385 can't be kept")


def test_the_small_model_s_recipe_takes_whitened_features_of_dinov2(tmp_path: Path) -> None:
    write_clip(tmp_path / "toss/train/00000", num_frames=4)
    size = ("model.encoder.input_size=[98,126]", f"data.root={tmp_path}")  # 63 tokens a frame
    words = ("model=dinov2", "model.encoder.weights=random", "feature_dim=128", "smoothness=0.5", "stride=1")
    code, output = run("whiten_encoder", *words, *size, f"out_dir={tmp_path / 'white'}")
    assert code == 0, output
    words = (
        "model=dinov2_whitened",
        f"model.encoder.weights={tmp_path / 'white'}",
        "max_steps=1",
        "trainer.num_workers=0",
    )
    grid = ("sizes.num_tokens=63", "sizes.grid=[7,9]", "data.clip={num_frames: 2, stride: 1}")
    code, output = run("train_video", *words, *size, *grid, f"out_dir={tmp_path / 'out'}")
    assert code == 0, output
    weights = load_file(tmp_path / "out/checkpoints/last/model.safetensors")
    assert weights["aggregator.attention.query.weight"].shape == (128, 128)


def test_a_checkpoint_brings_the_encoder_that_the_configuration_leaves_open(tmp_path: Path) -> None:
    write_clip(tmp_path / "toss/train/00000", num_frames=2)
    words = ["experiment=toss", f"checkpoint={SHIPPED}", f"data.root={tmp_path}", f"out_dir={tmp_path / 'out'}"]
    words += ["max_steps=1", "trainer.num_workers=0", "data.clip={num_frames: 2, stride: 1}"]
    code, output = run("train_video", *words)
    assert code == 0, output
    last = tmp_path / "out/checkpoints/last"
    said = f"the trained model lies in {last}; other scripts take it as checkpoint={last}"
    assert output.splitlines()[-1] == said
    before = load_file(SHIPPED / "model.safetensors")
    after = weights_of(DIAS.from_pretrained(last))
    frozen = [name for name in before if name.startswith("encoder.")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)


def test_slots_on_another_encoder_than_their_tokenizer_s_are_refused(tmp_path: Path) -> None:
    """A small tokenizer of 64-d features, whose encoder is not the shipped one."""
    tiny = ["_target_=dias_video.model.tiny_encoder.TinyEncoder", "input_size=[128,128]", "weights=random"]
    words = [f"model.backbone.{word}" for word in (*tiny, "feature_dim=64")]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = ["experiment/train_video=tokenizers/features_small", "sizes.feature_dim=64", *words]
        instantiate(compose("train_video", words).model).save_pretrained(tmp_path / "tokenizer")
    write_clip(tmp_path / "toss/train/00000", num_frames=2)
    words = ["data=simulated", f"data.root={tmp_path}", f"out_dir={tmp_path / 'out'}", "data.clip.num_frames=2"]
    words += ["model=tiny_free", f"model.encoder.weights={SHIPPED}", "model.encoder.color=6.0", "system=dias_vvo"]
    words += ["sizes.code_dim=64", f"model.objective.tokenizer.folder={tmp_path / 'tokenizer'}"]
    code, output = run("train_video", *words)
    expected = "error: the tokenizer was trained on the features of another encoder than model.encoder; train it with "
    assert code == 1
    assert sentence(output).startswith(expected)
    assert not (tmp_path / "out").exists()
