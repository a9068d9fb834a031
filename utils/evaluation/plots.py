"""Pictures of a run: scores against ground truth, ROC and precision-recall curves, class confusion, training curves, alignment maps.

Colours are Okabe and Ito's; what a colour tells apart, line style, marker or place tells apart too, for the colour-blind and in print.
`scores` is {NAME: Scores}, a row per snippet or frame, class 0 = normal. `stamp` is a warning drawn into the picture, such as
"selected on test".
"""

import itertools
import re
import statistics
import textwrap
import warnings
import zlib
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.metrics import Ranking
from utils.evaluation.report import frame_labels
from utils.evaluation.scores import to_frames
from utils.evaluation.segments import Segment, clock
from utils.files import replacing
from utils.labels import Dataset

BLUE, AMBER, VERMILLION, GREEN, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#999999"
STYLES = {"coarse": (BLUE, "-"), "fine": (AMBER, (0, (4, 1.5))), "online": (GREEN, "-.")}  # part of the scores: colour, line style
LISTED = 3  # detected segments that are written out
GRID = np.linspace(0, 1, 1001)  # false-positive rates and recalls at which the curves of several seeds are compared


def save(figure: Figure, path: Path, stamp: str = "", dpi: int = 180) -> None:
    """Write a PNG whole or not at all, with the stamp in its upper right corner."""
    if stamp:
        inch = 1 / figure.get_figheight()
        if figure.get_layout_engine():
            figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.25 * inch))
        box = {"boxstyle": "square", "facecolor": "white", "edgecolor": VERMILLION}
        place = {"x": 0.99, "y": 1 - 0.07 * inch, "ha": "right", "va": "top"}
        figure.text(s=stamp.upper(), **place, fontsize=8, weight="bold", color=VERMILLION, bbox=box)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def edges(rows: int, frames: int) -> np.ndarray:
    """(T+1,) int: the frame at which each row of scores begins, as `to_frames` spreads them over a video, and the video's end."""
    return np.searchsorted(to_frames(np.arange(rows), frames), np.arange(rows + 1))


