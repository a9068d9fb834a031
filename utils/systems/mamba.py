"""Mamba (Gu & Dao 2023, arXiv 2312.00752) in plain PyTorch: the block with mamba_ssm's parameter names, and its selective scan.

B videos, T snippets, W channels of the scan (expand × the block's width), N states a channel (d_state).

The scan is, for each video and channel, the recurrence of N values

    h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t,    h_{−1} = 0.

Autograd through it keeps several values for each of the T · W · N, and is bound by going over them in memory. Here the backward pass is
written by hand and only every chunk-th state is kept; those between are computed once more. The work is cut into groups, some videos and
some steps at a time: on a CPU what an operation reads was written a moment ago and still lies in the cache, on a GPU a group is as large as
its memory allows, so that there are few operations. Within a group everything but the recurrence itself is one operation for all its
steps; the recurrence takes one a step on a CPU, and on a GPU a few for each halving of the steps. States are laid out (step, video, N, W):
channels, of which there are many, come last, and the sums over states and channels are products of matrices. Decays are powers of two,
exp(Δ A) = 2^(Δ A / ln 2): on a CPU PyTorch's exp takes three to ten times as long as its exp2.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FEW = 4  # steps of a GPU's group that are done one after the other
AT_ONCE = 2**30  # numbers of a GPU's group, of which four to five arrays are there at a time, if they fit into a third of its memory


def halved(decay: Tensor, few: int | float) -> list[Tensor]:
    """Decays (steps, …), those of pairs of steps, of pairs of pairs, …, until at most `few` are left."""
    found = [decay]
    while len(found[-1]) > few:
        found.append(found[-1][1::2] * found[-1][: len(found[-1]) - 1 : 2])
    return found


def solve(decays: list[Tensor], x: Tensor) -> None:
    """x_t += decay_t x_{t−1} for all steps t >= 1 of x (steps, …): a step after another if `decays`
    (`halved`) are the steps' alone, else by pairs of steps, which follow the same recurrence.
    """
    (decay, *more), steps = decays, len(x)
    if steps == 1:
        return
    if not more:
        for factor, before, now in zip(decay.unbind()[1:], x.unbind(), x.unbind()[1:], strict=False):
            now.addcmul_(factor, before)
        return
    pairs = x[1::2].addcmul_(decay[1::2], x[: steps - 1 : 2])
    solve(more, pairs)
    x[2::2].addcmul_(decay[2::2], pairs[: (steps - 1) // 2])


def solve_back(decays: list[Tensor], x: Tensor) -> None:
    """x_t += decay_{t+1} x_{t+1} for all steps but the last, in the same way."""
    (decay, *more), steps = decays, len(x)
    if not more:
        for factor, behind, now in zip(decay.unbind()[:0:-1], x.unbind()[::-1], x.unbind()[-2::-1], strict=False):
            now.addcmul_(factor, behind)
        return
    pairs = x[1::2]
    pairs[: (steps - 1) // 2].addcmul_(decay[2::2], x[2::2])
    solve_back(more, pairs)
    x[: steps - 1 : 2].addcmul_(decay[1::2], pairs)


class Steps(NamedTuple):
    """Some steps of a buffer, and views of them: making a view takes as long as reading a small array."""

    all: Tensor  # (steps, videos, N, W)
    rows: Tensor  # (steps · videos, N, W)
    first: Tensor  # (videos, N, W)
    last: Tensor


def steps_of(x: Tensor) -> Steps:
    return Steps(x, rows(x), x[0], x[-1])


def advance(decay: Steps, states: Steps, h: Tensor, delta: Tensor, x: Tensor, A: Tensor, B: Tensor, floor: float | None) -> list[Tensor]:
    """Write a group's decays 2^(Δ A) and states from h (videos, N, W), the state before it; the decays `halved`.

    delta, x = Δ u (steps, videos, 1, W); A (N, W); B (steps, videos, N, 1).
    """
    torch.mul(delta, A, out=decay.all)
    if floor is not None:
        decay.all.clamp_(min=floor)
    decay.all.exp2_()
    torch.mul(B, x, out=states.all)
    states.first.addcmul_(decay.first, h)
    decays = halved(decay.all, few_steps(h.device))
    solve(decays, states.all)
    return decays


def clamp_at(delta: Tensor, A: Tensor) -> float | None:
    """Where to clamp Δ A, or None if it is nowhere below. On a CPU a power or a product too small for a normal number takes up to 400 times
    as long as any other. A decay at the clamp is √tiny, 1e-19 in float32: far less than the state beside it is rounded by.
    """
    floor = math.log2(torch.finfo(A.dtype).tiny) / 2
    return floor if delta.device.type == "cpu" and delta.numel() and (delta.amax((0, 1)) * A.amin(0)).min() < floor else None


def group_sizes(videos: int, steps: int, state: int, device: torch.device) -> tuple[int, int]:
    """Videos and steps that are worked on at once, for a state of `state` = N · W numbers: on a CPU as many as share its second-level cache
    with the few arrays of their size, and keep its threads busy.
    """
    numbers = AT_ONCE
    if device.type == "cpu":
        numbers = 65536 * torch.get_num_threads()
    elif device.type == "cuda":
        numbers = min(numbers, torch.cuda.get_device_properties(device).total_memory // 80)
    videos = max(min(videos, numbers // state), 1)
    return videos, max(min(steps, numbers // (state * videos)), 1)


def few_steps(device: torch.device) -> int | float:
    """Up to how many steps `solve` does one after the other: on a CPU all, since products of decays leave float32's normal numbers."""
    return math.inf if device.type == "cpu" else FEW


