"""Ten-crop extraction against a literal reference in the same process: `python -m tools.bench extract`.

The reference does what the recipe says, word by word: it converts every frame to RGB, resizes a picture anew for each crop, normalises with
torchvision, and gives CLIP one image at a time. tests/video/test_extraction.py holds utils/video/extraction.py to it.
"""

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import Compose, Normalize, ToTensor

from utils.text import openai_clip
from utils.video.crops import Recipe, bilinear
from utils.video.encoder import CLIP_MEAN, CLIP_STD, CLIPEncoder, ImageEncoder
from utils.video.extraction import Extracted, extract

SECONDS, SHORT, RATE, SIZE = 300, 12, 30, (320, 240)  # of the generated videos; SHORT: what ViT-B/16 is timed on


def literal(path: Path | str, clip_model: nn.Module, crops: int = 10) -> np.ndarray:
    """(T, crops, D) float32: the published recipe without a thought for speed, of a video without rotation flag."""
    import av

    size = clip_model.visual.input_resolution
    width, height = round(340 * size / 224), round(256 * size / 224)
    normalise = Compose([ToTensor(), Normalize(CLIP_MEAN, CLIP_STD)])
    taken, count = [], 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            image = frame.to_image()
            if count % 16 == 0:
                taken.append(image)
            count += 1
    left, top = (width - size) // 2, (height - size) // 2
    corners = [(left, top), (0, 0), (width - size, 0), (0, height - size), (width - size, height - size)]
    rows = []
    for image in taken[: max(1, count // 16)]:
        row = []
        for crop in range(crops):
            left, top = corners[crop % 5]
            part = Image.fromarray(bilinear(np.asarray(image), width, height)).crop((left, top, left + size, top + size))
            if crop >= 5:
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            with torch.no_grad():
                row.append(clip_model.encode_image(normalise(part)[None])[0])
        rows.append(torch.stack(row))
    return torch.stack(rows).numpy()


def write_video(path: Path, seconds: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """H.264 of a camera that pans over a smooth scene in which a bright block moves, with a sensor's noise."""
    import av

    rng, (width, height) = np.random.default_rng(seed), size
    scene = Image.fromarray(rng.integers(0, 256, (height // 8, width // 4, 3), dtype=np.uint8)).resize((2 * width, height))
    scene, noise = np.asarray(scene).astype(np.int16), rng.normal(0, 3, (height + 64, width + 64, 3)).astype(np.int16)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for i in range(seconds * RATE):
            down, right = rng.integers(0, 64, 2)
            picture = np.roll(scene, -i, 1)[:, :width] + noise[down : down + height, right : right + width]
            place = 2 * i % (width - 40)
            picture[height // 2 : height // 2 + 40, place : place + 40] += 90
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), "rgb24")))
        file.mux(stream.encode())
    return path


class Timed(NamedTuple):
    """Features of a video; seconds, and CPU seconds of this process and its children, for all of it; the shares of both in which the
    encoder does not run. CPU seconds say more on a machine that has other work; decoding beside the encoder counts as outside.
    """

    found: Extracted
    seconds: float
    cpu: float
    outside: float
    cpu_outside: float


def cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(path: Path, encoder: ImageEncoder, **options) -> Timed:
    inside = np.zeros(2)

    def now(sign: int) -> None:
        inside[:] += sign * time.perf_counter(), sign * cpu_seconds()

    before = encoder.register_forward_pre_hook(lambda *_: now(-1))
    behind = encoder.register_forward_hook(lambda *_: now(1))
    try:
        start = np.array([time.perf_counter(), cpu_seconds()])
        [found] = extract([path], encoder, Recipe(size=encoder.size), **options)
        whole = np.array([time.perf_counter(), cpu_seconds()]) - start
    finally:
        before.remove(), behind.remove()
    if not isinstance(found, Extracted):
        raise found
    return Timed(found, *whole.tolist(), *(1 - inside / whole).tolist())


def tiny_clip(size: int = 32) -> nn.Module:
    """A CLIP whose image side has two layers of 64 columns and random weights, so that what surrounds it shows."""
    torch.manual_seed(0)
    return openai_clip().model.CLIP(64, size, 2, 64, size // 4, 77, 49408, 64, 1, 2).eval()


def vit_b16() -> nn.Module:
    """A CLIP whose image side has the sizes of ViT-B/16, and random weights."""
    torch.manual_seed(0)
    return openai_clip().model.CLIP(512, 224, 12, 768, 16, 77, 49408, 64, 1, 1).eval()


def bench_extract(seconds: int = SECONDS, short: int = SHORT, large=vit_b16) -> None:
    """Both comparisons; tests give shorter videos, and a small network in place of ViT-B/16."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "long.mp4", seconds)
        print(f"{seconds} s of {SIZE[0]} × {SIZE[1]}, {path.stat().st_size / 2**20:.0f} MiB; load {load()}")
        clip_model = tiny_clip()
        ours = timed(path, CLIPEncoder(clip_model))
        start, cpu = time.perf_counter(), cpu_seconds()
        expected = literal(path, clip_model)
        slow, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        gap = np.abs(ours.found.features - expected).max() / np.abs(expected).max()
        print(
            f"ten crops, tiny encoder: {ours.seconds:.1f} s ({ours.found.frames / ours.seconds:.0f} frames a second), "
            f"literal {slow:.1f} s: {slow / ours.seconds:.1f} times faster; "
            f"CPU {ours.cpu:.1f} s, literal {cpu:.1f} s: {cpu / ours.cpu:.1f} times less; "
            f"features differ by {gap:.1e} of the largest; load {load()}"
        )
        path = write_video(Path(folder) / "short.mp4", short)
        for precision in ("fp32", "bf16"):
            ours = timed(path, CLIPEncoder(large()), precision=precision)
            print(
                f"ten crops of {short} s, ViT-B/16's sizes, {precision}: {ours.seconds:.1f} s, "
                f"{ours.found.features.shape[0] * 10 / ours.seconds:.2f} crops a second; "
                f"{ours.outside:.1%} of the time outside the encoder, {ours.cpu_outside:.1%} of the CPU time; load {load()}"
            )


def load() -> str:
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else "unknown"
