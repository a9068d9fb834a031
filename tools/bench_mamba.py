"""Mamba's selective scan against literal recurrences, same weights, and a training step of TrCLIP-VAD: `python -m tools.bench mamba`.

Every version runs in a process of its own, all under what utils/engine.fit sets. Its peak memory is what that process had at most, less what
it had with its model and inputs made. tests/test_mamba.py holds utils/mamba.py to the literal recurrences of this file.

B videos, T snippets, W channels of the scan, N states a channel.
"""

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from model import build_model, options_of
from tools.bench import matmul_rate, seconds
from tools.bench_vadclip import elapsed, random_batch, random_features, restart_peak
from ucf_option import parse_args
from utils import engine, mamba
from utils.labels import UCF
from utils.text import openai_clip

SIZES = ((8, 256, 512, 256), (8, 4096, 64, 16))  # B, T, W, N: TrCLIP-VAD's wider Mamba block; a long video, few channels and states
EXPS, PASSES = 2, 17  # of utils/mamba.py, over each of the B · T · W · N: in forward 1 and 4, in backward 1 and 13
SLOW = 1  # videos of a batch that transformers' version, slower by far than any other, is timed on


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
