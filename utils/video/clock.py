"""One clock for files and streams: when each frame is shown, whatever its time stamps say."""

import heapq
from collections import deque
from collections.abc import Iterator

JUMP = 10.0  # seconds, or frames where these take longer: a stamp that lies farther ahead is doubted
ORDER = 16  # places by which a picture's in the file and on the screen differ, at most (H.264, H.265)
SAME = 1e-6  # seconds


class Clock:
    """Seconds from the first frame, always ahead, of frames that come in the order in which they are shown.

    A frame without a stamp, or with that of the frame before, is a step (1 / fps) after it. A stamp that goes back, or more than JUMP
    ahead, is doubted until the next one is there. Where that goes on from before, the doubted one was wrong, and its frame lies halfway.
    Else the clock was set anew, and the frame is a step after the one before it; with `gaps`, what lies ahead is time without frames.

    order: stamps may be those of decoding, each at most `order` frames from its place: so many frames are waited for, and each one gets
    the earliest stamp there is. jumps: how many stamps were wrong or set anew.
    """

    def __init__(self, fps: float, *, gaps: bool = False, order: int = 0):
        self.step, self.gaps, self.order, self.jumps = 1 / fps, gaps, order, 0
        self._far = max(JUMP, JUMP / fps)
        self._items, self._stamps = deque(), []  # what waits to be put in order
        self._put = self._taken = None  # the last stamps that were put there, and taken from there
        self._doubted = None  # (stamp, item)
        self._now = self._last = None  # time and stamp of the last frame

    def add(self, stamp: float | None, item) -> Iterator[tuple[float, object]]:
        """The next frame and its stamp in seconds: (time, item) of those whose time is now known, in order. To be exhausted."""
        if stamp is None or not self._within_reach(stamp):
            yield from self._take(0)
            self._put = self._taken = None
        if stamp is None:
            yield from self._tick(None, item)
            return
        self._items.append(item)
        heapq.heappush(self._stamps, stamp)
        self._put = stamp
        yield from self._take(self.order)

    def rest(self) -> Iterator[tuple[float, object]]:
        """(time, item) of those that still wait, in order: no frame comes any more."""
        yield from self._take(0)
        if self._doubted:
            yield self._anew(None)

    def _within_reach(self, stamp: float) -> bool:
        return (self._put is None or abs(stamp - self._put) <= self._far) and (self._taken is None or stamp > self._taken)

    def _take(self, kept: int) -> Iterator[tuple[float, object]]:
        while len(self._items) > kept:
            self._taken = heapq.heappop(self._stamps)
            yield from self._tick(self._taken, self._items.popleft())

    def _tick(self, stamp: float | None, item) -> Iterator[tuple[float, object]]:
        if self._doubted:
            yield self._between(stamp) if self._follows(stamp) else self._anew(stamp)
        if self._now is None:
            yield self._show(0.0, stamp, item)
        elif stamp is None:
            yield self._show(self._now + self.step, None if self._last is None else self._last + self.step, item)
        elif self._last is None or abs(stamp - self._last) < SAME:
            yield self._show(self._now + self.step, stamp, item)
        elif self._follows(stamp):
            yield self._show(self._now + stamp - self._last, stamp, item)
        else:
            self._doubted = stamp, item

    def _follows(self, stamp: float | None) -> bool:
        return stamp is not None and 0 < stamp - self._last <= self._far

    def _between(self, following: float) -> tuple[float, object]:
        (_, item), self._doubted = self._doubted, None
        self.jumps += 1
        half = (following - self._last) / 2
        return self._show(self._now + half, self._last + half, item)

    def _anew(self, following: float | None) -> tuple[float, object]:
        (stamp, item), self._doubted = self._doubted, None
        if self.gaps and following is not None and self._last < stamp < following:
            return self._show(self._now + stamp - self._last, stamp, item)
        self.jumps += 1
        return self._show(self._now + self.step, stamp, item)

    def _show(self, now: float, stamp: float | None, item) -> tuple[float, object]:
        self._now, self._last = now, stamp
        return now, item
