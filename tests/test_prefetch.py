"""Batches on their way to the device: whatever brings them there, they are those of the data set, to the bit."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset import FeatureDataset, Video
from utils import prefetch
from utils.captions.tree import CaptionTree
from utils.prefetch import Cached, ahead, cached, free_memory, make_loader

CPU = torch.device("cpu")
WIDTH, TEXT = 3, 2
LENGTHS = {"short": 2, "exact": 8, "long": 30, "longer": 47}


class Options:
    workers, cache = 0, False


@pytest.fixture(scope="module", params=[False, True], ids=["features", "captions"])
def train(request, tmp_path_factory):
    """Samples of two crops, or of ten in one file; captions are those of a video, but of one that has its own for each crop."""
    root = tmp_path_factory.mktemp("root")
    values = np.random.default_rng(0)

    def save(name, *shape):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values.normal(size=shape).astype(np.float32))
        return path

    videos = []
    for number, (name, rows) in enumerate(LENGTHS.items()):
        target = (1.0, 0.0) if number % 2 else (0.0, 1.0)
        files = (save(f"{name}.npy", rows, 10, WIDTH),) if number == 0 else tuple(save(f"{name}__{k}.npy", rows, WIDTH) for k in (3, 7))
        videos.append(Video(name, "x", target, files, None if number == 0 else (3, 7)))
        for version in ("source", "rewrite-1"):
            for suffix in ("__3", "__7") if number == 2 else ("",):
                save(f"captions/{version}/{name}{suffix}.npy", rows, TEXT)
    tree = CaptionTree(root / "captions", TEXT) if request.param else None
    return FeatureDataset(videos, length=8, width=WIDTH, captions=tree, versions=("source", "rewrite-1") if tree else ())


def drawn(train, count=12):
    """Numbers of batches as a sampler gives them."""
    draws = random.Random(0)
    numbers = [[draws.randrange(len(train)) for _ in range(5)] for _ in range(count)]
    return [[(number, draws.choice(train.versions)) for number in batch] for batch in numbers] if train.captions else numbers


def same(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    assert all(
        torch.equal(a.cpu(), b.cpu()) and a.dtype == b.dtype for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def by_hand(train, batches):
    """What torch's own collation makes of the samples one by one."""
    return [torch.utils.data.default_collate([train[index] for index in batch]) for batch in batches]


def options(**more):
    found = Options()
    vars(found).update(more)
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_batches_are_the_samples_one_by_one(train, workers, cache, capsys):
    batches = drawn(train)
    loader = make_loader(train, batches, options(workers=workers, cache=cache), CPU)
    assert len(loader) == len(batches)
    same(ahead(loader, CPU), by_hand(train, batches))
    assert isinstance(loader.dataset, Cached) == cache
    assert ("cache: 16 samples, 0.00 GiB of the host's memory" in capsys.readouterr().out) == cache


def test_a_cache_holds_what_it_says(train):
    cache = Cached(train)
    cache.fill(CPU)
    kept = [cache.features] + ([] if cache.texts is None else [cache.texts])
    assert cache.size() == sum(4 * (rows.values.numel() - rows.values.shape[1]) for rows in kept)
    if train.captions:
        assert len(cache.texts.counts) == 2 * (3 + 2)  # of two versions: three videos whose crops share them, one of two crops


def test_a_cache_that_does_not_fit_is_told(train, capsys, monkeypatch):
    monkeypatch.setattr(prefetch, "free_memory", lambda device: 2 * Cached(train).size() - 1)
    assert cached(train, CPU) is train
    shown = capsys.readouterr().out
    assert shown.startswith("note: --cache: 16 samples take 0.00 GiB, more than half of 0.00 GiB (cpu)")
    assert shown.count("\n") == 1
    monkeypatch.setattr(prefetch, "free_memory", lambda device: 2 * Cached(train).size())
    assert isinstance(cached(train, CPU), Cached)


def test_free_memory_is_that_of_the_machine_or_less(monkeypatch):
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = free_memory(CPU)
    assert 0 < free <= 1024 * int(lines["MemTotal"].split()[0])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU) < free / 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of more than this machine's cores
def test_workers_where_nothing_says_how_many(train, monkeypatch):
    assert make_loader(train, drawn(train), options(workers=None), CPU).num_workers == 0
    for cores, processes, workers in ((4, 1, 4), (64, 1, 8), (64, 16, 4), (2, 8, 1)):
        monkeypatch.setattr(prefetch, "cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        loader = make_loader(train, drawn(train), options(workers=None), torch.device("cuda"))
        assert (loader.num_workers, loader.pin_memory) == (workers, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("words", [{"workers": 0}, {"workers": 2}, {"workers": 2, "cache": True}])
def test_batches_on_a_gpu(train, words):
    device, batches = torch.device("cuda"), drawn(train)
    loader = make_loader(train, batches, options(**words), device)
    found = []
    for batch in ahead(loader, device):
        assert all(part.device.type == "cuda" for part in batch)
        found.append([part.clone() for part in batch])
    same(found, by_hand(train, batches))
    assert loader.num_workers == (0 if "cache" in words else words["workers"])
