"""Mamba's selective scan against literal recurrences, same weights, and a training step of TrCLIP-VAD: `python -m tools.bench mamba`.

Every version of a block runs in a process of its own. Its peak memory is what that process had at most in a first call, less what it had
with its model and inputs made and the libraries loaded; its time is the least of the calls that follow, under what utils/engine.fit sets,
or that of the first where there are no others. tests/systems/test_mamba.py holds utils/systems/mamba.py to the literal recurrences of this
file.

B videos, T snippets, W channels of the scan, N states a channel.
"""

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model import build_model, options_of
from tools.bench.measure import UCF, VIT_B_16, elapsed, matmul_rate, random_batch, random_features, restart_peak, seconds
from ucf_option import parse_args
from utils import devices, engine
from utils.systems import mamba
from utils.text import openai_clip

SIZES = ((8, 256, 512, 256), (8, 4096, 64, 16))  # B, T, W, N: TrCLIP-VAD's wider Mamba block; a long video, few channels and states
POWERS, PASSES = 2, 17  # over each of the B · T · W · N of utils/systems/mamba.py: in forward 1 and 4, in backward 1 and 13
PAGE = 4096 / 2**30  # GiB: the least that memory is counted in
PRECISIONS = ("bf16",)  # of the training step, some minutes each; fp32, too
VERSIONS = {  # what part of the videos and of the snippets it is measured on, 1 in ...; calls after the first
    "ours": (1, 1, 3),
    "literal, unbound": (1, 1, 2),
    "literal, indexed": (1, 1, 0),
    "transformers": (8, 4, 0),  # its time grows with T²: whole, it would take up to an hour
}


def indexed(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The recurrence as one would write it, step t of each tensor by index; arguments and value are those of `mamba.selective_scan`."""
    h, ys = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1) + D * u[:, t])
    return torch.stack(ys, 1)


def unbound(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The same without `indexed`'s flaw: the gradient of each indexing is a tensor of zeros as large as what is indexed, so that the time
    grows with T². Sums over the states are products of matrices.
    """
    h, ys = u.new_zeros(u.shape[0], *A.shape), []
    for now, step, enter, leave in zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(step[..., None] * A) * h + (step * now)[..., None] * enter[:, None]
        ys.append((h @ leave[..., None])[..., 0] + D * now)
    return torch.stack(ys, 1)


SCANS = {"ours": mamba.selective_scan, "literal, unbound": unbound, "literal, indexed": indexed}


def mixer(block: mamba.Mamba) -> nn.Module:
    """The block's weights in transformers' Mamba mixer, whose path without a kernel this is on a CPU."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    width, (inner, states) = block.out_proj.out_features, block.A_log.shape
    sizes = {"hidden_size": width, "state_size": states, "expand": inner // width, "conv_kernel": block.conv1d.weight.shape[-1]}
    config = MambaConfig(**sizes, time_step_rank=block.dt_proj.in_features, num_hidden_layers=1, use_bias=False, use_conv_bias=True)
    made = MambaMixer(config, 0)
    made.load_state_dict(block.state_dict())
    return made


def apart(work, *arguments):
    """work(*arguments) in a new process, which takes nothing over from this one but the count of threads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        return pool.submit(work, *arguments).result()


def memory() -> tuple[float, float]:
    """GiB that this process has now, and the most it has had since `restart_peak`; NaN elsewhere than on Linux. Not what getrusage gives:
    in a process just started that is at least what the one that started it has.
    """
    path = Path("/proc/self/status")
    if not path.exists():
        return math.nan, math.nan
    status = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 2**20, int(status["VmHWM"].split()[0]) / 2**20


class Measured(NamedTuple):
    """Of a block's forward and backward: seconds, GiB above what was there before, and the arrays of output and gradients."""

    seconds: float
    peak: float
    results: list[np.ndarray]


def measure(name: str, sizes: tuple[int, int, int, int], videos: int, snippets: int, repeats: int) -> Measured:
    """Forward and backward of the first `videos` and `snippets` of a batch through one block. Results: output, gradient of the input,
    those of all weights.
    """
    size, length, width, states = sizes
    torch.manual_seed(0)
    block = mamba.Mamba(width, d_state=states, d_conv=2, expand=1)
    x, dy = torch.randn(2, size, length, width)[:, :videos, :snippets].clone().unbind()
    x, run = x.requires_grad_(), mixer(block) if name == "transformers" else block
    named = dict(run.named_parameters())
    weights = [named[key] for key, _ in block.named_parameters()]
    with mock.patch.object(mamba, "selective_scan", SCANS.get(name, mamba.selective_scan)):
        forward_backward(run, x[:1, :4], dy[:1, :4], weights)  # loads the libraries' code, which is no version's memory
        restart_peak()
        before = memory()[0]
        first, results = elapsed(forward_backward, run, x, dy, weights)
        peak = max(memory()[1] - before, PAGE)  # NaN stays NaN
        devices.keep_freed_memory()
        times = [elapsed(forward_backward, run, x, dy, weights)[0] for _ in range(repeats)]
    return Measured(min(times, default=first), peak, [part.numpy() for part in results])


def forward_backward(run, x: Tensor, dy: Tensor, weights: list[Tensor]) -> list[Tensor]:
    y = run(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *weights], dy)]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def flops_without_scan(work) -> int:
    """FLOPs of work(), the scans in it left out."""

    def stand_in(u, delta, A, B, C, D):  # every argument gets a gradient
        return u * D + delta + A.sum(1) + (B + C).sum(-1, keepdim=True)

    with mock.patch.object(mamba, "selective_scan", stand_in), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def cache_rates() -> tuple[float, float]:
    """Powers of two and products of float32 a second, on arrays of the size of a group of utils/systems/mamba.py."""
    count, often = 65536 * torch.get_num_threads(), 200
    a, b = torch.rand(2, count).neg().unbind()
    out = torch.empty_like(a)
    power = seconds(lambda: [torch.exp2(a, out=out) for _ in range(often)], 3)
    product = seconds(lambda: [torch.mul(a, b, out=out) for _ in range(often)], 3)
    return count * often / power, count * often / product


