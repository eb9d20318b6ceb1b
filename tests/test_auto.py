"""A model for one video: parts and things, what begins where, and any video through one function."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from tiny import GRID, HEIGHT, WIDTH, S, clips, tiny_dias
from tqdm import tqdm
from video_files import write

import dias_video
from dias_video.auto.backbone import Backbone, grid_of
from dias_video.auto.fit import PARTS
from dias_video.auto.parts import APART, COLOUR, TOUCH, PartsModel, groups_of, owned
from dias_video.auto.track import Tracker, videos_at
from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.tracking import owners, track_videos
from dias_video.visualize import FilmWriter


def vit() -> Backbone:
    """Makes the same small network, which knows nothing, every time."""
    torch.manual_seed(0)
    return Backbone("vit_tiny_patch16_224.augreg_in21k", "random", tokens=48)


def square(count: int = 12, height: int = 50, width: int = 75) -> torch.Tensor:
    """A red square that moves before grey noise: (T,3,H,W), and beside it another that stands still, green."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(100, 140, (count, 1, height, width), generator=generator, dtype=torch.uint8)
    video = video.repeat(1, 3, 1, 1)
    colours = torch.tensor([[220, 20, 20], [20, 200, 40]], dtype=torch.uint8)
    for t in range(count):
        video[t, :, 5:25, 4 + t : 24 + t] = colours[0][:, None, None]
        video[t, :, 28:48, 50:70] = colours[1][:, None, None]
    return video


def film(path: Path, video: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = FilmWriter(path, 25)
    for t, frame in enumerate(video):
        writer.add(frame.permute(1, 2, 0), t / 25)
    writer.close()
    return path


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a & b).sum() / (a | b).sum()).item()


def test_things_are_found_and_kept(tmp_path: Path) -> None:
    """From a file to labels, with a network that knows nothing but passes on what it sees."""
    video = square()
    windows = list(dias_video.track(film(tmp_path / "a.mp4", video), encoder=vit(), slots=3, window=5))
    assert [batch.num_frames for batch, _ in windows] == [5, 5, 2]
    labels = torch.cat([sequence.labels[0] for _, sequence in windows])
    assert labels.shape == (12, 50, 75)
    assert labels.unique().tolist() == [0, 1, 2]
    red = (video[:, 0].int() - video[:, 1].int() > 100) & (video[:, 0] > 200)
    green = (video[:, 1].int() - video[:, 0].int() > 100) & (video[:, 1] > 150)
    for true in (red, green):
        assert max(overlap(labels == track, true) for track in range(3)) > 0.6
    again = dias_video.track(tmp_path / "a.mp4", encoder=vit(), slots=3, window=5)
    assert torch.equal(labels, torch.cat([sequence.labels[0] for _, sequence in again]))


@pytest.mark.parametrize(("count", "slots"), [(1, None), (1, 1), (3, 1), (2, 40)])
def test_short_videos_and_few_or_many_slots(tmp_path: Path, count: int, slots: int | None) -> None:
    path = film(tmp_path / "a.mp4", square(count))
    ((_, sequence),) = dias_video.track(path, encoder=vit(), slots=slots)
    assert sequence.labels is not None
    assert sequence.labels.shape == (1, count, 50, 75)
    assert sequence.labels.min() >= 0
    assert sequence.slots.shape[2] <= (slots or PARTS)
    assert torch.isfinite(sequence.slots).all()
    if slots == 1:
        assert sequence.labels.max() == 0


def test_a_thing_owns_what_its_parts_own() -> None:
    dias = tiny_dias(threshold=None, mask_source="aggregation", carry="persist").eval()
    group = torch.tensor([1, 0, 1, 2, 0])
    model = PartsModel(dias, group)
    batch = clips(2, 3)
    draws = [Draws.for_videos(0, batch.video_id) for _ in range(2)]
    parts, things = dias.encode(batch, draws[0])[0], model.encode(batch, draws[1])[0]
    assert things.slots.shape == (2, 3, 3, parts.slots.shape[-1])
    for g in range(3):
        members = [s for s in range(S) if group[s] == g]
        cells = sum(parts.attention[:, :, s] for s in members)
        torch.testing.assert_close(things.attention[:, :, g], cells)
        weight = torch.stack([parts.attention[:, :, s].sum((-2, -1)) for s in members])
        mean = sum(w[..., None] * parts.slots[:, :, s] for w, s in zip(weight, members, strict=True))
        torch.testing.assert_close(things.slots[:, :, g], mean / weight.sum(0)[..., None], atol=1e-4, rtol=1e-3)
    assert things.track_id.unique().tolist() == [0, 1, 2]
    assert things.live.all()
    (tracked,) = track_videos(model, batch.windows(2), labels=True)
    assert tracked.labels.shape == (2, 3, HEIGHT, WIDTH)


