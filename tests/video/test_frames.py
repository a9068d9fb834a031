"""utils/video/frames.py: every frame once and in order, only the wanted ones kept, and files that are not what they say they are."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clips import cut, make_video, neighbour, sound, with_a_hole
from golden import REAL
from utils.errors import BadInput
from utils.video.frames import Video, middles, to_rgb, windows


def numbers(path, **options):
    """The numbers of the frames that make_video made, as they are decoded."""
    with Video(path, **options) as video:
        return [round(to_rgb(frame).mean() / 4) for frame in video.decode()]


def test_a_title_in_another_encoding(tmp_path):
    path = make_video(tmp_path / "a.avi", codec="ffv1", title="KXchentitel")
    path.write_bytes(path.read_bytes().replace(b"KXchen", b"K\xfcchen"))
    assert b"K\xfcchen" in path.read_bytes()
    assert numbers(path) == list(range(50))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("a.mp4", {}, 50),
        ("a.mkv", {}, 50),
        ("a.webm", {"codec": "libvpx-vp9"}, 50),
        ("a.avi", {"codec": "ffv1"}, 50),
        ("a.ts", {"form": "mpegts"}, 50),
        ("a.flv", {"codec": "flv1"}, 50),
        ("odd.mp4", {"size": (66, 34)}, 50),
        ("endless.mkv", {"container": {"live": "1"}}, None),  # no duration in its header
        ("edited.mp4", {"delay": 10, "container": {"avoid_negative_ts": "disabled"}}, 40),  # an edit list hides the first ten
        ("a%s:b#1=.mp4", {}, 50),  # no pattern, protocol or option to FFmpeg
    ],
)
def test_every_frame_in_order(tmp_path, name, options, expected):
    path = make_video(tmp_path / name, **options)
    hidden = options.get("delay", 0)
    assert numbers(path) == list(range(hidden, 50))
    with Video(path) as video:
        assert (video.expected(), video.fps) == (expected, 25)
        assert (video.width, video.height) == options.get("size", (64, 48))


@pytest.mark.parametrize("name", ["a.mkv", "a.flv", "a.ts"])
def test_a_video_that_begins_late_is_whole(tmp_path, name):
    """Its duration counts from 0, as in a recording cut from the middle of a longer one."""
    path = make_video(tmp_path / name, delay=-1000)
    with Video(path) as video:
        assert video.expected() == 50
        times = [frame.time for frame in video.decode()]
    assert (times[0], len(times)) == (pytest.approx(40, abs=1.5), 50)


def test_only_part_of_a_video_may_be_read(tmp_path):
    with Video(make_video(tmp_path / "a.mp4")) as video:
        next(iter(video.decode()))
        assert video.decoded == 1


def test_pictures_are_shrunk_with_their_shape_and_never_enlarged(tmp_path):
    with Video(make_video(tmp_path / "a.mp4", 2, (320, 160))) as video:
        frame = next(iter(video.decode()))
    assert to_rgb(frame, longest=100).shape == (50, 100, 3)
    assert to_rgb(frame, longest=1000).shape == (160, 320, 3)


@given(st.integers(1, 50), st.integers(1, 20), st.lists(st.integers(0, 45), min_size=1, max_size=5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_windows_are_those_of_a_literal_reading(tmp_path_factory, frames, stride, offsets, first):
    path = tmp_path_factory.getbasetemp() / f"video-{frames}.mp4"
    if not path.exists():
        make_video(path, frames)
    offsets = sorted(offsets)
    expected = [
        (start // stride, start, min(start + stride, frames), [min(start + offset, frames - 1) for offset in offsets])
        for start in range(0, frames, stride)
    ][first:]
    with Video(path) as video:
        found = [
            (window.number, window.start, window.end, [round(picture.mean() / 4) for picture in window.pictures])
            for window in windows(video, offsets, stride, first=first)
        ]
    assert found == expected


def test_windows_come_as_soon_as_their_last_frame(tmp_path):
    """So that the memory they take does not grow with the video."""
    with Video(make_video(tmp_path / "a.mp4", 60)) as video:
        parts = windows(video, [8, 20], 16)
        assert [(next(parts).number, video.decoded) for _ in range(2)] == [(0, 21), (1, 37)]


def test_the_middles_of_equal_parts():
    assert middles(64, 4) == [8, 24, 40, 56]
    assert middles(16, 1) == [8]
    assert middles(3, 3) == [0, 1, 2]


def with_empty_chunks(path):
    """An AVI of 90 chunks, two in three of which are empty, as a recorder writes that saves space."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(0, 90, 3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * i, np.uint8), "rgb24")
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def cut_anywhere(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def with_edits(path, *edits, **options):
    """An MP4 of 50 frames, whose edit list is `edits`: (milliseconds, first frame, or None for nothing)."""
    make_video(path, **options)
    content, at = bytearray(path.read_bytes()), 0
    parents = []
    for name in (b"moov", b"trak", b"edts", b"elst"):
        at = content.index(name, at) - 4
        parents.append(at)
    (size,) = struct.unpack_from(">I", content, at)
    (delay,) = struct.unpack_from(">i", content, at + 20)  # in ticks: 512 a frame
    entries = [struct.pack(">iiI", length, -1 if first is None else delay + 512 * first, 1 << 16) for length, first in edits]
    made = struct.pack(">I4sII", 16 + 12 * len(edits), b"elst", 0, len(edits)) + b"".join(entries)
    content[at : at + size] = made
    for parent in parents[:-1]:
        struct.pack_into(">I", content, parent, struct.unpack_from(">I", content, parent)[0] + len(made) - size)
    path.write_bytes(content)


@pytest.mark.parametrize("bf", ["0", "3"])
@pytest.mark.parametrize(
    ("edits", "frames"),
    [
        ([(1000, 0)], 25),
        ([(1600, 10)], 40),
        ([(800, 10)], 20),
        ([(500, None), (2000, 0)], 50),
        ([(800, 0), (800, 25)], 40),
        ([(800, 25), (800, 0)], 40),
        ([(800, 0), (800, 0)], 40),
        ([(3000, 0)], 50),
    ],
)
def test_what_an_edit_list_hides_is_no_damage(tmp_path, edits, frames, bf):
    with_edits(tmp_path / "a.mp4", *edits, options={"bf": bf, "g": "25"})
    with Video(tmp_path / "a.mp4") as video:
        times = [seconds for seconds, _ in video.timed()]
        assert video.frames in (None, len(times)) or bf == "3"
    assert times == pytest.approx([i / 25 for i in range(frames)])


def test_empty_chunks_are_no_damage(tmp_path):
    with Video(with_empty_chunks(tmp_path / "a.avi")) as video:
        assert [seconds for seconds, _ in video.timed()] == pytest.approx([i / 25 for i in range(0, 90, 3)])
        assert (video.frames, video.decoded, video.clock.jumps) == (88, 30, 0)


def test_a_last_picture_that_stands_long_is_no_damage(tmp_path):
    """As in a recorded screen: the header's duration ends long after the last stamp."""
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frames = [av.VideoFrame(64, 48, "yuv420p") for _ in range(40)]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        packets[-1].duration = round(5 / packets[-1].time_base)
        for packet in packets:
            file.mux(packet)
    with Video(tmp_path / "a.mp4") as video:
        assert video.seconds > 6
        assert sum(1 for _ in video.decode()) == 40


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "libx264"), ("a.mkv", "libx264"), ("a.asf", "mpeg4"), ("a.avi", "libx264")])
def test_pictures_that_change_places_are_whole_and_in_time(tmp_path, name, codec):
    """The first stamp is not 0 then; AVI and ASF keep stamps of decoding alone."""
    with Video(make_video(tmp_path / name, codec=codec, options={"bf": "3"} if codec == "libx264" else {"bf": "2"})) as video:
        assert [seconds for seconds, _ in video.timed()] == pytest.approx([i / 25 for i in range(50)], abs=2e-3)
        assert video.clock.jumps == 0


