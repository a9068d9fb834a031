"""app/live/spool.py: whatever becomes of receiver, disk and process, every event is taken once by its key, in order per camera."""

import base64
import contextlib
import errno
import http.client
import itertools
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict

import pytest

from app.live import spool as live
from app.live.spool import Command, Refused, Spool, Webhook
from receivers import SECRET, Receiver
from test_disk import disk, mounts
from utils.errors import BadInput
from utils.files import ROOT


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(live, "LONGEST_WAIT", 0.02)


def hook(server):
    return {"webhook": Webhook(server.address, SECRET)}


def content(folder, *ends):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (ends or (".json", ".jpg", ".mp4", ".tmp")))


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def check_order(taken):
    """Each event under one key, those of a camera in order; an event that came again did so before the next one of its camera."""
    keys, cameras = defaultdict(set), defaultdict(list)
    for event in taken:
        keys[event["camera"], event["number"]].add(event["key"])
        cameras[event["camera"]].append(event["key"])
    assert all(len(found) == 1 for found in keys.values())
    assert all(found == sorted(found) for found in cameras.values())
    return len(keys)


def test_what_a_webhook_gets(tmp_path):
    said = []
    with Receiver() as server:
        spool = Spool(tmp_path, hook(server), limit=1 << 20, told=lambda state, **fields: said.append((state, fields["key"])))
        keys = [spool.put("door", {"class": "fight", "number": 0}, b"JPEG", b"MP4" * 1000), spool.put("hall", {"number": 0}, b"", None)]
        server.wait(2)
        until(lambda: not spool.waiting)
    first, second = server.taken
    assert (first["key"], first["camera"], first["class"]) == (keys[0], "door", "fight")
    assert [base64.b64decode(first[name]) for name in ("picture", "clip")] == [b"JPEG", b"MP4" * 1000]
    assert (second["key"], second["picture"], second["clip"]) == (keys[1], None, None)
    assert content(tmp_path) == []
    until(lambda: len(said) == 4)
    assert sorted(said) == sorted((state, key) for state in ("spooled", "taken") for key in keys)


def test_receivers_that_fail(tmp_path):
    script = ["500", "cut", "slow", "drop", "404", "drop", "302", "cut", "503"]
    with Receiver(script) as server:
        spool = Spool(tmp_path, hook(server), limit=1 << 20)
        for number in range(6):
            for camera in ("door", "hall"):
                spool.put(camera, {"number": number}, os.urandom(50_000), os.urandom(200_000))
        server.wait(12)
        until(lambda: not spool.waiting)
    assert server.attempts == 12 + len(script) - 1  # slow is no failure
    assert len(server.taken) == 12 + script.count("drop")
    assert check_order(server.taken) == 12
    assert content(tmp_path) == []


def test_a_receiver_that_is_down_holds_up_nobody(tmp_path):
    with Receiver() as server:
        pass
    said = []
    spool = Spool(tmp_path, hook(server), limit=1 << 20, told=lambda state, **fields: said.append((state, fields)))
    for number in range(20):
        spool.put("door", {"number": number}, b"JPEG", b"MP4")
    until(lambda: len(content(tmp_path, ".json")) == 20 and [state for state, _ in said].count("refused") > 3)
    assert {fields["reason"] for state, fields in said if state == "refused"} == {"Connection refused"}
    spool.close()
    with Receiver() as server:  # a day later, in another process
        spool = Spool(tmp_path, hook(server), limit=1 << 20)
        assert spool.waiting == 20
        server.wait(20)
        assert [event["number"] for event in server.taken] == list(range(20))
        assert server.taken[0]["clip"] == base64.b64encode(b"MP4").decode()
        until(lambda: content(tmp_path) == [])


def test_pictures_that_wait_for_a_slow_disk_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "KEPT", 10_000)
    slow, save = threading.Event(), Spool._save
    monkeypatch.setattr(Spool, "_save", lambda self, *args: (args[0] == "reserve" or slow.wait(60)) and save(self, *args))
    spool = Spool(tmp_path, {"webhook": lambda *_: exec("raise Refused('down')", vars(live))}, limit=1 << 20)
    keys = [spool.put("door", {"number": number}, bytes(1000), bytes(2000)) for number in range(30)]
    slow.set()
    until(lambda: len(content(tmp_path, ".json")) == 30)
    assert {name[:29] for name in content(tmp_path, ".jpg")} - {keys[0]} == set(keys[1:4])


