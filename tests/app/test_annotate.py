"""app/annotate.py: copies and clips that play everywhere, at the video's own times, from a process that does not outlive its caller."""

import io
import pickle
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import annotate, overlay
from app.analysis import Analysis, find_segments
from app.annotate import file_name, write
from app.fonts import font_for
from clips import cut, make_video, with_a_hole
from golden import CASES, REAL, needs_cases
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.files import ROOT
from utils.video.decoder import Limits
from utils.video.display import shown_size
from utils.video.frames import BrokenVideo, Video, to_rgb

CLASSES = ("normal", "Fighting", "Robbery")
VERMILLION = np.array([0xD5, 0x5E, 0x00])


def analyse(path, scores=None, *, threshold=0.5, notes=(), classes=CLASSES):
    """An Analysis of a video with these scores, one per 16 frames; by itself the middle third is anomalous."""
    with Video(path) as video:
        stamps, size = [], None
        for seconds, frame in video.timed():
            stamps.append(seconds)
            size = shown_size(frame, video.aspect)
        step = 1 / (video.fps or 25)
    rows = max(1, len(stamps) // 16)
    times = np.append(stamps[: 16 * rows : 16], stamps[-1] + step)
    if scores is None:
        scores = np.where(np.arange(rows) % max(3, rows) * 3 // max(3, rows) == 1, 0.9, 0.1)
    fine = np.tile([0.2, 0.5, 0.3], (rows, 1)) if len(classes) == 3 else np.full((rows, len(classes)), 1 / len(classes))
    parts = Scores(np.asarray(scores, float)[:rows], fine)
    segments = find_segments(parts, times, classes, threshold)
    about = dict(threshold=threshold, threshold_from="--threshold", segments=segments, notes=list(notes))
    return Analysis(Path(path), Path(path).stem, len(stamps), video.fps, size, times, parts, classes, **about)


def read(path):
    """Frames (H, W, 3), their times, and what the header says."""
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        head = {"codec": context.name, "format": context.pix_fmt, "size": (context.width, context.height), "start": stream.start_time}
        head |= {"seconds": float(stream.duration * stream.time_base), "range": context.color_range, "streams": len(file.streams)}
        frames = list(file.decode(video=0))
        return [frame.to_ndarray(format="rgb24") for frame in frames], np.array([frame.time for frame in frames]), head


def grey(size):
    """A picture(number) for make_video, of more than 64 frames."""
    return lambda number: np.full((size[1], size[0], 3), number % 250, np.uint8)


def silent(*_):
    pass


def variable(path, times):
    """A video whose frames lie at `times` (seconds)."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 4 * number % 250, np.uint8), "rgb24")
            frame.pts, frame.time_base, frame.duration = round(1000 * seconds), Fraction(1, 1000), 20
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def second_stream(path):
    """The first stream is 64 × 48, the second one larger."""
    import av

    with av.open(str(path), "w") as file:
        streams = [file.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, (width, height) in zip(streams, ((64, 48), (320, 240)), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(20):
            for stream in streams:
                picture = np.full((stream.height, stream.width, 3), 90, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        for stream in streams:
            file.mux(stream.encode())
    return path


def growing(path):
    parts = [make_video(path.with_name(f"{width}.ts"), 20, (width, 48), form="mpegts").read_bytes() for width in (64, 128)]
    path.write_bytes(b"".join(parts))
    return path


rng = np.random.default_rng(0)
KINDS = {
    "plain.mp4": lambda path: make_video(path, 50),
    "odd.mkv": lambda path: make_video(path, 20, (65, 47), codec="ffv1"),
    "turned.mp4": lambda path: make_video(path, 20, rotation=90),
    "upside.mp4": lambda path: make_video(path, 20, rotation=180),
    "one.mp4": lambda path: make_video(path, 1),
    "late.mp4": lambda path: make_video(path, delay=10, container={"avoid_negative_ts": "disabled"}),
    "variable.mp4": lambda path: variable(path, np.cumsum([*rng.choice([0.02, 0.04, 0.1, 1.7], 60), 0.04])),
    "fast.mkv": lambda path: variable(path, np.arange(90) / 240),
    "two.mp4": second_stream,
    "growing.ts": growing,
    "endless.mkv": lambda path: make_video(path, 20, container={"live": "1"}),
    "wide.mp4": lambda path: make_video(path, 20, (1920, 32)),
    "high.mp4": lambda path: make_video(path, 20, (16, 1600)),
    "录像 %s:b#1=.mp4": lambda path: make_video(path, 20),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_has_every_frame_at_its_time(tmp_path, name):
    source, target = KINDS[name](tmp_path / name), tmp_path / "out" / "copy.mp4"
    analysis, told = analyse(source, notes=["A note."]), []
    write(analysis, copy=target, progress=lambda done, total: told.append((done, total)))
    with Video(source) as video:
        stamps = np.array([frame.time for frame in video.decode()])
    _, times, head = read(target)
    assert (head["codec"], head["format"], head["start"], head["streams"]) == ("h264", "yuv420p", 0, 1)
    assert not any(side % 2 for side in head["size"])
    assert max(head["size"]) <= overlay.LONGEST
    stamps = np.arange(40) / 25 if name == "growing.ts" else stamps - stamps[0]  # which begins anew in the middle
    np.testing.assert_allclose(times, stamps, atol=3e-4)
    assert (np.diff(times) > 0).all()
    assert head["seconds"] == pytest.approx(analysis.seconds, abs=2e-3)  # MP4 keeps it in milliseconds
    content = target.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a browser plays before it has the whole file
    assert told[-1] == (analysis.frames, analysis.frames)
    assert sorted(path.name for path in target.parent.iterdir()) == ["copy.mp4"]


@pytest.mark.parametrize(("rotation", "mirrored"), [(0, False), (90, False), (-90, True), (180, True)])
def test_the_picture_is_the_video_as_shown(tmp_path, rotation, mirrored):
    def picture(number):
        image = np.full((240, 320, 3), 60, np.uint8)
        image[:120, :160], image[:120, 160:] = (200, 40, 40), (40, 200, 40)
        return image

    path = make_video(tmp_path / "a.mp4", 32, (320, 240), rotation=rotation, mirrored=mirrored, picture=picture)
    write(analyse(path, [0.1, 0.1]), copy=tmp_path / "copy.mp4", progress=silent)
    with Video(path) as video:
        expected = to_rgb(next(iter(video.decode())))
    height, width, _ = expected.shape
    shown = read(tmp_path / "copy.mp4")[0][20][: 2 * height]  # twice as large, and nothing over it
    assert shown.shape[1] == 2 * width
    assert np.abs(shown[::2, ::2].astype(int) - expected).mean() < 4


def test_copies_and_clips_have_square_pixels(tmp_path):
    def picture(_):
        image = np.full((240, 320, 3), 60, np.uint8)
        image[:120, :160], image[:120, 160:] = (200, 40, 40), (40, 200, 40)
        return image

    path = make_video(tmp_path / "a.mp4", 32, (320, 240), aspect=Fraction(1, 2), rotation=90, picture=picture)  # 240 × 160 to the eye
    analysis = analyse(path, [0.9, 0.1])
    write(analysis, copy=tmp_path / "copy.mp4", progress=silent)
    [clip] = write(analysis, clips=tmp_path, margin=0, progress=silent)
    copied, cut_out = read(tmp_path / "copy.mp4")[0][20], read(clip)[0][0]  # nothing runs any more in frame 20
    layout = overlay.arrange((240, 160), "", overlay.Pen({"": font_for("")[1]}))
    (left, top), (width, height) = layout.place, layout.picture
    assert width / height == pytest.approx(240 / 160, abs=0.01)
    expected = np.rot90(picture(0)[:, ::2])
    assert cut_out.shape == expected.shape == (160, 240, 3)
    assert np.abs(cut_out.astype(int) - expected).mean() < 4
    shown = Image.fromarray(copied[top : top + height, left : left + width]).resize((240, 160))
    assert np.abs(np.asarray(shown).astype(int) - expected).mean() < 4


@needs_cases
def test_the_files_of_the_cases_look_as_players_show_them(tmp_path):
    pictures = {}
    for name in ("plain", "hflip", "sar_1_2"):
        analysis = analyse(CASES / f"{name}.mp4", [0.9, 0.1, 0.1])
        write(analysis, copy=tmp_path / f"{name}.mp4", progress=silent)
        [clip] = write(analysis, clips=tmp_path / "clips", margin=0, progress=silent)
        pictures[name] = read(tmp_path / f"{name}.mp4")[0][30], read(clip)[0][5]
    for number, rows in ((0, 480), (1, 120)):  # of the copy the picture alone, which is four times as large
        plain, mirrored = (pictures[name][number][:rows].astype(int) for name in ("plain", "hflip"))
        assert np.abs(plain[:, ::-1] - mirrored).mean() < 4
        assert np.abs(plain[::-1] - mirrored).mean() > 20
    copy, clip = pictures["sar_1_2"]
    assert clip.shape == (144, 176, 3)
    assert overlay.arrange((176, 144), "", overlay.Pen({"": font_for("")[1]})).size == copy.shape[1::-1]


@pytest.mark.parametrize(
    ("codec", "form", "more"),
    [
        ("libx264", "yuv420p", {}),
        ("libx264", "yuv420p", {"colorspace": 1}),
        ("libx264", "yuvj420p", {}),
        ("libx264", "yuv420p10le", {}),
        ("libx264", "yuv444p", {}),
        ("libx264rgb", "rgb24", {}),
        ("mjpeg", "yuvj420p", {"color_range": 2}),
        ("ffv1", "gray", {}),
    ],
)
def test_colours_stay(tmp_path, codec, form, more):
    import av

    path, size = tmp_path / "a.mkv", (320, 240)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        (stream.width, stream.height), stream.pix_fmt = size, form
        for key, value in more.items():
            setattr(stream.codec_context, key, value)
        picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), (200, 60, 40), np.uint8), "rgb24")
        options = {"dst_colorspace": more.get("colorspace"), "dst_color_range": more.get("color_range")}
        for _ in range(16):
            file.mux(stream.encode(picture.reformat(format=form, **options)))
        file.mux(stream.encode())
    write(analyse(path, [0.1]), copy=tmp_path / "copy.mp4", progress=silent)
    pictures, _, head = read(tmp_path / "copy.mp4")
    with Video(path) as video:
        expected = to_rgb(next(iter(video.decode())))[100, 100]
    assert np.abs(pictures[8][200, 200].astype(int) - expected).max() <= 6
    assert head["range"] == 1


def cursor(picture, ground):
    """The column of the white line in the strip below `ground`, from the left."""
    return int(picture[ground + 40 : ground + 70].mean((0, 2)).argmax())


def test_the_cursor_runs_and_the_class_is_named_while_its_segment_runs(tmp_path):
    analysis = analyse(make_video(tmp_path / "a.mp4", 96, (640, 480), picture=grey((640, 480))), [0.1, 0.1, 0.9, 0.8, 0.1, 0.1])
    write(analysis, copy=tmp_path / "copy.mp4", progress=silent)
    pictures, times, _ = read(tmp_path / "copy.mp4")
    layout = overlay.arrange((640, 480), "", overlay.Pen({"": font_for("")[1]}))
    tags = [picture[484:500, 280:360].mean((0, 1)) for picture in pictures]  # in the strip's first line
    named = [red - blue > 80 for red, _, blue in tags]
    framed = [np.abs(picture[1, 300].astype(int) - VERMILLION).max() < 30 for picture in pictures]
    assert named == framed == [32 <= number < 64 for number in range(96)]
    inside = [picture[8:472, 8:632].reshape(-1, 3).std(0).max() for picture in pictures]
    assert max(inside) < 3  # nothing stands over the picture, whose corners have the camera's own clock
    places = [cursor(picture, 480) for picture in pictures]
    expected = [overlay.x_of(layout, seconds, analysis.seconds) for seconds in times]
    assert np.abs(np.subtract(places, expected)).max() <= 3


def job_of(analysis):
    """What `annotate` hands to the child process."""
    kept = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotate, "_run", lambda job, *_: kept.update(job))
        patch.setattr("os.replace", silent)
        write(analysis, copy=Path("/tmp/copy.mp4"))
    return kept | {"size": analysis.size}


@pytest.mark.parametrize("size", [(320, 240), (16, 1200), (1200, 12)])
def test_drawing_what_has_changed_is_drawing_all(tmp_path, size):
    path = make_video(tmp_path / "a.mp4", 96, size, picture=grey(size))
    job = job_of(analyse(path, [0.1, 0.7, 0.9, 0.1, 0.6, 0.1], notes=["A note of some length, that takes a line or two."] * 4))
    with Video(path) as video:
        frames = list(video.decode())
    kept = annotate.Annotated(frames[0], job)
    seen = set()
    for frame in frames[::4]:
        drawn = kept(frame, frame.time)
        assert np.array_equal(drawn, annotate.Annotated(frames[0], job)(frame, frame.time))
        seen.add(drawn.tobytes())
    assert len(seen) == 24  # something moves


def numbers(path):
    """Of frames of make_video: which they are."""
    return [round(picture.mean() / 4) for picture in read(path)[0]]


def test_clips_hold_exactly_their_frames(tmp_path):
    analysis = analyse(make_video(tmp_path / "a.mp4", 60), [0.9, 0.1, 0.1], classes=CLASSES)
    analysis.segments += [analysis.segments[0]._replace(first=2, last=3, start=1.28, end=2.4, label="a/b 打架 " + "x" * 300)]
    paths = write(analysis, clips=tmp_path / "clips", margin=0.2, progress=silent)
    assert [path.name for path in paths] == ["a.001.Fighting.mp4", f"a.002.a_b_打架_{'x' * 49}.mp4"]
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [path.name for path in paths]
    assert numbers(paths[0]) == list(range(21))  # 0 s to 0.64 + 0.2 s
    assert numbers(paths[1]) == list(range(27, 60))  # 1.08 s to the end
    for path, seconds in zip(paths, (0.84, 1.32), strict=True):
        _, times, head = read(path)
        assert (head["codec"], head["format"], head["size"]) == ("h264", "yuv420p", (64, 48))
        np.testing.assert_allclose(times, np.arange(len(times)) / 25, atol=2e-5)
        assert head["seconds"] == pytest.approx(seconds, abs=2e-3)


def test_clips_may_overlap(tmp_path):
    analysis = analyse(make_video(tmp_path / "a.mp4", 60), [0.9, 0.1, 0.1])
    analysis.segments = [analysis.segments[0]._replace(start=start / 25, end=(start + 10) / 25) for start in range(0, 50, 5)]
    paths = write(analysis, clips=tmp_path, margin=0.4, progress=silent)
    assert [numbers(path) for path in paths] == [list(range(max(0, start - 10), min(60, start + 20))) for start in range(0, 50, 5)]


@pytest.fixture
def children(monkeypatch):
    """The processes that are started."""
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *words, **more):
            super().__init__(*words, **more)
            started.append(self)

    monkeypatch.setattr(annotate.subprocess, "Popen", Popen)
    return started


@pytest.mark.parametrize("name", ["sound.ts", "turned.mp4"])
def test_copy_and_clips_of_one_decoding_are_those_of_two(tmp_path, children, name):
    path = with_sound(tmp_path / name) if name == "sound.ts" else make_video(tmp_path / name, rotation=90)
    analysis = analyse(path, [0.9, 0.1, 0.1], notes=["A note."])
    analysis.segments += [analysis.segments[0]._replace(first=2, last=3, start=1.28, end=2.0, label="Robbery")]
    write(analysis, copy=tmp_path / "two" / "copy.mp4", progress=silent)
    write(analysis, clips=tmp_path / "two", margin=0.4, progress=silent)
    assert len(children) == 2
    clips = annotate.write(analysis, copy=tmp_path / "one" / "copy.mp4", clips=tmp_path / "one", margin=0.4, progress=silent)
    assert len(children) == 3
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("one", "two"))
    assert {"copy.mp4", *(clip.name for clip in clips)} == one.keys()
    assert len(clips) == 2
    assert one == two


def test_nothing_behind_the_last_clip_is_decoded(tmp_path):
    analysis, told = analyse(make_video(tmp_path / "a.mp4"), [0.9, 0.1, 0.1]), []
    cut(tmp_path / "a.mp4", 0.7, container={"movflags": "faststart"})  # which the whole video's decoding would notice
    [clip] = write(analysis, clips=tmp_path, margin=0, progress=lambda *done: told.append(done))
    assert numbers(clip) == list(range(16))
    assert told[-1] == (50, 50)


def test_without_segments_there_are_no_clips(tmp_path):
    assert write(analyse(make_video(tmp_path / "a.mp4"), [0.1] * 3), clips=tmp_path / "clips") == []
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("margin", [-1, float("nan"), float("inf")])
def test_a_margin_is_a_length(tmp_path, margin):
    with pytest.raises(BadInput, match="margin"):
        write(analyse(make_video(tmp_path / "a.mp4")), clips=tmp_path, margin=margin)


def test_another_video_than_the_analysed_one_is_noticed(tmp_path):
    analysis = analyse(make_video(tmp_path / "a.mp4"))
    analysis.segments = [analysis.segments[0]._replace(start=60.0, end=61.0)]
    with pytest.raises(BrokenVideo, match=r"a\.mp4: no frame from 59\.00"):
        write(analysis, clips=tmp_path / "clips", progress=silent)
    assert not list((tmp_path / "clips").iterdir())


@pytest.mark.parametrize(
    ("label", "expected"),
    [("Fighting", "Fighting"), ("../../x", "x"), ("a b", "a_b"), ("", "segment"), ("\ud800", "segment"), ("打" * 30, "打" * 20)],
)
def test_a_class_name_as_a_file_name(label, expected):
    assert file_name(label) == expected


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("cut.mp4", lambda path: cut(path, 0.7, container={"movflags": "faststart"}), "50 as its header says"),
        ("holed.mp4", with_a_hole, "damaged or too large frames beside"),
        ("text.mp4", lambda path: path.write_text("a man walks"), "cannot be opened"),
        ("missing.mp4", lambda path: path.unlink(), "no such file; expected a video file"),
    ],
)
@pytest.mark.parametrize("clips", [False, True])
def test_a_broken_video_is_named_and_leaves_nothing(tmp_path, name, make, said, clips):
    analysis = analyse(make_video(tmp_path / name))
    make(tmp_path / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "copy.mp4").write_text("older")
    with pytest.raises(BrokenVideo, match=said) as error:
        write(analysis, clips=tmp_path / "out") if clips else write(analysis, copy=tmp_path / "out" / "copy.mp4")
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["older"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(timeout=0.05), "ran longer than 0.05 s"),
        (Limits(memory=1 << 20), "cannot be decoded|does not fit|died"),
        (Limits(max_seconds=1.0), "longer than 1 s"),
        (Limits(max_pixels=1000), "3072|64 × 48 pixels"),
    ],
)
def test_limits_end_it(tmp_path, children, limits, said):
    with pytest.raises(BrokenVideo, match=said):
        write(analyse(make_video(tmp_path / "a.mp4")), copy=tmp_path / "out" / "copy.mp4", limits=limits)
    assert [child.poll() is not None for child in children] == [True]
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupt_kills_the_child(tmp_path, children):
    def interrupt(done, total):
        assert children[0].poll() is None
        raise KeyboardInterrupt

    analysis = analyse(make_video(tmp_path / "a.mp4", 1000, (640, 480), picture=grey((640, 480))))
    with pytest.raises(KeyboardInterrupt):
        write(analysis, copy=tmp_path / "out" / "copy.mp4", progress=interrupt)
    assert children[0].poll() == -9
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_the_child_does_not_outlive_a_killed_caller(tmp_path):
    analysis = analyse(make_video(tmp_path / "a.mp4", 1000, (640, 480), picture=grey((640, 480))))
    program = (
        "import pickle, sys\nfrom app import annotate\nanalysis = pickle.load(sys.stdin.buffer)\n"
        "annotate.write(analysis, copy=sys.argv[1], progress=lambda *_: print('running', flush=True))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "copy.mp4")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        caller.stdin.write(pickle.dumps(analysis))
        caller.stdin.close()
        assert caller.stdout.readline() == b"running\n"
        child = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
        assert len(child) == 1
        caller.kill()
    for _ in range(100):
        status = Path(f"/proc/{child[0]}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child goes on")
    assert not (tmp_path / "copy.mp4").exists()


def test_a_bug_in_the_child_shows_its_traceback(tmp_path):
    analysis = analyse(make_video(tmp_path / "a.mp4"))
    analysis.threshold = "high"
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1:.*Traceback.*TypeError"):
        write(analysis, copy=tmp_path / "copy.mp4", progress=silent)


def test_where_nothing_can_be_written(tmp_path):
    analysis = analyse(make_video(tmp_path / "a.mp4"))
    with pytest.raises(BadInput, match="cannot write there"):
        write(analysis, copy=tmp_path / "a.mp4" / "copy.mp4")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path, monkeypatch):
    analysis, real = analyse(make_video(tmp_path / "a.mp4")), annotate._run

    def full(job, *words):
        job["outputs"][0]["path"] = "/dev/full"
        real(job, *words)

    monkeypatch.setattr(annotate, "_run", full)
    with pytest.raises(BadInput, match=r"copy.mp4: cannot be written \(No space left"):
        write(analysis, copy=tmp_path / "copy.mp4", progress=silent)


def test_the_child_needs_no_torch():
    program = "import sys, app.annotate, av; print(sorted({'torch', 'pandas', 'sklearn', 'matplotlib'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_length(tmp_path, children):
    """But for the index of MP4 and the scores: ten times the frames take at most 20 MB more."""

    def peak(frames):
        highest = []
        path = make_video(tmp_path / "a.mp4", frames, (320, 240), picture=grey((320, 240)))
        write(analyse(path), copy=tmp_path / "copy.mp4", progress=lambda *_: highest.append(memory(children[-1].pid)))
        return max(highest)

    assert peak(3000) < peak(300) + 20


def memory(pid):
    """MB, the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)  # one that has ended has none


def with_sound(path, codec="aac", form=None):
    """Two seconds of pictures and of a tone that begins after one second."""
    import av

    with av.open(str(path), "w", format=form) as file:
        video, sound = file.add_stream("libx264", rate=25), file.add_stream(codec, rate=48000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        tone = np.sin(np.arange(96000) * 0.05) * (np.arange(96000) >= 48000)
        for number in range(50):
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), "rgb24")))
            part = tone[1920 * number : 1920 * (number + 1)].astype(np.float32)[None].repeat(2, 0)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 1920 * number, Fraction(1, 48000)
            file.mux(sound.encode(frame))
        for stream in (video, sound):
            file.mux(stream.encode())
    return path


