"""What was found in one video: scores by snippet, detected segments, and what a reader needs to trust them.

T snippets of 16 frames, C+1 classes (class 0 = normal).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.captions.formats import Caption
from utils.evaluation.scores import Scores
from utils.evaluation.segments import anomaly_score, carrying, cut
from utils.labels import SNIPPET

SHOWN = 6  # segments that a picture lists and shows, those of the highest scores


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
    thumbnails: (time in seconds, JPEG of the upright picture) in order of time, spread over the whole video.
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
    thumbnails: list[tuple[float, bytes]] = field(default_factory=list)
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
        return [(one, self.peak(one)) for one in sorted(sorted(self.segments, key=lambda one: -one.score)[:SHOWN])]

    def peak(self, one: Found) -> float:
        """The second at which the highest score of a segment begins."""
        return float(self.times[one.first + int(self.anomaly[one.first : one.last].argmax())])

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
