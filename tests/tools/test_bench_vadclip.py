"""tools/bench/vadclip.py: its literal VadCLIP against the released code's values, and the bench itself at tiny sizes."""

import re
from argparse import Namespace

import numpy as np
import pytest
import torch

from golden import GOLDEN
from tools.bench import vadclip as literal
from utils.text import openai_clip

SETTINGS = {  # of the golden models
    "ucf": {"visual_layers": 2, "attn_window": 8, "lambda_text": 0.1},
    "xd": {"visual_layers": 1, "attn_window": 16, "lambda_text": 1e-4},
}


@pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is not here")
@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_the_literal_version_gives_the_released_outputs_losses_and_gradients(key):
    with np.load(GOLDEN / f"vadclip_{key}.npz", allow_pickle=False) as golden:
        values = {name: golden[name] for name in golden.files}
    w = {name.removeprefix("weight."): torch.from_numpy(values[name]) for name in values if name.startswith("weight.")}
    clip_weights = {name.removeprefix("clipmodel."): value for name, value in w.items() if name.startswith("clipmodel.")}
    clip_model = openai_clip().model.CLIP(64, 32, 2, 64, 8, 77, 49408, 64, 1, 2)  # not build_model, which rounds to float16
    clip_model.load_state_dict(clip_weights)
    trained = {name: w[name].requires_grad_() for name in w if not name.startswith("clipmodel.") and name != "disAdj.sigma"}
    options = Namespace(prompt_prefix=10, prompt_postfix=10, visual_head=1, temperature=0.07, lambda_align=1.0, **SETTINGS[key])
    features, lengths, labels = (torch.from_numpy(values[name]) for name in ("visual", "lengths", "multi_hot"))

    def difference(ours, name):
        return np.abs(ours.detach().numpy() - values[name]).max() / np.abs(values[name]).max()

    text, coarse, fine = literal.literal_forward(w, clip_model, values["prompts"], features, lengths, options)
    assert difference(text, "text_features") < 1e-5
    assert difference(coarse[..., None], "logits_coarse") < 1e-5
    assert difference(fine, "logits_fine") < 1e-5
    losses = literal.literal_losses(text, coarse, fine, labels, lengths, options)
    for name, value in losses.items():
        assert value.item() == pytest.approx(values[f"loss_{name}"].item(), rel=1e-5)
    sum(losses.values()).backward()
    for name, weight in trained.items():
        assert difference(weight.grad, f"grad.{name}") < 1e-4, name


def test_the_bench_finds_equal_losses_and_scores(small_clip, capsys, monkeypatch):
    monkeypatch.setattr(literal, "matmul_rate", lambda dtype: 1e12)  # the real one multiplies large matrices for seconds
    monkeypatch.setattr(literal.devices, "keep_freed_memory", lambda: None)  # it would last for the tests that follow
    words = "--visual-width 64 --visual-length 32 --batch-size 8 --prompt-prefix 4 --prompt-postfix 3"
    for timed in (2, None):
        literal.bench_vadclip(words.split(), small_clip, lengths=[70, 5, 32, 64, 31, 1], timed=timed)
        out = capsys.readouterr().out
        losses = re.findall(r"losses differ by loss_coarse (.+), loss_align (.+), loss_text (.+), loss (.+); in step 3 by (.+)", out)
        fp32, bf16 = (list(map(float, found)) for found in losses)
        assert max(fp32) < 1e-4
        assert max(bf16) < 0.02
        assert f"{timed or 6} videos timed" in out
        fp32, bf16 = map(float, re.findall(r"scores differ by at most (.+)", out))
        assert fp32 < 1e-4
        assert bf16 < 0.1
