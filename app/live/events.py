"""Events of a stream: runs of snippets at or above the threshold, told as they begin and end, with the memory of one event.

The rule is that of utils.analysis.find_segments, so that the events of a finished stream are the segments of its scores. C+1 classes, class
0 = normal.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from utils.segments import ANOMALY


class Place(NamedTuple):
    """Where a snippet lies: its number, the connection it came by, seconds [start, end) of the stream, when its last frame came
    (time.time()).
    """

    number: int
    connection: int
    start: float
    end: float
    arrived: float


class Scored(NamedTuple):
    """A snippet's final anomaly score, and its class probabilities (C+1,) or None."""

    place: Place
    score: np.floating
    fine: np.ndarray | None


class Event:
    """A run of snippets at or above the threshold, while it goes on; lower ones after it are kept until it is clear whose they are."""

    def __init__(self, scored: Scored):
        self.first = self.last = scored.place
        self.score, self._rows, self._sum = scored.score, 0, 0.0
        self._between: list[np.ndarray] = []
        self.extend(scored)

    def extend(self, scored: Scored) -> None:
        """Another snippet at or above the threshold, with the lower ones before it."""
        self.last, self.score = scored.place, max(self.score, scored.score)
        if scored.fine is not None:
            for row in (*self._between, scored.fine):
                self._sum, self._rows = self._sum + row.astype(np.float64), self._rows + 1
            self._between = []

    def bridge(self, scored: Scored) -> None:
        """A lower snippet, which belongs to the event if another high one follows."""
        if scored.fine is not None:
            self._between.append(scored.fine)

    def label(self, classes: tuple[str, ...]) -> str:
        """The anomaly class of the highest mean probability so far."""
        return classes[1 + int(self._sum[1:].argmax())] if self._rows else ANOMALY


class Events:
    """Events of a stream, in order. A cut ends the event that goes on: nobody saw what came then. Dropped snippets count as lower ones."""

    def __init__(self, classes: tuple[str, ...], threshold: float, *, bridge: int = 1):
        self._classes, self._threshold, self._bridge = classes, threshold, bridge
        self._event: Event | None = None
        self._count = 0

    def add(self, scored: Scored) -> list[dict]:
        """The lines of the events that start or end with the next snippet."""
        place, lines = scored.place, []
        high = scored.score >= self._threshold
        if event := self._event:
            gone = place.number - event.last.number
            if place.connection != event.last.connection or gone > self._bridge + (1 if high else 0):
                lines += self.close()
        if not high:
            if self._event:
                self._event.bridge(scored)
        elif self._event:
            self._event.extend(scored)
        else:
            self._event = Event(scored)
            lines.append(self._line("start"))
        return lines

    def close(self) -> list[dict]:
        """The line of the event that goes on, if one does: it is over."""
        if not self._event:
            return []
        line = self._line("end")
        self._event, self._count = None, self._count + 1
        return [line]

    def _line(self, state: str) -> dict:
        event, ended = self._event, state == "end"
        line = {"state": state, "number": self._count, "first_snippet": event.first.number, "start": round(event.first.start, 3)}
        if ended:
            line |= {"last_snippet": event.last.number, "end": round(event.last.end, 3)}
        place = event.last if ended else event.first
        return line | {"time": utc(place.arrived), "class": event.label(self._classes), "score": number(event.score)}


def number(value) -> float:
    """A score as a line has it: float32 has no more digits."""
    return round(float(value), 7)


def utc(seconds: float) -> str:
    """time.time() as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