def joined_slowly(
    tokens: np.ndarray, colours: np.ndarray, owner: np.ndarray, alike: float, count: int | None
) -> set[frozenset[int]]:
    """``groups_of``, pair by pair and cell by cell; owner (M,h,w) has the number of each cell's slot."""
    directions = tokens - tokens.mean((0, 1))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    groups = [frozenset([s]) for s in range(owner.max() + 1)]

    def looks(group: frozenset[int]) -> tuple[np.ndarray, np.ndarray]:
        inside = np.isin(owner, list(group)).reshape(len(owner), -1)
        mean = directions[inside].sum(0)
        return mean / np.linalg.norm(mean), colours[inside].mean(0)

    def sides(one: frozenset[int], other: frozenset[int] | None) -> int:
        """Sides of cells of ``one`` at cells of ``other``, or at any other cell."""
        found = 0
        for m, y, x in np.ndindex(owner.shape):
            for v, u in ((y + 1, x), (y, x + 1), (y - 1, x), (y, x - 1)):
                if 0 <= v < owner.shape[1] and 0 <= u < owner.shape[2] and owner[m, y, x] in one:
                    beyond = owner[m, v, u]
                    found += beyond not in one if other is None else beyond in other
        return found

    while len(groups) > (count or 1):
        best = None
        for i, one in enumerate(groups):
            for other in groups[:i]:
                (a, paint), (b, other_paint) = looks(one), looks(other)
                different = 1 - a @ b + COLOUR * np.linalg.norm(paint - other_paint)
                touching = sides(one, other) >= TOUCH * max(1, min(sides(one, None), sides(other, None)))
                different += 0 if touching else np.inf if count is None else APART
                if best is None or different < best[0]:
                    best = (different, one, other)
        assert best is not None
        if count is None and best[0] >= alike:
            break
        groups = [group for group in groups if group not in best[1:]] + [best[1] | best[2]]
    return set(groups)


@pytest.mark.parametrize("count", [None, 1, 2, 4, 9])
@pytest.mark.parametrize("alike", [0.0, 0.6, 0.9, 5.0])
def test_parts_of_one_thing_are_alike_and_touch(alike: float, count: int | None) -> None:
    """Six slots in stripes and corners of 2 frames, compared with plain loops."""
    generator = torch.Generator().manual_seed(2)
    cells = torch.tensor([[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 3, 4, 2], [5, 5, 3, 4, 4]])
    number = torch.stack([cells, cells.flip(1)])
    tokens = torch.randn(2, 20, 5, generator=generator) + 2 * torch.randn(6, 5, generator=generator)[number.flatten(1)]
    colours = torch.rand(2, 20, 3, generator=generator)
    found = groups_of(tokens, colours, F.one_hot(number, 6).float(), alike, count)
    assert sorted(set(found.tolist())) == list(range(int(found.max()) + 1))
    as_sets = {frozenset((found == g).nonzero().flatten().tolist()) for g in range(int(found.max()) + 1)}
    assert as_sets == joined_slowly(tokens.double().numpy(), colours.numpy(), number.numpy(), alike, count)


def test_things_of_one_kind_that_lie_apart_are_not_joined() -> None:
    """Two squares of one look before a ground of another, and one square in two parts."""
    number = torch.zeros(1, 6, 9, dtype=torch.int64)
    number[0, 1:3, 1:3], number[0, 3:5, 1:3], number[0, 2:4, 6:8] = 1, 2, 3
    kinds = torch.eye(4)[torch.tensor([0, 1, 1, 1])]
    tokens = kinds[number.flatten(1)]
    colours = torch.zeros(1, 54, 3)
    assert groups_of(tokens, colours, F.one_hot(number, 4).float(), 0.4).tolist() == [0, 1, 1, 2]
    assert groups_of(tokens, colours, F.one_hot(number, 4).float(), 0.4, 2).tolist() == [0, 1, 1, 1]
    painted = (3.0 * (number == 2)).flatten(1)[..., None].expand(1, 54, 3)
    assert groups_of(tokens, painted, F.one_hot(number, 4).float(), 0.4).tolist() == [0, 1, 2, 3]


def test_a_cell_has_one_owner() -> None:
    attention = torch.rand(2, 4, *GRID)
    found = owned(attention)
    assert found.shape == (2, *GRID, 4)
    assert torch.equal(found.argmax(-1), attention.argmax(1))
    assert torch.equal(found.sum(-1), torch.ones(2, *GRID))


