"""Segment mAP and bootstrap intervals on full test sets against literal versions: `python -m tools.bench metrics`."""

import ast
import itertools
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from tools.bench.measure import seconds
from utils.datasets import benchmarks, load_dataset
from utils.errors import BadInput
from utils.evaluation import report
from utils.evaluation.ground_truth import load_ground_truth
from utils.evaluation.intervals import RESAMPLES, draws, resampled
from utils.evaluation.metrics import IOUS, PROTOCOLS, WHOLE_VIDEO, frame_figures, segment_map
from utils.evaluation.scores import Scores
from utils.files import ROOT
from utils.labels import SNIPPET


def literal_map(probs, segments, labels, classes) -> list[float]:
    """The released code's segment mAP at the five IoUs, loop by loop: frames as sets, every IoU anew."""
    tops = [np.sort(prob, 0)[::-1][: len(prob) // 16].mean(0) for prob in probs]
    result = []
    for iou_needed in IOUS:
        precisions = []
        for c, name in enumerate(classes):
            found = []
            for video, prob in enumerate(probs):
                score = prob[:, c] * (tops[video][c] > 0)
                above = np.concatenate([[0], score > score.max() - (score.max() - score.min()) * 0.6, [0]]).astype(int)
                steps = [above[i + 1] - above[i] for i in range(len(above) - 1)]
                starts, ends = ([i for i, step in enumerate(steps) if step == way] for way in (1, -1))
                for start, end in zip(starts, ends, strict=True):
                    if end - start >= 2:
                        found.append((video, start, end, score[start:end].max() + 0.7 * tops[video][c]))
            found.sort(key=lambda row: -row[3])
            truth = [
                (video, *part)
                for video in range(len(probs))
                for part, own in zip(segments[video], labels[video], strict=True)
                if own == name
            ]
            count, hits = len(truth), []
            for video, start, end, _ in found:
                best, which = 0.0, None
                for index, (other, first, last) in enumerate(truth):
                    if other == video:
                        ours, theirs = set(range(start, end)), set(range(first, last))
                        iou = len(ours & theirs) / len(ours | theirs)
                        if iou >= iou_needed and iou > best:
                            best, which = iou, index
                hits.append(which is not None)
                if which is not None:
                    del truth[which]
            hits = np.array(hits)
            precisions.append((hits.cumsum() / np.arange(1, len(hits) + 1) * hits).sum() / max(count, 1))
        result.append(float(np.mean(precisions)))
    return result


def literal_figures(scores, labels) -> list[float]:
    """The figures of frame_metrics, each by scikit-learn on all frames."""
    s, y = np.concatenate(scores), np.concatenate(labels)
    anomalous = [i for i, label in enumerate(labels) if label.any()]
    sa, ya = np.concatenate([scores[i] for i in anomalous]), np.concatenate([labels[i] for i in anomalous])
    both = [i for i in anomalous if not labels[i].all()]
    fpr, tpr, _ = roc_curve(y, s)
    calm = np.concatenate([scores[i] for i in range(len(scores)) if not labels[i].any()])
    pooled = [roc_auc_score(y, s), average_precision_score(y, s), roc_auc_score(ya, sa), average_precision_score(ya, sa)]
    within = np.mean([roc_auc_score(labels[i], scores[i]) for i in both])
    bags = [np.sort(score)[::-1][: len(score) // 16 + 16].mean() for score in scores]
    by_video = roc_auc_score([label.any() for label in labels], bags)
    return [*pooled, within, tpr[fpr <= 0.01].max(), tpr[fpr <= 0.1].max(), (calm > 0.5).mean(), by_video]


def bench_metrics() -> None:
    """Official mAP and the intervals of the frame figures against literal versions, of which three resamples are timed."""
    folder = ROOT.parent / "shared" / "golden"
    for dataset in map(load_dataset, benchmarks()):
        path = folder / f"map_{dataset.key}.npz"
        if not path.exists():
            raise BadInput(f"{path}: no such file; the bench measures on the full test sets that lie there")
        with np.load(path, allow_pickle=False) as z:
            probs = [np.repeat(part.astype(np.float64), 16, axis=0) for part in np.split(z["probs"], np.cumsum(z["lengths"])[:-1])]
            segments, names = ast.literal_eval(str(z["segments"])), ast.literal_eval(str(z["labels"]))
            classes = [str(c) for c in z["classes"]]
        labels = [np.zeros(len(prob), np.int64) for prob in probs]
        for label, parts, own in zip(labels, segments, names, strict=True):
            for (start, end), name in zip(parts, own, strict=True):
                label[start:end] |= name != WHOLE_VIDEO
        scores = [1 - prob[:, 0] for prob in probs]
        print(f"{dataset.title}: {len(probs)} videos, {sum(map(len, probs))} frames")

        start = time.perf_counter()
        expected = literal_map(probs, segments, names, classes)
        slow = time.perf_counter() - start
        both = seconds(lambda: [segment_map(probs, segments, names, classes, protocol) for protocol in PROTOCOLS], 3)  # noqa: B023
        ours = segment_map(probs, segments, names, classes)
        gap = max(abs(ours[iou] - value) for iou, value in zip(IOUS, expected, strict=True))
        print(f"mAP: both protocols {both:.2f} s, literal official {slow:.1f} s: {slow / both:.0f} times; differ by {gap:.1e}")

        start = time.perf_counter()
        drawn = resampled(frame_figures(scores, labels), len(probs))
        fast = time.perf_counter() - start
        start, gap = time.perf_counter(), 0.0
        for row, weight in zip(range(1, 4), itertools.islice(draws(len(probs)), 1, None), strict=False):
            chosen = np.repeat(np.arange(len(probs)), weight)
            values = literal_figures([scores[i] for i in chosen], [labels[i] for i in chosen])
            gap = max(gap, *(abs(drawn[name][row] - value) for name, value in zip(drawn, values, strict=True)))
        slow = (time.perf_counter() - start) / 3 * RESAMPLES
        print(
            f"{len(drawn)} intervals: {fast:.1f} s, literal {slow:.0f} s (3 of {RESAMPLES} timed): {slow / fast:.0f} times; "
            f"differ by {gap:.1e}"
        )

        truth = load_ground_truth(dataset.gt_path, dataset)
        random = np.random.default_rng(0)
        noise = {name: random.dirichlet(np.ones(len(dataset.names)), -(-video.frames // SNIPPET)) for name, video in truth.items()}
        start = time.perf_counter()
        report.resample({name: Scores(1 - fine[:, 0], fine) for name, fine in noise.items()}, truth, dataset)
        frames = sum(video.frames for video in truth.values())
        print(f"every figure of a report on all {frames} frames, with intervals: {time.perf_counter() - start:.1f} s")
