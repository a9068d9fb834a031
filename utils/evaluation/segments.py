"""Detected segments of a test set: the few that tell a reader when something happens, what it is, and in whose words.

Segment mAP compares every class of every video at every height; a report cannot list all of these. Here the anomaly score says where: the
coarse one (without it the online one, else the fine one's 1 − p(normal)), cut into runs by the rule of segment mAP (protocol `anomaly`,
utils/metrics.py), of which those stay whose mean is above 0.5, where the false-alarm rate counts, too. The fine score says what: the
anomaly class of the highest mean probability in the run; without one it is "anomaly". A segment's score is that by which segment mAP
ranks detections, the run's highest + 0.7 · mean of the video's highest 1/16 of frames, divided by 1.7: in [0, 1].

(Tried instead on the caption track: the runs of each class in the fine score with a mean coarse score above 0.5, of overlapping ones the
best. They find the same annotated segments in 1.3 to 2.2 times as many runs, of which fewer have the right class: ReFLIP-VAD 19 % instead
of 25, TrCLIP-VAD's text branch 12 instead of 21.)
"""

import math
from typing import NamedTuple

import numpy as np

from utils.captions import VideoCaptions, read_caption_file
from utils.ground_truth import GroundTruth
from utils.labels import Dataset
from utils.metrics import detections
from utils.scores import SNIPPET, Scores, by_frame, to_frames

ANOMALY = "anomaly"  # what a system that knows no classes finds
HIGHEST = 1.7  # of detections' scores: 1 + 0.7


class Segment(NamedTuple):
    """Frames [start, end), the name of the class, a score in [0, 1], and the caption that carried it (None without captions)."""

    start: int
    end: int
    label: str
    score: float
    caption: str | None = None


def detect(
    scores: dict[str, Scores], truth: dict[str, GroundTruth], dataset: Dataset, texts: dict[str, VideoCaptions] | None = None
) -> dict[str, list[Segment]]:
    """The detected segments of each video, by time. truth: for the videos' lengths alone; texts: their captions.

    The caption that carried a segment is what overlaps that of its snippets which, among those with a caption, has the highest anomaly
    score: several are joined by " / ".
    """
    found = {}
    for name, parts in scores.items():
        frames = truth[name].frames
        found[name] = detect_video(parts, frames, dataset)
        if texts and name in texts:
            values = anomaly_score(parts)
            found[name] = [one._replace(caption=carrying(one, values, frames, texts[name])) for one in found[name]]
    return found


def anomaly_score(scores: Scores) -> np.ndarray:
    """(T,) the score that says where something happens."""
    return next(value for part in ("coarse", "online", "fine") if (value := scores.anomaly(part)) is not None)


def detect_video(scores: Scores, frames: int, dataset: Dataset) -> list[Segment]:
    """The segments of one video of so many frames, by time and without captions."""
    anomaly = to_frames(anomaly_score(scores), frames).astype(np.float64)
    fine = None if scores.fine is None else to_frames(scores.fine, frames)
    found = []
    for number, start, end, score in zip(*detections(np.stack([1 - anomaly, anomaly], 1), False), strict=True):
        if number == 1 and anomaly[start:end].mean() > 0.5:
            label = ANOMALY if fine is None else dataset.names[1 + fine[start:end, 1:].mean(0).argmax()]
            found.append(Segment(int(start), int(end), label, float(score / HIGHEST)))
    return found


def carrying(segment: Segment, values: np.ndarray, frames: int, video: VideoCaptions) -> str | None:
    """The caption over the segment's highest of the rows `values` (T,) that has one; None where none has. frames: the whole video's."""
    size = 1 if by_frame(len(values), frames) else SNIPPET
    first, last = segment.start // size, -(-segment.end // size)
    spans = []  # in rows
    for caption in video.captions:
        start, end, text = caption.start / size, caption.end / size, clean(caption.text)
        end = max(end, math.nextafter(start, math.inf))  # a moment lies in one row
        if text and start < last and end > first:
            spans.append((start, end, text))
    covered = np.zeros(last - first, bool)
    for start, end, _ in spans:
        covered[max(math.floor(start) - first, 0) : math.ceil(end) - first] = True
    if not covered.any():
        return None
    rows = values[np.minimum(np.arange(first, last), len(values) - 1)]  # the last row stands for what follows it
    peak = first + int(np.where(covered, rows, -np.inf).argmax())
    return " / ".join(dict.fromkeys(text for start, end, text in spans if start < peak + 1 and end > peak))


def read_texts(tree, videos) -> dict[str, VideoCaptions]:
    """The texts of videos (dataset.Video) that lie as NAME.jsonl beside their source in a CaptionTree; those without are left out.

    Raises BadInput as utils.captions.read_caption_file does.
    """
    texts = {}
    for video in videos:
        file = tree.find(video, None)
        if file is not None and (path := file.with_name(f"{video.name}.jsonl")).is_file():
            texts[video.name] = read_caption_file(path)[1]
    return texts


def rows(found: dict[str, list[Segment]], truth: dict[str, GroundTruth], dataset: Dataset) -> dict[str, list[dict]]:
    """`segments` of report.json: as `detect` gives them, with the seconds from the video's start, and `annotated`: whether an annotated
    segment of the class (where no classes are known, of any) shares a frame with it.
    """
    return {name: [_row(segment, truth[name], dataset) for segment in segments] for name, segments in found.items()}


def _row(segment: Segment, video: GroundTruth, dataset: Dataset) -> dict:
    start, end, label, score, caption = segment
    same = [span for *span, other in video.segments if label in (ANOMALY, dataset.names[dataset.labels.index(other)])]
    return {
        "start": start,
        "end": end,
        "seconds": [round(start / video.fps, 2), round(end / video.fps, 2)],
        "class": label,
        "score": score,
        "annotated": any(first < end and last > start for first, last in same),
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
