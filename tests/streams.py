"""Simulated streams for the tests of live scoring: frames that carry their number, a TCP server that cuts, a small detector."""

import contextlib
import socket
import threading

import av
import numpy as np
import torch
from torch import nn

from utils.crops import Recipe
from utils.detector import Detector
from utils.encoder import ImageEncoder
from utils.scores import Scores

SIZE = (64, 48)
BITS = 20
RECIPE = Recipe(crops=1, size=32)


def picture(number):
    """(72, 64) uint8, yuv420p of a 64 × 48 frame: 20 of its 8 × 6 blocks are the bits of `number`, the others go with it."""
    blocks = np.zeros(48, np.uint8)
    blocks[:BITS] = 30 + 190 * ((number >> np.arange(BITS)) & 1)
    blocks[BITS:] = 128 + 90 * np.sin(number / 150 + np.arange(48 - BITS))
    image = np.full((72, 64), 128, np.uint8)
    image[:48] = blocks.reshape(6, 8).repeat(8, 0).repeat(8, 1)
    return image


def number_of(picture):
    """The number that a decoded and resized frame (h, w, 3) carries."""
    h, w = picture.shape[:2]
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in ((6, h), (8, w)))
    bits = picture[rows.astype(int)][:, columns.astype(int)].mean(-1).ravel()[:BITS] > 125
    return int(bits @ (1 << np.arange(BITS)))


def write_stream(target, numbers, *, form="mpegts", codec="mpeg2video", rate=25, start=0, options=None, stamp=None):
    """Encode and mux frames into `target`, a path or an object with `write`. start: the first time stamp; stamp: of frame i, else i."""
    with av.open(target, "w", format=form, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate, options={"g": "25", "bf": "0", "qmin": "2", "qmax": "4"})
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), "yuv420p")
            frame.pts = start + (stamp(i) if stamp else i)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


class Server(threading.Thread):
    """Listens on a TCP port and plays `send(file)` of each of `parts` to one client after the other; then nobody listens any more."""

    def __init__(self, *parts):
        super().__init__(daemon=True)
        self.parts = parts
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.join(10)

    def run(self):
        for part in self.parts:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            with client, contextlib.suppress(BrokenPipeError, ConnectionResetError), client.makefile("wb") as file:
                part(file)
        self.socket.close()


class CutOff:
    """A file that breaks off after `size` bytes."""

    def __init__(self, file, size):
        self.file, self.left = file, size

    def write(self, data):
        self.file.write(data[: self.left])
        self.left -= len(data[: self.left])
        return len(data)


def make_detector(*, length=16, threshold=0.5, recipe=RECIPE, fine=True, seed=0):
    """A detector of three classes with seeded weights, whose scores depend on everything in the window, but most on what is near."""
    generator = torch.Generator().manual_seed(seed)
    width = 24
    weights = [torch.randn(*shape, generator=generator) for shape in ((192, width), (width, width), (width,), (width, 3))]

    def scorer(items):
        found = {}
        for key, x in items:
            time = torch.arange(len(x)).float()
            near = x @ weights[1] @ x.T / width - (time[:, None] - time).abs() / 4
            x = x + near.softmax(-1) @ x
            probabilities = (x @ weights[3] / 2).softmax(-1).numpy() if fine else None
            found[key] = Scores(coarse=(x @ weights[2] / 4).sigmoid().numpy(), fine=probabilities)
        return found

    network = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, width), nn.Tanh())
    with torch.no_grad():
        network[2].weight.copy_(weights[0].T / 10), network[2].bias.zero_()
    return Detector(
        scorer=scorer,
        encoder=ImageEncoder(network, name="tiny", size=recipe.size, width=width, mean=(0.5,) * 3, std=(0.25,) * 3),
        recipe=recipe,
        classes=("normal", "fight", "fire"),
        threshold=threshold,
        threshold_from="a test",
        length=length,
        device=torch.device("cpu"),
        notes=["a test"],
    )
