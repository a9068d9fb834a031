"""Training and testing in several processes, one a GPU, which torchrun starts: ranks. Each has a slice of every batch and of the videos
that are scored, and the same weights; the first one prints and writes.

A loss is computed from a rank's own slice, as its share: the sum over the ranks is the loss of the whole batch, so gradients are summed,
not averaged. What else spans a batch (statistics of a normalisation, bags that are compared) is exchanged with its gradient. In a single
process each function gives what it was given, and nothing is sent.
"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

# Before there is a group: its functions' defaults would hold that one, and its threads outlive Python, and abort it.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F

from utils.errors import STOPS, BadInput


def count() -> int:
    """How many ranks there are; 1 outside `joined`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def joined():
    """Round the `main` of a script (utils.errors.exit_code): join torchrun's processes. All but the first are silent; of an error or an
    interruption, on whichever rank, the one that meets it first tells, and the others end without a word.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    store, number, size = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        # A torchrun that starts them all again keeps its store, and in it the addresses of those that are gone.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # While the first one draws pictures the others wait. Who dies is noticed at once: the connection breaks.
    try:
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timedelta(days=30))
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        raise BadInput(f"torchrun: its processes do not reach each other ({said}); start it again, or see GLOO_SOCKET_IFNAME") from None
    try:
        with contextlib.ExitStack() as stack:
            if number:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield
            wait()  # torchrun ends all as soon as one has ended with an exit code
    except SystemExit:  # --help
        raise
    except BaseException as error:
        for ending in (*STOPS, signal.SIGINT):  # this is one
            signal.signal(ending, signal.SIG_IGN)
        with contextlib.suppress(RuntimeError):  # torchrun itself is gone
            if store.add("told", 1) > 1:
                raise SystemExit(1) from None
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise BadInput("torchrun: another of its processes is gone, killed perhaps, for memory; start it again with --resume") from None
        raise
    finally:
        if sys.exception() is None or not torch.cuda.is_available():  # NCCL's would wait for the others
            dist.destroy_process_group()


def wait() -> None:
    """Wait for the others to come here."""
    total(0)


def first(function: Callable) -> Callable:
    """`function` called by the first rank alone; each one gets what it returns, when it has returned."""

    @functools.wraps(function)
    def called(*arguments, **named):
        if count() == 1:
            return function(*arguments, **named)
        result = [None if rank() else function(*arguments, **named)]
        dist.broadcast_object_list(result)
        return result[0]

    return called


def mine(items: Sequence) -> Sequence:
    """This rank's slice: of a batch whose first half is of one kind it has as much of either, but for one."""
    return items[rank() :: count()]


def merged(found: dict) -> dict:
    """The entries that the ranks found, all of them on each."""
    if count() == 1:
        return found
    parts = [None] * count()
    dist.all_gather_object(parts, found)
    return {key: value for part in parts for key, value in part.items()}


def counts(number: int) -> list[int]:
    """The `number` of each rank. It is exchanged by the CPUs, so that no GPU waits for it."""
    numbers = torch.zeros(count(), dtype=torch.int64)
    numbers[rank()] = number
    if count() > 1:
        dist.all_reduce(numbers)
    return numbers.tolist()


def total(number: int) -> int:
    return sum(counts(number))


def is_host(device: torch.device) -> bool:
    """Whether the device is the CPU, of which a number can be read, and the rows be taken that a mask names, without a stop."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def over_all(numbers: Tensor, operation=dist.ReduceOp.SUM) -> Tensor:
    """The sum of each number over the ranks, or another operation; no gradient, and no stop of a GPU."""
    if count() > 1:
        numbers = numbers.detach().clone()
        dist.all_reduce(numbers, operation)
    return numbers


def largest(numbers: Tensor) -> Tensor:
    """The largest of a whole batch's numbers (b,), whole ones above 0."""
    return over_all(F.pad(numbers, (0, 1)).max(), dist.ReduceOp.MAX)


class Summed(torch.autograd.Function):
    """The sum of a tensor over the ranks. Each has its own share of the loss, so that gradients are summed, too."""

    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        return over_all(x.contiguous())

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> Tensor:
        return Summed.forward(context, gradient)


