"""Mamba (Gu & Dao 2023, arXiv 2312.00752) in plain PyTorch: the block with mamba_ssm's parameter names, and its selective scan.

B videos, T snippets, W channels of the scan (expand × the block's width), N states a channel (d_state).

The scan is, for each video and channel, the recurrence of N values

    h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t,    h_{−1} = 0.

Autograd through it keeps several values for each of the T · W · N, and is bound by going over them in memory. Here the backward pass is
written by hand and only every chunk-th state is kept; those between are computed once more. The work is cut so that what an operation reads
was written a moment ago and still lies in the cache: some videos, then a group of steps at a time. Within a group everything but the
recurrence itself, one operation a step, is done for all its steps at once. States are laid out (step and video, N, W): channels, of which
there are many, come last, and the sums over states and channels are products of matrices.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Steps(NamedTuple):
    """A group's rows, and the views of its steps."""

    all: Tensor  # (steps · videos, N, W)
    each: Sequence[Tensor]  # (videos, N, W)


class Cut:
    """Cuts rows of `by_time` of so many videos into groups of steps, and a group into its steps. That of a buffer is kept: on a long video
    of few channels it takes as long as what is computed.
    """

    def __init__(self, videos: int, steps: int):
        self.videos, self.rows, self.known = videos, videos * steps, {}

    def groups(self, *rows: Tensor) -> list[tuple[Tensor, ...]]:
        return list(zip(*(x.split(self.rows) for x in rows), strict=True))

    def steps(self, group: Tensor) -> Steps:
        key = group.data_ptr(), len(group)
        if key not in self.known:
            self.known[key] = Steps(group, group.split(self.videos))
        return self.known[key]


def advance(decay: Steps, states: Steps, h: Tensor, delta: Tensor, x: Tensor, A: Tensor, B: Tensor, floor: float | None) -> Tensor:
    """Write a group's decays exp(Δ A) and states from h (videos, N, W), the state before it; its last state.

    delta, x = Δ u (steps · videos, 1, W); A (N, W); B (steps · videos, N, 1).
    """
    torch.mul(delta, A, out=decay.all)
    if floor is not None:
        decay.all.clamp_(min=floor)
    decay.all.exp_()
    torch.bmm(B, x, out=states.all)
    for factor, state in zip(decay.each, states.each, strict=True):
        h = state.addcmul_(factor, h)
    return h


def clamp_at(delta: Tensor, A: Tensor) -> float | None:
    """Where to clamp Δ A, or None if it is nowhere below. On a CPU an exp or a product too small for a normal number takes up to 400 times
    as long as any other. A decay at the clamp is √tiny, 1e-19 in float32: far less than the state beside it is rounded by.
    """
    floor = math.log(torch.finfo(A.dtype).tiny) / 2
    return floor if delta.device.type == "cpu" and delta.numel() and (delta.amax((0, 1)) * A.amin(0)).min() < floor else None