def test_one_that_is_too_large_goes_without_its_pictures(tmp_path):
    with Receiver(["413", "take"]) as server:
        Spool(tmp_path, hook(server), limit=1 << 20).put("door", {"number": 0}, b"JPEG", b"MP4")
        server.wait(1)
    assert (server.attempts, server.taken[0]["picture"], server.taken[0]["clip"]) == (2, None, None)


def test_what_is_too_large_for_one_receiver_is_whole_for_the_other(tmp_path):
    tries, taken = [], []

    def command(key, event, picture, clip):
        tries.append(key)
        if len(tries) == 1 or server.taken == []:
            raise Refused("down")
        taken.append((picture.read_bytes(), clip.read_bytes()))

    with Receiver(["413", "take"]) as server:
        spool = Spool(tmp_path, hook(server) | {"command": command}, limit=1 << 20)
        spool.put("door", {"number": 0}, b"JPEG", b"MP4")
        until(lambda: not spool.waiting)
    assert (server.taken[0]["picture"], server.taken[0]["clip"]) == (None, None)
    assert taken == [(b"JPEG", b"MP4")]
    assert content(tmp_path) == []


def test_an_event_that_somebody_removes_is_waited_for_by_nobody(tmp_path):
    down = threading.Event()

    def sink(*_):
        if not down.is_set():
            raise Refused("down")

    spool = Spool(tmp_path, {"webhook": sink, "command": sink}, limit=1 << 20)
    spool.put("door", {"number": 0}, b"JPEG", b"MP4")
    until(lambda: len(content(tmp_path, ".json")) == 1)
    for name in content(tmp_path, ".json"):
        (tmp_path / name).unlink()
    down.set()
    until(lambda: not spool.waiting)
    assert content(tmp_path) == []
    spool.close()


def test_pictures_go_first_and_events_never(tmp_path):
    down = Refused("it is down")

    def sink(*_):
        raise down

    spool = Spool(tmp_path, {"webhook": sink}, limit=10_000)
    keys = []
    for number in range(30):
        keys.append(spool.put("door", {"number": number}, b"j" * 1000, b"m" * 2000))
        until(lambda number=number: len(content(tmp_path, ".json")) == number + 1)
    until(lambda: content(tmp_path, ".jpg", ".mp4") == sorted(f"{key}{end}" for key in keys[-3:] for end in (".jpg", ".mp4")))
    spool.close()


def test_two_receivers_do_not_wait_for_each_other(tmp_path):
    taken, down = [], threading.Event()

    def command(key, event, picture, clip):
        if not down.is_set():
            raise Refused("down")
        taken.append((key, picture.read_bytes()))

    with Receiver() as server:
        spool = Spool(tmp_path, hook(server) | {"command": command}, limit=1 << 20)
        keys = [spool.put("door", {"number": number}, b"JPEG", None) for number in range(3)]
        server.wait(3)
        until(lambda: all(name.endswith(".door.command.json") for name in content(tmp_path, ".json")))
        assert len(content(tmp_path, ".jpg")) == 3
        down.set()
        until(lambda: not spool.waiting)
    assert taken == [(key, b"JPEG") for key in keys]
    assert [event["key"] for event in server.taken] == keys
    assert content(tmp_path) == []


def test_a_command(tmp_path):
    code = "import os, sys, json; e = json.load(sys.stdin); assert os.environ['ALERT_KEY'] == e['key']; print('said')\n"
    code += "open('taken', 'a').write(e['key'] + open(os.environ['ALERT_PICTURE']).read() + os.environ['ALERT_CLIP'] + '\\n')\n"
    code += f"os.chdir({str(tmp_path)!r}) or sys.exit(0 if os.path.exists('up') else open('up', 'w').close() or 7)"
    said = []
    command = Command([sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}"])
    spool = Spool(tmp_path / "spool", {"command": command}, limit=1 << 20, told=lambda state, **fields: said.append((state, fields)))
    key = spool.put("door", {}, b"JPEG", None)
    until(lambda: len(said) == 3)
    assert [state for state, _ in said] == ["spooled", "refused", "taken"]
    assert said[1][1]["reason"] == "exit code 7"
    assert (tmp_path / "taken").read_text() == f"{key}JPEG\n" * 2
    (program := tmp_path / "tell").touch(mode=0o755)
    command = Command([str(program)])
    program.unlink()
    with pytest.raises(FileNotFoundError):  # which Spool takes for a refusal
        command(key, b"{}", tmp_path, tmp_path)
    for wrong in ("/nowhere/at/all", "", str(tmp_path)):
        with pytest.raises(BadInput, match=r"^alerts\.command: '.*' is no program that can be started; name its path"):
            Command([wrong])


def test_a_command_that_hangs_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "TIMEOUT", 0.3)
    with pytest.raises(Refused, match=r"longer than 0\.3 s"):
        Command([sys.executable, "-c", "import time; time.sleep(100)"])("key", b"{}", tmp_path / "a", tmp_path / "b")


