"""app/live/follower.py, feed.py, events.py: every snippet scored once, as Detector.score_delayed does, across cuts, with flat memory."""

import contextlib
import gc
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.analysis import find_segments
from app.live import feed
from app.live import follower as live
from app.live.events import Events, Place, Scored
from app.live.stream import Cut, Opened, Snippet, parse_source
from golden import REAL
from streams import RECIPE, CutOff, Server, lines_of, make_detector, memory, number_of, standard_input, write_stream
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.evaluation.segments import anomaly_score
from utils.files import ROOT
from utils.video.extraction import extract

TOLERANCE = 1e-5  # of a score: the encoder sees batches of other sizes, and lines have seven digits


def watched(detector):
    """The detector, and the list of the numbers of the frames that it encodes, and that of their features."""
    encode, numbers, features = detector.encode, [], []

    def watch(pictures):
        numbers.extend(number_of(picture) for picture in pictures)
        found = encode(pictures)
        features.extend(found)
        return found

    detector.encode = watch
    return detector, numbers, features


def follow(detector, source, **options):
    out = io.StringIO()
    live.run(detector, source, out=out, **{"latency": 5, "attempts": 0} | options)
    return out.getvalue()


def follow_sent(detector, *parts, **options):
    with Server(*parts) as server:
        return follow(detector, f"tcp://127.0.0.1:{server.port}", **options)


def check_scores(snippets, detector, features, ahead):
    """The scores of `snippets` are those of Detector.score_delayed."""
    expected = detector.score_delayed(torch.stack(features), ahead)
    assert [line["score"] for line in snippets] == pytest.approx(list(anomaly_score(expected)), abs=TOLERANCE)
    likeliest = expected.fine[:, 1:].max(1)
    assert [line["probability"] for line in snippets] == pytest.approx(list(likeliest), abs=TOLERANCE)


def check_events(text, detector, scores):
    """The event lines are the segments of the scores, connection by connection."""
    snippets, ended = lines_of(text, "snippet"), lines_of(text, "event", "end")
    edges = [line["end"] for line in lines_of(text, "connection", "cut")] + [snippets[-1]["end"]]
    connection = [next(number for number, edge in enumerate(edges) if line["start"] < edge) for line in snippets]
    expected = []
    for number in sorted(set(connection)):
        rows = [row for row, of in enumerate(connection) if of == number]
        times = [snippets[row]["start"] for row in rows] + [snippets[rows[-1]]["end"]]
        part = Scores(*(None if values is None else values[rows] for values in scores))
        for found in find_segments(part, np.array(times), detector.classes, detector.threshold):
            last = found.last - 1
            expected.append((rows[found.first], rows[last], found.start, snippets[rows[last]]["end"], found.label, found.score))
    found = [(one["first_snippet"], one["last_snippet"], one["start"], one["end"], one["class"], one["score"]) for one in ended]
    assert [one[:5] for one in found] == [one[:5] for one in expected]
    assert [one[5] for one in found] == pytest.approx([one[5] for one in expected], abs=TOLERANCE)
    started = lines_of(text, "event", "start")
    assert [(line["first_snippet"], line["start"]) for line in started] == [(one[0], one[2]) for one in expected]
    assert [line["number"] for line in started] == [line["number"] for line in ended] == list(range(len(expected)))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 8), st.booleans(), st.randoms(use_true_random=False))
def test_scores_are_those_of_score_delayed(total, length, ahead, fine, random):
    detector = make_detector(length=length, fine=fine)
    ahead = min(ahead, length - 1)
    features = torch.randn(total, 2, 24, generator=torch.Generator().manual_seed(random.randrange(1000)))
    scorer, found = live.Scorer(detector), []
    scorer.ahead = ahead
    for number, rows in enumerate(features):
        found += scorer.add(Place(number, 0, number, number + 1, number), rows)
        assert len(found) == max(0, number + 1 - ahead)
    found += scorer.settle(len(scorer.pending))
    expected = detector.score_delayed(features, ahead)
    assert [scored.place.number for scored in found] == list(range(total))
    assert [scored.score for scored in found] == pytest.approx(list(expected.coarse), abs=1e-6)
    if fine:
        assert np.stack([scored.fine for scored in found]) == pytest.approx(expected.fine, abs=1e-6)


