"""Scores of a live stream, with bounded memory and bounded delay, as JSON lines that other programs can follow.

Each snippet gets one score, once: from the window of the last `length` snippets when `ahead` more have come after it, as
Detector.score_delayed does with a file, so that windows overlap and a snippet is seen with what follows it. It is final earlier where
`latency` seconds have passed since its last frame came, or the stream is over.

Lines: "connection" (state open, cut, retry, end), "snippet", "event" (state start, end), "dropped". Seconds `start`, `end` count from the
stream's first frame, what was missed between two connections included; `time` is when the last frame concerned came (UTC).
"""

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sized
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.live.alarm import Alarm
from app.live.events import Events, Place, Scored, number, utc
from app.live.feed import Feed, Over, Retry
from app.live.stream import PIPE, Cut, Opened, Snippet, parse_source
from utils.errors import BadInput, held
from utils.evaluation.scores import Scores
from utils.evaluation.segments import anomaly_score

POLL = 0.2  # seconds
STOP = signal.SIGINT, signal.SIGTERM  # so that no line is cut in two


class Scorer:
    """Windows over a stream of snippets. Keeps the features of `length` snippets, and the places of those without a final score."""

    def __init__(self, detector):
        self.detector, self.ahead = detector, 0
        self.pending: deque[Place] = deque()  # the last ones of the window
        self._window: deque[Tensor] = deque(maxlen=detector.length)

    def add(self, place: Place, features: Tensor) -> list[Scored]:
        """The snippets that are final now that `features` (crops, D) of the next one have come."""
        self._window.append(features)
        self.pending.append(place)
        return self.settle(len(self.pending) - self.ahead)

    def forget(self) -> list[Scored]:
        """What is pending, scored: nothing of it is context of what comes now."""
        final = self.settle(len(self.pending))
        self._window.clear()
        return final

    def settle(self, count: int) -> list[Scored]:
        """The `count` oldest pending snippets, scored with what there is."""
        if count <= 0 or not self.pending:
            return []
        scores: Scores = self.detector.score(torch.stack(tuple(self._window)))  # one window: no more than `length`
        if not all(np.isfinite(part).all() for part in scores if part is not None):
            raise BadInput("a score of the stream is no finite number; check the model")
        values, first = anomaly_score(scores), len(self._window) - len(self.pending)
        count = min(count, len(self.pending))
        fine = [None] * count if scores.fine is None else scores.fine[first : first + count]
        return [Scored(self.pending.popleft(), values[first + i], fine[i]) for i in range(count)]


class OutputClosed(Exception):
    """Whoever read the lines does not any more."""


class Lines(contextlib.AbstractContextManager):
    """JSON lines to `out`, and appended to the file `record` where one is named."""

    def __init__(self, out, record: Path | str | None):
        self._out, self._record, self._file = out, record, None
        try:
            self._file = open(record, "a", encoding="utf-8") if record else None  # noqa: SIM115, closed by __exit__
        except OSError as error:
            raise self._wrong(error) from None

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.close()

    def __call__(self, kind: str, **fields) -> None:
        line = json.dumps({"type": kind, **fields}, allow_nan=False) + "\n"  # ASCII: no terminal refuses it
        if self._file:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as error:
                raise self._wrong(error) from None
        try:
            self._out.write(line)
            self._out.flush()
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):  # what is left in its buffer would raise again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
            raise OutputClosed from None

    def _wrong(self, error: OSError) -> BadInput:
        return BadInput(f"{self._record}: cannot be appended to ({error.strerror}); free some space or name another file")


