"""utils/video/decoder.py: pictures and times of a video through a child process, and what becomes of files that are none, or too much."""

import io
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from clips import cut, is_gone, make_video, neighbour, sound, stub
from utils.files import ROOT
from utils.video import decoder
from utils.video.crops import Recipe
from utils.video.decoder import Decoder, Ended, Limits, Opened, Picture, Thumbnails
from utils.video.frames import BrokenVideo

SMALL = Recipe(size=32)


def decoded(path, recipe=SMALL, limits=decoder.LIMITS) -> tuple[Opened, list[Picture], Ended]:
    with Decoder(path, recipe, limits) as events:
        opened, *pictures, ended = events
    assert isinstance(opened, Opened)
    assert isinstance(ended, Ended)
    return opened, pictures, ended


def refused(path, limits=decoder.LIMITS) -> str:
    with Decoder(path, SMALL, limits) as events, pytest.raises(BrokenVideo) as error:
        list(events)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 31, 32, 50])
def test_the_first_frame_of_every_whole_snippet(tmp_path, frames):
    opened, pictures, ended = decoded(make_video(tmp_path / "a.mp4", frames))
    assert opened == ((64, 48), 25, frames, True, None)
    assert [round(picture.image.mean() / 4) for picture in pictures] == [16 * t for t in range(max(1, frames // 16))]
    assert [picture.number for picture in pictures] == list(range(len(pictures)))
    assert {picture.image.shape for picture in pictures} == {(37, 49, 3)}
    assert [picture.time for picture in pictures] == pytest.approx([16 * t / 25 for t in range(len(pictures))])
    assert ended[:2] == (frames, pytest.approx(frames / 25))


def test_a_user_who_may_have_no_large_pipe(tmp_path, monkeypatch):
    """Linux allows 64 MiB of them."""
    fcntl, asked = pytest.importorskip("fcntl"), []

    def refused(*arguments):
        asked.append(arguments)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refused)
    assert len(decoded(make_video(tmp_path / "a.mp4", 50))[1]) == 3
    assert len(asked) == sys.platform.startswith("linux")


def test_another_stride(tmp_path):
    _, pictures, _ = decoded(make_video(tmp_path / "a.mp4", 50), Recipe(size=32, stride=7))
    assert [round(picture.image.mean() / 4) for picture in pictures] == [0, 7, 14, 21, 28, 35, 42]


def at_times(path, times, stamped=True):
    """A video whose frame i is shown at times[i] milliseconds."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "0"})
        (stream.width, stream.height), stream.pix_fmt = (64, 48), "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, when in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = when, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_times_of_a_variable_frame_rate_are_those_of_the_file(tmp_path, name):
    times = np.cumsum([500, *np.random.default_rng(0).integers(10, 400, 49)])  # the first one is not at 0
    _, pictures, ended = decoded(at_times(tmp_path / name, times))
    assert [picture.time for picture in pictures] == pytest.approx([(times[16 * t] - times[0]) / 1000 for t in range(3)], abs=2e-3)
    assert ended.frames == 50
    assert ended.seconds > (times[-1] - times[0]) / 1000
    assert [round(picture.image.mean() / 4) for picture in pictures] == [0, 16, 32]


def test_a_file_without_time_stamps_has_those_of_its_rate(tmp_path):
    path = make_video(tmp_path / "a.h264", 40, form="h264")
    _, pictures, ended = decoded(path)
    assert [round(picture.image.mean() / 4) for picture in pictures] == [0, 16]
    assert pictures[1].time > 0
    assert ended.seconds > pictures[1].time


def test_a_file_without_a_duration(tmp_path):
    opened, pictures, ended = decoded(make_video(tmp_path / "a.mkv", container={"live": "1"}))
    assert opened.frames is None
    assert (len(pictures), ended.frames, ended.seconds) == (3, 50, pytest.approx(2, abs=0.01))


@pytest.mark.parametrize("size", [(65, 49), (17, 33), (1, 1)])
def test_odd_sizes(tmp_path, size):
    opened, pictures, ended = decoded(make_video(tmp_path / "a.avi", 20, size, "ffv1"))
    assert opened.size == size
    assert pictures[0].image.shape == (37, 49, 3)
    assert Image.open(io.BytesIO(ended.thumbnails[0][1])).size == (max(1, round(90 * size[0] / size[1])), 90)


def test_a_mere_strip_is_refused(tmp_path):
    """Its aspect kept, or as a thumbnail, it would be very long."""
    assert "404 × 4 pixels; expected sides of at most 1 : 100" in refused(make_video(tmp_path / "a.mp4", 2, (404, 4)))


def test_thumbnails_of_every_snippet_and_fewer_of_a_long_video(monkeypatch):
    monkeypatch.setattr(decoder, "THUMBNAILS", 40)
    for length in (1, 5, 40, 41, 81, 1000):
        kept, most = Thumbnails(), 0
        for number in range(length):
            kept.offer(number, float(number), np.full((90, 120, 3), number % 256, np.uint8), (120, 90))
            most = max(most, len(kept.kept))
        times = [when for when, _ in kept.kept]
        assert most <= 41
        assert times == list(range(0, length, kept.every))
        assert kept.every == {1: 1, 5: 1, 40: 1, 41: 2, 81: 4, 1000: 32}[length]
        for when, jpeg in kept.kept:
            assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - when % 256).max() <= 2


def lying(path):
    """Its header says more frames than there are."""
    cut(path, 0.7, container={"movflags": "faststart"})


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("missing.mp4", lambda path: None, "no such file; expected a video file"),
        ("sound.mp4", sound, "no video stream"),
        ("text.mp4", lambda path: path.write_text("a man walks"), "cannot be opened"),
        ("cut.mp4", lying, "50 as its header says"),
        ("list.mp4", lambda path: path.write_text(f"ffconcat version 1.0\nfile {neighbour(path)}\n"), "cannot be opened"),
        ("bomb.avi", lambda path: make_video(path, 1, (8192, 8192), "mjpeg", options={"strict": "-1"}), "at most 9437184 pixels"),
        ("pipe.mp4", lambda path: os.mkfifo(path), "a named pipe; expected a video file"),  # nobody writes to it: reading would never end
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, make, said):
    make(tmp_path / name)
    assert said in refused(tmp_path / name)


def test_the_name_is_that_which_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Decoder("a.mp4", SMALL) as events, pytest.raises(BrokenVideo, match=r"^a\.mp4: no such file"):
        list(events)
    make_video(tmp_path / "a.mp4", 20)
    (tmp_path / "utils").mkdir()  # the user's folder is not where modules are looked for
    (tmp_path / "utils" / "__init__.py").write_text("raise SystemExit(9)")
    assert len(decoded("a.mp4")[1]) == 1


@pytest.mark.parametrize("container", [{}, {"live": "1"}])  # by its header, and where that says nothing, by its frames
def test_a_longer_video_than_allowed_is_refused(tmp_path, container):
    path = make_video(tmp_path / "a.mkv", 50, container=container)
    assert "longer than 1.5 s" in refused(path, Limits(max_seconds=1.5))
    assert decoded(path, limits=Limits(max_seconds=2))[2].frames == 50


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux")
def test_memory_is_limited(tmp_path):
    path = make_video(tmp_path / "a.avi", 2, (3840, 2160), "mjpeg", options={"strict": "-1"})
    for memory in (1 << 20, 16 << 20):
        assert "takes more than" in (said := refused(path, Limits(memory=memory))) or "Cannot allocate memory" in said
    assert decoded(path)[2].frames == 2


@pytest.mark.parametrize("program", ["import time; time.sleep(600)", "while True: pass"])
def test_a_decoder_that_hangs_is_killed(monkeypatch, tmp_path, program):
    stub(monkeypatch, program)
    with Decoder(tmp_path / "a.mp4", SMALL, Limits(timeout=0.2)) as events:
        with pytest.raises(BrokenVideo, match=r"a\.mp4: its decoder ran longer than 0\.2 s"):
            list(events)
        assert events._process.poll() == -signal.SIGKILL


def test_time_in_which_nobody_reads_does_not_count(tmp_path):
    """An encoder may be slow."""
    path = make_video(tmp_path / "a.mkv", 50)
    with Decoder(path, Recipe(stride=2), Limits(timeout=60)) as events:
        first = next(pictures := iter(events))
        waited = events._waited
        time.sleep(0.3)
        assert events._waited == waited
        assert isinstance(first, Opened)
        assert len(list(pictures)) == 26


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("import sys; sys.exit('out of luck')", "exit code 1 out of luck"),
    ],
)
def test_a_decoder_that_dies_is_named(monkeypatch, tmp_path, program, said):
    stub(monkeypatch, program)
    assert f"its decoder died ({said})" in refused(tmp_path / "a.mp4")


def test_no_process_stays(tmp_path):
    path = make_video(tmp_path / "a.mkv", 50)
    with Decoder(path, Recipe(stride=1)) as events:
        next(iter(events))
    assert events._process.poll() is not None
    with Decoder(path, SMALL) as events:
        list(events)
    assert events._process.poll() is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_the_child_ends_with_its_parent(tmp_path):
    path = make_video(tmp_path / "a.mkv", 50)
    program = (
        "import sys, time; from utils.video.crops import Recipe; from utils.video.decoder import Decoder; "
        f"child = Decoder({str(path)!r}, Recipe(stride=1, size=448)); next(iter(child)); print(child._process.pid, flush=True); "
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert is_gone(child)


def test_the_child_starts_without_torch():
    program = "import sys, utils.video.decoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
