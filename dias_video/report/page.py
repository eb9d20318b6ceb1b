"""Writes the page: one file that opens from disk and loads nothing from the network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from dias_video.report.video import ReportVideo
from dias_video.stores.files import replace_file, writing

MEGABYTES = 24.0
DATA = '<script id="data" type="application/json">'


def write_report(
    path: str | Path,
    title: str,
    videos: Sequence[ReportVideo],
    notes: Sequence[str] = (),
    megabytes: float = MEGABYTES,
) -> None:
    """Write ``report.html``: a list of videos; the chosen one is shown with its slots and a slider.

    Args:
        path: the file, which appears when it is complete or not at all.
        title: title of the page.
        videos: the videos in the order of the list.
        notes: sentences about the run.
        megabytes: the largest size of the page. All videos have equal shares. A video that is too large is shown
            without attention, then without every second frame; the page says so.

    Raises:
        ValueError: there is no video, or a video has no frames.
        OSError: the file could not be written.
    """
    if not videos:
        raise ValueError(f"there is no video to show in {path}")
    share = int(megabytes * 1e6 / len(videos))
    shown = [video.encoded(share) for video in videos]
    shows = "1 video. It takes" if len(videos) == 1 else f"{len(videos)} videos. They take"
    said = [*notes, f"This page shows {shows} at most {megabytes:g} MB."]
    _write(Path(path), title, [{"title": title, "notes": said, "videos": shown}])


def join_reports(path: str | Path, title: str, pages: Mapping[str, Path]) -> None:
    """Join several pages into one, each under its heading.

    Raises:
        ValueError: a page is missing, or was not written by ``write_report``.
        OSError: the file could not be written.
    """
    _write(Path(path), title, [{**group, "title": name} for name, page in pages.items() for group in _groups(page)])


def _groups(page: Path) -> list[dict[str, Any]]:
    try:
        text = page.read_text()
        data = text[text.index(DATA) + len(DATA) :].partition("</script>")[0]
        groups: list[dict[str, Any]] = json.loads(data)["groups"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{page} is no report page ({error}); make it again") from error
    return groups


def _write(path: Path, title: str, groups: Sequence[Mapping[str, Any]]) -> None:
    parts = {kind: (Path(__file__).parent / f"page.{kind}").read_text() for kind in ("html", "css", "js")}
    # "<" could end the script element, so it is written as json's escape.
    data = json.dumps({"groups": groups}, allow_nan=False).replace("<", "\\u003c")
    page = Template(parts["html"]).substitute(
        title=html.escape(title), style=parts["css"], script=parts["js"], data=data
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, "see whether the disk is full or the folder read-only"):
        replace_file(path, lambda aside: aside.write_text(page, encoding="utf-8"))
