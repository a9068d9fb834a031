"""Events of a stream: runs of snippets at or above the threshold, told as they begin and end, with the memory of one event.

The rule is that of utils/evaluation/segments.py, so that the events of a finished stream are the segments of its scores. C+1 classes, class
0 = normal.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from utils.evaluation.segments import Run, Runs


class Place(NamedTuple):
    """Where a snippet lies: its number, the connection it came by, seconds [start, end) of the stream, when its last frame came
    (time.time()); the second of the stream at which its connection began, and its first frame as a JPEG where that is kept.
    """

    number: int
    connection: int
    start: float
    end: float
    arrived: float
    offset: float = 0.0
    jpeg: bytes = b""


class Scored(NamedTuple):
    """A snippet's final anomaly score, and its class probabilities (C+1,) or None."""

    place: Place
    score: np.floating
    fine: np.ndarray | None


class Events:
    """Events of a stream, in order. A cut ends the event that goes on: nobody saw what came then. Dropped snippets count as lower ones."""

    def __init__(self, classes: tuple[str, ...], threshold: float):
        self._classes, self._runs = classes, Runs(threshold)
        self._first = self._last = self._best = None  # of the run's high snippets: two places, and the Scored of the highest score
        self._count = 0

    def add(self, scored: Scored) -> list[dict]:
        """The lines of the events that start or end with the next snippet."""
        place, lines = scored.place, []
        if self._runs.current and place.connection != self._last.connection:
            lines += self.close()
        ended, began = self._runs.add(place.number, scored.score, scored.fine)
        if ended:
            lines += self._end(ended)
        if began:
            self._first, self._best = place, scored
            lines += self._begin(began)
        if scored.score >= self._runs.threshold:
            self._last, self._best = place, max(self._best, scored, key=lambda one: one.score)
        return lines

    def close(self) -> list[dict]:
        """The line of the event that goes on, if one does: it is over."""
        return self._end(run) if (run := self._runs.close()) else []

    def _begin(self, run: Run) -> list[dict]:
        return [self._line("start", run, self._first)]

    def _end(self, run: Run) -> list[dict]:
        line = self._line("end", run, self._last, last_snippet=run.last, end=round(self._last.end, 3))
        self._count += 1
        return [line]

    def _line(self, state: str, run: Run, place: Place, **more) -> dict:
        line = {"state": state, "number": self._count, "first_snippet": run.first, "start": round(self._first.start, 3), **more}
        return line | {"time": utc(place.arrived), "class": run.label(self._classes), "score": number(run.score)}


def number(value) -> float:
    """A score as a line has it: float32 has no more digits."""
    return round(float(value), 7)


def utc(seconds: float) -> str:
    """time.time() as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
