"""utils/errors.py: what bad input ends in is one line that a terminal can show, whatever names stand in it."""

import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import BadInput, exit_code, printable
from utils.files import ROOT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a “man” — 走る नमस्ते 👩‍🚒\u00a0…", "a “man” — 走る नमस्ते 👩‍🚒\u00a0…"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("one\ntwo\rthree\tfour\x00\x85\u2028", r"one\ntwo\rthree\tfour\x00\x85\u2028"),
        ("\u202eexe.4pm\u202c\u200f", r"\u202eexe.4pm\u202c\u200f"),
        ("\ufeffhalf \ud83d", r"\ufeffhalf \ud83d"),
        (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
    ],
)
def test_what_a_terminal_is_given(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_whatever_is_printed_is_one_line_of_text_and_stays(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert shown.encode("utf-8").isascii() or shown.isprintable() or not text.isprintable()
    assert "\x1b" not in shown
    assert printable(shown) == shown


def test_an_error_is_one_line_whatever_its_names():
    assert str(BadInput("a\nb\x1b[2J: no such file")) == r"a\nb\x1b[2J: no such file"
    worker = "Caught BadInput in DataLoader worker process 0.\nOriginal Traceback:\n  File …\nutils.errors.BadInput: x.npy: no rows\n"
    assert str(BadInput(worker)) == "x.npy: no rows"


def test_a_name_that_the_terminal_cannot_show_ends_nothing(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert exit_code(lambda: print("café", os.fsdecode(b"\xff"))) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"caf\\xe9 \\udcff\n"


def test_what_was_typed_comes_back_without_its_escapes():
    done = subprocess.run([sys.executable, "-m", "tools.rewrite_captions", b"--unknown\x1b[2J\xff"], cwd=ROOT, capture_output=True)
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from utils.errors import exit_code; sys.exit(exit_code(lambda: [print('x' * 1000) for _ in range(10000)]))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(60), error) == (141, b"")
    process.stderr.close()


def test_a_folder_that_went_away_under_a_thread_is_one_line(tmp_path):
    """As TensorBoard's writer: its thread fails, and raises the same where it is asked to write again."""
    code = (
        "import sys, threading\nfrom utils.errors import exit_code\n"
        "def write(): open(b'/no/such/folder/x', 'a')\n"
        "def main():\n thread = threading.Thread(target=write); thread.start(); thread.join(); write()\n"
        "sys.exit(exit_code(main))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: /no/such/folder/x: No such file or directory; name another file or folder\n"
