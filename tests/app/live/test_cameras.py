"""app/live/cameras.py: a list of cameras as a user writes it, and what comes of them: none waits for another, no password is told."""

import base64
import contextlib
import io
import itertools
import json
import os
import random
import re
import resource
import signal
import socket
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import demo
from app.live import cameras as live
from app.live import feed, follower
from app.live.stream import Connection, Opened, Snippet, parse_source
from receivers import SECRET, Receiver
from streams import (
    RECIPE,
    SIZE,
    Server,
    frames_of,
    h264_units,
    lines_of,
    live_camera,
    make_detector,
    memory,
    number_of,
    send_frame,
    write_stream,
)
from utils.errors import BadInput
from utils.evaluation.scores import Scores

PASSWORD = "p@ss/w:rd"


@pytest.fixture(autouse=True)
def password(monkeypatch):
    monkeypatch.setenv("CAM_PASSWORD", PASSWORD)
    monkeypatch.setenv("HOOK_SECRET", SECRET)


@pytest.fixture
def nothing_is_late(monkeypatch):
    """A machine that stalls drops no snippet."""
    monkeypatch.setattr(feed.Feed, "_drop", lambda *_: None)


def written(folder, text, *ports):
    path = folder / "cameras.toml"
    cameras = "".join(f'[[camera]]\nname = "cam{i}"\naddress = "tcp://127.0.0.1:{port}"\n' for i, port in enumerate(ports))
    path.write_text(f"folder = {json.dumps(str(folder / 'live'))}\n{cameras}{text}")
    return path


GOOD = '[[camera]]\nname = "a"\naddress = "rtsp://host/a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no camera; see docs/on-duty.md"),
        ("camera = []", "camera []; expected a list of at least 1 item, not 0; see"),
        ("[[camera]]\n", "has no camera.0.name"),
        (GOOD + "colour = 1", "camera.0.colour: unknown; expected name, address, threshold, classes, polygon, hours, latency"),
        (GOOD + "threshold = 2", "camera.0.threshold 2; expected a value of at most 1"),
        (GOOD + 'hours = ["8-9"]', "camera.0.hours.0 '8-9'; expected a text such as 22:00-06:00"),
        (GOOD + "polygon = [[0, 0], [1, 1]]", "camera.0.polygon"),
        (GOOD + "polygon = [[0, 0], [1, 1], [2, 0]]", "camera.0.polygon.2.0 2; expected a value of at most 1"),
        (GOOD.replace('"a"', '"a/b"'), "camera.0.name 'a/b'; expected 1 to 40 letters"),
        (GOOD + GOOD.replace('"a"', '"A"'), "two cameras are called a"),
        (GOOD.replace("rtsp://host/a", "-"), "a is a pipe; expected an address"),
        (GOOD.replace("host", "${NOWHERE}"), "the address of a: the environment has no NOWHERE; export it"),
        (GOOD.replace("rtsp", "gopher"), "gopher://host/a: no stream"),
        (GOOD + "[alerts]\n", "alerts go nowhere; expected a webhook, a command, or both"),
        (GOOD + '[alerts]\nwebhook = "http://a"', "alerts.webhook without a secret"),
        (GOOD + "[alerts]\ncommand = []", "alerts.command"),
        (GOOD + '[alerts]\ncommand = ["a\\u0000b"]', "alerts.command.0; expected a text without NUL"),
        (GOOD + '[alerts]\ncommand = ["a"]\nminimum = 50', "alerts.minimum 50; expected at most longest, 30;"),
        (GOOD + '[alerts]\ncommand = ["a"]\nlongest = 0', "alerts.longest 0; expected a value above 0"),
        ('folder = "a\\u0000b"\n' + GOOD, "folder 'a\\x00b'; expected one line of text"),
        (GOOD + "classes = []", "camera.0.classes []; expected a list of at least 1 item"),
        (GOOD + "hours = []", "camera.0.hours []; expected a list of at least 1 item"),
        (GOOD + 'hours = ["06:00-06:00"]', "camera.0.hours.0 '06:00-06:00'; expected a text such as 22:00-06:00"),
        (GOOD + "polygon = [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]", "expected three points that are not in one line"),
        (GOOD.replace("host", "${CAM-PASSWORD}@host"), "the address of a: ${CAM-PASSWORD}; expected ${NAME}"),
        (GOOD.replace("host", "${@host"), "the address of a: ${; expected ${NAME}"),
        (GOOD.replace("rtsp://host/a", "/etc/passwd"), "the address of a: /etc/passwd: no stream"),
        (GOOD.replace("host", "host:65536"), "the address of a: rtsp://host:65536/a: no stream"),
        ("camera = ", "not a TOML file"),
    ],
)
def test_what_is_wrong_in_the_file(tmp_path, text, message):
    path = tmp_path / "cameras.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        live.read_cameras(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '[camera]\nname = "a"\naddress = "rtsp://viewer:geheim@host/a"',
        GOOD + '[[alerts]]\nsecret = "geheim"',
        '[[camera]]\nname = "a"\naddress = ["rtsp://viewer:geheim@host/a"]',
        '[[camera]]\nname = "a"\naddress = "rtsp://viewer:geheim@host/a\\n"',
        'camera = ["rtsp://viewer:geheim@host/a"]',
        '[[camera]]\nname = "a"\naddress = "viewer:geheim@host/a"',
        '[[camera]]\nname = "a"\naddress = "rtsp:/viewer:geheim@host/a"',
        GOOD + '[alerts]\ncommand = ["curl", "geheim\\u0000"]',
    ],
)
def test_what_is_wrong_is_told_without_a_password(tmp_path, text):
    (tmp_path / "cameras.toml").write_text(text)
    with pytest.raises(BadInput, match="expected") as caught:
        live.read_cameras(tmp_path / "cameras.toml")
    assert "geheim" not in str(caught.value)
    assert "viewer" not in str(caught.value)


