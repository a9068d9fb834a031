"""tools/bench/mamba.py at tiny sizes: its versions agree, and what it measures is there."""

import re

import numpy as np
import pytest
import torch

from tools.bench import mamba as bench
from utils.systems import mamba

SIZES = (2, 24, 32, 4)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "matmul_rate", lambda dtype: 1e12)  # the real one multiplies large matrices for seconds
    monkeypatch.setattr(bench.devices, "keep_freed_memory", lambda: None)  # it would last for the tests that follow


def here(work, *arguments):
    return work(*arguments)


def test_the_versions_agree():
    ours = bench.measure("ours", SIZES, 2, 24, 2)
    assert len(ours.results) == 2 + len(list(mamba.Mamba(32).parameters()))
    assert ours.seconds > 0
    for name in bench.VERSIONS:
        other = bench.measure(name, SIZES, 2, 24, 1)
        for mine, theirs in zip(ours.results, other.results, strict=True):
            assert bench.difference(mine, theirs) < 1e-4
    part = bench.measure("transformers", SIZES, 1, 6, 0).results
    assert part[0].shape == (1, 6, 32)
    assert bench.difference(ours.results[0][:1, :6], part[0]) < 1e-4
    assert mamba.selective_scan is bench.SCANS["ours"]  # put back


def test_flops_are_those_of_the_layers_round_the_scan():
    block, x = mamba.Mamba(32, d_state=4, d_conv=2, expand=1), torch.randn(2, 24, 32)
    with torch.no_grad():
        linear = sum(part.weight.numel() for part in (block.in_proj, block.x_proj, block.dt_proj, block.out_proj))
        assert bench.flops_without_scan(lambda: block(x)) == 2 * 48 * linear + 2 * 2 * 25 * 32 * 2  # and the convolution, one step longer


def test_the_bench_from_end_to_end(small_clip, capsys):
    words = "--visual-width 64 --visual-length 32 --batch-size 6 --caption-width 64 --d-state 4 --prompt-prefix 4 --prompt-postfix 3"
    bench.bench_mamba([SIZES], words.split(), small_clip, here)
    out = capsys.readouterr().out
    found = re.findall(r"ours against (.+?): .* output differs by ([^,\n]+)(?:, gradients by (.+))?", out)
    assert [name for name, *_ in found] == ["literal, unbound", "literal, indexed", "transformers"]
    assert all(float(gap) < 1e-4 for _, *gaps in found for gap in gaps if gap)
    assert [bool(gradients) for *_, gradients in found] == [True, True, False]
    assert "transformers, 1 video of 6 snippets: " in out
    step = re.search(r"TrCLIP step, bf16: .* peak memory of the process (.+) GiB; .* = (.+) s, scans .* loss (.+)", out)
    peak, floor, loss = map(float, step.groups())
    assert peak > 0
    assert floor >= 0
    assert np.isfinite(loss)
    assert "by the literal recurrence" in out


def test_flops_of_a_step_are_those_of_its_whole_batch(small_clip):
    """They are counted on few videos."""
    words = "--visual-width 64 --visual-length 16 --batch-size 6 --caption-width 64 --d-state 4 --prompt-prefix 4 --prompt-postfix 3"
    prepared = bench.prepare(words.split(), small_clip, "fp32")
    assert bench.step_flops(*prepared) == bench.flops_without_scan(lambda: bench.engine.step(*prepared)) > 0


@pytest.mark.slow
def test_a_version_in_a_process_of_its_own():
    ours = bench.measure("ours", SIZES, 2, 24, 1)
    apart = bench.apart(bench.measure, "ours", SIZES, 2, 24, 1)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(ours.results, apart.results, strict=True))
    big, small = (bench.apart(bench.measure, "literal, unbound", (2, length, 64, 64), 2, length, 1).peak for length in (1024, 32))
    assert big - small > 2 * 1024 * 64 * 64 * 4 / 2**30  # at least every state
