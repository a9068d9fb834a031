"""How players show a decoded frame: the display matrix turns and mirrors it, and its pixels need not be square."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

WIDEST = 4  # a pixel's longer side over its shorter one, at most: a header that says more is mistaken


class Pose(NamedTuple):
    """A stored picture is mirrored left to right where `mirrored`, then turned counterclockwise by 90 degrees `turns` times."""

    mirrored: bool = False
    turns: int = 0

    def upright(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, …) as stored -> a view of it as shown."""
        return np.rot90(picture[:, ::-1] if self.mirrored else picture, self.turns)

    def swap(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) as stored -> as shown, and back."""
        return size[::-1] if self.turns % 2 else size


def pose_of(frame) -> Pose:
    """The one of the eight poses that is nearest to a decoded frame's display matrix."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # the frame has other data, too, of a kind that PyAV has no name for: it says by how much it is turned, no more
        return Pose(turns=round(frame.rotation / 90) % 4)
    if data is None:
        return Pose()
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(float)  # to the right a x + c y, down b x + d y
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    return Pose(mirrored, round(-2 * math.atan2(b, a) / math.pi) % 4)


def pixel_aspect(stream) -> Fraction:
    """Width of a stored pixel over its height, as the container says, else the codec; 1 where neither does, or it is beyond WIDEST."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio  # that of the pictures so far
    return aspect if aspect and Fraction(1, WIDEST) <= aspect <= WIDEST else Fraction(1)


def upright_size(frame) -> tuple[int, int]:
    """(width, height) of a decoded frame as shown, a pixel being as wide as high."""
    return pose_of(frame).swap((frame.width, frame.height))


def shown_size(frame, aspect: Fraction) -> tuple[int, int]:
    """(width, height) at which players show a decoded frame whose pixels have that aspect."""
    return pose_of(frame).swap((max(1, round(frame.width * aspect)), frame.height))
