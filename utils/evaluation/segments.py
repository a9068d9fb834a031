"""Detected segments: the one rule by which reports, demo.py and live streams say when something happens, what it is, and in whose words.

The anomaly score says where (the coarse one; without it the online one, else the fine one's 1 − p(normal)): the runs of snippets that reach
the threshold, those with at most BRIDGE lower snippets between them being one. The fine score says what: the anomaly class of the highest
mean probability in the run; without one it is "anomaly". A segment's score is its highest anomaly score. The threshold is measured on
normal videos (`thresholds`); a checkpoint that knows none is cut at UNKNOWN, where the false-alarm rate counts, too.

(Segment mAP is another matter: it compares every class of every video at every height, utils/evaluation/metrics.py. Tried as the rule on
the caption track: the runs of each class in the fine score with a mean coarse score above 0.5, of overlapping ones the best. They find the
same annotated segments in 1.3 to 2.2 times as many runs, of which fewer have the right class: 19 % instead of 25, 12 instead of 21.)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.scores import Scores, by_frame
from utils.labels import SNIPPET, Dataset

ANOMALY = "anomaly"  # what a system that knows no classes finds
BRIDGE = 1  # lower snippets that do not part two runs
UNKNOWN = 0.5
RATES = (0.001, 0.01, 0.05, 0.1, 0.2)  # false-positive rates that training saves a threshold for
RATE = 0.01  # the one that is used where no other is asked for


class Run:
    """Snippets first … last (both included) that reach the threshold, while they go on; `score` is the highest so far."""

    def __init__(self, number: int, score: np.floating, fine: np.ndarray | None):
        self.first, self.score, self._sum, self._between = number, score, None, []
        self.extend(number, score, fine)

    def extend(self, number: int, score: np.floating, fine: np.ndarray | None) -> None:
        """Another snippet that reaches the threshold, with the lower ones before it."""
        self.last, self.score = number, max(self.score, score)
        if fine is not None:
            rows = np.sum([*self._between, fine], axis=0, dtype=np.float64)
            self._sum, self._between = rows if self._sum is None else self._sum + rows, []

    def bridge(self, fine: np.ndarray | None) -> None:
        """A lower snippet, which belongs to the run if another high one follows."""
        if fine is not None:
            self._between.append(fine)

    def label(self, classes: Sequence[str]) -> str:
        """The anomaly class of the highest mean probability so far."""
        return ANOMALY if self._sum is None else classes[1 + int(self._sum[1:].argmax())]


class Runs:
    """The rule, snippet by snippet, with the memory of one run. A snippet whose number is left out counts as a lower one. `bridge` may be
    changed at any time.
    """

    def __init__(self, threshold: float):
        self.threshold, self.current, self.bridge = threshold, None, BRIDGE

    def add(self, number: int, score: np.floating, fine: np.ndarray | None = None) -> tuple[Run | None, Run | None]:
        """The next snippet: (the run that ended before it, the run that begins with it), None where there is none."""
        high, ended = score >= self.threshold, None
        if self.current and number - self.current.last > self.bridge + high:
            ended = self.close()
        if self.current and high:
            self.current.extend(number, score, fine)
        elif self.current:
            self.current.bridge(fine)
        elif high:
            self.current = Run(number, score, fine)
            return ended, self.current
        return ended, None

    def close(self) -> Run | None:
        """The run that went on: it is over."""
        run, self.current = self.current, None
        return run


def cut(scores: Scores, threshold: float) -> list[Run]:
    """The runs of a whole video, by time."""
    runs, found = Runs(threshold), []
    for number, value in enumerate(anomaly_score(scores)):
        found.append(runs.add(number, value, None if scores.fine is None else scores.fine[number])[0])
    return [run for run in (*found, runs.close()) if run]


def thresholds(normal: dict[str, Scores], rates: tuple[float, ...] = RATES) -> dict:
    """From the scores of normal videos, per false-positive rate the lowest threshold that at most this share of their snippets reaches.

    Returns {"videos", "snippets", "rates": {"0.01": threshold, …}}, plain numbers for a checkpoint; a rate of less than one snippet is
    left out, because nothing is known about it. Without normal videos "rates" is empty.
    """
    values = np.sort(np.concatenate([anomaly_score(parts) for parts in normal.values()] or [[]]))[::-1]
    allowed = {rate: int(rate * len(values)) for rate in rates}
    found = {str(rate): float(np.nextafter(values[count], np.float32(np.inf))) for rate, count in allowed.items() if count}
    return {"videos": len(normal), "snippets": len(values), "rates": found}


def known_threshold(known: dict | None, rate: float) -> tuple[float, str] | None:
    """The threshold for a false-positive rate among those that a checkpoint knows (`thresholds`), and where it comes from, in words; None
    where it knows none for that rate.
    """
    if known is None or str(rate) not in known["rates"]:
        return None
    source = f"{known['snippets']:,} snippets of {known['videos']} normal videos held out of training, scored whole"
    return known["rates"][str(rate)], f"reached by at most {100 * rate:g} % of the {source}"


def unknown_threshold(rate: float) -> tuple[float, str]:
    """The threshold where `known_threshold` is None, and why."""
    return UNKNOWN, f"the checkpoint knows none for {100 * rate:g} % of normal snippets"


class Segment(NamedTuple):
    """Frames [start, end), the name of the class, a score in [0, 1], and the caption that carried it (None without captions)."""

    start: int
    end: int
    label: str
    score: float
    caption: str | None = None


def detect(
    scores: dict[str, Scores], truth: dict[str, GroundTruth], dataset: Dataset, threshold: float, texts: dict[str, Sequence] | None = None
) -> dict[str, list[Segment]]:
    """The detected segments of each video of a test set, by time. truth: for the videos' lengths alone; texts: their captions (start, end,
    text, …) in frames.
    """
    found = {}
    for name, parts in scores.items():
        frames = truth[name].frames
        size = 1 if by_frame(len(anomaly_score(parts)), frames) else SNIPPET
        parts = Scores(*(part if part is None else part[: -(-frames // size)] for part in parts))  # rows behind its end show nothing
        values = anomaly_score(parts)
        found[name] = []
        for run in cut(parts, threshold):
            end = frames if run.last + 1 == len(values) else min(size * (run.last + 1), frames)  # the last row stands for what follows it
            caption = carrying(run.first, -(-end // size), values, texts[name], size) if texts and name in texts else None
            found[name].append(Segment(size * run.first, end, run.label(dataset.names), float(run.score), caption))
    return found


def anomaly_score(scores: Scores) -> np.ndarray:
    """(T,) the score that says where something happens."""
    return next(value for part in ("coarse", "online", "fine") if (value := scores.anomaly(part)) is not None)


def carrying(first: int, last: int, values: np.ndarray, captions: Sequence, size: int) -> str | None:
    """The caption over the highest of the rows [first, last) of `values` (T,) that has one, several joined by " / "; None where none has.
    Rows from T on have the last one's value.

    captions: (start, end, text, …) in frames; size: frames of a row.
    """
    spans = []  # in rows
    for caption in captions:
        start, end, text = caption[0] / size, caption[1] / size, clean(caption[2])
        end = max(end, math.nextafter(start, math.inf))  # a moment lies in one row
        if text and start < last and end > first:
            spans.append((start, end, text))
    covered = np.zeros(last - first, bool)
    for start, end, _ in spans:
        covered[max(math.floor(start) - first, 0) : math.ceil(end) - first] = True
    if not covered.any():
        return None
    rows = values[np.minimum(np.arange(first, last), len(values) - 1)]
    peak = first + int(np.where(covered, rows, -np.inf).argmax())
    return " / ".join(dict.fromkeys(text for start, end, text in spans if start < peak + 1 and end > peak))


def rows(found: dict[str, list[Segment]], truth: dict[str, GroundTruth], dataset: Dataset) -> dict[str, list[dict]]:
    """`segments` of report.json: as `detect` gives them, with the seconds from the video's start, and `annotated`: whether an annotated
    segment of the class (where no classes are known, of any) shares a frame with it; None where nobody says when the video shows something.
    """
    return {name: [_row(segment, truth[name], dataset) for segment in segments] for name, segments in found.items()}


def _row(segment: Segment, video: GroundTruth, dataset: Dataset) -> dict:
    start, end, label, score, caption = segment
    same = [span for *span, other in video.segments or () if label in (ANOMALY, dataset.name(other))]
    return {
        "start": start,
        "end": end,
        "seconds": [round(start / video.fps, 2), round(end / video.fps, 2)],
        "class": label,
        "score": score,
        "annotated": None if video.segments is None else any(first < end and last > start for first, last in same),
        "caption": caption,
    }


def clean(text: str) -> str:
    """A caption as one line of printable characters: it is anybody's text and may hold line ends, escape codes, marks that turn the writing
    direction, halves of surrogate pairs.
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the last an ellipsis where something was cut."""
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def clock(seconds: float, decimals: int = 0) -> str:
    """m:ss or h:mm:ss, rounded down, with so many decimals: `clock(83.26, 1)` is 1:23.2."""
    units = math.floor(round(seconds * 10**decimals, 3))  # 0.3 s are 3 tenths, though 0.3 * 10 may be 2.999…
    whole, rest = divmod(units, 10**decimals)
    hours, minutes = whole // 3600, whole // 60 % 60
    text = f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
    return f"{text}.{rest:0{decimals}d}" if decimals else text