def test_scores_that_are_no_numbers_are_told():
    detector = make_detector()
    detector.scorer = lambda videos: {key: Scores(coarse=np.full(len(rows), np.nan, np.float32)) for key, rows in videos}
    with pytest.raises(BadInput, match="no finite number; check the model"):
        live.Scorer(detector).add(Place(0, 0, 0, 1, 0), torch.zeros(1, 24))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), min_size=1, max_size=40), st.booleans(), st.integers(0, 99))
def test_events_are_the_segments_of_the_scores(values, fine, seed):
    classes, values = ("normal", "a", "b"), np.array(values, np.float32)
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), len(values)).astype(np.float32) if fine else None
    times = np.arange(len(values) + 1) / 2
    events, lines = Events(classes, 0.5), []
    for i, value in enumerate(values):
        lines += events.add(Scored(Place(i, 0, times[i], times[i + 1], i), value, probabilities[i] if fine else None))
    lines += events.close()
    expected = find_segments(Scores(coarse=values, fine=probabilities), times, classes, 0.5)
    ended = [line for line in lines if line["state"] == "end"]
    assert [(line["first_snippet"], line["last_snippet"] + 1, line["start"], line["end"], line["class"]) for line in ended] == [
        (one.first, one.last, one.start, one.end, one.label) for one in expected
    ]
    assert [line["score"] for line in ended] == pytest.approx([one.score for one in expected])
    assert [line["state"] for line in lines] == ["start", "end"] * len(expected)


def test_dropped_snippets_are_lower_ones_and_a_cut_ends_an_event():
    events = Events(("normal", "a"), 0.5)
    numbers = [(0, 0), (2, 0), (5, 0), (6, 1)]  # 1 is bridged, 3 and 4 are not
    lines = [line for at in numbers for line in events.add(Scored(Place(*at, at[0], at[0] + 1, 0), np.float32(0.9), None))] + events.close()
    assert [(line["first_snippet"], line["last_snippet"]) for line in lines if line["state"] == "end"] == [(0, 2), (5, 5), (6, 6)]


def test_look_ahead():
    assert [live.look_ahead(latency, 25, 16, 256) for latency in (0.1, 0.64, 1.28, 5)] == [0, 0, 1, 6]
    assert live.look_ahead(1000, 25, 16, 256) == 128  # the past keeps its half
    assert live.look_ahead(1000, 25, 16, 1) == 0


@pytest.mark.slow
def test_three_cuts(tmp_path):
    detector, numbers, features = watched(make_detector(threshold=0.8))
    starts, ends = (0, 125, 350, 500), (101, 313, 430, 0)
    sent = [range(start, end) for start, end in zip(starts, ends, strict=True)][:3]
    parts = [lambda file, frames=frames, start=1000 * frames[0]: write_stream(file, frames, start=start) for frames in sent]
    parts += [lambda file: write_stream(CutOff(file, 30_000), range(500, 1000))]  # within a picture
    record = tmp_path / "lines.jsonl"
    record.write_text("{}\n")
    text = follow_sent(detector, *parts, latency=30, wait=True, attempts=1, record=record)
    assert record.read_text() == "{}\n" + text

    snippets, opened = lines_of(text, "snippet"), lines_of(text, "connection", "open")
    cut, retried = lines_of(text, "connection", "cut"), lines_of(text, "connection", "retry")
    last = cut[3]["frames"]
    assert [line["frames"] for line in cut] == [101, 188, 80, last]
    expected = list(itertools.chain(*(frames[::16] for frames in (*sent, range(500, 500 + last)))))
    assert numbers == expected
    assert [line["number"] for line in snippets] == list(range(len(expected)))
    assert [line["snippets_ahead"] for line in opened] == [8] * 4
    check_scores(snippets, detector, features, 8)
    check_events(text, detector, detector.score_delayed(torch.stack(features), 8))

    assert [line["missed"] >= 1 for line in opened] == [False, True, True, True]  # the back-off's first second
    resumed = [sooner["end"] + later["missed"] for sooner, later in zip(cut, opened[1:], strict=False)]
    assert [line["start"] for line in opened[1:]] == pytest.approx(resumed, abs=2e-3)
    assert snippets[6]["end"] == cut[0]["end"] == pytest.approx(101 / 25)
    assert (snippets[7]["start"], snippets[7]["number"]) == (opened[1]["start"], 7)
    assert [(line["attempt"], line["wait"]) for line in retried] == [(1, 1)] * 4
    end = json.loads(text.splitlines()[-1])
    assert (end["state"], end["snippets"], end["dropped"]) == ("end", len(expected), 0)
    assert "refused" in end["reason"]


