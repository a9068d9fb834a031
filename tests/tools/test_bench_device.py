"""tools/bench/device.py on the CPU at tiny sizes: each system makes its steps, and without a GPU it says so."""

import pytest
import torch

from model import options_of
from tools.bench.device import STEPS, bench_device
from utils.errors import BadInput


@pytest.mark.slow
def test_the_bench_from_end_to_end(small_clip, capsys, monkeypatch):
    monkeypatch.setattr("tools.bench.device.STEPS", dict.fromkeys(STEPS, 1))
    words = ["--visual-width", "64", "--visual-length", "16", "--batch-size", "4"]
    for name in STEPS:
        more = ["--caption-width", "64", "--d-state", "4"] if name == "trclip" else []
        more += ["--prompt-prefix", "2", "--prompt-postfix", "2"] if "prompt_prefix" in options_of(name) else []
        monkeypatch.setattr("tools.bench.device.STEPS", {name: 1})
        bench_device([*words, *more], small_clip, torch.device("cpu"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line != "cpu"]
    assert [line.split(": ")[0] for line in lines] == [f"{name}, 4 × 16 × 64, {p}" for name in STEPS for p in ("fp32", "bf16")]
    assert all("ms a step (median of 1); first loss " in line for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(BadInput, match="torch finds none here"):
        bench_device()
