"""StableAdamW and its learning rate by step, as DSANet's authors took them from Dinomaly (CVPR 2025)."""

import math

import torch
from torch import Tensor

WARMUP, FLOOR = 100, 0.1  # steps up to lr; the share of lr that it ends at


class StableAdamW(torch.optim.Optimizer):
    """AdamW with the running maximum of the second moment (AMSGrad), whose step is divided by the root mean square of g/√v of a tensor
    where that is above 1. Weight decay comes first.
    """

    def __init__(self, parameters, *, lr: float, betas=(0.9, 0.999), eps: float = 1e-10, weight_decay: float = 1e-4):
        super().__init__(parameters, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in (one for one in group["params"] if one.grad is not None):
                self.move(parameter, **{name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})

    def move(self, parameter: Tensor, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["step"] = torch.tensor(0.0)
            state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
        state["step"] += 1
        first, second = (1 - beta ** state["step"].item() for beta in betas)  # against the bias of the first steps
        parameter.mul_(1 - lr * weight_decay)
        state["exp_avg"].lerp_(gradient, 1 - betas[0])
        state["exp_avg_sq"].mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        torch.maximum(state["max_exp_avg_sq"], state["exp_avg_sq"], out=state["max_exp_avg_sq"])
        divisor = (state["max_exp_avg_sq"].sqrt() / math.sqrt(second)).add_(eps)
        rate = lr / first / (gradient / divisor).square().mean().sqrt().clamp(min=1)
        parameter.sub_(rate * state["exp_avg"] / divisor)


def warm_cosine(step: int, total: int, warmup: int = WARMUP) -> float:
    """The share of lr in a step, counted from 0: up a straight line from 0, then down a cosine to FLOOR at `total`."""
    if step >= total:
        return FLOOR
    if step < warmup:
        return step / (warmup - 1)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
