"""A live stream read in a child process that can be killed: `python -m app.live.stream`, which knows nothing of torch and so starts fast.

A source is an rtsp, rtmp, http, tcp, udp or srt address, the number of a webcam, or "-", a pipe on standard input. Whoever sends it is not
trusted: FFmpeg may open network protocols only (of a pipe, nothing but the pipe), and of the formats only those that hold a video
themselves, so that no playlist names a local file; larger pictures than `max_pixels` are refused.

The child decodes every frame and says when it came; of a snippet's first frame it sends the picture, resized already. The parent puts the
snippets together, so that nothing is lost where the child hangs and is killed.
"""

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from utils.errors import BadInput
from utils.video.child import command, environment, limit_memory
from utils.video.crops import Recipe, part_of
from utils.video.decoder import SLIMMEST, jpeg_of
from utils.video.display import pixel_aspect, shown_size
from utils.video.fragments import PART, Copier, Fragment
from utils.video.frames import FORMATS, FPS, MAX_PIXELS, clock_of, lasts, rate_of, shown, to_rgb, video_stream

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "srt")
NETWORK = "rtsp,rtsps,rtmp,rtmps,rtmpt,http,https,httpproxy,tcp,udp,srt,rtp,srtp,tls"  # protocols that may call one another
STREAM_FORMATS = (*FORMATS, "rtsp", "mpjpeg")
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}:none")}  # sys.platform -> FFmpeg's device, and its name there
PIPE = "-"
START = 60.0  # seconds that the child's own start may take: many may start at once
MEMORY = 2 << 30  # bytes that the child may take on top of the process itself (Linux)
LONGEST = 640  # pixels of a JPEG's longer side
HEAD = struct.Struct("<cI")  # kind of a message, its bytes
FRAME = struct.Struct("<dddHH")  # seconds [start, end) from the connection's first frame, time.time(), height and width of the picture or 0


@dataclass(frozen=True)
class Source:
    """Where a stream comes from. url: as FFmpeg takes it; device: FFmpeg's input device, or None; shown: without password and query."""

    url: str
    shown: str
    device: str | None = None

    @property
    def piped(self) -> bool:
        """Can be read only once, and be waited for."""
        return self.url == "pipe:0"


def parse_source(text: str) -> Source:
    """The stream that `text` names. Raises BadInput where it is none."""
    if text == PIPE:
        return Source("pipe:0", PIPE)
    if text.isdecimal():
        if sys.platform not in CAMERAS:
            raise BadInput(f"{text}: webcams by number work on {' and '.join(CAMERAS)}; pipe its video in: ffmpeg … -f mpegts - | …  -")
        device, name = CAMERAS[sys.platform]
        return Source(name.format(int(text)), f"webcam {int(text)}", device)
    scheme, slashes, rest = text.partition("://")
    address, _, path = rest.partition("/")
    host = address.rpartition("@")[2].partition("?")[0]
    port = re.fullmatch(r"(?:\[[^\]]+\]|[^:\[\]\s]*)(?::(\d{1,5}))?", host)
    if (
        not slashes
        or scheme.lower() not in SCHEMES
        or not host
        or re.search(r"[\x00-\x1f\x7f]", text)
        or not port
        or int(port[1] or 0) > 65535
    ):
        head = f"{scheme}://" if slashes and scheme.lower() in SCHEMES else ""
        masked = re.split("[?#=&;]", re.sub(r"(?s)^.*@", f"{head}…@", text))[0]
        expected = f"one of {', '.join(f'{name}://' for name in SCHEMES)} and a host, a webcam's number, or - (a pipe)"
        raise BadInput(f"{masked}: no stream; expected {expected}; check the address")
    said = re.split("[?#=&;]", path)[0]  # behind them names and passwords stand, too
    if "@" in path and "@" not in address:  # a password with a slash in it, perhaps
        host, said = "…", ""
    return Source(f"{scheme.lower()}://{rest}", f"{scheme.lower()}://{host}" + (f"/{said}" if said else ""))


class Opened(NamedTuple):
    """The first frame of a connection came. fps: of the stream, or FPS where `assumed`. recorded: it has an end, where it is over, and
    whoever sends it can be made to wait.
    """

    arrived: float
    fps: float
    assumed: bool
    width: int
    height: int
    recorded: bool


class Snippet(NamedTuple):
    """Frames of one snippet: its number, seconds [start, end) from the connection's first frame, time.time() when its last frame came, how
    many frames, and the first one's picture (h, w, 3) uint8, resized by the recipe, and as a JPEG where that is kept. A recording's snippet
    ends where the next one begins.
    """

    number: int
    start: float
    end: float
    arrived: float
    frames: int
    picture: np.ndarray
    jpeg: bytes = b""


