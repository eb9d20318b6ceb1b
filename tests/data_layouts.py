"""Every data set in miniature, as it is downloaded and unpacked."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from data_files import write_clip
from data_records import write_movi
from hydra import compose, initialize_config_dir
from physion15_files import write_physion15
from PIL import Image

CONFIGS = Path(__file__).parents[1] / "configs"
SIZE = (24, 40)  # (H,W)
BOX = [[4, 6, 14, 6, 14, 16, 4, 16]]  # 10 x 10 pixels of one object
PALETTE = [value * 37 % 256 for value in range(768)]


def composed(*words):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train_video", [*words, "out_dir=unused"])


def opened(cfg, split):
    """The videos of a split, as the scripts open them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CONFIGS.parent / "scripts")
        return importlib.import_module("_videos").source_of(cfg, split)


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


def coco_panoptic(root):
    """Two things, one of them a crowd, stuff, and pixels of nothing."""
    coco(root)
    ids = np.zeros(SIZE, np.int64)
    ids[:, :30], ids[6:16, 4:14], ids[18:, :20] = 70_000, 5, 260
    for split, name in (("train2017", "a"), ("val2017", "b")):
        segments = [{"id": 70_000, "category_id": 9, "iscrowd": 0}]
        segments += [{"id": 5, "category_id": 1, "iscrowd": 0}, {"id": 260, "category_id": 1, "iscrowd": 1}]
        described = {
            "images": [{"id": 1, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}],
            "annotations": [{"image_id": 1, "file_name": f"{name}.png", "segments_info": segments}],
            "categories": [{"id": 9, "isthing": 0, "name": "sky"}, {"id": 1, "isthing": 1, "name": "owl"}],
        }
        text(root / f"annotations/panoptic_{split}.json", described)
        (root / f"annotations/panoptic_{split}").mkdir()
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colours).save(root / f"annotations/panoptic_{split}/{name}.png")


def voc(root):
    """2012 with three masked pictures and one without, 2007 with two, one of which 2012 has too."""
    names = {2012: ["2007_000032", "2008_000007", "2011_000003"], 2007: ["000032", "000042"]}
    for year, listed in names.items():
        folder = root / f"VOCdevkit/VOC{year}"
        for name in [*listed, "2009_000001"]:
            picture(folder / f"JPEGImages/{name}.jpg")
        for name in listed:
            mask(folder / f"SegmentationObject/{name}.png")
            mask(folder / f"SegmentationClass/{name}.png")
    for split, listed in (("train", ["2008_000007", "2011_000003"]), ("val", ["2007_000032"])):
        text(root / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt", "".join(f"{name}\n" for name in listed))


def clevrtex(root, variant="full", count=20):
    for number in range(count):
        scene = root / f"clevrtex_{variant}/{number // 8}/CLEVRTEX_{variant}_{number:06d}"
        picture(scene.with_suffix(".png"))
        for other in ("albedo_0001", "depth_0001", "normal_0001", "shadow_0001"):
            picture(scene.with_name(f"{scene.name}_{other}.png"))
        mask(scene.with_name(f"{scene.name}_flat.png"), void=0)
        text(scene.with_suffix(".json"), {"objects": []})


def movi(root):
    write_movi(root / "movi_d/256x256/1.0.0", split="train")
    write_movi(root / "movi_d/256x256/1.0.0", split="validation")


def simulated(root, variant="toss", splits=("train", "val"), label=None):
    for split in splits:
        write_clip(root / variant / split / "00000", label=label)


def contact(root):
    simulated(root, "contact", ("train", "readout", "test"), label=1)


def surprise(root):
    contact(root)
    simulated(root, "surprise", ("test",), label=1)


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


SETS = {  # rows of the table in docs/data.md, and who writes them in miniature
    "MOVi-A to F": movi,
    "YouTube-VIS 2021, 2022": ytvis_2021,
    "YouTube-VIS 2019": ytvis_2019,
    "HQ-YTVIS": ytvis_hq,
    "DAVIS-2017": davis,
    "DAVIS-2017 Unsupervised": lambda root: davis(root, "Annotations_unsupervised"),
    "DAVIS-2016": davis_2016,
    "COCO 2017": coco,
    "COCO 2017 panoptic": coco_panoptic,
    "PASCAL VOC2012": voc,
    "VOC, the split of DIAS' authors": voc,
    "ClevrTex": clevrtex,
    "Physion": physion,
    "Physion v1.5": write_physion15,
    "simulated": simulated,
    "pairs, possible and impossible": surprise,
    "any videos": folder,
    "any pictures": images,
}


def table_of_the_docs() -> dict[str, tuple[list[str], list[str]]]:
    """Of every set: the options that open it, and the words with which it is trained on."""
    rows = {}
    for line in (CONFIGS.parent / "docs/data.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 5 and cells[2].startswith("`"):
            rows[cells[0]] = tuple(cell.split("`")[1].split() for cell in cells[2:4])
    return rows
