"""One clock: a video has the same times as a file (utils/video/decoder.py) and through a pipe (app/live/stream.py), and the right ones."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.live import stream
from clips import make_video
from golden import SHARED
from streams import SIZE, standard_input
from utils.video.crops import Recipe
from utils.video.decoder import Limits, decode
from utils.video.frames import MAX_PIXELS

CASES = SHARED / "cases"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not here")
SMALL = Recipe(crops=1, size=32, stride=4)
FAR = 100_000  # frames: more than an hour


def of_file(path, recipe=SMALL):
    """(times of its snippets, their end, frames, frames that its header counts, jumps)."""
    events = []
    decode(str(path), str(path), recipe, Limits(), lambda *event, image=None: events.append(event))
    _, frames, end, promised, jumps = events[-1]
    return [seconds for kind, (_, seconds) in ((one[0], one[1:3]) for one in events if one[0] == "picture")], end, frames, promised, jumps


class Piped(stream.Connection):
    """A file through a pipe; what its child does is done here, so that many files take little time."""

    def __init__(self, path, recipe):
        self._next, self._stride, self._hung, messages = 0, recipe.stride, False, []
        limits = {"timeout": 10, "max_pixels": MAX_PIXELS, "memory": None}
        with path.open("rb") as file, standard_input(file):
            stream.read(stream.parse_source("-"), recipe, lambda *message: messages.append(message), **limits)
        self._messages = iter(messages)

    def _read(self):
        return next(self._messages, None)


def of_pipe(path, recipe=SMALL):
    """(Snippets, Cut)."""
    *items, cut = Piped(path, recipe)._snippets()
    return [item for item in items if isinstance(item, stream.Snippet)], cut


def same(path, recipe=SMALL):
    """What both say: (times, end, frames, frames that the header counts, jumps)."""
    times, end, frames, promised, jumps = of_file(path, recipe)
    snippets, cut = of_pipe(path, recipe)
    assert [snippet.start for snippet in snippets] == times
    assert [snippet.end for snippet in snippets[:-1]] == times[1:]
    assert snippets[-1].end <= end + 1e-9
    assert (cut.reason, cut.frames, cut.jumps) == ("the stream ended", frames, jumps)
    return times, end, frames, promised, jumps


@needs_cases
@pytest.mark.parametrize(
    ("name", "seconds", "frames", "counted", "jumps", "piped"),
    [
        ("twice.ts", 10.0, 250, None, 1, 9.6),
        ("one_frame_ahead.mkv", 12.0, 300, None, 1, 11.52),
        ("h264_b.avi", 6.0, 150, 150, 0, 5.76),
        ("third_of_frames.avi", 7.96, 67, 199, 0, 7.68),
        ("audio_begins_later.ts", 10.0, 250, None, 0, 9.6),
    ],
)
def test_cases(name, seconds, frames, counted, jumps, piped):
    times, *found = same(CASES / name, Recipe(crops=1, size=32))
    assert found == [pytest.approx(seconds), frames, counted, jumps]
    assert np.diff(times) == pytest.approx(seconds / frames * 16 if counted != 199 else 48 / 25, abs=1e-3)
    assert of_pipe(CASES / name, Recipe(crops=1, size=32))[0][-1].end == pytest.approx(piped)


@needs_cases
def test_an_open_group_of_pictures(tmp_path):
    """Its index lies at the end, where a pipe cannot look: moved to the front, it is the same."""
    case, moved = CASES / "h264_open_gop.mp4", tmp_path / "moved.mp4"
    assert of_file(case)[1:4] == (pytest.approx(3.84), 96, 100)
    with av.open(str(case)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    assert same(moved)[1:3] == (pytest.approx(3.84), 96)


def test_sound_that_begins_later(tmp_path):
    """PyAV fails at a stream that was not there when the file was opened: the last frame comes nevertheless."""
    grey = np.full((48, 64, 3), 90, np.uint8)
    parts = [make_video(tmp_path / "a.ts", 150, picture=lambda _: grey, codec="mpeg2video", form="mpegts").read_bytes()]
    with av.open(str(tmp_path / "b.ts"), "w", format="mpegts") as file:
        picture, sound = file.add_stream("mpeg2video", rate=25), file.add_stream("aac", rate=8000)
        (picture.width, picture.height), picture.pix_fmt = SIZE, "yuv420p"
        for _ in range(50):
            file.mux(picture.encode(av.VideoFrame(*SIZE, "yuv420p")))
            part = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.float32), format="fltp", layout="mono")
            part.sample_rate = 8000
            file.mux(sound.encode(part))
        for made in (picture, sound):
            file.mux(made.encode())
    (tmp_path / "c.ts").write_bytes(parts[0] + (tmp_path / "b.ts").read_bytes())
    times, end, frames, *_ = same(tmp_path / "c.ts")
    assert (frames, end) == (200, pytest.approx(8))
    assert times == pytest.approx([i / 25 for i in range(0, 200, 4)])


def test_what_comes_before_the_first_key_frame_is_no_damage(tmp_path):
    """A recording that begins in the middle of another, so long before a key frame that FFmpeg, opening it, finds not even its size."""
    path, grey = tmp_path / "a.ts", np.full((48, 64, 3), 90, np.uint8)
    make_video(path, 300, options={"g": "200", "sc_threshold": "0"}, form="mpegts", picture=lambda _: grey)
    path.write_bytes(path.read_bytes()[188 * 20 :])
    assert same(path)[1:3] == (pytest.approx(4), 100)
    opened = next(Piped(path, SMALL)._snippets())
    assert (opened.width, opened.height) == SIZE


def test_a_cover_is_no_video(tmp_path):
    """A picture that a player shows while sound plays, as some files have beside their video."""
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as file:
        cover, video = file.add_stream("png"), file.add_stream("libx264", rate=25)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 8, 8, "rgb24", av.stream.Disposition.attached_pic
        (video.width, video.height), video.pix_fmt = SIZE, "yuv420p"
        file.mux(cover.encode(av.VideoFrame(8, 8, "rgb24")))
        for _ in range(20):
            file.mux(video.encode(av.VideoFrame(*SIZE, "yuv420p")))
        file.mux(video.encode())
    assert same(tmp_path / "a.mp4")[1:3] == (pytest.approx(0.8), 20)


def write(path, form, codec, stamps, rate=25, container=None, **options):
    """Frames at `stamps`, in units of 1 / rate seconds."""
    with av.open(str(path), "w", format=form, options=container or {}) as file:
        made = file.add_stream(codec, rate=rate, options=options)
        (made.width, made.height), made.pix_fmt = SIZE, "yuv420p"
        made.codec_context.time_base = Fraction(1, rate)
        for stamp in stamps:
            frame = av.VideoFrame(*SIZE, "yuv420p")
            frame.pts, frame.time_base = int(stamp), Fraction(1, rate)
            file.mux(made.encode(frame))
        file.mux(made.encode())


@st.composite
def videos(draw):
    """(suffix, arguments of `write` for each of its parts, right times of its frames)."""
    kind, between = draw(st.sampled_from(["ts", "avi", "flv", "mkv", "mp4"])), str(draw(st.integers(0, 3)))
    h264, mpeg = {"codec": "libx264", "bf": between, "preset": "ultrafast"}, {"codec": "mpeg4", "bf": between}
    if kind == "ts":  # recordings one after the other, each with a clock of its own, and a picture with a wrong stamp
        about = draw(st.sampled_from([h264, mpeg | {"codec": "mpeg2video"}])) | {"form": "mpegts"}
        starts = draw(st.lists(st.integers(0, 5).map(FAR.__mul__), min_size=1, max_size=4))
        parts = [about | {"stamps": range(start, start + draw(st.integers(20, 40)))} for start in starts]
        if draw(st.booleans()):
            parts.insert(draw(st.integers(0, len(parts))), about | {"stamps": [draw(st.sampled_from([7, 9])) * FAR]})
        return kind, parts, np.arange(sum(len(part["stamps"]) for part in parts)) / 25
    about, rate, steps = h264, 1000, [20, 40, 100, 30_000]  # players wait that long
    if kind == "avi":  # some chunks are empty
        about, rate, steps = draw(st.sampled_from([h264, mpeg])), 25, [1, 1, 1, 3] if between == "0" else [1]
    elif kind == "flv":
        steps = [20, 40, 100, 1700]
    elif kind == "mp4":
        about = h264 | {"x264-params": draw(st.sampled_from(["open-gop=1:keyint=8:min-keyint=4", "keyint=8"]))}
        about |= {"container": {"movflags": draw(st.sampled_from(["faststart", "frag_keyframe+empty_moov"]))}}
    gaps = draw(st.lists(st.sampled_from(steps), min_size=20, max_size=60))
    stamps = np.cumsum([0, *gaps, steps[0]])  # a gap counts when the next stamp confirms it
    return kind, [about | {"form": {"mkv": "matroska"}.get(kind, kind), "rate": rate, "stamps": stamps}], stamps / rate


def check(folder, video):
    kind, parts, right = video
    path, content = folder / f"same.{kind}", b""
    for part in parts:
        write(path, **part)
        content += path.read_bytes()
    path.write_bytes(content)
    times, _, frames, *_ = same(path)
    assert frames == len(right)
    assert times == pytest.approx(list(right[: max(1, frames // 4 * 4) : 4]), abs=2e-3)


relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


FRAGMENTS = {
    "form": "mp4",
    "container": {"movflags": "frag_keyframe+empty_moov"},
    "codec": "libx264",
    "bf": "1",
    "b-adapt": "0",
    "rate": 1000,
}
STILL = np.array([0, *range(30_000, 30_380, 20), 60_360, 60_380])


@given(videos())
@example(("mp4", [FRAGMENTS | {"stamps": STILL}], STILL / 1000))  # its duration counts from 0, its first frame lies later
@settings(relaxed, max_examples=15)
def test_any_video(tmp_path_factory, video):
    check(tmp_path_factory.getbasetemp(), video)


@pytest.mark.slow
@given(videos())
@settings(relaxed, max_examples=500)
def test_many_videos(tmp_path_factory, video):
    check(tmp_path_factory.getbasetemp(), video)
