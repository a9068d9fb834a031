"""Batches of training samples: half normal and half abnormal, or shuffled; with captions, which version of them each sample takes."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from utils import ranks
from utils.errors import BadInput


def both_kinds(abnormal: Sequence[bool]) -> list[np.ndarray]:
    """Numbers of the normal and of the abnormal samples. Raises BadInput where one kind is missing."""
    kinds = [np.flatnonzero(np.asarray(abnormal, bool) == kind) for kind in (False, True)]
    normal, anomalous = map(len, kinds)
    if not (normal and anomalous):
        found = f"{normal} normal and {anomalous} abnormal samples to train on"
        raise BadInput(f"{found}; expected some of both; name a list that has them with --train-list")
    return kinds


class BalancedBatches(torch.utils.data.Sampler):
    """Batches of sample numbers, all of one size: first half normal, second half abnormal (ReFLIP-VAD eq. 14: 64 + 64).

    Each kind is drawn from shuffles of all its samples, one after another. An epoch ends with the batch in which the
    larger kind has been seen whole; that batch is completed from its next shuffle. A half is `batch_size` / 2, or the
    larger kind's count if less. The order depends on (seed, epoch) alone. Raises BadInput for an odd batch size and
    where `abnormal` has one kind only.
    """

    def __init__(self, abnormal: Sequence[bool], batch_size: int, seed: int):
        if batch_size < 2 or batch_size % 2:
            raise BadInput(f"--batch-size {batch_size}: expected an even number, one half normal, one abnormal")
        self.kinds = both_kinds(abnormal)
        normal, anomalous = map(len, self.kinds)
        self.half = min(batch_size // 2, max(normal, anomalous))
        self.batches = -(-max(normal, anomalous) // self.half)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        count = self.batches * self.half
        halves = []
        for samples in self.kinds:
            shuffles = [rng.permutation(samples) for _ in range(-(-count // len(samples)))]
            halves.append(np.concatenate(shuffles)[:count].reshape(self.batches, self.half))
        yield from np.hstack(halves).tolist()


class ShuffledBatches(torch.utils.data.Sampler):
    """Batches of sample numbers from one shuffle of all samples, normal and abnormal as they come; the last one may be smaller. The order
    depends on (seed, epoch) alone (XDVioDet; VadCLIP on XD-Violence). Raises BadInput where `abnormal` has one kind only.
    """

    def __init__(self, abnormal: Sequence[bool], batch_size: int, seed: int):
        self.samples = sum(map(len, both_kinds(abnormal)))
        self.size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.samples // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        yield from (order[at : at + self.size].tolist() for at in range(0, self.samples, self.size))


class RankBatches(torch.utils.data.Sampler):
    """This rank's slices of the batches of another sampler, from batch `start` of an epoch on. One that gets none of a small batch, and
    whose loader must load something, loads its first sample.
    """

    def __init__(self, batches: torch.utils.data.Sampler):
        self.batches, self.start = batches, 0

    def __len__(self) -> int:
        return len(self.batches) - self.start

    def __iter__(self) -> Iterator[list]:
        return (ranks.mine(batch) or batch[:1] for batch in islice(self.batches, self.start, None))


class DrawnVersions(torch.utils.data.Sampler):
    """The batches of another sampler as (number, version): a version of the captions is drawn each time a sample is loaded. The draws
    depend on (seed, epoch) alone.
    """

    def __init__(self, batches: BalancedBatches | ShuffledBatches, versions: Sequence[str]):
        self.batches, self.versions = batches, tuple(versions)

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, str]]]:
        rng = np.random.default_rng((self.batches.seed, self.batches.epoch, len(self.versions)))
        for batch in self.batches:
            draws = rng.integers(len(self.versions), size=len(batch))
            yield [(number, self.versions[draw]) for number, draw in zip(batch, draws.tolist(), strict=True)]
