"""Everything that needs a GPU, in some minutes: `python -m tools.bench gpu`. One training step of every system at UCF-Crime's sizes, with
the text side of CLIP ViT-B/16 and random weights; a literal VadCLIP in the same process; what a step waits for bags; ten-crop features.

A step's floor is its FLOPs over the rate of a large matrix product of the same precision, measured here. Launches are kernels and copies.
"""

import gc
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from dataset import FeatureDataset, read_list
from model import SYSTEMS, build_model, options_of
from tools import pack_features
from tools.bench.extract import timed, vit_b16, write_video
from tools.bench.loader import write_features
from tools.bench.measure import UCF, VIT_B_16, matmul_rate, random_batch
from tools.bench.vadclip import literal_step
from ucf_option import parse_args
from utils import engine
from utils.batches import BalancedBatches
from utils.errors import BadInput
from utils.prefetch import ahead, make_loader
from utils.text import openai_clip
from utils.video.encoder import CLIPEncoder

STEPS = 8  # timed, after two that warm up; of TrCLIP-VAD as many as SECONDS allow
SECONDS = 3.0  # of timed steps of one system and precision, at most
BUDGET = 170.0  # seconds, after which no further system is compiled: compiling takes the longest, and four minutes are the limit
WAYS = (("fp32", False), ("bf16", False), ("bf16", True))  # precision, compiled


def of_real_sizes(options, clip_model, classes: Sequence[str]) -> torch.nn.Module:
    """The system with `clip_model` as its text side, and a DistilBERT of the real size where it takes one; weights are random."""
    more = {}
    if "distilbert" in options_of(options.model):
        from transformers import DistilBertConfig, DistilBertModel

        more["distilbert"] = DistilBertModel(DistilBertConfig())
    sizes = {name: getattr(options, name) for name in options_of(options.model) - more.keys()}
    return build_model(options.model, classes, clip_model, **sizes, **more)


class Steps:
    """Steps of a model on one random batch."""

    def __init__(self, model: torch.nn.Module, options, device: torch.device, classes: int = len(UCF.names)):
        self.model, self.options, self.device = model.to(device).train(), options, device
        batch = random_batch(options, classes)
        if "captions" in SYSTEMS[options.model].inputs(options):
            batch += (torch.randn(options.batch_size, options.visual_length, options.caption_width),)
        self.batch = tuple(part.to(device) for part in batch)
        self.optimizer, self.second = engine.make_optimizer(model, options), SYSTEMS[options.model].second(model, options, 1)

    def __call__(self, batch=None) -> torch.Tensor:
        """The loss of one step, which a GPU may still be at."""
        return engine.step(self.model, batch or self.batch, self.optimizer, self.options, self.device, self.second)["loss"]

    def launches(self) -> int:
        """Kernels and copies of a step on a GPU, on a CPU operators."""
        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
            float(self())
        if on_gpu:
            return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in found.events())
        return sum(event.name.startswith("aten::") and event.cpu_parent is None for event in found.events())


def step_times(model: torch.nn.Module, options, device: torch.device, steps: int, classes: int) -> tuple[list[float], float]:
    """Seconds of each of 1 + `steps` steps on one random batch, to their end, and the loss of the first."""
    step, times, losses = Steps(model, options, device, classes), [], []
    for _ in range(1 + steps):
        start = time.perf_counter()
        losses.append(float(step()))
        times.append(time.perf_counter() - start)
    return times, losses[0]


def several(step, device: torch.device, batches=None) -> float:
    """Seconds a step of some in a row, none of which is waited for: STEPS of them, fewer where they are slow, or one for each batch."""
    first = time.perf_counter()
    float(step())
    count = max(1, min(STEPS, int(SECONDS / (time.perf_counter() - first))))
    start, last, done = time.perf_counter(), None, 0
    for batch in batches if batches is not None else [None] * count:
        last, done = step(batch) if batch is not None else step(), done + 1
    float(last)
    return (time.perf_counter() - start) / done


def prepared(name: str, precision: str, words: Sequence[str], clip_model, device: torch.device) -> tuple[torch.nn.Module, object]:
    """A system of random weights, and its options."""
    files = ["--feature-root", "unused", *(["--caption-root", "unused"] if name == "trclip" else [])]
    known = [word for pair in zip(words[::2], words[1::2], strict=True) for word in pair if has(name, pair[0])]
    options = parse_args(["--model", name, *files, "--device", device.type, "--precision", precision, *known])
    torch.manual_seed(0)
    return of_real_sizes(options, clip_model or openai_clip().model.CLIP(*VIT_B_16), UCF.names), options


def has(name: str, word: str) -> bool:
    """Whether an option word is one of the system's, or of all."""
    key = word.removeprefix("--").replace("-", "_")
    return key in options_of(name) or key in ("batch_size", "visual_length") or (key == "caption_width" and name == "trclip")


