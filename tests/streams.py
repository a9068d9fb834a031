"""Simulated streams for the tests of live scoring: frames that carry their number, a TCP server that cuts, a small detector."""

import contextlib
import io
import itertools
import json
import os
import re
import socket
import struct
import threading
import time
from pathlib import Path

import av
import numpy as np
import torch
from torch import nn

from app.detector import Detector
from utils.evaluation.scores import Scores
from utils.video.crops import Recipe
from utils.video.encoder import ImageEncoder

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


def write_stream(
    target,
    numbers,
    *,
    form="mpegts",
    codec="mpeg2video",
    rate=25,
    start=0,
    options=None,
    stamp=None,
    aspect=None,
    mirrored=False,
    size=SIZE,
):
    """Encode and mux frames into `target`, a path or an object with `write`. start: the first time stamp; stamp: of frame i, else i;
    aspect: of a pixel.
    """
    with av.open(target, "w", format=form, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate, options={"g": "25", "bf": "0", "qmin": "2", "qmax": "4"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if mirrored:
            stream.set_display_rotation(0, hflip=True)
        for i, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), "yuv420p")
            frame = frame if size == SIZE else frame.reformat(*size, interpolation="POINT")
            frame.pts = start + (stamp(i) if stamp else i)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


class Server(threading.Thread):
    """Listens on a TCP port and calls each of `parts` with one client after the other, as a file to write to or, `raw`, as a socket; then
    nobody listens any more.
    """

    def __init__(self, *parts, raw=False):
        super().__init__(daemon=True)
        self.parts, self.raw = parts, raw
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
            with client, contextlib.suppress(OSError, av.error.FFmpegError), client.makefile("wb") as file:
                part(client if self.raw else file)
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


@contextlib.contextmanager
def standard_input(file):
    """`file` is this process's standard input, as the reading child inherits it."""
    kept = os.dup(0)
    os.dup2(file.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def rtsp_camera(client, numbers):
    """The other end of an RTSP connection: a camera that sends H.264 at 25 frames a second as fast as it can, then hangs up."""
    rtsp_play(client)
    sequence = itertools.count(65_500)  # over its end
    for i, units in enumerate(h264_units(numbers)):
        send_frame(client, units, i, sequence)
    client.shutdown(socket.SHUT_WR)
    while client.recv(4096):  # its reports; closing before would take back what was sent
        pass


def rtsp_play(client):
    """Answer a client by TCP (RFC 2326, 10.12) until it wants to see: one H.264 track."""
    reader, port = client.makefile("rb"), client.getsockname()[1]
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track\r\n"
    headers = {
        "OPTIONS": "Public: DESCRIBE, SETUP, PLAY\r\n",
        "DESCRIBE": f"Content-Base: rtsp://127.0.0.1:{port}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
        "PLAY": "Session: 1\r\n",
    }
    method = None
    while method != "PLAY":
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            if not (line := reader.readline()):
                raise ConnectionResetError("nobody asks any more")
            request += line
        request = request.decode()
        method = request.split()[0]
        assert method != "SETUP" or "RTP/AVP/TCP" in request, request  # over UDP it would be as lossy
        cseq = request.lower().partition("cseq: ")[2].split()[0]
        body = sdp if method == "DESCRIBE" else ""
        client.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n{headers[method]}\r\n{body}".encode())


def h264_units(numbers, size=SIZE):
    """Of each frame the units (RFC 6184) that it is sent as; every 25th is a key frame."""
    coded, frames = io.BytesIO(), []
    write_stream(coded, numbers, form="h264", codec="libx264", size=size)
    coded.seek(0)
    with av.open(coded) as file:
        for packet in file.demux(video=0):
            if packet.size:
                units = [unit.strip(b"\0") for unit in bytes(packet).split(b"\0\0\1")]
                frames.append([unit for unit in units if unit])
    return frames


def send_frame(client, units, i, sequence):
    """Frame number i, as RTP in the RTSP connection."""
    for unit in units:
        head = struct.pack(">BBHII", 0x80, 96 | (unit is units[-1]) << 7, next(sequence) & 0xFFFF, 4_294_900_000 + 3600 * i & 0xFFFFFFFF, 7)
        client.sendall(struct.pack(">cBH", b"$", 0, len(head + unit)) + head + unit)


def live_camera(client, frames, until, *, start=0, fault=None):
    """A camera in real time, which sends `frames` (h264_units), over and over, until `until()` is true or `fault(i, client)` says so."""
    rtsp_play(client)
    sequence, began = itertools.count(), time.monotonic()
    for i in itertools.count():
        time.sleep(max(0.0, began + i / 25 - time.monotonic()))
        if until() or (fault and fault(i, client)):
            return
        send_frame(client, frames[(start + i) % len(frames)], i, sequence)


def frames_of(clip):
    """The numbers of the frames of an MP4 that begins at 0."""
    with av.open(io.BytesIO(clip)) as file:
        assert file.start_time == 0
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]


def lines_of(text, kind, state=None):
    """JSON lines of a kind."""
    lines = map(json.loads, text.splitlines())
    return [line for line in lines if line["type"] == kind and state in (None, line.get("state"))]


def memory(pid="self"):
    """Resident bytes of a process."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