def growing(path):
    """First small pictures, as the header says, then large ones."""
    parts = [make_video(path.with_name(f"{width}.ts"), 20, (width, 48), form="mpegts").read_bytes() for width in (64, 640)]
    path.write_bytes(b"".join(parts))


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("missing.mp4", lambda path: None, "no such file; expected a video file"),
        ("folder.mp4", lambda path: path.mkdir(), "a folder; expected a video file"),
        ("empty.mp4", lambda path: path.touch(), "cannot be opened"),
        ("text.mp4", lambda path: path.write_text("a man walks"), "cannot be opened"),
        ("packed.mp4", lambda path: path.write_bytes(gzip.compress(bytes(1000))), "cannot be opened"),
        ("sound.mp4", sound, "no video stream"),
        ("beheaded.mp4", lambda path: cut(path, 0.7), "cannot be opened"),  # its header is at the end
        ("cut.mp4", lambda path: cut(path, 0.7, container={"movflags": "faststart"}), "50 as its header says"),
        ("cut.mkv", lambda path: cut(path, 0.7), "2.0 s as its header says"),
        ("cut.avi", lambda path: cut(path, 0.7), "50 as its header says"),
        ("cut.flv", lambda path: cut(path, 0.7), "2.0 s as its header says"),
        ("gaps.avi", lambda path: cut_anywhere(with_empty_chunks(path), 0.7), "as its header says"),
        ("holed.mp4", with_a_hole, "damaged or too large frames beside"),
        ("large.mp4", lambda path: make_video(path, 2, (640, 480)), "640 × 480 pixels; expected at most 9000"),
        ("growing.ts", growing, "9000 pixels a picture"),
        ("list.mp4", lambda path: path.write_text(f"ffconcat version 1.0\nfile {neighbour(path)}\n"), "cannot be opened"),
        ("playlist.mp4", lambda path: path.write_text(f"#EXTM3U\n#EXTINF:2,\n{neighbour(path)}\n#EXT-X-ENDLIST\n"), "cannot be opened"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, make, said):
    make(tmp_path / name)
    small = {"max_pixels": 9000} if name in ("large.mp4", "growing.ts") else {}
    with pytest.raises(BadInput) as error:
        numbers(tmp_path / name, **small)
    assert f"{name}: " in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_neighbour_would_be_read_without_the_list_of_formats(tmp_path):
    """What the test above rests on: FFmpeg reads the other file."""
    import av

    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {neighbour(path)}\n")
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 50


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
def test_real_videos_have_the_frames_of_their_headers():
    paths = sorted((REAL / "videos").iterdir()) + sorted((REAL / "cctv_fights" / "fight").iterdir())[:10]
    for path in paths:
        with Video(path) as video:
            assert sum(1 for _ in video.decode()) == video.frames == video.expected()