def plot_scores(
    folder: Path, scores: dict, truth: dict[str, GroundTruth], dataset: Dataset, stamp: str = "", segments: dict | None = None
) -> None:
    """One picture per test video: its scores over time, anomalous segments shaded, and above them a row of bars for each class.

    segments: of each video the detected ones (utils/evaluation/segments.py): a row of bars below the scores, and below the picture time,
    class, score and caption of the LISTED with the highest scores.
    """
    lines = 0 if segments is None else LISTED * (2 if any(one.caption for found in segments.values() for one in found) else 1)
    below, height = 0.45 + 0.13 * lines, 2.5 + 0.13 * lines  # inches
    figure = Figure(figsize=(8, height))  # one figure with fixed margins for all: fitting them doubles the time per picture
    files: dict[str, str] = {}
    for name in scores:
        kept = re.sub(r"[^\w.=+-]", "_", name)
        files[name] = f"{kept}-{zlib.crc32(name.encode(errors='surrogateescape')):08x}" if kept in files.values() else kept
    for name, parts in scores.items():
        figure.clear()
        axes = figure.add_axes((0.08, below / height, 0.7, 1.75 / height))
        video = truth[name]
        labels = sorted(() if video.segments is None else video.shows, key=dataset.labels.index)
        for row, label in enumerate(labels):
            bars = [(start / video.fps, (end - start) / video.fps) for start, end, other in video.segments if other == label]
            axes.broken_barh(bars, (0, 1), color="0.87", lw=0)
            axes.broken_barh(bars, (1.07 + 0.13 * row, 0.08), color="0.3", lw=0)
            text = dataset.name(label)
            axes.text(1.015, 1.11 + 0.13 * row, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())
        for part, (colour, style) in STYLES.items():
            values = parts.anomaly(part)
            if values is not None:
                seconds = edges(len(values), video.frames) / video.fps
                label, width = "fine, 1 − p(normal)" if part == "fine" else part, 1.4 if len(values) < 500 else 0.8
                axes.plot(seconds, np.append(values, values[-1]), drawstyle="steps-post", color=colour, ls=style, lw=width, label=label)
        axes.set(xlim=(0, video.frames / video.fps), ylim=(-0.02, 1.02 + 0.13 * len(labels)), yticks=(0, 0.5, 1))
        axes.set(xlabel="seconds", ylabel="anomaly score")
        axes.legend(loc="lower left", bbox_to_anchor=(1, 0 if segments is None else 0.2), fontsize=8, frameon=False)
        when = f": {', '.join(map(dataset.name, video.labels))}, nobody says when" * (video.segments is None)
        axes.set_title(name + when, fontsize=8, loc="left", parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        if segments is not None:
            draw_segments(axes, segments[name], video.fps, 0.13 * lines / height)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a caption in another script than the font's
            save(figure, folder / f"{files[name]}.png", stamp, dpi=110)


def draw_segments(axes, found: list[Segment], fps: float, top: float) -> None:
    """The detected segments of one video: bars below the scores, and below `top`, a share of the picture's height, what was detected."""
    axes.set_ylim(bottom=-0.28)
    axes.broken_barh([(one.start / fps, (one.end - one.start) / fps) for one in found], (-0.13, 0.08), color=VERMILLION, lw=0)
    axes.text(1.015, -0.09, "detected", va="center", fontsize=8, color=VERMILLION, transform=axes.get_yaxis_transform())
    best = sorted(sorted(found, key=lambda one: -one.score)[:LISTED])
    more = f"   (and {len(found) - LISTED} more)" if len(found) > LISTED else ""
    lines = []
    for number, one in enumerate(best, 1):
        axes.text((one.start + one.end) / 2 / fps, -0.21, number, ha="center", va="center", fontsize=6.5, color=VERMILLION)
        text = f"{number}  {clock(one.start / fps)}–{clock(np.ceil(one.end / fps))}  {one.label} {100 * one.score:.0f} %"
        text += f": {one.caption}" if one.caption else ""
        lines += textwrap.wrap(text, 165 - len(more), max_lines=2, placeholder=" …", subsequent_indent="    ")
    axes.figure.text(0.02, top, "\n".join(lines) + more, va="top", fontsize=6.5, linespacing=1.25, parse_math=False)


def curve(scores: dict, truth: dict[str, GroundTruth], part: str) -> tuple[np.ndarray, ...] | None:
    """Frame-level curves of the score named `part`: fpr, tpr (rising, of one length), recall (falling from 1 to 0), precision.

    Snippets stand for their frames, weighted by how many are anomalous and how many are not: as exact as a million frames, 16 times faster.
    None where the model has no such score, or all frames are of one kind.
    """
    columns = []
    for name, parts in scores.items():
        values, video = parts.anomaly(part), truth[name]
        if values is None:
            return None
        bounds = edges(len(values), video.frames)
        anomalous = np.diff(np.append(0, frame_labels(video, video.frames).cumsum())[bounds])
        columns.append((values, anomalous, np.diff(bounds) - anomalous))
    values, anomalous, normal = (np.concatenate(column) for column in zip(*columns, strict=True))
    if (found := Ranking(values, np.zeros(len(values), int), anomalous, normal).curve(np.ones(1, int))) is None:
        return None
    hits, above, down_to, negatives = found
    true = hits.cumsum()
    fpr = np.r_[0, np.stack([above, down_to], 1).ravel(), negatives] / negatives  # within a score the curve is a straight line
    tpr = np.r_[0, np.stack([true - hits, true], 1).ravel(), true[-1]] / true[-1]
    true, false = np.append(true, true[-1]), np.append(down_to, negatives)  # at last all frames
    return fpr, tpr, np.append(0, true / true[-1])[::-1], np.append(1, true / (true + false))[::-1]


def plot_curves(path: Path, runs: list[dict], truth: dict[str, GroundTruth], stamp: str = "") -> bool:
    """Frame-level ROC and precision-recall curves; `runs` holds one `scores` per seed: their mean as a line, lowest to highest as a band.

    False, and no picture, where no curve is defined (see `curve`).
    """
    drawn = {part: [curve(scores, truth, part) for scores in runs] for part in STYLES}
    drawn = {part: found for part, found in drawn.items() if all(one is not None for one in found)}
    if not drawn:
        return False
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for part, found in drawn.items():
        colour, style = STYLES[part]
        rates = np.array([np.interp(GRID, fpr, tpr) for fpr, tpr, *_ in found])  # (seeds, 1001)
        area = spread([np.trapezoid(tpr, fpr) for fpr, tpr, *_ in found])
        left.plot(GRID, rates.mean(0), color=colour, ls=style, lw=1.6, label=f"{part}: AUC {area}")
        left.fill_between(GRID, rates.min(0), rates.max(0), color=colour, alpha=0.25, lw=0)
        # Average precision is a sum of steps: up to each recall, the precision of the highest threshold that reaches it.
        steps = np.array([precision[::-1][np.searchsorted(recall[::-1], GRID[1:])] for *_, recall, precision in found])  # (seeds, 1000)
        label = f"{part}: AP {spread([-np.diff(recall) @ precision[:-1] for *_, recall, precision in found])}"
        right.stairs(steps.mean(0), GRID, baseline=None, color=colour, ls=style, lw=1.6, label=label)
        right.stairs(steps.max(0), GRID, baseline=steps.min(0), fill=True, color=colour, alpha=0.25, lw=0)
    share = next(iter(drawn.values()))[0][3][0]  # precision where every frame is called anomalous
    for axes, title, chance, names in (
        (left, "ROC, frames", ([0, 1], 0.5), ("false-positive rate", "true-positive rate")),
        (right, "Precision and recall, frames", ([share, share], share), ("recall", "precision")),
    ):
        axes.plot([0, 1], chance[0], color="0.4", ls=":", lw=1.2, label=f"chance {100 * chance[1]:.2f} %", zorder=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=names[0], ylabel=names[1], aspect="equal")
        axes.set_title(title, fontsize=10, loc="left")
        axes.legend(loc="lower right" if axes is left else "upper right", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        figure.get_layout_engine().set(h_pad=0.09)
        figure.supxlabel(f"mean of {len(runs)} seeds ± standard deviation; bands: lowest to highest", fontsize=8)
    save(figure, path, stamp)
    return True


def spread(values: list[float]) -> str:
    """In percent: mean, and the standard deviation (n − 1) of several seeds."""
    return f"{100 * statistics.mean(values):.2f}" + (f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else "") + " %"


def confusion(scores: dict, truth: dict[str, GroundTruth], dataset: Dataset) -> np.ndarray | None:
    """(C+1, C+1) int: anomalous frames by true class (row) and the class of the highest fine probability (column).

    A frame inside segments of several classes counts once in each class's row. None where the model has no fine score.
    """
    counts = np.zeros((len(dataset.labels),) * 2, np.int64)
    for name, video in scores.items():
        if video.fine is None:
            return None
        predicted = to_frames(video.fine.argmax(1), truth[name].frames)
        for label in {label for *_, label in truth[name].segments}:
            inside = np.zeros(len(predicted), bool)
            for start, end, other in truth[name].segments:
                inside[start:end] |= other == label
            counts[dataset.labels.index(label)] += np.bincount(predicted[inside], minlength=len(counts))
    return counts


def plot_confusion(path: Path, scores: dict, truth: dict[str, GroundTruth], dataset: Dataset, stamp: str = "") -> bool:
    """`confusion` in percent of each row; the cell of the right answer is outlined. False, and no picture, without a fine score."""
    counts = confusion(scores, truth, dataset)
    if counts is None or not counts.any():
        return False
    classes = np.flatnonzero(counts.sum(1))
    share = 100 * counts[classes] / counts[classes].sum(1, keepdims=True)  # (rows, C+1)
    figure = Figure(figsize=(2.2 + 0.46 * len(counts), 1.9 + 0.34 * len(classes)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(share):
        if value or column == classes[row]:
            text = f"{value:.0f}" if value >= 0.5 or not value else "<1"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if value > 68 else "black")
    for row, column in enumerate(classes):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=VERMILLION, lw=1.6, clip_on=False, zorder=3))
    axes.axvline(0.5, color="black", lw=1)
    axes.set_xticks(range(len(counts)), dataset.names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), [f"{dataset.names[c]}  {counts[c].sum():,}" for c in classes])
    axes.tick_params(labelsize=8, length=0)
    axes.set(xlabel="class of the highest fine probability", ylabel="true class, frames")
    axes.set_title("Anomalous frames, % of each row", fontsize=10, loc="left")
    save(figure, path, stamp)
    return True


