"""The figure that chooses an epoch (`--select`), with its name, as reports and pictures call it: of held-out training videos, which have no
frame labels, or of the test set. It is of the score that is reported.
"""

from typing import NamedTuple

import numpy as np

from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.metrics import bag_score, frame_metrics, video_figures
from utils.evaluation.report import anomaly_scores, bags, frame_labels, timed, title
from utils.evaluation.scores import Scores

CERTAIN = 1e-7  # how near 0 and 1 a probability counts: a float32 is not nearer to 1


class Figure(NamedTuple):
    """A selection figure, the higher the better, and its name."""

    value: float
    name: str


def shown_part(scores: dict[str, Scores], part: str) -> str:
    """`part`, or the other of "coarse" and "fine" where the model has only that."""
    first = next(iter(scores.values()))
    return part if part in first.given() else "fine" if part == "coarse" else "coarse"


def by_video(values: np.ndarray, abnormal: np.ndarray, metric: str) -> float:
    """AUC or AP (`metric` "auc", "ap") of videos with the scores (V,), of which the `abnormal` (V,) bool are to be found."""
    return float(video_figures(values, abnormal)(np.ones(len(values), np.int64))[metric])


def held_out_figure(scores: dict[str, Scores], targets: dict[str, tuple], part: str, metric: str, kind: str) -> Figure:
    """The figure of held-out training videos of both kinds: AUC or AP (`metric`) by video, or their log-likelihood (`kind`, that of
    `--val-metric`). targets: multi-hot (C+1,) by name. The score of a video is as in training the mean of its K highest.
    """
    part = shown_part(scores, part)
    if kind == "likelihood":
        return Figure(likelihood(scores, targets, part), title(("video", part, "log-likelihood")))
    values = np.array([bag_score(parts.anomaly(part)) for parts in scores.values()])
    return Figure(by_video(values, np.array([any(targets[name][1:]) for name in scores]), metric), title(("video", part, metric)))


def likelihood(scores: dict[str, Scores], targets: dict[str, tuple], part: str) -> float:
    """Mean log-likelihood (0 at best) of the labels of videos, both kinds with one weight, from the mean of a video's K highest scores; it
    is finite where these are 0 or 1.

    A normal video has log(1 − s), s of the anomaly score. An abnormal one has log s; with classes log p(class), the mean over its classes
    of those of the class's own K highest. So the fine score pays for an alarm in a normal video, which the class normal, of the K snippets
    that are most so, would not know of. K is the same whatever a system trains with: figures can be compared.
    """
    kinds: dict[bool, list[float]] = {False: [], True: []}
    for name, parts in scores.items():
        classes = [number for number, there in enumerate(targets[name]) if number and there]
        if not classes:
            found = [1 - bag_score(parts.anomaly(part))]
        elif part == "fine":
            found = [bag_score(parts.fine[:, number]) for number in classes]
        else:
            found = [bag_score(parts.anomaly(part))]
        kinds[bool(classes)].append(np.log(np.clip(found, CERTAIN, 1 - CERTAIN)).mean())
    return float(np.mean([np.mean(values) for values in kinds.values()]))


def headline_figure(scores: dict[str, Scores], truth: dict[str, GroundTruth], part: str, metric: str) -> Figure:
    """The headline of a test set, without its interval (`--select test`): by frame, where ground truth is not complete by video."""
    part = shown_part(scores, part)
    if len(timed(scores, truth)) < len(scores):
        abnormal = np.array([bool(truth[name].shows) for name in scores])
        return Figure(by_video(bags(scores, truth, part), abnormal, metric), title(("video", part, metric)))
    labels = [frame_labels(truth[name], truth[name].frames) for name in scores]
    return Figure(float(frame_metrics(anomaly_scores(scores, truth, part), labels)[metric]), title((part, metric)))
