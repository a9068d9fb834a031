"""Alerts on their way: each lies on the disk before it is sent, and until its receiver has taken it. Imports no torch.

A file KEY.CAMERA.SINKS.json is an event that the named sinks have not taken yet; KEY.jpg and KEY.mp4 are its pictures. A file appears whole
or not at all (a temporary name, fsync, rename), the event after its pictures; taking is a rename, too, and the last taker removes it. So a
kill at any moment loses none and makes no second key: what was taken in that moment is sent again under the same one. Where the pictures
are more than the limit, or the disk is full, the oldest pictures go; an event never does.
"""

import base64
import contextlib
import errno
import hashlib
import hmac
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

from utils.errors import BadInput
from utils.files import make_folder

TIMEOUT = 60.0  # seconds that a receiver may take for one event
LONGEST_WAIT = 60.0  # seconds between two attempts
KEPT = 256 << 20  # bytes of pictures that wait in memory for a slow disk, above which a further event goes without
RESERVE = 1 << 20  # bytes of a file that is given up where the disk is full, so that events still find a place
NAME = re.compile(r"(\d{20}-[0-9a-f]{8})\.([^.]+)\.([a-z+]+)\.json")
ADDRESS = re.compile(r"http(s?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::(\d{1,4}|[1-5]\d{4}))?(/[!\"$-~]*)?")
MEDIA = (".jpg", ".mp4")


class Refused(Exception):
    """A receiver did not take an event."""


class TooLarge(Refused):
    """Because of its pictures."""


class Webhook:
    """Posts an event as JSON, pictures in base64, with its key in `Idempotency-Key` and the body's HMAC-SHA256 in `X-Signature-256`.

    Any answer 200 to 299 means that it was taken. Redirects are not followed. Raises BadInput for an address that is none.
    """

    def __init__(self, address: str, secret: str):
        if not (parts := ADDRESS.fullmatch(address)):
            raise BadInput("alerts.webhook: no address of a web server; expected https://HOST/PATH without a user in it; correct it")
        kind = http.client.HTTPSConnection if parts[1] else http.client.HTTPConnection
        self._connect = lambda: kind(parts[2], parts[3], timeout=TIMEOUT / 2)
        self._target, self._secret = parts[4] or "/", secret.encode(errors="surrogateescape")

    def __call__(self, key: str, event: bytes, picture: Path, clip: Path) -> None:
        body = event.rstrip()[:-1]
        for name, path in (("picture", picture), ("clip", clip)):
            content = b"null"
            with contextlib.suppress(OSError):  # it is gone, or cannot be read
                content = b'"%b"' % base64.b64encode(path.read_bytes())
            body += b', "%b": %b' % (name.encode(), content)
        body += b"}"
        signature = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "X-Signature-256": f"sha256={signature}"}
        connection = self._connect()
        late = threading.Timer(TIMEOUT, _cut_off, [connection])  # who drips
        late.daemon = True
        late.start()
        try:
            connection.request("POST", self._target, body, headers)
            status = connection.getresponse().status
        finally:
            late.cancel()
            connection.close()
        if not 200 <= status < 300:
            raise (TooLarge if status == 413 else Refused)(f"it answered {status}")


def _cut_off(connection) -> None:
    with contextlib.suppress(AttributeError, OSError):  # it is closed, or being so
        connection.sock.shutdown(socket.SHUT_RDWR)


