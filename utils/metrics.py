"""Frame-level figures with bootstrap intervals, and segment mAP@IoU (design/protocol.md, "Metrics"). Pure functions of numpy arrays.

F frames of a video, V videos, C+1 classes with class 0 = normal, R rows: runs of frames with one score, which are what is sorted and
summed.
All figures are fractions in [0, 1]; a figure that is undefined (one class only) is None, never NaN.
"""

from typing import NamedTuple

import numpy as np

from utils.errors import BadInput

IOUS = (0.1, 0.2, 0.3, 0.4, 0.5)
PROTOCOLS = ("official", "anomaly")
# The released ground truth calls a normal video's only segment so, on UCF-Crime too, where no class has that name.
WHOLE_VIDEO = "A"


class Frames(NamedTuple):
    """The frames of a test set as R rows of one score and video, highest score first."""

    video: np.ndarray  # (R,) int
    positive: np.ndarray  # (R,) int64: anomalous frames in the row
    negative: np.ndarray  # (R,) int64
    ends: np.ndarray  # (G,) int: the last row of each of the G distinct scores
    anomalous: np.ndarray  # (V,) bool: has an anomalous frame
    within: np.ndarray  # (V,) float: AUC among the video's own frames, NaN where it has one class only
    alarms: np.ndarray  # (V,) int: frames above 0.5 if the video is normal, else 0
    normal: np.ndarray  # (V,) int: frames if the video is normal, else 0


def frame_metrics(scores, labels) -> dict[str, float | None]:
    """scores, labels: one (F,) array per video, F of its own; labels 0 or 1 -> the figures of protocol.md by their name in report.json.

    `auc` and `ap` (average precision) pool the frames of all videos, `ano_auc` and `ano_ap` those of anomalous videos, i.e. videos with an
    anomalous frame; `within_video_auc` is the mean of the AUC inside each anomalous video; `recall_at_fpr_X` the highest recall at a
    false-positive
    rate of at most X; `false_alarm_rate` the share of normal videos' frames scored above 0.5.
    Raises BadInput naming the video's index where lengths differ or a value is not finite.
    """
    frames = _frames(scores, labels)
    return _figures(frames, np.ones(len(frames.anomalous), np.int64))