def test_passwords_come_from_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "cameras.toml"
    monkeypatch.setenv("WHOLE", "rtsp://u:p@host/b")
    hook = '[alerts]\nwebhook = "https://host/hook"\nsecret = "${HOOK_SECRET}"\n'
    second = GOOD.replace('"a"', '"b"').replace("rtsp://host/a", "${WHOLE}")
    path.write_text(GOOD.replace("host", "user:${CAM_PASSWORD}@host") + second + hook)
    plan = live.read_cameras(path)
    assert [camera.address for camera in plan["camera"]] == ["rtsp://user:p%40ss%2Fw%3Ard@host/a", "rtsp://u:p@host/b"]
    assert plan["alerts"].secret == SECRET
    assert parse_source(plan["camera"][0].address).shown == "rtsp://host/a"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FILE", "FILE"], "a list of cameras goes alone; found 2"),
        (["FILE", "--clips"], "--clips: does nothing with a list of cameras"),
        (["FILE", "--every-snippet"], "--every-snippet: does nothing with a list of cameras"),
        (["rtsp://a/b", "--status"], "--status: does nothing with a stream"),
        (["FILE", "--status", "--latency", "7"], "--latency: does nothing with --status; leave it out"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
        (["FILE", "--status"], "status.json: no such file; name an existing file with folder: start demo.py with the file first"),
    ],
)
def test_bad_words(tmp_path, words, message):
    path = written(tmp_path, "", 1)
    with pytest.raises(BadInput, match=re.escape(message)):
        demo.main([str(path) if word == "FILE" else word for word in words])


def test_a_class_that_is_not_known(tmp_path):
    plan = live.read_cameras(written(tmp_path, 'classes = ["fire", "flood"]', 1))
    with pytest.raises(BadInput, match=r"cam0: classes \['flood'\] are not known; expected some of fight, fire"):
        live.run(make_detector(), plan, latency=5, out=io.StringIO())


class Out(io.StringIO):
    """Standard output that interrupts this process once `enough(line)` says so."""

    def __init__(self, enough):
        super().__init__()
        self.enough, self.over = enough, False

    def write(self, text):
        line = json.loads(text)
        if not self.over and self.enough(line):
            self.over = True
            os.kill(os.getpid(), signal.SIGINT)
        return len(text)  # it keeps nothing


def run(detector, path, enough, latency=5):
    out, record = Out(enough), path.with_name("lines.jsonl")
    with pytest.raises(KeyboardInterrupt):
        live.run(detector, live.read_cameras(path), latency=latency, out=out, record=record)
    return record.read_text()


def of_camera(text, name):
    return "".join(line + "\n" for line in text.splitlines() if json.loads(line)["camera"] == name)


