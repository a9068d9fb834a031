"""Frame-level figures and segment mAP@IoU. Pure functions of numpy arrays.

F frames of a video, V videos, C+1 classes with class 0 = normal, R rows: runs of frames with one score and label, which are what is sorted
and summed. All figures are fractions in [0, 1]; a figure that is undefined (one class only) is None, never NaN.

`frame_figures`, `class_figures` and `segment_figures` do all the sorting and matching once and return a function of a weight (V,) int,
how often each video stands in the test set: one call per bootstrap resample (utils/evaluation/intervals.py). `frame_metrics` and
`segment_map` are that function at weight 1.

`ap` is average precision, Σ (recall step) · precision, scikit-learn's `average_precision_score`. The area under the same curve by the
trapezoidal rule, `auc(recall, precision)` in some released code, joins its points by lines that no threshold reaches: it is another number
(VADTree coarse refined on UCF-Crime: 0.3247 instead of 0.3281).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from utils.errors import BadInput

IOUS = (0.1, 0.2, 0.3, 0.4, 0.5)
PROTOCOLS = ("official", "anomaly")
# The released ground truth calls a normal video's only segment so, on UCF-Crime too, where no class has that name.
WHOLE_VIDEO = "A"

Figures = dict[str | tuple[str, str], float | None]


class Ranking:
    """Rows from the highest to the lowest score, ready for curves at any weight of the videos.

    score (R,) float, video (R,) int, positive and negative (R,) int64: the frames of either kind in each row.
    """

    def __init__(self, score: np.ndarray, video: np.ndarray, positive: np.ndarray, negative: np.ndarray):
        order = np.argsort(-score)
        ends = np.flatnonzero(np.diff(score[order], append=np.nan) != 0) + 1  # behind the last row of each distinct score
        starts = np.r_[0, ends[:-1]]
        # A curve needs the distinct scores that some positive frame has; at all others recall does not move.
        self.negative_video, self.negative = video[order], negative[order]
        rows = np.flatnonzero(positive[order])
        self.positive_video, self.positive = video[order][rows], positive[order][rows]
        group = np.searchsorted(ends, rows, side="right")
        self.last = np.flatnonzero(np.diff(group, append=-1) != 0)  # the last positive row of each such score
        self.first_negative, self.last_negative = starts[group[self.last]], ends[group[self.last]]

    def curve(self, weight: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """(G,) int64 each, at the G distinct scores with a positive frame: true positives at the score, false positives above it and down
        to it; then the number of all negatives. None where one of the two kinds is missing.
        """
        true = np.cumsum(self.positive * weight[self.positive_video])[self.last]
        false = np.cumsum(np.r_[0, self.negative * weight[self.negative_video]])
        if not len(true) or not true[-1] or not false[-1]:
            return None
        return np.diff(true, prepend=0), false[self.first_negative], false[self.last_negative], false[-1]


def auc_and_ap(curve: tuple[np.ndarray, ...] | None) -> tuple[float | None, float | None]:
    """Area under the ROC curve (a tie counts one half) and average precision of `Ranking.curve`."""
    if curve is None:
        return None, None
    hits, above, down_to, negatives = curve
    true = hits.cumsum()
    auc = 1 - hits @ (above + down_to) / (2 * true[-1] * negatives)  # integer sums: nothing is lost in a million frames
    return float(auc), float(hits @ (true / np.maximum(true + down_to, 1)) / true[-1])


def recall_at(curve: tuple[np.ndarray, ...] | None, rate: float) -> float | None:
    """The highest recall at a false-positive rate of at most `rate`."""
    if curve is None:
        return None
    hits, _, down_to, negatives = curve
    return float(hits[down_to / negatives <= rate].sum() / hits.sum())


class Rows(NamedTuple):
    """The frames of a test set as runs of one score and label, in the order of videos and time."""

    score: np.ndarray  # (R,) float
    video: np.ndarray  # (R,) int
    length: np.ndarray  # (R,) int64: frames
    label: np.ndarray  # (R, C) bool: the anomaly classes, or the one kind of anomaly, that these frames show

    def ranking(self, chosen: np.ndarray, positive: np.ndarray) -> Ranking:
        """Of the `chosen` rows (R,) bool: the frames of `positive` rows (R,) bool against those of rows without any anomaly."""
        score, video, length, label = (part[chosen] for part in self)
        return Ranking(score, video, length * positive[chosen], length * ~label.any(1))


def to_rows(scores, labels, covered=None) -> Rows:
    """scores: one (F,) per video; labels: one (F,) or (F, C) of 0 and 1 per video; covered: one (F,) bool per video, the frames that count
    in `length`, else all. Raises BadInput as `frame_metrics` does.
    """
    if len(scores) != len(labels) or not len(scores):
        raise BadInput(
            f"{len(scores)} videos have scores, {len(labels)} have labels; expected one array of each per video, one video or more"
        )
    parts = []
    for video, (score, label, counts) in enumerate(zip(scores, labels, covered or [None] * len(scores), strict=True)):
        score, label = np.asarray(score, np.float64), np.asarray(label)
        if score.ndim != 1 or score.shape != label.shape[:1] or not len(score):
            raise BadInput(
                f"video {video}: scores of shape {score.shape}, labels of shape {label.shape}; expected one value per frame in both"
            )
        if not np.isfinite(score).all():
            raise BadInput(
                f"video {video}: score {score[~np.isfinite(score)][0]} at frame {np.isfinite(score).argmin()}; expected a finite one"
            )
        if not ((label == 0) | (label == 1)).all():
            raise BadInput(f"video {video}: label {label[(label != 0) & (label != 1)][0]}; expected 0 or 1 at each frame")
        label = label.reshape(len(score), -1).astype(bool)
        starts = np.flatnonzero(np.r_[True, (score[1:] != score[:-1]) | (label[1:] != label[:-1]).any(1)])
        length = np.diff(starts, append=len(score)) if counts is None else np.add.reduceat(np.asarray(counts, np.int64), starts)
        parts.append((score[starts], np.full(len(starts), video), length, label[starts]))
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def frame_metrics(scores, labels, covered=None) -> Figures:
    """scores, labels: one (F,) array per video, F of its own; labels 0 or 1 -> its figures by their name in report.json. covered: one (F,)
    bool per video, where figures are of these frames alone; a video stays anomalous if its anomalous frames are not among them.

    `auc` and `ap` (average precision) pool the frames of all videos, `ano_auc` and `ano_ap` those of anomalous videos, i.e. videos with an
    anomalous frame; `within_video_auc` is the mean of the AUC inside each anomalous video; `recall_at_fpr_X` the highest recall at a
    false-positive rate of at most X; `false_alarm_rate` the share of normal videos' frames scored above 0.5; `video_auc` tells anomalous
    videos from normal ones by the mean of their F // 16 + 16 highest frames, the top-K mean over snippets that bags are trained by; with
    `covered` it is left out.
    Raises BadInput naming the video's index where lengths differ or a value is not finite.
    """
    return frame_figures(scores, labels, covered)(np.ones(len(scores), np.int64))


def frame_figures(scores, labels, covered=None) -> Callable[[np.ndarray], Figures]:
    """`frame_metrics` as a function of the videos' weight (V,) int."""
    rows = to_rows(scores, labels, covered)
    positive, videos = rows.label[:, 0], len(scores)
    anomalous = np.bincount(rows.video, positive, videos) > 0
    everything = rows.ranking(np.ones(len(positive), bool), positive)
    anomalous_only = rows.ranking(anomalous[rows.video], positive)
    one = np.ones(1, np.int64)
    within = np.full(videos, np.nan)
    bounds = np.searchsorted(rows.video, np.arange(videos + 1))
    for video in np.flatnonzero(anomalous):
        score, _, length, label = (part[bounds[video] : bounds[video + 1]] for part in rows)
        single = Ranking(score, np.zeros(len(score), np.int64), length * label[:, 0], length * ~label[:, 0])
        within[video] = np.nan if (auc := auc_and_ap(single.curve(one))[0]) is None else auc
    both_kinds = ~np.isnan(within)
    if covered is None:
        bags = [_top_mean(*(part[bounds[video] : bounds[video + 1]] for part in (rows.score, rows.length))) for video in range(videos)]
        by_video = Ranking(np.array(bags), np.arange(videos), anomalous.astype(np.int64), (~anomalous).astype(np.int64))
    normal = ~anomalous[rows.video]
    frames = np.bincount(rows.video, rows.length * normal, videos)  # (V,) frames of normal videos, and those scored above 0.5
    alarms = np.bincount(rows.video, rows.length * (normal & (rows.score > 0.5)), videos)

    def figures(weight: np.ndarray) -> Figures:
        curve = everything.curve(weight)
        auc, ap = auc_and_ap(curve)
        ano_auc, ano_ap = auc_and_ap(anomalous_only.curve(weight))
        counted = weight * both_kinds
        total = weight @ frames
        return {
            "auc": auc,
            "ap": ap,
            "ano_auc": ano_auc,
            "ano_ap": ano_ap,
            "within_video_auc": float(counted @ np.nan_to_num(within) / counted.sum()) if counted.any() else None,
            "recall_at_fpr_0.01": recall_at(curve, 0.01),
            "recall_at_fpr_0.1": recall_at(curve, 0.1),
            "false_alarm_rate": float(weight @ alarms / total) if total else None,
            **({"video_auc": auc_and_ap(by_video.curve(weight))[0]} if covered is None else {}),
        }

    return figures


