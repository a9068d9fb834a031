"""Pictures as H.264 in MP4 files that every browser plays: yuv420p, even sides, the index in front, at any time stamps.

H, W: height and width in pixels, both even.
"""

import math
from fractions import Fraction

import numpy as np

from utils.video import BrokenVideo

TICKS = 90_000  # a second, as MPEG counts: any camera's stamps fit
ENCODER = {"preset": "veryfast", "crf": "23", "bf": "0", "g": "60"}  # no B-frames: the first stamp is 0; a key frame in 60, to seek


class Scaler:
    """Decoded frames -> their upright planes (y, u, v) of yuv420p at one size, for videos whose first frame is `first`."""

    def __init__(self, first, size: tuple[int, int]):
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        self.turns = round(first.rotation / 90) % 4
        width, height = size if self.turns % 2 == 0 else size[::-1]
        self.frames, self.drawn = VideoReformatter(), VideoReformatter()  # kept: making one takes longer than using it
        # One thread: several cost more than they save on pictures of this size.
        shared = {"format": "yuv420p", "dst_color_range": ColorRange.MPEG, "threads": 1}
        matrix = Colorspace.ITU709 if colours(first)[1] == 1 else Colorspace.ITU601
        self.to_planes = shared | {"dst_colorspace": matrix}
        self.to_size = (self.to_planes if first.format.is_rgb else shared) | {"width": width, "height": height, "interpolation": "BICUBIC"}

    def __call__(self, frame) -> list[np.ndarray]:
        return [np.rot90(plane, self.turns) for plane in split(self.frames.reformat(frame, **self.to_size).to_ndarray())]

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


class Output:
    """An MP4 file that is being written: the frames of [start, end) seconds."""

    def __init__(self, path: str, start: float, end: float | None):
        self.path, self.start, self.end = path, start, math.inf if end is None else end
        self.file = self.held = None

    def add(self, flat: np.ndarray, seconds: float, fps: float | None, first) -> None:
        """flat: the frame, (3/2 H, W); first: the video's first frame, whose colours it has."""
        import av

        if self.file is None:
            self.begin = seconds
            self.file = av.open(self.path, "w", format="mp4", options={"movflags": "+faststart"})
            self.stream = self.file.add_stream("libx264", rate=Fraction(fps or 25).limit_denominator(1001), options=ENCODER)
            self.stream.width, self.stream.height, self.stream.pix_fmt = flat.shape[1], flat.shape[0] * 2 // 3, "yuv420p"
            context = self.stream.codec_context
            context.time_base = Fraction(1, TICKS)
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = colours(first)
        frame = av.VideoFrame.from_ndarray(flat, "yuv420p")
        frame.pts, frame.time_base = round((seconds - self.begin) * TICKS), Fraction(1, TICKS)
        if self.held is not None:
            frame.pts = max(frame.pts, self.held.pts + 1)
            self._encode(frame.pts)
        self.held = frame

    def close(self, end: float, name: str) -> None:
        """end: seconds at which the last frame ends. Raises BrokenVideo naming the video where there was none."""
        if self.file is None:
            found = f"no frame from {self.start:.2f} to {self.end:.2f} s"
            raise BrokenVideo(f"{name}: {found}; expected the video that was analysed; analyse it again")
        self._encode(max(round((end - self.begin) * TICKS), self.held.pts + 1))
        self.file.mux(self.stream.encode())
        self.file.close()

    def _encode(self, until: int) -> None:
        self.held.duration = until - self.held.pts
        self.file.mux(self.stream.encode(self.held))


def colours(frame) -> tuple[int, int, int, int]:
    """Range, matrix, primaries and transfer to name in a file with this frame's colours: players guess where there is no name."""
    matrix = int(frame.colorspace)
    if matrix not in (1, 5, 6, 9):  # not said, or RGB: then what players take it for
        matrix = 1 if frame.height >= 720 else 6
    return 1, matrix, int(frame.color_primaries), int(frame.color_trc)
