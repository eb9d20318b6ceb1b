"""Pictures and folders of them: every kind of pixel, every kind of name, and masks that are no pictures."""

import io
import time

import numpy as np
import pytest
import torch
from data_files import CASES, reads_shared
from PIL import Image

from dias_video.data.folder import FolderVideos, OneVideo
from dias_video.data.images import ImageFolder
from dias_video.data.paths import Choice, files_in, files_under, inside, natural
from dias_video.data.pictures import EXTENSIONS, frame_size, ids_of, opened, read_frames, read_picture

HEIGHT, WIDTH = 6, 11


def ramp(last):
    """HEIGHT x WIDTH numbers from 0 to ``last``."""
    return np.linspace(0, last, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)


def saved(tmp_path, picture, name, **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
def test_16_bits_become_8(tmp_path, name):
    values = ramp(65535).round().astype(np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    expected = np.repeat(np.round(values / 65535 * 255)[..., None], 3, axis=-1)
    assert np.array_equal(read_picture(path), expected)


def test_floats_of_0_to_1_become_8_bits_and_others_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(ramp(1).astype(np.float32)), "a.tif")
    assert np.array_equal(read_picture(path)[..., 1], np.round(ramp(1).astype(np.float32) * 255))
    for values in (ramp(1.5), ramp(1) - 0.1, np.full((2, 3), np.nan)):
        saved(tmp_path, Image.fromarray(values.astype(np.float32)), "a.tif")
        with pytest.raises(ValueError, match=r"a.tif holds floats outside of 0 to 1; save it with 8 or 16 bits"):
            read_picture(path)


def test_32_bit_integers_and_several_pages_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(ramp(1000).astype(np.int32)), "a.tif")
    with pytest.raises(ValueError, match=r"a.tif holds 32-bit integers, whose white is not known"):
        read_picture(path)
    pages = [Image.new("RGB", (4, 3), (9 * n, 0, 0)) for n in range(3)]
    for name in ("b.tif", "b.png", "b.webp"):
        path = saved(tmp_path, pages[0], name, save_all=True, append_images=pages[1:])
        with pytest.raises(ValueError, match=rf"{name} holds 3 pictures; save each in a file of its own"):
            read_picture(path)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_transparent_pixels_are_mixed_with_black(tmp_path, name):
    values = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    values[..., 0] = 200
    values[..., 3] = np.arange(WIDTH) * 255 // (WIDTH - 1)
    path = saved(tmp_path, Image.fromarray(values), name, **({"lossless": True} if name == "a.webp" else {}))
    expected = values[..., 0] * (values[..., 3] / 255)
    assert np.abs(read_picture(path)[..., 0] - expected).max() <= 1
    assert not read_picture(path)[..., 1:].any()


def test_gray_and_palettes_with_a_transparent_colour(tmp_path):
    gray = np.stack([np.full((2, 3), 80, np.uint8), np.full((2, 3), 51, np.uint8)], -1)
    assert (read_picture(saved(tmp_path, Image.fromarray(gray, "LA"), "a.png")) == 16).all()
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert read_picture(saved(tmp_path, palette, "b.png"))[0, 0].tolist() == [10, 20, 30]
    assert not read_picture(saved(tmp_path, palette, "c.png", transparency=1)).any()


def test_photographs_stand_upright_unless_masks_depend_on_them(tmp_path):
    values = np.zeros((20, 40, 3), np.uint8)
    values[:, :20] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    path = saved(tmp_path, Image.fromarray(values), "a.jpg", exif=exif, quality=95)
    assert read_picture(path).shape == (20, 40, 3)
    turned = read_picture(path, upright=True)
    assert turned.shape == (40, 20, 3)
    assert turned[:18].min() > 200 > 50 > turned[22:].max()
    for source in (ImageFolder(tmp_path), FolderVideos(tmp_path), OneVideo(tmp_path)):
        assert source.read(0, [0])["video"].shape == (1, 3, 40, 20)
    assert read_picture(path, upright=True, at_least=(20, 10)).shape == (20, 10, 3)
    assert read_picture(path, upright=True, at_least=(10, 20)).shape == (40, 20, 3)


def test_jpegs_are_decoded_smaller_while_they_are_large_enough(tmp_path):
    y, x = np.mgrid[:73, :130]
    values = np.stack([2 * y, x, 255 - x], -1).astype(np.uint8)
    path = saved(tmp_path, Image.fromarray(values), "a.jpg", quality=95)
    assert read_picture(path, at_least=(37, 40)).shape == (73, 130, 3)
    half = read_picture(path, at_least=(36, 40))
    assert half.shape == (37, 65, 3)
    means = values[:72].reshape(36, 2, 65, 2, 3).mean((1, 3))
    assert np.abs(half[:36] - means).mean() < 2
    assert read_picture(path, at_least=(9, 9)).shape == (10, 17, 3)
    for least in (None, (28, 30), (27, 30), (7, 7)):  # of random crops
        assert frame_size(path, least) == read_frames([path], at_least=least).shape[2:]
    assert read_picture(saved(tmp_path, Image.fromarray(values), "a.png"), at_least=(9, 9)).shape == (73, 130, 3)


