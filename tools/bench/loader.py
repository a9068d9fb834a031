"""Bags a second that one core brings to a training step, of features packed, kept in memory, and in files: `python -m tools.bench loader`.

The reference reads and resamples as written down: np.load, float32, a look at every value, index_add_ over segments, torch's collation. A
batch of each is compared with its own. Cold: the operating system has forgotten the files (Linux), and checksums are compared. Warm: by the
seconds of the processor, which other work on the machine does not lengthen as much.
"""

import gc
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import DataLoader, default_collate

from dataset import FeatureDataset, index_features, read_list
from tools import pack_features
from tools.bench.measure import UCF, seconds
from ucf_option import parse_args
from utils import packs
from utils.batches import BalancedBatches
from utils.devices import keep_freed_memory
from utils.evaluation.ground_truth import load_ground_truth
from utils.labels import SNIPPET
from utils.prefetch import WORKERS, make_loader

STEPS = (5, 10, 50)  # ms, of a GPU: 2 TFLOP are 5 to 10 ms of an H100; docs/speed.md measured 58 and more
ROUNDS = 3


class Literal(torch.utils.data.Dataset):
    """The samples of a FeatureDataset, read one by one."""

    def __init__(self, train: FeatureDataset):
        self.train = train

    def __getitem__(self, number: int):
        video, file, _ = self.train.samples[number]
        features = np.load(file, mmap_mode="r", allow_pickle=False).astype(np.float32)
        assert np.isfinite(features).all()
        features, rows, length = torch.from_numpy(features), len(features), self.train.length
        if rows <= length:
            return pad(features, (0, 0, 0, length - rows)), rows, torch.tensor(video.target)
        counts = torch.from_numpy(np.diff(np.linspace(0, rows, length + 1, dtype=np.int64)))
        segments = torch.arange(length).repeat_interleave(counts)
        means = features.new_zeros(length, features.shape[1]).index_add_(0, segments, features) / counts[:, None]
        return means, length, torch.tensor(video.target)


