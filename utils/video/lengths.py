"""How long videos are, by their headers: whoever lists many does not decode them whole."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from utils.video.crops import Recipe
from utils.video.decoder import Decoder, Ended, Limits, Opened, Picture
from utils.video.frames import BrokenVideo

LIMITS = Limits(timeout=3600)


class Length(NamedTuple):
    """Frames of a video, and frames per second, None where nothing says."""

    frames: int
    fps: float | None


def measure(path: Path, limits: Limits = LIMITS) -> Length | BrokenVideo:
    """The length that the header of a video tells, whose first picture can be decoded; where it counts no frames, they are decoded.

    A BrokenVideo for a file that is no sound one, as far as was looked; extraction decodes it whole, and may find fewer frames.
    """
    with Decoder(path, Recipe(crops=1), limits) as decoder:
        try:
            for event in decoder:
                match event:
                    case Opened():
                        opened = event
                    case Picture() if opened.counted:
                        return Length(opened.frames, opened.fps)
                    case Ended():
                        return Length(event.frames, opened.fps)
        except BrokenVideo as error:
            error.path = path
            return error


def measure_all(paths: Iterable[Path], workers: int) -> Iterator[Length | BrokenVideo]:
    """`measure` of each, in their order, `workers` at a time."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(measure, paths)
