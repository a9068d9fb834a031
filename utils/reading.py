"""The one way in for files that somebody else wrote: regular files only, of bounded size, checked against a declared schema (pydantic), and
whatever a parser raises is one line, BadInput, that names file and place.

Sizes that a file declares are compared with what it holds before anything is allocated. `option` is what the user named the file with.
"""

import contextlib
import csv
import gzip
import io
import json
import math
import os
import pickle
import re
import reprlib
import tomllib
import warnings
import zipfile
from collections.abc import Container, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, get_args

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError
from typing_extensions import get_type_hints, is_typeddict

from utils.errors import BadInput
from utils.files import irregular

MOST = 200 * 2**20  # bytes of a text file, unpacked
VALUES = 10_000_000  # values in a JSON file: each takes some 100 bytes of memory
POINTS = 200  # in a line of TOML: the time that the parser takes for a.b.c.… grows with the square of their number
LEVELS = 50  # of lists and dicts in one another: what is deeper can be read, but not written again
ARRAYS = 2**30  # bytes of all arrays of an .npz, unpacked
FRAMES = 6_000_000  # of a video, at most: more than a day at 60 frames per second
ROWS = 2_000_000  # of a feature file, at most

# What the schemas are made of. OPEN: there may be more keys than it declares; CLOSED: there may not.
Text = InstanceOf[str]  # pydantic's own refuses halves of characters, which names of files may have
Flag = Annotated[bool, Field(strict=True)]
OPEN, CLOSED = ConfigDict(extra="allow"), ConfigDict(extra="forbid")


WORDS = {  # of pydantic's messages
    "an instance of str": "a text",
    "an instance of ": "a ",
    "greater than or equal to": "a value of at least",
    "less than or equal to": "a value of at most",
    "greater than": "a value above",
    "List should have": "a list of",
    " after validation": "",
}


def whole(low: int, high: int) -> type:
    """A whole number from `low` to `high`."""
    return Annotated[int, Field(strict=True, ge=low, le=high)]


def real(low: float = -math.inf, high: float = math.inf, **more) -> type:
    """A finite number from `low` to `high`; more: `gt`, a value that it must be above."""
    return Annotated[float, Field(strict=True, ge=low, le=high, allow_inf_nan=False, **more)]


def many(kind: type) -> type:
    """A list of `kind`."""
    return Annotated[list[kind], Field(fail_fast=True)]


def _plain(value):
    if type(value) not in (bool, int, float, str, type(None)):
        raise ValueError("a number, a text, True, False or None")
    return value


def _values(value):
    return [_plain(part) for part in value] if type(value) in (list, tuple) else _plain(value)


Plain = Annotated[Any, AfterValidator(_plain)]
Values = Annotated[Any, AfterValidator(_values)]  # or a list of them


@cache
def _adapter(kind) -> TypeAdapter:
    return TypeAdapter(kind)


def checked(kind, value, place: str, todo: str, quoted: Container[str] | None = None):
    """`value` as a schema `kind` describes it (a type, dataclass, TypedDict, …). Raises BadInput naming `place` and the first part of the
    value that is otherwise, and what to do. quoted: keys whose texts and lists a message may show, which has numbers anyway; None: all.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    expected = re.sub(r" or an instance of \w+$", "", first["msg"].removeprefix("Input should be ").removeprefix("Value error, "))
    for theirs, ours in WORDS.items():
        expected = expected.replace(theirs, ours)
    if first["type"] == "missing":
        raise BadInput(f"{place}: has no {where}; {todo}")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        raise BadInput(f"{place}: {where}: unknown; expected {', '.join(_keys_at(kind, first['loc'][:-1]))}; {todo}")
    key, found = next((part for part in reversed(first["loc"]) if isinstance(part, str)), ""), first["input"]
    said = shown(found) if quoted is None or key in quoted or isinstance(found, int | float) or not found else ""
    raise BadInput(f"{place}: {where}{' ' * bool(where and said)}{said}; expected {expected}; {todo}")


def _keys_at(kind, where: tuple) -> list[str]:
    """The keys that a schema of TypedDicts, dataclasses, and dicts and lists of them, has at a place in it."""
    for key in where:
        kind = get_type_hints(kind)[key] if is_typeddict(kind) or is_dataclass(kind) else get_args(kind)[-1]
    return list(get_type_hints(kind))


def shown(value) -> str:
    """`value` for a message, cut short."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlevel = 2
    short.maxlong = 30
    try:
        return short.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a number of type {type(value).__name__}"


def reason(error: BaseException) -> str:
    """What an exception says, on one line; not torch's advice to load a file unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return "no weights, or more than weights"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return said[:200].replace(os.path.expanduser("~"), "~")


@contextlib.contextmanager
def parsing(fault: str, todo: str):
    """In its `with` statement stands a parser: whatever that raises is BadInput, `fault` (what it said); `todo`. What it warns of is not
    shown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadInput:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what the parsers in Rust raise is no Exception
            raise
        raise BadInput(f"{fault} ({reason(error)}); {todo}") from None


