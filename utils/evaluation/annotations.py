"""When something happens in a video, as people write it down: starts and ends in seconds, frames or clock times, and the official text
files of UCF-Crime and XD-Violence.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

from utils.errors import BadInput
from utils.labels import SNIPPET, Dataset, class_indices, video_name
from utils.reading import read_text

Segments = list[tuple[int, int, str]]

SLACK = 1  # seconds by which an end may lie behind the video's: people round


class Interval(NamedTuple):
    """An event in `unit` (`seconds` or `frames`) from the video's start; label: its class, None for the only one of its video; place: file
    and line.
    """

    start: float
    end: float
    unit: str
    label: str | None
    place: str


def read_interval(start: str, end: str, label: str, unit: str | None, place: str) -> Interval:
    """An interval of the cells of a table. Times with colons (`1:02:03.5`, `2:03,5`) are clock times, others are in `unit`.

    Raises BadInput naming `place` for what is no time, or is one of two kinds, and where the end is not behind the start.
    """
    (first, one), (last, other) = (_time(cell, unit, place) for cell in (start, end))
    if one != other:
        raise BadInput(f"{place}: start {start} and end {end}; expected both as clock times, or both in {unit}")
    if last <= first:
        raise BadInput(f"{place}: end {end} is not behind start {start}; expected 0 <= start < end; correct the row")
    return Interval(first, last, one, label or None, place)


def _time(text: str, unit: str | None, place: str) -> tuple[float, str]:
    if ":" in text:
        parts = re.fullmatch(r"(?:([0-9]{1,4}):)?([0-9]{1,4}):([0-5]?[0-9](?:[.,][0-9]+)?)", text, re.ASCII)
        if parts is None or (parts[1] and int(parts[2]) > 59):
            raise BadInput(f"{place}: {text!r}; expected hh:mm:ss, mm:ss, or either with a fraction (0:01:02.5)")
        return 3600 * int(parts[1] or 0) + 60 * int(parts[2]) + float(parts[3].replace(",", ".")), "seconds"
    number = re.fullmatch(r"[0-9]{1,9}(?:[.,]([0-9]+))?", text, re.ASCII)
    if number is None or (unit == "frames" and (number[1] or "").strip("0")):
        wanted = "a whole number of frames" if unit == "frames" else "a time from 0 on: seconds, frames, or hh:mm:ss"
        raise BadInput(f"{place}: {text!r}; expected {wanted}; correct the row")
    if unit is None:
        raise BadInput(f"{place}: {text!r} may be seconds or frames; say which: --unit seconds, or --unit frames")
    return float(text.replace(",", ".")), unit


def event_of(name: str, interval: Interval, classes: list[str], dataset: Dataset) -> str:
    """What happens in the interval: its own class, or the video's. Raises BadInput naming its place for any other."""
    events = [one for one in classes if one != dataset.labels[0]]
    if not events:
        raise BadInput(
            f"{interval.place}: {name} is {classes[0]}, the normal class; expected no interval; correct its label, or drop the row"
        )
    if interval.label is None and len(events) > 1:
        raise BadInput(f"{interval.place}: no class, and {name} has {', '.join(events)}; expected one of them in a column 'class'")
    label = interval.label or events[0]
    if label not in dataset.labels[1:]:
        raise BadInput(f"{interval.place}: class {label!r}; expected {', '.join(dataset.labels[1:])}; correct the row")
    return label


def segments_of(
    name: str, intervals: list[Interval], classes: list[str], frames: int, fps: float, dataset: Dataset
) -> tuple[tuple[tuple[int, int, str], ...], int]:
    """The intervals of a video of `frames` frames as ground truth has them: ((start, end, label) in frames, half-open, …), and how many
    frames were cut off their ends: up to a second, or a snippet, which is more.

    classes: the video's own labels. Raises BadInput naming the interval's place where it reaches further, and as event_of does.
    """
    segments, cut, slack = [], 0, max(SNIPPET, math.ceil(SLACK * fps))
    for interval in intervals:
        label, (start, end, unit, _, place) = event_of(name, interval, classes, dataset), interval
        scale = fps if unit == "seconds" else 1
        first, last = round(start * scale), max(round(end * scale), round(start * scale) + 1)
        if first >= frames or last > frames + slack:
            length = f"{frames} frames" if unit == "frames" else f"{frames / fps:.2f} s"
            raise BadInput(f"{place}: {start:g} to {end:g} {unit} in {name}, which has {length}; correct the row, or check --unit")
        cut = max(cut, last - frames)
        segments.append((first, min(last, frames), label))
    return tuple(segments), cut


def read_annotations(path: Path | str, dataset: Dataset, option: str = "--annotations") -> dict[str, Segments]:
    """Read the official annotations: name -> segments (start, end, label) in frames, 0-based, half-open, in the order of the file.

    A line is a name and classes, each with the starts and ends of its segments, which may overlap: UCF-Crime's
    `NAME  Class  start1  end1  start2  end2`, -1 for none; XD-Violence's `NAME class start end class start end …`. Raises BadInput naming
    file and line.
    """
    truth: dict[str, Segments] = {}
    for number, line in enumerate(read_text(path, option).splitlines(), start=1):
        name, *fields = line.split() or [""]
        if not (name := video_name(name)):
            continue
        try:
            if name in truth:
                raise BadInput(f"{name} stands there twice")
            truth[name] = _segments(fields, dataset)
        except BadInput as error:
            expected = "'NAME Class start end start end …', further classes behind it (annotations_multiclasses.txt)"
            raise BadInput(f"{path}: line {number}: {error}; expected {expected}; check {option} and the classes") from None
    if not truth:
        raise BadInput(f"{path}: no videos; name the official annotations with {option}")
    return truth


def _segments(fields: list[str], dataset: Dataset) -> Segments:
    """What stands behind a name. Raises BadInput where that is not classes, each with pairs of frames."""
    segments, label, at = [], None, 0
    while at < len(fields) or label is None:
        if not re.fullmatch(r"-?[0-9]+", " ".join(fields[at : at + 1])):
            label, at = " ".join(fields[at : at + 1]), at + 1
            class_indices(label, dataset)
        try:
            start, end = map(int, fields[at : at + 2])
        except ValueError:
            raise BadInput(f"{' '.join(fields[at : at + 2])!r} behind {label}: no pair of frames") from None
        if label is None:
            raise BadInput("no class before the frames")
        if (start, end) != (-1, -1):
            segments.append((start, end, label))
        at += 2
    if any(label == dataset.labels[0] for *_, label in segments):
        raise BadInput("a segment of the normal class")
    return segments
