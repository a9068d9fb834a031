"""Outputs appear whole or not at all: each file is written under a temporary name beside its place, then renamed."""

import contextlib
import json
import os
import zlib
from pathlib import Path

from utils.errors import BadInput

ROOT = Path(__file__).resolve().parents[1]  # of this project


def make_folder(path: Path | str) -> Path:
    """Create an output folder and make sure that it can be written. Raises BadInput where it cannot."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
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


@contextlib.contextmanager
def replacing(path: Path | str):
    """Yield a temporary path in the folder of `path`; on success it replaces `path`, on failure `path` is untouched."""
    path = Path(path)
    check_name(path)
    if path.exists() and not path.is_file():  # a folder, or a device, which renaming would replace
        raise BadInput(f"{path}: is no regular file; name a file to write")
    make_folder(path.parent)
    name = path.name if len(path.name) < 60 else f"{zlib.crc32(path.name.encode(errors='surrogateescape')):08x}{path.name[-50:]}"
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")  # a name may have 255 bytes
    try:
        yield temporary
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
    """Write `value` as JSON (UTF-8, keys in the order given) under `path`, whole or not at all."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name that is no UTF-8 comes back as it was: \\udce9
