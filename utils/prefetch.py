"""Batches on their way to the device, so that it does not wait for them: worker processes, pinned memory and the next batch copied ahead
on a GPU; or the whole training set, resampled, in memory (`--cache`).
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dataset import FeatureDataset, open_features, resample
from utils.errors import STOPS

WORKERS = 8  # on a GPU, at most, where --workers does not say
SHARE = 0.5  # of the free memory, at most, is for --cache


class Rows:
    """Matrices (n, width) float32 of `counts` rows each, at most `length`, one behind another on a device."""

    def __init__(self, counts: Sequence[int], length: int, width: int, device: torch.device):
        self.counts, self.length = torch.tensor(counts), length
        self.starts = self.counts.cumsum(0) - self.counts
        self.values = torch.zeros(sum(counts) + 1, width, device=device)  # the last row is that of padding

    def put(self, number: int, rows: Tensor) -> None:
        start = int(self.starts[number])
        self.values[start : start + len(rows)] = rows

    def places(self, numbers: Tensor) -> Tensor:
        """(B, length): where the rows of the matrices `numbers` (B,) lie."""
        at = torch.arange(self.length)
        return torch.where(at < self.counts[numbers, None], self.starts[numbers, None] + at, len(self.values) - 1)

    def batch(self, numbers: Tensor) -> Tensor:
        """(B, length, width) of the matrices `numbers` (B,), zeros behind each."""
        places = moved(self.places(numbers).flatten(), self.values.device)
        return self.values.index_select(0, places).view(len(numbers), self.length, -1)


class Cached(Dataset):
    """A FeatureDataset's batches, equal to the bit, of samples that `fill` resamples into a device's memory. Captions that several samples
    share are there once.
    """

    def __init__(self, train: FeatureDataset):
        self.train, self.features, self.texts = train, None, None
        rows = [len(open_features(file, train.width)) for _, file, _ in train.samples]
        self.counts = [min(count, train.length) for count in rows]
        self.targets = torch.tensor([video.target for video, _, _ in train.samples])
        self.text_of: dict[tuple[int, str], int] = {}  # (sample, version) -> which of the captions
        self.firsts: list[tuple[int, str]] = []  # a sample and version that has them
        self.text_rows: list[int] = []
        known: dict[tuple[Path, int], int] = {}
        for number, (video, _, _) in enumerate(train.samples if train.captions else ()):
            for version in train.versions:
                key = train.captions.find(video, train.crop(number), version), rows[number]
                if key not in known:
                    known[key] = len(known)
                    self.firsts.append((number, version))
                    self.text_rows.append(rows[number])
                self.text_of[number, version] = known[key]

    def size(self) -> int:
        """Bytes that it takes."""
        texts = sum(min(rows, self.train.length) for rows in self.text_rows)
        return 4 * (sum(self.counts) * self.train.width + (texts * self.train.captions.width if texts else 0))

    def fill(self, device: torch.device) -> None:
        """Read and resample all samples. Raises BadInput as dataset.load_features does."""
        length = self.train.length
        self.device, self.features = device, Rows(self.counts, length, self.train.width, device)
        for number in tqdm(range(len(self.counts)), "cache", unit=" samples", leave=False):
            rows, valid = resample(self.train.load(number), length)
            self.features.put(number, rows[:valid])
        if self.firsts:
            counts = [min(rows, length) for rows in self.text_rows]
            self.texts = Rows(counts, length, self.train.captions.width, device)
            for text, (number, version) in enumerate(tqdm(self.firsts, "cache", unit=" captions", leave=False)):
                rows, valid = resample(self.train.load_captions(number, self.text_rows[text], version), length)
                self.texts.put(text, rows[:valid])

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: list) -> tuple[Tensor, ...]:
        numbers = torch.tensor([one[0] if isinstance(one, tuple) else one for one in index])
        texts = [] if self.texts is None else [self.texts.batch(torch.tensor([self.text_of[one] for one in index]))]
        lengths, targets = (moved(part, self.device) for part in (self.features.counts[numbers], self.targets[numbers]))
        return self.features.batch(numbers), lengths, targets, *texts


def moved(values: Tensor, device: torch.device) -> Tensor:
    """`values` on a device; a GPU copies them when it comes to it, without being waited for."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def cores() -> int:
    """How many cores this process may use: under Slurm fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_here() -> int:
    """How many of torchrun's processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; of the host's what is free on the machine, or left of what its control group may have (a container's,
    Slurm's), shared with the other processes of torchrun.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError, StopIteration):  # elsewhere than on Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with contextlib.suppress(OSError, StopIteration):
        group = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        place = Path("/sys/fs/cgroup", group[3:].lstrip("/"))
        for folder in (place, *place.parents):  # a limit of any of them counts
            with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
                held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())["inactive_file"]
                used = int((folder / "memory.current").read_text()) - int(held)  # what of files is kept goes when it is needed
                free = min(free, int((folder / "memory.max").read_text()) - used)
    return max(free, 0) // processes_here()


