"""How a picture becomes crops: resized once, then cut in VadCLIP's published order. Imports no torch, so that decoding starts fast."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.labels import CROPS, SNIPPET

COUNTS = (1, 5, CROPS)
WIDTH, HEIGHT, SIZE = 340, 256, 224  # published: pictures of 340 × 256, crops of 224; other encoders' sizes in proportion


@dataclass(frozen=True)
class Recipe:
    """What decides the features of a video, beside the encoder. The default is what VadCLIP published.

    crops: 1 (centre), 5 (and top left, top right, bottom left, bottom right), or 10 (and these five mirrored). stride: frames of a
    snippet, whose first one is taken: a video of F frames has max(1, F // stride) snippets. keep_aspect: the shorter side becomes 256 in
    place of 340 × 256, whatever the aspect. size: the encoder's input, in pixels.
    """

    crops: int = CROPS
    stride: int = SNIPPET
    keep_aspect: bool = False
    size: int = SIZE

    def __post_init__(self):
        if self.crops not in COUNTS or self.stride < 1 or self.size < 1:
            raise ValueError(f"{self}: expected crops of {COUNTS}, and a stride and size above 0")

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a picture of width × height pixels is resized to."""
        scale = self.size / SIZE
        if self.keep_aspect:
            scale *= HEIGHT / min(width, height)
            return max(round(width * scale), self.size), max(round(height * scale), self.size)
        return round(WIDTH * scale), round(HEIGHT * scale)

    def resize(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8, bicubic, once for all crops."""
        return np.array(Image.fromarray(picture).resize(self.shape(picture.shape[1], picture.shape[0]), Image.Resampling.BICUBIC))

    def cut(self, picture):
        """(3, h, w) uint8 tensor, as `resize` leaves a picture -> (crops, 3, size, size) uint8 tensor on its device."""
        import torch

        height, width, size = *picture.shape[1:], self.size
        bottom, right = height - size, width - size
        corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        views = [picture[:, top : top + size, left : left + size] for top, left in corners[: min(self.crops, 5)]]
        crops = torch.stack(views)
        return torch.cat([crops, crops.flip(-1)]) if self.crops == CROPS else crops
