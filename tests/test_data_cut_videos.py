"""Videos that were cut off, or downloaded with a hole at the end: refused by name, or nothing is missing."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from test_data_video import H264, VP, WRITTEN, check
from video_files import FRAMES, HEIGHT, WIDTH, copy, number_shown, write

from dias_video.data.video_file import VideoFiles

NAMES = ["h264.mp4", "h264.mov", "h264.mkv", "hevc.mkv", "vp8.webm", "av1.webm", "h264.avi", "mpeg4.avi", "mjpeg.avi"]
NAMES += ["h264.flv", "flv1.flv", "wmv.wmv", "h264.ts", "hevc.ts", "mpeg2.ts", "mpeg4.ts", "mpeg2.mpg"]
OTHERS = {
    "mpeg2.mxf": WRITTEN["mpeg2.mpg"],
    "h264.mxf": ("libx264", "yuv420p", 12, {}),
    "h264.m2ts": WRITTEN["h264.ts"],
    "vp8.ogv": ("libvpx", "yuv420p", 12, VP),
    "faststart.mp4": WRITTEN["h264.mp4"],
    "fragments.mp4": WRITTEN["h264.mp4"],
}
CONTAINERS = {"faststart.mp4": {"movflags": "faststart"}, "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"}}
PACKETS = {"ts": 188, "mpg": 2048}  # a file cut between two of these may be a shorter video


def written(tmp_path: Path, name: str) -> Path:
    codec, pix_fmt, gop, options = {**WRITTEN, **OTHERS}[name]
    return write(tmp_path / name, codec, pix_fmt, gop=gop, options=options, container=CONTAINERS.get(name))


def frames_or_refusal(path: Path) -> int:
    """Number of frames that can be read, 0 if the file is refused by name."""
    files = VideoFiles()
    try:
        count = files.num_frames(path)
        files.read(path, range(count))
    except ValueError as error:
        sentence = str(error)
    else:
        return count
    assert sentence.startswith(str(path))
    assert "remove it" in sentence
    return 0


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux alone has it")
def test_writing_a_video_leaves_the_priority_of_the_process_alone(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    written(tmp_path, "av1.webm")
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_no_cut_file_is_a_shorter_video(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    assert frames_or_refusal(path) == FRAMES
    data, packet, refused = path.read_bytes(), PACKETS.get(name.split(".")[1]), 0
    for size in range(len(data) // 25, len(data), len(data) // 25):
        path.write_bytes(data[: size + 1 if packet and size % packet == 0 else size])
        count = frames_or_refusal(path)
        assert count in (0, FRAMES), f"{size} of {len(data)} bytes: {count} frames"
        refused += count == 0
    assert refused > 15  # some end with an index, or with padding


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_no_file_with_a_hole_at_its_end_is_a_shorter_video(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    data = path.read_bytes()
    for part in (0.4, 0.6):
        kept = int(len(data) * part)
        path.write_bytes(data[:kept] + bytes(len(data) - kept))
        assert frames_or_refusal(path) == 0


def test_one_frame_is_not_cut_off(tmp_path: Path) -> None:
    for name in set(NAMES) - {"mpeg2.ts"}:  # there FFmpeg says that it is damaged
        codec, pix_fmt, gop, options = WRITTEN[name]
        check(write(tmp_path / name, codec, pix_fmt, count=1, gop=gop, options=options))


def test_lengths_that_are_not_known_yet(tmp_path: Path) -> None:
    """As in recordings that were stopped by force: what is there is the video."""

    def changed(name: str, key: str, at: int, data: bytes) -> Path:
        """A video with other bytes behind a key in its header."""
        path = written(tmp_path, name)
        start = path.read_bytes().index(bytes.fromhex(key)) + at
        with path.open("r+b") as file:
            file.seek(start)
            file.write(data)
        return path

    properties, segment = "a1dcab8c47a9cf118ee400c00c205365", "18538067"
    for size, flags, count in ((10**6, 2, 0), (10**6, 3, FRAMES), (100, 2, FRAMES)):
        header = struct.pack("<Q", size) + bytes(40) + struct.pack("<I", flags)
        assert frames_or_refusal(changed("wmv.wmv", properties, 40, header)) == count
    for length, count in ((b"\x01" + b"\xff" * 7, FRAMES), (b"\x01" + (10**6).to_bytes(7, "big"), 0)):
        assert frames_or_refusal(changed("h264.mkv", segment, 4, length)) == count
    for length, count in ((0, FRAMES), (10**6, 0)):
        assert frames_or_refusal(changed("mpeg4.avi", b"RIFF".hex(), 4, struct.pack("<I", length))) == count
    for place, count in ((0, FRAMES), (10**6, 0)):
        key = "060e2b34020501010d0102010102"
        path = changed("mpeg2.mxf", key, 16 + 4 + 24, struct.pack(">Q", place))
        assert frames_or_refusal(path) == count
    live = write(tmp_path / "live.webm", "libvpx", options=VP, container={"live": "1"})
    assert frames_or_refusal(live) == FRAMES


def test_a_transport_stream_may_begin_anywhere(tmp_path: Path) -> None:
    path = written(tmp_path, "mpeg2.ts")
    data = path.read_bytes()
    path.write_bytes(data[188 * 20 + 77 :])
    files = VideoFiles()
    count = files.num_frames(path)
    assert 0 < count < FRAMES
    last = files.read(path, [count - 1])[0].permute(1, 2, 0).numpy()
    assert number_shown(last) == FRAMES - 1
    assert last.shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(data[188 * 20 + 77 : -100])
    with pytest.raises(ValueError, match=r"mpeg2.ts is cut off or damaged; .*keep what can be decoded: ffmpeg -i"):
        VideoFiles().num_frames(path)


@pytest.mark.parametrize("length", [192, 204])
def test_transport_streams_of_other_packets(tmp_path: Path, length: int) -> None:
    """Those of discs have a time before each packet, those of broadcasts a code behind it."""
    path = written(tmp_path, "h264.ts")
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    more = bytes(length - 188)
    path = tmp_path / "other.m2ts"
    path.write_bytes(b"".join(more + packet if length == 192 else packet + more for packet in packets))
    check(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is cut off"):
        VideoFiles().num_frames(path)


def test_decord_refuses_edit_lists_and_fragments(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    cut = copy(write(tmp_path / "a.mp4", options=H264), tmp_path / "b.mp4", shift=-0.6)
    with pytest.raises(ValueError, match="files with an edit list"):
        VideoFiles("decord").num_frames(cut)
    path = write(tmp_path / "c.mp4", options=H264, container={"movflags": "frag_keyframe+empty_moov"})
    with pytest.raises(ValueError, match="fragmented files"):
        VideoFiles("decord").num_frames(path)
