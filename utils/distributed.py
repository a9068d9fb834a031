"""How several processes and machines share the work of a tool."""

import os
from datetime import timedelta

from utils.errors import BadInput


def share(text: str | None) -> tuple[int, int]:
    """Which part of how many, counted from 0: of --shard i/n, which counts from 1, else of torchrun's process, else (0, 1)."""
    if text is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise BadInput(f"--shard {text}: expected i/n with i from 1 to n, such as 1/8")
    return int(number) - 1, int(count)


def wait_for_others(shard: str | None) -> None:
    """Wait until all processes of torchrun have come here: it kills the others as soon as one ends with an exit code. `shard`: as above.

    Raises BadInput where they do not reach each other, or one is gone.
    """
    if shard is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        import torch.distributed

        try:
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        except RuntimeError as error:
            said = str(error).partition("\n")[0]
            raise BadInput(f"torchrun: its processes do not reach each other ({said}); what is finished stays: start it again") from None
