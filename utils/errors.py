"""How bad input ends: one line on stderr and exit code 2, never a traceback."""

import argparse
import signal
import sys
import threading


class BadInput(ValueError):
    """Something the user can put right. The message names the file or option, what was found, what was expected and the next step."""


class Parser(argparse.ArgumentParser):
    """A command line whose usage errors are one line and exit code 2, the usage being what --help is for."""

    def error(self, message):
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def exit_code(main, go_on: str = "") -> int:
    """Run `main()` as a script does: 0 done, 2 bad input, 130 interrupted, by Ctrl-C or by SIGTERM, which says how to `go_on`. Any other
    exception is a bug and keeps its traceback.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except BadInput as error:
        # An error raised in a DataLoader worker arrives wrapped in that worker's traceback; its last line is the message.
        message = str(error).strip().splitlines()[-1].removeprefix("utils.errors.BadInput: ")
        print(f"error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: everything finished so far is saved{go_on}", file=sys.stderr)
        return 130
    return 0