def plot_training(path: Path, log: list[dict], stamp: str = "", selected_by: str = "selection figure") -> None:
    """Loss terms and selection figure by epoch, from log.jsonl's lines."""
    epochs = [line["epoch"] for line in log]
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = sorted((name for name in log[0] if name.startswith("loss")), key=lambda name: name != "loss")
    colours, markers = itertools.cycle(("black", BLUE, AMBER, GREEN, VERMILLION)), itertools.cycle("vosD^PX")
    for name, colour, marker in zip(names, colours, markers, strict=False):
        style = "--" if name == "loss" else "-"  # the sum lies on its largest term
        left.plot(epochs, [line[name] for line in log], color=colour, ls=style, marker=marker, ms=4, label=name)
    left.set(xlabel="epoch", yscale="log")
    left.set_title("Training losses", fontsize=10, loc="left")
    for name, colour, marker in (("val", BLUE, "o"), ("lr", GREY, "^")):
        if name in log[0]:
            peak = max(line[name] for line in log) if name == "lr" else 1
            label = selected_by if name == "val" else f"learning rate / {peak:g}"
            right.plot(epochs, [line[name] / peak for line in log], color=colour, marker=marker, ms=4, label=label)
    right.set(xlabel="epoch")
    right.set_title("Selection", fontsize=10, loc="left")
    for axes in (left, right):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path, stamp)