def features_of(detector, path):
    [video] = extract([path], detector.encoder, detector.recipe, device=detector.device)
    return video, torch.from_numpy(video.features)


def test_a_file_through_a_pipe_is_scored_as_the_file(tmp_path):
    """Offline and live agree: the tolerance that README states."""
    path, detector = tmp_path / "a.ts", make_detector()
    write_stream(str(path), range(1000))
    with path.open("rb") as file, standard_input(file):
        text = follow(detector, "-", latency=60)  # or a reader that stalls would have something final early
    video, features = features_of(detector, path)
    snippets = lines_of(text, "snippet")
    assert len(snippets) == len(features) == 62
    check_scores(snippets, detector, list(features), 8)
    assert [line["start"] for line in snippets] == pytest.approx(list(video.times[:-1]), abs=1e-3)
    assert [line["state"] for line in lines_of(text, "connection")] == ["open", "end"]
    patient = make_detector(length=128)  # who waits for the whole file gets the file's scores
    with path.open("rb") as file, standard_input(file):
        text = follow(patient, "-", latency=60)
    scores = [line["score"] for line in lines_of(text, "snippet")]
    assert scores == pytest.approx(list(anomaly_score(patient.score(features))), abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="no real clips")
def test_real_clips_live_and_offline(web_of_files):
    """Over HTTP a file with a known end: not connected to again, nothing dropped, the file's scores."""
    detector = make_detector(length=256)
    for path in sorted((REAL / "videos").iterdir()):
        _, features = features_of(detector, path)
        text = follow(detector, web_of_files(path), latency=5, attempts=None)
        fps = lines_of(text, "connection", "open")[0]["fps"]
        check_scores(lines_of(text, "snippet"), detector, list(features), live.look_ahead(5, fps, 16, 256))


@pytest.fixture
def web_of_files():
    import http.server

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            data = web_of_files.path.read_bytes()
            start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
            self.send_response(206)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data[start:])

        def log_message(self, *_):
            pass

    def web_of_files(path):
        web_of_files.path = path
        return f"http://127.0.0.1:{server.server_port}/video.mp4"

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield web_of_files
    server.shutdown()
    server.server_close()


def test_interrupted():
    """SIGINT scores what is pending and leaves no line half written."""
    over = threading.Event()

    class Out(io.StringIO):
        def write(self, line):
            if '"number": 5' in line and '"snippet"' in line:
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(line)

    def part(file):
        write_stream(file, range(400))
        file.flush()
        over.wait(60)

    out, before = Out(), signal.getsignal(signal.SIGINT)
    with Server(part) as server:
        with pytest.raises(KeyboardInterrupt):
            live.run(make_detector(), f"tcp://127.0.0.1:{server.port}", latency=2, out=out, wait=True)
        over.set()
    check_interrupted(out.getvalue())
    assert signal.getsignal(signal.SIGINT) is before