class Follower:
    """What becomes of a source's items, one after the other: lines, and alerts where there is an alarm.

    threshold: None for the detector's.
    """

    def __init__(self, detector, lines: Callable, shown: str, *, latency: float, threshold: float | None = None, alarm: Alarm = None):
        self.detector, self.lines, self.shown, self.latency, self.alarm = detector, lines, shown, latency, alarm
        self.threshold, self.threshold_from = threshold or detector.threshold, "the camera's own" if threshold else detector.threshold_from
        self.scorer, self.watching = Scorer(detector), [Events(detector.classes, self.threshold)] + [alarm] * bool(alarm)
        self.score = self.delay = None  # of the last snippet
        self.opened: Opened | None = None
        self.connection, self.expected, self.scored, self.dropped, self.jumps = -1, 0, 0, 0, 0
        self._offset = self._end = 0.0  # seconds of the stream: where the connection began, where the last snippet ended
        self._last = None  # time.time() of the last frame
        self._connected, self._reason = False, ""

    def open(self, opened: Opened) -> None:
        """A connection stands: what its lines mean."""
        detector, self.opened, self._connected = self.detector, opened, True
        self.connection += 1
        missed = max(0.0, opened.arrived - self._last) if self._last else 0.0
        self._offset = self._end + missed
        self.scorer.ahead = ahead = look_ahead(self.latency, opened.fps, detector.recipe.stride, detector.length)
        line = {"state": "open", "number": self.connection, "source": self.shown, "time": utc(opened.arrived)}
        line |= {"start": round(self._offset, 3), "missed": round(missed, 3), "width": opened.width, "height": opened.height}
        line |= {"fps": opened.fps, "fps_assumed": opened.assumed, "latency": self.latency, "snippets_ahead": ahead}
        if not self.connection:
            line |= {"threshold": self.threshold, "threshold_from": self.threshold_from, "notes": list(detector.notes)}
        self.lines("connection", **line)

    def add(self, snippets: list[Snippet], features: Tensor) -> None:
        """Score the next snippets. features: (n, crops, D)."""
        for snippet, rows in zip(snippets, features, strict=True):
            start, end = self._offset + snippet.start, self._offset + snippet.end
            missing_frames = round((start - self._end) * self.opened.fps)  # whole ones: a gap of just a window is not longer than it
            if missing_frames > self.detector.length * self.detector.recipe.stride:
                self._report(self.scorer.forget())
            self._end = end
            if missing := snippet.number - self.expected:
                self.dropped += missing
                numbers = {"first_snippet": self.expected, "last_snippet": snippet.number - 1, "snippets": missing, "total": self.dropped}
                self.lines("dropped", **numbers, time=utc(snippet.arrived), reason="the stream is faster than the encoder")
            self.expected, self._last = snippet.number + 1, snippet.arrived
            place = Place(snippet.number, self.connection, start, end, snippet.arrived, self._offset, snippet.jpeg)
            self._report(self.scorer.add(place, rows))

    def due(self) -> float:
        """Score what may not wait any longer; the seconds until the next snippet may not."""
        now, pending = time.time(), self.scorer.pending
        self._report(self.scorer.settle(sum(place.arrived + self.latency <= now for place in pending)))
        if not pending and not self._connected:
            self._close_events()
        return max(0.0, pending[0].arrived + self.latency - now) if pending else math.inf

    def cut(self, cut: Cut) -> None:
        """The connection broke, or could not be made."""
        if self._connected and not self.opened.recorded:
            line = {"number": self.connection, "time": utc(cut.arrived), "end": round(self._end, 3)}
            self.lines("connection", state="cut", **line, frames=cut.frames, clock_jumps=cut.jumps, reason=cut.reason)
        self._last = cut.arrived if self._connected else self._last
        self.jumps += cut.jumps
        self._connected, self._reason = False, cut.reason

    def retry(self, retry: Retry) -> None:
        """The next attempt to connect is announced."""
        self.lines("connection", state="retry", time=utc(time.time()), attempt=retry.attempt, wait=retry.wait, reason=self._reason)

    def finish(self, reason: str | None) -> None:
        """Score what is pending: nothing comes any more. reason: None for that of the last cut. Raises BadInput where there was no
        connection.
        """
        if self.connection < 0 and not reason:
            advice = "check the address, and that it is being sent"
            if self.shown == PIPE:  # an MP4 may have its index at its end, where a pipe cannot look
                advice = "pipe it in as it can be read from its start: ffmpeg -i FILE -c copy -f mpegts - | python demo.py -"
            raise BadInput(f"{self.shown}: {self._reason}; expected a video stream; {advice}")
        self._report(self.scorer.settle(len(self.scorer.pending)))
        self._close_events()
        counts = {"snippets": self.scored, "dropped": self.dropped, "clock_jumps": self.jumps}
        self.lines("connection", state="end", time=utc(time.time()), end=round(self._end, 3), **counts, reason=reason or self._reason)

    def state(self) -> dict:
        """How the source is, for people."""
        state = {"state": "live" if self._connected else "away", "last": self._last, "score": self.score, "threshold": self.threshold}
        state |= {"delay": self.delay, "snippets": self.scored, "dropped": self.dropped, "reason": "" if self._connected else self._reason}
        return state | ({"alerts": self.alarm.told, "held": self.alarm.held} if self.alarm else {})

    def _report(self, final: list[Scored]) -> None:
        for scored in final:
            place, fine, label = scored.place, scored.fine, {"class": None, "probability": None}
            events = [line for one in self.watching for line in one.add(scored)]  # whether or not the lines can be written
            if fine is not None:
                likeliest = 1 + int(fine[1:].argmax())
                label = {"class": self.detector.classes[likeliest], "probability": number(fine[likeliest])}
            line = {"number": place.number, "start": round(place.start, 3), "end": round(place.end, 3), "time": utc(place.arrived)}
            self.score, self.delay = number(scored.score), round(max(0.0, time.time() - place.arrived), 3)
            self.lines("snippet", **line, delay=self.delay, score=self.score, **label)
            self.scored += 1
            for line in events:
                self.lines("event", **line)

    def _close_events(self) -> None:
        for line in (line for one in self.watching for line in one.close()):
            self.lines("event", **line)


