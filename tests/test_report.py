"""The report page: what it holds, what it is capped at, and the page itself in a browser."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Page
from PIL import Image

from dias_video.report.page import DATA, join_reports, write_report
from dias_video.report.video import ReportVideo, runs
from dias_video.visualize import colour

T, H, W = 6, 40, 60
HOSTILE = '</script><img src=x onerror="alert(1)"><b>&amp;"\'${data}`\u2028/../..'


def scene(frames: int = T, tracks: int = 2) -> dict[str, torch.Tensor]:
    """A square of 16 px that moves 4 px a frame (track 1) and a bar (track 7) on a background (track 0)."""
    video = torch.full((frames, 3, H, W), 60, dtype=torch.uint8)
    labels = torch.zeros(frames, H, W, dtype=torch.int32)
    for t in range(frames):
        at = 4 * t % 40
        video[t, :, 10:26, at : at + 16] = 250
        labels[t, 10:26, at : at + 16] = 1
        if tracks > 1:
            labels[t, 36:] = 7
    truth = (labels == 1).to(torch.int16) + 2 * (labels == 7)
    attention = torch.stack([(labels == i).float() for i in (0, 1, 7)], 1)[:, :, ::4, ::4]
    return {
        "video": video,
        "labels": labels,
        "attention": attention,
        "track_id": torch.tensor([0, 1, 7]).expand(frames, -1),
        "truth": truth,
    }


def shown(name: str = "clip", frames: int = T, **options: Any) -> ReportVideo:
    video = ReportVideo(name, frames, **options)
    video.add(**scene(frames))
    return video


def content(page: Path) -> list[dict[str, Any]]:
    text = page.read_text()
    data = text[text.index(DATA) + len(DATA) :].partition("</script>")[0]
    groups: list[dict[str, Any]] = json.loads(data)["groups"]
    return groups


def decoded(text: str) -> list[int]:
    """Runs written out, one number after the other."""
    numbers, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    return [number for at in range(0, len(numbers), 2) for number in [numbers[at]] * numbers[at + 1]]


def test_runs_come_back() -> None:
    rng = np.random.default_rng(0)
    for places in (np.zeros(1, int), np.zeros(70000, int), np.arange(300), rng.integers(0, 4, 999).repeat(50)):
        assert decoded(base64.b64encode(runs(places)).decode()) == places.tolist()


def test_page_holds_frames_labels_attention_and_tracks(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", "A run", [shown(facts={"fg_ari": 0.5, "frames": 6})], ["One sentence."])
    (group,) = content(tmp_path / "report.html")
    assert group["notes"][0] == "One sentence."
    (video,) = group["videos"]
    expected = scene()
    assert (video["name"], video["width"], video["height"]) == ("clip", W, H)
    assert video["index"] == list(range(T))
    assert video["facts"] == [["fg_ari", "0.500"], ["frames", "6"]]
    assert video["notes"] == []
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(video["frames"][2]))), dtype=int)
    assert np.abs(picture - expected["video"][2].permute(1, 2, 0).numpy()).mean() < 2
    assert [panel["title"] for panel in video["panels"]] == ["video", "slots", "truth"]
    slots = video["panels"][1]
    assert slots["ids"] == [0, 1, 7]
    assert slots["colours"] == [list(colour(i)) for i in (0, 1, 7)]
    assert video["panels"][2]["colours"] == [None, list(colour(1)), list(colour(2))]  # true background as the frame is
    of_boxes = shown(background=0).encoded(10**6)
    assert of_boxes["panels"][1]["colours"][0] is None
    assert [track["colour"] for track in of_boxes["tracks"]] == [None, colour(1), colour(7)]
    for t in range(T):
        labels = np.array(slots["ids"])[decoded(slots["labels"][t])].reshape(H, W)
        assert (labels == expected["labels"][t].numpy()).all()
        heat = np.frombuffer(base64.b64decode(video["heat"]["frames"][t]["7"]), np.uint8).reshape(10, 15)
        assert (heat == 255 * expected["attention"][t, 2].numpy()).all()
    by_id = {track["id"]: track for track in video["tracks"]}
    assert by_id[1]["alive"] == T
    assert by_id[1]["size"] == pytest.approx(256 / (H * W))
    assert all(track["switches"] == 0 for track in by_id.values())


def test_tracks_count_all_frames_births_gaps_and_switches() -> None:
    labels = torch.zeros(8, 4, 6, dtype=torch.int32)
    labels[2:5, :, 3:] = 5  # alive on frames 2 to 4, and on 7
    labels[7, :, 3:] = 5
    truth = torch.zeros(8, 4, 6, dtype=torch.int16)
    truth[2:4, :, 3:] = 1
    truth[4, :, 3:] = 2  # switches here
    truth[7, :, 3:] = 2  # the same object as when it was last seen
    truth[3, 0] = -1  # void counts nowhere
    video = ReportVideo("x", 8, max_frames=3)
    for at in (slice(0, 3), slice(3, 8)):
        video.add(torch.zeros(8, 3, 4, 6, dtype=torch.uint8)[at], labels[at], truth=truth[at])
    found = video.encoded(10**6)
    background, five = found["tracks"]
    assert (five["id"], five["first"], five["last"], five["alive"], five["switches"]) == (5, 2, 7, 4, 1)
    assert five["size"] == pytest.approx(0.5)
    assert background["alive"] == 8
    assert found["index"] == [0, 3, 6]
    assert found["notes"] == ["3 of 8 frames are shown; the table counts all."]
    hidden = ReportVideo("x", 1)
    hidden.add(torch.zeros(1, 3, 4, 6, dtype=torch.uint8), labels[:1], track_id=torch.tensor([[0, 3, -1]]))
    assert [(t["id"], t["size"]) for t in hidden.encoded(10**6)["tracks"]] == [(0, 1.0), (3, 0.0)]


def test_large_frames_are_shown_smaller_and_labels_with_them() -> None:
    labels = torch.arange(1024)[:, None].expand(1024, 20)[None] // 256
    video = ReportVideo("x", 1)
    video.add(torch.zeros(1, 3, 1024, 20, dtype=torch.uint8), labels)
    found = video.encoded(10**6)
    assert (found["height"], found["width"]) == (256, 5)
    assert decoded(found["panels"][1]["labels"][0]) == np.repeat([0, 1, 2, 3], 64 * 5).tolist()


def test_pages_are_capped_and_say_so(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    videos = []
    for name in "ab":
        video = ReportVideo(name, 40)
        parts = scene(40)
        noise = torch.randint(0, 256, (40, 3, H, W), generator=generator, dtype=torch.uint8)
        video.add(**{**parts, "video": noise, "attention": parts["attention"]})
        videos.append(video)
    write_report(tmp_path / "all.html", "t", videos)
    whole = (tmp_path / "all.html").stat().st_size
    write_report(tmp_path / "small.html", "t", videos, megabytes=0.1)
    assert (tmp_path / "small.html").stat().st_size < 0.1e6 + 20000 < whole  # the page's own text
    (group,) = content(tmp_path / "small.html")
    assert group["notes"] == ["This page shows 2 videos. They take at most 0.1 MB."]
    for video in group["videos"]:
        assert video["heat"] is None
        count = len(video["frames"])
        assert 1 <= count < 40
        assert len(video["panels"][1]["labels"]) == count
        assert video["notes"][0] == f"{count} of 40 frames are shown; the table counts all."
        assert "Attention is left out" in video["notes"][1]


def test_what_can_not_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no video to show"):
        write_report(tmp_path / "r.html", "t", [])
    with pytest.raises(ValueError, match="empty has no frames"):
        write_report(tmp_path / "r.html", "t", [ReportVideo("empty", 0)])
    (tmp_path / "other.html").write_text("<html></html>")
    with pytest.raises(ValueError, match=r"other\.html is no report page"):
        join_reports(tmp_path / "r.html", "t", {"x": tmp_path / "other.html"})
    assert [file.name for file in tmp_path.iterdir()] == ["other.html"]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", HOSTILE, [shown(HOSTILE, facts={HOSTILE: HOSTILE})], [HOSTILE])
    text = (tmp_path / "r.html").read_text()
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert content(tmp_path / "r.html")[0]["videos"][0]["name"] == HOSTILE


def test_joined_pages_keep_their_videos_under_headings(tmp_path: Path) -> None:
    for name in "ab":
        write_report(tmp_path / f"{name}.html", name, [shown(name)])
    join_reports(tmp_path / "both.html", "Both", {"first": tmp_path / "a.html", "second": tmp_path / "b.html"})
    groups = content(tmp_path / "both.html")
    assert [(group["title"], group["videos"][0]["name"]) for group in groups] == [("first", "a"), ("second", "b")]


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    pages: list[Page] = []

    def open_page(file: Path) -> Page:
        pages.append(Page(file, tmp_path / "profile"))
        pages[-1].until("state.video !== null && state.panels.length > 0")
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def pixel(page: Page, panel: int, x: int, y: int) -> list[int]:
    """What a panel's canvas shows at a pixel."""
    found: list[int] = page.run(f"[...state.panels[{panel}].context.getImageData({x}, {y}, 1, 1).data].slice(0, 3)")
    return found


