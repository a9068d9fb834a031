"""Alerts of one camera: its events as somebody on duty wants to be told of them, with a clip of what came. Imports no torch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.live.events import Events, Scored, number, utc
from utils.evaluation.segments import ANOMALY, BRIDGE, Run
from utils.reading import CLOSED, real
from utils.video.fragments import Footage

AFTER = 1.0  # seconds of a clip behind its event
MINUTE = 60.0
Seconds = real(0, 3600)


@dataclass(kw_only=True)
class Rules:
    """When an event is told, in seconds. merge: two with less between them are one; minimum: shorter ones are not told; longest: one that
    goes on is told after so long, and what follows is another; cool_down: after one no other of its class is told; before: of the clip.
    """

    __pydantic_config__ = CLOSED

    merge: Seconds = 3.0
    minimum: Seconds = 1.0
    longest: real(0, 3600, gt=0) = 30.0
    cool_down: real(0, 10**6) = 60.0
    before: Seconds = 5.0


class Alarm(Events):
    """Tells of the events of a camera whose class is among `interest` (None: all), or not known, and that lie in its hours.

    hours: local ones, as "22:00-06:00", None: always; tell(event, JPEG of its best moment, MP4 or None) -> None.
    """

    def __init__(self, rules: Rules, classes: tuple, threshold: float, footage: Footage, tell: Callable, *, interest=None, hours=None):
        super().__init__(classes, threshold)
        self._rules, self._footage, self._tell, self._interest, self._hours = rules, footage, tell, interest, hours
        self._quiet: dict[str, float] = {}  # class -> the second of the stream until which no other is told
        self.told = self.held = 0  # alerts, and those that came too soon after another

    def add(self, scored: Scored) -> list[dict]:
        """The next snippet; no lines."""
        between = self._rules.merge / max(scored.place.end - scored.place.start, 0.01)  # in snippets; an end carries the rounding of hours
        self._runs.bridge = max(BRIDGE, math.ceil(between - 1e-6) - 1)
        super().add(scored)
        return self.close() if self._runs.current and self._last.end - self._first.start >= self._rules.longest else []

    def _begin(self, _) -> list[dict]:
        return []

    def _end(self, run: Run) -> list[dict]:
        rules, first, last, best = self._rules, self._first, self._last, self._best.place
        label, began = run.label(self._classes), first.arrived - (first.end - first.start)
        if last.end - first.start < rules.minimum or (self._interest is not None and label not in (*self._interest, ANOMALY)):
            return []
        moments = [began + MINUTE * at for at in range(int((last.arrived - began) / MINUTE) + 1)] + [last.arrived]
        if self._hours is not None and not any(_lies_in(moment, self._hours) for moment in moments):
            return []
        if first.start < self._quiet.get(label, 0):
            self.held += 1
            return []
        self._quiet[label], self.told = last.end + rules.cool_down, self.told + 1
        event = {"class": label, "score": number(run.score), "threshold": self._runs.threshold, "held_back": self.held}
        event |= {"began": utc(began), "ended": utc(last.arrived), "best": utc(best.arrived), "start": round(first.start, 3)}
        event |= {"end": round(last.end, 3), "first_snippet": run.first, "last_snippet": run.last}
        clip = self._footage.cut(first.connection, first.start - first.offset - rules.before, last.end - first.offset + AFTER)
        self._tell(event, best.jpeg, clip)
        return []


def _lies_in(moment: float, hours: Sequence[str]) -> bool:
    """Whether time.time() `moment` lies in one of the hours, which may go over midnight."""
    now, pairs = time.strftime("%H:%M", time.localtime(moment)), [span.split("-") for span in hours]
    return any(start <= now < end if start <= end else now >= start or now < end for start, end in pairs)
