"""Files that the web page keeps: its own folder, and the videos of the owner's folder, which it offers by name."""

import contextlib
import hashlib
import math
import os
import re
import secrets
import shutil
import threading
import time
from pathlib import Path

from utils.evaluation.segments import clean
from utils.files import is_users
from utils.labels import is_video

LISTED = 1000  # videos of a folder that are offered
FILES = 3000  # on the shelf at most
WRITING = 60  # seconds after which a file that is being written, and does not grow, is given up
FULL = "The page holds as many videos as it may; old ones are removed, so try again later."


class Shelf:
    """The page's folder: how many bytes and files lie in it, and whether more may come.

    The sum is kept: what comes is added to it, and the folder is walked only now and then (`pause` seconds apart where there is no room,
    ten times as seldom else), so that a visitor costs the same however much is stored. What was last changed `keep` seconds ago is removed.
    Where there is no room, the uploads that no work has begun with go first, the oldest before the others.
    """

    def __init__(self, folder: Path, *, keep: float, max_bytes: int, max_files: int = FILES, pause: float = 1.0):
        self.folder, self.keep, self.max_bytes, self.max_files, self.pause = folder.resolve(), keep, max_bytes, max_files, pause
        self.bytes, self.files, self._counted, self._used = 0, 0, -math.inf, set()
        self._came = 0, 0  # bytes and files since counting began
        self._counting, self._lock = threading.Lock(), threading.Lock()  # the latter is never held for long: the server's loop waits for it

    def room(self, size: int = 0) -> bool:
        """Whether so many bytes more may come. Counts, and makes room, where it is time to."""
        if self.is_due(size) and self._counting.acquire(blocking=not self.fits(size)):  # one counts; who finds room does not wait
            try:
                if self.is_due(size):  # still
                    self._count()
                    if not self.fits(size):
                        self._make_room(size)
            finally:
                self._counting.release()
        return self.fits(size)

    def is_due(self, size: int) -> bool:
        """Whether `room` would count, which takes a while."""
        since = time.monotonic() - self._counted
        return since >= 10 * self.pause or (since >= self.pause and not self.fits(size))

    def fits(self, size: int = 0) -> bool:
        """Whether so many bytes more may come, by the sum alone."""
        return self.bytes + size <= self.max_bytes and self.files < self.max_files

    def add(self, size: int, files: int = 0) -> None:
        """So much has come since."""
        with self._lock:
            self.bytes, self.files = self.bytes + size, self.files + files
            self._came = self._came[0] + size, self._came[1] + files

    def use(self, file: Path | str) -> None:
        """Work begins with an upload: it stays for `keep` seconds from now on."""
        with self._lock, contextlib.suppress(OSError):
            os.utime(file)
            self._used.add(os.path.realpath(file))

    def tidy(self) -> None:
        """Count, and remove what is old."""
        with self._counting:
            self._count()

    def _count(self) -> None:
        oldest, emptied, self._came = time.time() - self.keep, set(), (0, 0)
        self._found: list[tuple[float, int, str]] = []  # when it was last changed, bytes, path
        for parent, _, names in os.walk(self.folder, topdown=False):
            for path in (os.path.join(parent, name) for name in names):
                with contextlib.suppress(OSError):  # somebody else removed it
                    state = os.lstat(path)
                    changed = max(state.st_mtime, state.st_ctime)
                    if changed < oldest:
                        os.unlink(path)
                        emptied.add(parent)
                    else:
                        self._found.append((changed, state.st_size, path))
            if parent != str(self.folder):
                with contextlib.suppress(OSError):  # not empty
                    if parent in emptied or os.stat(parent).st_mtime < oldest:
                        os.rmdir(parent)
                        emptied.add(os.path.dirname(parent))
        held, there = sum(size for _, size, _ in self._found), {path for *_, path in self._found}
        with self._lock:  # what came in between may have been counted, too
            self.bytes, self.files = held + self._came[0], len(there) + self._came[1]
            self._used = {path for path in self._used if path in there or os.path.exists(path)}
        self._counted = time.monotonic()

    def _make_room(self, size: int) -> None:
        """Remove uploads until there is room, and a quarter more."""
        writing = time.time() - WRITING
        for changed, held, path in sorted(self._found):
            if self.bytes + size <= 0.75 * self.max_bytes and self.files < 0.75 * self.max_files:
                break
            below = Path(path).relative_to(self.folder).parts
            if path not in self._used and (len(below) == 2 or (len(below) == 1 and changed < writing)):  # HASH/NAME, or one that broke off
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    with self._lock:
                        self.bytes, self.files = self.bytes - held, self.files - 1
                    if len(below) == 2:
                        os.rmdir(os.path.dirname(path))


def keep_tidy(shelf: Shelf, over: threading.Event) -> None:
    """Tidy the shelf now and then, until it is over."""
    while not over.wait(shelf.keep / 6):
        shelf.tidy()


def videos(folder: Path) -> dict[str, Path]:
    """{name below the folder: file} of its videos, by name, at most LISTED. Hidden ones, and links that lead out of it, are left out."""
    found = {}
    for parent, folders, names in os.walk(folder):  # follows no links to folders
        folders[:] = sorted(filter(is_users, folders))
        for name in sorted(names):
            file = Path(parent, name)
            if not is_video(name) or not is_users(name) or len(found) >= LISTED:
                continue
            real = file.resolve()
            if real.is_relative_to(folder) and real.is_file():
                found[file.relative_to(folder).as_posix()] = real
    return found


def take(file: Path, home: Path) -> Path:
    """A copy of a video below `home`, which is served; the one that is there already, where the video is still the same."""
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))  # not a link put there in between
    with open(handle, "rb") as source:
        state = os.fstat(handle)
        key = hashlib.sha256(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\0{home}".encode(errors="surrogateescape")).hexdigest()
        copy = home / key / f"{safe_name(file.stem)}{file.suffix.lower()}"
        if not copy.is_file():
            copy.parent.mkdir(exist_ok=True)
            temporary = copy.with_name("copying")
            with open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            os.replace(temporary, copy)
    return copy


def new_folder(home: Path) -> Path:
    """A new folder below `home`, whose name nobody guesses."""
    place = home / secrets.token_hex(16)
    place.mkdir(parents=True)
    return place


def keep_only(folder: Path) -> None:
    """Remove what lies beside a folder: earlier versions of what it holds."""
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def safe_name(text: str) -> str:
    """A file name without its suffix that is safe on any system."""
    return re.sub(r"[^\w.+-]", "_", clean(text)).strip(".")[:80] or "video"