class Numbers:
    """A detector whose features are the numbers of frames, whose score is high from 100 to 200; `batches`: sizes of what it encodes."""

    length, recipe, classes, threshold, threshold_from = 16, RECIPE, ("normal", "fight", "fire"), 0.5, "a test"
    caption_encoder = None

    def __init__(self):
        self.batches, self.notes = [], []

    def encode(self, pictures):
        self.batches.append(len(pictures))
        return torch.tensor([number_of(picture) for picture in pictures]).view(-1, 1, 1).float()

    def score(self, features):
        values = features.view(-1).numpy()
        high = (values >= 100) & (values < 200)
        return Scores(coarse=np.where(high, 0.7 + values / 1000, 0.1).astype(np.float32), fine=np.array([[0.1, 0.2, 0.7]] * len(values)))


def sent(frames, over, **more):
    """A part of a Server: sends frames, and stays connected until `over`."""

    def part(file):
        write_stream(file, frames, **more)
        file.flush()
        over.wait(60)

    return part


def test_several_cameras_one_of_them_dead(nothing_is_late, tmp_path, capfd, monkeypatch):
    """All lines name the camera, what is alive is scored whole, and nothing tells a password."""
    over, done, seen = threading.Event(), set(), []
    monkeypatch.setattr(demo, "make_detector", lambda _: Numbers())
    with Server(sent(range(410), over)) as first, Server(sent(range(202), over)) as second:
        path = written(tmp_path, "", first.port, second.port, 1)
        text = path.read_text().replace('127.0.0.1:1"', 'user:${CAM_PASSWORD}@127.0.0.1:1"')
        path.write_text(text.replace("tcp://127.0.0.1:", "tcp://user:${CAM_PASSWORD}@127.0.0.1:"))

        def enough(line):
            if len(seen) < 3:
                seen.extend(text for found in Path("/proc").glob("[0-9]*/cmdline") if "app.live.stream" in (text := _read(found)))
            if line.get("state") == "retry" or (line["camera"], line.get("number")) in (("cam0", 24), ("cam1", 11)):
                done.add(line["camera"])
            return len(done) == 3

        monkeypatch.setattr("sys.stdout", Out(enough))
        with pytest.raises(KeyboardInterrupt):
            demo.main([str(path), "--latency", "2", "--record", str(tmp_path / "lines.jsonl")])
        text = (tmp_path / "lines.jsonl").read_text()
        monkeypatch.undo()
        over.set()
    assert all(list(json.loads(line))[1] == "camera" for line in text.splitlines())
    for name, count in (("cam0", 25), ("cam1", 12)):
        own = of_camera(text, name)
        assert [line["number"] for line in lines_of(own, "snippet")][:count] == list(range(count))
        assert lines_of(own, "dropped") == []
        [event] = lines_of(own, "event", "end")
        assert (event["first_snippet"], event["last_snippet"], event["class"]) == (7, min(12, count - 1), "fire")
    retries = lines_of(of_camera(text, "cam2"), "connection", "retry")
    assert [line["wait"] for line in retries][:2] == [2, 4][: len(retries)]
    assert "refused" in retries[0]["reason"]
    assert [line["state"] for line in lines_of(text, "connection") if line["camera"] == "cam2"][-1] == "end"
    status = (tmp_path / "live" / "status.json").read_text()
    everything = text + status + "".join(capfd.readouterr()) + repr(seen)
    assert seen or not Path("/proc").exists()
    for secret in (PASSWORD, "p%40ss", "user:"):
        assert secret not in everything


