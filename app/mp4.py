"""Pictures as H.264 in MP4 files that every browser plays: yuv420p, even sides, the index in front, at any time stamps.

H, W: height and width in pixels, both even.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from utils.video.display import pose_of
from utils.video.frames import BrokenVideo, packets_of, safe_options

TICKS = 90_000  # a second, as MPEG counts: any camera's stamps fit
FEW_TICKS = 1000  # a second, for frames far apart
MOST = 2**31 - 1  # ticks that MP4 allows between two frames
COPIED = ("aac", "mp3")  # sound that MP4 takes as it is and that browsers play
ENCODER = {"preset": "veryfast", "crf": "23", "bf": "0", "g": "60"}  # no B-frames: the first stamp is 0; a key frame in 60, to seek


class Scaler:
    """Decoded frames -> their planes (y, u, v) of yuv420p as shown, at one size (W, H), for videos whose first frame is `first`."""

    def __init__(self, first, size: tuple[int, int]):
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        self.size, self.frames, self.drawn = size, VideoReformatter(), VideoReformatter()  # kept: making one takes longer than using it
        # One thread: several cost more than they save on pictures of this size.
        shared = {"format": "yuv420p", "dst_color_range": ColorRange.MPEG, "threads": 1}
        matrix = Colorspace.ITU709 if colours(first)[1] == 1 else Colorspace.ITU601
        self.to_planes = shared | {"dst_colorspace": matrix}
        self.to_size = (self.to_planes if first.format.is_rgb else shared) | {"interpolation": "BICUBIC"}

    def __call__(self, frame) -> list[np.ndarray]:
        pose = pose_of(frame)
        width, height = pose.swap(self.size)
        planes = split(self.frames.reformat(frame, width, height, **self.to_size).to_ndarray())
        return [pose.upright(plane) for plane in planes]

    def planes(self, picture: np.ndarray) -> list[np.ndarray]:
        """Of a drawn picture (h, w, 3) uint8 RGB."""
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
        return split(self.drawn.reformat(frame, **self.to_planes).to_ndarray())


def split(flat: np.ndarray) -> list[np.ndarray]:
    """(3/2 H, W) as PyAV keeps yuv420p -> views y (H, W), u and v (H/2, W/2)."""
    height, width = flat.shape[0] * 2 // 3, flat.shape[1]
    y, u, v = np.split(flat.reshape(-1), [height * width, height * width * 5 // 4])
    return [y.reshape(height, width), u.reshape(height // 2, width // 2), v.reshape(height // 2, width // 2)]


def paste(canvas: list[np.ndarray], picture: list[np.ndarray], left: int, top: int) -> None:
    """Copy planes into larger ones; left, top even."""
    for to, plane, share in zip(canvas, picture, (1, 2, 2), strict=True):
        height, width = plane.shape
        to[top // share : top // share + height, left // share : left // share + width] = plane


class Sound:
    """The packets of a video's sound in order of time, to be copied. None are there where it has no sound, or none of COPIED; where the
    sound is damaged, they end.

    origin: time stamp of the video's first frame, in seconds.
    """

    def __init__(self, path: str, origin: float, max_pixels: int):
        import av

        self.origin, self.time, self.stream = origin, -math.inf, None
        container = av.open(f"file:{path}", options=safe_options(max_pixels), metadata_errors="replace")
        streams = [stream for stream in container.streams.audio if stream.codec_context.name in COPIED]
        if streams:
            self.stream = streams[0]
            self.packets, self.damaged = packets_of(container, self.stream), av.FFmpegError
            self._advance()

    def until(self, seconds: float) -> Iterator[tuple[float, object]]:
        """(time, av.Packet) of those before `seconds` that have not been given yet."""
        while self.stream and self.time < seconds:
            yield self.time, self.packet
            self._advance()

    def _advance(self) -> None:
        before = self.time
        try:
            while self.time <= before:  # times that go back cannot be written
                self.packet = next(self.packets)
                if self.packet.pts is not None:
                    self.time = float(self.packet.pts * self.packet.time_base) - self.origin
        except (StopIteration, self.damaged):
            self.time = math.inf


class Output:
    """An MP4 file that is being written: frames and sound of [start, end) seconds. look: the frames', for the caller; name: the video's,
    for errors; ticks: in a second.
    """

    def __init__(self, path: str, start: float, end: float | None, *, look: str, name: str, ticks: int):
        self.path, self.start, self.end, self.look, self.name, self.ticks = path, start, math.inf if end is None else end, look, name, ticks
        self.file = self.held = self.sound = None

    def add(self, flat: np.ndarray, seconds: float, fps: float | None, first, sound: Sound) -> None:
        """flat: the frame, (3/2 H, W); first: the video's first frame, whose colours it has.

        Raises BrokenVideo where the time since the frame before is more than MP4 can say.
        """
        import av

        if self.file is None:
            self.begin = seconds
            self.file = av.open(self.path, "w", format="mp4", options={"movflags": "+faststart", "video_track_timescale": str(self.ticks)})
            self.stream = self.file.add_stream("libx264", rate=Fraction(fps or 25).limit_denominator(1001), options=ENCODER)
            self.stream.width, self.stream.height, self.stream.pix_fmt = flat.shape[1], flat.shape[0] * 2 // 3, "yuv420p"
            context = self.stream.codec_context
            context.time_base = Fraction(1, self.ticks)
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = colours(first)
            if sound.stream:
                self.sound = self.file.add_stream_from_template(sound.stream)
        frame = av.VideoFrame.from_ndarray(flat, "yuv420p")
        frame.pts, frame.time_base = round((seconds - self.begin) * self.ticks), Fraction(1, self.ticks)
        if self.held is not None:
            frame.pts = max(frame.pts, self.held.pts + 1)
            self._encode(frame.pts)
        self.held = frame

    def add_sound(self, seconds: float, packet) -> None:
        import av

        if self.sound is not None and self.begin <= seconds < self.end:
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.duration = self.sound, packet.time_base, packet.duration
            copy.pts = copy.dts = round((seconds - self.begin) / packet.time_base)
            try:
                self.file.mux(copy)
            except av.FFmpegError as error:
                if isinstance(error, OSError):  # a full disk; else the packet is damaged, and left out
                    raise

    def close(self, end: float) -> None:
        """end: seconds at which the last frame ends. Raises BrokenVideo where there was none."""
        if self.file is None:
            found = f"no frame from {self.start:.2f} to {self.end:.2f} s"
            raise BrokenVideo(f"{self.name}: {found}; expected the video that was analysed; analyse it again")
        self._encode(max(round((end - self.begin) * self.ticks), self.held.pts + 1))
        self.file.mux(self.stream.encode())
        self.file.close()

    def _encode(self, until: int) -> None:
        self.held.duration = until - self.held.pts
        if self.held.duration > MOST:
            days = self.held.duration / self.ticks / 86400
            raise BrokenVideo(f"{self.name}: {days:.1f} days without a frame; expected at most {MOST / FEW_TICKS / 86400:.0f}; cut it")
        self.file.mux(self.stream.encode(self.held))


def colours(frame) -> tuple[int, int, int, int]:
    """Range, matrix, primaries and transfer to name in a file with this frame's colours: players guess where there is no name."""
    matrix = int(frame.colorspace)
    if matrix not in (1, 5, 6, 9):  # not said, or RGB: then what players take it for
        matrix = 1 if frame.height >= 720 else 6
    return 1, matrix, int(frame.color_primaries), int(frame.color_trc)
