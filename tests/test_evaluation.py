"""The scoring loop: protocols, accumulation, result files, prediction files; the same bits however it is run."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from data_files import write_clip
from PIL import Image
from test_report import content
from tiny import tiny_dias
from torch import Tensor

from dias_video import evaluate
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.source import VideoInfo
from dias_video.data.transforms import ClipTransform
from dias_video.evaluation.look import extremes
from dias_video.evaluation.methods import ModelTracks
from dias_video.evaluation.metrics import adjusted_rand_index, mean_best_overlap, mean_iou
from dias_video.evaluation.protocols import OCB, VIDEO_FG, score_video
from dias_video.evaluation.results import MAIN, Setting, summary_table, write_results
from dias_video.evaluation.scoring import Videos, VideoScores, score_methods
from dias_video.model import dias

ROOT = Path(__file__).parents[1]
INSTANCES = (3, 1, 0, 2, 4, 1, 2)  # of the videos below


class Blocks:
    """Videos of different lengths, some of a single instance, one of none."""

    def __len__(self) -> int:
        return len(INSTANCES)

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(f"set/{index}", 3 + index)

    def read(self, index: int, frames, keys=None) -> dict:
        generator = torch.Generator().manual_seed(index)
        masks = torch.zeros(3 + index, 12, 20, dtype=torch.int16)
        for k in range(INSTANCES[index]):
            masks[:, 2:9, 1 + 4 * k : 4 + 4 * k] = k + 1
        masks[0, :2] = -1
        video = torch.randint(0, 255, (3 + index, 3, 12, 20), generator=generator, dtype=torch.uint8)
        chosen = list(frames)
        return {
            "video": video[chosen],
            "video_id": f"set/{index}",
            "frame_index": torch.tensor(chosen),
            "masks": masks[chosen],
        }


class Noisy:
    """The truth, with ids changed at random pixels."""

    mask_source = "noise"
    background = None

    def __call__(self, sample: dict) -> torch.Tensor:
        ids = sample["masks"].long() * 3 + 1
        return torch.where(sample["video"][:, 0] < 60, 0, ids)


def scores_as_bytes(scores: VideoScores) -> bytes:
    return b"".join(np.array(list(scores.rows[i].values())).tobytes() for i in range(len(scores.video_ids)))


def test_protocols_are_the_measures_they_name() -> None:
    rng = np.random.default_rng(0)
    true = torch.from_numpy(rng.integers(-1, 4, (5, 8, 9)))
    pred = torch.from_numpy(rng.integers(0, 6, (5, 8, 9)))
    scores = score_video(pred, true)
    for name, ignore, ari in (("video-fg", True, "fg_ari"), ("ocb", False, "ari")):
        for measure, function in ((ari, adjusted_rand_index), ("mbo", mean_best_overlap), ("miou", mean_iou)):
            pooled = function(pred[None], true[None], ignore_background=ignore).item()
            assert scores[f"{name}/{measure}"] == pooled
            frames = function(pred, true, ignore_background=ignore)
            assert scores[f"{name}/per_frame/{measure}"] == pytest.approx(frames.nanmean().item(), abs=1e-15)
    assert len([name for name in scores if name.startswith("tracking/")]) == 5
    assert set(score_video(pred, true, [OCB], tracking=False)) == {n for n in scores if n.startswith("ocb/")}


def test_summary_counts_what_is_undefined_and_splits_by_instances() -> None:
    scores = score_methods({MAIN: Noisy()}, Videos(Blocks()))[MAIN]
    summary, values = scores.summary(), scores.column("video-fg/fg_ari")
    assert [math.isnan(value) for value in values] == [n == 0 for n in INSTANCES]
    assert summary["video-fg/fg_ari_undefined"] == 1
    assert summary["ocb/ari_undefined"] == 0
    defined = np.array([value for value in values if not math.isnan(value)])
    assert summary["video-fg/fg_ari"] == pytest.approx(defined.mean(), abs=1e-15)
    assert summary["video-fg/fg_ari_stderr"] == pytest.approx(defined.std(ddof=1) / math.sqrt(len(defined)), abs=1e-15)
    one = [value for value, n in zip(values, INSTANCES, strict=True) if n == 1]
    several = [value for value, n in zip(values, INSTANCES, strict=True) if n > 1]
    assert summary["video-fg/single_instance/fg_ari"] == pytest.approx(np.mean(one))
    assert summary["video-fg/multi_instance/fg_ari"] == pytest.approx(np.mean(several))
    assert scores.column("instances") == list(INSTANCES)
    assert scores.column("frames") == [3 + index for index in range(len(INSTANCES))]


def test_missing_videos_are_refused_and_repeated_ones_dropped() -> None:
    scores = VideoScores(["a", "b", "c"], ["instances", "ocb/ari"])
    scores.add(1, {"instances": 2.0, "ocb/ari": 0.5})
    scores.add(1, {"instances": 2.0, "ocb/ari": 0.5 + 1e-9})  # padding of a batch, through other kernels
    scores.add(0, {"instances": 1.0, "ocb/ari": 0.1})
    with pytest.raises(ValueError, match=r"1 of 3 videos have no score \(c\)"):
        scores.summary()
    scores.add(2, {"instances": 1.0, "ocb/ari": 0.6})
    assert scores.summary()["ocb/ari"] == pytest.approx(0.4)
    assert scores.column("ocb/ari")[1] == 0.5
    with pytest.raises(ValueError, match="only 3"):
        scores.add(3, {})
    with pytest.raises(ValueError, match="b was scored by"):
        scores.add(1, {"ocb/ari": 0.5})


def test_gathering_takes_every_row_once() -> None:
    """Two processes by turns: one has two videos, of which the other has one too; a third process has none."""

    class Together:
        num_processes, device = 3, "cpu"
        sent: ClassVar[list[torch.Tensor]] = []

        def gather(self, rows: torch.Tensor) -> torch.Tensor:
            self.sent.append(rows)
            return torch.cat(self.sent)

    value = 0.1 + 0.2
    parts = [VideoScores(["a", "b"], ["instances", "ocb/ari"]) for _ in range(3)]
    parts[0].add(1, {"instances": 2.0, "ocb/ari": value})
    parts[0].add(0, {"instances": 1.0, "ocb/ari": math.nan})
    parts[1].add(1, {"instances": 2.0, "ocb/ari": value})
    for part in parts:
        part.gather(Together())  # type: ignore[arg-type]
    assert parts[2].column("ocb/ari")[1] == value
    assert math.isnan(parts[2].column("ocb/ari")[0])
    assert parts[2].summary()["ocb/ari"] == value


def test_workers_change_no_bit() -> None:
    alone = score_methods({MAIN: Noisy()}, Videos(Blocks()))[MAIN]
    helped = score_methods({MAIN: Noisy()}, Videos(Blocks()), num_workers=2)[MAIN]
    assert scores_as_bytes(alone) == scores_as_bytes(helped)


def test_limits_and_transform() -> None:
    videos = Videos(Blocks(), ClipTransform(size=(6, 10)), max_videos=4, max_frames=2)
    scores = score_methods({MAIN: Noisy()}, videos, [VIDEO_FG], tracking=False)[MAIN]
    assert scores.column("frames") == [2] * 4
    assert (scores.column("height"), scores.column("width")) == ([6] * 4, [10] * 4)
    assert (len(videos), videos.in_split, videos[3]["num_frames"]) == (4, 7, 6)
    with pytest.raises(ValueError, match="max_videos"):
        Videos(Blocks(), max_videos=0)


def test_a_method_of_another_shape_is_refused() -> None:
    def cut(sample: dict) -> torch.Tensor:
        return sample["masks"][:, :-1]

    with pytest.raises(ValueError, match=r"set/0 has masks \(3, 12, 20\).*\(3, 11, 20\)"):
        score_methods({MAIN: cut}, Videos(Blocks()))  # type: ignore[dict-item]


class OneSlot(ModelTracks):
    """A model whose slot 0 owns every pixel."""

    def batch(self, samples: Sequence[dict]) -> list[torch.Tensor]:
        return [torch.zeros_like(sample["masks"]).long() for sample in samples]


@pytest.mark.parametrize(("boxes", "overlap"), [(True, 0), (False, 21 / 240)])  # an object of 3x7 of 12x20 pixels
def test_with_boxes_the_slot_of_the_background_tracks_no_object(boxes: bool, overlap: float) -> None:
    true = Blocks().read(1, range(4))["masks"].clamp_min(0)
    method = OneSlot(tiny_dias(boxes=True), boxes)
    scores = score_video(*method.batch([{"masks": true}]), true, background=method.background)
    assert scores["tracking/j"] == pytest.approx(overlap)


def test_videos_without_masks_are_refused() -> None:
    class Bare(Blocks):
        def read(self, index: int, frames, keys=None) -> dict:
            return {k: v for k, v in super().read(index, frames).items() if k != "masks"}

    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^set/0 has no masks to score against; evaluate on data that has them$"):
            score_methods({MAIN: Noisy()}, Videos(Bare()), num_workers=workers)


def test_result_files(tmp_path: Path) -> None:
    methods = {MAIN: Noisy(), "baselines/other": Noisy()}
    videos = Videos(Blocks(), max_videos=6)
    scores = score_methods(methods, videos)
    setting = Setting(
        "Blocks",
        "toy/val",
        "boxes",
        {name: "noise" for name in methods},
        checkpoint="ckpt",
        checkpoint_hash="abc123",
        num_slots=4,
    )
    setting = replace(setting, identity="verified", fingerprint="0f", transform={"square": True})
    content = write_results(tmp_path / "run", scores, videos, [VIDEO_FG, OCB], setting)
    read = json.loads((tmp_path / "run/metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read == content
    about = read["about"]
    assert (about["split"], about["videos"], about["videos_in_split"], about["frames"]) == ("toy/val", 6, 7, 33)
    assert (about["identity"], about["fingerprint"], about["transform"]) == ("verified", "0f", {"square": True})
    assert (about["resolution"], about["checkpoint_hash"], about["condition"]) == (["12x20"], "abc123", "boxes")
    assert about["mask_source"] == {MAIN: "noise", "baselines/other": "noise"}
    assert set(about["protocols"]) == {"video-fg", "ocb"}
    assert about["videos_with_more_instances_than_slots"] == 1  # four instances and the background on four slots
    assert about["single_instance_videos"] == 2
    assert read["video-fg/fg_ari"] == read["baselines/other/video-fg/fg_ari"]
    with (tmp_path / "run/videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["video_id"] for row in rows] == [f"set/{i}" for i in range(6)] * 2
    assert rows[2]["video-fg/fg_ari"] == ""
    assert float(rows[3]["ocb/miou"]) == scores[MAIN].rows[3]["ocb/miou"]
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["metrics.json", "videos.csv"]
    assert "| baselines/other |" in summary_table(content)
    del scores["baselines/other"].rows[4]
    with pytest.raises(ValueError, match="no score"):
        write_results(tmp_path / "none", scores, videos, [VIDEO_FG], setting)
    assert not (tmp_path / "none").exists()


def write_predictions(folder: Path, videos: Videos) -> None:
    """One video as npz, the next as indexed PNGs, and so on."""
    for index in videos.indices:
        sample = videos[index]
        maps = Noisy()(sample).numpy().astype(np.uint8)
        base = folder / sample["video_id"]
        base.parent.mkdir(parents=True, exist_ok=True)
        if index % 2:
            np.savez_compressed(f"{base}.npz", masks=maps)
            continue
        base.mkdir()
        for t, frame in enumerate(maps):
            image = Image.fromarray(frame)
            image.putpalette([255 - i // 3 for i in range(768)])  # colours that are not the ids
            image.save(base / f"{t:05d}.png")


def script(*words: str, launcher: tuple[str, ...] = (sys.executable,), ok: bool = True) -> str:
    """Run ``scripts/evaluate.py``; what it printed, of an error only stderr."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(ROOT / "scripts/evaluate.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


