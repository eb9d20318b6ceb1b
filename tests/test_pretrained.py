"""Models that describe themselves: what is saved comes back, what is wrong is named, nothing stored is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dias_video.data.features import encoder_hash
from dias_video.model.encoders import TinyEncoder
from dias_video.pretrained.configured import Configured, build
from dias_video.pretrained.weights import load_weights, weights_sha256
from dias_video.stores.files import sha256


class Part(Configured, nn.Module):
    def __init__(self, width: int, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(3, width)
        self.register_buffer("count", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B,3) -> (B,width)."""
        return self.linear(x) * self.scale


class Whole(Configured, nn.Module):
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
    part = {"type": "Part", "width": 4, "scale": 0.5}
    assert model.config == {"type": "Whole", "part": part, "sizes": [2, 3], "name": None}
    assert json.loads(json.dumps(model.config)) == model.config
    assert Special(Part(4)).config["type"] == "Special"


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


def test_only_classes_of_the_project_are_built(tmp_path: Path) -> None:
    for kind in ("Linear", "os.system", None, ["Part"], "__builtins__"):
        with pytest.raises(ValueError, match="unknown class"):
            build({"type": kind, "width": 3})
    Part(4).save_pretrained(tmp_path)
    config = {"format": 1, "model": {"type": "subprocess.run", "_target_": "os.system", "command": "touch hacked"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unknown class 'subprocess\.run'"):
        Part.from_pretrained(tmp_path)


def test_things_that_are_not_data_are_refused() -> None:
    with pytest.raises(TypeError, match="a function can't be part of a model's config"):
        Part(4, scale=lambda: 2)  # type: ignore[arg-type]


CONFIGS: list[tuple[Any, str]] = [
    (None, r"holds no model: .*config\.json is missing"),
    ("{", r"config\.json is damaged"),
    ("[1]", r"config\.json is damaged"),
    ({"format": 1}, r"config\.json is damaged"),
    ({"format": 2, "model": {"type": "Part", "width": 4}}, "has format 2, this version reads 1"),
    ({"format": 1, "model": {"type": "Whole", "part": {"type": "Part", "width": 4}}}, "holds a Whole, not a Part"),
    ({"format": 1, "model": {"type": "Part", "width": 5}}, r"linear\.bias has shape \(4,\), the model wants \(5,\)"),
    ({"format": 1, "model": {"type": "Part", "wide": 4}}, r"config\.json"),
    ({"format": 1, "model": ["Part"]}, r"config\.json"),
]


@pytest.mark.parametrize(("config", "message"), CONFIGS)
def test_wrong_configs_are_named(tmp_path: Path, config: Any, message: str) -> None:
    Part(4).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.unlink()
    if config is not None:
        file.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=message):
        Part.from_pretrained(tmp_path)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    model = Part(4)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors, content = load_file(file), file.read_bytes()
    save_file({**tensors, "more": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="more is unexpected"):
        load_weights(model, file)
    save_file({k: v for k, v in tensors.items() if k != "count"}, file)
    with pytest.raises(ValueError, match="count is missing"):
        load_weights(model, file)
    for broken in (b"", content[:20], content[:-3]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged .*use another checkpoint"):
            Part.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        Part.from_pretrained(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A Hub that holds ``someone/part``; what is asked of it."""
    import huggingface_hub

    asked: list[tuple[str, ...]] = []
    Part(4, scale=0.5).save_pretrained(tmp_path / "hub/someone/part")

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        file = tmp_path / "hub" / repository / name
        if not file.exists():
            raise FileNotFoundError(f"404 for {repository}\nand much more")
        return str(file)

    class Api:
        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
            asked.append(("create", repository, f"private={private}"))

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_model_from_the_hub(hub: list[tuple[str, ...]]) -> None:
    assert Part.from_pretrained("hf-hub:someone/part").config["scale"] == 0.5
    assert hub == [("someone/part", "config.json"), ("someone/part", "model.safetensors")]
    assert weights_sha256("hf-hub:someone/part") == sha256(Path("hub/someone/part/model.safetensors"))
    with pytest.raises(OSError, match=r"^the Hub has no model someone/else, .* \(404 for someone/else\)$"):
        Part.from_pretrained("hf-hub:someone/else")


def test_without_the_prefix_nothing_is_asked_of_the_hub(hub: list[tuple[str, ...]]) -> None:
    for folder in ("someone/part", "runs/x", "x", "a/b/c", "./x", "/tmp/nothing", "../x", Path("someone/part")):
        with pytest.raises(ValueError, match=r"^there is no folder "):
            Part.from_pretrained(folder)
    assert hub == []


def test_a_model_goes_to_the_hub_and_comes_back(tmp_path: Path, hub: list[tuple[str, ...]]) -> None:
    Part(6).push_to_hub("me/new")
    assert hub == [("create", "me/new", "private=True")]
    assert sorted(p.name for p in (tmp_path / "hub/me/new").iterdir()) == ["config.json", "model.safetensors"]
    assert Part.from_pretrained("hf-hub:me/new").config["width"] == 6
