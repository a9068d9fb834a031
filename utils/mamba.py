"""Mamba (Gu & Dao 2023, arXiv 2312.00752) in plain PyTorch: the block with mamba_ssm's parameter names, and its selective scan.

B videos, T snippets, W channels of the scan (expand × the block's width), N states a channel (d_state).

The scan is the recurrence, for each video and channel,

    h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t,    h_0 = 0, h of N values

run step by step; for the backward pass only each `chunk`-th state is kept, the others are computed once more from there. So memory grows
with N × T / chunk, where autograd through the recurrence keeps several values for each of the N × T.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class SelectiveScan(torch.autograd.Function):
    """y of the recurrence without D u; see `selective_scan`."""

    @staticmethod
    def forward(ctx, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
        size, length, width = x.shape
        h = x.new_zeros(size, width, A.shape[1])
        borders, y = [], torch.empty_like(x)
        for t in range(length):
            if t % chunk == 0:
                borders.append(h.clone())
            h.mul_((delta[:, t, :, None] * A).exp_()).addcmul_(x[:, t, :, None], B[:, t, None])
            torch.matmul(h, C[:, t, :, None], out=y[:, t, :, None])
        ctx.save_for_backward(x, delta, A, B, C, *borders)
        ctx.chunk = chunk
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, delta, A, B, C, *borders = ctx.saved_tensors
        dx, d_delta, dA, dB, dC = (torch.zeros_like(v) for v in (x, delta, A, B, C))
        g = torch.zeros_like(borders[0])  # ∂/∂h_t
        for k in reversed(range(len(borders))):
            states, decays = [borders[k]], []
            steps = range(k * ctx.chunk, min((k + 1) * ctx.chunk, x.shape[1]))
            for t in steps:
                decays.append((delta[:, t, :, None] * A).exp_())
                states.append((decays[-1] * states[-1]).addcmul_(x[:, t, :, None], B[:, t, None]))
            for t in reversed(steps):
                h, decay = states.pop(), decays.pop()
                g.addcmul_(dy[:, t, :, None], C[:, t, None])
                dC[:, t] = (dy[:, t, None] @ h)[:, 0]
                dB[:, t] = (x[:, t, None] @ g)[:, 0]
                dx[:, t] = (g @ B[:, t, :, None])[..., 0]
                g.mul_(decay)
                q = g * states[-1]  # ∂/∂(Δ_t A)
                d_delta[:, t] = (q * A).sum(-1)
                dA += (q * delta[:, t, :, None]).sum(0)
        return dx, d_delta, dA, dB, dC, None


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int | None = None) -> Tensor:
    """y (B, T, W) of the recurrence above, float32 (float64 for float64 input) whatever autocast says.

    u, delta (B, T, W), delta behind the softplus; A (W, N), negative; B, C (B, T, N); D (W,). chunk: steps between the states that are
    kept for the backward pass; None: chosen by the sizes. The values do not depend on it, beyond rounding.
    """
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    with torch.autocast(u.device.type, enabled=False):
        u, delta, A, B, C, D = (v.to(dtype) for v in (u, delta, A, B, C, D))
        return SelectiveScan.apply(delta * u, delta, A, B, C, chunk or 16) + D * u


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
        a = F.silu(self.conv1d(a.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        states = self.A_log.shape[1]
        delta, B, C = self.x_proj(a).split([self.dt_proj.in_features, states, states], -1)
        y = selective_scan(a, F.softplus(self.dt_proj(delta)), -torch.exp(self.A_log), B, C, self.D)
        return self.out_proj(y.to(z.dtype) * F.silu(z))