def bag_score(values: np.ndarray, frames: int | None = None) -> float:
    """(T,) scores of a video -> its own: the mean of the K highest, K = ⌊T/16 + 1⌋ snippets, as in training; of scores by frame
    (`frames` of them) as many frames.
    """
    k = len(values) // 16 + 1 if frames is None else frames // 16 + 16
    return float(np.sort(values)[-k:].mean(dtype=np.float64))


def video_figures(bags: np.ndarray, anomalous: np.ndarray, sources: np.ndarray | None = None) -> Callable[[np.ndarray], Figures]:
    """AUC and AP of videos, as a function of their weight (V,) int: bags (V,) float, anomalous (V,) bool.

    sources: (V,) int from 0 on; then also the AUC within sources: of the pairs of an anomalous and a normal video of the same source, how
    many are ranked right (a tie counts one half), which no knowledge of the scene helps with. All videos of a source have one weight.
    """
    ranking = Ranking(bags, np.arange(len(bags)), anomalous.astype(np.int64), (~anomalous).astype(np.int64))
    if sources is not None:
        first = np.unique(sources, return_index=True)[1]
        right, pairs = np.zeros(len(first)), np.zeros(len(first))
        for number in range(len(first)):
            high, low = (bags[(sources == number) & (anomalous == kind)] for kind in (True, False))
            right[number] = (high[:, None] > low).sum() + (high[:, None] == low).sum() / 2
            pairs[number] = len(high) * len(low)

    def figures(weight: np.ndarray) -> Figures:
        auc, ap = auc_and_ap(ranking.curve(weight))
        if sources is None:
            return {"auc": auc, "ap": ap}
        total = weight[first] @ pairs
        return {"auc": auc, "ap": ap, "within_source_auc": float(weight[first] @ right / total) if total else None}

    return figures


