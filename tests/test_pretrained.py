"""Models that describe themselves: what is saved comes back, what is wrong is named, nothing stored is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.pretrained.configured import Configured, build
from dias_video.pretrained.saving import Pretrained
from dias_video.pretrained.weights import encoder_hash, load_weights, read_weights


class Part(Pretrained, nn.Module):
    def __init__(self, width: int, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(3, width)
        self.register_buffer("count", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B,3) -> (B,width)."""
        return self.linear(x) * self.scale


class Whole(Pretrained, nn.Module):
    def __init__(self, part: Part, sizes: tuple[int, ...] = (5, 7), name: str | None = None) -> None:
        super().__init__()
        self.part, self.sizes, self.name = part, sizes, name

    def forward(self, x: Tensor) -> Tensor:
        """(B,3) -> (B,width)."""
        return self.part(x)


class Special(Whole):
    """A subclass that keeps its parent's constructor."""


def test_the_config_is_the_constructor() -> None:
    model = Whole(Part(4, scale=0.5), sizes=[2, 3])
    part = {"type": f"{__name__}.Part", "width": 4, "scale": 0.5}
    assert model.config == {"type": f"{__name__}.Whole", "part": part, "sizes": [2, 3], "name": None}
    assert json.loads(json.dumps(model.config)) == model.config
    assert Special(Part(4)).config["type"] == f"{__name__}.Special"


class Filled(Configured):
    def __init__(self, fill: object) -> None:
        self.fill = fill


class Named(Filled):
    def __init__(self, name: str) -> None:
        super().__init__(lambda: name)


def test_what_the_constructor_of_a_subclass_was_given_is_what_counts() -> None:
    assert Named("x").config == {"type": f"{__name__}.Named", "name": "x"}
    assert build(Named("x").config).fill() == "x"
    with pytest.raises(TypeError, match="a function can't be part"):
        Filled(lambda: 1)


def test_whole_numbers_where_floats_are_meant_are_floats() -> None:
    """4 and 4.0 make the same model, so they make the same config, text and hash alike."""
    assert [json.dumps(Part(4, scale=scale).config["scale"]) for scale in (3, 3.0)] == ["3.0", "3.0"]
    assert json.dumps(Part(4).config["width"]) == "4"
    tiny = {"feature_dim": 5, "width": 8, "depth": 1, "input_size": (16, 24)}
    plain, written = TinyEncoder(**tiny, color=4), TinyEncoder(**tiny, color=4.0)
    written.load_state_dict(plain.state_dict())
    assert encoder_hash(plain) == encoder_hash(written)
    other = TinyEncoder(**tiny, color=4.5)
    other.load_state_dict(plain.state_dict())
    assert encoder_hash(other) != encoder_hash(plain)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model = Special(Part(4, scale=0.5), name="x")
    model.part.count += 3
    model.save_pretrained(tmp_path / "a/b")
    again = Whole.from_pretrained(tmp_path / "a/b")
    assert type(again) is Special
    assert again.config == model.config
    x = torch.randn(6, 3)
    assert torch.equal(again(x), model(x))
    assert torch.equal(again.part.count, model.part.count)
    assert {p.name for p in (tmp_path / "a/b").iterdir()} == {"config.json", "model.safetensors"}


HERE = f"{__name__}."


def test_only_classes_of_the_allow_list_are_built(tmp_path: Path) -> None:
    kinds = ("Linear", "torch.nn.Linear", "os.system", None, [HERE + "Part"], "__builtins__", "Part", "", ".Part")
    tricks = ("dias_video.data.index.os.system", "dias_video.stores.files.Path", "dias_video..Part", "evil.Part")
    tricks += ("dias_video.evaluation.metrics.OverlapTable", "dias_video_evil.Part", f"{HERE}Part.from_pretrained")
    for kind in (*kinds, *tricks):
        with pytest.raises(ValueError, match="unknown class"):
            build({"type": kind, "width": 3})
        with pytest.raises(ValueError, match="unknown class"):
            build({"type": HERE + "Whole", "part": {"type": kind, "width": 3}})
    Part(4).save_pretrained(tmp_path)
    config = {"type": "subprocess.run", "_target_": "os.system", "command": "touch hacked"}
    (tmp_path / "config.json").write_text(json.dumps({"format": 2, "model": config}))
    with pytest.raises(ValueError, match=r"unknown class 'subprocess\.run'"):
        Part.from_pretrained(tmp_path)


def test_nothing_is_made_of_a_config_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(Part, "__init__", lambda self, width: made.append(width))
    with pytest.raises(
        ValueError, match="a model of class Part where Whole is needed; name the folder of a Whole model"
    ):
        build({"type": HERE + "Part", "width": 3}, Whole)
    assert made == []


