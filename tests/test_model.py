"""ReFLIP-VAD whole: shapes, every ablation, padding, prompts, V-prompt by hand."""

import math
from argparse import Namespace

import pytest
import torch
from torch.nn import functional as F

from benchmarks import UCF, XD
from model import SYSTEMS, TEMPORAL, build_model
from utils.checkpoint import trained_state
from utils.errors import BadInput
from utils.prompt import PROMPTS, within_range
from utils.systems.base import Output
from utils.text import load_sentence_text

SIZES = {"visual_length": 32, "visual_width": 64, "attn_window": 8, "window_length": 8, "prompt_prefix": 4, "prompt_postfix": 4}


def build(clip, distilbert, names=XD.names, **more):
    torch.manual_seed(0)
    return build_model("reflip", names, clip, distilbert=distilbert, **SIZES | more)


@pytest.mark.parametrize("dataset", [UCF, XD])
def test_shapes(small_clip, small_distilbert, dataset):
    out = build(small_clip, small_distilbert, dataset.names)(torch.randn(3, 20, 64), torch.tensor([20, 7, 1]))
    classes = len(dataset.names)
    assert out.coarse.shape == (3, 20)
    assert out.alignment.shape == (3, 20, classes)
    assert out.visual.shape == (3, 20, 64)
    assert out.class_embeddings.shape == (3, classes, 64)
    assert out.text.shape == (classes, 64)
    assert ((out.coarse >= 0) & (out.coarse <= 1)).all()


@pytest.mark.parametrize(
    "more",
    [
        *({"prompt": prompt, "temporal": temporal} for prompt in PROMPTS for temporal in ("none", "ge")),
        {"stage_norm": True},
        {"shortcut_conv": True},
        {"channel_attention": "plain", "ge_skip": False},
        {"channel_attention": "mean"},
    ],
)
def test_padding_never_influences_a_valid_snippet(small_clip, small_distilbert, more):
    model = build(small_clip, small_distilbert, **more).eval()
    x, lengths = torch.randn(2, 24, 64), torch.tensor([24, 9])
    spoiled = x.clone()
    spoiled[1, 9:] = torch.nan
    a, b, alone = model(x, lengths), model(spoiled, lengths), model(x[1:, :9], lengths[1:])
    for field in ("coarse", "alignment"):
        assert torch.allclose(getattr(a, field)[1, :9], getattr(b, field)[1, :9], atol=1e-5)
        assert torch.allclose(getattr(a, field)[1, :9], getattr(alone, field)[0], atol=1e-5)


@pytest.mark.parametrize("blocks", ["cls", "vta"])
def test_one_block_alone(small_clip, small_distilbert, blocks):
    model = build(small_clip, small_distilbert, blocks=blocks, v_prompt=False)
    out = model(torch.randn(2, 9, 64), torch.tensor([9, 5]))
    assert (out.coarse is None) == (blocks == "vta")
    assert (out.alignment is None) == (blocks == "cls")
    with pytest.raises(BadInput, match="--no-v-prompt"):
        build(small_clip, small_distilbert, blocks=blocks)


def test_alignment_and_v_prompt_by_their_equations(small_clip, small_distilbert):
    model = build(small_clip, small_distilbert).eval()
    out = model(torch.randn(2, 12, 64), torch.tensor([12, 5]))
    for i, length in enumerate((12, 5)):
        visual = F.normalize((out.coarse[i, :length, None] * out.visual[i, :length]).sum(0), dim=0)  # eq. 9
        embeddings = model.ffn_text(visual + out.text) + out.text  # eq. 10
        assert torch.allclose(out.class_embeddings[i], embeddings, atol=1e-5)
        expected = F.cosine_similarity(out.visual[i, :length, None], embeddings[None], dim=-1) / 0.07  # eq. 11
        assert torch.allclose(out.alignment[i, :length], expected, atol=1e-4)


def test_the_v_prompt_of_a_quiet_video_keeps_its_gradient():
    """Scores of 1e-18 lie below what a normalisation divides by; those of every other video change by no bit."""

    def v_prompt(level, scaled):
        torch.manual_seed(0)
        logits, visual = (level + torch.randn(2, 8)).requires_grad_(), torch.randn(2, 8, 4)
        scores = logits.sigmoid()
        prompt = F.normalize((within_range(scores) if scaled else scores)[:, None] @ visual, dim=-1)
        (prompt * torch.arange(4)).sum().backward()
        return prompt.detach(), logits.grad

    for level in (3, -1, -20):
        assert all(map(torch.equal, v_prompt(level, True), v_prompt(level, False)))
    for level in (-30, -40, -60):
        for found, expected in zip(v_prompt(level, True), v_prompt(-20, True), strict=True):
            assert torch.allclose(found, expected, atol=1e-4)
    assert not v_prompt(-200, True)[1].any()  # no number: nothing is left, and nothing breaks


