"""Every data set in miniature, as it is downloaded and unpacked, opened by its config alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_clip
from data_records import write_movi
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from dias_video.data.transforms import ClipTransform

CONFIGS = Path(__file__).parents[1] / "configs"
SIZE = (24, 40)  # (H,W)
BOX = [[4, 6, 14, 6, 14, 16, 4, 16]]  # 10 x 10 pixels of one object
PALETTE = [value * 37 % 256 for value in range(768)]


def composed(*words):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train_video", [*words, "out_dir=unused"]).data


def picture(path, mode="RGB", size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], (90, 40, 20) if mode == "RGB" else 0).save(path)


def mask(path, void=255, count=2):
    """A paletted mask: objects of 10 x 5 pixels, a line of ``void`` beside them."""
    ids = np.zeros(SIZE, np.uint8)
    for k in range(count):
        ids[6:16, 4 + 5 * k : 9 + 5 * k] = k + 1
    ids[6:16, 4 + 5 * count] = void
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = Image.fromarray(ids, mode="P")
    shown.putpalette(PALETTE)
    shown.save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def ytvis_json(names, masks=True):
    videos = [
        {"id": n, "height": SIZE[0], "width": SIZE[1], "file_names": [f"{name}/{t:05d}.jpg" for t in (0, 5)]}
        for n, name in enumerate(names)
    ]
    annotations = [{"video_id": n, "iscrowd": 0, "segmentations": [BOX, None]} for n in range(len(names))]
    return {"videos": videos, **({"annotations": annotations} if masks else {})}


def ytvis_frames(folder, names):
    for name in names:
        for t in (0, 5):
            picture(folder / f"{name}/{t:05d}.jpg")


def ytvis_2021(root):
    for split, name in (("train", "a"), ("valid", "b")):
        ytvis_frames(root / split / "JPEGImages", [name])
        text(root / split / "instances.json", ytvis_json([name], masks=split == "train"))


def ytvis_2019(root):
    for split, name, short in (("train", "a", "train"), ("valid", "b", "val")):
        ytvis_frames(root / split / "JPEGImages", [name])
        text(root / f"annotations/instances_{short}_sub.json", ytvis_json([name], masks=split == "train"))


def ytvis_hq(root):
    ytvis_2019(root)
    ytvis_frames(root / "train/JPEGImages", ["c"])
    for split, name in (("train", "a"), ("val", "c")):
        text(root / f"annotations/ytvis_hq-{split}.json", ytvis_json([name]))


def ytvis_hq_flat(root):
    ytvis_frames(root / "JPEGImages", ["a", "c"])
    for split, name in (("train", "a"), ("val", "c")):
        text(root / f"ytvis_hq-{split}.json", ytvis_json([name]))


def davis(root, masks="Annotations", year=2017):
    for split, name in (("train", "a"), ("val", "b")):
        text(root / f"ImageSets/{year}/{split}.txt", f"{name}\n")
        for t in range(2):
            picture(root / f"JPEGImages/480p/{name}/{t:05d}.jpg")
            mask(root / f"{masks}/480p/{name}/{t:05d}.png")


def davis_2016(root):
    for split, name in (("train", "a"), ("val", "b")):
        pair = f"/JPEGImages/480p/{name}/00000.jpg /Annotations/480p/{name}/00000.png\n"
        text(root / f"ImageSets/480p/{split}.txt", pair)
        picture(root / f"JPEGImages/480p/{name}/00000.jpg")
        white = np.zeros(SIZE, np.uint8)
        white[6:16, 4:14] = 255
        (root / f"Annotations/480p/{name}").mkdir(parents=True)
        Image.fromarray(white).save(root / f"Annotations/480p/{name}/00000.png")


def coco(root):
    for split, name in (("train2017", "a"), ("val2017", "b")):
        picture(root / split / f"{name}.jpg")
        image = {"id": 1, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        described = {"images": [image], "annotations": [{"image_id": 1, "iscrowd": 0, "segmentation": BOX}]}
        text(root / f"annotations/instances_{split}.json", described)


def movi(root):
    write_movi(root / "movi_d/256x256/1.0.0", split="train")
    write_movi(root / "movi_d/256x256/1.0.0", split="validation")


def simulated(root, variant="toss", splits=("train", "val"), label=None):
    for split in splits:
        write_clip(root / variant / split / "00000", label=label)


def contact(root):
    simulated(root, "contact", ("training", "readout", "test"), label=1)


def physion(root):
    name = "pilot_it2_rollingSliding"
    write_clip(root / f"PhysionTrainMP4s/Roll_training_MP4s/{name}_0001_img")
    write_clip(root / f"PhysionTrainMP4s/Roll_readout_MP4s/{name}_0002_img")
    write_clip(root / f"PhysionTestMP4s/Roll/mp4s-redyellow/{name}-redyellow_0003_img")
    text(root / "readout_labels.csv", f",ground truth outcome\n{name}_0002,True\n")
    text(root / "PhysionTestMP4s/labels.csv", f",ground truth outcome\n{name}_0003_img,False\n")


def images(root):
    picture(root / "deep/a.jpg")
    picture(root / "b.png")


def folder(root):
    for t in range(3):
        picture(root / f"clip/{t}.jpg")


FRAMES = {"video", "video_id", "frame_index"}
MASKED = FRAMES | {"masks", "boxes", "box_valid"}
# Options, miniature, and of training and evaluation: number of videos, what a sample has, pixels of its first object.
ROWS = {
    "ytvis": (["data=ytvis"], ytvis_2021, (1, MASKED, 100), (1, FRAMES, 0)),
    "ytvis 2019": (["data=ytvis"], ytvis_2019, (1, MASKED, 100), (1, FRAMES, 0)),
    "ytvis_hq": (["data=ytvis_hq"], ytvis_hq, (1, MASKED, 100), (1, MASKED, 100)),
    "ytvis_hq flat": (["data=ytvis_hq"], ytvis_hq_flat, (1, MASKED, 100), (1, MASKED, 100)),
    "davis": (["data=davis"], davis, (1, MASKED, 50), (1, MASKED, 50)),
    "davis unsupervised": (
        ["data=davis"],
        lambda root: davis(root, "Annotations_unsupervised"),
        (1, MASKED, 50),
        (1, MASKED, 50),
    ),
    "davis 2016": (["data=davis", "data.year=2016"], davis_2016, (1, MASKED, 100), (1, MASKED, 100)),
    "coco": (["data=coco"], coco, (1, MASKED, 100), (1, MASKED, 100)),
    "movi": (["data=movi"], movi, (3, MASKED, 15), (3, MASKED, 15)),
    "simulated": (["data=simulated"], simulated, (1, MASKED, 0), (1, MASKED, 0)),
    "contact": (
        ["data=contact"],
        contact,
        (1, MASKED | {"label", "scenario"}, 0),
        (1, MASKED | {"label", "scenario"}, 0),
    ),
    "physion": (["data=physion"], physion, (1, FRAMES | {"scenario"}, 0), (1, FRAMES | {"label", "scenario"}, 0)),
    "images": (["data=images"], images, (2, FRAMES, 0), (2, FRAMES, 0)),
    "folder": (["data=folder"], folder, (1, FRAMES, 0), (1, FRAMES, 0)),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda name: name.replace(" ", "-"))
def test_layouts_as_downloaded(tmp_path, row):
    words, write, *expected = ROWS[row]
    write(tmp_path)
    data = composed(*words, f"data.root={tmp_path}", "data.size=[16,24]")
    for name, (count, keys, pixels) in zip(("train", "eval"), expected, strict=True):
        source = instantiate(data[name])
        assert len(source) == count
        assert [problem for problem in getattr(source, "problems", []) if not problem.harmless] == []
        sample = source.read(0, [0])
        assert sample.keys() == keys
        assert int((sample.get("masks", torch.zeros(1)) == 1).sum()) == pixels
        transformed = ClipTransform([16, 24])(sample, torch.Generator())
        assert transformed["video"].shape == (1, 3, 16, 24)


def test_every_data_config_has_a_row():
    names = {file.stem for file in (CONFIGS / "data").glob("*.yaml")} - {"base"}
    assert len(names) > 8
    assert names == {words[0].removeprefix("data=") for words, *_ in ROWS.values()}
