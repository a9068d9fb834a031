"""What was found in one video: scores by snippet, detected segments, and what a reader needs to trust them.

T snippets of 16 frames, C+1 classes (class 0 = normal).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.scores import Scores
from utils.segments import ANOMALY, anomaly_score

RATES = (0.001, 0.01, 0.05, 0.1, 0.2)  # false-positive rates that training saves a threshold for


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
    thumbnails: (time in seconds, (h, w, 3) uint8 upright picture in the video's own aspect) in order of time, a dozen or so.
    threshold: snippets with a score of at least this belong to a segment. threshold_from: in words, where it comes from.
    notes: what a reader has to know before trusting the scores, in whole sentences (built-in sample, no training, …).
    about: checkpoint, encoder, recipe, command, versions: goes into the JSON as it is.
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

    @property
    def anomaly(self) -> np.ndarray:
        """(T,) the score that says where something happens."""
        return anomaly_score(self.scores)

    @property
    def seconds(self) -> float:
        """The length of the video."""
        return float(self.times[-1])


def find_segments(scores: Scores, times: np.ndarray, classes: tuple[str, ...], threshold: float, *, bridge: int = 1) -> list[Found]:
    """The runs of snippets whose anomaly score is at least `threshold`, by time; runs with at most `bridge` lower snippets between are one.

    A segment's class is that of the highest mean probability in it, class 0 left out, or "anomaly" where the system knows no classes;
    its score is its highest anomaly score.
    """
    values = anomaly_score(scores)
    above = np.flatnonzero(values >= threshold)
    found = []
    for run in np.split(above, np.flatnonzero(np.diff(above) > bridge + 1) + 1) if len(above) else []:
        first, last = int(run[0]), int(run[-1]) + 1
        fine = scores.fine
        label = ANOMALY if fine is None else classes[1 + int(fine[first:last, 1:].mean(0).argmax())]
        found.append(Found(first, last, float(times[first]), float(times[last]), label, float(values[first:last].max())))
    return found


def thresholds(normal: dict[str, Scores], rates: tuple[float, ...] = RATES) -> dict:
    """From the scores of normal videos, per false-positive rate the lowest threshold that at most this share of their snippets reaches.

    Returns {"videos", "snippets", "rates": {"0.01": threshold, …}}, plain numbers for a checkpoint; a rate of less than one snippet is
    left out, because nothing is known about it. Without normal videos "rates" is empty.
    """
    values = np.sort(np.concatenate([anomaly_score(parts) for parts in normal.values()] or [[]]))[::-1]
    allowed = {rate: int(rate * len(values)) for rate in rates}
    found = {str(rate): float(np.nextafter(values[count], np.float32(np.inf))) for rate, count in allowed.items() if count}
    return {"videos": len(normal), "snippets": len(values), "rates": found}
