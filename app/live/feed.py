"""A stream that is connected again where it breaks off, and what waits of it until somebody takes it: a bounded queue."""

import itertools
import math
import threading
import time
from collections import deque
from typing import NamedTuple

from app.live.stream import Connection, Opened, Snippet, Source
from utils.video.crops import Recipe
from utils.video.fragments import Footage, Fragment

BATCH = 8  # snippets of a recording that are taken together
MOST = 64  # snippets that wait, at most: 16 MB
LONGEST_WAIT = 30.0  # seconds between two attempts to connect again


class Retry(NamedTuple):
    """Attempt number `attempt` to connect again comes in `wait` seconds."""

    attempt: int
    wait: float


class Over(NamedTuple):
    """Nothing comes any more; `error` is what a bug raised in the reading thread."""

    error: BaseException | None = None


class Feed:
    """Reads a source in a thread, connects again with growing waits, and holds what comes until it is taken: at most MOST snippets.

    wait: a source that is faster than `take` is made to wait; else snippets that waited for more than `patience` seconds give way to newer
    ones. None: True for a recording, False for a live source. attempts: how many in a row may fail before it is over; None: any number.
    persist: the first one may fail, too. changed: what tells of new items, where several feeds share one. footage: takes the
    source's fragments. more: see Connection.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        patience: float,
        wait: bool | None = None,
        reconnect: bool = True,
        attempts: int | None = None,
        persist: bool = False,
        changed: threading.Condition | None = None,
        footage: Footage | None = None,
        **more,
    ):
        self.patience, self.wait, self.footage = patience, wait, footage
        self._source, self._recipe, self._more = source, recipe, more | {"footage": footage is not None}
        self._attempts, self._reconnect, self._persist = attempts, reconnect, persist
        self._items: deque = deque()
        self._snippets = 0
        self.changed, self._closed = changed or threading.Condition(), threading.Event()
        self.connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        if self.connection:
            self.connection.kill()
        with self.changed:
            self.changed.notify_all()
        self._thread.join()

    @property
    def ready(self) -> bool:
        """Whether anything waits."""
        return bool(self._items)

    def take(self) -> list:
        """The next items: one Opened, Cut, Retry or Over; or Snippets; or nothing."""
        with self.changed:
            taken = []
            while self._items and len(taken) < (BATCH if self.wait else 1):
                if isinstance(self._items[0], Snippet):
                    if not self.wait:
                        self._drop(time.time() - self.patience)
                    self._snippets -= 1
                elif taken:
                    break
                taken.append(self._items.popleft())
                if not isinstance(taken[0], Snippet):
                    break
            self.changed.notify_all()
            return taken

    def _drop(self, before: float) -> None:
        """Leave out the oldest snippets while there are too many, or they came before `before`; never the newest one of a connection."""
        while (at := self._oldest()) is not None and (self._snippets > MOST or self._items[at].arrived < before):
            del self._items[at]
            self._snippets -= 1

    def _oldest(self) -> int | None:
        pairs = enumerate(itertools.pairwise(self._items))
        return next((at for at, pair in pairs if all(isinstance(item, Snippet) for item in pair)), None)

    def _put(self, item) -> None:
        with self.changed:
            if isinstance(item, Snippet):
                while self.wait and self._snippets >= MOST and not self._closed.is_set():
                    self.changed.wait(1)
                self._snippets += 1
            self._items.append(item)
            if not self.wait:
                self._drop(-math.inf)
            self.changed.notify_all()

    def _run(self) -> None:
        try:
            self._follow()
            self._put(Over())
        except BaseException as error:
            self._put(Over(error))

    def _follow(self) -> None:
        number = failures = opened = 0
        wait = self.wait
        while not self._closed.is_set():
            self.connection = Connection(self._source, self._recipe, first=number, **self._more)
            if self._closed.is_set():  # __exit__ may have looked before it was there
                self.connection.kill()
            again, before = self._reconnect and not self._source.piped, number
            for item in self.connection:
                if isinstance(item, Fragment):
                    self.footage.add(opened - 1, item)
                    continue
                if isinstance(item, Opened):
                    opened += 1
                    self.wait = item.recorded if wait is None else wait
                    again = again and not item.recorded
                elif isinstance(item, Snippet):
                    number = item.number + 1
                self._put(item)
            failures = 0 if number > before else failures + 1
            if not again or not (number or self._persist) or (self._attempts is not None and failures >= self._attempts):
                return
            seconds = min(2.0 ** min(failures, 10), LONGEST_WAIT)
            self._put(Retry(failures + 1, seconds))
            self._closed.wait(seconds)
