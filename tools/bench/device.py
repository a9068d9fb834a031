"""One training step of each system with a text side at UCF-Crime's sizes on a GPU: `python -m tools.bench device`."""

import time
from collections.abc import Sequence

import torch

from model import SYSTEMS, build_model, options_of
from tools.bench.measure import UCF, VIT_B_16, random_batch
from ucf_option import parse_args
from utils import engine
from utils.errors import BadInput
from utils.text import openai_clip

STEPS = {"reflip": 8, "vadclip": 8, "dsanet": 8, "trclip": 3}  # timed, after one that warms up


def of_real_sizes(options, clip_model, classes: Sequence[str]) -> torch.nn.Module:
    """The system with `clip_model` as its text side, and a DistilBERT of the real size where it takes one; weights are random."""
    more = {}
    if "distilbert" in options_of(options.model):
        from transformers import DistilBertConfig, DistilBertModel

        more["distilbert"] = DistilBertModel(DistilBertConfig())
    sizes = {name: getattr(options, name) for name in options_of(options.model) - more.keys()}
    return build_model(options.model, classes, clip_model, **sizes, **more)


def step_times(model: torch.nn.Module, options, device: torch.device, steps: int, classes: int) -> tuple[list[float], float]:
    """Seconds of each of 1 + `steps` steps on one random batch, and the loss of the first."""
    model = model.to(device).train()
    batch = random_batch(options, classes)
    if "captions" in SYSTEMS[options.model].inputs(options):
        batch += (torch.randn(options.batch_size, options.visual_length, options.caption_width),)
    batch = tuple(part.to(device) for part in batch)
    optimizer, second = engine.make_optimizer(model, options), SYSTEMS[options.model].second(model, options, 1)
    times, losses = [], []
    for _ in range(1 + steps):
        start = time.perf_counter()
        losses.append(engine.step(model, batch, optimizer, options, device, second)["loss"])  # ends with a copy to the host
        times.append(time.perf_counter() - start)
    return times, losses[0]


def bench_device(words=(), clip_model=None, device: torch.device | None = None) -> None:
    """Both precisions, with the text side of CLIP ViT-B/16; tests give further option words, a small CLIP and the CPU."""
    if device is None and not torch.cuda.is_available():
        raise BadInput("device: measures on a GPU, and torch finds none here (CUDA); the others run on a CPU")
    device = device or torch.device("cuda")
    print(torch.cuda.get_device_name() if device.type == "cuda" else device.type)
    for name, steps in STEPS.items():
        for precision in ("fp32", "bf16"):
            torch.manual_seed(0)
            text = clip_model or openai_clip().model.CLIP(*VIT_B_16)
            files = ["--feature-root", "unused", *(["--caption-root", "unused"] if name == "trclip" else [])]
            options = parse_args(["--model", name, *files, "--device", device.type, "--precision", precision, *words])
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            times, loss = step_times(of_real_sizes(options, text, UCF.names), options, device, steps, len(UCF.names))
            peak = f", peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
            median = sorted(times[1:])[steps // 2]
            size = f"{options.batch_size} × {options.visual_length} × {options.visual_width}"
            print(f"{name}, {size}, {precision}: {1000 * median:.1f} ms a step (median of {steps}){peak}; first loss {loss:.4f}")