def point(page: Page, panel: int, x: int, y: int) -> tuple[float, float]:
    """Where on the window a panel's pixel lies."""
    box = page.run(
        f"(() => {{ const c = document.querySelectorAll('#panels canvas')[{panel}];"
        "const b = c.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    return box[0] + (x + 0.5) / W * box[2], box[1] + (y + 0.5) / H * box[3]


@pytest.mark.browser
@needs_browser
def test_page_in_a_browser(tmp_path: Path, opened: Any) -> None:
    first, second = shown(HOSTILE, facts={"fg_ari": 0.25}), shown("second", headline="fg_ari 0.900")
    first.draw_curve("error", {"model": [None, None, 0.1, 0.2, 0.3, 0.4], "repeat": [None, None, 0.2, 0.4, 0.6, 0.8]})
    write_report(tmp_path / "report.html", "A run", [first, second], ["4 of 64 videos."])
    page: Page = opened(tmp_path / "report.html")
    assert page.run("document.querySelector('#name').textContent") == HOSTILE
    assert page.run("document.querySelectorAll('img, b').length") == 0
    assert page.run("document.querySelectorAll('#tracks tbody tr').length") == 3
    assert page.run("document.querySelectorAll('#panels canvas').length") == 4
    assert page.run("document.querySelectorAll('#curve polyline').length") == 2

    # The slider moves the pictures: the square is at x = 4 t.
    assert min(pixel(page, 0, 8, 18)) > 230
    page.run("slider.value = 5; slider.dispatchEvent(new Event('input'))")
    assert page.run("byId('frame').textContent") == "frame 6 of 6"
    assert max(pixel(page, 0, 8, 18)) < 90
    assert min(pixel(page, 0, 28, 18)) > 230
    now = page.run("document.querySelector('#curve .now').getAttribute('x1')")
    page.key("ArrowLeft")
    assert page.run("state.time") == 4
    assert page.run("document.querySelector('#curve .now').getAttribute('x1')") < now

    assert pixel(page, 2, 50, 30) == pixel(page, 0, 50, 30) != pixel(page, 1, 50, 30)  # the true background is bare

    # A slot under the mouse is shown alone; a click keeps it, Escape lets it go.
    background = pixel(page, 1, 50, 30)
    page.mouse("mouseMoved", *point(page, 1, 24, 18))
    assert page.run("chosen()") == 1
    assert max(pixel(page, 1, 50, 30)) < min(background)
    assert min(pixel(page, 1, 24, 18)) > 230  # as it is
    assert max(pixel(page, 3, 24, 18)) > 200  # its attention
    page.mouse("mouseMoved", 2, 2)
    assert page.run("chosen()") is None
    assert pixel(page, 1, 50, 30) == background
    page.click(*point(page, 1, 24, 18))
    page.mouse("mouseMoved", 2, 2)
    assert page.run("chosen()") == 1
    assert page.run("document.querySelector('#tracks tr[aria-selected=true]').dataset.track") == "1"
    page.key("Escape")
    assert page.run("chosen()") is None

    # Play goes on by itself, and stops; another video can be chosen.
    page.run("seek(0)")
    page.key(" ")
    page.until("state.time > 1")
    page.key(" ")
    assert page.run("state.timer") is None
    page.run("document.querySelectorAll('nav button')[1].click()")
    page.until("state.video.name === 'second'")
    assert page.run("byId('curve').childElementCount") == 0
    assert page.errors == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)


@pytest.mark.browser
@needs_browser
def test_two_hundred_tracks_in_a_browser(tmp_path: Path, opened: Any) -> None:
    labels = (torch.arange(H * W) // 12).view(1, H, W).expand(3, -1, -1) + 1000
    video = ReportVideo("many", 3)
    video.add(torch.full((3, 3, H, W), 90, dtype=torch.uint8), labels)
    write_report(tmp_path / "report.html", "Many", [video])
    page: Page = opened(tmp_path / "report.html")
    assert page.run("document.querySelectorAll('#tracks tbody tr').length") == 200
    page.mouse("mouseMoved", *point(page, 1, 31, 20))
    assert page.run("chosen()") == 1000 + (20 * W + 31) // 12
    assert page.errors == []