class Cut(NamedTuple):
    """The connection is over. arrived: time.time() of its last frame, or now; frames: how many it gave; jumps: of its clock."""

    reason: str
    arrived: float
    frames: int
    jumps: int


class Connection:
    """A stream, opened once. Iterate over it, and it gives Opened, Snippet …, Cut; or Cut alone, where it cannot be opened.

    first: the number of its first snippet. timeout: seconds without data, after which the child gives up; it is killed where it does not
    (never for a pipe, which may pause). more: see `read`.
    """

    def __init__(self, source: Source, recipe: Recipe, *, first: int = 0, timeout: float = 10.0, **more):
        self._next, self._stride = first, recipe.stride
        self._patience, self._timeout = None if source.piped else START, timeout
        self._waiting_since, self._hung, self._over = None, False, threading.Event()
        task = json.dumps({"source": asdict(source), "recipe": asdict(recipe), "more": {"timeout": timeout, **more}})
        self._child = subprocess.Popen(
            command("app.live.stream", *([task] if source.piped else [])),  # all users see a command line, and an address has a password
            stdin=None if source.piped else subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1 << 18,
            env=environment(),
        )
        self.pid = self._child.pid
        if not source.piped:
            with contextlib.suppress(BrokenPipeError), self._child.stdin as file:  # it is dead, which is told where it is read
                file.write(task.encode())

    def kill(self) -> None:
        """End the child now; whoever iterates gets what was complete, and Cut. May be called from another thread, and again."""
        self._child.kill()

    def __iter__(self) -> Iterator[Opened | Snippet | Fragment | Cut]:
        if self._patience is not None:
            threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield from self._snippets()
        finally:
            self._over.set()
            self._child.kill()
            self._child.wait()
            self._child.stdout.close()

    def _snippets(self):
        opened, picture, frames, start, end, arrived, whole = None, None, 0, 0.0, 0.0, None, None
        reason, jumps, jpeg, head = None, 0, b"", b""
        while message := self._read():
            kind, data = message
            if kind == b"b":
                self._patience = 2 * self._timeout + 5  # opening and looking at the first packets may take `timeout` each
            elif kind == b"o":
                opened = Opened(**json.loads(data))
                yield opened
            elif kind == b"f":
                began, end, arrived, height, width = FRAME.unpack_from(data)
                if whole:
                    yield whole._replace(end=began)
                    whole = None
                if height:
                    size = 3 * height * width
                    picture = np.frombuffer(data, np.uint8, size, FRAME.size).reshape(height, width, 3).copy()  # writable
                    start, jpeg = began, data[FRAME.size + size :]
                frames += 1
                if frames % self._stride == 0:
                    whole = Snippet(self._number(), start, end, arrived, self._stride, picture, jpeg)
                    if not opened.recorded:  # nobody waits for a frame
                        yield whole
                        whole = None
            elif kind == b"h":
                head = data
            elif kind == b"p":
                yield Fragment(*PART.unpack_from(data), head, data[PART.size :])
            else:
                reason, jumps = json.loads(data).values()
        if whole:
            yield whole
        # Before a cut the rest is scored as it is; at the end of a recording it is left out, as the extraction of a file leaves it out.
        if (rest := frames % self._stride) and not (opened.recorded and frames > rest):
            yield Snippet(self._number(), start, end, arrived, rest, picture, jpeg)
        if self._hung:
            reason = f"no frame for {self._patience:g} s: its process was killed"
        yield Cut(reason or "its process was killed", arrived or time.time(), frames, jumps)

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def _read(self) -> tuple[bytes, bytes] | None:
        """One message of the child, or None where it is gone."""
        self._waiting_since = time.monotonic()
        head = self._child.stdout.read(HEAD.size)
        data = b""
        if len(head) == HEAD.size:
            kind, size = HEAD.unpack(head)
            data = self._child.stdout.read(size)
        self._waiting_since = None  # what the parent does meanwhile is not the child's fault
        return (kind, data) if len(head) == HEAD.size and len(data) == size else None

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self._patience:
                self._hung = True
                self._child.kill()
                return


# What follows runs in the child.