def test_ids_are_indices_or_gray_levels(tmp_path):
    ids = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    palette = Image.fromarray(ids.astype(np.uint8), "P")
    palette.putpalette([value * 7 % 256 for value in range(768)])
    gray = Image.fromarray(ids.astype(np.uint8))
    deep = Image.fromarray((ids * 900).astype(np.uint16))
    for number, (picture, factor) in enumerate([(palette, 1), (gray, 1), (gray.convert("RGBA"), 1), (deep, 900)]):
        path = saved(tmp_path, picture, f"{number}.png")
        assert np.array_equal(ids_of(opened(path), str(path)), ids * factor)
    for picture in (Image.new("RGB", (3, 2), (1, 2, 1)), Image.new("LA", (3, 2))):
        path = saved(tmp_path, picture, "c.png")
        with pytest.raises(ValueError, match=rf"c.png is a picture of mode {picture.mode}, masks are indexed or gray"):
            ids_of(opened(path), str(path))


def damaged(tmp_path):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(data, format="PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("1", (20000, 20000)).save(tmp_path / "large.png")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cut.png", "is not a readable picture"),
        ("text.jpg", "is not a readable picture"),
        ("large.png", "has more than 179 million pixels; scale it down or remove it"),
        ("gone.png", "is missing"),
    ],
)
def test_pictures_that_can_not_be_read_are_named(tmp_path, name, sentence):
    damaged(tmp_path)
    with pytest.raises(ValueError, match=rf"{name} {sentence}"):
        read_picture(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} {sentence}"):
        opened(tmp_path / name)


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (4, 3)), "a.png")
    for error in (IndexError("index"), KeyError("x"), MemoryError(), OverflowError("large")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(ValueError, match=r"a.png is not a readable picture"):
            read_picture(path)


def test_files_of_a_folder(tmp_path):
    for name in ("10.png", "9.PNG", "a.Jpeg", "._9.PNG", ".hidden.png", "notes.txt", "²5.png", "②.png", "3.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "old.png").mkdir()
    names = [file.name for file in files_in(tmp_path, EXTENSIONS)]
    assert names == ["3.png", "9.PNG", "10.png", "a.Jpeg", "²5.png", "②.png"]
    assert [file.name for file in files_in(tmp_path, (".txt",))] == ["notes.txt"]


def test_natural_order_goes_by_folders_first():
    paths = ["b/1.png", "a10/1.png", "a9/10.png", "a9/9.png", "a.png", "a9.png"]
    assert sorted(paths, key=natural) == ["a9/9.png", "a9/10.png", "a9.png", "a10/1.png", "a.png", "b/1.png"]


def test_a_tree_of_files_with_links_and_choices(tmp_path):
    for path in ("b/2.png", "b/10.png", "b/c/1.jpg", "d/1.png", ".thumbs/1.png", "b/._2.png", "d/notes.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "b/c/circle").symlink_to(tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links/b").symlink_to(tmp_path / "b")
    assert files_under(tmp_path, EXTENSIONS, Choice()) == ["b/2.png", "b/10.png", "b/c/1.jpg", "d/1.png"]
    assert files_under(tmp_path / "links", EXTENSIONS, Choice())[0] == "b/2.png"
    for choice, expected in [
        (Choice("*.jpg"), ["b/c/1.jpg"]),
        (Choice("b/*.png"), ["b/2.png", "b/10.png"]),
        (Choice.of(None, "c"), ["b/2.png", "b/10.png", "d/1.png"]),
        (Choice.of(None, ["b/c", "2.*"]), ["b/10.png", "d/1.png"]),
        (Choice.of("*.png", ["d"]), ["b/2.png", "b/10.png"]),
    ]:
        assert files_under(tmp_path, EXTENSIONS, choice) == expected, choice


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b", "", "C:\\a.png", "a\\..\\b.png", "a\0b"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"the json names .* outside of"):
        inside(tmp_path, name, "the json")


@pytest.mark.parametrize(
    ("name", "path"), [("2020-01-01 12:00/0.jpg", "2020-01-01 12:00/0.jpg"), ("a\\b.png", "a/b.png"), ("./x", "x")]
)
def test_names_that_stay_are_taken(tmp_path, name, path):
    assert inside(tmp_path, name, "the json") == tmp_path / path


def test_accents_of_either_form_are_found(tmp_path):
    composed, apart = "\u00e9t\u00e9.png", "e\u0301te\u0301.png"
    (tmp_path / apart).write_bytes(b"")
    assert inside(tmp_path, composed, "the json") == tmp_path / apart
    (tmp_path / composed).write_bytes(b"")
    assert inside(tmp_path, composed, "the json") == tmp_path / composed


def clevrtex(root):
    for suffix in (".png", "_flat.png", "_depth_0001.png"):
        yield root / f"0/CLEVRTEX_full_000000{suffix}", "RGB"


def voc(root):
    yield root / "JPEGImages/2007_000032.jpg", "RGB"
    yield root / "SegmentationObject/2007_000032.png", "P"


def davis(root):
    yield root / "JPEGImages/480p/bear/00000.jpg", "RGB"
    yield root / "Annotations/480p/bear/00000.png", "L"


def beside(root):
    yield root / "x.JPG", "RGB"
    yield root / "x.png", "P"


@pytest.mark.parametrize(
    ("layout", "exclude"),
    [
        (clevrtex, ["*_flat.png", "*_0001.png"]),
        (voc, ["Segmentation*"]),
        (davis, ["Annotations"]),
        (beside, ["*.png"]),
    ],
)
@pytest.mark.parametrize("source", [ImageFolder, FolderVideos])
def test_masks_among_pictures_are_refused_by_name(tmp_path, layout, exclude, source):
    files = list(layout(tmp_path))
    for path, mode in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (8, 5)).save(path)
    with pytest.raises(ValueError, match=r"looks like a mask .*data.exclude=.*data.pattern="):
        source(tmp_path)
    chosen = source(tmp_path, exclude=exclude)
    assert [chosen.files(index) for index in range(len(chosen))] == [[files[0][0]]]
    everything = source(tmp_path, pattern="*")
    assert sum(len(everything.files(index)) for index in range(len(everything))) == len(files)


def test_paletted_pictures_alone_are_pictures(tmp_path):
    Image.new("P", (8, 5)).save(tmp_path / "a.png")
    assert len(ImageFolder(tmp_path)) == 1


def test_thumbnails_beside_videos_are_refused(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"")
    Image.new("RGB", (8, 5)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a.jpg is a picture beside videos, .*data.exclude"):
        FolderVideos(tmp_path)


def test_the_last_frames_of_a_folder_are_those_that_were_counted(tmp_path):
    for name in ("2.png", "10.PNG", "._2.png"):
        Image.new("L", (3, 2), int(name.strip("._").split(".")[0])).save(tmp_path / name, format="PNG")
    source = OneVideo(tmp_path)
    assert source.info().num_frames == 2
    assert source.read(0, [1, 0])["video"][:, 0, 0, 0].tolist() == [10, 2]
    (tmp_path / "1.png").write_bytes(b"")  # came later
    assert source.read(0, [0])["video"][0, 0, 0, 0] == 2


@pytest.mark.slow
def test_many_pictures_start_at_once(tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (2, 2)).save(data, format="JPEG")
    for number in range(30_000):
        (tmp_path / f"{number}.jpg").write_bytes(data.getvalue())
    for source in (ImageFolder, FolderVideos):
        start = time.perf_counter()
        opened_source = source(tmp_path)
        opened_source.read(len(opened_source) - 1, [0])
        assert time.perf_counter() - start < 5


@reads_shared
@pytest.mark.parametrize(
    ("name", "mean"), [("gray16", 127), ("gray16tif", 127), ("float01", 127), ("RGBA", None), ("RGBAwebp", None)]
)
def test_pictures_that_other_programs_fail_on(name, mean):
    video = ImageFolder(CASES / "images" / name).read(0, [0])["video"]
    assert video.shape == (1, 3, 24, 40)
    if mean is not None:
        assert (video[0, 0, 0] - torch.linspace(0, 255, 40)).abs().max() < 1
        assert float(video.float().mean()) == pytest.approx(mean, abs=1)
    else:
        same = ImageFolder(CASES / "images" / "RGBA").read(0, [0])["video"]
        assert (video.float() - same.float()).abs().max() <= 2


@reads_shared
def test_folders_that_other_programs_fail_on(tmp_path, monkeypatch):
    monkeypatch.setenv("DIAS_CACHE", str(tmp_path))
    assert [FolderVideos(CASES / name).info(0).num_frames > 0 for name in ("superscript", "circled")] == [True, True]
    assert len(FolderVideos(CASES / "circled")) == 2
    kept = FolderVideos(CASES / "cutgif", on_error="skip_and_report")
    assert len(kept) == 1
    assert "b.gif is not a readable animation" in kept.problems[0].sentence
    assert torch.is_tensor(kept.read(0, [0])["video"])