def check_regular(path: Path | str, option: str) -> int:
    """The size of a file in bytes. Raises BadInput unless it is there and a regular file: opening a FIFO or a device may never end."""
    if fault := irregular(path):
        raise BadInput(f"{path}: {fault}; name an existing file with {option}")
    return os.stat(path).st_size


def opened(path: Path | str, option: str) -> BinaryIO:
    """A regular file, open for reading. Raises BadInput where it is none, or cannot be read."""
    check_regular(path, option)
    try:
        return open(path, "rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check {option}") from None


def read_bytes(path: Path | str, option: str, most: int = MOST) -> bytes:
    """The content of a file, unpacked if its name ends in .gz. Raises BadInput where there is none, or more than `most` bytes."""
    with opened(path, option) as file, parsing(f"{path}: cannot be read", f"check {option}"):
        content = (gzip.GzipFile(fileobj=file) if str(path).endswith(".gz") else file).read(most + 1)
    if len(content) > most:
        raise BadInput(f"{path}: more than {most >> 20} MB; expected a smaller file; check {option}")
    return content


def read_text(path: Path | str, option: str, most: int = MOST) -> str:
    """The text of a UTF-8 file, without its byte order mark; see read_bytes."""
    with parsing(f"{path}: cannot be read as UTF-8 text", f"save it as UTF-8, or check {option}"):
        return read_bytes(path, option, most).decode("utf-8-sig")


def parse_toml(text: str, place: str, todo: str, kind, quoted: Container[str] | None = None):
    """The TOML table of `text`, as the schema `kind` describes it. Raises BadInput naming `place` where it is none, or other; quoted: see
    `checked`.
    """
    with parsing(f"{place}: not a TOML file", todo):
        if any(line.count(".") > POINTS for line in text.split("\n")):
            raise ValueError(f"a line with more than {POINTS} points")
        value = tomllib.loads(text)
    return checked(kind, value, place, todo, quoted)


def parse_json(text: str, place: str, todo: str, kind=Any):
    """The JSON value of `text`, as the schema `kind` describes it. Raises BadInput naming `place` where it is none, or other."""
    if sum(map(text.count, "[{,")) > VALUES:
        raise BadInput(f"{place}: more than {VALUES:,} values; expected a smaller file; {todo}")
    with parsing(f"{place}: not a JSON file", todo):
        value = json.loads(text)
        _check_levels(value)
    return checked(kind, value, place, todo)


def _check_levels(value, left: int = LEVELS) -> None:
    if not left:
        raise ValueError(f"more than {LEVELS} levels")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(part, dict | list):
            _check_levels(part, left - 1)


def read_json(path: Path | str, option: str, kind=Any):
    """A JSON file named by `option`, as the schema `kind` describes it. Raises BadInput naming both where it is missing, none, or other."""
    return parse_json(read_text(path, option), str(path), f"check {option}", kind)


def read_json_lines(path: Path | str, option: str, kind=Any) -> list:
    """A file of one JSON value a line; empty lines do not count."""
    lines = enumerate(read_text(path, option).split("\n"), 1)
    return [parse_json(line, f"{path}: line {number}", f"check {option}", kind) for number, line in lines if line.strip()]


