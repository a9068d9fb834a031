"""Packed features (tools.pack_features): a folder with one file of values for each dtype and an index of what lies where in it. It is read
like the folder that it was made of: PACK/Abuse/Abuse001_x264__0.npy is an array, although there is no such file.
"""

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import TypedDict

from utils import reading
from utils.errors import BadInput
from utils.files import files_below, irregular
from utils.labels import CROPS
from utils.reading import Flag, Text, many, parse_json, read_text, shown, whole

INDEX = "packed_features.json"
DTYPES = ("float16", "float32", "float64")
FOLDER = "--feature-root or --caption-root"  # what a pack is named with
AGAIN = f"pack it anew with tools.pack_features, or name another folder with {FOLDER}"


class Stamp(TypedDict):
    """A file that was there when the pack was made: bytes, and time of its last change in ns."""

    size: whole(0, 2**62)
    mtime: whole(-(2**63), 2**63)


class Entry(Stamp):
    """An array (T, D) or (T, 10, D). Its values begin at `start` of the file of its dtype, those of ten crops as (10, T, D). crc32: of the
    values, by crop; finite: whether all are, in float32; sha256: of the file that it was.
    """

    dtype: Literal[DTYPES]
    start: whole(0, 2**62)
    shape: many(whole(1, 2**40))
    finite: Flag
    crc32: many(whole(0, 2**32 - 1))
    sha256: Text


class Index(TypedDict):
    """INDEX. root: the folder that was packed; others: what else lay there, copied or left out."""

    root: Text
    arrays: dict[Text, Entry]
    others: dict[Text, Stamp]


def values_file(folder: Path, dtype: str) -> Path:
    """Where a pack has its values of a dtype: a .npy (n,). Its name does not end so, else it would be features of a video."""
    return folder / f"packed.{dtype}"


def stamp(path: Path) -> Stamp:
    found = os.stat(path)
    return {"size": found.st_size, "mtime": found.st_mtime_ns}


def is_beside(name: str) -> bool:
    """Whether a file is one that is looked for beside features: the text of captions, and the manifests of what made them."""
    return name.endswith(".jsonl") or name in ("extract.json", "embed.json")


@dataclass
class Array:
    """An array of a pack. `values`: (1, T, D), or (10, T, D) of ten crops; read: the crops that were compared with their checksums."""

    path: Path
    values: np.ndarray
    entry: Entry
    read: set[int] = field(default_factory=set)

    @property
    def array(self) -> np.ndarray:
        """(T, D) or (T, 10, D)."""
        return self.values[0] if len(self.entry["shape"]) == 2 else self.values.swapaxes(0, 1)

    def is_finite(self, crop: int | None) -> bool:
        """Whether all values are. Raises BadInput where those of `crop` are not what was packed."""
        crop = crop or 0
        if crop not in self.read:
            if zlib.crc32(self.values[crop]) != self.entry["crc32"][crop]:
                raise BadInput(f"{self.path}: damaged since it was packed (its checksum is another); {AGAIN}")
            self.read.add(crop)
        return self.entry["finite"]


class Pack:
    """The pack in `folder`, by the name of each array's file (absolute). Raises BadInput where its files are missing, damaged or cut, and
    where a file of the folder that it was made of has changed or is new since, if that is still there.
    """

    def __init__(self, folder: Path):
        self.folder, self.index = folder, folder / INDEX
        self.stamp = stamp(self.index)
        content = parse_json(read_text(self.index, FOLDER), str(self.index), AGAIN, Index)
        self.root = Path(content["root"])
        values = {dtype: self._values(dtype) for dtype in sorted({entry["dtype"] for entry in content["arrays"].values()})}
        self.arrays: dict[str, Array] = {}
        for name, entry in content["arrays"].items():
            if not name.endswith(".npy") or name.startswith("/") or "\0" in name or ".." in name.split("/"):
                raise BadInput(f"{self.index}: {shown(name)}: expected the path of a .npy below the folder; {AGAIN}")
            rows, *crops, width = entry["shape"] if len(entry["shape"]) in (2, 3) else (0, 0, 0)
            end, whole = entry["start"] + math.prod(entry["shape"]), values[entry["dtype"]]
            if not rows or crops not in ([], [CROPS]) or len(entry["crc32"]) != math.prod(crops) or end > len(whole):
                raise BadInput(f"{self.index}: {name}: shape {shown(entry['shape'])} at {entry['start']} of {len(whole)} values; {AGAIN}")
            array = whole[entry["start"] : end].reshape(*crops or [1], rows, width)
            self.arrays[f"{folder}/{name}"] = Array(folder / name, array, entry)
        if change := self.change(content["arrays"] | content["others"]):
            raise BadInput(
                f"{folder}: packed from {self.root}, where {change} since; pack it anew (python -m tools.pack_features {self.root} "
                f"--output {folder} --overwrite), or name {self.root} itself with {FOLDER}"
            )

    def _values(self, dtype: str) -> np.ndarray:
        path = values_file(self.folder, dtype)
        if fault := irregular(path):
            raise BadInput(f"{path}: {fault}; {AGAIN}")
        values = reading.open_array(path, FOLDER, AGAIN)
        if values.ndim != 1 or values.dtype.kind != "f" or values.dtype.name != dtype:
            raise BadInput(f"{path}: {values.dtype} of shape {values.shape}; expected {dtype} (n,); {AGAIN}")
        return np.asarray(values)  # np.memmap's own slices cost more than all else of a read

    def change(self, known: dict[str, Stamp]) -> str | None:
        """What has changed in the folder that was packed, in words. A file that is gone has not: the pack may be all that is left of it."""
        for path in relevant(self.root) if self.root.is_absolute() and os.path.isdir(self.root) else ():
            before, now = known.get(name := path.relative_to(self.root).as_posix()), stamp(path)
            if before is None:
                return f"{name} is new"
            if (before["size"], before["mtime"]) != (now["size"], now["mtime"]):
                return f"{name} has changed"
        return None


