"""VadCLIP against a literal transcription of its published equations, same weights, same process: `python -m tools.bench vadclip`.

The transcription does what the paper and the released code describe, step by step: every prompt at 77 tokens, T × T attention under a block
mask, loops over the videos of a batch, each test video by itself with the text encoded again. It takes the weights as a dict by name, as in
the authors' checkpoints. tests/tools/test_bench_vadclip.py holds it to the released code's values.

B videos, T snippets, D feature width, C+1 classes (class 0 = normal).
"""

import resource

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dataset import chunk
from model import SYSTEMS, build_model, options_of
from tools.bench.measure import UCF, VIT_B_16, elapsed, matmul_rate, random_batch, random_features, restart_peak
from ucf_option import parse_args
from utils import devices, engine
from utils.evaluation.ground_truth import load_ground_truth
from utils.labels import SNIPPET
from utils.text import openai_clip

TIMED = 24  # test videos that the literal version is timed on; None: all 290, some minutes
REPEATS = 2  # timed steps, after one that warms up


def linear(w, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def layer_norm(w, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def mlp(w, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.c_proj", quick_gelu(linear(w, f"{name}.c_fc", x)))


def literal_text(w, clip_model, names, options) -> Tensor:
    """(C+1, D): the learned embeddings of all 77 positions, and in them [SOS] at 0, the class tokens behind the prefix, [EOS] behind the
    postfix.
    """
    tokens = openai_clip().tokenize(list(names))  # (C+1, 77)
    words = clip_model.token_embedding(tokens)
    rows, ends = w["text_prompt_embeddings.weight"].repeat(len(names), 1, 1), []
    for i in range(len(names)):
        last = int(tokens[i].argmax())  # [EOS] has the largest number
        ends.append(options.prompt_prefix + last + options.prompt_postfix)
        rows[i, 0] = words[i, 0]
        rows[i, options.prompt_prefix + 1 : options.prompt_prefix + last] = words[i, 1:last]
        rows[i, ends[i]] = words[i, last]
    x = (rows + clip_model.positional_embedding).permute(1, 0, 2)
    x = clip_model.ln_final(clip_model.transformer(x).permute(1, 0, 2))
    return x[torch.arange(len(names)), ends] @ clip_model.text_projection


def local_transformer(w, x: Tensor, options) -> Tensor:
    """x (T, B, D): pre-LN blocks; the mask is −inf but for blocks of `attn_window` along the diagonal."""
    length, _, width = x.shape
    mask = torch.full((length, length), -torch.inf)
    for start in range(0, length, options.attn_window):
        mask[start : start + options.attn_window, start : start + options.attn_window] = 0
    for layer in range(options.visual_layers):
        name = f"temporal.resblocks.{layer}"
        y = layer_norm(w, f"{name}.ln_1", x)
        # what nn.MultiheadAttention's forward calls
        y, _ = F.multi_head_attention_forward(
            *(y, y, y, width, options.visual_head, w[f"{name}.attn.in_proj_weight"], w[f"{name}.attn.in_proj_bias"]),
            *(None, None, False, 0.0, w[f"{name}.attn.out_proj.weight"], w[f"{name}.attn.out_proj.bias"]),
            need_weights=False,
            attn_mask=mask,
        )
        x = x + y
        x = x + mlp(w, f"{name}.mlp", layer_norm(w, f"{name}.ln_2", x))
    return x


def literal_similarity(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, T): cosine, values up to 0.7 set to 0, then each video's valid block by itself: every row a softmax."""
    norm = x.norm(dim=2, keepdim=True)
    cosine = x @ x.permute(0, 2, 1) / (norm @ norm.permute(0, 2, 1) + 1e-20)
    adjacency = torch.zeros_like(cosine)
    for i, valid in enumerate(lengths.tolist()):
        adjacency[i, :valid, :valid] = F.threshold(cosine[i, :valid, :valid], 0.7, 0).softmax(1)
    return adjacency


def literal_distance(batch: int, length: int) -> Tensor:
    """(B, T, T): exp(−|i − j| / e)."""
    index = torch.arange(length, dtype=torch.float32)
    return torch.exp(-(index[:, None] - index).abs() / torch.e).repeat(batch, 1, 1)


def graph_convolution(w, name: str, x: Tensor, adjacency: Tensor) -> Tensor:
    out = adjacency @ (x @ w[f"{name}.weight"])
    if f"{name}.residual.weight" not in w:
        return out + x
    return out + F.conv1d(x.permute(0, 2, 1), w[f"{name}.residual.weight"], w[f"{name}.residual.bias"], padding=2).permute(0, 2, 1)


def literal_visual(w, features: Tensor, lengths: Tensor, options) -> tuple[Tensor, Tensor]:
    """features (B, T, D), zeros behind `lengths` (B,) -> what the temporal network gives (B, T, D), coarse logits (B, T, 1)."""
    x = features.permute(1, 0, 2) + w["frame_position_embeddings.weight"][:, None]
    x = local_transformer(w, x, options).permute(1, 0, 2)
    near, far = literal_similarity(x, lengths), literal_distance(*x.shape[:2])
    x1 = quick_gelu(graph_convolution(w, "gc1", x, near))
    x2 = quick_gelu(graph_convolution(w, "gc3", x, far))
    x1 = quick_gelu(graph_convolution(w, "gc2", x1, near))
    x2 = quick_gelu(graph_convolution(w, "gc4", x2, far))
    visual = linear(w, "linear", torch.cat([x1, x2], 2))
    return visual, linear(w, "classifier", visual + mlp(w, "mlp2", visual))


def literal_fine(w, visual: Tensor, coarse: Tensor, text: Tensor, options) -> Tensor:
    """visual (B, T, D), coarse logits (B, T, 1), text features (C+1, D) -> fine logits (B, T, C+1)."""
    prompt = coarse.permute(0, 2, 1) @ visual  # (B, 1, D), the V-prompt
    classes = text + prompt / prompt.norm(dim=-1, keepdim=True)  # (B, C+1, D)
    classes = classes + mlp(w, "mlp1", classes)
    unit = visual / visual.norm(dim=-1, keepdim=True)
    return unit @ (classes / classes.norm(dim=-1, keepdim=True)).permute(0, 2, 1) / options.temperature


def literal_forward(w, clip_model, names, features: Tensor, lengths: Tensor, options) -> tuple[Tensor, Tensor, Tensor]:
    """features (B, T, D), zeros behind `lengths` (B,) -> text features (C+1, D), coarse logits (B, T), fine logits (B, T, C+1)."""
    visual, coarse = literal_visual(w, features, lengths, options)
    text = literal_text(w, clip_model, names, options)
    return text, coarse[..., 0], literal_fine(w, visual, coarse, text, options)


def literal_losses(text: Tensor, coarse: Tensor, fine: Tensor, labels: Tensor, lengths: Tensor, options) -> dict[str, Tensor]:
    """The three losses, each with its weight, video by video."""
    bags, maps = torch.zeros(0), torch.zeros(0)
    for score, logits, length in zip(coarse.sigmoid(), fine, lengths.tolist(), strict=True):
        k = int(length / 16 + 1)
        bags = torch.cat([bags, score[:length].topk(k).values.mean().view(1)])
        maps = torch.cat([maps, logits[:length].topk(k, dim=0).values.mean(0, keepdim=True)])
    target = labels / labels.sum(1, keepdim=True)
    normal, separation = text[0] / text[0].norm(), torch.zeros(())
    for other in text[1:]:
        separation = separation + (normal @ (other / other.norm())).abs()
    return {
        "coarse": F.binary_cross_entropy(bags, 1 - labels[:, 0]),
        "align": -options.lambda_align * (target * maps.log_softmax(1)).sum(1).mean(),
        "text": options.lambda_text * separation / (len(text) - 1),
    }


def literal_terms(w, clip_model, batch, options) -> dict[str, Tensor]:
    """The losses of a training batch."""
    features, lengths, labels = batch
    return literal_losses(*literal_forward(w, clip_model, UCF.names, features, lengths, options), labels, lengths, options)


def literal_step(w, clip_model, batch, stepped, options, terms=literal_terms) -> dict[str, float]:
    """One training step, at whose end each of `stepped` is stepped; the value of each loss."""
    losses = terms(w, clip_model, batch, options)
    total = sum(losses.values())
    for weight in w.values():
        weight.grad = None
    total.backward()
    for one in stepped:
        one.step()
    return {f"loss_{name}": value.item() for name, value in losses.items()} | {"loss": total.item()}


@torch.no_grad()
def literal_scores(w, clip_model, features: Tensor, options) -> tuple[Tensor, Tensor]:
    """A whole video (T, D), its chunks as one batch -> coarse (T,), fine (T, C+1)."""
    chunks, lengths = chunk(features, options.visual_length)
    _, coarse, fine = literal_forward(w, clip_model, UCF.names, chunks, lengths, options)
    return coarse.sigmoid().flatten()[: len(features)], fine.softmax(-1).flatten(0, 1)[: len(features)]


def bench_training(model, clip_model, options, terms=literal_terms) -> None:
    """One step: forward, losses, backward, optimizer; each version from the same weights on the same batch. terms: the literal losses.

    The literal version runs under torch's defaults, and once more, as in `bench_test`, under what utils/engine.fit sets for ours.
    """
    batch, cpu = random_batch(options), torch.device("cpu")
    state, w = {key: value.clone() for key, value in model.state_dict().items()}, model.state_dict(keep_vars=True)
    with FlopCounterMode(display=False) as counter:
        engine.step(model, batch, engine.make_optimizer(model, options), options, cpu)
    flops, times, losses = counter.get_total_flops(), {}, {}
    for name in ("literal", "ours, bf16", "ours, fp32", "literal, torch set as ours"):
        if name != "literal":
            devices.keep_freed_memory()
        model.load_state_dict(state)
        model.train()
        options.precision = "bf16" if name == "ours, bf16" else "fp32"
        optimizer, second = engine.make_optimizer(model, options), SYSTEMS[options.model].second(model, options, 1)
        restart_peak()
        steps = []
        for _ in range(1 + REPEATS):
            if name.startswith("literal"):
                steps.append(elapsed(literal_step, w, clip_model, batch, (optimizer, *second), options, terms))
            else:
                steps.append(elapsed(engine.step, model, batch, optimizer, options, cpu, second))
        times[name], losses[name] = min(seconds for seconds, _ in steps[1:]), [values for _, values in steps]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rate = matmul_rate(torch.bfloat16 if name == "ours, bf16" else torch.float32)
        print(
            f"step, {name}: {times[name]:.2f} s, peak memory {peak:.1f} GiB; floor {flops / 1e12:.3f} TFLOP at {rate / 1e9:.0f} GFLOP/s = "
            f"{flops / rate:.2f} s; time / floor {times[name] * rate / flops:.2f}; loss {losses[name][0]['loss']:.5f}"
        )
    for name in ("ours, fp32", "ours, bf16"):
        ratios = [times[slow] / times[name] for slow in ("literal", "literal, torch set as ours")]
        terms = ", ".join(f"{key} {abs(value / losses['literal'][0][key] - 1):.1e}" for key, value in losses[name][0].items())
        last = abs(losses[name][-1]["loss"] / losses["literal"][-1]["loss"] - 1)
        print(
            f"{name}: {ratios[0]:.2f} times faster than literal ({ratios[1]:.2f} with torch set as ours); losses differ by {terms}; "
            f"in step {len(losses[name])} by {last:.1e}"
        )


def bench_test(model, clip_model, options, lengths, timed: int | None) -> None:
    """The test set: ours on all videos, the literal version on `timed` of them, spread over the lengths, or with None on all."""
    videos = [(str(i), features) for i, length in enumerate(lengths) for features in random_features(1, length, options.visual_width)]
    chunks = [length // options.visual_length + 1 for length in lengths]
    by_length = sorted(range(len(videos)), key=lengths.__getitem__)
    every = max(len(videos) // (timed or len(videos)), 1)
    chosen = by_length[every // 2 :: every]
    w, expected = model.state_dict(keep_vars=True), {}
    slow = 0.0
    for i in chosen:
        seconds, expected[videos[i][0]] = elapsed(literal_scores, w, clip_model, videos[i][1], options)
        slow += seconds
    with torch.no_grad():
        text = min(elapsed(literal_text, w, clip_model, UCF.names, options)[0] for _ in range(3))
    visual = (slow - text * len(chosen)) / sum(chunks[i] for i in chosen)
    slow = slow if len(chosen) == len(videos) else text * len(videos) + visual * sum(chunks)
    print(
        f"test, literal: {slow:.1f} s for {len(videos)} videos in {sum(chunks)} chunks; {len(chosen)} videos timed: "
        f"text {text:.2f} s a video, the rest {visual:.3f} s a chunk"
    )
    for options.precision in ("fp32", "bf16"):
        fast, scores = elapsed(engine.predict, model, videos, options, torch.device("cpu"))
        gap = max(
            np.abs(ours - theirs.numpy()).max()
            for name, pair in expected.items()
            for ours, theirs in zip((scores[name].coarse, scores[name].fine), pair, strict=True)
        )
        print(f"test, ours, {options.precision}: {fast:.1f} s: {slow / fast:.2f} times faster; scores differ by at most {gap:.1e}")


def bench_vadclip(words=(), clip_model=None, lengths=None, timed: int | None = TIMED) -> None:
    """Training step and test at UCF-Crime's sizes; tests give further option words, a small CLIP and lengths of few test videos."""
    options = parse_args(["--model", "vadclip", "--feature-root", "unused", "--device", "cpu", *words])
    torch.manual_seed(0)
    clip_model = clip_model or openai_clip().model.CLIP(*VIT_B_16)
    model = build_model("vadclip", UCF.names, clip_model, **{name: getattr(options, name) for name in options_of("vadclip")})
    bench_training(model, clip_model, options)
    truth = load_ground_truth(UCF.gt_path, UCF).values()
    bench_test(model, clip_model, options, lengths or [max(video.frames // SNIPPET, 1) for video in truth], timed)
