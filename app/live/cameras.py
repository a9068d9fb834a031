"""Several cameras in one process, as a file says: cameras.toml. docs/on-duty.md explains its keys.

Their pictures are encoded together, and each has its own thread and reading process, back-off, window, events and alerts. `status.json` in
the folder tells how they are, once a second, for whoever asks (`--status`).
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired
from urllib.parse import quote

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from app.live.alarm import Alarm, Rules
from app.live.feed import Feed
from app.live.spool import Command, Spool, Webhook
from app.live.stream import parse_source
from utils.errors import BadInput, held, printable
from utils.files import ROOT, locked, make_folder, write_json
from utils.reading import CLOSED, Text, parse_toml, read_json, read_text, real, whole
from utils.video.fragments import Footage
from utils.video.frames import MAX_PIXELS

LONGEST = 1 << 20  # bytes of the file
TIMEOUT = 10.0  # seconds without data that count as a cut
QUOTED = ("name", "classes", "polygon", "hours", "folder")  # what a message may show of the file: elsewhere passwords may stand
STALE = 5  # seconds from which on a status is an old one
KEYS = ("state", "last", "score", "threshold", "delay", "snippets", "dropped", "alerts", "held", "reason")
HEAD = ("camera", "state", "last frame", "score", "threshold", "delay", "snippets", "dropped", "alerts", "held back", "")


def _like(pattern: str, said: str) -> type:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(said)
        return text

    return Annotated[Text, AfterValidator(check)]


Name = _like(r"[\w-]{1,40}", "1 to 40 letters, digits, - and _")  # part of a file's name
Line = _like(r"[^\x00-\x1f\x7f]+", "one line of text")
Words = _like(r"(?s:[^\0]*)", "a text without NUL")
Hours = _like(r"(?!(.*)-\1$)([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", "a text such as 22:00-06:00")
Point = Annotated[list[real(0, 1)], Field(min_length=2, max_length=2)]


def _some(kind: type, least: int = 1) -> type:
    return Annotated[list[kind], Field(min_length=least)]


def _with_area(points: list) -> list:
    (x, y), *others = points
    if not any((a - x) * (d - y) != (b - y) * (c - x) for a, b in others for c, d in others):
        raise ValueError("three points that are not in one line")
    return points


@dataclass(kw_only=True)
class Camera:
    """One camera."""

    __pydantic_config__ = CLOSED

    name: Name
    address: Line
    threshold: real(0, 1, gt=0) | None = None
    classes: _some(Text) | None = None
    polygon: Annotated[_some(Point, 3), AfterValidator(_with_area)] | None = None
    hours: _some(Hours) | None = None
    latency: real(0, 3600, gt=0) | None = None


@dataclass(kw_only=True)
class Alerts(Rules):
    """Who is told of events, and of which."""

    webhook: Text | None = None
    secret: Text | None = None
    command: _some(Words) | None = None
    spool_mb: whole(0, 10**6) = 1000


class File(TypedDict):
    """A cameras.toml."""

    __pydantic_config__ = CLOSED

    camera: _some(Camera)
    alerts: NotRequired[Alerts]
    folder: NotRequired[Line]


class Status(TypedDict):
    """What status.json holds."""

    time: real()
    cameras: dict[Text, dict[Text, Any]]
    waiting: int | None
    problem: Text | None


def read_cameras(path: Path | str, *, filled: bool = True) -> File:
    """A cameras.toml, its folder as seen from where it lies. filled: ${NAME} in addresses and the secret is what the environment says.
    Raises BadInput where it is none.
    """
    place, todo = str(path), "see docs/on-duty.md"
    plan = parse_toml(read_text(path, "SOURCE", LONGEST), place, todo, File, QUOTED)
    plan["folder"] = str(Path(path).parent / plan.get("folder", ROOT / "runs" / "cameras"))
    if not filled:
        return plan
    names = [camera.name.casefold() for camera in plan["camera"]]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"{place}: two cameras are called {twice}; expected a name for each; {todo}")
    for camera in plan["camera"]:
        camera.address = _filled(camera.address, said := f"{place}: the address of {camera.name}", quoted=True)
        try:
            source = parse_source(camera.address)
        except BadInput as error:
            raise BadInput(f"{said}: {error}") from None
        if source.piped:
            raise BadInput(f"{place}: {camera.name} is a pipe; expected an address, or a webcam's number; {todo}")
    if alerts := plan.get("alerts"):
        alerts.webhook, alerts.secret = (_filled(getattr(alerts, key) or "", f"{place}: alerts.{key}") for key in ("webhook", "secret"))
        if not alerts.webhook and not alerts.command:
            raise BadInput(f"{place}: alerts go nowhere; expected a webhook, a command, or both; {todo}")
        if alerts.webhook and not alerts.secret:
            raise BadInput(f"{place}: alerts.webhook without a secret; expected one that both sides know, it signs what is sent; {todo}")
        if alerts.minimum > alerts.longest:
            raise BadInput(f"{place}: alerts.minimum {alerts.minimum:g}; expected at most longest, {alerts.longest:g}; {todo}")
    return plan


def _filled(text: str, place: str, quoted: bool = False) -> str:
    """`text` with what the environment has for each ${NAME}; quoted: as part of an address, unless it is all of it."""

    def value(found) -> str:
        if not (known := os.environ.get(found[1])):
            raise BadInput(f"{place}: the environment has no {found[1]}; export it, or name it in the service's EnvironmentFile")
        return quote(known, safe="", errors="surrogateescape") if quoted and found[0] != text else known

    if odd := re.search(r"\$\{(?!\w+\})([^}@]*\})?", text):
        raise BadInput(f"{place}: {odd[0]}; expected ${{NAME}}, a variable of the environment; correct it")
    return re.sub(r"\$\{(\w+)\}", value, text)


def run(detector, plan: File, *, latency: float, out=None, record: Path | str | None = None, max_pixels: int = MAX_PIXELS) -> None:
    """Follow all cameras until they end, which live ones do not, and write JSON lines that name the camera to `out` (standard output).

    latency: of those that say none; else as app.live.follower.run, whose errors it raises, and BadInput for classes that are not known.
    """
    from app.live.follower import STOP, Follower, Lines, OutputClosed, check, follow

    check(detector, latency, "cameras")
    for camera in plan["camera"]:
        if unknown := set(camera.classes or ()) - set(detector.classes[1:]):
            raise BadInput(f"{camera.name}: classes {sorted(unknown)} are not known; expected some of {', '.join(detector.classes[1:])}")
    folder, alerts, news, written = make_folder(plan["folder"]), plan.get("alerts"), deque(), 0.0
    sinks = {"webhook": Webhook(alerts.webhook, alerts.secret)} if alerts and alerts.webhook else {}
    sinks |= {"command": Command(alerts.command)} if alerts and alerts.command else {}
    changed, sources, spool = threading.Condition(), {}, None
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(folder))
        lines = stack.enter_context(Lines(sys.stdout if out is None else out, record))
        if sinks:
            told = lambda state, **fields: news.append({"state": state, **fields})  # noqa: E731
            spool = Spool(folder / "alerts", sinks, limit=alerts.spool_mb << 20, told=told)
            stack.callback(spool.close)
        stopped = stack.enter_context(held(STOP, once=True))

        def tick() -> None:
            nonlocal written
            while news:
                lines("alert", **news.popleft())
            if time.monotonic() - written >= 1:
                written, cameras = time.monotonic(), {name: follower.state() for name, (_, follower) in sources.items()}
                status = {"time": time.time(), "cameras": cameras, "waiting": spool and spool.waiting, "problem": spool and spool.problem}
                with contextlib.suppress(BadInput):  # a full disk: an older one stands there
                    write_json(folder / "status.json", status)

        for camera in plan["camera"]:
            own, footage, alarm = camera.latency or latency, None, None
            if spool:
                footage = Footage(alerts.before + alerts.longest + alerts.merge + 2 * own + 15)
                threshold, tell = camera.threshold or detector.threshold, partial(spool.put, camera.name)
                alarm = Alarm(alerts, detector.classes, threshold, footage, tell, interest=camera.classes, hours=camera.hours)
            source, more = parse_source(camera.address), {"polygon": camera.polygon, "max_pixels": max_pixels, "footage": footage}
            feed = stack.enter_context(Feed(source, detector.recipe, patience=own, persist=True, changed=changed, timeout=TIMEOUT, **more))
            said, more = partial(lines, camera=camera.name), {"latency": own, "threshold": camera.threshold, "alarm": alarm}
            sources[camera.name] = feed, Follower(detector, said, source.shown, **more)
        try:
            follow(detector, [*sources.values()], stopped, tick)
        except OutputClosed:  # who reads the lines is not who gets the alerts
            for _, follower in sources.values():
                if follower.alarm:
                    follower.alarm.close()
        if spool:
            spool.close()
        with contextlib.suppress(OutputClosed):
            tick()


def show_status(plan: File) -> None:
    """A table of how the cameras are, again each second until it is interrupted; once where standard output is no terminal."""
    path, clear = Path(plan["folder"]) / "status.json", "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
    while True:
        print(clear + table(read_json(path, "folder: start demo.py with the file first", Status)), flush=True)
        if not clear:
            return
        time.sleep(1)


def table(status: Status) -> str:
    """`status` for a terminal."""
    cells, now = [HEAD], time.time()
    for name, camera in status["cameras"].items():
        told = [camera.get(key) for key in KEYS]
        told[1] = None if told[1] is None else f"{now - told[1]:.0f} s ago"
        cells.append((name, *("" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else printable(cell) for cell in told)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    if status["waiting"] is not None:
        lines.append(f"alerts that wait for their receiver: {status['waiting']} {printable(status['problem'] or '')}".rstrip())
    if (age := now - status["time"]) > STALE:
        lines.append(f"this is {age:,.0f} seconds old: no process writes it any more")
    return "\n".join(lines)
