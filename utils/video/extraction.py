"""From video files to features: decoding beside the encoder, frames of several videos in a batch.

T snippets of a video, D feature width; a video of F frames has T = max(1, F // stride) (utils/video/crops.py).
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.video.crops import Recipe
from utils.video.decoder import LIMITS, Decoder, Ended, Limits, Opened, Picture
from utils.video.encoder import ImageEncoder
from utils.video.frames import LOST_FRAMES, BrokenVideo


class Extracted(NamedTuple):
    """Features (T, crops, D) float32 of one video. times: (T+1,) float64 seconds from its first frame, by the file's own time stamps: where
    each snippet begins, then where the video ends. size: width, height as players show it. thumbnails: (seconds, JPEG, upright) in order
    of time, as utils.video.decoder.Ended has them. promised: how many frames the header counts, or None; jumps: how often the clock was
    wrong or set anew; created: creation_time of the metadata, or None.
    """

    path: Path
    features: np.ndarray
    times: np.ndarray
    frames: int
    fps: float | None
    size: tuple[int, int]
    thumbnails: list[tuple[float, bytes]]
    promised: int | None = None
    jumps: int = 0
    created: str | None = None

    @property
    def notes(self) -> list[str]:
        """What is odd about the file, in whole sentences."""
        unseen, times = (self.promised or 0) - self.frames, "once" if self.jumps == 1 else f"{self.jumps} times"
        notes = []
        if unseen > LOST_FRAMES:
            why = "empty, before the first key frame, or damaged"
            notes += [f"{unseen:,} of the {self.promised:,} frames that its header counts can be shown by no player ({why})."]
        if self.jumps:
            notes += [f"Its clock went back or was far ahead {times}: the frames there are taken to follow one another."]
        return notes


class _Job:
    """A video under way: what has come of it so far. waiting: pictures that are not encoded yet."""

    def __init__(self, path: Path):
        self.path, self.opened, self.ended = path, None, None
        self.rows, self.times, self.waiting, self.broken = [], [], 0, False

    def result(self) -> Extracted:
        times = np.array([*self.times, max(self.ended.seconds, self.times[-1])])
        frames, _, promised, jumps, thumbnails = self.ended
        fps, size = self.opened.fps, self.opened.size
        return Extracted(self.path, np.stack(self.rows), times, frames, fps, size, thumbnails, promised, jumps, self.opened.created)

    def expected(self, recipe: Recipe) -> int | None:
        return self.opened.frames and max(1, self.opened.frames // recipe.stride)


def extract(
    paths: Iterable[Path | str],
    encoder: ImageEncoder | None,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    batch_size: int | None = None,
    workers: int = 1,
    limits: Limits = LIMITS,
    progress: Callable[[Path, int, int | None], None] | None = None,
) -> Iterator[Extracted | BrokenVideo]:
    """Features of the videos `paths`, each as soon as it is done; a BrokenVideo with its `path` in place of one that is none, or is above
    `limits`.

    encoder: None for no features, D = 0, where clock, size and thumbnails are all that is wanted. batch_size: crops in a batch, at least
    those of one picture; None: default_batch. Every batch has the same shape, the last one is filled up with zeros, so that a video's
    features do not depend on its neighbours. workers: videos decoded at a time, each in a process of its own.
    progress(path, snippets encoded, snippets expected or None) is called in this thread. The encoder is moved to `device`.
    """
    if encoder is not None:
        if recipe.size != encoder.size:
            raise ValueError(f"{encoder.name} takes pictures of {encoder.size} pixels, the recipe gives {recipe.size}")
        encoder.to(device)
    frames = max(1, (batch_size or default_batch(recipe.size, device)) // recipe.crops)
    batch: list[tuple[_Job, np.ndarray]] = []

    def flush() -> Iterator[Extracted]:
        todo = [(job, image) for job, image in batch if not job.broken]
        batch.clear()
        if not todo:
            return
        for (job, _), rows in zip(todo, encode([image for _, image in todo], encoder, recipe, frames, precision), strict=True):
            job.rows.append(rows)
            job.waiting -= 1
        for job in dict.fromkeys(job for job, _ in todo):
            if progress:
                progress(job.path, len(job.rows), job.expected(recipe))
            if job.ended and not job.waiting:
                yield job.result()

    with _Decoders(paths, recipe, limits, workers, ahead=2 * frames) as decoders:
        for job, event in decoders:
            match event:
                case Opened():
                    job.opened = event
                case Picture(_, seconds, image):
                    job.times.append(seconds)
                    job.waiting += 1
                    batch.append((job, image))
                    if len(batch) == frames:
                        yield from flush()
                case Ended():
                    job.ended = event
                    if not job.waiting:
                        yield job.result()
                case BrokenVideo():
                    job.broken = True
                    yield event
        yield from flush()


def default_batch(size: int, device: torch.device | str) -> int:
    """Crops of size × size pixels in a batch: 60 on a GPU, elsewhere as many as a megapixel, which stays in the cache (20 of 224)."""
    return 60 if torch.device(device).type == "cuda" else min(200, max(1, 1_000_000 // size**2))


def encode(pictures: list[np.ndarray], encoder: ImageEncoder | None, recipe: Recipe, frames: int, precision: str = "fp32") -> np.ndarray:
    """Up to `frames` pictures (h, w, 3) uint8, as `recipe.fit` leaves them -> (n, crops, D) float32, computed as a batch of `frames`; D = 0
    without an encoder.
    """
    if encoder is None:
        return np.zeros((len(pictures), recipe.crops, 0), np.float32)
    device = encoder.scale.device
    crops = torch.zeros(frames, recipe.crops, 3, recipe.size, recipe.size, dtype=torch.uint8, device=device)
    for place, picture in zip(crops, pictures, strict=False):
        place.copy_(recipe.cut(torch.from_numpy(picture).to(device).permute(2, 0, 1)))
    with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
        rows = encoder(crops.flatten(0, 1))
    return rows.view(frames, recipe.crops, -1)[: len(pictures)].cpu().numpy()


class _Decoders:
    """Threads that decode `paths`, `workers` at a time; iterating gives (job, event) of all of them, those of one video in order.

    At most `ahead` events wait. At the end of the `with` statement the child processes are killed.
    """

    def __init__(self, paths: Iterable[Path | str], recipe: Recipe, limits: Limits, workers: int, ahead: int):
        self._paths, self._recipe, self._limits = iter(paths), recipe, limits
        self._events: queue.Queue = queue.Queue(ahead)
        self._lock, self._stopped, self._running = threading.Lock(), False, set()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def __enter__(self) -> "_Decoders":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        with self._lock:
            self._stopped = True
            for decoder in self._running:
                decoder.close()
        for thread in self._threads:
            while thread.is_alive():
                with suppress(queue.Empty):
                    self._events.get(timeout=0.05)

    def __iter__(self) -> Iterator[tuple[_Job, Opened | Picture | Ended | BrokenVideo]]:
        left = len(self._threads)
        while left:
            job, event = self._events.get()
            if job is None:
                left -= 1
                if event is not None:
                    raise event
            else:
                yield job, event

    def _work(self) -> None:
        failure = None
        try:
            while (decoder := self._next()) is not None:
                job = _Job(decoder.path)
                with decoder:
                    try:
                        for event in decoder:
                            self._events.put((job, event))
                    except BrokenVideo as error:
                        error.path = job.path
                        self._events.put((job, error))
                with self._lock:
                    self._running.discard(decoder)
        except BaseException as error:  # raised where the events are read
            failure = error
        self._events.put((None, failure))

    def _next(self) -> Decoder | None:
        with self._lock:
            if self._stopped or (path := next(self._paths, None)) is None:
                return None
            self._running.add(decoder := Decoder(path, self._recipe, self._limits))
            return decoder