class Command:
    """Starts a command: the event as JSON on standard input, the environment has ALERT_KEY, and the paths ALERT_PICTURE and ALERT_CLIP,
    empty where there is none. Exit code 0 means that it was taken; the files go then. Raises BadInput where there is no such program.
    """

    def __init__(self, words: list[str]):
        if shutil.which(words[0]) is None:
            raise BadInput(
                f"alerts.command: {words[0]!r} is no program that can be started; name its path, and make it executable: chmod +x"
            )
        self._words = words

    def __call__(self, key: str, event: bytes, picture: Path, clip: Path) -> None:
        files = {"ALERT_PICTURE": picture, "ALERT_CLIP": clip}
        environment = os.environ | {"ALERT_KEY": key} | {name: str(path) if path.exists() else "" for name, path in files.items()}
        more = {"stdin": subprocess.PIPE, "stdout": 2, "env": environment, "start_new_session": True}  # our output is JSON lines
        process = subprocess.Popen(self._words, **more)
        try:
            process.communicate(event, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Refused(f"ran longer than {TIMEOUT:g} s") from None
        if process.returncode:
            raise Refused(f"exit code {process.returncode}")


class Spool:
    """Takes events (`put`) and hands each to every sink, those of a camera in order, whatever becomes of the receivers and this process.

    sinks: {name in small letters: called with (key, JSON, path of the picture, path of the clip), raises what it likes}; limit: bytes of
    all pictures together; told(state, **fields): called for "spooled", "taken" and "refused", from other threads. One process a folder.
    Raises BadInput where the folder cannot be written.
    """

    def __init__(self, folder: Path, sinks: dict[str, Callable], *, limit: int, told: Callable = lambda state, **_: None):
        self.folder, self._sinks, self._limit, self._told = make_folder(folder), sinks, limit, told
        self._changed, self._closed, self._last, self._unwritten = threading.Condition(), False, 0, deque()
        self._queues: dict[str, dict[str, deque]] = {name: defaultdict(deque) for name in sinks}  # sink -> camera -> keys
        self._paths: dict[str, Path] = {}  # key -> its JSON
        self._media: dict[str, int] = {}  # key -> bytes, the oldest first
        self._problems = dict.fromkeys(["", *sinks], "")  # of the disk and of each sink
        self._place = os.open(self.folder, os.O_RDONLY)
        self._load()
        self._threads = [threading.Thread(target=self._write_all, daemon=True)]
        self._threads += [threading.Thread(target=self._deliver, args=(name,), daemon=True) for name in sinks]
        for thread in self._threads:
            thread.start()

    @property
    def problem(self) -> str:
        """Why something waits, as far as is known."""
        return next(filter(None, self._problems.values()), "")

    @property
    def waiting(self) -> int:
        """Events that some sink has not taken."""
        return len(self._paths) + len(self._unwritten)

    def put(self, camera: str, event: dict, picture: bytes | None, clip: bytes | None) -> str:
        """Another event of a camera; its key. Returns at once: "spooled" tells when it is safe."""
        with self._changed:
            self._last = max(time.time_ns(), self._last + 1)  # in order though the clock be set back
            key = f"{self._last:020d}-{secrets.token_hex(4)}"
            waiting = sum(len(content or b"") for *_, media in self._unwritten for content in media.values())
            media = {".jpg": picture, ".mp4": clip} if waiting < KEPT else {}
            self._unwritten.append([key, camera, {"key": key, "camera": camera} | event, media])
            self._changed.notify_all()
            return key

    def close(self, wait: float = 10.0) -> None:
        """Stop when all events are on the disk, after `wait` seconds at most. What is not taken is sent when the folder is opened again."""
        with self._changed:
            again, self._closed = self._closed, True
            self._changed.notify_all()
        self._threads[0].join(wait)
        if self._unwritten and not again:
            print(f"error: {len(self._unwritten)} alerts are lost: {self.folder} cannot be written ({self.problem})", file=sys.stderr)

    def _load(self) -> None:
        found = {path.name: path for path in self.folder.iterdir()}
        for name in sorted(found):
            if known := NAME.fullmatch(name):
                self._add(known[1], known[2], known[3].split("+"), found[name])
                self._media[known[1]] = sum(path.stat().st_size for path in self._files(known[1]) if path.exists())
                self._last = int(known[1][:20])
        for name, path in found.items():  # what a kill left
            if name.endswith(".tmp") or (path.suffix in MEDIA and path.stem not in self._paths):
                path.unlink()
        self._reserve()

    def _add(self, key: str, camera: str, sinks, path: Path) -> None:
        self._paths[key] = path
        for name in sinks:
            if name in self._queues:  # else of a sink that is no more: it waits
                self._queues[name][camera].append(key)

    def _files(self, key: str) -> list[Path]:
        return [self.folder / f"{key}{end}" for end in MEDIA]

    def _save(self, name: str, content: bytes) -> Path:
        """A file that is whole, and on the disk."""
        temporary = self.folder / f"{name}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path = temporary.rename(self.folder / name)
            os.fsync(self._place)  # of the names
            return path
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _reserve(self) -> None:
        if not (self.folder / "reserve").exists():
            with contextlib.suppress(OSError):
                self._save("reserve", bytes(RESERVE))

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._unwritten and not self._closed:
                    self._changed.wait()
                if not self._unwritten:
                    return
                key, camera, event, media = item = self._unwritten[0]
            try:
                for end, content in media.items():
                    if content:
                        self._save(f"{key}{end}", content)
                path = self._save(f"{key}.{camera}.{'+'.join(sorted(self._sinks))}.json", json.dumps(event).encode())
            except OSError as error:
                self._problems[""] = error.strerror
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._make_room(item):
                    time.sleep(1)
                continue
            self._problems[""] = ""
            self._told("spooled", **event)  # before any sink can tell of it
            with self._changed:
                self._unwritten.popleft()
                self._media[key] = sum(len(content) for content in media.values() if content)
                self._add(key, camera, self._sinks, path)
                while sum(self._media.values()) > self._limit:
                    self._drop_oldest()
                self._changed.notify_all()
            self._reserve()

    def _make_room(self, item: list) -> bool:
        """Give up pictures, the oldest first, at last those of `item` itself, and the reserve; whether there was something to give up."""
        if self._drop_oldest():
            return True
        for path in self._files(item[0]):
            path.unlink(missing_ok=True)
        had, item[3] = any(item[3].values()), {}
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "reserve").unlink()
            return True
        return had

    def _drop_oldest(self) -> bool:
        with self._changed:
            key = next((key for key, size in self._media.items() if size), None)
            if key:
                self._drop(key)
        return key is not None

    def _drop(self, key: str) -> None:
        for path in self._files(key):
            path.unlink(missing_ok=True)
        self._media[key] = 0

    def _deliver(self, name: str) -> None:
        ready, failures = defaultdict(float), defaultdict(int)  # of a camera: when it may be tried again, attempts that failed
        bare = set()  # keys whose pictures are too large for this receiver
        while True:
            with self._changed:
                if self._closed:
                    return
                heads = [(max(0.0, ready[one] - time.monotonic()), keys[0], one) for one, keys in self._queues[name].items() if keys]
                left, key, camera = min(heads, default=(None, "", ""))
                if left or not key:
                    self._changed.wait(left)
                    continue
            try:
                with self._changed:  # another sink may rename it
                    event = self._paths[key].read_bytes() if self._paths[key].exists() else None
                if event is not None:  # else somebody has removed it
                    self._sinks[name](key, event, *self._files("none" if key in bare else key))
                self._take(name, camera, key)
            except Exception as error:  # whatever it was, the event is not taken, and others are to go on
                if isinstance(error, TooLarge) and key not in bare and self._media[key]:
                    bare.add(key)
                    continue
                failures[camera] += 1
                wait = min(2.0 ** min(failures[camera] - 1, 10), LONGEST_WAIT)
                ready[camera] = time.monotonic() + wait
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self._problems[name] = f"{name}: {reason}"
                self._told("refused", camera=camera, key=key, sink=name, reason=reason, attempt=failures[camera], wait=wait)
                continue
            failures[camera], self._problems[name] = 0, ""
            bare.discard(key)
            self._told("taken", camera=camera, key=key, sink=name)

    def _take(self, name: str, camera: str, key: str) -> None:
        """The sink has it: it is no more in its queue, and goes with its pictures where no other sink is left."""
        with self._changed:
            if (path := self._paths.get(key)) is None:  # somebody has removed it, and the other sink noticed first
                return
            left = [one for one in NAME.fullmatch(path.name)[3].split("+") if one != name]
            if left and path.exists():
                self._paths[key] = path.rename(path.with_name(f"{key}.{camera}.{'+'.join(left)}.json"))
                self._queues[name][camera].popleft()
                return
            path.unlink(missing_ok=True)
            self._drop(key)
            del self._paths[key], self._media[key]
            for queues in self._queues.values():
                with contextlib.suppress(ValueError):
                    queues[camera].remove(key)
