"""How bad input ends: one line on stderr and exit code 2, never a traceback; and how foreign text is shown on a terminal."""

import argparse
import contextlib
import re
import signal
import sys
import threading

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


class BadInput(ValueError):
    """Something the user can put right. The message names the file or option, what was found, what was expected and the next step; it is
    one line that a terminal can show, whatever names stand in it.
    """

    def __init__(self, message=""):
        # An error raised in a DataLoader worker arrives wrapped in that worker's traceback; its last line is the message.
        if str(message).startswith("Caught BadInput in "):
            message = str(message).strip().splitlines()[-1].removeprefix("utils.errors.BadInput: ")
        super().__init__(printable(str(message).strip()))


class Parser(argparse.ArgumentParser):
    """A command line whose usage errors are one line and exit code 2, the usage being what --help is for."""

    def error(self, message):
        print(f"error: {printable(message)}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def exit_code(main, go_on: str = "") -> int:
    """Run `main()` as a script does: 0 done, 2 bad input, 130 interrupted, by Ctrl-C or by SIGTERM, which says how to `go_on`. Any other
    exception is a bug and keeps its traceback.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(AttributeError):  # a test's or notebook's own stream
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name that the terminal's encoding lacks is no reason to die
    try:
        main()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: everything finished so far is saved{go_on}", file=sys.stderr)
        return 130
    return 0