def write_features(folder: Path, crops: int, videos: int | None, width: int) -> tuple[Path, Path]:
    """Features float16 of the lengths of UCF-Crime's test videos, and their list."""
    rng, rows = np.random.default_rng(0), ["path,label"]
    (folder / "features").mkdir()
    for number, (name, truth) in enumerate(list(load_ground_truth(UCF.gt_path, UCF).items())[:videos]):
        rows.append(f"{name}.npy,{UCF.labels[number % 2]}")
        for crop in range(crops):
            features = rng.standard_normal((max(1, truth.frames // SNIPPET), width), np.float32) * 0.44
            np.save(folder / "features" / f"{name}__{crop}.npy", features.astype(np.float16))
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder / "features", folder / "list.csv"


def forget(folder: Path) -> None:
    """Let this process and the operating system forget what they have read of a folder."""
    packs._packs.clear()
    packs._arrays.clear()
    gc.collect()
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def rate(loader: DataLoader, clock: Callable[[], float]) -> float:
    """Bags a second of one epoch."""
    start, bags = clock(), 0
    for features, *_ in loader:
        bags += len(features)
    return bags / (clock() - start)


def through_a_worker(loader: DataLoader) -> tuple[float, float]:
    """Milliseconds of the processor that a batch costs a worker process, and the main one, which maps it and copies it to where it is sent
    from. (A GPU's pinned memory; here memory that is kept.)
    """

    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, kept, batches = children(), None, 0
    start = time.process_time()
    for _ in range(ROUNDS):
        for features, *_ in loader:
            kept = torch.zeros_like(features) if kept is None else kept
            kept.copy_(features)
            batches += 1
    main = time.process_time() - start
    loader._iterator._shutdown_workers()
    return 1000 * (children() - before) / batches, 1000 * main / batches


def disk_rate(file: Path, bags: int) -> float:
    """Bags a second that reading a file of so many, from end to end, would give."""
    forget(file.parent)
    start = time.perf_counter()
    with file.open("rb") as opened:
        while opened.read(2**20):
            pass
    return bags / (time.perf_counter() - start)


def loaders(root: Path, pack: Path, listing: Path, options) -> Iterator[tuple[str, Path, Callable[..., DataLoader]]]:
    """What is measured: its name, what it reads, and what makes it, with workers."""

    def make(place: Path, workers: int, cache: bool = False, literal: bool = False) -> DataLoader:
        index_features(place)
        train = FeatureDataset(read_list(listing, place, UCF), length=options.visual_length, width=options.visual_width)
        batches = BalancedBatches(train.abnormal, options.batch_size, seed=1)
        if literal:
            several = {"num_workers": workers, "persistent_workers": workers > 0}
            return DataLoader(Literal(train), batch_sampler=batches, collate_fn=default_collate, **several)
        options.cache, options.workers = cache, workers
        return make_loader(train, batches, options, torch.device("cpu"))

    yield "separate files, literal", root, lambda workers=0: make(root, workers, literal=True)
    yield "separate files", root, lambda workers=0: make(root, workers)
    yield "packed", pack, lambda workers=0: make(pack, workers)
    yield "packed, --cache", pack, lambda workers=0: make(pack, workers, cache=True)


def bench_loader(crops: int = 4, videos: int | None = None, words=()) -> None:
    """At UCF-Crime's sizes (batch 128, length 256, width 512); tests give fewer videos and smaller sizes. 600 MB on the disk."""
    options = parse_args(["--model", "vadclip", "--feature-root", "unused", "--device", "cpu", "--workers", "0", *words])
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, listing = write_features(Path(folder), crops, videos, options.visual_width)
        pack_features.main([str(root)])
        pack = Path(f"{root}-packed")
        wanted = list(loaders(root, pack, listing, options))
        disk, cold = 0.0, {name: 0.0 for name, *_ in wanted if name != "packed, --cache"}  # that is read once, then from memory
        for _ in range(ROUNDS):  # in turn, so that other work on the machine meets all of them
            for name, place, make in wanted:
                if name in cold:
                    loader = make()
                    forget(place)
                    cold[name] = max(cold[name], rate(loader, time.perf_counter))
            disk = max(disk, disk_rate(packs.values_file(pack, "float16"), len(loader.dataset)))
        ready = {name: make() for name, _, make in wanted}
        first = {name: next(iter(loader)) for name, loader in ready.items()}
        for name, batch in first.items():
            assert all(map(torch.equal, batch, first["separate files, literal"])), name
        print(f"batches of all are equal to the bit; cold, the disk gives {disk:.0f} bags a second from end to end")
        warm = dict.fromkeys(ready, 0.0)
        for _ in range(ROUNDS):
            warm = {name: max(warm[name], rate(loader, time.process_time)) for name, loader in ready.items()}
        for name, _, make in wanted:
            ratio = warm[name] / warm["separate files, literal"]
            at_first = f"{cold[name]:.0f} cold ({cold[name] / cold['separate files, literal']:.1f} ×), " if name in cold else ""
            batch = 1000 * options.batch_size / warm[name]
            print(f"{name}: {at_first}{warm[name]:.0f} bags a second of a core warm ({ratio:.1f} ×), {batch:.1f} ms a batch", end="; ")
            worker, main = through_a_worker(make(1))
            shares = ", ".join(f"{waiting(max(worker / WORKERS, main), step):.0%} of a step of {step} ms" for step in STEPS)
            print(f"through a worker {worker:.1f} ms, and {main:.1f} ms in the main process: with {WORKERS} of them {shares} waits")
        cache = ready["packed, --cache"].dataset
        numbers = torch.arange(options.batch_size) % len(cache)
        host = 1000 * seconds(lambda: (cache.features.places(numbers), cache.features.counts[numbers], cache.targets[numbers]), 10)
        shares = ", ".join(f"{host / (host + step):.1%} of a step of {step} ms" for step in STEPS)
        print(f"--cache on a GPU: {host:.2f} ms of the host's time a batch, {shares}, if nothing of it is hidden behind the step")


def waiting(supply: float, step: float) -> float:
    """The share of the time for a batch in which a step of so many ms waits, where a batch comes every `supply` ms."""
    return max(0.0, supply - step) / max(supply, step)