def scan_floor(numbers: int, rates: tuple[float, float]) -> tuple[float, float]:
    """Seconds that the powers of two and the passes over B · T · W · N = `numbers` states take, forward and backward."""
    return POWERS * numbers / rates[0], PASSES * numbers / rates[1]


def bench_block(sizes: tuple[int, int, int, int], rates: tuple[float, float], rate: float, run=apart) -> dict[str, Measured]:
    """One block, forward and backward, in every version; rates of `cache_rates`, rate of `matmul_rate`."""
    size, length, width, states = sizes
    print(f"one Mamba block, B {size}, T {length}, width {width}, d_state {states}, forward + backward, fp32:")
    found = {}
    for name, (fewer, shorter, repeats) in VERSIONS.items():
        videos, snippets = -(-size // fewer), -(-length // shorter)
        found[name] = part = run(measure, name, sizes, videos, snippets, repeats)
        share = size * length / (videos * snippets)
        if share > 1:
            print(f"  {name}, {videos} video of {snippets} snippets: {part.seconds:.2f} s, {part.peak:.3f} GiB; the rest in proportion:")
            found[name] = Measured(part.seconds * share, part.peak * share, part.results)
        print(f"  {name}: {'at least ' if snippets < length else ''}{found[name].seconds:.2f} s, {found[name].peak:.3f} GiB")
    ours = found["ours"]
    for name, other in found.items():
        if name == "ours":
            continue
        videos, snippets = other.results[0].shape[:2]
        gaps = f"output differs by {difference(ours.results[0][:videos, :snippets], other.results[0]):.1e}"
        if (videos, snippets) == (size, length):  # else gradients are others
            gaps += f", gradients by {max(map(difference, ours.results[1:], other.results[1:])):.1e}"
        print(
            f"  ours against {name}: {other.seconds / ours.seconds:.1f} times faster, 1/{other.peak / ours.peak:.1f} of the memory; {gaps}"
        )
    block, x = mamba.Mamba(width, d_state=states, d_conv=2, expand=1), torch.randn(size, length, width, requires_grad=True)
    linear = flops_without_scan(lambda: block(x).sum().backward()) / rate
    powers, passes = scan_floor(math.prod(sizes), rates)
    floor = powers + passes + linear
    print(
        f"  floor: {POWERS} powers of two a state {powers:.2f} s at {rates[0] / 1e9:.2f} G/s, {PASSES} more passes over a cached array "
        f"{passes:.2f} s at {rates[1] / 1e9:.2f} G/s, layers round the scan {linear:.2f} s; time / floor {ours.seconds / floor:.2f}"
    )
    return found


class Step(NamedTuple):
    """Of one training step: seconds, GiB that its process had at most, losses by name, FLOPs but for the scans, B · T · W · N of these."""

    seconds: float
    peak: float
    losses: dict[str, float]
    flops: int
    numbers: int


def prepare(words: Sequence[str], clip_model, precision: str):
    """TrCLIP-VAD of random weights, a random batch, optimizer and options: the paper's sizes, but for what option words say."""
    options = parse_args(["--model", "trclip", "--feature-root", "unused", "--caption-root", "unused", "--device", "cpu", *words])
    options.precision = precision
    torch.manual_seed(0)
    clip_model = clip_model or openai_clip().model.CLIP(*VIT_B_16)
    model = build_model("trclip", UCF.names, clip_model, **{name: getattr(options, name) for name in options_of("trclip")}).train()
    features, lengths, labels = random_batch(options)
    captions = random_features(*features.shape[:2], options.caption_width) * (features.abs().amax(-1, keepdim=True) > 0)
    return model, (features, lengths, labels, captions), engine.make_optimizer(model, options), options, torch.device("cpu")


def step_flops(model, batch, *rest) -> int:
    """FLOPs of a step but for the scans, counted on two videos and on four: all but the text side is in proportion to them."""
    two, four = (flops_without_scan(lambda n=n: engine.step(model, [part[:n] for part in batch], *rest)) for n in (2, 4))
    return two + (four - two) // 2 * (len(batch[0]) - 2)


def measure_step(words: Sequence[str], clip_model, precision: str) -> Step:
    """The first step of what `prepare` gives."""
    devices.keep_freed_memory()
    model, batch, *rest = prepare(words, clip_model, precision)
    restart_peak()
    took, losses = elapsed(engine.step, model, batch, *rest)
    peak = memory()[1]
    channels = sum(part.A_log.numel() for part in model.modules() if isinstance(part, mamba.Mamba))
    return Step(took, peak, losses, step_flops(model, batch, *rest), batch[0].shape[:2].numel() * channels)


def bench_training(
    rates: tuple[float, float], words: Sequence[str] = (), clip_model=None, literal: tuple[Measured, int] | None = None, run=apart
) -> None:
    """One step of TrCLIP-VAD in every one of PRECISIONS. `literal`: what the literal scan took for how many B · T · W · N."""
    for precision in PRECISIONS:
        found = run(measure_step, words, clip_model, precision)
        rate = matmul_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
        powers, passes = scan_floor(found.numbers, rates)
        floor = found.flops / rate + powers + passes
        print(
            f"TrCLIP step, {precision}: {found.seconds:.1f} s (the first), peak memory of the process {found.peak:.1f} GiB; floor "
            f"{found.flops / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s = {found.flops / rate:.1f} s, scans of "
            f"{found.numbers / 1e9:.1f} G states: powers {powers:.1f} s, passes {passes:.1f} s; "
            f"time / floor {found.seconds / floor:.2f}; loss {found.losses['loss']:.5f}"
        )
        if literal:
            times = found.numbers / literal[1]
            print(
                f"  its scans by the literal recurrence, unbound, by what a block took above: {literal[0].seconds * times:.0f} s, "
                f"{literal[0].peak * times:.0f} GiB"
            )


def bench_mamba(sizes=SIZES, words: Sequence[str] = (), clip_model=None, run=apart) -> None:
    """Blocks of `sizes`, then the step; tests give smaller ones, option words, a small CLIP, and run(work, *arguments) in their process."""
    rates, rate = cache_rates(), matmul_rate(torch.float32)
    found = [bench_block(part, rates, rate, run) for part in sizes]
    bench_training(rates, words, clip_model, (found[0]["literal, unbound"], math.prod(sizes[0])), run)
