"""Small videos that tests make, cut and damage, and stand-ins for the process that decodes them."""

import sys
import time
from pathlib import Path

import numpy as np

from utils.video import decoder


def make_video(
    path,
    frames=50,
    size=(64, 48),
    codec="libx264",
    *,
    options=None,
    container=None,
    form=None,
    rotation=None,
    mirrored=False,
    aspect=None,
    delay=0,
    picture=None,
    title=None,
):
    """Write a video whose frame i is grey of brightness 4i, or picture(i) (H, W, 3); the first `delay` frames lie before its start.

    Players turn it counterclockwise by `rotation` degrees, then mirror it left to right; `aspect` is that of a pixel.
    """
    import av

    def mux(packets):
        for packet in packets:
            packet.pts, packet.dts = packet.pts - delay, packet.dts - delay
            file.mux(packet)

    with av.open(str(path), "w", format=form, options=container or {}) as file:
        file.metadata.update({"title": title} if title else {})
        stream = file.add_stream(codec, rate=25, options={"bf": "0"} | (options or {}) if codec == "libx264" else options or {})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for i in range(frames):
            image = picture(i) if picture else np.full((size[1], size[0], 3), 4 * i, np.uint8)
            mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        mux(stream.encode())
    return path


def cut(path, share, **options):
    content = make_video(path, size=(320, 240), options={"qp": "0", "g": "5"}, **options).read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def with_a_hole(path):
    content = bytearray(make_video(path, size=(320, 240), options={"qp": "0"}, container={"movflags": "faststart"}).read_bytes())
    at = content.index(b"mdat") + 2000
    content[at : at + 4000] = bytes(4000)
    path.write_bytes(content)


def sound(path):
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            file.mux(packet)


def neighbour(path):
    """A file that the text in `path` may name, and FFmpeg by itself opens."""
    return make_video(path.with_name("neighbour.ts"), form="mpegts").name


def stub(monkeypatch, program):
    monkeypatch.setattr(decoder, "command", lambda _, *words: [sys.executable, "-c", program, *words])


def is_gone(pid) -> bool:
    """Whether a process ends within a minute; one whose parent has not asked for its exit code is gone."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False
