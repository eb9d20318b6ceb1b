"""Models on the Hub: one snapshot of a named revision, a card for what is uploaded; the network is a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_pretrained import Part

from dias_video.pretrained.weights import pinned, weights_sha256
from dias_video.stores.files import sha256

COMMIT, EARLIER = "c0ffee1", "dec0de2"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A Hub that holds ``someone/part`` in two revisions; what is asked of it."""
    import huggingface_hub

    asked: list[tuple[str, ...]] = []
    Part(4, scale=0.5).save_pretrained(tmp_path / "hub/someone/part" / COMMIT)
    Part(4, scale=0.25).save_pretrained(tmp_path / "hub/someone/part" / EARLIER)
    names = {"None": COMMIT, "main": COMMIT, "v1": EARLIER, COMMIT: COMMIT, EARLIER: EARLIER}

    def snapshot_download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, str(revision)))
        assert sorted(allow_patterns) == ["config.json", "frozen.safetensors", "model.safetensors"]
        folder = tmp_path / "hub" / repository / names.get(str(revision), "nothing")
        if not folder.is_dir():
            raise RuntimeError(f"404 for {repository}\nand much more")
        return str(folder)

    class Api:
        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
            asked.append(("create", repository, f"private={private}"))

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id / COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_model_from_the_hub(hub: list[tuple[str, ...]]) -> None:
    assert Part.from_pretrained("hf-hub:someone/part").config["scale"] == 0.5
    assert Part.from_pretrained("hf-hub:someone/part@v1").config["scale"] == 0.25
    assert hub == [("someone/part", "None"), ("someone/part", "v1")]  # one snapshot for config and weights
    assert weights_sha256("hf-hub:someone/part@v1") == sha256(Path(f"hub/someone/part/{EARLIER}/model.safetensors"))
    for name in ("someone/else", "someone/part@v9"):
        with pytest.raises(OSError, match=rf"^the Hub has no model {name}, .* \(404 for {name.split('@')[0]}\)$"):
            Part.from_pretrained(f"hf-hub:{name}")


def test_results_keep_the_revision_that_was_read(hub: list[tuple[str, ...]]) -> None:
    for name, commit in (("", COMMIT), ("@main", COMMIT), ("@v1", EARLIER), (f"@{EARLIER}", EARLIER)):
        assert pinned(f"hf-hub:someone/part{name}") == f"hf-hub:someone/part@{commit}"
    asked = len(hub)
    assert pinned(Path("runs/me@home")) == "runs/me@home"
    assert len(hub) == asked


def test_without_the_prefix_nothing_is_asked_of_the_hub(hub: list[tuple[str, ...]]) -> None:
    for folder in ("someone/part", "runs/x", "x", "a/b/c", "./x", "/tmp/nothing", "../x", Path("someone/part")):
        with pytest.raises(ValueError, match=r"^there is no folder "):
            Part.from_pretrained(folder)
    assert hub == []


def test_a_model_goes_to_the_hub_and_comes_back(tmp_path: Path, hub: list[tuple[str, ...]]) -> None:
    Part(6).push_to_hub("me/new")
    assert hub == [("create", "me/new", "private=True")]
    pushed = tmp_path / "hub/me/new" / COMMIT
    assert sorted(p.name for p in pushed.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert Part.from_pretrained("hf-hub:me/new").config["width"] == 6
    card = (pushed / "README.md").read_text()
    assert "A `test_pretrained.Part` of 24 parameters" in card  # 3 x 6 and 6
    assert card.count("Not told.") == 4


def test_the_card_says_what_a_model_was_made_of(tmp_path: Path, hub: list[tuple[str, ...]]) -> None:
    run = tmp_path / "run"
    Part(6).save_pretrained(run / "checkpoints/step_000004")
    command = ["scripts/train_video.py", "data.root=my videos", "out_dir=run"]
    (run / "run.json").write_text(json.dumps({"command": command, "git_commit": "abc123+changes"}))
    (run / "config.yaml").write_text("data:\n  train: {split: toss/train}\nmax_steps: 4\n")
    about = {"source": "SimulatedVideos", "split": "toss/test", "videos": 3}
    (tmp_path / "metrics.json").write_text(json.dumps({"about": about, "video-fg/mbo": 0.51234, "ocb/ari": None}))
    (run / "checkpoints/last").symlink_to("step_000004")
    model = Part.from_pretrained(run / "checkpoints/last")  # which knows the run that it lies in
    model.push_to_hub("me/made", metrics=tmp_path / "metrics.json", licence="cc-by-4.0")
    Part(6).push_to_hub("me/told", run=run, metrics=tmp_path / "metrics.json", licence="cc-by-4.0")
    cards = [(tmp_path / "hub/me" / name / COMMIT / "README.md").read_text() for name in ("made", "told")]
    assert cards[0].replace("me/made", "me/told") == cards[1]
    for said in (
        "license: cc-by-4.0\n", "split: toss/train\n", "scripts/train_video.py 'data.root=my videos' out_dir=run\n",
        "abc123+changes\n", "source SimulatedVideos, split toss/test, videos 3.", "| video-fg/mbo | 0.5123 |\n",
    ):  # fmt: skip
        assert said in cards[0]
    assert "Not told" not in cards[0]
    sent = tmp_path / "hub/me/made" / COMMIT / "metrics.json"
    assert sent.read_bytes() == (tmp_path / "metrics.json").read_bytes()


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[1]", b"[" * 100_000])
def test_nothing_is_uploaded_with_a_broken_record(tmp_path: Path, hub: list[tuple[str, ...]], content: Any) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^.*metrics\.json is damaged .*; name the folder of a run, or a metrics\.json$"
    ):
        Part(6).push_to_hub("me/new", metrics=tmp_path / "metrics.json")
    assert hub == []
