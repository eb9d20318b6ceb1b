"""Video files: frame k is frame k of a whole decode, however it is reached, in every codec and container."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import video_files
from data_files import CASES, reads_shared
from numpy.typing import NDArray
from video_files import FRAMES, copy, edit, number_shown, with_sound, write

from dias_video.data import video_file, video_index, video_reader
from dias_video.data.video_file import VideoFiles

VIDEOS = sorted((CASES / "video").glob("*")) or [CASES / "video/none"]


def whole(path: Path) -> list[NDArray[np.uint8]]:
    """All frames, by PyAV's own loop."""
    with av.open(f"file:{path}") as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def check(path: Path, expected: list[NDArray[np.uint8]] | None = None, decoder: video_file.Decoder = "pyav") -> None:
    """Every frame alone by a fresh reader, then some in any order by one reader, then all at once."""
    expected = whole(path) if expected is None else expected
    learned = VideoFiles(decoder)
    assert learned.num_frames(path) == len(expected) > 0
    times = learned.times(path)
    assert len(times) == len(expected)
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()

    def read(files: VideoFiles, frames: list[int]) -> None:
        for frame, got in zip(frames, files.read(path, frames).permute(0, 2, 3, 1).numpy(), strict=True):
            assert np.array_equal(got, expected[frame]), f"{path.name}: asked for {frame}"

    for frame in range(len(expected)):
        files = VideoFiles(decoder)
        files._indices = learned._indices
        read(files, [frame])
    draw = random.Random(0)
    for _ in range(30):
        start = draw.randrange(len(expected))
        clip = list(range(start, min(start + 6, len(expected))))
        read(files, draw.choice([[start], clip, [start, 0, start // 2, start]]))
    read(files, list(range(len(expected))))


H264 = {"bf": "3"}
X265 = {"x265-params": "keyint=12:log-level=none"}  # open groups of pictures
AV1 = {"svtav1-params": "keyint=12"}
VP = {"deadline": "realtime", "cpu-used": "8"}
WRITTEN = {
    **{f"h264.{end}": ("libx264", "yuv420p", 12, H264) for end in ("mp4", "mov", "mkv", "avi", "ts", "flv", "3gp")},
    **{f"hevc.{end}": ("libx265", "yuv420p", 12, X265) for end in ("mp4", "mov", "mkv", "ts", "flv")},
    **{f"av1.{end}": ("libsvtav1", "yuv420p", 12, AV1) for end in ("mp4", "mkv", "webm", "avi")},
    **{f"vp8.{end}": ("libvpx", "yuv420p", 12, VP) for end in ("webm", "mkv", "avi")},
    **{f"vp9.{end}": ("libvpx-vp9", "yuv420p", 12, VP) for end in ("webm", "mkv", "mp4")},
    **{f"mpeg2.{end}": ("mpeg2video", "yuv420p", 12, {"bf": "2"}) for end in ("mpg", "ts", "mkv", "mov", "avi")},
    **{f"mpeg4.{end}": ("mpeg4", "yuv420p", 12, {"bf": "2"}) for end in ("avi", "mp4", "mkv", "ts")},
    **{f"mjpeg.{end}": ("mjpeg", "yuvj420p", 12, {}) for end in ("avi", "mov", "mkv")},
    "prores.mov": ("prores_ks", "yuv422p10le", None, {}),
    "wmv.wmv": ("wmv2", "yuv420p", 12, {}),
    "flv1.flv": ("flv", "yuv420p", 12, {}),
    "ffv1.mkv": ("ffv1", "yuv420p", 12, {}),
    "h264_open.mp4": ("libx264", "yuv420p", 12, {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "h264_open.ts": ("libx264", "yuv420p", 12, {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "h264_pyramid.mp4": ("libx264", "yuv420p", 24, {"x264-params": "bframes=7:b-pyramid=normal:ref=8"}),
    "h264_refresh.mp4": ("libx264", "yuv420p", 12, {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}),
    "h264_interlaced.mp4": ("libx264", "yuv420p", 12, {"x264-params": "interlaced=1:bframes=2"}),
    "h264_10.mp4": ("libx264", "yuv420p10le", 12, H264),
    "hevc_radl.mp4": ("libx265", "yuv420p", 12, {"x265-params": "keyint=12:radl=2:open-gop=0:log-level=none"}),
    "vp9_alpha.webm": ("libvpx-vp9", "yuva420p", 12, {**VP, "auto-alt-ref": "0"}),
    "prores_alpha.mov": ("prores_ks", "yuva444p10le", None, {"profile": "4444"}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_frame_of_every_codec(tmp_path: Path, name: str) -> None:
    codec, pix_fmt, gop, options = WRITTEN[name]
    path = write(tmp_path / name, codec, pix_fmt, gop=gop, options=options)
    expected = whole(path)
    assert [number_shown(picture) for picture in expected] == list(range(FRAMES))
    check(path, expected)


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264_open.mp4", "h264.ts", "hevc.mkv", "av1.webm", "mpeg4.avi", "vp9.mp4"]
)
def test_a_late_frame_is_decoded_from_the_key_frame_before_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, pix_fmt, gop, options = WRITTEN[name]
    path = write(tmp_path / name, codec, pix_fmt, gop=gop, options=options)
    files = VideoFiles()
    files.num_frames(path)
    decoded: list[int] = []
    monkeypatch.setattr(video_reader, "number_of", lambda frame: decoded.append(frame.pts) or frame.pts)
    files.read(path, [45])
    assert 0 < len(set(decoded)) <= 20  # of 46; a group has 12, and some frames before it are shown first
    decoded.clear()
    files.read(path, range(46, 50))
    assert len(set(decoded)) <= 5  # it goes on where it is


@pytest.mark.parametrize("size", [(16, 18), (47, 71), (66, 130)])
def test_odd_and_tiny_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    check(write(tmp_path / "a.mp4", pix_fmt="yuv444p", size=size))
    check(write(tmp_path / "a.webm", "libvpx-vp9", size=size, options=VP))


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_frames(tmp_path: Path, count: int) -> None:
    check(write(tmp_path / "a.mp4", count=count))
    check(write(tmp_path / "a.avi", "mpeg4", count=count, b_frames=2))


FROM_10 = {"h264": ("libx264", H264), "hevc": ("libx265", X265), "av1": ("libsvtav1", AV1), "vp9": ("libvpx-vp9", VP)}


@pytest.mark.parametrize("codec", FROM_10)
@pytest.mark.parametrize("parts", [[(10, 20)], [(5, 8), (30, 12)], [(30, 8), (5, 8)], [(5, 8), (5, 8)], [(0, 17)]])
def test_edit_lists_show_what_they_show(tmp_path: Path, codec: str, parts: list[tuple[int, int]]) -> None:
    path = write(tmp_path / "a.mp4", FROM_10[codec][0], options=FROM_10[codec][1])
    with av.open(str(path)) as file:
        first = 0 if file.streams.video[0].codec_context.name in ("vp9", "libdav1d") else 1024
    path = edit(path, tmp_path / "b.mp4", parts, first=first)
    expected = whole(path)
    assert len(expected) < FRAMES
    if len(parts) == 1:
        assert number_shown(expected[0]) == parts[0][0]
        assert len(expected) == parts[0][1]
    check(path, expected)


def test_cut_without_decoding(tmp_path: Path) -> None:
    """As phones and ``ffmpeg -ss … -c copy`` do; and files that begin in the middle of a group of pictures."""
    for codec, options, end in (("libx264", H264, "mp4"), ("libx265", X265, "mov"), ("mpeg4", {"bf": "2"}, "mp4")):
        path = write(tmp_path / f"{codec}.{end}", codec, options=options)
        cut = copy(path, tmp_path / f"cut_{codec}.{end}", shift=-0.6)
        assert [number_shown(picture) for picture in whole(cut)] == list(range(15, FRAMES))
        check(cut)
    for codec, options, end in (("libx264", H264, "mkv"), ("libx265", X265, "mkv"), ("libx265", X265, "ts")):
        path = write(tmp_path / f"begin_{codec}.{end}", codec, options=options)
        begun = copy(path, tmp_path / f"begun_{codec}.{end}", keep=lambda number: number > 4)
        assert number_shown(whole(begun)[0]) > 4
        check(begun)


def test_lost_packets(tmp_path: Path) -> None:
    """Decoders leave out more frames than were lost."""
    path = write(tmp_path / "a.mkv", "libx265", options=X265)
    check(copy(path, tmp_path / "b.mkv", keep=lambda number: number not in (13, 24)))


def test_times(tmp_path: Path) -> None:
    """Variable rate, a late start, sound that is longer, no duration, fragments, a time twice."""
    for end in ("mp4", "mkv", "avi", "ts"):
        path = write(tmp_path / f"vfr.{end}", "mpeg4", b_frames=2, times=lambda number: number + number // 10 * 7)
        check(path)
        assert np.diff(VideoFiles().times(path))[[8, 9, 10]] == pytest.approx([0.04, 0.32, 0.04])
    late = write(tmp_path / "a.mp4", options=H264)
    for end in ("mp4", "mkv", "ts"):
        path = copy(late, tmp_path / f"late.{end}", shift=10)
        check(path)
        assert VideoFiles().times(path) == pytest.approx(np.arange(FRAMES) / 25)
    for end in ("mp4", "mkv", "mov"):
        check(write(tmp_path / f"sound.{end}", options=H264, before=with_sound(8)))
    check(write(tmp_path / "live.webm", "libvpx", options=VP, container={"live": "1"}))
    check(write(tmp_path / "fragments.mp4", options=H264, container={"movflags": "frag_keyframe+empty_moov"}))
    with av.open(str(tmp_path / "fast.mkv"), "w") as file:  # mkv has milliseconds
        stream = file.add_stream("libx264", rate=2000, options=H264)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 96, "yuv420p", 12
        for picture in video_files.pictures():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    check(tmp_path / "fast.mkv")


def test_the_first_of_two_streams(tmp_path: Path) -> None:
    def other(file: av.container.OutputContainer, stream: av.VideoStream) -> None:
        second = file.add_stream("libx264", rate=25)
        second.height, second.width, second.pix_fmt = 48, 64, "yuv420p"
        for picture in video_files.pictures(70, 48, 64):
            file.mux(second.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(second.encode())

    for end in ("mp4", "mkv"):
        check(write(tmp_path / f"two.{end}", options=H264, before=other))


MATRICES = {  # (a,b,c,d): a pixel (x,y) is shown at (ax + cy, bx + dy); y goes down
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, -1, 1, 0): lambda picture: np.rot90(picture),
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],  # a front camera
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_turned_and_mirrored_videos_are_upright(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    """The matrix lies in the header of the track, in 16.16 numbers."""

    def header(a: int, b: int, c: int, d: int) -> bytes:
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    path = write(tmp_path / "a.mp4")
    data, plain = path.read_bytes(), header(1, 0, 0, 1)
    at = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:at] + header(*matrix) + data[at + len(plain) :])
    check(path, [MATRICES[matrix](picture) for picture in whole(path)])


def test_an_index_of_another_file_shows_no_other_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", options=H264)
    files = VideoFiles()
    files.num_frames(path)
    index = files._indices[path]
    swapped = index.packets.copy()
    swapped[[20, 21]] = swapped[[21, 20]]
    files._indices[path] = index._replace(packets=swapped)
    assert number_shown(files.read(path, [5])[0].permute(1, 2, 0).numpy()) == 5
    with pytest.raises(ValueError, match="can't be decoded up to frame 21"):
        files.read(path, [21])


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9"])
def test_key_frames_that_are_none(tmp_path: Path, codec: str) -> None:
    """The table of an mp4 says that decoding can begin four packets after the third key frame."""
    path = write(tmp_path / "a.mp4", FROM_10[codec][0], options=FROM_10[codec][1])
    data = bytearray(path.read_bytes())
    third = data.index(b"stss") + 12 + 2 * 4
    struct.pack_into(">I", data, third, struct.unpack_from(">I", data, third)[0] + 4)
    path.write_bytes(data)
    check(path)


def test_what_decodes_only_in_order_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.mov", "qtrle", "rgb24")
    files = VideoFiles()
    assert files.num_frames(path) == FRAMES
    files.read(path, [30])
    files.read(path, [3])
    assert capsys.readouterr().err.count(f"{path} can only be decoded in order") == 1
    check(path)


def test_a_size_that_changes_is_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.webm", "libvpx", options=VP), tmp_path / "other.webm"
    write(other, "libvpx", size=(48, 64), options=VP)
    with av.open(str(tmp_path / "a.webm"), "w") as out:
        target = None
        for part, path in enumerate((one, other)):
            with av.open(str(path)) as file:
                target = target or out.add_stream_from_template(file.streams.video[0])
                for packet in file.demux(video=0):
                    if packet.size:
                        packet.pts, packet.stream = packet.pts + 2000 * part, target
                        packet.dts = packet.pts
                        out.mux(packet)
    with pytest.raises(ValueError, match=r"a.webm changes from 96x64 to 64x48 at frame 50; encode it anew"):
        VideoFiles().num_frames(tmp_path / "a.webm")


@pytest.mark.parametrize("error", [IndexError("list index out of range"), av.error.OSError(95, "not supported")])
def test_errors_of_every_kind_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Both were seen on damaged transport streams: a stream that begins in the middle, and a format of no colours."""

    def fail(*_: object) -> None:
        raise error

    path = write(tmp_path / "a.mp4")
    files = VideoFiles()
    files.num_frames(path)
    monkeypatch.setattr(video_reader.VideoReader, "_pixels", fail)
    sentence = r"a\.mp4 can't be decoded, it may be cut off \((list index out of range|not supported)\)"
    with pytest.raises(ValueError, match=sentence):
        files.read(path, [0])
    monkeypatch.setattr(video_index, "_list", fail)
    with pytest.raises(ValueError, match=sentence):
        VideoFiles().num_frames(path)
    monkeypatch.setattr(video_index, "_decode", fail)
    with pytest.raises(ValueError, match=sentence):
        video_index.playing(path)


def test_frames_for_which_there_is_no_memory_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 90 GiB")

    monkeypatch.setattr(video_reader.VideoReader, "read", fail)
    with pytest.raises(MemoryError, match="Unable to allocate 90 GiB"):
        VideoFiles().read(write(tmp_path / "a.mp4"), [0])


def test_no_pictures_are_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        with_sound(1)(file, None)
    with pytest.raises(ValueError, match=r"a.mp4 holds no pictures that can be decoded, only audio"):
        VideoFiles().num_frames(tmp_path / "a.mp4")


def test_a_playlist_reaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match=r"a.mp4 is not a readable video"):
        VideoFiles().num_frames(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["12:30:05.mp4", "a b (1).mp4", "été.mp4", "%d.mp4", "file:x.mp4"])
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write(tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert number_shown(VideoFiles().read(Path(name), [30])[0].permute(1, 2, 0).numpy()) == 30


@pytest.mark.parametrize("end", ["avi", "mp4", "mkv"])
def test_titles_need_not_be_utf8(tmp_path: Path, end: str) -> None:
    def title(file: av.container.OutputContainer, stream: av.VideoStream) -> None:
        file.metadata["title"] = "a title of ten"

    path = write(tmp_path / f"a.{end}", "mpeg4", before=title)
    data = path.read_bytes()
    assert data.count(b"a title of ten") == 1
    path.write_bytes(data.replace(b"a title of ten", b"ein Title \xfcber"))
    check(path, whole(write(tmp_path / f"b.{end}", "mpeg4")))


@reads_shared
@pytest.mark.parametrize("path", VIDEOS, ids=lambda path: path.name)
def test_the_cases(path: Path) -> None:
    if path.name == "audio_only.mp4":
        with pytest.raises(ValueError, match="holds no pictures"):
            VideoFiles().num_frames(path)
        return
    expected = whole(path)
    check(path, [np.rot90(picture, -1) for picture in expected] if path.name == "rot90.mp4" else expected)


def test_decord_is_loaded_only_when_asked_for() -> None:
    code = "import sys, dias_video.data.folder, dias_video.data.simulated; assert 'decord' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_decord_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.delitem(sys.modules, "dias_video.data.decord_reader", raising=False)
    monkeypatch.delattr("dias_video.data.decord_reader", raising=False)  # a test before may have imported it
    with pytest.raises(ValueError, match="decord is not installed"):
        VideoFiles("decord")


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mov", "h264.mkv", "vp8.webm", "vp8.mkv", "vp9.webm", "vp9.mp4"])
def test_decord_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    pytest.importorskip("decord")
    codec, pix_fmt, gop, options = WRITTEN[name]
    check(write(tmp_path / name, codec, pix_fmt, gop=gop, options=options), decoder="decord")
    check(write(tmp_path / f"narrow_{name}", codec, pix_fmt, size=(34, 48), options=options), decoder="decord")


REFUSED = {
    "hevc.mp4": "hevc in mov",
    "av1.webm": "av1 in matroska",
    "mpeg4.avi": "mpeg4 in avi",
    "h264.ts": "h264 in mpegts",
    "h264_open.mp4": "open groups of pictures",
    "h264_refresh.mp4": "open groups of pictures",
    "h264_10.mp4": "the colours of 96x64 yuv420p10le frames",
    "h264_interlaced.mp4": "the colours of 96x64 yuv420p frames",
}


@pytest.mark.parametrize("name", REFUSED)
def test_decord_refuses_what_it_would_get_wrong(tmp_path: Path, name: str) -> None:
    pytest.importorskip("decord")
    codec, pix_fmt, gop, options = WRITTEN[name]
    path = write(tmp_path / name, codec, pix_fmt, gop=gop, options=options)
    with pytest.raises(
        ValueError, match=f"{name}: decord can't be trusted with {REFUSED[name]}; set data.decoder=pyav"
    ):
        VideoFiles("decord").num_frames(path)