def bench_steps(words, clip_model, device: torch.device, rates: dict[str, float], began: float, backend: str) -> dict[str, float]:
    """Every system in all WAYS; ms a step by system, of those in bf16."""
    found = {}
    for precision, compiled in WAYS:
        for name in SYSTEMS:
            if compiled and time.perf_counter() - began > BUDGET:
                print(f"{name}, compiled: left out, {BUDGET:.0f} s are over")
                continue
            model, options = prepared(name, precision, words, clip_model, device)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            step = Steps(model, options, device)
            with FlopCounterMode(display=False) as counter:
                loss = float(step())
            options.compile = compiled
            if compiled:
                torch.compiler.reset()
                try:
                    engine.compile_graph(model, backend=backend)
                except BadInput as error:
                    print(f"{name}, compiled: {error}")
                    continue
            float(step())
            took = several(step, device)
            peak = f", peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
            share = counter.get_total_flops() / took / rates[precision]
            size = f"{options.batch_size} × {options.visual_length} × {options.visual_width}"
            print(
                f"{name}, {size}, {precision}{', compiled' if compiled else ''}: {1000 * took:.2f} ms a step, {share:.1%} of the matrix "
                f"products' rate{peak}, {step.launches()} launches; first loss {loss:.4f}",
                flush=True,
            )
            found[name] = 1000 * took if precision == "bf16" and not compiled else found.get(name, 0.0)
    return found


def bench_literal(words, clip_model, device: torch.device) -> None:
    """VadCLIP against the transcription of its published equations, same weights, fp32."""
    model, options = prepared("vadclip", "fp32", words, clip_model, device)
    step, clip_model = Steps(model, options, device), model.text_prompt_embeddings.text.module
    state = {key: value.clone() for key, value in model.state_dict().items()}
    loss, ours = float(step()), several(step, device)
    model.load_state_dict(state)
    optimizers, w = (engine.make_optimizer(model, options),), model.state_dict(keep_vars=True)

    def literal() -> float:
        with torch.device(device):  # what it makes on the way lies there, too
            return literal_step(w, clip_model, step.batch, optimizers, options)["loss"]

    first, theirs = float(literal()), several(literal, device)
    print(
        f"vadclip, fp32: literal {1000 * theirs:.1f} ms a step, ours {1000 * ours:.1f} ms: {theirs / ours:.2f} times faster; "
        f"losses {first:.5f} and {loss:.5f}"
    )


def bench_waiting(words, clip_model, device: torch.device, videos: int | None) -> None:
    """VadCLIP's steps with bags as they come from packed files, and from `--cache`, against steps without."""
    model, options = prepared("vadclip", "bf16", words, clip_model, device)
    step = Steps(model, options, device)
    float(step())
    alone = several(step, device)
    with tempfile.TemporaryDirectory() as folder:
        root, listing = write_features(Path(folder), 4, videos, options.visual_width)
        pack_features.main([str(root)])
        for options.cache in (False, True):
            train = FeatureDataset(read_list(listing, f"{root}-packed", UCF), length=options.visual_length, width=options.visual_width)
            batches = BalancedBatches(train.abnormal, options.batch_size, seed=1)
            loader = make_loader(train, batches, options, device)
            for epoch in (1, 2):  # the first one starts the workers
                batches.set_epoch(epoch)
                took = several(step, device, ahead(loader, device))
            print(
                f"vadclip, bf16, bags from {'--cache' if options.cache else 'packed files'}: {1000 * took:.2f} ms a step, "
                f"{1000 * alone:.2f} ms without: {max(0.0, 1 - alone / took):.1%} of it waits"
            )
            if loader._iterator is not None:
                loader._iterator._shutdown_workers()


def bench_images(device: torch.device, large, seconds: int) -> None:
    """Ten-crop features of a generated video with an encoder of ViT-B/16's sizes."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "video.mp4", seconds)
        for precision in ("fp32", "bf16"):
            found = timed(path, CLIPEncoder(large()).to(device), precision=precision)
            print(
                f"ten crops, ViT-B/16's sizes, {precision}: {found.found.frames / found.seconds:.0f} frames of video a second, "
                f"{len(found.found.features) * 10 / found.seconds:.1f} crops a second, {found.outside:.0%} of the time outside the encoder"
            )


def bench_gpu(
    words: Sequence[str] = (),
    clip_model=None,
    device: torch.device | None = None,
    *,
    large=vit_b16,
    seconds: int = 60,
    videos: int | None = None,
    size: int = 8192,
    backend: str = "inductor",
) -> None:
    """Tests give further option words, a small CLIP and the CPU, fewer seconds and videos, smaller products and no compiler."""
    if device is None and not torch.cuda.is_available():
        raise BadInput("gpu: measures on a GPU, and torch finds none here (CUDA); the others run on a CPU")
    device, began = device or torch.device("cuda"), time.perf_counter()
    print(torch.cuda.get_device_name() if device.type == "cuda" else device.type)
    rates = {name: matmul_rate(dtype, size, device) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    print(", ".join(f"matrix products in {name}: {rate / 1e12:.2f} TFLOP/s" for name, rate in rates.items()))
    bench_images(device, large, seconds)
    bench_waiting(words, clip_model, device, videos)
    bench_literal(words, clip_model, device)
    found = bench_steps(words, clip_model, device, rates, began, backend)
    print(f"bf16: {', '.join(f'{name} {ms:.1f} ms' for name, ms in found.items())}; all of it took {time.perf_counter() - began:.0f} s")
