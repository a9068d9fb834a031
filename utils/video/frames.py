"""Frames of a video file, one after the other, through FFmpeg's libraries (PyAV). The file may be anybody's: it is not trusted.

Only containers of FORMATS are opened, and only local files, so that a text that names other files (ffconcat, a playlist) is refused
whatever it is called; larger pictures than `max_pixels` are refused before one is decoded; a file that ends early is noticed. Memory does
not grow with the length. Time is not limited here: whoever serves strangers decodes in a process that can be killed.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import BadInput
from utils.files import irregular
from utils.video.clock import ORDER, Clock
from utils.video.display import pixel_aspect, pose_of, shown_size, upright_size

FORMATS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "flv", "asf", "ogg", "mxf")
FORMATS += ("mjpeg", "dhav")  # pictures one after the other; Dahua's recorders
RAW = ("h264", "hevc", "m4v", "mpegvideo", "mjpeg", "mpjpeg")  # no time stamps: FFmpeg counts frames at a rate that it makes up
DECODED = ("avi", "asf")  # stamps of decoding alone: FFmpeg guesses those of showing, wrongly where the rate varies
MAX_PIXELS = 4096 * 2304
FASTEST = 1000  # a rate from this on is that of a clock (1,000, 90,000), not of pictures
FPS = 25.0  # assumed where a video does not say
LOST = 0.02  # share of the header's seconds that may be missing, or of the frames that may be damaged, and the number that always may
LOST_FRAMES = 2
NEXT = "repair it (ffmpeg -i FILE -c copy NEW.mp4), replace it, or leave it out"


class BrokenVideo(BadInput):
    """A file that is no sound video: a tool that works through many names it, and goes on. path: set where several are under way."""

    path: Path | None = None


class Video:
    """An open video file, to be used in a `with` statement. Times in seconds.

    frames: how many the header promises (int), or None where it does not say; fps: frames per second on average, or None; width, height:
    as stored; aspect: of a pixel (utils/video/display.py); seconds: as the header says, or None; created: creation_time of its metadata,
    or None; decoded: how many frames so far; clock: see Clock.
    Raises BrokenVideo naming the file (as `name`, if that is given) where it is missing, no video of FORMATS, has no video stream, or more
    than `max_pixels` a picture.
    """

    def __init__(self, path: Path | str, *, max_pixels: int = MAX_PIXELS, threads: int = 0, name: str | None = None):
        import av

        self.path, self.decoded, self._damaged, self._end, self._max_pixels = Path(path), 0, 0, 0.0, max_pixels
        self._name = name or str(path)
        if fault := irregular(self.path):
            raise BrokenVideo(f"{self._name}: {fault}; expected a video file; name an existing one")
        try:
            self._container = av.open(f"file:{self.path}", options=safe_options(max_pixels), metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            raise self._wrong(f"cannot be opened as a video ({_reason(error)})", f"one of {', '.join(FORMATS)}") from None
        try:
            self._stream = stream = video_stream(self._container)
            if stream is None:
                raise self._wrong("no video stream", "a video")
            self.width, self.height, self.aspect = stream.width, stream.height, pixel_aspect(stream)
            if self.width * self.height > max_pixels:
                raise self._wrong(f"{self.width} × {self.height} pixels", f"at most {max_pixels}; shrink it")
            stream.codec_context.options = {"max_pixels": str(max_pixels)}  # a picture in the middle may be larger than the header says
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            self.fps = rate_of(self._container, stream)
            self.clock = clock_of(self._container, self.fps)
            hidden = sum(entry.is_discard for entry in stream.index_entries)  # outside of what an edit list shows
            self.frames = (len(stream.index_entries) - hidden if hidden else stream.frames) or None
            self.seconds = self._promised_seconds()
            self.created = self._container.metadata.get("creation_time") or stream.metadata.get("creation_time")
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_) -> None:
        self._container.close()

    def expected(self) -> int | None:
        """How many frames there should be: the header's number, else its duration × fps; None where it has neither."""
        if self.frames is None and self.seconds and self.fps:
            return round(self.seconds * self.fps)
        return self.frames

    def decode(self) -> Iterator:
        """Every frame (av.VideoFrame) in the order in which they are shown, once.

        A damaged packet, or one above max_pixels, is passed over, as FFmpeg does. Raises BrokenVideo at the end where these were many, or
        the last frame comes before the end that the header promises.
        """
        for _, frame in self.timed():
            yield frame

    def timed(self) -> Iterator[tuple[float, object]]:
        """(seconds from the first frame, frame) of every frame, as `decode`."""
        import av

        unit = float(self._stream.time_base)
        try:
            for seconds, _, frame in shown(self._container, self._stream, self.clock, self._count_damaged):
                self.decoded += 1
                if frame.pts is not None:
                    self._end = max(self._end, frame.pts * unit + (frame.duration * unit or self.clock.step))
                yield seconds, frame
        except av.FFmpegError as error:
            raise self._wrong(f"cannot be decoded after frame {self.decoded} ({_reason(error)})", self._sound) from None
        self._check_end()

    def _count_damaged(self) -> None:
        self._damaged += 1

    def _check_end(self) -> None:
        """Frames that the header counts and that are empty, or lie before the first key frame, are no damage: no player shows them."""
        if not self.decoded:
            raise self._wrong("not one frame can be decoded", self._sound)
        if self._damaged > max(LOST_FRAMES, LOST * self.decoded):
            raise self._wrong(f"{self._damaged} damaged or too large frames beside {self.decoded} good ones", self._sound)
        if self.seconds and not clock_may_be_set(self._container):  # else the seconds are those of the last stamp itself
            lost = self.seconds - (self._end - self._start())
            if lost > max((LOST_FRAMES + self._stream.codec_context.reorder_depth) * self.clock.step, LOST * self.seconds):
                found = f"only {self.decoded:,} frames, up to {self._end - self._start():.1f} of {self.seconds:.1f} s"
                promised = f"{self.frames:,}" if self.frames else f"{self.seconds:.1f} s"
                raise self._wrong(found, f"{promised} as its header says: it is cut or damaged")

    @property
    def _sound(self) -> str:
        return f"a sound file of at most {self._max_pixels} pixels a picture"

    def _start(self) -> float:
        return float((self._stream.start_time or 0) * (self._stream.time_base or 0))

    def _promised_seconds(self) -> float | None:
        stream, container = self._stream, self._container
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if seconds and (stream.frames or "mov" not in container.format.name):
            return seconds
        if clock_may_be_set(container):  # reckoned from the last stamp
            return container.duration / 1e6 if container.duration else None
        if not seconds:
            try:  # Matroska: a tag "00:01:02.500000000"
                hours, minutes, seconds = map(float, stream.metadata["DURATION"].split(":"))
                seconds += 3600 * hours + 60 * minutes
            except (KeyError, ValueError):  # the file's own duration may be that of its sound
                seconds = container.duration / 1e6 if container.duration and len(container.streams) == 1 else 0
        if seconds > self._start() > 0:  # these, as those of a fragmented MP4, count from 0, wherever the first frame is
            seconds -= self._start()
        return seconds if seconds > 0 else None

    def _wrong(self, found: str, expected: str) -> BrokenVideo:
        return BrokenVideo(f"{self._name}: {found}; expected {expected}; {NEXT}")