def open_source(source: Source, *, timeout: float, max_pixels: int):
    """(container, video stream, Opened's fields fps, assumed, recorded). Raises BadInput or FFmpeg's error where it is no video."""
    import av

    options = {"max_pixels": str(max_pixels)}
    if not source.device:
        options |= {"format_whitelist": ",".join(STREAM_FORMATS), "protocol_whitelist": "pipe" if source.piped else NETWORK}
        options |= {"rtsp_flags": "prefer_tcp"} if source.url.startswith("rtsp") else {}  # over UDP pictures come with holes
    try:
        wait = None if source.piped else timeout
        container = av.open(source.url, format=source.device, options=options, timeout=wait, metadata_errors="replace")
    except (av.error.InvalidDataError, av.error.ArgumentError):  # a playlist is an argument that is not allowed
        raise BadInput(f"no video of these formats: {', '.join(STREAM_FORMATS)}") from None
    stream = video_stream(container)
    if stream is None:
        raise BadInput("no video stream in it")
    if stream.width * stream.height > max_pixels:
        raise BadInput(f"{stream.width} × {stream.height} pixels, expected at most {max_pixels}")
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    stream.thread_type = "SLICE"  # threads over frames would hold frames back
    rate = rate_of(container, stream)
    scheme = source.url.partition(":")[0]
    known_end = {"http": container.size > 0, "rtsp": bool(container.duration)}  # elsewhere a duration is that of what came so far
    recorded = source.piped or known_end.get(scheme.removesuffix("s"), False)
    return container, stream, {"fps": rate or FPS, "assumed": rate is None, "recorded": recorded}


def read(
    source: Source, recipe: Recipe, send, *, timeout: float, max_pixels=MAX_PIXELS, memory=MEMORY, polygon=None, footage=False
) -> None:
    """Open and decode `source`, and `send(kind, data)` each message of it. polygon: the part of its pictures that counts (`part_of`);
    footage: send its packets, too (Copier), and JPEGs.
    """
    import av

    limit_memory(memory)
    if not source.piped:
        send(b"b", b"")  # the start is over
    clock, frames, copier = None, 0, None
    try:
        container, stream, about = open_source(source, timeout=timeout, max_pixels=max_pixels)
        with container:
            clock = clock_of(container, about["fps"], recorded=about["recorded"])
            copier = Copier(container, send, 1 / about["fps"]) if footage else None
            for number, (seconds, arrived, frame) in enumerate(shown(copier or container, stream, clock)):
                head, height, width = b"", 0, 0
                if number == 0:
                    aspect = pixel_aspect(stream)
                    size = shown_size(frame, aspect)  # the header may not know it
                    if max(size) > SLIMMEST * min(size):
                        raise BadInput(f"{size[0]} × {size[1]} pixels, expected sides of at most 1 : {SLIMMEST}")
                    send(b"o", json.dumps({"arrived": arrived, "width": size[0], "height": size[1]} | about).encode())
                if number % recipe.stride == 0:
                    picture, size, jpeg = to_rgb(frame), shown_size(frame, aspect), b""
                    if footage:
                        shrink = min(1.0, LONGEST / max(size))
                        jpeg = jpeg_of(picture, [max(1, round(side * shrink)) for side in size])
                    if polygon:
                        picture, share = part_of(picture, polygon)
                        size = tuple(max(1, round(side * part)) for side, part in zip(size, share, strict=True))
                    picture = recipe.fit(picture, size)
                    (height, width), head = picture.shape[:2], picture.tobytes() + jpeg
                frames += 1
                end = seconds + lasts(frame, clock.step)
                send(b"f", FRAME.pack(seconds, end, arrived, height, width) + head)
                if copier:
                    copier.seconds = end
        reason = "the stream ended" if frames else f"not one frame of at most {max_pixels} pixels can be decoded"
    except av.error.ExitError:
        reason = f"no data for {timeout:g} s"
    except MemoryError:
        reason = f"takes more than {memory >> 20} MiB to decode"
    except (av.FFmpegError, OSError, BadInput) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()).replace(source.url, source.shown)
    if copier:
        copier.close()
    send(b"e", json.dumps({"reason": reason, "jumps": clock.jumps if clock else 0}).encode())


def main() -> None:
    """The child: messages to standard output, until the stream ends or nobody reads them any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    task = json.loads(sys.argv[1] if len(sys.argv) > 1 else sys.stdin.buffer.read())

    def send(kind: bytes, data: bytes) -> None:
        try:
            sys.stdout.buffer.write(HEAD.pack(kind, len(data)) + data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # no error of the stream: the parent is gone
            os._exit(1)

    read(Source(**task["source"]), Recipe(**task["recipe"]), send, **task["more"])


if __name__ == "__main__":
    main()
