"""A video decoded in a process of its own, `python -m utils.video.decoder`, which is killed when it takes too long: the file may be
anybody's.

The child sends the picture of every snippet over its stdout, resized for the encoder, and waits when the pipe is full (a few pictures); it
imports no torch, so that it starts fast. Runs where pipes can be waited for: Linux, macOS.
"""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.video.child import command, end_with_parent, environment, limit_memory
from utils.video.crops import Recipe
from utils.video.display import shown_size, upright_size
from utils.video.frames import FPS, MAX_PIXELS, NEXT, BrokenVideo, Video, lasts, to_rgb

THUMBNAILS, THUMBNAIL_HEIGHT = 4096, 90  # how many at most (some 3 kB each); pixels
FASTEST = 120  # frames per second of the length allowed: time stamps are the file's own, and may say that no time passes
SLIMMEST = 100  # longer side over shorter one, at most: what is slimmer is no video, and takes memory when its aspect is kept


@dataclass(frozen=True)
class Limits:
    """What one video may cost. max_pixels: of a picture; max_seconds: its length; timeout: seconds of waiting for its decoder, the time in
    which nobody asks for a picture left out; memory: bytes that decoding may take on top of the process itself (Linux). None: no limit.
    """

    max_pixels: int = MAX_PIXELS
    max_seconds: float | None = None
    timeout: float | None = None
    memory: int | None = 4 << 30


LIMITS = Limits()


class Opened(NamedTuple):
    """What the header says: pixels of the picture as players show it, frames per second on average, about how many frames (None: it says
    nothing), whether it counts them, rather than seconds, and when the video was made (creation_time, or None).
    """

    size: tuple[int, int]
    fps: float | None
    frames: int | None
    counted: bool
    created: str | None = None


class Picture(NamedTuple):
    """The first frame of snippet `number`, resized by the recipe, and its time in seconds from the video's first frame."""

    number: int
    time: float
    image: np.ndarray  # (h, w, 3) uint8


class Ended(NamedTuple):
    """A whole video: frames decoded, seconds up to the end of the last one, how many frames the header counts (or None), how often the
    clock was wrong or set anew, and thumbnails (seconds, JPEG), one a snippet, or of long videos one of 2, 4, … snippets.
    """

    frames: int
    seconds: float
    promised: int | None
    jumps: int
    thumbnails: list[tuple[float, bytes]]


class Decoder:
    """The child process of one video. Iterating gives one Opened, then Pictures, then one Ended, and raises BrokenVideo where the file is
    no sound video or is above the limits. `close` kills the child, also from another thread.
    """

    def __init__(self, path: Path | str, recipe: Recipe, limits: Limits = LIMITS):
        self.path, self._limits, self._waited = Path(path), limits, 0.0
        job = {"path": os.path.abspath(path), "name": str(path), "recipe": asdict(recipe), "limits": asdict(limits)}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, closed with the child
        self._process = subprocess.Popen(
            command("utils.video.decoder", json.dumps(job)),
            stdin=subprocess.PIPE,  # never written to: it ends when this process does, and so does the child
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(),
            bufsize=0,
        )
        with contextlib.suppress(ImportError, AttributeError, OSError):  # not on Linux; as many large pipes as a user may have
            import fcntl

            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_) -> None:
        self.close()
        for file in (self._process.stdin, self._process.stdout, self._stderr):
            file.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def __iter__(self) -> Iterator[Opened | Picture | Ended]:
        thumbnails = []
        while True:
            kind, *values, shape = json.loads(self._read(int.from_bytes(self._read(4))))
            image = np.frombuffer(self._read(int(np.prod(shape))), np.uint8).reshape(shape) if shape else None
            if kind == "opened":
                yield Opened(tuple(values[0]), *values[1:])
            elif kind == "picture":
                yield Picture(*values, image)
            elif kind == "thumbnail":
                thumbnails.append((*values, image.tobytes()))
            elif kind == "ended":
                yield Ended(*values, thumbnails)
                return
            else:
                raise BrokenVideo(*values)

    def _read(self, count: int) -> bytearray:
        """Exactly `count` bytes of the child's; raises BrokenVideo where it takes longer than it may, or dies before."""
        data = bytearray(count)
        view, timeout = memoryview(data), self._limits.timeout
        while len(view):
            began = time.monotonic()
            ready = wait([self._process.stdout], None if timeout is None else max(timeout - self._waited, 0))
            self._waited += time.monotonic() - began
            if not ready:
                self.close()
                raise self._broken(f"its decoder ran longer than {timeout:g} s", f"at most that; allow it more time, or {NEXT}")
            if not (got := self._process.stdout.readinto(view)):
                raise self._broken(f"its decoder died ({self._last_words()})", f"a sound file that fits into memory; {NEXT}")
            view = view[got:]
        return data

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read()[-2000:].decode(errors="replace").split("\n")
        return " ".join([f"exit code {code}", *filter(str.strip, lines[-2:])]) if code >= 0 else f"signal {-code}"

    def _broken(self, found: str, expected: str) -> BrokenVideo:
        return BrokenVideo(f"{self.path}: {found}; expected {expected}")


