"""VadCLIP: the released code's values, authors' checkpoints, padding as published and masked."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

import ucf_test
from benchmarks import XD
from golden import difference, golden, needs_golden
from model import SYSTEMS, build_model
from utils import checkpoint
from utils.errors import BadInput
from utils.evaluation.scores import load_scores

SETTINGS = {"ucf": (2, 8, 0.1), "xd": (1, 16, 1e-4)}  # layers, window, weight of the text loss


def build(key, values, clip_model, **more):
    layers, window, _ = SETTINGS[key]
    sizes = {"visual_length": 48, "visual_width": 64, "visual_layers": layers, "visual_head": 1, "attn_window": window}
    return build_model("vadclip", list(values["prompts"]), clip_model, prompt_prefix=10, prompt_postfix=10, **sizes, **more)


@needs_golden
@pytest.mark.parametrize("key", ["ucf", "xd"])
def test_released_outputs_losses_and_gradients(key):
    values, weights, clip_model = golden("vadclip", key)
    model = build(key, values, clip_model).train()
    model.load_state_dict(weights)
    lengths, labels = torch.from_numpy(values["lengths"]), torch.from_numpy(values["multi_hot"])
    out = model(torch.from_numpy(values["visual"]), lengths)
    assert difference(out.text, values["text_features"]) < 1e-5
    assert difference(out.coarse_logits, values["logits_coarse"][..., 0]) < 1e-5
    assert difference(out.alignment, values["logits_fine"]) < 1e-5
    losses = SYSTEMS["vadclip"].losses(out, labels, lengths, Namespace(lambda_align=1, lambda_text=SETTINGS[key][2]))
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(values[f"loss_{name}"]), rel=1e-5)
    sum(losses.values()).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad} - {"disAdj.sigma"}
    assert trained == {name.removeprefix("grad.") for name in values.files if name.startswith("grad.")} - {"disAdj.sigma"}
    for name in trained:
        assert difference(model.get_parameter(name).grad, values[f"grad.{name}"]) < 1e-4, name


@needs_golden
@pytest.mark.parametrize("older", [False, True])
def test_a_checkpoint_of_the_authors_loads_and_gives_their_scores(older, tmp_path):
    values, weights, clip_model = golden("vadclip", "ucf")
    torch.save(weights, tmp_path / "model_ucf.pth", _use_new_zipfile_serialization=not older)
    model = build("ucf", values, clip_model).eval()
    checkpoint.load_trained_state(model, checkpoint.load(tmp_path / "model_ucf.pth")["weights"], "model_ucf.pth")
    out = model(torch.from_numpy(values["visual"]), torch.from_numpy(values["lengths"]))
    assert difference(out.coarse_logits, values["logits_coarse"][..., 0]) < 1e-5
    assert difference(out.alignment, values["logits_fine"]) < 1e-5


@needs_golden
def test_the_authors_file_through_the_test_script(tmp_path):
    """`ucf_test.py --model vadclip --checkpoint model_ucf.pth` gives the released code's scores."""
    values, weights, _ = golden("vadclip", "ucf")
    torch.save(weights, tmp_path / "model_ucf.pth")
    torch.save(
        {key.removeprefix("clipmodel."): value for key, value in weights.items() if key.startswith("clipmodel.")}, tmp_path / "clip.pt"
    )
    rows, truth = ["path,label"], {}
    for number, (features, length, label) in enumerate(zip(values["visual"], values["lengths"].tolist(), values["labels"], strict=True)):
        (tmp_path / "features").mkdir(exist_ok=True)
        np.save(tmp_path / "features" / f"v{number}.npy", features[:length])
        rows.append(f"v{number}.npy,{label}")
        truth[f"v{number}"] = {"frames": 16 * length, "fps": 30, "segments": [] if label == "Normal" else [[0, 8, str(label)]]}
    (tmp_path / "test.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    files = {"feature-root": "features", "test-list": "test.csv", "gt-path": "gt.json", "clip": "clip.pt", "checkpoint": "model_ucf.pth"}
    files |= {"output": "out", "save-scores": "scores.npz"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    ucf_test.main([*words, "--model", "vadclip", "--visual-width", "64", "--visual-length", "48", "--device", "cpu"])
    scores, _ = load_scores(tmp_path / "scores.npz")
    for number, length in enumerate(values["lengths"].tolist()):
        logits = torch.from_numpy(values["logits_fine"][number, :length])
        assert np.allclose(scores[f"v{number}"].fine, logits.softmax(-1), atol=1e-5)
        assert np.allclose(scores[f"v{number}"].coarse, 1 / (1 + np.exp(-values["logits_coarse"][number, :length, 0])), atol=1e-5)


@needs_golden
def test_a_key_that_is_missing_extra_or_misshapen_is_named():
    values, weights, clip_model = golden("vadclip", "ucf")
    model = build("ucf", values, clip_model)
    cases = [
        ({key: value for key, value in weights.items() if key != "gc1.weight"}, r"lacks key 'gc1\.weight'"),
        ({**weights, "gc9.weight": torch.zeros(1)}, r"unknown key 'gc9\.weight'"),
        ({**weights, "linear.bias": torch.zeros(3)}, r"linear\.bias has shape \(3,\), this model's is \(64,\)"),
    ]
    for state, message in cases:
        with pytest.raises(BadInput, match=message):
            checkpoint.load_trained_state(model, state, "model_ucf.pth")
        with pytest.raises(RuntimeError, match=r"gc1\.weight|gc9\.weight|linear\.bias"):
            model.load_state_dict(state)


def small(clip, **more):
    torch.manual_seed(0)
    sizes = {"visual_length": 32, "visual_width": 64, "visual_layers": 2, "visual_head": 1, "attn_window": 8}
    return build_model("vadclip", XD.names, clip, prompt_prefix=4, prompt_postfix=4, **sizes, **more).eval()


def test_padding_as_published_and_masked(small_clip):
    """Published: how far a batch is filled up with zeros changes nothing, since the model fills up to its own length; but the zeros count.
    Masked: they do not.
    """
    x, lengths = torch.randn(2, 20, 64), torch.tensor([20, 5])
    spoiled = x.clone()
    spoiled[1, 5:] = torch.nan
    for mask_padding in (False, True):
        model = small(small_clip, mask_padding=mask_padding)
        both, alone = model(spoiled, lengths), model(x[1:, :5], lengths[1:])
        assert torch.allclose(both.coarse[1, :5], alone.coarse[0], atol=1e-6)
        assert torch.allclose(both.alignment[1, :5], alone.alignment[0], atol=1e-5)
    published = small(small_clip)
    longer = torch.cat([x[1:, :5], torch.zeros(1, 27, 64)], 1)
    as_valid = published(longer, torch.tensor([32])).coarse[0, :5]
    assert not torch.allclose(alone.coarse[0], published(x[1:, :5], lengths[1:]).coarse[0], atol=1e-6)
    assert not torch.allclose(as_valid, published(x[1:, :5], lengths[1:]).coarse[0], atol=1e-6)  # padding stays out of the similarity


def test_prompt_tokens_are_taken_by_absolute_position(small_clip):
    prompt = small(small_clip).text_prompt_embeddings
    number = XD.names.index("car accident")
    words = prompt.names.split(prompt.sizes)[number]
    row = torch.cat([prompt.start, prompt.weight[1:5], words, prompt.weight[7:11], prompt.end])  # two words stand at 5 and 6
    x = torch.cat([row, torch.zeros(77 - len(row), 64)]) + small_clip.positional_embedding
    x = small_clip.ln_final(small_clip.transformer(x[:, None])[len(row) - 1, 0]) @ small_clip.text_projection
    assert torch.allclose(prompt()[number], x, atol=1e-5)
