"""Every data set, as it is downloaded and unpacked, is opened by its config alone."""

import data_layouts as layouts
import pytest
import torch
from data_files import assert_same
from data_layouts import CONFIGS, composed
from physion15_files import write_physion15

from dias_video.data.loading import ClipDataset
from dias_video.data.transforms import ClipTransform

FRAMES = {"video", "video_id", "frame_index"}
MASKED = FRAMES | {"masks", "boxes", "box_valid"}
# Options, miniature, and of training and evaluation: number of videos, what a sample has, pixels of its first object.
ROWS = {
    "ytvis": (["data=ytvis"], layouts.ytvis_2021, (1, MASKED, 100), (1, FRAMES, 0)),
    "ytvis 2019": (["data=ytvis"], layouts.ytvis_2019, (1, MASKED, 100), (1, FRAMES, 0)),
    "ytvis_hq": (["data=ytvis_hq"], layouts.ytvis_hq, (1, MASKED, 100), (1, MASKED, 100)),
    "ytvis_hq flat": (["data=ytvis_hq"], layouts.ytvis_hq_flat, (1, MASKED, 100), (1, MASKED, 100)),
    "davis": (["data=davis"], layouts.davis, (1, MASKED, 50), (1, MASKED, 50)),
    "davis unsupervised": (
        ["data=davis"],
        lambda root: layouts.davis(root, "Annotations_unsupervised"),
        (1, MASKED, 50),
        (1, MASKED, 50),
    ),
    "davis 2016": (["data=davis", "data.year=2016"], layouts.davis_2016, (1, MASKED, 100), (1, MASKED, 100)),
    "coco": (["data=coco"], layouts.coco, (1, MASKED, 100), (1, MASKED, 100)),
    "coco_panoptic": (["data=coco_panoptic"], layouts.coco_panoptic, (1, MASKED, 100), (1, MASKED, 100)),
    "voc": (["data=voc"], layouts.voc, (2, MASKED, 50), (1, MASKED, 50)),
    "voc_leaking": (["data=voc_leaking"], layouts.voc, (3, MASKED, 50), (2, MASKED, 50)),
    "clevrtex": (["data=clevrtex"], layouts.clevrtex, (16, MASKED, 50), (2, MASKED, 50)),
    "clevrtex outd": (
        ["data=clevrtex", "data.eval.variant=outd", "data.eval.split=all", "data.train.split=all"],
        lambda root: (layouts.clevrtex(root), layouts.clevrtex(root, "outd", 5)),
        (20, MASKED, 50),
        (5, MASKED, 50),
    ),
    "movi": (["data=movi"], layouts.movi, (3, MASKED, 15), (3, MASKED, 15)),
    "simulated": (["data=simulated"], layouts.simulated, (1, MASKED, 0), (1, MASKED, 0)),
    "contact": (
        ["data=contact"],
        layouts.contact,
        (1, MASKED | {"label", "scenario"}, 0),
        (1, MASKED | {"label", "scenario"}, 0),
    ),
    "surprise": (
        ["data=surprise"],
        layouts.surprise,
        (1, MASKED | {"label", "scenario"}, 0),
        (1, MASKED | {"label", "scenario"}, 0),
    ),
    "physion": (
        ["data=physion"],
        layouts.physion,
        (1, FRAMES | {"scenario"}, 0),
        (1, FRAMES | {"label", "scenario"}, 0),
    ),
    "physion15": (
        ["data=physion15"],
        write_physion15,
        (16, FRAMES | {"label", "scenario"}, 0),
        (16, FRAMES | {"label", "scenario"}, 0),
    ),
    "images": (["data=images"], layouts.images, (2, FRAMES, 0), (2, FRAMES, 0)),
    "folder": (["data=folder"], layouts.folder, (1, FRAMES, 0), (1, FRAMES, 0)),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda name: name.replace(" ", "-"))
def test_layouts_as_downloaded(tmp_path, row):
    words, write, *expected = ROWS[row]
    write(tmp_path)
    cfg = composed(*words, f"data.root={tmp_path}", "data.size=[16,24]")
    for name, (count, keys, pixels) in zip(("train", "eval"), expected, strict=True):
        source = layouts.opened(cfg, name)
        assert len(source) == count
        assert [problem for problem in getattr(source, "problems", []) if not problem.harmless] == []
        sample = source.read(0, [0])
        assert sample.keys() == keys
        assert int((sample.get("masks", torch.zeros(1)) == 1).sum()) == pixels
        assert "video" not in source.read(0, [0], ())
        square = ClipTransform((16, 24), flip=0.5, square=True)
        for wanted in (("masks", "boxes"), ("boxes",), ()):  # without frames the rest is the same
            one, whole = (ClipDataset(source, 1, transform=square, keys=names)[0, 0] for names in (wanted, None))
            assert "video" not in one
            assert_same(one, {key: whole[key] for key in one})
        transformed = ClipTransform([16, 24])(sample, torch.Generator())
        assert transformed["video"].shape == (1, 3, 16, 24)


def test_every_data_config_has_a_row():
    names = {file.stem for file in (CONFIGS / "data").glob("*.yaml")} - {"base"}
    assert len(names) > 8
    assert names == {words[0].removeprefix("data=") for words, *_ in ROWS.values()}


def test_every_data_config_stands_in_the_docs():
    told = (CONFIGS.parent / "docs/data.md").read_text()
    assert [words[0] for words, *_ in ROWS.values() if f"`{words[0]}" not in told] == []


def test_every_set_of_the_docs_has_a_miniature():
    assert layouts.table_of_the_docs().keys() == layouts.SETS.keys()


@pytest.mark.parametrize("name", layouts.SETS)
def test_the_docs_train_on_the_set_of_their_row(name):
    """With a named experiment, whose encoder is no random one."""
    options, words = layouts.table_of_the_docs()[name]
    assert words[0].startswith("experiment=")
    words[0] = words[0].replace("experiment=", "experiment/train_video=")
    trained, opened = composed(*words, "data.root=x"), composed(*options, "data.root=x")
    assert trained.data.train._target_ == opened.data.train._target_
    assert trained.data.get("annotations") == opened.data.get("annotations")
    if trained.checkpoint is None:
        assert trained.model.encoder.weights == "hub"
