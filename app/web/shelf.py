"""Files that the web page keeps: its own folder, and the videos of the owner's folder, which it offers by name."""

import contextlib
import hashlib
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
FULL = "The page holds as many videos as it may; old ones are removed, so try again later."


def tidy(folder: Path, keep: float) -> int:
    """Remove files, and empty folders, that were last changed `keep` seconds ago (uploads that broke off, too); the bytes of the others."""
    stored, oldest = 0, time.time() - keep
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(parent, name)
            with contextlib.suppress(OSError):  # somebody else removed it
                state = file.lstat()
                if max(state.st_mtime, state.st_ctime) < oldest:
                    file.unlink()
                else:
                    stored += state.st_size
        if Path(parent) != Path(folder):
            with contextlib.suppress(OSError):  # not empty
                if os.stat(parent).st_mtime < oldest:
                    os.rmdir(parent)
    return stored


def keep_tidy(home: Path, keep: float, over: threading.Event) -> None:
    """Tidy `home` every ten minutes, until it is over."""
    while not over.wait(600):
        tidy(home, keep)


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