def bootstrap(scores, labels, *, resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Each of `frame_metrics`' figures as {"value", "low", "high"}: 95 % percentile interval of a seeded bootstrap over videos.

    A resample in which a figure is undefined is left out of that figure's interval; the intervals depend on the order of the videos, the
    values do not.
    """
    frames = _frames(scores, labels)
    videos = len(frames.anomalous)
    random = np.random.default_rng(seed)
    draws = (np.bincount(random.integers(videos, size=videos), minlength=videos) for _ in range(resamples))
    drawn = [_figures(frames, weight) for weight in draws]
    result = {}
    for name, value in _figures(frames, np.ones(videos, np.int64)).items():
        defined = [figures[name] for figures in drawn if figures[name] is not None]
        low, high = np.percentile(defined, [2.5, 97.5]).tolist() if defined and value is not None else (None, None)
        result[name] = {"value": value, "low": low, "high": high}
    return result


def _frames(scores, labels) -> Frames:
    """Check the input and sort it once; every resample is then a weight per video on the same rows."""
    if len(scores) != len(labels) or not len(scores):
        raise BadInput(
            f"{len(scores)} videos have scores, {len(labels)} have labels; expected one array of each per video, one video or more"
        )
    rows, within = [], []
    for video, (score, label) in enumerate(zip(scores, labels, strict=True)):
        score, label = np.asarray(score, np.float64), np.asarray(label)
        if score.ndim != 1 or score.shape != label.shape or not len(score):
            raise BadInput(
                f"video {video}: scores of shape {score.shape}, labels of shape {label.shape}; expected one value per frame in both"
            )
        if not np.isfinite(score).all():
            raise BadInput(
                f"video {video}: score {score[~np.isfinite(score)][0]} at frame {np.isfinite(score).argmin()}; expected a finite one"
            )
        if not np.isin(label, (0, 1)).all():
            raise BadInput(f"video {video}: label {label[~np.isin(label, (0, 1))][0]}; expected 0 or 1 at each frame")
        starts = np.flatnonzero(np.diff(score, prepend=np.nan) != 0)
        length = np.diff(starts, append=len(score))
        positive = np.add.reduceat(label.astype(np.int64), starts)
        rows.append((score[starts], positive, length - positive, np.full(len(starts), video)))
        order, ends = _descending(score[starts])
        within.append(_auc(positive[order].cumsum()[ends], (length - positive)[order].cumsum()[ends]))
    score, positive, negative, video = (np.concatenate(column) for column in zip(*rows, strict=True))
    order, ends = _descending(score)
    anomalous = np.bincount(video, positive) > 0
    normal = np.where(anomalous, 0, np.bincount(video, negative)).astype(np.int64)
    alarms = np.where(anomalous, 0, np.bincount(video, negative * (score > 0.5))).astype(np.int64)
    within = np.array([np.nan if value is None else value for value in within])
    return Frames(video[order], positive[order], negative[order], ends, anomalous, within, alarms, normal)


def _descending(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order from the highest to the lowest score, and the last place of each distinct score in it."""
    order = np.argsort(-score)
    return order, np.flatnonzero(np.diff(score[order], append=np.nan) != 0)


def _figures(frames: Frames, weight: np.ndarray) -> dict[str, float | None]:
    """The figures of a test set in which video v stands weight[v] times; weight (V,) int."""
    row_weight = weight[frames.video]
    negative = row_weight * frames.negative
    true = np.cumsum(row_weight * frames.positive)[frames.ends]  # (G,) true positives down to each distinct score
    false = np.cumsum(negative)[frames.ends]
    # Positives are in anomalous videos anyway, so that only the false positives differ.
    false_anomalous = np.cumsum(negative * frames.anomalous[frames.video])[frames.ends]
    counted = weight * ~np.isnan(frames.within)
    normal = weight @ frames.normal
    return {
        "auc": _auc(true, false),
        "ap": _average_precision(true, false),
        "ano_auc": _auc(true, false_anomalous),
        "ano_ap": _average_precision(true, false_anomalous),
        "within_video_auc": float(counted @ np.nan_to_num(frames.within) / counted.sum()) if counted.any() else None,
        "recall_at_fpr_0.01": _recall(true, false, 0.01),
        "recall_at_fpr_0.1": _recall(true, false, 0.1),
        "false_alarm_rate": float(weight @ frames.alarms / normal) if normal else None,
    }


def _auc(true: np.ndarray, false: np.ndarray) -> float | None:
    """Area under the ROC curve through the cumulative counts (G,) int; integer sums, so that nothing is lost in a million frames."""
    if not true[-1] or not false[-1]:
        return None
    twice = np.diff(false, prepend=0) @ (2 * true - np.diff(true, prepend=0))  # trapezoids: a tie counts one half
    return float(twice / (2 * true[-1] * false[-1]))


def _average_precision(true: np.ndarray, false: np.ndarray) -> float | None:
    """Σ (recall step) · precision, as scikit-learn's average_precision_score; None where it says 1 because there is no negative."""
    if not true[-1] or not false[-1]:
        return None
    precision = true / np.maximum(true + false, 1)
    return float(np.diff(true, prepend=0) @ precision / true[-1])


def _recall(true: np.ndarray, false: np.ndarray, rate: float) -> float | None:
    if not true[-1] or not false[-1]:
        return None
    reached = np.searchsorted(false / false[-1], rate, side="right")
    return float(true[reached - 1] / true[-1]) if reached else 0.0


def segment_map(probs, segments, labels, class_names, protocol: str = "official") -> dict[float | str, float | None]:
    """mAP over classes at IoU 0.1 … 0.5, and their mean "avg", as fractions (the released code and golden/map_*.npz: percent).

    Lists per video: probs (F, C+1) float; segments [[start, end], …] in frames, half-open; labels [class name, …], one per segment.
    - `official`: what VadCLIP's released code computes (systems.md §3). All C+1 classes count. A segment labelled "A" (normal, the whole
      video) belongs to no class unless class_names has an "A": so UCF-Crime's "Normal" scores 0 and a perfect predictor 13/14. Everything
      is 0
      if any class has no detection.
    - `anomaly`: anomalous videos only, and the classes with a segment in them; a perfect predictor gets 1. A class without a detection
    scores 0.
      None where no video is anomalous.
    Raises BadInput naming the video's index for wrong shapes, values that are not finite, and labels that are no class.
    """
    if protocol not in PROTOCOLS:
        raise BadInput(f"protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    truth = _truth(probs, segments, labels, list(class_names))  # (number of segments, 4) int: class, video, start, end
    classes, videos = range(len(class_names)), range(len(probs))
    if protocol == "anomaly":
        truth = truth[truth[:, 0] > 0]
        classes, videos = np.unique(truth[:, 0]), np.unique(truth[:, 1])
    found = [(video, *_detections(np.asarray(probs[video]), whole=protocol == "anomaly")) for video in videos]
    if not len(classes) or not found:
        return dict.fromkeys((*IOUS, "avg"))
    video = np.repeat([row[0] for row in found], [len(row[1]) for row in found])
    number, start, end, score = (np.concatenate(column) for column in list(zip(*found, strict=True))[1:])
    # Equal scores stand in the order of videos and time; the released code leaves their order to an unstable sort.
    order = np.argsort(-score, kind="stable")
    detections = np.stack([number, video, start, end], 1)[order]
    by_class = [(detections[detections[:, 0] == c, 1:], truth[truth[:, 0] == c, 1:]) for c in classes]
    if protocol == "official" and not all(len(detected) for detected, _ in by_class):
        return dict.fromkeys((*IOUS, "avg"), 0.0)
    precision = np.mean([_segment_precision(*pair) for pair in by_class], 0)
    return {**dict(zip(IOUS, precision.tolist(), strict=True)), "avg": float(precision.mean())}


def _truth(probs, segments, labels, class_names: list[str]) -> np.ndarray:
    if not len(probs) == len(segments) == len(labels):
        raise BadInput(
            f"{len(probs)} videos have probabilities, {len(segments)} segments, {len(labels)} labels; expected one of each per video"
        )
    rows = []
    for video, (prob, parts, names) in enumerate(zip(probs, segments, labels, strict=True)):
        prob = np.asarray(prob)
        if prob.ndim != 2 or not len(prob) or prob.shape[1] != len(class_names):
            raise BadInput(
                f"video {video}: probabilities of shape {prob.shape}; expected (frames, {len(class_names)}), one column per class"
            )
        if not np.isfinite(prob).all():
            raise BadInput(f"video {video}: a probability that is not finite; expected finite ones")
        if len(parts) != len(names):
            raise BadInput(f"video {video}: {len(parts)} segments and {len(names)} labels; expected one label per segment")
        for (start, end), name in zip(parts, names, strict=True):
            if not 0 <= start < end:
                raise BadInput(f"video {video}: segment [{start}, {end}]; expected 0 <= start < end in frames")
            if name in class_names:
                rows.append((class_names.index(name), video, start, end))
            elif name != WHOLE_VIDEO:
                raise BadInput(f"video {video}: label {name!r}; expected one of {', '.join(class_names)}")
    return np.array(rows, np.int64).reshape(-1, 4)


def _detections(probs: np.ndarray, whole: bool) -> tuple[np.ndarray, ...]:
    """probs (F, C+1) -> class, start, end, score of each detected segment of the video, by class and time.

    A class is detected in the runs of two frames or more above max − 0.6 · (max − min); score = max in the run + 0.7 · mean of the class's
    F // 16 highest frames. (The released code's NMS compares runs of one threshold, which cannot overlap: it removes nothing.)
    A class that scores the same at every frame is nowhere above that threshold; with `whole` it is detected in the whole video, as
    is one in a video of less than 16 frames.
    """
    bounds = np.flatnonzero(np.r_[True, (probs[1:] != probs[:-1]).any(1), True])  # R runs of equal frames lie between them
    runs = probs[bounds[:-1]].T.astype(np.float64)  # (C+1, R)
    top = len(probs) // 16 or int(whole)
    order = np.argsort(-runs, 1)
    share = np.diff(np.minimum(np.diff(bounds)[order].cumsum(1), top), prepend=0)  # (C+1, R) frames among the highest
    mean = (np.take_along_axis(runs, order, 1) * share).sum(1, keepdims=True) / max(top, 1)
    high, low = runs.max(1, keepdims=True), runs.min(1, keepdims=True)
    above = ((runs > high - 0.6 * (high - low)) | (whole & (high == low))) & (mean > 0)
    step = np.diff(np.pad(above, ((0, 0), (1, 1))).astype(np.int8))  # (C+1, R+1): 1 where a detection starts, −1 where it ends
    (number, first), (_, last) = np.nonzero(step == 1), np.nonzero(step == -1)
    flat, row = np.pad(runs, ((0, 0), (0, 1))).ravel(), number * len(bounds)
    peak = np.maximum.reduceat(flat, np.stack([row + first, row + last], 1).ravel())[::2] if len(row) else row.astype(float)
    start, end = bounds[first], bounds[last]
    long = end - start >= 2
    return number[long], start[long], end[long], (peak + 0.7 * mean[number, 0])[long]


def _segment_precision(detected: np.ndarray, truth: np.ndarray) -> list[float]:
    """One class: detected (n, 3), best first, and truth (m, 3) as video, start, end -> AP at each IoU.

    Each detection in turn takes the free segment it overlaps most, if IoU >= the threshold. AP = Σ precision at the hits / m.
    """
    pairs = []  # (detection, −IoU, segment) of all pairs that can match, so that sorting gives the order of the matching
    for segment, (video, start, end) in enumerate(truth):
        same = np.flatnonzero(detected[:, 0] == video)
        _, first, last = detected[same].T
        common = np.maximum(np.minimum(last, end) - np.maximum(first, start), 0)
        overlap = common / (last - first + end - start - common)
        pairs += [(same[i], -overlap[i], segment) for i in np.flatnonzero(overlap >= min(IOUS))]
    pairs.sort()
    result = []
    for iou in IOUS:
        hit, free = np.zeros(len(detected)), np.ones(len(truth), bool)
        for detection, overlap, segment in pairs:
            if -overlap >= iou and free[segment] and not hit[detection]:
                hit[detection], free[segment] = 1, False
        precision = hit.cumsum() / np.arange(1, len(hit) + 1)
        result.append(float(hit @ precision / len(truth)) if len(truth) else 0.0)
    return result
