"""A split's name is checked by what the videos are: source, options, file, slice, number and names."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from data_files import SHARED, Counting, reads_shared
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from dias_video.data.chosen import Chosen, sliced
from dias_video.data.physion import PhysionVideos, bad_stimuli
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.source import VideoInfo
from dias_video.data.video_file import VideoFiles
from dias_video.evaluation.splits import SPLITS, certify, fingerprint_of
from dias_video.simulate.writer import _claim

CONFIGS = Path(__file__).parents[1] / "configs"
# ImageSets/2017/val.txt of DAVIS.
LISTED = """bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl dog dogs-jump
drift-chicane drift-straight goat gold-fish horsejump-high india judo kite-surf lab-coat libby loading mbike-trick
motocross-jump paragliding-launch parkour pigs scooter-black shooting soapbox"""
DAVIS = LISTED.split()


class Named:
    """Videos of which names and number are known."""

    def __init__(self, names: list[str], annotations: str | None = None, **config: Any) -> None:
        self.names, self.config = names, config
        if annotations is not None:
            self.annotations = Path("somewhere") / annotations

    def __len__(self) -> int:
        return len(self.names)

    def info(self, index: int) -> VideoInfo:
        return VideoInfo(self.names[index], 5)

    def read(self, index, frames):
        raise AssertionError("names tell the split, no frame")


def like(kind: str, names: list[str], annotations: str | None = None, **config: Any) -> Any:
    return type(kind, (Named,), {})(names, annotations, **config)


def numbered(count: int) -> list[str]:
    return [f"v{number}" for number in range(count)]


def ytvis(count: int = 2985, annotations: str = "instances.json", split: str = "train") -> Any:
    return like("YouTubeVIS", numbered(count), annotations, split=split)


@pytest.mark.parametrize(
    ("name", "videos"),
    [
        ("ytvis_2021/train", None),
        ("ytvis_2021/last-300", "-300:"),
        ("ytvis_2021/last-300", "2685:"),
        ("ytvis_2021/first-200-of-last-300", "-300:-100"),
        ("ytvis_2021/train-but-300", ":-300"),
    ],
)
def test_parts_of_a_file(name, videos):
    part = sliced(ytvis(), videos)
    assert len(part) == SPLITS[name].videos
    assert certify(part, name) == (fingerprint_of(part), False)  # nobody publishes their names
    others = {other for other in SPLITS if other.startswith("ytvis_2021/")} - {name}
    for other in others:
        with pytest.raises(ValueError, match="these are other videos of it"):
            certify(part, other)


@pytest.mark.parametrize(
    ("source", "name", "sentence"),
    [
        (sliced(ytvis(), ":300"), "ytvis_2021/last-300", "other videos of it, or not all .*data.eval.videos=-300:"),
        (sliced(ytvis(2238), "-300:"), "ytvis_2021/last-300", "number of videos in .*instances.json is 2238, not 2985"),
        (ytvis(280, "ytvis_hq-test.json"), "ytvis_hq/validation", "it is made of somewhere/ytvis_hq-test.json"),
        (ytvis(280, "ytvis_hq-val.json"), "ytvis_hq/test", "it is made of somewhere/ytvis_hq-val.json"),
        (ytvis(split="valid"), "ytvis_2021/train", "split is 'valid', not 'train'"),
        (like("FolderVideos", numbered(250)), "movi_d/validation", "it is read by FolderVideos, not by MoviVideos"),
        (like("MoviVideos", numbered(250), split="train"), "movi_d/validation", "split is 'train', not 'validation'"),
        (like("MoviVideos", numbered(249), split="validation"), "movi_d/validation", "of videos is 249, not 250"),
        (like("DavisVideos", numbered(30), split="val", year=2017), "davis_2017/val", "its videos have other names"),
        (Chosen(ytvis(), [n for n in range(2985) if n != 7]), "ytvis_2021/train", "not all .*data.eval.videos=null"),
    ],
)  # fmt: skip
def test_other_videos_are_refused(source, name, sentence):
    with pytest.raises(ValueError, match=f"the data is not {name} .*{sentence}.*; .* or set frozen_split=null"):
        certify(source, name)


def test_an_unknown_name_is_refused_and_no_name_compares_nothing():
    with pytest.raises(ValueError, match="no split is called 'movi_d/val'; known are movi_c/train"):
        certify(Counting(), "movi_d/val")
    assert certify(Counting()) == (fingerprint_of(Counting()), False)
    assert fingerprint_of(Counting()) != fingerprint_of(sliced(Counting(), ":2"))


def test_lists_of_davis_are_known():
    for names in (DAVIS, DAVIS[::-1]):
        assert certify(like("DavisVideos", names, split="val", year=2017), "davis_2017/val").verified
    with pytest.raises(ValueError, match="other names"):
        certify(like("DavisVideos", [*DAVIS[:-1], "bear"], split="val", year=2017), "davis_2017/val")


@pytest.mark.parametrize("name", [name for name, split in SPLITS.items() if split.sources == ("SimulatedVideos",)])
def test_recipes_are_known(tmp_path: Path, name: str) -> None:
    """Clips as the simulator leaves them, of which only names and meta.json are looked at."""
    recipe, split = name.split("/")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("make_benchmark", [f"recipe={recipe}", f"root={tmp_path}"])
    variant = instantiate(config.simulate, _convert_="all")
    folder, count = tmp_path / variant.name / split, config.splits[split]
    folder.mkdir(parents=True)
    for number in range(count + 1):  # one more than the recipe has
        (folder / f"{number:05d}.json").write_text('{"num_frames": 24, "num_instances": 3}')
    _claim(variant, folder.parent, split, count + 1, config.seed)
    source = SimulatedVideos(tmp_path, f"{variant.name}/{split}")
    assert certify(sliced(source, f":{count}"), name).verified
    with pytest.raises(ValueError, match="the data is not"):
        certify(source, name)
    meta = json.loads((folder.parent / "meta.json").read_text())
    meta["splits"][split]["seed"] = 1
    (folder.parent / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="were made otherwise"):
        certify(sliced(source, f":{count}"), name)


def physion(split: str, stems: list[str]) -> PhysionVideos:
    """Videos of which only names are known."""
    source = PhysionVideos.__new__(PhysionVideos)
    source.config, source._videos = {"split": split}, VideoFiles()
    source._paths = [Path(f"{stem}.mp4") for stem in stems]
    source._infos = [VideoInfo(f"{split}/scenario/{stem}", 150) for stem in stems]
    return source


@reads_shared
def test_tables_of_physion_are_known() -> None:
    tables = SHARED / "physion_sample"
    with (tables / "readout_labels.csv").open() as file:
        readout = [row[0] for row in list(csv.reader(file))[1:]]
    assert certify(physion("readout", readout), "physion/readout").verified
    with pytest.raises(ValueError, match="the number of videos is 8004, not 8005"):
        certify(physion("readout", readout[1:]), "physion/readout")
    with (tables / "stimulus_names_and_labels.csv").open() as file:
        test = [row["stim_ID"] for row in csv.DictReader(file)]
    # The archive's names: ..._0001 is ...-redyellow_0001_img.
    stems = [f"{name[:-5]}-redyellow{name[-5:]}_img" for name in test]
    assert certify(physion("test", stems), "physion/test").verified
    clean = [stem for stem, name in zip(stems, test, strict=True) if name not in bad_stimuli()]
    assert certify(physion("test", clean), "physion/test-clean").verified
    with pytest.raises(ValueError, match="other names"):
        certify(physion("test", [*clean[1:], "another_0001"]), "physion/test-clean")
