"""What a process computes on: its device, its precision, its memory."""

import ctypes
import os
import platform
from contextlib import nullcontext

import torch

from utils import ranks
from utils.errors import BadInput


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises BadInput for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, available in there.items() if available))
    if not there[name]:
        raise BadInput(f"--device {name}: not available here; expected one of {', '.join(d for d, yes in there.items() if yes)}")
    return torch.device(name)


def own_device(name: str) -> torch.device:
    """`pick_device`, of several ranks each one its own. Raises BadInput where this machine has fewer GPUs than ranks."""
    device = pick_device(name)
    if ranks.count() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise BadInput(f"--device {device}: is no device of several processes; give --device cpu, or start one, without torchrun")
    return torch.device("cuda", own_gpu())


def own_gpu() -> int:
    """The number of the GPU of this process of torchrun. Raises BadInput where this machine has fewer of them than processes."""
    number, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= there:
        raise BadInput(f"torchrun: more than {number} processes on a machine of {there} GPUs; --nproc-per-node {there}, or --device cpu")
    return number


def encoding_device(name: str, precision: str) -> torch.device:
    """`pick_device` for an encoder. Raises BadInput, too, for bf16 on a processor that multiplies fp32 faster (docs/speed.md)."""
    device = pick_device(name)
    there = getattr(torch.cpu, "get_capabilities", dict)()  # a torch that cannot tell is taken at its word
    fast = not there or any(there.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    if precision == "bf16" and device.type == "cpu" and not fast:
        raise BadInput(
            "--precision bf16: this processor has no bf16 products (AVX512-BF16, AMX), encoding would be slower than in fp32; leave it out"
        )
    return device


def autocast(device: torch.device, precision: str):
    """The forward pass in bf16 where asked for; losses and scores are float32 either way."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next step. By default it gives large tensors back to the kernel, which zeroes their pages
    anew at every allocation: a fifth of a literal VadCLIP step on a CPU. Elsewhere than on Linux with glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt, (trim_threshold, mmap_max) = ctypes.CDLL(None).mallopt, (-1, -4)  # the constants of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)
