"""DSANet against a literal transcription of its released code, same weights, same process: `python -m tools.bench dsanet`.

Temporal network, coarse and fine logits are VadCLIP's, transcribed in tools/bench/vadclip.py; here is what DSANet has more, step by step:
prompts of 77 tokens through CLIP's blocks, attention by softmax, cosines of all pairs of vectors. tests/tools/test_bench_dsanet.py holds
it to the released code's values.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal), K queries.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model import build_model, options_of
from tools.bench.measure import UCF
from tools.bench.vadclip import bench_training, linear, literal_fine, literal_losses, literal_visual, mlp
from ucf_option import parse_args
from utils.text import openai_clip

HEADS = 8


def literal_text(w, clip_model, names, options) -> Tensor:
    """(C+1, D): bare class names; behind each of the first blocks an adapter, another one in place of the projection."""

    def adapter(i: int, x: Tensor) -> Tensor:
        return F.leaky_relu(x @ w[f"clip_adapter.text_adapter.{i}.fc.0.weight"].T)

    tokens, blocks = openai_clip().tokenize(list(names)), clip_model.transformer.resblocks
    x = (clip_model.token_embedding(tokens) + clip_model.positional_embedding).permute(1, 0, 2)
    adapted = min(options.text_adapt_until, len(blocks))
    for i, block in enumerate(blocks):
        x = block(x)
        if i < adapted:
            y = adapter(i, x)
            y = y * x.norm(dim=-1, keepdim=True) / (y.norm(dim=-1, keepdim=True) + 1e-6)
            x = options.t_w * y + (1 - options.t_w) * x
    x = clip_model.ln_final(x.permute(1, 0, 2))[torch.arange(len(names)), tokens.argmax(1)]
    x = adapter(adapted, x)
    return x / x.norm(dim=-1, keepdim=True)


def layer_norm(w, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-8)


def split(x: Tensor) -> Tensor:
    """(B, n, D) -> (B, heads, n, D / heads)."""
    return x.reshape(*x.shape[:2], HEADS, -1).permute(0, 2, 1, 3)


def literal_block(w, name: str, x: Tensor, y: Tensor) -> Tensor:
    """A block of x (B, T, D) that looks at y (B, n, D): softmax and a residual connection, or, with learned scales, neither."""
    width = x.shape[2]
    queries, keys = layer_norm(w, f"{name}.norm1", x), layer_norm(w, f"{name}.norm1", y)
    q, kv = split(linear(w, f"{name}.attn.q", queries)), linear(w, f"{name}.attn.kv", keys)
    k, v = split(kv[..., :width]), split(kv[..., width:])
    scale = w.get(f"{name}.attn.learn_scale")
    if scale is None:
        weights = ((q * (width // HEADS) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
    else:
        weights = F.relu(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale)
    seen = linear(w, f"{name}.attn.proj", (weights @ v).transpose(1, 2).reshape(*x.shape))
    x = x + seen if scale is None else seen
    return x + linear(w, f"{name}.mlp.fc2", F.gelu(linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x))))


def literal_refiner(w, visual: Tensor, coarse: Tensor, options) -> tuple[Tensor, Tensor]:
    """visual (B, T, D), coarse logits (B, T, 1) -> the rebuilt rows (B, T, D), and the mean distance of the normal ones from the K."""
    name = "video_anomaly_refiner"
    with torch.no_grad():
        order = coarse[..., 0].sigmoid().topk(visual.shape[1], dim=1, largest=False).indices
        order = order[:, : int(visual.shape[1] * options.normal_selection_ratio)]
        normal = visual.gather(1, order[..., None].expand(-1, -1, visual.shape[2]))
    prototypes = literal_block(w, f"{name}.dnp_extractor.0", w[f"{name}.video_prototypes"].expand(len(visual), -1, -1), normal)
    distance = 1 - F.cosine_similarity(normal[:, :, None], prototypes[:, None], dim=-1)  # (B, n, K)
    rebuilt = mlp(w, f"{name}.bottleneck", visual)
    for depth in range(options.decoder_depth):
        rebuilt = literal_block(w, f"{name}.decoder.{depth}", rebuilt, prototypes)
    return rebuilt, distance.min(2).values.mean()


def literal_contrast(visual: Tensor, weights: Tensor, text: Tensor, options) -> Tensor:
    """weights (B, T, 1), brought to sum 1 -> (B, C+1), logits of the weighted mean of a video's rows."""
    mean = F.normalize(weights, p=1, dim=1).permute(0, 2, 1) @ visual
    return (F.normalize(mean, dim=-1) @ F.normalize(text, dim=-1).T)[:, 0] / options.temperature


def literal_terms(w, clip_model, batch, options, names=UCF.names) -> dict[str, Tensor]:
    """The losses of a training batch, each with its weight."""
    features, lengths, labels = batch
    visual, coarse = literal_visual(w, features, lengths, options)
    text = literal_text(w, clip_model, names, options)
    losses = literal_losses(text, coarse[..., 0], literal_fine(w, visual, coarse, text, options), labels, lengths, options)
    scores = coarse.sigmoid()
    target = 0.9 * labels / labels.sum(1, keepdim=True) + 0.1 / labels.shape[1]
    other = torch.full_like(labels, 0.01)
    other[:, 0] = 1
    other = 0.9 * other / other.sum(1, keepdim=True) + 0.1 / labels.shape[1]
    event = literal_contrast(visual, (10 * scores).exp() - 1, text, options)
    background = literal_contrast(visual, (10 * (1 - scores)).exp() - 1, text, options)
    rebuilt, gather = literal_refiner(w, visual, coarse, options)
    error = (1 - F.cosine_similarity(visual, rebuilt, dim=-1)) / 2
    valid = torch.arange(visual.shape[1]) < lengths[:, None]
    return losses | {
        "event": -options.lambda_event * (target * event.log_softmax(1)).sum(1).mean(),
        "background": -options.lambda_background * (other * background.log_softmax(1)).sum(1).mean(),
        "consistency": options.lambda_consistency * F.mse_loss(scores[..., 0][valid], error[valid]),
        "gather": options.lambda_gather * gather,
    }


def bench_dsanet(words=(), clip_model=None) -> None:
    """A training step at UCF-Crime's sizes, 64 + 64 videos of 256 snippets; tests give further option words and a small CLIP."""
    options = parse_args(["--model", "dsanet", "--feature-root", "unused", "--device", "cpu", *words])
    torch.manual_seed(0)
    clip_model = clip_model or openai_clip().model.CLIP(512, 32, 1, 64, 32, 77, 49408, 512, 8, 12)  # ViT-B/16's text side
    model = build_model("dsanet", UCF.names, clip_model, **{name: getattr(options, name) for name in options_of("dsanet")})
    bench_training(model, clip_model, options, literal_terms)
