"""How a picture becomes crops: resized once, then cut in VadCLIP's published order. Imports no torch, so that decoding starts fast."""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from utils.labels import CROPS, SNIPPET

COUNTS = (1, 5, CROPS)
WIDTH, HEIGHT, SIZE = 340, 256, 224  # published: pictures of 340 × 256, crops of 224; other encoders' sizes in proportion
RESIZES = ("cv2", "bicubic")
GREY = 127  # where a picture does not count
LINES = 16  # that are resized at a time: what stays in the cache takes half the time
UNNAMED = "bicubic"  # what made features whose manifest or checkpoint is older than the choice


@dataclass(frozen=True)
class Recipe:
    """What decides the features of a video, beside the encoder. The default is what VadCLIP published.

    crops: 1 (centre), 5 (and top left, top right, bottom left, bottom right), or 10 (and these five mirrored). stride: frames of a
    snippet, whose first one is taken: a video of F frames has max(1, F // stride) snippets. keep_aspect: the shorter side becomes 256 in
    place of 340 × 256, whatever the aspect. size: the encoder's input, in pixels. resize: "cv2", four source pixels for each one, however
    much a picture shrinks (`bilinear`), or "bicubic", over all of them, as CLIP resizes its own pictures.
    """

    crops: int = CROPS
    stride: int = SNIPPET
    keep_aspect: bool = False
    size: int = SIZE
    resize: str = RESIZES[0]

    def __post_init__(self):
        if self.crops not in COUNTS or self.stride < 1 or self.size < 1:
            raise ValueError(f"{self}: expected crops of {COUNTS}, and a stride and size above 0")
        if self.resize not in RESIZES:
            raise ValueError(f"{self}: expected a resize of {RESIZES}")

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a picture which is shown at width × height pixels is resized to."""
        scale = self.size / SIZE
        if self.keep_aspect:
            scale *= HEIGHT / min(width, height)
            return max(round(width * scale), self.size), max(round(height * scale), self.size)
        return round(WIDTH * scale), round(HEIGHT * scale)

    def fit(self, picture: np.ndarray, shown: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8, once for all crops. shown: (width, height) at which it is shown, where that is not (W, H)."""
        size = self.shape(*(shown or picture.shape[1::-1]))
        if self.resize == "cv2":
            return bilinear(picture, *size)
        return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))

    def cut(self, picture):
        """(3, h, w) uint8 tensor, as `fit` leaves a picture -> (crops, 3, size, size) uint8 tensor on its device."""
        import torch

        height, width, size = *picture.shape[1:], self.size
        bottom, right = height - size, width - size
        corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        views = [picture[:, top : top + size, left : left + size] for top, left in corners[: min(self.crops, 5)]]
        crops = torch.stack(views)
        return torch.cat([crops, crops.flip(-1)]) if self.crops == CROPS else crops


def part_of(picture: np.ndarray, polygon: list) -> tuple[np.ndarray, tuple[float, float]]:
    """The part of a picture (H, W, 3) that lies in a polygon, [x, y] from 0 to 1 of its corners: the smallest rectangle that holds it, GREY
    outside of it, (h, w, 3), and its shares of the width and height.
    """
    height, width = picture.shape[:2]
    corners = np.array(polygon) * (width, height)
    left, top = np.minimum(np.floor(corners.min(0)), (width - 1, height - 1)).astype(int)
    right, bottom = np.maximum(np.ceil(corners.max(0)), (left + 1, top + 1)).astype(int)
    counts = Image.new("1", (right - left, bottom - top))
    ImageDraw.Draw(counts).polygon([tuple(corner) for corner in corners - (left, top)], fill=1)
    part = np.where(np.array(counts)[..., None], picture[top:bottom, left:right], np.uint8(GREY))
    return part, ((right - left) / width, (bottom - top) / height)


def bilinear(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, C) uint8 -> (height, width, C) uint8: cv2.resize(picture, (width, height)), bit for bit, without cv2.

    Bilinear between pixels' centres, without smoothing where a picture shrinks, in cv2's fixed-point numbers.
    """
    rows, down = _taps(picture.shape[0], height)
    columns, across = _taps(picture.shape[1], width, picture.shape[2])
    flat, result = picture.reshape(len(picture), -1), np.empty((height, columns.shape[1]), np.uint8)
    for start in range(0, height, LINES):
        part = slice(start, start + LINES)
        lines = []
        for line, weight in zip(rows[:, part], down[:, part, None], strict=True):
            pixels = flat[line]  # (LINES, W × C)
            total = pixels.take(columns[0], 1) * across[0]  # (LINES, width × C) int32
            total += pixels.take(columns[1], 1) * across[1]
            total >>= 4
            total *= weight
            total >>= 16
            lines.append(total)
        total += lines[0]
        total += 2
        total >>= 2
        result[part] = total
    return result.reshape(height, width, -1)


@functools.cache
def _taps(length: int, target: int, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """For each of `target` pixels in a line the two of its `length` source pixels between whose centres it lies, (2, target), and their
    weights in 2048ths, (2, target) int32; with `channels` each as often, of values in place of pixels.
    """
    places = ((np.arange(target) + 0.5) * (1 / (target / length)) - 0.5).astype(np.float32)
    first = np.floor(places)
    share = places - first
    weights = np.rint(np.stack([1 - share, share]) * np.float32(2048)).astype(np.int32)
    found = np.stack([first, first + 1]).astype(np.intp).clip(0, length - 1)
    found = (found[..., None] * channels + np.arange(channels)).reshape(2, -1)
    return found, weights.repeat(channels, 1)
