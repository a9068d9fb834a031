"""How bad input ends: one line on stderr and exit code 2, never a traceback; and how foreign text is shown on a terminal."""

import argparse
import contextlib
import difflib
import errno
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

# What moves a terminal's cursor, ends a line, turns the direction of text, hides, or is no text: controls, marks, lone surrogates.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def printable(text) -> str:
    """`text`, a name, a caption or somebody else's message, on one line of a terminal or log: what is no visible character is written as
    its escape (`\\x1b`, `\\u202e`; `\\xe9` for a byte of a file name that is not UTF-8). A result that goes through again stays as it is.
    """

    def escape(found) -> str:
        code = ord(found[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()

    return UNSHOWN.sub(escape, str(text))


def some(names: Iterable, most: int = 5) -> str:
    """The first of many names, for a message: `a, b, c, d, e, …`."""
    names = list(map(str, names))
    return printable(", ".join(names[:most])) + ", …" * (len(names) > most)


class BadInput(ValueError):
    """Something the user can put right. The message names the file or option, what was found, what was expected and the next step; it is
    one line that a terminal can show, whatever names stand in it.
    """

    def __init__(self, message=""):
        # An error raised in a DataLoader worker arrives wrapped in that worker's traceback; its last line is the message.
        if str(message).startswith("Caught BadInput in "):
            message = str(message).strip().splitlines()[-1].removeprefix("utils.errors.BadInput: ")
        message = printable(str(message).strip())
        super().__init__(message if len(message) <= 2000 else f"{message[:1500]} … {message[-400:]}")  # whatever it quotes


class Parser(argparse.ArgumentParser):
    """A command line whose usage errors are BadInput, one line, the usage being what --help is for. An option that is mistyped is told."""

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        for before, word in zip(["", *words], words, strict=False):
            if not word or re.match(r"--[^=]+=$", word):
                what = word.rstrip("=") or (before if before.startswith("-") else "")
                self.error(f"{what or repr(word)}: found nothing, as a variable of the shell gives that is not set; expected a value")
            if "\0" in word:
                self.error("a word with a NUL character, which no name has")
            if re.match(r"--[^=]+=--$", word):  # argparse takes the -- away, and gives an empty list
                self.error(f"{word}: -- ends the options, it is no value")
        return super().parse_known_args(words, namespace)

    def error(self, message):
        message = re.sub(r"^argument (\S+): (?=.*: expected .* from )", r"\1 ", message)  # of `bounded`: --seed -1: expected …
        if message.startswith("unrecognized arguments: "):
            known = self._option_string_actions
            shown = [flag for flag, one in known.items() if one.help != argparse.SUPPRESS]
            typed = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
            near = [(difflib.get_close_matches(word, shown, 1) or difflib.get_close_matches(word, known, 1)) for word in typed]
            near = [flag for found in near for flag in found]
            message += f"; did you mean {' '.join(near)}?" if near else ""
        raise BadInput(f"{message}; see {self.prog} --help")


def bounded(kind: type, low: float, high: float):
    """The type of an option of a Parser: a whole number (`kind` int) or a number (float) from `low` to `high`."""

    def value(text: str):
        try:
            found = kind(text)
        except ValueError:
            found = math.nan
        if not low <= found <= high:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text[:100]}: expected {what} from {low:,.10g} to {high:,.10g}")
        return found

    return value


STOPS = signal.SIGTERM, signal.SIGUSR1  # the second is Slurm's, some time before a job's time is up (sbatch --signal)


class Stopped(KeyboardInterrupt):
    """An interruption by one of STOPS; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def _stop(number, _frame):
    raise Stopped(number)


@contextlib.contextmanager
def held(signals=STOPS, *, once: bool = False):
    """Hold signals back until the block ends, then let them do what they do without it. Yields the list of those that came. once: a second
    one does it at once. What is ignored, as SIGINT is by a job in the background, stays so.
    """
    came, before = [], {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def hold(number, _) -> None:
        came.append(number)
        if once:
            restore()

    if threading.current_thread() is threading.main_thread():
        before = {one: signal.signal(one, hold) for one in signals if signal.getsignal(one) != signal.SIG_IGN}
    try:
        yield came
    finally:
        restore()
    for number in came[:1]:
        signal.raise_signal(number)


COUNT, SEED, POSITIVE = bounded(int, 1, 100_000), bounded(int, 0, 2**32 - 1), bounded(float, 1e-6, 1e6)  # seconds that a clock can wait


def _told_later(args) -> None:
    """What TensorBoard's thread cannot write it raises where it is next asked to; it need not print its traceback as well."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


@contextlib.contextmanager
def _interruptions():
    """What fails because it is interrupted, as a half-written archive that cannot be closed, is an interruption."""
    try:
        yield
    except Exception as error:
        met = error.__context__
        while met is not None:
            if isinstance(met, KeyboardInterrupt):
                raise met from None
            met = met.__context__
        raise


@contextlib.contextmanager
def alone():
    """Round the `main` of a script of which torchrun's processes would all do the same, and write over each other: one of them refuses
    (BadInput), the others wait until torchrun ends them.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if os.environ["RANK"] != "0":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(60)
        raise BadInput(f"torchrun: {Path(sys.argv[0]).name} is one process; start it with python, without torchrun")
    yield


def exit_code(main, go_on: str = "", within=alone) -> int:
    """Run `main()` as a script does: 0 done, 2 bad input, 130 interrupted by Ctrl-C, 143 by SIGTERM, 138 by SIGUSR1 (a shell's 128 and the
    signal's number), which says how to `go_on`, 141 nobody reads its output any more. Any other exception is a bug and keeps its traceback.
    within: a context manager round `main`, which refuses several processes of torchrun, unless the script shares its work among them.
    """
    if threading.current_thread() is threading.main_thread():
        for number in STOPS:
            signal.signal(number, _stop)
        threading.excepthook = _told_later
    with contextlib.suppress(AttributeError):  # a test's or notebook's own stream
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name that the terminal's encoding lacks is no reason to die
    try:
        with _interruptions(), within():
            main()
            sys.stdout.flush()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read along has seen enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is not written yet, at exit
        return 141
    except OSError as error:  # a name too long for the file system, a folder that went away, a full disk
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if error.filename is None and not full:
            raise
        place = "a file of the output" if error.filename is None else os.fsdecode(error.filename)
        what = f"free some space{go_on}" if full else "name another file or folder"
        print(f"error: {BadInput(f'{place}: {error.strerror}; {what}')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"interrupted: everything finished so far is saved{go_on}", file=sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    except Exception as error:
        if not (fault := option_file_fault(error)):
            raise
        print(f"error: {fault}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def importing():
    """Round the imports of a script, which take seconds: Ctrl-C and a fault in an option file end as they do in `exit_code`."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: nothing has begun", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (fault := option_file_fault(error)):
            raise
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)


def option_file_fault(error: Exception) -> BadInput | None:
    """What is wrong in an option file (`ucf_option.py`), which users edit, if that is what Python met; None for any other error."""
    place, said = traceback.extract_tb(error.__traceback__)[-1], f"{type(error).__name__}: {error}"
    file, line = place.filename, f"line {place.lineno}"
    if isinstance(error, SyntaxError):
        file, line, said = error.filename or "", f"line {error.lineno}", error.msg
    elif isinstance(error, ImportError) and error.path:  # a name that is not there any more
        file, line, said = error.path, "at its end", str(error).partition(" (")[0]
    if not file.endswith("_option.py"):
        return None
    return BadInput(f"{Path(file).name}: {line}: {said}; correct it, or take the file as it was: git checkout {Path(file).name}")