def test_two_processes_change_no_bit(tmp_path: Path) -> None:
    """Seven clips on two processes: the shares are unequal, so rows are padded and dropped again."""
    for index in range(7):
        true = write_clip(tmp_path / f"data/toss/val/{index:05d}", num_frames=4 + index % 3)
        (tmp_path / "maps/toss/val").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 9, true.shape)
        np.savez(tmp_path / f"maps/toss/val/{index:05d}.npz", np.where(noise > 5, noise, true))
    common = (f"predictions={tmp_path}/maps", f"data.root={tmp_path}/data", "data.size=[32,48]")
    script(*common, f"out_dir={tmp_path}/one")
    two = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no")
    launcher = (sys.executable, *two, "--num_machines", "1", "--main_process_port", "0")
    said = script(*common, f"out_dir={tmp_path}/two", launcher=launcher)
    assert "7 videos of toss/val, 2 processes" in said
    for name in ("metrics.json", "videos.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    content = json.loads((tmp_path / "one/metrics.json").read_text())
    assert content["about"]["videos"] == 7


def test_a_user_error_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    write_clip(tmp_path / "data/toss/val/00000")
    error = script(f"data.root={tmp_path}/data", f"out_dir={tmp_path}/out", f"predictions={tmp_path}", ok=False)
    assert error.strip().splitlines()[-1].startswith("error: no prediction for toss/val/00000")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_features_rehearsals_and_edges_belong_to_a_model(tmp_path: Path) -> None:
    write_clip(tmp_path / "data/toss/val/00000")
    common = (f"data.root={tmp_path}/data", f"out_dir={tmp_path}/out", f"features={tmp_path}/f")
    error = script(*common, f"predictions={tmp_path}", ok=False)
    assert error.strip().splitlines()[-1].startswith("error: features= is what a model looks at")
    error = script(*common[:2], f"predictions={tmp_path}", "rehearse=true", ok=False)
    assert error.strip().splitlines()[-1].startswith("error: rehearse=true is for a model that is given no boxes")
    shipped = Path(dias.__file__).parents[1] / "assets/dias"
    error = script(*common[:2], f"checkpoint={shipped}", "native_size=true", ok=False)
    assert error.strip().splitlines()[-1].startswith("error: native_size=true is for maps of any size")
    error = script(*common[:2], f"predictions={tmp_path}", "follow_edges=true", ok=False)
    assert error.strip().splitlines()[-1].startswith("error: follow_edges=true is for maps of a model")


def correct(pred: Tensor, true: Tensor) -> dict[str, float]:
    """A measure that nobody has: the share of pixels with the same id."""
    return {"share": float((pred == true).double().mean())}


def test_a_further_measure_stands_beside_the_others(tmp_path: Path) -> None:
    """In videos.csv and in metrics.json, of every method."""
    write_clip(tmp_path / "data/toss/val/00000")
    source = SimulatedVideos(tmp_path / "data", "toss/val")
    masks = source.read(0, range(5))["masks"]
    (tmp_path / "maps/toss/val").mkdir(parents=True)
    np.savez_compressed(tmp_path / "maps/toss/val/00000.npz", np.where(masks == 2, 2, 9))
    options = {"predictions": tmp_path / "maps", "out_dir": tmp_path / "out", "measures": {"extra": correct}}
    found = evaluate(source=source, **options)
    expected = float((masks == 2).double().mean())
    assert 0 < expected < 1
    assert found["extra/share"] == expected
    rows = list(csv.DictReader((tmp_path / "out/videos.csv").open()))
    assert [row["method"] for row in rows] == ["model", "baselines/boxes_fixed"]
    assert float(rows[0]["extra/share"]) == expected


def test_masks_are_read_from_what_is_asked_for(tmp_path: Path) -> None:
    """As if the model had been stored with it."""
    scored = {}
    for stored in ("decoder", "aggregation"):
        folder = tmp_path / stored
        tiny_dias(threshold=None, mask_source=stored).save_pretrained(folder)
        for asked in (None, "decoder", "aggregation"):
            options = {"checkpoint": folder, "transform": ClipTransform((16, 24)), "boxes": False, "report": 0}
            out = tmp_path / f"out/{stored}_{asked}"
            found = evaluate(source=Blocks(), out_dir=out, mask_source=asked, baselines=(), max_videos=2, **options)
            assert found["about"]["mask_source"][MAIN] == (asked or stored)
            scored[stored, asked] = {name: value for name, value in found.items() if name != "about"}
    read = {source: scored[source, None] for source in ("decoder", "aggregation")}
    assert read["decoder"] != read["aggregation"]
    assert all(scored[stored, asked] == read[asked] for stored in read for asked in read)
    common = {"source": Blocks(), "out_dir": tmp_path / "none"}
    with pytest.raises(ValueError, match=r"mask_source= is for a trained model: give it with checkpoint="):
        evaluate(predictions=tmp_path, mask_source="decoder", **common)
    with pytest.raises(ValueError, match=r"unknown mask_source=slots; choose from decoder, aggregation"):
        evaluate(checkpoint=folder, mask_source="slots", **common)


def test_extremes_are_the_worst_then_the_best() -> None:
    nan = math.nan
    assert extremes([0.5, nan, 0.1, 0.9, 0.3], 4) == [2, 4, 3, 0]
    assert extremes([0.5, nan, 0.1, 0.9, 0.3], 3) == [2, 4, 3]
    assert extremes([0.5, 0.1], 9) == [1, 0]
    assert extremes([nan, nan], 1) == [0]


def test_the_page_of_an_evaluation_shows_its_worst_and_best_videos(tmp_path: Path) -> None:
    write_predictions(tmp_path / "maps", Videos(Blocks()))
    options = {"predictions": tmp_path / "maps", "source": Blocks(), "baselines": (), "device": "cpu"}
    evaluate(**options, out_dir=tmp_path / "out", report=3)
    (group,) = content(tmp_path / "out/report.html")
    assert group["notes"][0] == "3 of 7 videos: the worst by video-fg/mbo first, then the best."
    with (tmp_path / "out/videos.csv").open() as file:
        scored = {row["video_id"]: row["video-fg/mbo"] for row in csv.DictReader(file)}
    ranked = sorted((name for name in scored if scored[name]), key=lambda name: float(scored[name]))
    shown = [video["name"] for video in group["videos"]]
    assert shown == [*ranked[:2], ranked[-1]]
    facts = dict(group["videos"][0]["facts"])
    assert facts["video-fg/mbo"] == f"{float(scored[shown[0]]):.3f}"
    assert facts["frames"] == str(3 + int(shown[0][-1]))
    assert [panel["title"] for panel in group["videos"][0]["panels"]] == ["video", "slots", "truth"]
    evaluate(**options, out_dir=tmp_path / "none", report=0)
    assert not (tmp_path / "none/report.html").exists()


def test_the_page_of_a_model_has_its_attention(tmp_path: Path) -> None:
    tiny_dias().save_pretrained(tmp_path / "model")
    options = {"source": Blocks(), "transform": ClipTransform((16, 24)), "baselines": (), "device": "cpu"}
    evaluate(checkpoint=tmp_path / "model", out_dir=tmp_path / "out", report=1, **options)
    ((video,),) = [group["videos"] for group in content(tmp_path / "out/report.html")]
    assert video["heat"]["grid"] == [2, 3]
    assert {str(track["id"]) for track in video["tracks"]} == {i for maps in video["heat"]["frames"] for i in maps}