def safe_options(max_pixels: int) -> dict[str, str]:
    """FFmpeg's options for opening anybody's file: containers of FORMATS alone, no other file than itself, no larger pictures."""
    return {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file", "max_pixels": str(max_pixels)}


def video_stream(container):
    """The first stream of pictures that is no cover of the file, or None."""
    streams = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    return streams[0] if streams else None


def rate_of(container, stream) -> float | None:
    """Frames per second on average, or None where the file does not say."""
    rate = stream.codec_context.framerate if container.format.name in RAW else stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0 < rate < FASTEST else None


def clock_may_be_set(container) -> bool:
    """Whether the format allows for stamps that begin anew, as MPEG-TS does."""
    from av.format import Flags

    return bool(container.format.flags & Flags.ts_discont.value)


def clock_of(container, fps: float | None, *, recorded: bool = True) -> Clock:
    """The clock of an open video. recorded: its stamps may be those of decoding, as in AVI, and where they go far ahead, players wait as
    long; of a live stream no frame is waited for, and its clock was set anew.
    """
    return Clock(fps or FPS, gaps=recorded and not clock_may_be_set(container), order=ORDER if recorded else 0)


def lasts(frame, step: float) -> float:
    """Seconds for which a frame is shown, `step` where the file does not say."""
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step


def packets_of(container, stream) -> Iterator:
    """PyAV stops with an IndexError at a packet of a stream that began after the file was opened, as those of MPEG-TS may: it goes on."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            continue


def shown(container, stream, clock: Clock, damaged: Callable[[], None] = lambda: None) -> Iterator[tuple[float, float, object]]:
    """(seconds by `clock`, time.time() when it came, frame) of every frame in the order in which they are shown.

    A packet that is damaged or too large is passed over, after `damaged()` unless it lies before the first key frame. Where the file or
    stream breaks off, what the decoder still holds comes before the error.
    """
    import av

    name, unit, error, begun, order = container.format.name, float(stream.time_base), None, False, clock.order
    packets = packets_of(container, stream)
    while packets:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as failure:
            packet, error = None, failure
        begun = begun or bool(packet and packet.is_keyframe)
        if packet and packet.size and name in DECODED:
            packet.pts = packet.dts
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:  # nothing left
            frames = []
        except (av.error.InvalidDataError, av.error.ArgumentError):
            frames = []
            if begun:
                damaged()
        if packet is None:
            packets = None
        clock.order = order if stream.codec_context.has_b_frames else 0
        for frame in frames:
            stamp = None if name in RAW or frame.pts is None else frame.pts * unit
            for seconds, (arrived, one) in clock.add(stamp, (time.time(), frame)):
                yield seconds, arrived, one
    for seconds, (arrived, one) in clock.rest():
        yield seconds, arrived, one
    if error:
        raise error


def to_rgb(frame, longest: int | None = None, size: tuple[int, int] | None = None, reformatter=None) -> np.ndarray:
    """(H, W, 3) uint8 of a decoded frame as shown; scaled to `size` (width, height as shown), its longer side at most `longest` pixels.
    Without `size` its pixels stay what they are, whatever their aspect.

    reformatter: an av.video.reformatter.VideoReformatter kept for all frames of a video; to make one takes longer than its work.
    """
    from av.video.reformatter import VideoReformatter

    pose, size = pose_of(frame), size or upright_size(frame)
    shrink = min(1.0, longest / max(size)) if longest else 1.0
    width, height = pose.swap(tuple(max(1, round(side * shrink)) for side in size))
    rgb = (reformatter or VideoReformatter()).reformat(frame, width, height, "rgb24", interpolation="BICUBIC")
    return np.ascontiguousarray(pose.upright(rgb.to_ndarray()))


@dataclass
class Window:
    """Snippet `number` of a video: frames [start, end), and the pictures (H, W, 3) uint8 chosen for it."""

    number: int
    start: int
    end: int
    pictures: list[np.ndarray]


def windows(video: Video, offsets: Sequence[int], stride: int, *, first: int = 0, longest: int | None = None) -> Iterator[Window]:
    """Snippets of `stride` frames from number `first` on, the last one maybe shorter, with the pictures at `offsets` from their start.

    offsets: ascending, may lie beyond the snippet. Behind the video's end its last frame stands in. Only these frames are converted, and no
    more is kept than the open windows need. All have the first frame's size, also where a recording changes it. Raises BrokenVideo as
    Video.decode does.
    """
    from av.video.reformatter import VideoReformatter

    open_windows: deque[Window] = deque()
    wanted, reach, size, reformatter = set(offsets), max(offsets[-1], stride - 1), None, VideoReformatter()
    for index, last in enumerate(video.decode()):
        size = size or shown_size(last, video.aspect)
        if index % stride == 0 and index // stride >= first:
            open_windows.append(Window(index // stride, index, index + stride, []))
        takers = [window for window in open_windows if index - window.start in wanted]
        if takers:
            picture = to_rgb(last, longest, size, reformatter)
            for window in takers:
                window.pictures += [picture] * offsets.count(index - window.start)
        while open_windows and index - open_windows[0].start >= reach:
            yield open_windows.popleft()
    for window in open_windows:
        window.end = min(window.end, video.decoded)
        window.pictures += [to_rgb(last, longest, size)] * (len(offsets) - len(window.pictures))
        yield window


def middles(length: int, count: int) -> list[int]:
    """The middle frame of each of `count` equal parts of `length` frames: `middles(64, 4)` is [8, 24, 40, 56]."""
    return [math.floor((2 * part + 1) * length / (2 * count)) for part in range(count)]


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