# The child.


def jpeg_of(picture: np.ndarray, size: Sequence[int]) -> bytes:
    """(H, W, 3) uint8 as a JPEG of `size`, width and height."""
    file = io.BytesIO()
    Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0).save(file, "JPEG", quality=85)
    return file.getvalue()


class Thumbnails:
    """Pictures spread evenly over a video whose length is not known: every second one is dropped whenever there are too many."""

    def __init__(self):
        self.every, self.kept = 1, []

    def offer(self, number: int, seconds: float, picture: np.ndarray, shown: tuple[int, int]) -> None:
        """shown: width and height at which the picture is shown."""
        if number % self.every == 0:
            size = max(1, round(shown[0] * THUMBNAIL_HEIGHT / shown[1])), THUMBNAIL_HEIGHT
            self.kept.append((seconds, jpeg_of(picture, size)))
            if len(self.kept) > THUMBNAILS:
                self.every, self.kept = 2 * self.every, self.kept[::2]


def decode(name: str, path: str, recipe: Recipe, limits: Limits, send) -> None:
    """Decode `path` and send(kind, *values, image=None) what Decoder gives. Raises BrokenVideo naming `name`."""
    from av.video.reformatter import VideoReformatter

    with Video(path, max_pixels=limits.max_pixels, name=name) as video:
        step, held, thumbnails, reformatter = 1 / (video.fps or FPS), None, Thumbnails(), VideoReformatter()
        longest = math.inf if limits.max_seconds is None else limits.max_seconds
        promised = video.seconds or (video.expected() or 0) * step
        for index, (seconds, frame) in enumerate(video.timed()):
            if index == 0:
                size, shown = upright_size(frame), shown_size(frame, video.aspect)  # also where a recording changes it
                if max(shown) > SLIMMEST * min(shown):
                    raise BrokenVideo(f"{name}: {shown[0]} × {shown[1]} pixels; expected sides of at most 1 : {SLIMMEST}; leave it out")
                send("opened", shown, video.fps, video.expected(), video.frames is not None, video.created)
            if index >= FASTEST * longest:
                raise BrokenVideo(f"{name}: more than {FASTEST} frames a second of the {longest:g} allowed; allow more seconds, or {NEXT}")
            if max(seconds, promised - step) > longest:
                raise BrokenVideo(f"{name}: longer than {longest:g} s; expected at most that; cut it, or allow more seconds")
            if index % recipe.stride == 0:
                picture = to_rgb(frame, None, size, reformatter)
                thumbnails.offer(index // recipe.stride, seconds, picture, shown)
                held = (index // recipe.stride, seconds), recipe.fit(picture, shown)
            if held and (index == 0 or (index + 1) % recipe.stride == 0):  # a snippet is whole, or the first one
                send("picture", *held[0], image=held[1])
                held = None
        for when, jpeg in thumbnails.kept:
            send("thumbnail", when, image=np.frombuffer(jpeg, np.uint8))
        send("ended", video.decoded, seconds + lasts(frame, step), video.frames, video.clock.jumps)


def main() -> None:
    job, out = json.loads(sys.argv[1]), sys.stdout.buffer
    end_with_parent()
    limits = Limits(**job["limits"])

    def send(kind: str, *values, image: np.ndarray | None = None) -> None:
        head = json.dumps([kind, *values, None if image is None else image.shape]).encode()
        out.write(len(head).to_bytes(4) + head)
        if image is not None:
            out.write(np.ascontiguousarray(image))
        out.flush()

    limit_memory(limits.memory)
    try:
        decode(job["name"], job["path"], Recipe(**job["recipe"]), limits, send)
    except BrokenVideo as error:
        send("broken", str(error))
    except MemoryError:
        send("broken", f"{job['name']}: takes more than {(limits.memory or 0) / 2**20:g} MiB; expected smaller pictures; {NEXT}")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the reader has seen enough
        main()
