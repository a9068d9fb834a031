"""What the processes share that decode anybody's files: how they are started, how much memory they get, and that they end with us.

They import no torch, so that they start fast.
"""

import os
import sys
import threading
from pathlib import Path

from utils.files import ROOT

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}  # they would only take address space


def command(module: str, *words: str) -> list[str]:
    """`python -m MODULE WORDS`, with no folder of the user's in front of ours (-P)."""
    return [sys.executable, "-P", "-m", module, *words]


def environment() -> dict[str, str]:
    """This process's, with our modules to be found."""
    return os.environ | THREADS | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def limit_memory(size: int | None) -> None:
    """Let this process take `size` more bytes of address space than it has, where the system can say what it has (Linux)."""
    status = Path("/proc/self/statm")
    if size is not None and status.exists():
        import resource

        import av  # noqa: F401, its libraries take address space, too

        total = int(status.read_text().split()[0]) * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (total, total))


def end_with_parent() -> None:
    """End this process when its standard input, a pipe that the parent keeps open, is closed: nobody is left to listen.

    Not by sys.stdin.read(): Python aborts where a thread still holds that lock at the end.
    """
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
