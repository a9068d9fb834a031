"""tools/bench/gpu.py on the CPU at tiny sizes: systems make their steps, and without a GPU it says so."""

import re

import pytest
import torch

from model import SYSTEMS
from tools.bench import gpu
from utils.errors import BadInput

WORDS = "--visual-width 64 --visual-length 16 --batch-size 4 --caption-width 64 --d-state 4 --prompt-prefix 2 --prompt-postfix 2"


@pytest.mark.slow
def test_the_bench_from_end_to_end(small_clip, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", 1)
    monkeypatch.setattr(gpu, "BUDGET", float("inf"))
    systems = ("reflip", "deepmil", "trclip", "vadclip")
    monkeypatch.setattr(gpu, "SYSTEMS", {name: SYSTEMS[name] for name in systems})
    sizes = {"large": lambda: small_clip, "seconds": 1, "videos": 12, "size": 64, "backend": "eager"}
    gpu.bench_gpu(WORDS.split(), small_clip, torch.device("cpu"), **sizes)
    out = capsys.readouterr().out
    found = re.findall(r"(\w+), 4 × 16 × 64, (\S+(?:, compiled)?): \S+ ms a step, \S+% of .*, (\d+) launches; first loss (\S+)", out)
    ways = ("fp32", "bf16", "bf16, compiled")
    made = [(name, way) for way in ways for name in systems]
    made.remove(("trclip", "bf16, compiled"))  # its scan is no part of a graph
    assert [(name, way) for name, way, *_ in found] == made
    assert "trclip, compiled: --compile: TrCLIPVAD has Mamba" in out
    assert all(int(launches) > 20 and float(loss) > 0 for *_, launches, loss in found)
    literal, ours = map(float, re.search(r"literal .* times faster; losses (\S+) and (\S+)", out).groups())
    assert literal == pytest.approx(ours, rel=1e-3)
    assert len(re.findall(r"bags from (?:--cache|packed files): .*% of it waits", out)) == 2
    assert len(re.findall(r"ViT-B/16's sizes, (?:fp32|bf16): \d+ frames of video a second", out)) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(BadInput, match="torch finds none here"):
        gpu.bench_gpu()
