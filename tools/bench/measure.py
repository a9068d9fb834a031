"""What the benches measure with: seconds, memory, the rate of a matrix product, and batches of random features."""

import contextlib
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.datasets import load_dataset
from utils.files import ROOT

UCF = load_dataset(ROOT / "list/ucf.toml")
VIT_B_16 = (512, 32, 1, 64, 32, 77, 49408, 512, 8, 12)  # sizes of a clip.model.CLIP with its text side; the image side is not used


def seconds(work, repeats: int) -> float:
    """The shortest of `repeats` timed calls after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_rate(dtype: torch.dtype, size: int = 4096, device: torch.device | None = None) -> float:
    """FLOP/s of a square matrix product: what the floor of a piece of work is counted with."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: (a @ b)[0, 0].item(), 3)  # to its end


def random_features(batch: int, length: int, width: int) -> Tensor:
    """(B, T, D) of norm 10, alike within a video, as CLIP's are."""
    return 10 * F.normalize(torch.randn(batch, 1, width) + 0.5 * torch.randn(batch, length, width), dim=-1)


def random_batch(options, classes: int = len(UCF.names)) -> tuple[Tensor, Tensor, Tensor]:
    """Features, lengths, labels of a training batch: every other video fills all T snippets; half are normal."""
    size, length = options.batch_size, options.visual_length
    lengths = torch.where(torch.arange(size) % 2 > 0, length, torch.randint(length // 16, length, (size,)))
    features = random_features(size, length, options.visual_width) * (torch.arange(length) < lengths[:, None])[..., None]
    shown = torch.cat([torch.zeros(size // 2, dtype=torch.long), torch.arange(size // 2) % (classes - 1) + 1])
    return features, lengths, F.one_hot(shown, classes).float()


def restart_peak() -> None:
    """Forget this process's peak memory so far. Only Linux can; elsewhere a figure is the largest of those up to it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def elapsed(work, *arguments):
    """Seconds that work(*arguments) took, and what it gave."""
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result