def shaped(buffer: Tensor, steps: int, *state: int) -> Tensor:
    """(steps, *state) of the numbers of a flat buffer."""
    return buffer[: steps * math.prod(state)].view(steps, *state)


class SelectiveScan(torch.autograd.Function):
    """See `selective_scan`."""

    @staticmethod
    def forward(ctx, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int) -> Tensor:
        (size, length, width), states, A = u.shape, A.shape[1], A.t().contiguous()
        powers = A / math.log(2)
        floor = clamp_at(delta, powers)
        videos, steps = group_sizes(size, min(chunk, length), A.numel(), u.device)
        chunk = -(-chunk // steps) * steps
        borders = u.new_empty(-(-length // chunk), size, states, width)  # the states before each chunk
        buffers = [u.new_empty(steps * videos * A.numel()) for _ in range(3)]
        y = u * D
        for first in range(0, size, videos):
            block = slice(first, first + videos)
            xs, deltas, Bs, Cs = (by_time(v[block]) for v in (u * delta, delta, B, C))
            ys, n = torch.empty_like(xs), xs.shape[1]
            h = u.new_zeros(n, states, width)
            cut = functools.cache(lambda steps, n=n: [steps_of(shaped(buffer, steps, n, states, width)) for buffer in buffers])
            inputs = groups(steps, deltas[:, :, None], xs[:, :, None], Bs[..., None])
            products = groups(steps * n, rows(Cs)[:, None], rows(ys)[:, None])
            for number, ((d, x, b), (c, out)) in enumerate(zip(inputs, products, strict=True)):
                if number * steps % chunk == 0:
                    borders[number * steps // chunk, block] = h
                decay, *two = cut(len(x))
                now = two[number % 2]  # h lies in the other one
                advance(decay, now, h, d, x, powers, b, floor)
                h = now.last
                torch.bmm(c, now.rows, out=out)
            y[block] += ys.transpose(0, 1)
        ctx.save_for_backward(u, delta, A, B, C, D, borders)
        ctx.chunk, ctx.floor, ctx.sizes = chunk, floor, (videos, steps)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        u, delta, A, B, C, D, borders = ctx.saved_tensors
        chunk, (videos, steps), (size, length, width), states = ctx.chunk, ctx.sizes, u.shape, len(A)
        powers, whole = A / math.log(2), min(chunk, length)
        dx, d_delta, dB, dC = (torch.empty_like(v) for v in (u, delta, B, C))
        decay, h, g = (u.new_empty(count * videos * A.numel()) for count in (whole, whole + 1, steps))
        dA = u.new_zeros(steps, videos, states, width)
        for first in range(0, size, videos):
            block = slice(first, first + videos)
            xs, deltas, Bs, Cs, dys = (by_time(v[block]) for v in (u * delta, delta, B, C, dy))
            found = [torch.empty_like(v) for v in (xs, deltas, Bs, Cs)]
            n = xs.shape[1]

            @functools.cache
            def cut(length: int, n: int = n) -> list[tuple]:
                """A chunk's decays, states before and behind its steps, gradients of those, and sums for A, group by group."""
                E, around = (shaped(buffer, length + more, n, states, width) for buffer, more in ((decay, 0), (h, 1)))
                parts = groups(steps, E, around[:-1], around[1:])
                sums = [(steps_of(shaped(g, len(E), n, states, width)), dA[: len(E), :n]) for E, *_ in parts]
                return [(steps_of(E), before, steps_of(after), *more) for (E, before, after), more in zip(parts, sums, strict=True)]

            inputs = groups(steps, deltas[:, :, None], xs[:, :, None], Bs[..., None], found[1])
            dxs, _, dBs, dCs = (rows(v) for v in found)
            products = (rows(xs)[..., None], rows(Bs)[:, None], rows(dys)[..., None], dxs[:, None], dBs[..., None], dCs[..., None])
            products = groups(steps * n, *products)
            Cs, dys = Cs[..., None], dys[:, :, None]
            ends = groups(1, Cs, dys)
            onward = u.new_zeros(n, states, width)  # ∂/∂h_t by way of h_{t+1}
            for start in reversed(range(0, length, chunk)):
                parts = list(enumerate(cut(min(chunk, length - start)), start // steps))
                last, decays = shaped(h, 1, n, states, width)[0].copy_(borders[start // chunk, block]), {}
                for number, (E, _, after, *_) in parts:
                    d, x, b, _ = inputs[number]
                    decays[number] = advance(E, after, last, d, x, powers, b, ctx.floor)
                    last = after.last
                for number, (E, before, after, G, dA_) in reversed(parts):
                    d, *_, dd_ = inputs[number]
                    x, b, y, dx_, dB_, dC_ = products[number]
                    end = min((number + 1) * steps, length) - 1
                    torch.addcmul(onward, *ends[end], out=G.last[None])  # ∂/∂h_t
                    if len(G.all) > 1:
                        torch.mul(Cs[number * steps : end], dys[number * steps : end], out=G.all[:-1])
                        solve_back(decays[number], G.all)
                    torch.bmm(after.rows, y, out=dC_)
                    torch.bmm(G.rows, x, out=dB_)
                    torch.bmm(b, G.rows, out=dx_)
                    E.all.mul_(G.all)
                    onward = E.first
                    q = torch.mul(E.all, before, out=G.all)  # ∂/∂(Δ_t A)
                    dA_.addcmul_(q, d)
                    torch.sum(q.mul_(A), 2, out=dd_)
                onward = onward.clone()  # the next chunk's decays overwrite it
            for all_, rows_ in zip((dx, d_delta, dB, dC), found, strict=True):
                all_[block] = rows_.transpose(0, 1)
        return (dx * delta).addcmul_(dy, D), d_delta.addcmul_(dx, u), dA.sum((0, 1)).t(), dB, dC, (dy * u).sum((0, 1)), None


def groups(steps: int, *arrays: Tensor) -> list[tuple[Tensor, ...]]:
    """Arrays (T, …), so many steps at a time."""
    return list(zip(*(x.split(steps) for x in arrays), strict=True))


def rows(x: Tensor) -> Tensor:
    """(steps, videos, …) -> (steps · videos, …), without a copy."""
    return x.view(-1, *x.shape[2:])


def by_time(x: Tensor) -> Tensor:
    """(videos, T, K) -> (T, videos, K) in memory."""
    return x.transpose(0, 1).contiguous()


@functools.cache
def kernel():
    """mamba_ssm's scan, None where it is not installed. Written after its documentation: the tests have no GPU to run it on."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def scan_backend(device: torch.device) -> str:
    """Which scan `selective_scan` takes on the device, in words."""
    if device.type != "cuda":
        return "selective scan: plain PyTorch"
    return "selective scan: mamba_ssm's CUDA kernel" if kernel() else "selective scan: plain PyTorch (mamba_ssm is not installed)"


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int | None = None) -> Tensor:
    """y (B, T, W) of the recurrence above, in float32, whatever autocast says, or float64 for u in float64.

    u, delta (B, T, W), delta behind the softplus; A (W, N), negative; B, C (B, T, N); D (W,). Memory for the backward pass is B · W · N
    · T / chunk; without a chunk it is chosen by the sizes. Values do not depend on it, beyond rounding. On a GPU mamba_ssm's kernel is
    taken where it is installed (float32, N up to 256, no chunk asked for).
    """
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    with torch.autocast(u.device.type, enabled=False):
        u, delta, A, B, C, D = (v.to(dtype) for v in (u, delta, A, B, C, D))
        if u.is_cuda and dtype == torch.float32 and A.shape[1] <= 256 and chunk is None and kernel():
            u, delta, B, C = (v.transpose(1, 2).contiguous() for v in (u, delta, B, C))
            return kernel()(u, delta, A, B, C, D).transpose(1, 2)
        if not torch.is_grad_enabled():
            chunk = u.shape[1]
        elif chunk is None:
            steps = group_sizes(len(u), u.shape[1], A.numel(), u.device)[1]
            chunk = max(math.isqrt(u.shape[1]), 4 * steps) if u.device.type == "cpu" else steps
        return SelectiveScan.apply(u, delta, A, B, C, D, max(chunk, 1))


class Mamba(nn.Module):
    """A Mamba-1 block, (B, T, width) to (B, T, width); causal: a snippet sees itself and those before it, so padding behind a video's end
    has no influence on it. Parameters are named and shaped as in mamba_ssm's `Mamba`, and weights go both ways. d_state: states a channel;
    d_conv: the taps of the convolution; expand: channels of the scan over width.
    """

    compiles = False  # the scan looks at values, to clamp decays

    def __init__(self, width: int, *, d_state: int = 16, d_conv: int = 4, expand: int = 2):
        super().__init__()
        inner, rank = expand * width, math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.A_log._no_weight_decay = self.D._no_weight_decay = True
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():  # so that softplus(bias) is log-uniform in [1e-3, 0.1]
            start = torch.exp(torch.rand(inner) * (math.log(0.1) - math.log(1e-3)) + math.log(1e-3)).clamp(min=1e-4)
            self.dt_proj.bias.copy_(start + torch.log(-torch.expm1(-start)))

    def forward(self, x: Tensor) -> Tensor:
        a, z = self.in_proj(x).chunk(2, -1)  # (B, T, W) each
        a = F.silu(self.conv1d(a.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2).contiguous())
        states = self.A_log.shape[1]
        delta, B, C = self.x_proj(a).split([self.dt_proj.in_features, states, states], -1)
        y = selective_scan(a, F.softplus(self.dt_proj(delta)), -torch.exp(self.A_log), B, C, self.D)
        return self.out_proj(y.to(z.dtype) * F.silu(z))