def _read(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_an_encoder_that_is_too_slow_is_fair(monkeypatch):
    """While a batch is encoded two cameras send five snippets, and one sends one: what waits goes into one batch, the fast lose as much."""
    monkeypatch.setattr(feed, "MOST", 4)
    changed, picture, rounds, out = threading.Condition(), np.zeros((37, 49, 3), np.uint8), itertools.count(), io.StringIO()
    more = {"patience": 1000, "wait": False, "reconnect": False, "attempts": None, "timeout": 1, "changed": changed}
    feeds = [feed.Feed(parse_source("tcp://a:1"), RECIPE, **more) for _ in range(3)]
    numbers, detector = [itertools.count() for _ in feeds], Numbers()

    def send(pictures):
        done = next(rounds) == 20
        for one, own, count in zip(feeds, numbers, (5, 5, 1), strict=True):
            for number in itertools.islice(own, count) if not done else ():
                one._put(Snippet(number, 0.64 * number, 0.64 * (number + 1), time.time(), 16, picture))
            if done:
                one._put(feed.Over())
        return encode(pictures)

    detector.encode, encode = send, detector.encode
    followers = [follower.Follower(detector, partial(follower.Lines(out, None), camera=f"cam{i}"), "a", latency=1000) for i in range(3)]
    for one, own in zip(feeds, numbers, strict=True):
        one._put(Opened(0, 25, False, 64, 48, False))
        one._put(Snippet(next(own), 0, 0.64, time.time(), 16, picture))
    follower.follow(detector, list(zip(feeds, followers, strict=True)), [])
    assert detector.batches[:21] == [3] * 21
    ends = [lines_of(of_camera(out.getvalue(), f"cam{i}"), "connection", "end")[0] for i in range(3)]
    scored, lost = ([end[name] for end in ends] for name in ("snippets", "dropped"))
    assert scored[0] == scored[1] > 20
    assert lost == [101 - scored[0]] * 2 + [0]
    assert scored[2] == 21


def test_an_alert_from_camera_to_receiver(nothing_is_late, tmp_path):
    over = threading.Event()
    with Receiver(["500", "take"]) as server, Server(sent(range(500), over, codec="libx264")) as camera:
        alerts = f'[alerts]\nwebhook = "{server.address}"\nsecret = "${{HOOK_SECRET}}"\nbefore = 2\n'
        own = 'classes = ["fire"]\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\nthreshold = 0.6\nlatency = 2\n'
        path = written(tmp_path, own + alerts, camera.port)
        text = run(Numbers(), path, lambda line: line.get("state") == "taken", latency=5)
        over.set()
    [event] = server.taken
    assert (event["camera"], event["class"], event["threshold"]) == ("cam0", "fire", 0.6)
    assert (event["first_snippet"], event["last_snippet"], event["held_back"]) == (7, 12, 0)
    assert [line["state"] for line in lines_of(text, "alert")] == ["spooled", "refused", "taken"]
    assert {line["key"] for line in lines_of(text, "alert")} == {event["key"]}
    assert lines_of(text, "connection", "open")[0]["threshold"] == 0.6
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(event["picture"]))))
    assert (picture.shape, number_of(picture)) == ((48, 64, 3), 192)
    numbers = frames_of(base64.b64decode(event["clip"]))
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert 112 - 50 - 26 <= numbers[0] <= 112 - 50 + 1  # two seconds before, from a key frame on
    assert 207 <= numbers[-1] <= 260
    assert list((tmp_path / "live" / "alerts").glob("*.json")) == []
    row = json.loads((tmp_path / "live" / "status.json").read_text())["cameras"]["cam0"]
    assert row["threshold"] == 0.6