def group_sizes(videos: int, steps: int, state: int, device: torch.device) -> tuple[int, int]:
    """Videos and steps that are worked on at once, for a state of `state` = N · W numbers: on a CPU as many as share its second-level cache
    with the few arrays of their size, and keep its threads busy.
    """
    numbers = 65536 * torch.get_num_threads() if device.type == "cpu" else 2**22
    videos = max(min(videos, numbers // state), 1)
    return videos, max(min(steps, numbers // (state * videos)), 1)


class SelectiveScan(torch.autograd.Function):
    """See `selective_scan`."""

    @staticmethod
    def forward(ctx, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int) -> Tensor:
        (size, length, width), states, A = u.shape, A.shape[1], A.t().contiguous()
        floor = clamp_at(delta, A)
        videos, steps = group_sizes(size, min(chunk, length), A.numel(), u.device)
        borders = u.new_empty(-(-length // chunk), size, states, width)  # the states before each chunk
        decay, *buffers = (u.new_empty(steps * videos, states, width) for _ in range(3))
        y = u * D
        for first in range(0, size, videos):
            block = slice(first, first + videos)
            n = len(u[block])
            h, cut = u.new_zeros(n, states, width), Cut(n, steps)
            for start in range(0, length, chunk):
                part = (block, slice(start, start + chunk))
                borders[start // chunk, block] = h
                us, deltas, Bs, Cs = (by_time(v[part]) for v in (u, delta, B, C))
                xs, ys = us * deltas, torch.empty_like(us)
                for d, x, b, c, out in cut.groups(deltas[:, None], xs[:, None], Bs[..., None], Cs[:, None], ys[:, None]):
                    buffers.reverse()  # h lies in the other one
                    now = cut.steps(buffers[0][: len(x)])
                    h = advance(cut.steps(decay[: len(x)]), now, h, d, x, A, b, floor)
                    torch.bmm(c, now.all, out=out)
                y[part] += by_video(ys, n)
        ctx.save_for_backward(u, delta, A, B, C, D, borders)
        ctx.chunk, ctx.floor, ctx.sizes = chunk, floor, (videos, steps)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        u, delta, A, B, C, D, borders = ctx.saved_tensors
        chunk, (videos, steps), (size, length, _) = ctx.chunk, ctx.sizes, u.shape
        du, d_delta, dB, dC = (torch.empty_like(v) for v in (u, delta, B, C))
        decay = u.new_empty(min(chunk, length) * videos, *A.shape)
        h = u.new_empty(len(decay) + videos, *A.shape)  # behind the state before the chunk
        g = u.new_empty(steps * videos, *A.shape)
        dA, carry = torch.zeros_like(g), torch.empty_like(g[:videos])
        for first in range(0, size, videos):
            block = slice(first, first + videos)
            n = len(u[block])
            onward, cut = carry[:n].zero_(), Cut(n, steps)  # ∂/∂h_t by way of h_{t+1}
            for start in reversed(range(0, length, chunk)):
                part = (block, slice(start, start + chunk))
                us, deltas, Bs, Cs, dys = (by_time(v[part]) for v in (u, delta, B, C, dy))
                xs = us * deltas
                dxs, d_deltas, dBs, dCs = (torch.empty_like(v) for v in (us, deltas, Bs, Cs))
                last, before, states, decays = h[:n].copy_(borders[start // chunk, block]), h[: len(us)], h[n:][: len(us)], decay[: len(us)]
                for factors, after, d, x, b in cut.groups(decays, states, deltas[:, None], xs[:, None], Bs[..., None]):
                    last = advance(cut.steps(factors), cut.steps(after), last, d, x, A, b, ctx.floor)
                buffers, found = (decays, states, before), (dxs[:, None], d_deltas, dBs[..., None], dCs[..., None])
                inputs = (deltas[:, None], xs[..., None], Bs[:, None], Cs[..., None], dys[:, None], dys[..., None])
                for factors, after, previous, d, x, b, c, dy_row, dy_column, dx, dd, db, dc in reversed(
                    cut.groups(*buffers, *inputs, *found)
                ):
                    factors = cut.steps(factors)
                    now = cut.steps(g[: len(x)])  # ∂/∂h_t
                    torch.addcmul(onward, c[-n:], dy_row[-n:], out=now.each[-1])
                    if len(x) > n:
                        torch.bmm(c[:-n], dy_row[:-n], out=now.all[:-n])
                    for t in reversed(range(len(now.each) - 1)):
                        now.each[t].addcmul_(factors.each[t + 1], now.each[t + 1])
                    torch.bmm(after, dy_column, out=dc)
                    torch.bmm(now.all, x, out=db)
                    torch.bmm(b, now.all, out=dx)
                    factors.all.mul_(now.all)
                    onward = factors.each[0]
                    q = torch.mul(factors.all, previous, out=now.all)  # ∂/∂(Δ_t A)
                    dA[: len(q)].addcmul_(q, d)
                    torch.sum(q.mul_(A), 1, out=dd)
                onward = carry[:n].copy_(onward)  # the next chunk's decays overwrite it
                d_deltas.addcmul_(dxs, us)
                for whole, rows in ((du, dxs.mul_(deltas)), (d_delta, d_deltas), (dB, dBs), (dC, dCs)):
                    whole[part] = by_video(rows, n)
        return du.addcmul_(dy, D), d_delta, dA.sum(0).t(), dB, dC, (dy * u).sum((0, 1)), None


def by_time(x: Tensor) -> Tensor:
    """(videos, T, K) -> (T · videos, K)."""
    return x.transpose(0, 1).reshape(-1, x.shape[2])


def by_video(x: Tensor, videos: int) -> Tensor:
    """Undo `by_time`."""
    return x.view(-1, videos, x.shape[1]).transpose(0, 1)


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
            chunk = max(math.isqrt(u.shape[1]), 4 * group_sizes(len(u), u.shape[1], A.numel(), u.device)[1])
        return SelectiveScan.apply(u, delta, A, B, C, D, max(chunk, 1))


class Mamba(nn.Module):
    """A Mamba-1 block, (B, T, width) to (B, T, width); causal: a snippet sees itself and those before it, so padding behind a video's end
    has no influence on it. Parameters are named and shaped as in mamba_ssm's `Mamba`, and weights go both ways. d_state: states a channel;
    d_conv: the taps of the convolution; expand: channels of the scan over width.
    """

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
