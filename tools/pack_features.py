"""Pack a folder of features into one file of values for each dtype, which is read like the folder, several times as fast.

    python -m tools.pack_features ROOT                          into ROOT-packed, beside ROOT
    python -m tools.pack_features ROOT --output /local/disk/features
    python ucf_train.py --feature-root ROOT-packed …            and everything else that reads a folder of features

Every array below ROOT is packed as it is, (T, D) or (T, 10, D), float16, float32 or float64, under its path; so are the features of
captions, for --caption-root. NAME.jsonl, extract.json and embed.json are copied. What is no feature file is left out, and named. ROOT stays
as it is, and may go: while it is there, a file that has changed since, or is new, makes the pack out of date, which is said instead of
reading it. The pack is written whole or not at all.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import sys
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import open_features
from utils.errors import BadInput, Parser, exit_code, printable, some
from utils.files import check_name, files_below, make_folder, only_writer, write_json
from utils.packs import DTYPES, INDEX, Entry, Index, Pack, is_beside, pack_of, relevant, stamp, values_file
from utils.reading import parse_json, read_text


class Writer:
    """The files of values of a pack in `folder`: arrays one behind another."""

    def __init__(self, folder: Path):
        self.folder, self.files, self.counts = folder, {}, Counter()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        for dtype, file in self.files.items():
            with file:
                if error == (None, None, None):
                    self._header(dtype)

    def _header(self, dtype: str) -> None:
        """Of the array of all values so far: as long for any number of them, NumPy leaves room for its digits."""
        file = self.files[dtype]
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (self.counts[dtype],)})

    def add(self, path: Path, array: np.ndarray) -> Entry:
        """Write (T, D) or (T, 10, D), of the file `path`; its entry of the index, without the stamp."""
        dtype = array.dtype.name
        if dtype not in self.files:
            self.files[dtype] = values_file(self.folder, dtype).open("wb")
            self._header(dtype)
        start, finite, sums = self.counts[dtype], True, []
        for crop in array[None] if array.ndim == 2 else array.swapaxes(0, 1):
            values = np.ascontiguousarray(crop, dtype=dtype)
            with np.errstate(over="ignore"):
                finite = finite and bool(np.isfinite(values.astype(np.float32, copy=False)).all())
            sums.append(zlib.crc32(values))
            self.files[dtype].write(values)
        self.counts[dtype] += array.size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"dtype": dtype, "start": start, "shape": list(array.shape), "finite": finite, "crc32": sums, "sha256": digest}


def fault_of(path: Path, array: np.ndarray | None, error: BadInput | None) -> str:
    if error is not None:
        return str(error).removeprefix(printable(f"{path}: ")).partition("; ")[0]
    return f"{array.dtype} values"


def pack(root: Path, folder: Path) -> tuple[Counter, dict[str, list[str]], int]:
    """Pack `root` into the empty `folder`: values by dtype, what was left out by what is wrong with it, and how many arrays there are.
    Raises BadInput where there are none.
    """
    index, left_out = {"root": str(root), "arrays": {}, "others": {}}, defaultdict(list)
    with Writer(folder) as writer:
        if inside := next((path.parent for path in files_below(root) if path.name == INDEX), None):
            raise BadInput(f"{inside}: is packed already, below {root}; pack the folders beside it one by one")
        for path in tqdm(list(relevant(root)), "packing", unit=" files", leave=False):
            name, before = path.relative_to(root).as_posix(), stamp(path)
            place, array, error = folder / name, None, None
            if is_beside(path.name):
                make_folder(place.parent)
                shutil.copyfile(path, place)
                index["others"][name] = before
                continue
            try:
                array = open_features(path, None)
            except BadInput as caught:
                error = caught
            if error or array.dtype.name not in DTYPES:
                left_out[fault_of(path, array, error)].append(name)
                index["others"][name] = before
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            index["arrays"][name] = {**before, **writer.add(path, array)}
    if not index["arrays"]:
        why = "; ".join(f"{what}: {some(names)}" for what, names in left_out.items())
        raise BadInput(f"{root}: no features below it{why and f' ({why})'}; name the folder of the feature files")
    write_json(folder / INDEX, index, indent=None)
    return writer.counts, left_out, len(index["arrays"])


def only_here(folder: Path) -> list[str]:
    """The arrays of a pack, up to date or not, whose files are gone: there is no other copy. None of an index that cannot be read."""
    try:
        content = parse_json(read_text(folder / INDEX, "--output"), str(folder / INDEX), "", Index)
        return [name for name in content["arrays"] if not os.path.exists(os.path.join(content["root"], name))]
    except (BadInput, ValueError):
        return []


def check_places(root: Path, output: Path, overwrite: bool) -> bool:
    """Whether `output` is to be written; not where it is a pack of `root` that is up to date. Raises BadInput where either is the wrong
    place.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; name the folder of the feature files")
    if pack_of(root):
        raise BadInput(f"{root}: is packed already; name the folder that it was made of")
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(root)) or root.is_relative_to(output):
        raise BadInput(f"--output {output}: one of it and {root} lies in the other; name a folder beside it")
    check_name(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return True
    if not (output / INDEX).is_file():
        raise BadInput(f"{output}: holds something else; name another folder with --output")
    try:
        if (made := Pack(output)).root == root:
            for array in tqdm(made.arrays.values(), "comparing", unit=" arrays", leave=False):
                for crop in range(len(array.values)):
                    array.is_finite(crop)
            return False
        fault = f"{output}: is the pack of another folder"
    except BadInput as error:
        fault = str(error).partition("; ")[0]
    if gone := only_here(output):
        raise BadInput(
            f"{fault}; the files of {len(gone)} of its arrays are gone ({some(gone)}): name another folder with --output, or remove it"
        )
    if not overwrite:
        raise BadInput(f"{fault}; replace it with --overwrite, or name another folder with --output")
    return True


def main(argv=None) -> None:
    parser = Parser("python -m tools.pack_features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="ROOT", help="folder of the features")
    parser.add_argument("--output", metavar="DIR", help="the folder to write (default: ROOT-packed)")
    parser.add_argument("--overwrite", action="store_true", help="replace a pack that is out of date, damaged, or of another folder")
    options = parser.parse_args(argv)
    root = Path(os.path.abspath(options.root))
    output = Path(os.path.realpath(options.output or f"{root}-packed"))  # a link to another disk stays one
    with only_writer(output):
        if not check_places(root, output, options.overwrite):
            print(printable(f"{output}: up to date; --feature-root {shlex.quote(str(output))} reads it"))
            return
        temporary, old = (output.with_name(f".{output.name}.{kind}") for kind in ("tmp", "old"))
        for left in (temporary, old):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        make_folder(temporary)
        try:
            counts, left_out, arrays = pack(root, temporary)
            if output.exists():
                output.rename(old)
            temporary.rename(output)
        finally:
            for left in (temporary, old):
                shutil.rmtree(left, ignore_errors=True)
    pack_of(output)  # it can be opened, and ROOT is as it was when it was begun
    for what, names in left_out.items():
        print(f"left out, {what}: {len(names)} ({some(names)})")
    sizes = ", ".join(f"{dtype} {count * np.dtype(dtype).itemsize / 2**30:.2f} GiB" for dtype, count in counts.items())
    print(printable(f"{output}: {arrays} arrays, {sizes}; name it where {root} stood, --feature-root {shlex.quote(str(output))}"))


if __name__ == "__main__":
    sys.exit(exit_code(main))