def test_a_class_is_imported_when_a_file_names_it() -> None:
    code = """
from dias_video.pretrained.configured import Configured, build, path_of
import sys
assert "dias_video.model.transition" not in sys.modules
print(type(build({"type": "dias_video.model.transition.Transition", "slot_dim": 8})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Transition\n"


def test_a_second_class_of_one_name_is_refused() -> None:
    def define(name: str, module: str) -> None:
        type(name, (Configured,), {"__module__": module})

    define("Part", __name__)  # of the same module: a cell of a notebook is run again
    with pytest.raises(TypeError, match=rf"{__name__}\.Part is called Part already; .* in __main__ other"):
        define("Part", "__main__")
    with pytest.raises(TypeError, match=r"dias_video\.model\.tiny_encoder\.TinyEncoder is called TinyEncoder already"):
        define("TinyEncoder", "notebook")
    Configured.known["Part"] = Part


def test_weights_are_not_fetched_because_a_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def create_model(name: str, pretrained: bool, **options: Any) -> None:
        asked.append((name, pretrained, options["pretrained_cfg_overlay"]))
        raise RuntimeError("enough")

    monkeypatch.setattr("timm.create_model", create_model)
    for weights in ("hub", "/some/where.pth", "/some/where.safetensors"):
        with pytest.raises(ValueError, match="enough"):
            build({"type": "dias_video.model.encoders.TimmEncoder", "name": "vit_tiny", "weights": weights})
    assert asked == [("vit_tiny", False, None)] * 3
    with pytest.raises(ValueError, match="names a place and not a model of timm"):
        build({"type": "dias_video.model.encoders.TimmEncoder", "name": "hf-hub:someone/else"})
    assert len(asked) == 3


def test_things_that_are_not_data_are_refused() -> None:
    with pytest.raises(TypeError, match="a function can't be part of a config"):
        Part(4, scale=lambda: 2)  # type: ignore[arg-type]


PART = {"type": HERE + "Part", "width": 4}
CONFIGS: list[tuple[Any, str]] = [
    (None, r"holds no model: .*config\.json is missing"),
    ("{", r"config\.json is damaged"),
    ("[1]", r"config\.json is damaged"),
    (b"\xff", r"config\.json is damaged"),
    ("[" * 100_000, r"config\.json is damaged"),
    ({"format": 2}, r"config\.json is damaged"),
    ({"format": 1, "model": PART}, "has format 1, this version reads 2; use another checkpoint"),
    ({"format": 3, "model": PART}, "has format 3, this version reads 2"),
    (
        {"format": 2, "model": {"type": HERE + "Whole", "part": PART}},
        "config.json describes a model of class Whole where Part is needed; name the folder",
    ),
    ({"format": 2, "model": {**PART, "width": 5}}, r"linear\.bias has shape \(4,\), the model wants \(5,\)"),
    ({"format": 2, "model": {**PART, "width": "4"}}, r"config\.json .*a Part can't be made of its stored arguments"),
    ({"format": 2, "model": {"type": HERE + "Part", "wide": 4}}, r"config\.json"),
    ({"format": 2, "model": {**PART, "_args_": []}}, r"config\.json .*_args_"),
    ({"format": 2, "model": ["Part"]}, r"config\.json"),
]


def text(config: Any) -> str:
    return config if isinstance(config, str) else json.dumps(config)


@pytest.mark.parametrize(("config", "message"), CONFIGS)
def test_wrong_configs_are_named(tmp_path: Path, config: Any, message: str) -> None:
    Part(4).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.unlink()
    if config is not None:
        file.write_bytes(config if isinstance(config, bytes) else text(config).encode())
    with pytest.raises(ValueError, match=message):
        Part.from_pretrained(tmp_path)


@pytest.mark.parametrize("inner", ["checkpoints/last", "last"])
def test_a_run_folder_is_answered_with_its_checkpoint(tmp_path: Path, inner: str) -> None:
    Part(4).save_pretrained(tmp_path / inner)
    with pytest.raises(ValueError, match=rf"holds no model: .*is missing; name {tmp_path}/{inner}$"):
        Part.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"model\.safetensors is missing; name {tmp_path}/{inner}$"):
        read_weights(tmp_path)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    model = Part(4)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors, content = load_file(file), file.read_bytes()
    save_file({**tensors, "more": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="more is unexpected"):
        load_weights(model, tmp_path)
    save_file({k: v for k, v in tensors.items() if k != "count"}, file)
    with pytest.raises(ValueError, match="count is missing"):
        load_weights(model, tmp_path)
    for broken in (b"", content[:20], content[:-3]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged .*use another checkpoint"):
            Part.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        Part.from_pretrained(tmp_path)
