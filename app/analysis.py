"""What was found in one video: scores by snippet, detected segments, and what a reader needs to trust them.

T snippets of 16 frames, C+1 classes (class 0 = normal).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.captions.formats import Caption
from utils.evaluation.scores import Scores
from utils.evaluation.segments import anomaly_score, carrying, cut
from utils.labels import SNIPPET

SHOWN = 6  # segments that a picture lists and shows, those of the highest scores
SPREAD = 12  # thumbnails over the whole video


class Found(NamedTuple):
    """A detected segment: snippets [first, last), seconds [start, end), the class, a score in [0, 1], and a caption where there is one."""

    first: int
    last: int
    start: float
    end: float
    label: str
    score: float
    caption: str | None = None


@dataclass
class Analysis:
    """One video, analysed.

    times: (T+1,) float64 seconds from the video's first frame: where each snippet begins, then where the last one ends. Frames may come at
    a variable rate, so these are the file's own time stamps, not 16 / fps.
    thumbnails: (time in seconds, (h, w, 3) uint8 upright picture in the video's own aspect) in order of time: a dozen
    over the whole video, and one of each segment that is shown.
    threshold: snippets with a score of at least this belong to a segment. threshold_from: in words, where it comes from.
    notes: what a reader has to know before trusting the scores, in whole sentences (built-in sample, no training, …).
    about: checkpoint, encoder, recipe, command, versions: goes into the JSON as it is.
    captions: what segments are quoted with, in frames; stride: frames of a snippet.
    """

    path: Path
    name: str
    frames: int
    fps: float | None
    size: tuple[int, int]  # width, height as shown
    times: np.ndarray
    scores: Scores
    classes: tuple[str, ...]
    threshold: float
    threshold_from: str
    segments: list[Found]
    thumbnails: list[tuple[float, np.ndarray]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    captions: Sequence[Caption] = ()
    stride: int = SNIPPET

    @property
    def anomaly(self) -> np.ndarray:
        """(T,) the score that says where something happens."""
        return anomaly_score(self.scores)

    @property
    def shown(self) -> list[tuple[Found, float]]:
        """The segments that a picture lists, by time, each with the seconds at which its highest score begins."""
        return shown(self.segments, self.anomaly, self.times)

    @property
    def length(self) -> str:
        """The number of frames, in words."""
        return f"{self.frames:,} frame{'s' if self.frames != 1 else ''}"

    @property
    def seconds(self) -> float:
        """The length of the video."""
        return float(self.times[-1])


def find_segments(
    scores: Scores,
    times: np.ndarray,
    classes: tuple[str, ...],
    threshold: float,
    captions: Sequence[Caption] = (),
    frames: int = 0,
    stride: int = SNIPPET,
) -> list[Found]:
    """The detected segments of a video, by time (the rule: utils/evaluation/segments.py), each with the caption that carried it. times,
    frames, captions, stride: as in Analysis.
    """
    values, found = anomaly_score(scores), []
    for run in cut(scores, threshold):
        last = run.last + 1
        end = max(last, -(-frames // stride)) if last == len(values) else last  # frames behind the last whole snippet belong to it
        quote = carrying(run.first, end, values, captions, stride)
        found.append(Found(run.first, last, float(times[run.first]), float(times[last]), run.label(classes), float(run.score), quote))
    return found


def shown(segments: list[Found], values: np.ndarray, times: np.ndarray) -> list[tuple[Found, float]]:
    """As Analysis.shown. values: (T,) the anomaly score; times: (T+1,)."""
    best = sorted(sorted(segments, key=lambda one: -one.score)[:SHOWN])
    return [(one, float(times[one.first + int(values[one.first : one.last].argmax())])) for one in best]


def choose_thumbnails(offered: list[tuple[float, bytes]], peaks: list[float]) -> list[tuple[float, np.ndarray]]:
    """Of the thumbnails (seconds, JPEG) of a video some that are spread over it, and those nearest to the times `peaks`, as upright
    pictures (h, w, 3) uint8.
    """
    if not offered:
        return []
    times = np.array([seconds for seconds, _ in offered])
    places = set(np.linspace(0, len(offered) - 1, min(len(offered), SPREAD)).round().astype(int).tolist())
    places |= {int(np.abs(times - peak).argmin()) for peak in peaks}
    return [(offered[place][0], np.asarray(Image.open(io.BytesIO(offered[place][1])).convert("RGB"))) for place in sorted(places)]