def cached(train: FeatureDataset, device: torch.device) -> Dataset:
    """The training set in the memory of the device, else of the host, where it takes at most SHARE of what is free; else `train`, whose
    features are read from their files. Which it is is said.
    """
    result = Cached(train)
    needs = result.size()
    places = [device, torch.device("cpu")] if device.type == "cuda" else [torch.device("cpu")]
    for place in places:
        if needs <= SHARE * free_memory(place):
            result.fill(place)
            print(f"cache: {len(result)} samples, {needs / 2**30:.2f} GiB of the {'host' if place.type == 'cpu' else 'GPU'}'s memory")
            return result
    free = " and ".join(f"{free_memory(place) / 2**30:.2f} GiB ({place.type})" for place in places)
    print(f"note: --cache: {len(result)} samples take {needs / 2**30:.2f} GiB, more than half of {free} that are free: read from files")
    return train


def _stay(_worker: int) -> None:
    """A worker lives until its training ends it: Slurm and Ctrl-C tell the whole group to stop, and the training has a step to finish."""
    for number in (*STOPS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def make_loader(train: FeatureDataset, batches, options, device: torch.device) -> DataLoader:
    """The batches of `train` that the sampler `batches` names, as the options say; the order is the sampler's, whatever the workers."""
    data = cached(train, device) if options.cache else train
    on_gpu = isinstance(data, Cached) and data.device.type == "cuda"
    workers = 0 if on_gpu else options.workers
    if workers is None:
        workers = min(WORKERS, max(1, cores() // processes_here())) if device.type == "cuda" else 0
    return DataLoader(
        data,
        sampler=batches,
        batch_size=None,  # the sampler's numbers are those of a batch, which the data set gives whole
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda" and not on_gpu,
        worker_init_fn=_stay,
        generator=torch.Generator(),  # else it draws its workers' seed from the generator that dropout draws from
    )


def ahead(loader: DataLoader, device: torch.device) -> Iterator[Sequence[Tensor]]:
    """The batches on the device: a GPU copies each, in a stream of its own, while it computes with the one before."""
    if device.type != "cuda":
        yield from loader
        return
    copies, waiting = torch.cuda.Stream(device), None
    for batch in loader:
        with torch.cuda.stream(copies):
            parts = [part.to(device, non_blocking=True) for part in batch]
            there = copies.record_event()
        if waiting:
            yield _arrived(*waiting)
        waiting = parts, there
    if waiting:
        yield _arrived(*waiting)


def _arrived(parts: list[Tensor], there) -> list[Tensor]:
    """The parts of a batch, once the copies are done; their memory is not given to the next copy while they are computed with."""
    now = torch.cuda.current_stream(parts[0].device)
    now.wait_event(there)
    for part in parts:
        part.record_stream(now)
    return parts