def relevant(root: Path) -> Iterator[Path]:
    """The files below a folder that a pack is of: arrays, and what lies beside them."""
    for path in files_below(root, failed=lambda error: None):
        if (path.name.endswith(".npy") or is_beside(path.name)) and not irregular(path):
            yield path


_packs: dict[Path, Pack] = {}  # that are open in this process, by folder
_arrays: dict[str, Array] = {}  # of all of them, by path


def pack_of(path: Path) -> Pack | None:
    """The pack that `path` (absolute) is, or is in; read anew where it was written anew."""
    for folder in (path, *path.parents):
        try:
            now = stamp(folder / INDEX)
        except (OSError, ValueError):
            continue
        if folder not in _packs or _packs[folder].stamp != now:
            before = _packs.pop(folder, None)
            for name in before.arrays if before else ():
                del _arrays[name]
            _packs[folder] = Pack(folder)
            _arrays.update(_packs[folder].arrays)
        return _packs[folder]
    return None


def packed(path: Path | str) -> Array | None:
    """The array of a pack that `path` is; None for any other path."""
    if (found := _arrays.get(str(path))) is not None:
        return found
    if os.path.lexists(path) or pack_of(Path(os.path.abspath(path)).parent) is None:
        return None
    return _arrays.get(os.path.abspath(path))  # of a process that has not looked for it by name


def open_array(path: Path | str, option: str, todo: str | None = None) -> np.ndarray:
    """As utils.reading.open_array, and an array of a pack as if it were a file."""
    found = packed(path)
    return reading.open_array(path, option, todo) if found is None else found.array


def content(path: Path | str) -> tuple[int, Callable[[], str]]:
    """Size and SHA-256 (read when called) of a file, also of one that was packed."""
    found = packed(path)
    if found is not None:
        return found.entry["size"], lambda: found.entry["sha256"]
    return os.stat(path).st_size, lambda: hashlib.sha256(Path(path).read_bytes()).hexdigest()


def arrays_below(root: Path) -> Iterator[Path]:
    """Every .npy below a folder, in order, and every one that is packed there. What is no regular file is left out. Raises BadInput as Pack
    does, and where one lies there twice.
    """
    place = Path(os.path.abspath(root))
    pack = pack_of(place)
    packs, files = [] if pack is None else [pack], []
    for path in files_below(root):
        if path.name == INDEX and path.parent != root:
            packs.append(pack_of(Path(os.path.abspath(path.parent))))
        elif path.name.endswith(".npy") and not irregular(path):
            files.append(path)
    arrays = [array.path for pack in packs for array in pack.arrays.values()]
    found = [root / path.relative_to(place) for path in arrays if path.is_relative_to(place)]
    if twice := set(files).intersection(found):
        raise BadInput(f"{min(twice)}: lies beside a pack that has it, too; remove one of them")
    yield from sorted(files + found) if packs else files


def check_unpacked(folder: Path | str, option: str) -> None:
    """Raise BadInput where a folder that is to be written is a pack: it stays as it was packed."""
    if (pack := pack_of(Path(os.path.abspath(folder)))) is not None:
        raise BadInput(f"{folder}: packed features, which stay as they are; write to {pack.root}, or name another folder with {option}")