def look_ahead(latency: float, fps: float, stride: int, length: int) -> int:
    """How many snippets of its future a snippet waits for, so that they are over `latency` seconds after its first frame; at most half of
    a window, so that the past keeps its half.
    """
    return min(max(0, math.floor(latency * fps / stride + 1e-9) - 1), length // 2)


def check(detector, latency: float, source: str) -> None:
    """Raise BadInput where a detector cannot score streams, or not with that latency."""
    if not 0 < latency < math.inf:
        raise BadInput(f"--latency {latency}: expected a number of seconds above 0")
    if detector.caption_encoder is not None:
        raise BadInput(f"{source}: the checkpoint reads captions, and a stream has none; name one that was trained with --branches visual")


def run(detector, source: str, *, latency: float, out=None, record: Path | str | None = None, **more) -> None:
    """Follow `source` (app.live.stream) until it ends, and write a JSON line to `out` (standard output) for all that is found.

    latency: seconds; record: a file that the lines are appended to; more: see Feed.
    Raises BadInput where there is no such stream. SIGINT and SIGTERM (STOP) do what they do when what is pending has been scored.
    """
    check(detector, latency, source)
    place = parse_source(source)
    if place.piped and sys.stdin is not None and sys.stdin.isatty():
        raise BadInput("-: standard input is a terminal; pipe a video in: ffmpeg … -f mpegts - | python demo.py -")
    feed = Feed(place, detector.recipe, patience=latency, **more)
    with (
        Lines(sys.stdout if out is None else out, record) as lines,
        held(STOP, once=True) as stopped,
        feed,
        contextlib.suppress(OutputClosed),
    ):
        follow(detector, [(feed, Follower(detector, lines, place.shown, latency=latency))], stopped)


def follow(detector, sources: list[tuple[Feed, Follower]], stopped: Sized, tick: Callable[[], None] | None = None) -> None:
    """Hand the items of each feed to its follower until there are no more, or something in `stopped`. The feeds share one `changed`.

    Of each source no more is taken than one after the other, and what was taken is encoded as one batch: one that is slow delays none, and
    an encoder that is too slow loses as much of each. tick: called between two batches, at least every POLL seconds.
    """
    sources, left = list(sources), POLL
    while sources and not stopped:
        with sources[0][0].changed:
            if not any(feed.ready for feed, _ in sources):
                sources[0][0].changed.wait(min(left, POLL))
        taken = [(feed, follower, feed.take()) for feed, follower in sources]
        pictures = [item.picture for *_, items in taken for item in items if isinstance(item, Snippet)]
        features, left = detector.encode(pictures) if pictures else None, POLL
        for feed, follower, items in taken:
            match items:
                case [Snippet(), *_]:
                    rows, features = features[: len(items)], features[len(items) :]
                    follower.add(items, rows)
                case [Opened() as opened]:
                    follower.open(opened)
                case [Cut() as cut]:
                    follower.cut(cut)
                case [Retry() as retry]:
                    follower.retry(retry)
                case [Over(error)]:
                    if error:
                        raise error
                    sources.remove((feed, follower))
                    follower.finish(None)
                    continue
            # A recording that is slower to encode than to read is never late; a live stream is, and so is any that brings nothing.
            left = min(left, POLL if items and feed.wait else follower.due())
        if tick:
            tick()
    for _, follower in sources:
        follower.finish("interrupted")