def test_one_who_drips_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "TIMEOUT", 1.0)
    over = threading.Event()

    def drip():
        client, _ = server.accept()
        with client:
            while not over.wait(0.1):
                try:
                    client.sendall(b"HTTP/1.1 200 OK\r\n"[:1])
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises((OSError, http.client.HTTPException)):
            Webhook(f"http://127.0.0.1:{server.getsockname()[1]}", SECRET)("key", b"{}", tmp_path / "a", tmp_path / "b")
        over.set()
        thread.join()


@pytest.mark.parametrize("reserve", [True, False])
def test_a_full_disk(tmp_path, monkeypatch, reserve):
    """Whatever can be given up is, and what finds no place, others having taken that of the reserve, waits for it."""
    full, save = threading.Event(), Spool._save

    def limited(self, name, data):
        given = reserve and name.endswith(".json") and not (self.folder / "reserve").exists()  # events take its place
        if full.is_set() and not given:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, name, data)

    monkeypatch.setattr(Spool, "_save", limited)

    def sink(*_):
        raise Refused("down")

    spool = Spool(tmp_path, {"webhook": sink}, limit=1 << 20)
    spool.put("door", {"number": 0}, b"JPEG", b"MP4")
    until(lambda: len(content(tmp_path, ".jpg", ".mp4")) == 2)
    full.set()
    for number in range(1, 20):
        spool.put("door", {"number": number}, b"JPEG", b"MP4")
    if reserve:
        until(lambda: len(content(tmp_path, ".json")) == 20)
        assert content(tmp_path, ".jpg", ".mp4", ".tmp") == []
    else:
        until(lambda: spool.problem == "No space left on device" and not (tmp_path / "reserve").exists())
    full.clear()
    until(lambda: len(content(tmp_path, ".json")) == 20)
    assert spool.waiting == 20
    spool.close()
    with Receiver() as server:
        Spool(tmp_path, hook(server), limit=1 << 20)
        server.wait(20)
    assert [event["number"] for event in server.taken] == list(range(20))


