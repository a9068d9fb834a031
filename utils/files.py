"""Outputs appear whole or not at all: each file is written under a temporary name beside its place, then renamed."""

import contextlib
import fcntl
import filecmp
import json
import os
import shlex
import socket
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.errors import BadInput, printable

ROOT = Path(__file__).resolve().parents[1]  # of this project

NO_FILES = {"Thumbs.db", "desktop.ini", "@eaDir", "__MACOSX", "lost+found", "System Volume Information", "$RECYCLE.BIN", "#recycle"}
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def irregular(path: Path | str) -> str | None:
    """What `path` is, in words, where it is no regular file; None where it is one, or a link to one. Reading a pipe or a device may never
    end, so nothing else is opened.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a broken link" if os.path.islink(path) else "no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return KINDS.get(stat.S_IFMT(mode))


def files_below(root: Path | str, *, but: Path | str | None = None, failed: Callable | None = None) -> Iterator[Path]:
    """Everything below a folder that is no folder, in order. Links to folders are followed, each folder once, wherever it is linked from.

    What systems leave beside files is left out (names that begin with a dot, NO_FILES), and the folder `but`. A folder that cannot be read
    is BadInput, or given to failed(OSError).
    """

    def stop(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); allow it, or move it away") from None

    seen = set()
    leave_out = None if but is None else os.path.realpath(but)
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=failed or stop):
        real = os.path.realpath(folder)
        if real in seen or (real == leave_out and seen):  # a link that leads back would never end
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(filter(is_users, subfolders))
        yield from (Path(folder, file) for file in sorted(filter(is_users, files)))


def is_users(name: str) -> bool:
    """Whether a file or folder of that name is somebody's, not what a system leaves beside it."""
    return not name.startswith(".") and name not in NO_FILES


def make_folder(path: Path | str) -> Path:
    """Create an output folder and make sure that it can be written. Raises BadInput where it cannot."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # on Linux it never has a name, which a kill would leave
    except OSError as error:
        raise BadInput(f"{path}: cannot write there ({error.strerror}); name a folder you may write to") from None
    return path


def check_name(path: Path | str) -> None:
    """Raises BadInput where no file can be called so: too long a name, most file systems take 255 bytes, or one with a NUL."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: cannot be written ({reason}); take a shorter, plain name") from None


_held: set[int] = set()  # open lock files; empty in a forked child, which must not keep them when this process is gone


def _leave_to_parent() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


def command() -> str:
    """The command line, without the interpreter's path."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


@contextlib.contextmanager
def locked(folder: Path | str, name: str = ".lock", *, wait: bool = False, told: bool = True, shared: bool = False):
    """Keep other processes from the same block for as long as it lasts. The lock, on the file `name` in `folder`, dies with the process;
    the file goes with the block.

    shared: only those that do not share it, too. wait: until the other one is done. Else raises BadInput naming it, and in either case
    where the folder cannot be written. told: that it waits, or that there are no locks here, is said.
    """
    path = make_folder(folder) / name
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _held.add(file)
        try:
            _lock(file, folder, wait, told, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _stands(file, path):  # else whoever held it has removed it since
                try:
                    yield
                finally:
                    if file in _held:
                        with contextlib.suppress(OSError):
                            if shared:  # the file goes with the last of them
                                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                            path.unlink()
                return
        finally:
            if file in _held:
                _held.remove(file)
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked just now has not closed its copy yet
                os.close(file)


def _stands(file: int, path: Path) -> bool:
    """Whether the open `file` is the one under `path`."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: int, folder: Path | str, wait: bool, told: bool, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 1000, 0).decode(errors="replace").strip() or "another process"
        if not wait:
            raise BadInput(f"{folder}: {holder} writes there; wait until it is done, or name another folder") from None
        if told:
            print(f"waiting for {printable(holder)}, which writes {folder}", file=sys.stderr)
        fcntl.flock(file, kind)
    except OSError as error:  # some network file systems have no locks
        if told:
            print(f"note: {folder} cannot be locked ({error.strerror}): start no second process that writes there", file=sys.stderr)
    holder = f"process {os.getpid()} on {socket.gethostname()} ({command()}), since {time.strftime('%F %T')},"
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name, too
        os.ftruncate(file, 0)
        os.pwrite(file, holder.encode(errors="surrogateescape"), 0)


@contextlib.contextmanager
def only_writer(output: Path | str, share: str = ""):
    """`locked` for a folder that need not exist yet: the lock lies beside it. share: which part of the work, where processes share it."""
    output = Path(os.path.abspath(output))
    with locked(output.parent, f".{output.name}{share}.lock"):
        yield


@contextlib.contextmanager
def replacing(path: Path | str, overwrite: bool = True):
    """Yield a temporary path in the folder of `path`; on success it replaces `path`, on failure `path` is untouched.

    Without `overwrite` raises BadInput where `path` holds something else.
    """
    path = Path(path)
    check_name(path)
    if path.exists() and not path.is_file():  # a folder, or a device, which renaming would replace
        raise BadInput(f"{path}: is no regular file; name a file to write")
    make_folder(path.parent)
    name = path.name if len(path.name) < 60 else f"{zlib.crc32(path.name.encode(errors='surrogateescape')):08x}{path.name[-50:]}"
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")  # a name may have 255 bytes
    try:
        yield temporary
        if not overwrite and path.exists() and not filecmp.cmp(temporary, path, shallow=False):
            raise BadInput(f"{path}: holds something else; name another --output, or replace it: --overwrite")
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); free some space or name another place") from None
    except UnicodeEncodeError as error:  # half a surrogate pair, or a byte of a file's name that is not UTF-8
        found = error.object[max(0, error.start - 40) : error.end + 20]
        raise BadInput(f"{path}: cannot hold {found!r}, which is not UTF-8 text; rename that file, or correct that text") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path | str, value, indent: int | None = 1) -> None:
    """Write `value` as JSON (UTF-8, keys in the order given) under `path`, whole or not at all. Halves of surrogate pairs, as names have
    that are no text, become JSON's escapes, which are read back as they were.
    """
    with replacing(path) as temporary:
        text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name that is no UTF-8 comes back as it was: \\udce9
