"""tools/bench/loader.py at small sizes: what it compares is the same, and what it measures is there."""

import re

from tools.bench.loader import bench_loader, waiting


def test_the_bench_from_end_to_end(capsys):
    bench_loader(crops=1, videos=12, words=["--visual-width", "8", "--visual-length", "64", "--batch-size", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"batches of all are equal to the bit; cold, the disk gives [1-9]", line) for line in lines)
    found = {line.split(": ")[0]: float(re.search(r"(\d+) bags a second of a core warm", line)[1]) for line in lines if "warm" in line}
    assert list(found) == ["separate files, literal", "separate files", "packed", "packed, --cache"]
    assert min(found.values()) > 0
    assert re.fullmatch(r"--cache on a GPU: \S+ ms of the host's time a batch, \S+% of a step of 5 ms, .*", lines[-1])


def test_what_a_step_waits():
    assert [waiting(supply, 5) for supply in (0, 5, 10, 20)] == [0, 0, 0.5, 0.75]
