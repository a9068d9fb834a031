"""utils/reading.py: regular files only, sizes before memory, whatever a parser raises as one line; the fuzzer is tests/test_fuzz.py."""

import gzip
import io
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest

from model import SYSTEMS
from utils import reading
from utils.errors import COUNT, BadInput, Parser, exit_code
from utils.options import declared
from utils.reading import checked, many, open_array, read_arrays, read_bytes, read_csv, read_json, real, whole


def refused(call, *parts) -> None:
    with pytest.raises(BadInput) as error:
        call()
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts)


def a_socket(path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, a_socket, lambda path: os.symlink("/dev/zero", path)])
def test_only_regular_files_are_opened(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has 108 characters
    make("x.json")
    for read in (read_json, read_bytes, read_arrays, open_array, lambda *words: list(read_csv(*words))):
        refused(lambda read=read: read("x.json", "--x"), "name an existing file with --x")


def test_a_link_that_leads_nowhere_and_names_that_no_file_has(tmp_path):
    (tmp_path / "x").symlink_to("x")
    refused(lambda: read_bytes(tmp_path / "x", "--x"), "cannot be read", "--x")
    refused(lambda: read_bytes("x" * 300, "--x"), "File name too long", "--x")
    refused(lambda: read_bytes("a\0b", "--x"), r"a\x00b", "--x")


def test_what_unpacks_to_more_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ARRAYS", 100_000)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(100_000))
    refused(lambda: read_arrays(tmp_path / "x.npz", "--x"), "x.npz", "more than")
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(2_000_000)))
    refused(lambda: read_bytes(tmp_path / "x.gz", "--x", most=1_000_000), "x.gz: more than")
    (tmp_path / "x.json").write_text("[" + "0," * 1000 + "0]")
    monkeypatch.setattr(reading, "VALUES", 500)
    refused(lambda: read_json(tmp_path / "x.json", "--x"), "more than 500 values")


def test_an_array_that_declares_more_than_the_file_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 512)})
    (tmp_path / "x.npy").write_bytes(header.getvalue() + bytes(100))
    refused(lambda: open_array(tmp_path / "x.npy", "--x"), "truncated file")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "a.npy")
    refused(lambda: read_arrays(tmp_path / "x.npz", "--x"), "truncated file")


def test_arrays_as_numpy_wrote_them(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b/c": np.asfortranarray(np.ones((2, 3))),
        "d": np.array(["x", "yz"]),
        "e": np.zeros(0),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    found = read_arrays(tmp_path / "x.npz", "--x")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], values) and found[name].dtype == values.dtype for name, values in arrays.items())


def test_the_first_part_that_does_not_fit_is_named():
    kind = dict[str, many(tuple[whole(0, 9), real(0, 1)])]
    assert checked(kind, {"a": [[1, 1]]}, "x", "y") == {"a": [(1, 1.0)]}
    refused(
        lambda: checked(kind, {"a": [[1, 0.5], [10, 0.5]]}, "x.json", "mend it"), "x.json: a.1.0 10; expected a value of at most 9; mend it"
    )
    refused(lambda: checked(kind, {"a": [[True, 0.5]]}, "x.json", "mend it"), "a.0.0 True; expected a valid integer")
    refused(lambda: checked(kind, {"a": [[1, float("nan")]]}, "x.json", "mend it"), "a.0.1 nan; expected a finite number")
    refused(lambda: checked(kind, {"a": [[1]]}, "x.json", "mend it"), "has no a.0.1")


def test_every_number_that_is_an_option_has_a_range():
    for system in SYSTEMS:
        for name, one in declared(system).items():
            if one.type in (int, float):
                assert one.high is not None, name
                assert one.low is not None or one.above is not None, name


def test_words_that_are_no_values():
    parser = Parser("x")
    parser.add_argument("--n", type=COUNT)
    for words, said in (
        (["--n", "0"], "--n 0: expected a whole number from 1 to 100,000"),
        (["--n", "1e18"], "--n 1e18: expected"),
        (["--n", "9" * 5000], "expected a whole number"),
        (["--n=--"], "--n=--: -- ends the options"),
        (["a\0b"], "NUL"),
    ):
        refused(lambda words=words: parser.parse_args(words), said)


def test_what_the_system_refuses_is_one_line(capsys):
    def main():
        Path("x" * 300).read_text()

    assert exit_code(main) == 2
    assert capsys.readouterr().err.endswith("x: File name too long; name another file or folder\n")