def test_its_losses_take_k_and_push_from_the_options():
    """A normal and an abnormal bag of 16 snippets, K = 2, one of them scoring 3 (alignment: the anomaly's column), all others 0. Magnitudes
    3 and 1, margin 4: pushed by (4 − 2)².
    """
    peak = torch.zeros(2, 16)
    peak[:, 5] = 3.0
    visual = torch.tensor([3.0, 1.0])[:, None, None].expand(2, 16, 1)
    out = Output(peak.sigmoid(), torch.stack([torch.zeros(2, 16), peak], -1), visual, text=torch.eye(2), coarse_logits=peak)
    labels, lengths = torch.eye(2), torch.tensor([16, 16])
    weights = {"lambda_align": 1.0, "lambda_text": 1.0, "lambda_magnitude": 0.5, "margin": 4.0}

    def found(top1, push):
        options = Namespace(**weights, normal_top1=top1, magnitude_push=push)
        return {name: value.item() for name, value in SYSTEMS["reflip"].losses(out, labels, lengths, options).items()}

    score = 1 / (1 + math.exp(-3))
    abnormal, align = -math.log((score + 0.5) / 2), math.log(1 + math.exp(-1.5))
    for top1, normal, peak_of_normal in ((True, -math.log(1 - score), 3), (False, -math.log(1 - (score + 0.5) / 2), 1.5)):
        terms = found(top1, 1.0)
        assert terms["coarse"] == pytest.approx((normal + abnormal) / 2, rel=1e-5)
        assert terms["align"] == pytest.approx((math.log(1 + math.exp(peak_of_normal)) + align) / 2, rel=1e-5)
        assert (terms["magnitude"], found(top1, 0.25)["magnitude"]) == pytest.approx((2.0, 0.5))


def test_reparameterized_prompt_by_its_definition(small_clip, small_distilbert):
    """φ(pe) = θ(pe) + pe, the class in the middle, CLIP's own encoder at 77 tokens."""
    model = build(small_clip, small_distilbert).eval()
    prompt = model.prompt
    part = prompt.reparameterization
    theta = part.after(small_distilbert(inputs_embeds=part.before(prompt.tokens)[None]).last_hidden_state[0])
    phi = theta + prompt.tokens
    row = torch.cat([prompt.start, phi[:4], prompt.names.split(prompt.sizes)[5], phi[4:], prompt.end])  # "car accident"
    assert len(row) == 2 + 8 + 2
    x = torch.cat([row, torch.zeros(77 - len(row), 64)]) + small_clip.positional_embedding
    x = small_clip.ln_final(small_clip.transformer(x[:, None])[len(row) - 1, 0]) @ small_clip.text_projection
    assert torch.allclose(prompt()[5], x, atol=1e-5)


def test_fixed_prompts_are_the_encoders_own_words(small_clip, small_distilbert):
    from utils.text import openai_clip

    model = build(small_clip, small_distilbert, prompt="template", template="a long video of")
    expected = small_clip.encode_text(openai_clip().tokenize([f"a long video of {name}" for name in XD.names]))
    assert torch.allclose(model.text_features(), expected, atol=1e-5)


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_gradients_reach_every_trained_parameter(small_clip, small_distilbert, temporal):
    model = build(small_clip, small_distilbert, temporal=temporal)
    out = model(torch.randn(2, 20, 64), torch.tensor([20, 6]))
    (out.coarse.sum() + out.alignment.square().mean()).backward()
    unused = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    assert not any("encoder" in key or "text.module" in key for key in trained_state(model))


def test_sentence_encoder_as_text_side(minilm, small_distilbert):
    text = load_sentence_text(minilm)
    model = build(text, small_distilbert, visual_width=384)
    assert model(torch.randn(1, 4, 384), torch.tensor([4])).alignment.shape == (1, 4, 7)
    with pytest.raises(BadInput, match=r"the text side gives 384 columns, the features have 64 \(--visual-width\)"):
        build(text, small_distilbert, text_projection=False)


def test_text_features_from_a_file(small_distilbert):
    features = torch.randn(7, 64)
    model = build(features, None)
    assert torch.equal(model.text_features(), features)
    with pytest.raises(BadInput, match="--text-features"):
        build(features[:6], None)


def test_bad_names(small_clip):
    with pytest.raises(BadInput, match="available models: reflip"):
        build_model("refilp", XD.names, small_clip)
    with pytest.raises(BadInput, match="--temporal gcm"):
        build(small_clip, None, temporal="gcm", prompt="class")
    with pytest.raises(BadInput, match=r"--prompt-prefix, --prompt-postfix: .* tokens"):
        build(small_clip, None, prompt="learnable", prompt_prefix=80)