@pytest.mark.parametrize(("size", "grid"), [((480, 854), (12, 21)), ((854, 480), (21, 12)), ((9, 9), (16, 16))])
def test_cells_are_about_square(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert grid_of(size, 256) == grid
    assert grid_of((10, 4000), 256)[0] >= 1


def test_the_encoder_is_made_for_the_shape_of_the_frames() -> None:
    backbone = vit()
    wide = backbone.encoder((40, 80), torch.device("cpu"))
    assert wide.input_size == (5 * 16, 10 * 16)
    assert backbone.encoder((80, 160), torch.device("cpu")) is wide
    assert backbone.encoder((80, 40), torch.device("cpu")).grid == (10, 5)


def test_without_weights_one_sentence_says_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    with pytest.raises(ValueError, match=r"encoder\.weights=<file.safetensors>\. Without .* checkpoint=shipped") as e:
        Backbone("vit_tiny_patch16_224.augreg_in21k").encoder((40, 40), torch.device("cpu"))
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="no_such_vit"):
        Backbone("no_such_vit").encoder((40, 40), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"nothing\.safetensors not found"):
        Backbone(weights="nothing.safetensors").encoder((40, 40), torch.device("cpu"))


def test_announcements_are_not_written_into_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    name = "vit_tiny_patch16_224.augreg_in21k"
    with tqdm(total=3) as bar:
        bar.update()
        with pytest.raises(ValueError, match="can't be fetched"):
            Backbone(name).encoder((40, 40), torch.device("cpu"))
    (line,) = [line for line in capsys.readouterr().err.split("\n") if "weights from timm" in line]
    assert line.rpartition("\r")[2].startswith(name)