def check_interrupted(text):
    snippets, end = lines_of(text, "snippet"), json.loads(text.splitlines()[-1])
    assert len(snippets) >= 6
    assert [line["number"] for line in snippets] == list(range(len(snippets)))
    assert (end["type"], end["state"], end["reason"], end["snippets"]) == ("connection", "end", "interrupted", len(snippets))
    assert len(lines_of(text, "event", "start")) == len(lines_of(text, "event", "end"))


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["SIGINT", "SIGTERM", "closed output"])
def test_a_process_ends(tmp_path, ends):
    """As a shell sees it: `… | program -`, Ctrl-C, `program | head`."""
    code = (
        "import sys; from streams import make_detector; from app.live import follower; from utils.errors import exit_code\n"
        "sys.exit(exit_code(lambda: follower.run(make_detector(), '-', latency=2)))"
    )
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, **pipes)
    path = tmp_path / "a.ts"
    write_stream(str(path), range(1000))

    def send():
        with contextlib.suppress(BrokenPipeError):  # it does not read on to the end
            process.stdin.write(path.read_bytes())
            process.stdin.flush()

    sender = threading.Thread(target=send)
    sender.start()
    lines = []
    while not lines or '"number": 5' not in lines[-1] or '"snippet"' not in lines[-1]:
        lines.append(process.stdout.readline().decode())
        assert lines[-1], process.stderr.read().decode()
    if ends == "closed output":
        process.stdout.close()
        sender.join()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # its last line, at the latest, meets the closed output
    else:
        process.send_signal(getattr(signal, ends))
        check_interrupted("".join(lines) + process.stdout.read().decode())
    assert process.wait() == {"closed output": 0, "SIGINT": 130, "SIGTERM": 143}[ends]
    message = "" if ends == "closed output" else "interrupted: everything finished so far is saved\n"
    assert process.stderr.read().decode() == message
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    sender.join()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("tcp://127.0.0.1:1", {}, "tcp://127.0.0.1:1: Connection refused; expected a video stream"),
        ("nothing.mp4", {}, "nothing.mp4: no stream"),
        ("tcp://127.0.0.1:1", {"latency": float("nan")}, "--latency nan: expected"),
        ("tcp://127.0.0.1:1", {"record": "/proc/nothing/here"}, "/proc/nothing/here: cannot be appended to"),
    ],
)
def test_bad_input(source, options, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        follow(make_detector(), source, **options)


def test_a_pipe_that_brings_no_video(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("no video\n" * 1000)
    with path.open("rb") as file, standard_input(file), pytest.raises(BadInput, match=r"^-: no video of .* pipe it in as it can be read"):
        follow(make_detector(), "-")


def test_a_checkpoint_that_reads_captions():
    detector = make_detector()
    detector.caption_encoder = torch.nn.Identity()
    with pytest.raises(BadInput, match="reads captions, and a stream has none"):
        follow(detector, "-")


def snippet(number, arrived=None):
    return Snippet(number, number, number + 1, time.time() if arrived is None else arrived, 16, np.zeros((37, 49, 3), np.uint8))


def scripted_feed(monkeypatch, connections, **options):
    """A Feed whose connections give these items, and the waits between them."""
    waits, left = [], list(connections)

    class Connection:
        def __init__(self, *_, first, **__):
            self.items = left.pop(0)(first) if left else []

        def __iter__(self):
            return iter(self.items)

        def kill(self):
            pass

    class Closed(threading.Event):
        def wait(self, seconds):
            waits.append(seconds)

    monkeypatch.setattr(feed, "Connection", Connection)
    options = {"patience": 60, "wait": None, "reconnect": True, "attempts": None} | options
    made = feed.Feed(parse_source("tcp://a:1"), RECIPE, timeout=1, **options)
    made._closed = Closed()
    return made, waits


def connected(count, *, recorded=False, arrived=None):
    """The items of a connection that gives so many snippets."""

    def items(first):
        opened = Opened(time.time(), 25, False, 64, 48, recorded)
        return [opened, *(snippet(first + i, arrived) for i in range(count)), Cut("over", time.time(), 16 * count, 0)]

    return items


def failed(_):
    return [Cut("refused", time.time(), 0, 0)]


def taken(made):
    """All that a Feed gives, once its thread has ended."""
    made._thread.join()
    items = []
    while not items or not isinstance(items[-1], feed.Over):
        items += made.take()
    assert items[-1].error is None
    return items


def test_back_off(monkeypatch):
    made, waits = scripted_feed(monkeypatch, [connected(2), *[failed] * 7, connected(1), *[failed] * 9], attempts=8)
    with made:
        items = taken(made)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [item.number for item in items if isinstance(item, Snippet)] == [0, 1, 2]
    assert [item.attempt for item in items if isinstance(item, feed.Retry)] == [*range(1, 9), *range(1, 9)]


@pytest.mark.parametrize(("first", "options"), [(failed, {}), (connected(3), {"reconnect": False}), (connected(3, recorded=True), {})])
def test_no_second_connection(monkeypatch, first, options):
    made, waits = scripted_feed(monkeypatch, [first, connected(3)], **options)
    with made:
        items = taken(made)
    assert waits == []
    assert sum(isinstance(item, Cut) for item in items) == 1


def test_a_live_source_loses_the_oldest_snippets(monkeypatch):
    monkeypatch.setattr(feed, "MOST", 4)
    made, _ = scripted_feed(monkeypatch, [connected(30), connected(9)], attempts=0, reconnect=False)
    with made:
        assert [item.number for item in taken(made) if isinstance(item, Snippet)] == [26, 27, 28, 29]


def test_what_waited_too_long_gives_way_but_never_the_newest(monkeypatch):
    made, _ = scripted_feed(monkeypatch, [connected(5, arrived=time.time() - 100)], reconnect=False)
    with made:
        assert [item.number for item in taken(made) if isinstance(item, Snippet)] == [4]


def test_a_recording_is_waited_for(monkeypatch):
    monkeypatch.setattr(feed, "MOST", 4)
    made, _ = scripted_feed(monkeypatch, [connected(30, recorded=True, arrived=0)])
    numbers, items = [], []
    with made:
        while not items or not isinstance(items[0], feed.Over):
            items = made.take()
            numbers += [item.number for item in items if isinstance(item, Snippet)]
            assert made._snippets <= 4
    assert numbers == list(range(30))


def test_a_bug_in_the_reading_thread_is_seen(monkeypatch):
    def bug(_):
        raise ZeroDivisionError

    monkeypatch.setattr(live, "Feed", lambda *_, **__: scripted_feed(monkeypatch, [bug])[0])
    with pytest.raises(ZeroDivisionError):
        follow(make_detector(), "tcp://a:1")


def test_an_encoder_that_is_too_slow(monkeypatch):
    monkeypatch.setattr(feed, "MOST", 5)
    detector, numbers, features = watched(make_detector())
    encode = detector.encode

    def slow(pictures):
        assert len(pictures) == 1
        time.sleep(0.3)
        return encode(pictures)

    detector.encode = slow
    text = follow_sent(detector, lambda file: write_stream(file, range(1600)), latency=60)  # MOST alone decides what is final, and drops
    snippets, dropped = lines_of(text, "snippet"), lines_of(text, "dropped")
    scored = [line["number"] for line in snippets]
    lost = [number for line in dropped for number in range(line["first_snippet"], line["last_snippet"] + 1)]
    assert sorted(scored + lost) == list(range(100))
    assert [16 * number for number in scored] == numbers
    assert scored[-1] == 99
    assert dropped[-1]["total"] == len(lost) == sum(line["snippets"] for line in dropped) > 0
    assert json.loads(text.splitlines()[-1])["dropped"] == len(lost)
    assert [line["start"] for line in snippets] == pytest.approx([0.64 * number for number in scored], abs=1e-3)
    places = [0, *(at for at in range(1, len(scored)) if scored[at] - scored[at - 1] > 17), len(scored)]  # more is lost than a window
    for start, end in itertools.pairwise(places):
        check_scores(snippets[start:end], detector, features[start:end], 8)  # half a window


@pytest.mark.parametrize("missed", [10, 11])
def test_after_a_gap_longer_than_the_window_nothing_before_it_is_context(missed):
    detector, out = make_detector(), io.StringIO()  # its window: 16 snippets of 0.64 s, 10.24 s
    pictures = [np.random.default_rng(i).integers(0, 256, (37, 49, 3), np.uint8) for i in range(12)]
    follower, began = live.Follower(detector, live.Lines(out, None), "a", latency=2), time.time() - 100
    for first, arrived in ((0, began), (6, began + 6 * 0.64 + missed)):
        follower.open(Opened(arrived, 25, False, 64, 48, False))
        for i in range(6):
            end = arrived + 0.64 * (i + 1)
            one = Snippet(first + i, 0.64 * i, 0.64 * (i + 1), end, 16, pictures[first + i])
            follower.add([one], detector.encode([one.picture]))
        follower.cut(Cut("over", end, 96, 2))
    follower.finish(None)
    assert lines_of(out.getvalue(), "connection", "end")[0]["clock_jumps"] == 4
    snippets, features = lines_of(out.getvalue(), "snippet"), list(torch.cat([detector.encode([one]) for one in pictures]))
    assert [line["number"] for line in snippets] == list(range(12))
    parts = [slice(0, 12)] if missed == 10 else [slice(0, 6), slice(6, 12)]
    for part in parts:
        check_scores(snippets[part], detector, features[part], 2)


@pytest.mark.parametrize(("after", "forgets"), [(17, False), (18, True)])
def test_a_gap_of_just_a_window_is_not_longer_than_it_whatever_rounding_does(after, forgets, monkeypatch):
    monkeypatch.setattr(live.Scorer, "forget", lambda _: forgotten.append(number) or [])
    detector, features, picture = make_detector(), torch.zeros(1, 2, 24), np.zeros((37, 49, 3), np.uint8)
    for number in range(100):
        forgotten, follower = [], live.Follower(detector, live.Lines(io.StringIO(), None), "a", latency=2)
        follower.open(Opened(0.0, 25, False, 64, 48, False))
        for at in (number, number + after):
            forgotten.clear()  # of the first snippet
            follower.add([Snippet(at, 0.64 * at, 0.64 * (at + 1), 0.0, 16, picture)], features)
        assert forgotten == [number] * forgets


def test_a_score_is_final_after_the_latency_though_nothing_follows():
    """A sender that falls silent: what came is scored while its connection still stands."""
    over, out = threading.Event(), io.StringIO()

    def part(file):
        write_stream(file, range(96))
        file.flush()
        assert over.wait(30)

    class Out(io.StringIO):
        def write(self, line):
            if '"number": 4' in line and '"snippet"' in line:
                over.set()
            return super().write(line)

    out = Out()
    detector, _, features = watched(make_detector())
    with Server(part) as server:
        live.run(detector, f"tcp://127.0.0.1:{server.port}", latency=3, out=out, attempts=0, timeout=30, wait=True)
    snippets = lines_of(out.getvalue(), "snippet")
    assert over.is_set()
    assert all(line["delay"] >= 3 for line in snippets[2:5])  # 3 snippets ahead did not come
    whole = anomaly_score(detector.score(torch.stack(features[:5])))
    assert [line["score"] for line in snippets[2:5]] == pytest.approx(list(whole[2:5]), abs=TOLERANCE)


class Counter:
    """Standard output that counts and checks lines, and notes the memory of both processes at some snippets; it keeps nothing else."""

    def __init__(self, marks):
        self.marks, self.sizes, self.feed = marks, {}, None
        self.next, self.wrong, self.lines, self.events = 0, [], {}, 0

    def write(self, text):
        line = json.loads(text)
        kind = f"{line['type']} {line.get('state', '')}".strip()
        self.lines[kind] = self.lines.get(kind, 0) + 1
        if line["type"] == "snippet":
            if line["number"] != self.next:
                self.wrong.append(line["number"])
            self.next += 1
            if self.next in self.marks:
                gc.collect()
                self.sizes[self.next] = (memory(), memory(self.feed.connection.pid))

    def flush(self):
        pass


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_hours_with_three_cuts(monkeypatch):
    """Memory is flat, no snippet is lost or scored twice: 25 frames a second for HOURS hours, as fast as they are decoded; 2 are the run of
    docs/own-videos.md.
    """
    total = int(float(os.environ.get("HOURS", 0.5)) * 3600 * 25)
    # Cut in the middle of snippets, then on at a later key frame: what was shown between is missed.
    cuts = [total * share // 100 for share in (55, 70, 85)]
    ends = [cuts[0] + 7, cuts[1] + 99, cuts[2] + 201, total]
    starts = [0, *(end // 25 * 25 + 50 for end in ends[:-1])]
    sent = [range(start, end) for start, end in zip(starts, ends, strict=True)]
    parts = [lambda file, frames=frames: write_stream(file, frames, start=frames[0] + 12345) for frames in sent]
    expected = np.concatenate([np.arange(frames[0], frames[-1] + 1, 16) for frames in sent])
    snippets = len(expected)

    detector, numbers = make_detector(length=64, threshold=0.8), []
    encode = detector.encode
    detector.encode = lambda pictures: numbers.extend(number_of(one) for one in pictures) or encode(pictures)
    out = Counter([snippets * share // 100 for share in (10, 50, 95)])  # more is left than waits
    make = live.Feed
    monkeypatch.setattr(live, "Feed", lambda *args, **more: setattr(out, "feed", make(*args, **more)) or out.feed)
    began = time.monotonic()
    with Server(*parts) as server:
        live.run(detector, f"tcp://127.0.0.1:{server.port}", latency=10, out=out, attempts=1, wait=True)
    seconds = time.monotonic() - began

    for mark, (parent, child) in out.sizes.items():
        print(f"{mark:6} snippets: {parent / 2**20:.1f} MB, reading process {child / 2**20:.1f} MB")
    print(f"   end: {memory() / 2**20:.1f} MB")
    print(f"{total:,} frames, {snippets:,} snippets in {seconds:.0f} s; lines: {out.lines}")
    assert numbers == expected.tolist()
    assert (out.wrong, out.next) == ([], snippets)
    assert [out.lines[f"connection {state}"] for state in ("open", "cut", "retry", "end")] == [4, 4, 4, 1]
    assert out.lines["event start"] == out.lines["event end"] > total // 1800
    parents, children = zip(*out.sizes.values(), strict=True)
    parents += (memory(),)
    assert max(parents) - parents[0] < 5 * 2**20
    assert max(children) - children[0] < 5 * 2**20