def read_csv(path: Path | str, option: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with its line; a cell is text, whatever it looks like, without blanks round it."""
    content = io.TextIOWrapper(io.BytesIO(read_bytes(path, option)), encoding="utf-8-sig", newline="")
    rows = csv.reader(content, skipinitialspace=True)
    while True:
        with parsing(f"{path}: line {rows.line_num + 1}: no readable CSV", f"check {option}"):
            row = next(rows, None)
        if row is None:
            return
        if any(map(str.strip, row)):
            yield rows.line_num, [cell.strip() for cell in row]


def array_header(file: BinaryIO, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype that an .npy of `size` bytes declares; the file stands behind its header then. Raises ValueError where
    it is none, holds Python objects, or less than it declares.
    """
    readers = {b"\x01": np.lib.format.read_array_header_1_0, b"\x02": np.lib.format.read_array_header_2_0}
    start = file.read(8)
    if not start.startswith(b"\x93NUMPY"):
        raise ValueError(
            "empty file" if not size else ".npz archive" if start[:2] == b"PK" else "no .npy, or a pickle, which is never loaded"
        )
    try:
        shape, fortran, dtype = readers[start[6:7]](file)
    except Exception as error:  # NumPy lets Python's own parser read it
        raise ValueError("truncated file" if "EOF: " in str(error) else "damaged header") from None
    if dtype.hasobject:
        raise ValueError("pickled objects, which are never loaded")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError("truncated file")
    return shape, fortran, dtype


def open_array(path: Path | str, option: str, todo: str | None = None) -> np.ndarray:
    """Map an .npy; only its header is read. Raises BadInput where it is missing or none, or holds less than its header declares; `todo`:
    what was expected and what to do then.
    """
    size = check_regular(path, option)
    with parsing(f"{path}: no readable .npy array", todo or f"write it anew, or check {option}"), open(path, "rb") as file:
        shape, fortran, dtype = array_header(file, size)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def read_arrays(path: Path | str, option: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name. Raises BadInput where it is missing, damaged, or unpacks to more than ARRAYS bytes."""
    with opened(path, option) as file, parsing(f"{path}: no readable .npz", f"write it anew, or check {option}"):
        arrays = {}
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > ARRAYS:
                raise ValueError(f"more than {ARRAYS >> 20} MB")
            for member in archive.infolist():
                content = archive.read(member)
                header = io.BytesIO(content)
                shape, fortran, dtype = array_header(header, len(content))
                values = np.ndarray(shape, dtype, content, header.tell(), order="F" if fortran else "C")
                arrays[member.filename.removesuffix(".npy")] = values
        return arrays


def check_packed(path: Path | str, option: str) -> int:
    """The size of a file in bytes. Raises BadInput unless it is a regular file that, if it is an archive of torch's, unpacks to about as
    much.
    """
    size = check_regular(path, option)
    with parsing(f"{path}: no readable archive", f"check {option}"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > size + 2**26:  # TorchScript packs its code
                    raise ValueError("unpacks to many times its size")
    return size


def check_folder(folder: Path | str, option: str) -> int:
    """The size in bytes of the weights in a model's folder. Raises BadInput where a file is no regular one, or a number in config.json is
    one that no model has.
    """
    size = 0
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            weights = path.suffix in (".safetensors", ".bin", ".pt", ".h5", ".msgpack")
            size += check_packed(path, option) if weights else check_regular(path, option) * 0
    if Path(folder, "config.json").exists():
        _check_sizes(read_json(Path(folder, "config.json"), option, dict), f"{Path(folder, 'config.json')}", option)
    return size


def _check_sizes(config: dict, place: str, option: str) -> None:
    for key, value in config.items():
        most = 1000 if "layers" in str(key) else 10_000_000
        if isinstance(value, dict):
            _check_sizes(value, f"{place}: {key}", option)
        elif isinstance(value, int) and not -most <= value <= most:
            raise BadInput(f"{place}: {key} {shown(value)}; expected at most {most:,}; check {option}")


class OnnxModel:
    """A model in ONNX, in a session of onnxruntime. reads, gives: (type, shape) of its inputs and outputs by name; an axis of any length is
    a text there.
    """

    def __init__(self, session, path: Path | str, todo: str):
        self._session, self._path, self._todo = session, path, todo
        both = (session.get_inputs(), session.get_outputs())
        self.reads, self.gives = ({one.name: (one.type, one.shape) for one in ends} for ends in both)

    def check(self, expected: dict[str, tuple[str, list[int]]]) -> None:
        """Raise BadInput where an input or output is not `expected`: name -> type and shape, without the first axis, of any length."""
        for name, (kind, shape) in (self.reads | self.gives).items():
            if (kind, shape[1:]) != expected.get(name) or not shape or isinstance(shape[0], int):
                said = "{} of T, {}".format(*expected[name]) if name in expected else f"one of {', '.join(expected)}"
                raise BadInput(f"{self._path}: {name}, {kind} of {shape}; expected {said}; {self._todo}")

    def __call__(self, **given: np.ndarray) -> dict[str, np.ndarray]:
        """What it gives of arrays of as many rows. Raises BadInput where it cannot be computed, or has other rows."""
        with parsing(f"{self._path}: onnxruntime cannot compute it", self._todo):
            found = dict(zip(self.gives, self._session.run(list(self.gives), given), strict=True))
            if odd := [name for name, values in found.items() if {len(values)} != set(map(len, given.values()))]:
                raise ValueError(f"{odd[0]} has {len(found[odd[0]])} rows of {len(next(iter(given.values())))}")
            return found


def read_onnx(path: Path | str, option: str, kind, threads: int, todo: str | None = None) -> tuple[OnnxModel, Any]:
    """A file of tools.export: its model, on so many threads of the CPU, and its metadata, JSON in each value, as the schema `kind` says.
    Raises BadInput where onnxruntime is missing, or the file is another one. todo: what to do then.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput(f"{option} {path}: onnxruntime is missing ({error}); pip install -r requirements-app.txt") from None
    check_regular(path, option)
    settings, todo = onnxruntime.SessionOptions(), todo or f"export it anew (tools.export); check {option}"
    settings.intra_op_num_threads, settings.log_severity_level = threads, 4  # what it cannot do is told by us
    with parsing(f"{path}: not a model in ONNX", todo):
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
    about = checked(kind, {key: parse_json(text, f"{path}: {key}", todo) for key, text in found.items()}, str(path), todo)
    return OnnxModel(session, path, todo), about