def heard(path):
    """(seconds at which the tone begins, seconds at which the sound ends), by the decoded sound; None where there is none."""
    import av

    with av.open(str(path)) as file:
        if not file.streams.audio:
            return None
        frames = list(file.decode(audio=0))
    loud = next(frame.time for frame in frames if np.abs(frame.to_ndarray()).max() > 0.3)
    return loud, frames[-1].time + frames[-1].samples / frames[-1].sample_rate


@pytest.mark.parametrize(("name", "form"), [("a.mp4", None), ("a.mkv", None), ("a.ts", "mpegts"), ("a.avi", None)])
def test_sound_is_copied(tmp_path, name, form):
    analysis = analyse(with_sound(tmp_path / name, form=form), [0.1, 0.1, 0.9])
    write(analysis, copy=tmp_path / "copy.mp4", progress=silent)
    assert heard(tmp_path / "copy.mp4") == pytest.approx(heard(tmp_path / name), abs=0.15)
    assert heard(tmp_path / "copy.mp4") == pytest.approx((1.0, 2.0), abs=0.1)
    [clip] = write(analysis, clips=tmp_path, margin=0.5, progress=silent)  # 1.28 - 0.5 s to the end
    assert heard(clip) == pytest.approx((0.22, 1.22), abs=0.1)


