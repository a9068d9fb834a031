"""utils/errors.py: what bad input ends in is one line that a terminal can show, whatever names stand in it."""

import io
import os
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ucf_option
import ucf_train
from utils.errors import BadInput, Parser, exit_code, held, importing, printable
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


def script_beside(folder, script, option_file):
    """Run a copy of a script beside another option file; (exit code, stderr)."""
    shutil.copy(ROOT / script, folder)
    (folder / f"{script.split('_')[0]}_option.py").write_text(option_file)
    words = [sys.executable, str(folder / script)]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("script", ["ucf_train.py", "ucf_test.py", "custom_train.py", "custom_test.py"])
def test_an_option_file_that_is_no_python_is_one_line(tmp_path, script):
    name = script.split("_")[0] + "_option.py"
    code, said = script_beside(tmp_path, script, "COMMON = dict(\n    lr=1e-3\n    seed=1,\n)\n")
    assert code == 2
    assert said.startswith(f"error: {name}: line 2: invalid syntax")
    assert said.endswith(f"correct it, or take the file as it was: git checkout {name}\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("COMMON = dict(workers=0, workers=1)", "line 1: keyword argument repeated: workers; "),
        ("COMMON = {'lr': 1e-3\n", "line 1: '{' was never closed; "),
        ("\nSAMPLE = dict(lr=ture)", "line 2: NameError: name 'ture' is not defined; "),
        ("import nump", "line 1: ModuleNotFoundError: No module named 'nump'; "),
        ("COMMON = {}", "at its end: cannot import name 'parse_args' from 'ucf_option'; "),
    ],
)
def test_another_fault_of_an_option_file_is_one_line(tmp_path, text, said):
    code, error = script_beside(tmp_path, "ucf_train.py", text)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: ucf_option.py: {said}")


@pytest.mark.parametrize("name", ["COMMON", "SYSTEMS", "SAMPLE"])
def test_a_name_that_an_option_file_lacks_is_one_line(monkeypatch, capsys, name):
    monkeypatch.delattr(ucf_option, name)
    assert exit_code(lambda: ucf_train.main([])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ucf_option.py: line ")
    assert f": NameError: name '{name}' is not defined; correct it, or take the file as it was" in error
    assert error.count("\n") == 1


def test_a_bug_elsewhere_keeps_its_traceback():
    for run in (lambda: exit_code(lambda: 1 / 0), lambda: importing().__enter__() or 1 / 0):
        with pytest.raises(ZeroDivisionError):
            run()


def test_an_interrupt_while_the_libraries_load_is_one_line(tmp_path):
    interrupt = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    assert script_beside(tmp_path, "ucf_test.py", interrupt) == (130, "interrupted: nothing has begun\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-epochs", "5"], "unrecognized arguments: --max-epochs 5; did you mean --max-epoch?; see "),
        (["--visual-widht=4", "-lr", "1"], "--visual-widht=4 -lr 1; did you mean --visual-width --lr?; see "),
        (["--caption-rot", "x"], "unrecognized arguments: --caption-rot x; did you mean --caption-root?; see "),
        (["--zzzz"], "unrecognized arguments: --zzzz; see "),
    ],
)
def test_a_mistyped_option_is_told(words, said):
    with pytest.raises(BadInput) as caught:
        ucf_option.parse_args(words)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["a", "--output", ""],
            "--output: found nothing, as a variable of the shell gives that is not set; expected a value; see demo.py --help",
        ),
        (["a", "--output="], "--output: found nothing"),
        (["", "--output", "b"], "'': found nothing"),
        (["a", ""], "'': found nothing"),
    ],
)
def test_an_empty_value_is_told(words, said):
    parser = Parser("demo.py")
    parser.add_argument("source", nargs="*")
    parser.add_argument("--output")
    with pytest.raises(BadInput) as caught:
        parser.parse_args(words)
    assert str(caught.value).startswith(said)


def test_a_mistyped_option_of_a_tool_is_told():
    parser = Parser("tool")
    parser.add_argument("--feature-root")
    with pytest.raises(BadInput, match=r"--featur_root x; did you mean --feature-root\?; see tool --help"):
        parser.parse_args(["--featur_root", "x"])


def test_what_fails_because_it_is_interrupted_is_an_interruption(capsys):
    """An archive that is cut off in the middle cannot be closed, and says so in place of the interruption."""

    def main():
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("Can't close the ZIP file while there is an open writing handle on it")

    assert exit_code(main) == 130
    assert capsys.readouterr().err == "interrupted: everything finished so far is saved\n"
    with pytest.raises(ValueError, match="a bug"):
        exit_code(lambda: (_ for _ in ()).throw(ValueError("a bug")))


def test_signals_end_a_script_as_a_shell_says_and_wait_where_they_are_held():
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)):
        assert exit_code(lambda number=number: signal.raise_signal(number)) == code
    seen = []

    def main():
        with held() as came:
            signal.raise_signal(signal.SIGUSR1)
            seen.extend(came)
        seen.append("behind the block")

    assert exit_code(main) == 138
    assert seen == [signal.SIGUSR1]

    def twice():
        with held((signal.SIGTERM,), once=True) as came:
            signal.raise_signal(signal.SIGTERM)
            seen.extend(came)
            signal.raise_signal(signal.SIGTERM)
            seen.append("behind the second one")

    assert exit_code(twice) == 143
    assert seen == [signal.SIGUSR1, signal.SIGTERM]


def test_torchrun_is_refused_where_its_processes_would_do_the_same(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert exit_code(lambda: None) == 0  # set by something else
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "argv", ["/project/tools/evaluate.py"])
    assert exit_code(lambda: 1 / 0) == 2
    assert capsys.readouterr().err == "error: torchrun: evaluate.py is one process; start it with python, without torchrun\n"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert exit_code(lambda: None) == 0