def test_an_event_is_told_though_nobody_reads_the_lines(nothing_is_late, tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            if json.loads(text)["type"] == "event":
                raise BrokenPipeError
            return len(text)

    over = threading.Event()
    with Receiver() as server, Server(sent(range(500), over, codec="libx264")) as camera:
        path = written(tmp_path, f'[alerts]\nwebhook = "{server.address}"\nsecret = "${{HOOK_SECRET}}"\nminimum = 0\n', camera.port)
        live.run(Numbers(), live.read_cameras(path), latency=2, out=Closed())
        over.set()
    assert server.taken or list((tmp_path / "live" / "alerts").glob("*.json"))


def test_only_a_polygon_counts():
    """Left half of the picture: what the encoder gets is that, as large as a whole one; the JPEG shows all."""
    half = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
    with Server(lambda file: write_stream(file, range(40))) as server, Server(lambda file: write_stream(file, range(40))) as other:
        [whole, *_] = [one for one in Connection(parse_source(f"tcp://127.0.0.1:{server.port}"), RECIPE) if isinstance(one, Snippet)]
        source = parse_source(f"tcp://127.0.0.1:{other.port}")
        [part, *_] = [one for one in Connection(source, RECIPE, polygon=half, footage=True) if isinstance(one, Snippet)]
    assert part.picture.shape == whole.picture.shape
    left = np.array(Image.fromarray(whole.picture[:, : whole.picture.shape[1] // 2]).resize(part.picture.shape[1::-1]))
    assert np.abs(left.astype(int) - part.picture).mean() < 12
    assert Image.open(io.BytesIO(part.jpeg)).size == SIZE
    assert whole.jpeg == b""


def test_the_table(tmp_path, capsys, monkeypatch):
    now = time.time()
    monkeypatch.setattr(live.time, "time", lambda: now)
    path = written(tmp_path, "", 1)
    path.write_text(path.read_text().replace(json.dumps(str(tmp_path / "live")), '"live"').replace("tcp://", "tcp://u:${NOT_HERE}@"))
    row = {"state": "live", "last": time.time() - 3, "score": 0.12345, "threshold": 0.5, "delay": 2.04, "snippets": 1234, "dropped": 0}
    row |= {"alerts": 2, "held": 1, "reason": ""}
    away = row | {"state": "away", "last": None, "score": None, "delay": None, "reason": "Connection\x1b[31m refused"}
    (tmp_path / "live").mkdir()
    status = {"time": time.time() - 60, "cameras": {"door": row, "courtyard": away}, "waiting": 7, "problem": "No space left on device"}
    (tmp_path / "live" / "status.json").write_text(json.dumps(status))
    demo.main([str(path), "--status"])
    head, first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.split() == ["door", "live", "3", "s", "ago", "0.123", "0.5", "2.04", "1234", "0", "2", "1"]
    assert second.split() == ["courtyard", "away", "0.5", "1234", "0", "2", "1", "Connection\\x1b[31m", "refused"]
    assert head.index("snippets") == first.index("1234") == second.index("1234")
    assert rest == [
        "alerts that wait for their receiver: 7 No space left on device",
        "this is 60 seconds old: no process writes it any more",
    ]


def test_one_process_a_folder(tmp_path):
    plan = live.read_cameras(written(tmp_path, "", 1))
    with live.locked(live.make_folder(tmp_path / "live")), pytest.raises(BadInput, match="writes there; wait until it is done"):
        live.run(make_detector(), plan, latency=5, out=io.StringIO())


SECONDS, CAMERAS = float(os.environ.get("CAMERA_SECONDS", 25)), int(os.environ.get("CAMERAS", 7))
FAULTS = ("dies", "dies", "stalls", "garbage", "resizes")


class Yard:
    """RTSP cameras in real time, 25 frames a second each: the last ones have FAULTS in the middle of the run."""

    def __init__(self, count, seconds):
        self.frames, self.large = h264_units(range(1000)), h264_units(range(1000), (128, 96))
        self.over, self.end = threading.Event(), seconds
        self.faults = [None] * (count - len(FAULTS)) + list(FAULTS)
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in self.faults]
        self.threads = [threading.Thread(target=self.serve, args=pair) for pair in zip(self.listeners, self.faults, strict=True)]

    def __enter__(self):
        self.began = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread, listener in zip(self.threads, self.listeners, strict=True):
            thread.join()
            listener.close()

    def serve(self, listener, kind):
        part = self.part(kind)
        listener.settimeout(0.2)
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                client.settimeout(20)
                with client, contextlib.suppress(OSError):
                    part(client)

    def share(self):
        """Of the run that is over."""
        return (time.monotonic() - self.began) / self.end

    def part(self, kind):
        happened = threading.Event()

        def fault(i, client):
            if kind is None or self.share() < 0.4 or happened.is_set():
                return False
            happened.set()
            if kind == "stalls":
                self.over.wait(15)  # longer than anybody waits for it
            elif kind == "garbage":
                draw = random.Random(0)
                with contextlib.suppress(OSError):
                    for j in range(50):
                        send_frame(client, [b"\x65" + draw.randbytes(500)], i + j, itertools.count(9))
                    client.sendall(draw.randbytes(20_000))
            elif kind == "resizes":
                live_on = itertools.count(30_000)
                for j in itertools.count():
                    time.sleep(0.04)
                    if self.over.is_set():
                        break
                    send_frame(client, self.large[j % 1000], i + j, live_on)
            return True

        def camera(client):
            if kind == "dies" and 0.4 < self.share() < 0.6:
                return  # nobody is at home
            live_camera(client, self.frames, self.over.is_set, fault=fault)

        return camera


@pytest.mark.slow
@pytest.mark.timeout(max(600, 3 * SECONDS))
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_cameras_that_fail_beside_others(tmp_path, monkeypatch):
    """CAMERAS=16 CAMERA_SECONDS=1200 python -m pytest -s -m slow tests/app/live/test_cameras.py -k beside: the run of docs/on-duty.md."""
    monkeypatch.setattr(live, "TIMEOUT", 10.0)
    long, latency = SECONDS > 300, 5.0 if SECONDS > 300 else 60.0  # in a short run on a busy machine nothing is late
    yard, detector, marks, delays = Yard(CAMERAS, SECONDS), make_detector(length=16, threshold=0.8), {}, []
    left, opened = [0.1, 0.5, 1.0], Counter()

    def enough(line):
        if line["type"] == "snippet" and yard.faults[int(line["camera"][3:])] is None:
            delays.append(line["delay"])
        if left and yard.share() >= left[0]:
            children = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if "app.live.stream" in _read(entry / "cmdline")]
            own = [pid for pid in children if _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[1:2] == [str(os.getpid())]]
            sizes = [memory(pid) for pid in own if "VmRSS" in _read(Path(f"/proc/{pid}/status"))]  # one may have ended
            marks[left.pop(0)] = (memory(), max(sizes, default=0), len(own))
        opened.update([line["camera"]] if line.get("state") == "open" else [])
        back = all(opened[f"cam{i}"] > 1 for i, fault in enumerate(yard.faults) if fault in ("dies", "stalls"))
        return yard.share() >= 1 and (back or yard.share() > 8)  # on a busy machine all takes its time

    with Receiver(keep=False) as receiver, yard:
        alerts = f'[alerts]\nwebhook = "{receiver.address}"\nsecret = "${{HOOK_SECRET}}"\ncool_down = 20\n'
        path = written(tmp_path, alerts, *(listener.getsockname()[1] for listener in yard.listeners))
        path.write_text(path.read_text().replace("tcp://", "rtsp://"))
        before, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        text = run(detector, path, enough, latency=latency)
        spent, ended = time.process_time() - before, resource.getrusage(resource.RUSAGE_CHILDREN)
        read = ended.ru_utime + ended.ru_stime - children.ru_utime - children.ru_stime

    for share, (parent, child, count) in marks.items():
        print(f"{100 * share:3.0f} %: {parent / 2**20:.1f} MB, the largest of {count} reading processes {child / 2**20:.1f} MB")
    print(f"{len(delays):,} snippets of sound cameras, the latest {max(delays):.2f} s after its last frame")
    print(f"{spent / SECONDS:.2f} of a core for this process, which the cameras are in, too, {read / SECONDS:.2f} for the reading ones")
    print(f"{len(receiver.taken)} alerts, {sum(event['clip'] for event in receiver.taken) >> 10} KB of clips in base64")
    for i, fault in enumerate(yard.faults):
        own = of_camera(text, f"cam{i}")
        numbers = [line["number"] for line in lines_of(own, "snippet")]
        states = [line["state"] for line in lines_of(own, "connection")]
        gaps = [line["missed"] for line in lines_of(own, "connection", "open")]
        print(f"cam{i} {fault}: {len(numbers)} snippets, {states.count('open')} connections, missed {sum(gaps):.0f} s, reasons",
              {line["reason"] for line in lines_of(own, "connection", "cut")}, f"{len(lines_of(own, 'dropped'))} drops")  # fmt: skip
    for i, fault in enumerate(yard.faults):
        own = of_camera(text, f"cam{i}")
        numbers = [line["number"] for line in lines_of(own, "snippet")]
        states = [line["state"] for line in lines_of(own, "connection")]
        assert numbers == list(range(len(numbers))), fault
        assert lines_of(own, "dropped") == [], fault
        if fault is None:
            assert states[-2:] == ["open", "end"]  # as long as the machine starts processes, one may have to try again
            assert "cut" not in states
            assert len(numbers) > 0.5 * SECONDS * 25 / 16
        elif fault in ("dies", "stalls"):
            assert states.count("open") >= 2, states
        keys = [event["key"] for event in receiver.taken if event["camera"] == f"cam{i}"]
        assert keys == sorted(set(keys))
    assert receiver.taken
    assert all(event["clip"] for event in receiver.taken if yard.faults[int(event["camera"][3:])] is None)
    if long:
        assert max(delays) < latency + 2
        parents, children = [one[0] for one in marks.values()], [one[1] for one in marks.values()]
        assert max(parents[1:]) - parents[0] < 40 * 2**20
        assert max(children[1:]) - children[0] < 15 * 2**20
