"""One training step of ReFLIP-VAD at the paper's sizes: `python -m tools.bench step`."""

import resource

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model import ReFLIPVAD, build_model
from tools.bench.measure import UCF, VIT_B_16, matmul_rate, seconds
from ucf_option import parse_args
from utils import devices, engine
from utils.text import openai_clip


def paper_sized() -> ReFLIPVAD:
    """ReFLIP-VAD on UCF-Crime's classes with the text side of CLIP ViT-B/16 and a DistilBERT of the real size, weights random; the image
    side is not used.
    """
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    clip_model = openai_clip().model.CLIP(*VIT_B_16)
    return build_model("reflip", UCF.names, clip_model, distilbert=DistilBertModel(DistilBertConfig()))


def literal_text(model: ReFLIPVAD) -> Tensor:
    """The class text features as the released code computes them: every prompt filled up to 77 tokens, through openai-clip's own
    transformer.
    """
    prompt = model.prompt
    clip_model = prompt.text.module
    tokens = prompt.reparameterization(prompt.tokens)
    rows, ends = [], []
    for name in prompt.names.split(prompt.sizes):
        row = torch.cat([prompt.start, tokens[: prompt.prefix], name, tokens[prompt.prefix :], prompt.end])
        ends.append(len(row) - 1)
        rows.append(torch.cat([row, clip_model.token_embedding(torch.zeros(77 - len(row), dtype=torch.long))]))
    x = clip_model.transformer((torch.stack(rows) + clip_model.positional_embedding).transpose(0, 1)).transpose(0, 1)
    return clip_model.ln_final(x)[torch.arange(len(ends)), ends] @ clip_model.text_projection


def bench_step() -> None:
    """One training step at the paper's sizes: batch 128, length 512, width 512, N = 24, τ = 0.07."""
    devices.keep_freed_memory()  # as a training does
    model = paper_sized()
    with torch.no_grad():
        ours, literal = model.prompt(), literal_text(model)
    difference = ((ours - literal).abs().max() / literal.abs().max()).item()
    print(f"text side, 77 tokens against the longest in use: largest difference {difference:.1e} of the largest value")
    fast = seconds(lambda: model.prompt().sum().backward(), 5)
    slow = seconds(lambda: literal_text(model).sum().backward(), 5)
    print(f"text side, forward + backward: ours {fast:.3f} s, literal {slow:.3f} s: {slow / fast:.2f} times faster")

    options = parse_args(["--feature-root", "unused", "--device", "cpu"])
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(64, options.visual_length + 1, (options.batch_size,), generator=generator)
    features = (
        torch.randn(options.batch_size, options.visual_length, options.visual_width, generator=generator) * 0.44
    )  # norm 10, as CLIP's
    features *= (torch.arange(options.visual_length) < lengths[:, None])[..., None]
    classes = torch.cat([torch.zeros(options.batch_size // 2, dtype=torch.long), torch.arange(options.batch_size // 2) % 13 + 1])
    batch = (features, lengths, nn.functional.one_hot(classes, 14).float())

    state = {key: value.clone() for key, value in model.state_dict().items()}
    times, losses = {}, {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        options.precision = precision
        model.load_state_dict(state)
        model.train()
        optimizer = engine.make_optimizer(model, options)
        with FlopCounterMode(display=False) as counter:
            losses[precision] = engine.step(model, batch, optimizer, options, torch.device("cpu"))["loss"]
        times[precision] = seconds(lambda optimizer=optimizer: engine.step(model, batch, optimizer, options, torch.device("cpu")), 3)
        rate = matmul_rate(dtype)
        flops = counter.get_total_flops()
        floor = flops / rate
        print(
            f"step, {precision}: {times[precision]:.2f} s; floor {flops / 1e12:.3f} TFLOP at {rate / 1e9:.0f} GFLOP/s = {floor:.2f} s; "
            f"time / floor {times[precision] / floor:.2f}; loss {losses[precision]:.5f}"
        )
    change = abs(losses["bf16"] / losses["fp32"] - 1)
    print(f"bf16 against fp32: {times['fp32'] / times['bf16']:.2f} times faster, loss differs by {change:.2%}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
