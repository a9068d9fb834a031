"""tools/bench/dsanet.py: its literal DSANet against the released code's values, and the bench itself at tiny sizes."""

import json
import re
from argparse import Namespace

import numpy as np
import pytest
import torch

from golden import golden, needs_golden
from tools.bench import dsanet as literal
from tools.bench import vadclip


@needs_golden
@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_the_literal_version_gives_the_released_losses_and_gradients(key):
    values, w, clip_model = golden("dsanet", key)
    clip_model.requires_grad_(False)
    trained = {name: w[name].requires_grad_() for name in w if not name.startswith("clipmodel.") and name != "disAdj.sigma"}
    weights = {f"lambda_{name}": 1.0 for name in ("text", "event", "background", "consistency", "gather")}
    weights["lambda_align"] = float(values["weight_of_loss_align"])
    options = Namespace(temperature=0.07, **weights, **json.loads(str(values["config"])))
    batch = tuple(torch.from_numpy(values[name]) for name in ("visual", "lengths", "multi_hot"))
    losses = literal.literal_terms(w, clip_model, batch, options, values["prompts"])
    for name, value in losses.items():
        assert value.item() == pytest.approx(weights.get(f"lambda_{name}", 1.0) * values[f"loss_{name}"].item(), rel=1e-5)
    sum(losses.values()).backward()
    for name, weight in trained.items():
        theirs = values[f"grad.{name}"]
        assert np.abs(weight.grad.numpy() - theirs).max() < 1e-4 * np.abs(theirs).max(), name


def test_the_bench_finds_equal_losses(small_clip, capsys, monkeypatch):
    monkeypatch.setattr(vadclip, "matmul_rate", lambda dtype: 1e12)  # the real one multiplies large matrices for seconds
    monkeypatch.setattr(vadclip.devices, "keep_freed_memory", lambda: None)  # it would last for the tests that follow
    words = "--visual-width 64 --visual-length 32 --batch-size 8 --decoder-depth 2"
    literal.bench_dsanet(words.split(), small_clip)
    found = re.findall(r"losses differ by (.+); in step 3 by (.+)", capsys.readouterr().out)
    names = [word.split()[0] for word in found[0][0].split(", ")]
    assert names == [f"loss_{name}" for name in ("coarse", "align", "text", "event", "background", "consistency", "gather")] + ["loss"]
    fp32, bf16 = ([float(word.split()[-1]) for word in f"{terms}, {last}".split(", ")] for terms, last in found)
    assert max(fp32) < 1e-4
    assert max(bf16) < 0.02
