"""The figure that chooses an epoch (`--select`), with its name, as reports and pictures call it: of held-out training videos, which have no
frame labels, or of the test set. It is of the score that is reported.
"""

from typing import NamedTuple

import numpy as np

from utils.errors import BadInput
from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.intervals import resampled
from utils.evaluation.metrics import bag_score, frame_metrics, video_figures
from utils.evaluation.report import anomaly_scores, bags, frame_labels, timed, title
from utils.evaluation.scores import Scores


class Figure(NamedTuple):
    """A selection figure, the higher the better, its name, and its standard error: epochs that are nearer to each other are not told
    apart by it (utils/engine.py).
    """

    value: float
    name: str
    error: float = 0.0


def shown_part(scores: dict[str, Scores], part: str) -> str:
    """`part`, or the other of "coarse" and "fine" where the model has only that."""
    first = next(iter(scores.values()))
    return part if part in first.given() else "fine" if part == "coarse" else "coarse"


def held_out_figure(scores: dict[str, Scores], abnormal: dict[str, bool], part: str, metric: str) -> Figure:
    """AUC or AP (`metric`) by video of held-out training videos of both kinds. The score of a video is as in training the mean of its K
    highest.
    """
    part = shown_part(scores, part)
    values = np.array([bag_score(parts.anomaly(part)) for parts in scores.values()])
    drawn = resampled(video_figures(values, np.array([abnormal[name] for name in scores])), len(values))[metric]
    return Figure(float(drawn[0]), title(("video", part, metric)), float(np.nanstd(drawn[1:])))


def headline_figure(scores: dict[str, Scores], truth: dict[str, GroundTruth], part: str, metric: str) -> Figure:
    """The headline of a test set, without its interval (`--select test`): by frame, where ground truth is not complete by video."""
    part = shown_part(scores, part)
    if len(timed(scores, truth)) < len(scores):
        abnormal = np.array([bool(truth[name].shows) for name in scores])
        value = video_figures(bags(scores, truth, part), abnormal)(np.ones(len(scores), np.int64))[metric]
        name = title(("video", part, metric))
    else:
        labels = [frame_labels(truth[name], truth[name].frames) for name in scores]
        value, name = frame_metrics(anomaly_scores(scores, truth, part), labels)[metric], title((part, metric))
    if value is None or np.isnan(value):
        raise BadInput(f"--select test: {name} of {len(scores)} test videos is not defined, as all are of one kind; expected val or last")
    return Figure(float(value), name)