def test_sound_that_browsers_do_not_play_in_mp4_is_left_out(tmp_path):
    write(analyse(with_sound(tmp_path / "a.mkv", "ac3")), copy=tmp_path / "copy.mp4", progress=silent)
    assert heard(tmp_path / "a.mkv")
    assert heard(tmp_path / "copy.mp4") is None


def test_damaged_sound_does_not_end_the_copy(tmp_path):
    path = with_sound(tmp_path / "a.ts", form="mpegts")
    analysis, content = analyse(path), bytearray(path.read_bytes())
    packets = [at for at in range(0, len(content), 188) if (content[at + 1] & 31) << 8 | content[at + 2] == 0x101]  # those of the sound
    for at in packets[len(packets) // 2 :]:
        content[at + 20 : at + 188] = bytes(168)
    path.write_bytes(content)
    write(analysis, copy=tmp_path / "copy.mp4", progress=silent)
    assert len(read(tmp_path / "copy.mp4")[0]) == 50


def test_hours_between_two_frames(tmp_path):
    """As of a camera that records where something moves."""
    path = variable(tmp_path / "a.mkv", [*np.arange(30) / 25, 100_000, 100_000.04])
    write(analyse(path), copy=tmp_path / "copy.mp4", progress=silent)
    times = read(tmp_path / "copy.mp4")[1]
    np.testing.assert_allclose(times[-3:], [1.16, 100_000, 100_000.04], atol=2e-3)
    path = variable(tmp_path / "a.mkv", [*np.arange(30) / 25, 3e6, 3e6 + 0.04])
    with pytest.raises(BrokenVideo, match=r"34\.7 days without a frame"):
        write(analyse(path), copy=tmp_path / "copy.mp4", progress=silent)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
@pytest.mark.parametrize("name", [pytest.param("RoadAccidents010_x264.mp4", marks=pytest.mark.slow), "holmesvau_car_accident.mp4"])
def test_real_videos(tmp_path, name):
    """One has a picture as a second stream, one has sound."""
    analysis = analyse(REAL / "videos" / name, notes=["A note."])
    write(analysis, copy=tmp_path / "copy.mp4", progress=silent)
    pictures, times, head = read(tmp_path / "copy.mp4")
    assert len(pictures) == analysis.frames
    assert head["streams"] == (2 if "car" in name else 1)
    assert head["seconds"] == pytest.approx(analysis.seconds, abs=2e-3)
    with Video(analysis.path) as video:
        frames = list(video.decode())
        np.testing.assert_allclose(times, [frame.time - frames[0].time for frame in frames], atol=2e-5)
        for number in (0, len(frames) - 1):
            expected = to_rgb(frames[number], longest=64).mean((0, 1))
            shown = pictures[number][: overlay.even(head["size"][0] * analysis.size[1] / analysis.size[0])]
            assert np.abs(shown.mean((0, 1)) - expected).max() < 3


@pytest.mark.slow
def test_chromium_plays_and_seeks_copies_and_clips(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    sizes = {"video": (320, 240), "tall": (48, 1200), "odd": (66, 50)}
    for name, size in sizes.items():
        analysis = analyse(make_video(tmp_path / f"{name}.mkv", 96, size, picture=grey(size)), [0.1, 0.1, 0.9, 0.8, 0.1, 0.1])
        write(analysis, copy=tmp_path / "out" / f"{name}.mp4", progress=silent)
    write(analysis, clips=tmp_path / "out", margin=0, progress=silent)
    playing = "video => video.play().then(() => new Promise(done => video.onended = done))"
    seeking = "(video, at) => new Promise(done => { video.onseeked = done; video.currentTime = at })"
    with sync_api.sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        for path in sorted((tmp_path / "out").iterdir()):
            (tmp_path / "page.html").write_text(f'<body style="margin:0"><video muted preload=auto src="out/{path.name}"></video>')
            page.goto((tmp_path / "page.html").as_uri())
            video = page.wait_for_selector("video")
            video.evaluate(playing)
            assert video.evaluate("video => video.error") is None
            seconds, clip = (1.28, True) if "Fighting" in path.name else (3.84, False)
            assert video.evaluate("video => video.duration") == pytest.approx(seconds, abs=0.01)
            if not clip:
                for at, named in ((0.4, False), (2.0, True), (3.5, False), (1.5, True)):
                    video.evaluate(seeking, at)
                    shown = np.asarray(Image.open(io.BytesIO(video.screenshot())).convert("RGB"))
                    assert (np.abs(shown[1, shown.shape[1] // 2].astype(int) - VERMILLION).max() < 40) == named  # framed
