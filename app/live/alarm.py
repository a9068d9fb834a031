"""Alerts of one camera: its events as somebody on duty wants to be told of them, with a clip of what came. Imports no torch."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.live.events import Scored, number, utc
from utils.evaluation.segments import ANOMALY, BRIDGE, Run, Runs
from utils.video.fragments import Footage

AFTER = 1.0  # seconds of a clip behind its event


class Rules(NamedTuple):
    """When an event is told, in seconds. merge: two with less between them are one; minimum: shorter ones are not told; longest: one that
    goes on is told after so long, and what follows is another; cool_down: after one no other of its class is told; before: of the clip.
    """

    merge: float = 3.0
    minimum: float = 1.0
    longest: float = 30.0
    cool_down: float = 60.0
    before: float = 5.0


class Alarm:
    """Tells of the events of a camera whose class is among `interest` (None: all), or not known, and that lie in its hours.

    hours: local ones, as "22:00-06:00", None: always; tell(event, JPEG of its best moment, MP4 or None) -> None.
    """

    def __init__(self, rules: Rules, classes: tuple, threshold: float, footage: Footage, tell: Callable, *, interest=None, hours=None):
        self._rules, self._classes, self._footage, self._tell = rules, classes, footage, tell
        self._interest, self._hours, self._runs = interest, hours, Runs(threshold)
        self._first = self._last = self._best = None  # of the run's high snippets
        self._quiet: dict[str, float] = {}  # class -> the second of the stream until which no other is told
        self.told = self.held = 0  # alerts, and those that came too soon after another

    def add(self, scored: Scored) -> None:
        """The next snippet."""
        place = scored.place
        if self._runs.current and place.connection != self._last.connection:  # nobody saw what came between
            self.close()
        self._runs.bridge = max(BRIDGE, int(self._rules.merge / max(place.end - place.start, 0.01)))
        ended, began = self._runs.add(place.number, scored.score, scored.fine)
        if ended:
            self._end(ended)
        if began:
            self._first, self._best = place, scored
        if scored.score >= self._runs.threshold:
            self._last, self._best = place, max(self._best, scored, key=lambda one: one.score)
            if place.end - self._first.start >= self._rules.longest:
                self.close()

    def close(self) -> None:
        """The event that goes on, if one does, is over."""
        if run := self._runs.close():
            self._end(run)

    def _end(self, run: Run) -> None:
        rules, first, last, best = self._rules, self._first, self._last, self._best.place
        label, began = run.label(self._classes), first.arrived - (first.end - first.start)
        if last.end - first.start < rules.minimum or (self._interest is not None and label not in (*self._interest, ANOMALY)):
            return
        if self._hours is not None and not any(_lies_in(moment, self._hours) for moment in (began, last.arrived)):
            return
        if first.start < self._quiet.get(label, 0):
            self.held += 1
            return
        self._quiet[label], self.told = last.end + rules.cool_down, self.told + 1
        event = {"class": label, "score": number(run.score), "threshold": self._runs.threshold, "held_back": self.held}
        event |= {"began": utc(began), "ended": utc(last.arrived), "best": utc(best.arrived)}
        event |= {"start": round(first.start, 3), "end": round(last.end, 3)}
        event |= {"first_snippet": first.number, "last_snippet": last.number}
        clip = self._footage.cut(first.connection, first.start - first.offset - rules.before, last.end - first.offset + AFTER)
        self._tell(event, best.jpeg, clip)


def _lies_in(moment: float, hours: Sequence[str]) -> bool:
    """Whether time.time() `moment` lies in one of the hours, which may go over midnight."""
    now, pairs = time.strftime("%H:%M", time.localtime(moment)), [span.split("-") for span in hours]
    return any(start <= now < end if start <= end else now >= start or now < end for start, end in pairs)
