"""Spoiled values and bytes for tests/test_fuzz.py, and how a value becomes a file of a kind."""

import copy
import csv
import gzip
import io
import json
import math
import os
import random
import re
import struct
import zipfile
from pathlib import Path

import numpy as np

# What stands in the place of a value.
ODD = [None, True, False, 0, -1, 3, 0.5, -0.0, 1e30, -1e300, 10**9, 10**18, -(10**18), 10**400, math.nan, math.inf, -math.inf]
ODD += ["", "x", "NA", "0", "-1", "1e999", "nan", "\0", "a\nb", "\x1b[31m", "\ud83d", "../..", "--", "x" * 300, "x" * 150_000, "DEEP"]
ODD += [[], {}, [[]], {"": {}}, {"a": None}, [0, 0, 0], ["a", "b"], [None] * 20_000]


def odd_tensors() -> list:
    """What stands in the place of a value of a checkpoint, besides."""
    import torch

    laughs = ["x"] * 10
    for _ in range(12):
        laughs = [laughs] * 10  # 10^13 values, if one walks them all
    deep = []
    for _ in range(200):
        deep = [deep]
    tensors = [torch.zeros(3), torch.full((2, 2), math.nan), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool)]
    tensors += [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.zeros(1).expand(10**10), torch.zeros(0)]
    return [
        *tensors,
        torch.zeros(1, dtype=torch.float64),
        torch.zeros((), dtype=torch.bfloat16),
        torch.ones(2, device="meta"),
        laughs,
        deep,
    ]


def twist(value, draw: random.Random, odd: list):
    """A copy of `value` in which one to three of its parts, at any depth, are replaced, removed, doubled or renamed."""
    root = [copy.deepcopy(value)]
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        places, waiting, seen = [], [root], set()
        while waiting:
            holder = waiting.pop()
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            parts = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
            places += [(holder, key) for key, _ in parts]
            waiting += [part for _, part in parts if isinstance(part, dict | list)]
        holder, key = draw.choice(places)
        action = draw.choice(["replace"] * 5 + ["remove", "double", "rename", "more"]) if holder is not root else "replace"
        if action == "replace":
            holder[key] = draw.choice(odd)
        elif action == "remove":
            del holder[key]
        elif action == "more":
            holder.update(new=draw.choice(odd)) if isinstance(holder, dict) else holder.insert(key, draw.choice(odd))
        elif isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[draw.choice(["", "x", "a\nb", "\ud83d", f"{key}x"])] = holder[key] if action == "double" else holder.pop(key)
    return root[0]


def mangle(data: bytes, draw: random.Random) -> bytes:
    """`data` with one to three changes of its bytes."""
    for _ in range(draw.choice([1, 1, 2, 3])):
        place, length = draw.randrange(len(data) + 1), draw.choice([1, 2, 8, 100])
        change = draw.randrange(16)
        if change < 4 and data:
            place = min(place, len(data) - 1)
            data = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        elif change < 6:
            data = data[:place]
        elif change < 8:
            data = data[:place] + draw.randbytes(length) + data[place:]
        elif change == 8:
            data = data[:place] + data[place + length :]
        elif change == 9:
            data = data[:place] + data[place : place + 1000] * length + data[place:]
        elif change == 10:
            data = re.sub(rb"\d+", lambda found: draw.choice([found[0], b"9" * draw.choice([3, 18, 5000]), b"-1"]), data, count=3)
        elif change == 11:
            data = data.decode("latin-1").encode(draw.choice(["utf-16", "utf-8-sig", "utf-7"]))
        elif change == 12:
            data = draw.choice([b"", b"\0", b"\xff\xfe", b"PK\x03\x04", b"\x1f\x8b", b"null", b"[]", b"{}", b"version https://git-lfs\n"])
        elif change == 13:
            data = data.replace(b"\n", draw.choice([b"\r", b"\r\n", b"", b"\n\n", b"\0"]))
        elif change == 14:
            data = gzip.compress(data, 1)
        elif draw.random() < 0.1:
            data = (data[:place] or b"x") * (5_000_000 // max(1, place))
    return data


# How a value becomes a file of a kind.


def as_json(value) -> bytes:
    return json.dumps(value).replace('"DEEP"', "[" * 100_000 + "]" * 100_000).encode()


def as_lines(value) -> bytes:
    return b"\n".join(map(as_json, value)) + b"\n" if isinstance(value, list) else as_json(value)


def as_csv(value) -> bytes:
    text = io.StringIO()
    rows = value if isinstance(value, list) else [[value]]
    csv.writer(text).writerows(row if isinstance(row, list | dict) else [row] for row in rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_npy(value) -> bytes:
    """[header, data] as an .npy."""
    header, data = value if isinstance(value, list) and len(value) == 2 else (value, b"")
    if isinstance(header, dict) and isinstance(header.get("shape"), list):
        header = header | {"shape": tuple(header["shape"])}
    text = repr(header).replace("'DEEP'", "(" * 3000 + ")" * 3000).encode("latin-1", "replace")[:60_000] + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + (data if isinstance(data, bytes) else b"")


def as_npz(value) -> bytes:
    """{name: [header, data]} as an .npz."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in value.items() if isinstance(value, dict) else [("a", value)]:
            archive.writestr(f"{str(name).encode('utf-8', 'replace').decode()}.npy", as_npy(array))
    return content.getvalue()


def as_torch(value) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def as_safetensors(value) -> bytes:
    """[header, data] as a .safetensors."""
    header, data = value if isinstance(value, list) and len(value) == 2 else (value, b"")
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + (data if isinstance(data, bytes) else b"")


AS = {".json": as_json, ".csv": as_csv, ".npy": as_npy, ".npz": as_npz, ".pt": as_torch, ".safetensors": as_safetensors}
AS |= dict.fromkeys((".jsonl", ".cache", ".part"), as_lines) | {".gz": lambda value: gzip.compress(as_json(value), 1)}


def write_as(name: str, value) -> bytes:
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else AS[Path(name).suffix](value)


def array(values: np.ndarray) -> list:
    return [{"descr": values.dtype.str, "fortran_order": False, "shape": list(values.shape)}, values.tobytes()]


def become_something_else(path: Path, draw: random.Random) -> None:
    """In the place of a file a FIFO, a folder, a device, a link to nothing or to itself, or nothing."""
    path.unlink()
    make = [
        os.mkfifo,
        os.mkdir,
        lambda p: os.symlink("/dev/zero", p),
        lambda p: os.symlink("absent", p),
        lambda p: os.symlink(p.name, p),
        id,
    ]
    draw.choice(make)(path)