def plot_alignment(path: Path, name: str, alignment: np.ndarray, truth_video: GroundTruth, dataset: Dataset, stamp: str = "") -> None:
    """The alignment map of one video, (T, C+1) probabilities, over seconds; its segments are outlined in the row of their class."""
    fps, classes = truth_video.fps, len(dataset.names)
    figure = Figure(figsize=(8, 1.3 + 0.21 * classes), layout="constrained")
    axes = figure.subplots()
    extent = (0, len(alignment) * edges(len(alignment), truth_video.frames)[1] / fps, classes - 0.5, -0.5)
    image = axes.imshow(alignment.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest")
    halo = [withStroke(linewidth=2.6, foreground="white")]
    for start, end, label in truth_video.segments or ():
        corner = (start / fps, dataset.labels.index(label) - 0.5)
        axes.add_patch(
            Rectangle(corner, (end - start) / fps, 1, fill=False, edgecolor=VERMILLION, lw=1.4, path_effects=halo, clip_on=False)
        )
    axes.set(xlim=(0, truth_video.frames / fps), xlabel="seconds")
    axes.set_yticks(range(classes), dataset.names)
    axes.tick_params(labelsize=8)
    axes.set_title(name, fontsize=8, loc="left", parse_math=False)
    figure.colorbar(image, label="probability", fraction=0.03, pad=0.02).ax.tick_params(labelsize=8)
    save(figure, path, stamp)