def gathered(x: Tensor) -> Tensor:
    """x (b,) of all ranks, one after the other: (B,), with the gradient."""
    if count() == 1:
        return x
    sizes = counts(len(x))
    before = sum(sizes[: rank()])
    return Summed.apply(F.pad(x, (before, sum(sizes) - before - len(x))))


def share(mean: Tensor, number: int = 1) -> Tensor:
    """This rank's share of the mean over all ranks, from its own `mean`, of `number` items; of what each rank computes alike, 1."""
    if count() == 1:
        return mean
    mean = mean if number else mean.nan_to_num()  # of nothing
    return mean * (number / total(number))


class Dropout(nn.Dropout):
    """nn.Dropout. Of several ranks each draws for the whole batch, of `bags` bags, and takes what falls to its own, so that they drop what
    one process would, and draw as often; a rank without a bag does not draw. x (bags, ...), or bags cut into as many windows each.
    """

    bags = 0

    def forward(self, x: Tensor) -> Tensor:
        own = len(range(rank(), self.bags, count()))
        if count() == 1 or not self.training or not own:
            return super().forward(x)
        as_it_lies = sorted(range(x.dim()), key=x.stride, reverse=True)
        whole = torch.empty_permuted((self.bags * (len(x) // own), *x.shape[1:]), as_it_lies, dtype=x.dtype, device=x.device)
        kept = super().forward(whole.fill_(1)).unflatten(0, (self.bags, -1))
        return x * mine(kept).flatten(0, 1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """This rank's share of the mean of the values that `mask`, of the same shape, names on all ranks."""
    return values.masked_fill(~mask, 0).sum() / over_all(mask.sum())


def batch_norm(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """norm(x) of x (N, W) or (N, W, T), in training by the statistics of all ranks' N · T values. With a mask (N, T) only those count that
    it names, and the others become 0.
    """
    if not norm.training or (count() == 1 and mask is None and x.numel() > x.shape[1]):
        return norm(x) if mask is None else norm(x) * mask[:, None]
    if mask is not None and is_host(x.device) and mask.sum() > 1:  # fewer rows to go over
        rows = x.movedim(1, -1)
        y = torch.zeros_like(rows)
        y[mask] = batch_norm(norm, rows[mask]).to(y)
        return y.movedim(-1, 1)
    rows = x.float().movedim(1, -1).flatten(0, -2)  # (N · T, W)
    width, valid = rows.shape[1], rows.new_ones(len(rows), 1) if mask is None else mask.reshape(-1, 1).float()
    rows, number = rows * valid, valid.sum(0)
    mean = rows.sum(0) / number.clamp(min=1)
    own = torch.cat([mean, ((rows - mean) * valid).square().sum(0), number])  # of each rank around its own mean: no cancellation
    means, squares, numbers = Summed.apply(F.pad(own[None], (0, 0, rank(), count() - rank() - 1))).split([width, width, 1], 1)
    number = numbers.sum()
    mean = (numbers * means).sum(0) / number
    squares = (squares + numbers * (means - mean).square()).sum(0)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        told = norm.momentum * (number > 1).float()  # of one value there is no variance
        norm.running_mean.lerp_(mean, told)
        norm.running_var.lerp_(squares / (number - 1).clamp(min=1), told)
    mean, scale, bias = (
        value.view(-1, *[1] * (x.dim() - 2)) for value in (mean, (squares / number + norm.eps).rsqrt() * norm.weight, norm.bias)
    )
    y = ((x.float() - mean) * scale + bias).to(x.dtype)  # it lies as x does, as norm(x) would: what is drawn for it follows that
    return y if mask is None else y * mask[:, None]


def summed(shares: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of a batch from each rank's shares."""
    return dict(zip(shares, over_all(torch.stack([value.detach().float() for value in shares.values()])).unbind(), strict=True))


def sum_gradients(model: nn.Module) -> None:
    """Give each parameter the sum of its gradients on all ranks; parameters that no loss depends on have none on either."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(whole)
    for gradient, part in zip(gradients, whole.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