@pytest.mark.skipif(not mounts(), reason="a small disk can be mounted by root only")
def test_a_small_disk(tmp_path):
    """A real one: first it is full of our pictures, then of somebody else's file."""
    place = tmp_path / "disk"
    with disk(place, 4000):
        spool = Spool(place, {"webhook": lambda *_: exec("raise Refused('down')", vars(live))}, limit=1 << 30)
        for number in range(100):
            spool.put("door", {"number": number}, os.urandom(50_000), os.urandom(150_000))
        until(lambda: len(content(place, ".json")) == 100)
        assert 2 <= len(content(place, ".jpg")) < 20
        with contextlib.suppress(OSError), (place / "other").open("wb", 0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(100, 200):
            spool.put("door", {"number": number}, os.urandom(50_000), os.urandom(150_000))
        until(lambda: len(content(place, ".json")) == 200)
        spool.close()
        with Receiver() as server:
            spool = Spool(place, hook(server), limit=1 << 30)
            server.wait(200)
            until(lambda: not spool.waiting)
            spool.close()
        assert [event["number"] for event in server.taken] == list(range(200))


def test_a_receiver_that_is_down_is_the_problem_though_events_are_written(tmp_path):
    def down(*_):
        raise Refused("down")

    told = []
    spool = Spool(tmp_path, {"webhook": down, "command": lambda *_: None}, limit=1 << 20, told=lambda state, **_: told.append(state))
    for count in (1, 2):
        spool.put("door", {}, b"JPEG", None)
        until(lambda count=count: told.count("spooled") == count and "refused" in told)
    until(lambda: told.count("taken") == 2)
    assert told[0] == "spooled"
    assert spool.problem == "webhook: down"
    spool.close()


def test_a_disk_that_stays_full_is_told(tmp_path, monkeypatch, capsys):
    def full(self, name, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "_save", full)
    spool = Spool(tmp_path, {"webhook": print}, limit=1 << 20)
    spool.put("door", {}, b"JPEG", None)
    until(lambda: spool.problem)
    spool.close(0.1)
    assert "1 alerts are lost" in capsys.readouterr().err
    assert "No space left on device" in spool.problem


def test_what_a_kill_leaves_is_cleared(tmp_path):
    key = f"{7:020d}-0123abcd"
    for name in (f"{key}.jpg", f"{key}.mp4.tmp", f"{key}.door.webhook.json.tmp"):
        (tmp_path / name).write_bytes(b"half")
    spool = Spool(tmp_path, {}, limit=1 << 20)
    assert (spool.waiting, content(tmp_path)) == (0, [])
    later = spool.put("door", {}, None, None)
    until(lambda: content(tmp_path) == [f"{later}.door..json"])


def test_the_clock_may_be_set_back(tmp_path, monkeypatch):
    with Receiver() as server:
        server.shutdown()
        spool = Spool(tmp_path, {"webhook": lambda *_: exec("raise Refused('down')", vars(live))}, limit=1 << 20)
        keys = [spool.put("door", {"number": 0}, None, None)]
        monkeypatch.setattr(time, "time_ns", lambda: 5)
        keys += [spool.put("door", {"number": number}, None, None) for number in (1, 2)]
        until(lambda: len(content(tmp_path)) == 3)
        spool.close()
        spool = Spool(tmp_path, {}, limit=1 << 20)
        keys.append(spool.put("door", {"number": 3}, None, None))
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    "address", ["ftp://host/x", "http://", "host/x", "https://user:secret@host/", "http://host:x/", "http://höst/", "http://host/a b"]
)
def test_no_address_of_a_webhook(address):
    with pytest.raises(BadInput, match=r"alerts\.webhook: no address") as caught:
        Webhook(address, SECRET)
    assert "secret" not in str(caught.value)


CHILD = """
import sys, threading, time
from pathlib import Path
from app.live import spool as live
assert "torch" not in sys.modules
live.LONGEST_WAIT = 0.02
lock = threading.Lock()
def told(state, **fields):
    if state == "spooled":
        with lock:
            print(fields["key"], flush=True)
folder, address, first = sys.argv[1:]
spool = live.Spool(Path(folder), {"webhook": live.Webhook(address, "between us")}, limit=10 << 20, told=told)
print("ready", flush=True)
for number in range(int(first), int(first) + 10_000) if int(first) >= 0 else ():
    spool.put(("door", "hall", "yard")[number % 3], {"number": number}, b"j" * 30_000, b"m" * 100_000)
    time.sleep(0.01)
time.sleep(1000)
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """SIGKILL at 30 random moments of a process that writes and delivers, with a receiver that fails now and then."""
    draw, said, threads = random.Random(0), [], []
    script = iter(lambda: draw.choices(["take", "500", "cut", "drop", "slow"], [12, 1, 1, 1, 1])[0], None)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(first):
        words = [sys.executable, "-c", CHILD, str(tmp_path / "spool"), server.address, str(first)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment)
        assert child.stdout.readline() == b"ready\n"
        threads.append(threading.Thread(target=lambda: said.extend(line.decode().strip() for line in child.stdout)))
        threads[-1].start()
        return child

    with Receiver(script) as server:
        for run in itertools.count():
            child = start(10_000 * run)
            time.sleep(draw.uniform(0, 0.6))
            child.kill()
            child.wait()
            if run >= 29 and len(said) > 500:  # two lines an event or so
                break
        left = len(content(tmp_path / "spool", ".json"))
        child = start(-1)
        until(lambda: content(tmp_path / "spool") == [])
        child.kill()
        child.wait()
    for thread in threads:
        thread.join()
    keys = [line for line in said if line.endswith(tuple("0123456789abcdef")) and len(line) == 29]
    assert len(keys) > 100
    assert set(keys) <= {event["key"] for event in server.taken}
    count = check_order(server.taken)
    assert all(len(event["picture"] or "") in (0, 40_000) for event in server.taken)
    print(f"{count} events, {len(keys)} told of, {left} left by the last kill, {server.attempts} attempts, {len(server.taken)} taken")