def _top_mean(score: np.ndarray, length: np.ndarray) -> float:
    """Mean of the F // 16 + 16 highest frames of a video (of all of them where there are fewer), given as runs of one score."""
    order = np.argsort(-score)
    share = np.diff(np.minimum(length[order].cumsum(), length.sum() // 16 + 16), prepend=0)
    return float(score[order] @ share / share.sum())


def class_figures(scores, labels, class_names) -> Callable[[np.ndarray], Figures]:
    """AUC and AP class by class, as a function of the videos' weight: keys (NAME, "auc") and (NAME, "ap") for each anomaly
    class with a frame.

    scores: one (F,) anomaly score per video; labels: one (F, C) of 0 and 1 per video, C = len(class_names) without normal. A class is
    measured on the videos that show it and on the normal videos; frames of other classes count neither way.
    """
    rows = to_rows(scores, labels)
    videos = len(scores)
    normal = np.bincount(rows.video, rows.label.any(1), videos) == 0
    rankings = {}
    for number, name in enumerate(class_names):
        shows = np.bincount(rows.video, rows.label[:, number], videos) > 0
        if shows.any():
            rankings[name] = rows.ranking((normal | shows)[rows.video], rows.label[:, number])

    def figures(weight: np.ndarray) -> Figures:
        result = {}
        for name, ranking in rankings.items():
            result[name, "auc"], result[name, "ap"] = auc_and_ap(ranking.curve(weight))
        return result

    return figures


def segment_map(probs, segments, labels, class_names, protocol: str = "official") -> dict[float | str, float | None]:
    """mAP over classes at IoU 0.1 … 0.5, and their mean "avg", as fractions (the released code and golden/map_*.npz: percent).

    Lists per video: probs (F, C+1) float; segments [[start, end], …] in frames, half-open; labels [class name, …], one per segment.
    - `official`: what VadCLIP's released code computes. All C+1 classes count. A segment labelled "A" (normal, the whole
      video) belongs to no class unless class_names has an "A": so UCF-Crime's "Normal" scores 0 and a perfect predictor 13/14. Everything
      is 0 if any class has no detection.
    - `anomaly`: anomalous videos only, and the classes with a segment in them; a perfect predictor gets 1. A class without a detection
      scores 0. None where no video is anomalous.
    Raises BadInput naming the video's index for wrong shapes, values that are not finite, and labels that are no class.
    """
    values = segment_figures(probs, segments, labels, class_names, protocol)(np.ones(len(probs), np.int64))
    return {key if key == "avg" else float(key): value for key, value in values.items()}


def segment_figures(probs, segments, labels, class_names, protocol: str) -> Callable[[np.ndarray], Figures]:
    """`segment_map` as a function of the videos' weight (V,) int, keys "0.1" … "0.5", "avg".

    A match depends on its own video only, so that detections are matched once. A video that is drawn twice gives each of its detections
    twice, one after the other.
    """
    if protocol not in PROTOCOLS:
        raise BadInput(f"protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    official = protocol == "official"
    truth = _truth(probs, segments, labels, list(class_names))  # (number of segments, 4) int: class, video, start, end
    classes, videos = range(len(class_names)), range(len(probs))
    if not official:
        truth = truth[truth[:, 0] > 0]
        classes, videos = np.unique(truth[:, 0]), np.unique(truth[:, 1])
    found = [(video, *detections(np.asarray(probs[video]), official)) for video in videos]
    by_class = []  # of each class: video of each detection, best first; whether it hits at each IoU (5, n); segments of each video (V,)
    if found:
        video = np.repeat([row[0] for row in found], [len(row[1]) for row in found])
        number, start, end, score = (np.concatenate(column) for column in list(zip(*found, strict=True))[1:])
        spans = np.stack([video, start, end], 1)
        for c in classes:
            own, wanted = number == c, truth[truth[:, 0] == c, 1:]
            detected = spans[own][_best_first(video[own], score[own], official)]
            by_class.append((detected[:, 0], _hits(detected, wanted), np.bincount(wanted[:, 0], minlength=len(probs))))
    keys = [*map(str, IOUS), "avg"]

    def figures(weight: np.ndarray) -> Figures:
        precision = []
        for detected, hits, wanted in by_class:
            count, total = weight[detected], weight @ wanted
            if official and not count.any():
                return dict.fromkeys(keys, 0.0)
            if total or official:
                precision.append(_average_precision(count, hits) / max(total, 1))
        if not precision:
            return dict.fromkeys(keys)
        mean = np.mean(precision, 0)
        return dict(zip(keys, [*mean.tolist(), float(mean.mean())], strict=True))

    return figures


def _average_precision(count: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Σ precision at the hits, for each IoU: count (n,) how often each detection stands in the list, hits (IoUs, n) bool -> (IoUs,)."""
    before = np.cumsum(count) - count
    result = np.zeros(len(hits))
    for row, hit in enumerate(hits):
        where = np.flatnonzero(hit)
        copies = count[where]
        true = np.cumsum(copies) - copies
        for copy in range(1, copies.max(initial=0) + 1):
            precision = (true + copy) / (before[where] + copy)
            result[row] += precision[copies >= copy].sum()
    return result


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


def detections(probs: np.ndarray, official: bool) -> tuple[np.ndarray, ...]:
    """probs (F, C+1) -> class, start, end, score of each detected segment of the video, by class and time.

    A class is detected in the runs of two frames or more above max − 0.6 · (max − min); score = max in the run + 0.7 · mean of the class's
    F // 16 highest frames. (The released code's NMS compares runs of one threshold, which cannot overlap: it removes nothing.)
    A class that scores the same at every frame is nowhere above that threshold; unless `official` it is detected in the whole video, as
    is one in a video of less than 16 frames. With `official` scores are added up in float32, as released, which decides some ties.
    """
    whole = not official
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
    if official and len(row):
        highest = [np.repeat(own, count) for own, count in zip(np.take_along_axis(runs, order, 1), share, strict=True)]
        peak, mean = peak.astype(np.float32), np.stack(highest, 1).astype(np.float32).mean(0)[:, None]
    long = end - start >= 2
    return number[long], start[long], end[long], (peak + 0.7 * mean[number, 0])[long].astype(np.float64)


def _best_first(video: np.ndarray, score: np.ndarray, official: bool) -> np.ndarray:
    """The order of a class's detections, given by video and time: equal scores stay in that order.

    With `official` as released: sorted inside each video, then over all, by numpy's default sort, which leaves equal scores in an order of
    the processor's. golden/map_xd.npz has that of AVX-512; AVX2's is worth 4.4e-5 there.
    """
    if not official:
        return np.argsort(-score, kind="stable")
    videos = np.split(np.arange(len(video)), np.flatnonzero(np.diff(video)) + 1)
    rows = np.concatenate([own[np.argsort(-score[own])] for own in videos])
    return rows[np.argsort(-score[rows])]


def _hits(detected: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """One class: detected (n, 3), best first, and truth (m, 3) as video, start, end -> (IoUs, n) bool, which detections hit.

    Each detection in turn takes the free segment it overlaps most, if IoU >= the threshold.
    """
    pairs = []  # (detection, −IoU, segment) of all pairs that can match, so that sorting gives the order of the matching
    for segment, (video, start, end) in enumerate(truth):
        same = np.flatnonzero(detected[:, 0] == video)
        _, first, last = detected[same].T
        common = np.maximum(np.minimum(last, end) - np.maximum(first, start), 0)
        overlap = common / (last - first + end - start - common)
        pairs += [(same[i], -overlap[i], segment) for i in np.flatnonzero(overlap >= min(IOUS))]
    pairs.sort()
    hits = np.zeros((len(IOUS), len(detected)), bool)
    for hit, iou in zip(hits, IOUS, strict=True):
        free = np.ones(len(truth), bool)
        for detection, overlap, segment in pairs:
            if -overlap >= iou and free[segment] and not hit[detection]:
                hit[detection], free[segment] = True, False
    return hits
