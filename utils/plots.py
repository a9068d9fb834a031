"""Pictures of a run: score curves against the ground truth, training curves. Colours are Okabe and Ito's, told apart by the colour-blind
and in print.
"""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.files import replacing
from utils.ground_truth import GroundTruth

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")


def plot_scores(folder: Path, scores: dict, truth: dict[str, GroundTruth], dataset) -> None:
    """One picture per test video: coarse and fine score over time, anomalous segments as bands with their class."""
    for name, (coarse, fine) in scores.items():
        video = truth[name]
        figure = Figure(figsize=(8, 2.4))
        axes = figure.subplots()
        for number, (start, end, label) in enumerate(sorted(video.segments)):
            axes.axvspan(start / video.fps, end / video.fps, color=GREY, alpha=0.35, lw=0)
            text = dataset.names[dataset.labels.index(label)]
            axes.text((start + end) / 2 / video.fps, 1.02 + 0.07 * (number % 2), text, ha="center", va="bottom", fontsize=7, clip_on=False)
        curves = ((coarse, BLUE, "-", "coarse"), (None if fine is None else 1 - fine[:, 0], ORANGE, "--", "fine, 1 − p(normal)"))
        for values, colour, style, label in curves:
            if values is not None:
                seconds = np.minimum(np.arange(len(values) + 1) * 16, video.frames) / video.fps
                axes.stairs(values, seconds, color=colour, ls=style, lw=1.4, label=label)
        axes.set(xlim=(0, video.frames / video.fps), ylim=(0, 1), xlabel="seconds", ylabel="anomaly score")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7, frameon=False)
        axes.set_title(name, fontsize=8, loc="left", pad=18)
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, folder / f"{re.sub(r'[^A-Za-z0-9._=+-]', '_', name)}.png")


def plot_training(path: Path, log: list[dict]) -> None:
    """Loss terms and validation figure by epoch, from log.jsonl's lines."""
    epochs = [line["epoch"] for line in log]
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    names = [name for name in log[0] if name.startswith("loss")]
    for name, colour, marker in zip(names, (BLUE, ORANGE, GREEN, GREY, "black"), "osD^v", strict=False):
        left.plot(epochs, [line[name] for line in log], color=colour, marker=marker, ms=3, label=name)
    left.set(xlabel="epoch", yscale="log", title="training losses")
    left.legend(fontsize=7, frameon=False)
    for name, colour in (("val", BLUE), ("lr", GREY)):
        if name in log[0]:
            peak = max(line[name] for line in log) if name == "lr" else 1
            label = "selection figure" if name == "val" else f"learning rate / {peak:g}"
            right.plot(epochs, [line[name] / peak for line in log], color=colour, marker="o", ms=3, label=label)
    right.set(xlabel="epoch", title="selection")
    right.legend(fontsize=7, frameon=False)
    save(figure, path)