def test_the_shipped_model_needs_nothing(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", square(3))
    ((_, sequence),) = dias_video.track(path, checkpoint="shipped")
    assert sequence.slots.shape == (1, 3, 8, 64)
    with pytest.raises(ValueError, match="slots= and train_steps= are for a video's own model"):
        dias_video.track(path, checkpoint="shipped", slots=3)


def test_an_encoder_is_a_backbone(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"encoder must be a Backbone, for example .*, got 'dinov2'"):
        dias_video.track(film(tmp_path / "a.mp4", square(3)), encoder="dinov2")


def test_learning_on_the_video_lowers_the_error(tmp_path: Path) -> None:
    source = videos_at(film(tmp_path / "a.mp4", square(6)))
    errors, slots = [], []
    for steps in (0, 40):
        tracker = Tracker(encoder=vit(), slots=2, train_steps=steps)
        model = tracker.own("a", 6, lambda frames: source.read(0, frames, ("video",))["video"]).model
        assert not model.training
        index = torch.arange(6)[None]
        batch = VideoBatch(source.read(0, range(6))["video"][None], ["a"], index, torch.ones_like(index).bool())
        with torch.no_grad():
            errors.append(model(batch, Draws.for_step(0, 0, range(1)))["reconstruction"].item())
        slots.append(model.initializer.slots.detach().clone())
    assert errors[1] < 0.9 * errors[0]
    assert not torch.equal(slots[0], slots[1])


def test_a_path_is_one_video_or_several(tmp_path: Path) -> None:
    film(tmp_path / "videos/b/a.mp4", square(2))
    film(tmp_path / "videos/c.mp4", square(3))
    assert [videos_at(tmp_path / "videos").info(i).video_id for i in range(2)] == ["b/a", "c"]
    assert videos_at(tmp_path / "videos/c.mp4").info(0)[:2] == ("c", 3)
    (tmp_path / "frames/.hidden").mkdir(parents=True)
    for t in (2, 10):
        Image.fromarray(square(1)[0].permute(1, 2, 0).numpy()).save(tmp_path / f"frames/{t}.jpg")
    assert videos_at(tmp_path / "frames").info(0)[:2] == ("frames", 2)
    with pytest.raises(ValueError, match="nothing is missing"):
        videos_at(tmp_path / "nothing")


def test_what_is_no_folder_of_videos_is_answered_in_words_of_this_script(tmp_path: Path) -> None:
    film(tmp_path / "videos/a.mp4", square(2))
    Image.new("RGB", (8, 5)).save(tmp_path / "videos/a.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "masks/Annotations").mkdir(parents=True)
    Image.new("P", (8, 5)).save(tmp_path / "masks/Annotations/a.png")
    remedy = "move such files out of this folder, or name one video instead of the folder"
    for name, message in {
        "videos": f"a.jpg is a picture beside videos, .*; {remedy}$",
        "masks": f"a.png looks like a mask .*; {remedy}$",
        "empty": r"empty holds no video \(.*\); check its path$",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            videos_at(tmp_path / name)
        assert "data." not in str(error.value)


def test_more_things_than_there_are_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"slots=100000 is more than the 48 cells of a frame; encoder\.tokens= sets"):
        Tracker(encoder=vit(), slots=100_000)
    ((_, sequence),) = dias_video.track(film(tmp_path / "a.mp4", square(1)), encoder=vit(), slots=47)
    count = sequence.slots.shape[2]
    assert count < 47
    assert f"warning: a has {count} things, " in capsys.readouterr().err


def test_masks_of_large_frames_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disc in frames of 90 x 140 px, with a limit of a ninth of their pixels."""
    y, x = torch.meshgrid(torch.arange(90), torch.arange(140), indexing="ij")
    disc = (y - 40) ** 2 + (x - 80) ** 2 < 25**2
    frames = (40 + 150 * disc.to(torch.uint8)).expand(2, 3, -1, -1)
    cells = F.adaptive_avg_pool2d(disc[None].float(), (9, 14))
    attention, live = torch.stack([1 - cells, cells], 1).expand(2, -1, -1, -1), torch.ones(2, 2, dtype=torch.bool)
    ids = torch.tensor([4, 7]).expand(2, -1)
    whole = owners(attention, live, ids, (90, 140), frames)
    monkeypatch.setattr("dias_video.tracking.MOST_PIXELS", 1400)
    small = owners(attention, live, ids, (90, 140), frames)
    assert small.shape == whole.shape
    assert small.unique().tolist() == [4, 7]
    assert overlap(whole == 7, disc) > 0.97
    assert overlap(small == 7, disc) > 0.9
    assert (small[:, 1::3, :138:3] == small[:, ::3, 1:138:3]).float().mean() > 0.99  # blocks of three


def turned(path: Path) -> Path:
    """The mp4 with a display matrix that says: turn by a quarter."""
    data = path.read_bytes()
    straight = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(straight, data.index(b"tkhd"))
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + quarter + data[at + len(quarter) :])
    return path


@pytest.mark.parametrize(
    ("codec", "name", "size"),
    [("libx264", "a.mp4", (64, 96)), ("mpeg4", "a.avi", (48, 64)), ("libvpx-vp9", "a.webm", (32, 50))],
)
def test_any_codec(tmp_path: Path, codec: str, name: str, size: tuple[int, int]) -> None:
    path = write(tmp_path / name, codec, count=4, size=size)
    ((batch, sequence),) = dias_video.track(path, encoder=vit())
    assert sequence.labels.shape == (1, 4, *size)
    assert batch.video.shape == (1, 4, 3, *size)


def test_a_portrait_video_stands_upright(tmp_path: Path) -> None:
    path = turned(write(tmp_path / "a.mp4", count=3, size=(32, 64)))
    tracker = Tracker(encoder=vit())
    ((batch, sequence),) = tracker.windows(videos_at(path))
    assert batch.video.shape == (1, 3, 3, 64, 32)
    assert sequence.labels.shape == (1, 3, 64, 32)
    assert sequence.attention.shape[-2:] == grid_of((64, 32), 48)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "configs/backbone").glob("*.yaml")), ids=str)
def test_every_backbone_looks_at_any_shape(file: Path) -> None:
    """Patches of 14 and 16 pixels, with and without registers; random weights."""
    name = yaml.safe_load(file.read_text())["name"]
    encoder = Backbone(name, "random", tokens=8).encoder((40, 80), torch.device("cpu"))
    assert encoder.grid == (2, 4)
    features = encoder.features(square(1, 40, 80)[None])
    assert features.shape == (1, 1, 8, 384)
    assert torch.isfinite(features).all()


def test_a_finer_grid_is_given_finer_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes two pixels wide, in a frame of 640 pixels: 256 would show them as grey, whatever they become then."""
    backbone = Backbone("vit_tiny_patch16_224.augreg_in21k", "random", tokens=800)
    encoder = backbone.encoder((320, 640), torch.device("cpu"))
    looked_at: list[torch.Tensor] = []

    def look(frames: torch.Tensor) -> torch.Tensor:
        looked_at.append(frames)
        return torch.zeros(1, 800, 192)

    monkeypatch.setattr(encoder, "backbone", look)
    stripes = 255 * (torch.arange(640) // 2 % 2).to(torch.uint8)
    encoder.features(stripes.expand(1, 1, 3, 320, 640))
    assert looked_at[0].shape == (1, 3, 320, 640)
    assert looked_at[0].std() > 0.45
