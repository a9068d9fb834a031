"""Frame metrics and segment mAP: hand-computed cases, scikit-learn, the released code's golden values, and what must not matter."""

import ast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from golden import GOLDEN
from utils.errors import BadInput
from utils.evaluation.metrics import IOUS, class_figures, frame_metrics, segment_map

needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is not here")


def golden(name):
    """probs, segments and labels by video, class names, and the released code's mAP (fractions) of golden/map_NAME.npz."""
    with np.load(GOLDEN / f"map_{name}.npz", allow_pickle=False) as z:
        probs = [np.repeat(part, 16, axis=0) for part in np.split(z["probs"], np.cumsum(z["lengths"])[:-1])]
        segments, labels = ast.literal_eval(str(z["segments"])), ast.literal_eval(str(z["labels"]))
        return probs, segments, labels, [str(c) for c in z["classes"]], z["map"] / 100


def test_hand_computed():
    # Anomalous video: scores of its frames 0.9+ 0.6+ 0.6- 0.2-; normal video: 0.7 0.6 0.1.
    figures = frame_metrics([[0.9, 0.6, 0.6, 0.2], [0.7, 0.6, 0.1]], [[1, 1, 0, 0], [0, 0, 0]])
    # 0.9 beats all five negatives; 0.6 beats 0.2 and 0.1, ties with two, loses to 0.7: (5 + 2 + 2/2) / 10.
    assert figures["auc"] == pytest.approx(0.8)
    # Precision 1/1 at 0.9; at 0.6: two of five (0.9, 0.7, 0.6, 0.6, 0.6).
    assert figures["ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 5)
    assert figures["ano_auc"] == figures["within_video_auc"] == pytest.approx((2 + 1.5) / 4)
    assert figures["ano_ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert figures["recall_at_fpr_0.1"] == figures["recall_at_fpr_0.01"] == 0.5  # the next threshold lets 3 of 5 through
    assert figures["false_alarm_rate"] == pytest.approx(2 / 3)


def test_video_auc_takes_the_mean_of_the_highest_frames():
    """K = F // 16 + 16 = 18 of 32 frames: snippets of 0.9 and 0.1 give (16 · 0.9 + 2 · 0.1) / 18 = 0.811; 0.8 lies below, 0.85 above."""
    spiky, anomalous = np.repeat([0.1, 0.9], 16), np.repeat([0, 1], 16)
    for flat, auc in ((0.8, 1), (0.85, 0)):
        assert frame_metrics([spiky, np.full(20, flat)], [anomalous, np.zeros(20)])["video_auc"] == auc


def test_covered_frames_alone_by_hand():
    """Covered: 0.8+ 0.9- of the first anomalous video, 0.7- of the second, whose anomalous frame is not; 0.85- of the normal one."""
    scores = [[0.8, 0.9, 0.95, 0.1], [0.99, 0.7], [0.85, 0.2]]
    labels = [[1, 0, 1, 0], [1, 0], [0, 0]]
    figures = frame_metrics(scores, labels, [[True, True, False, False], [False, True], [True, False]])
    assert (figures["auc"], figures["ap"]) == pytest.approx((1 / 3, 1 / 3))  # it beats 0.7 of three; it is the third of four
    assert figures["ano_auc"] == figures["ano_ap"] == 1 / 2  # the second video is anomalous, whatever is covered
    assert figures["within_video_auc"] == 0  # of the first alone
    assert figures["false_alarm_rate"] == 1
    assert "video_auc" not in figures
    none = frame_metrics(scores, labels, [np.zeros(len(row), bool) for row in scores])
    assert set(none.values()) == {None}


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_covered_frames_alone_are_a_test_set_of_these_frames(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 20, 6)
    scores, covered = ([random.integers(0, high, n) for n in lengths] for high in (4, 2))
    labels = [random.integers(0, 2, n) if video else np.zeros(n, int) for video, n in enumerate(lengths)]
    found = frame_metrics(scores, labels, [row.astype(bool) for row in covered])
    label, score = (np.concatenate(rows)[np.concatenate(covered) > 0] for rows in (labels, scores))
    if 0 < label.sum() < len(label):
        assert found["auc"] == pytest.approx(roc_auc_score(label, score))
        assert found["ap"] == pytest.approx(average_precision_score(label, score))
    else:
        assert found["auc"] is None
    whole = frame_metrics(scores, labels)
    del whole["video_auc"]
    assert frame_metrics(scores, labels, [np.ones(n, bool) for n in lengths]) == whole


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_undefined_not_wrong(label):
    figures = frame_metrics([[0.1, 0.9]], [[label, label]])
    assert figures["auc"] is figures["ap"] is figures["ano_auc"] is figures["within_video_auc"] is figures["recall_at_fpr_0.1"] is None
    assert figures["false_alarm_rate"] == (None if label else 0.5)


def test_a_video_all_anomalous_counts_but_not_within():
    figures = frame_metrics([[0.8, 0.9], [0.1, 0.7], [0.2]], [[1, 1], [0, 1], [0]])
    assert figures["within_video_auc"] == 1  # of the second alone
    assert figures["ano_auc"] == 1


def test_by_class():
    scores = [[0.9, 0.2, 0.5], [0.8, 0.1], [0.6, 0.3]]
    labels = [[[1, 0], [0, 1], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]
    figures = class_figures(scores, labels, ("fight", "fire"))(np.ones(3, int))
    # fight: positives 0.9, 0.8 against 0.5, 0.1, 0.6, 0.3; the frame of fire alone counts neither way. fire: 0.2, 0.8 against the same.
    assert figures["fight", "auc"] == 1
    assert figures["fire", "auc"] == pytest.approx((4 + 1) / 8)
    assert figures["fire", "ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 5)
    absent = class_figures(scores, [np.array(label)[:, :1] for label in labels], ("fight",))(np.ones(3, int))
    assert set(absent) == {("fight", "auc"), ("fight", "ap")}


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[0.1]], [[0], [1]], "1 videos have scores, 2 have labels"),
        ([[0.1, 0.2]], [[0]], "video 0: scores of shape"),
        ([[0.1], [0.1, np.nan]], [[0], [0, 1]], "video 1: score nan at frame 1"),
        ([[0.1]], [[2]], "video 0: label 2"),
    ],
)
def test_bad_input(scores, labels, message):
    with pytest.raises(BadInput, match=message):
        frame_metrics(scores, labels)


videos = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=12),
    min_size=1,
    max_size=5,
).map(lambda rows: ([np.array([s for s, _ in v]) / 6 for v in rows], [np.array([y for _, y in v]) for v in rows]))


@given(videos)
def test_equals_scikit_learn(problem):
    scores, labels = problem
    figures = frame_metrics(scores, labels)
    for name, chosen in (("", range(len(scores))), ("ano_", [i for i in range(len(scores)) if labels[i].any()])):
        y = np.concatenate([labels[i] for i in chosen]) if chosen else np.zeros(0)
        if 0 < y.sum() < len(y):
            s = np.concatenate([scores[i] for i in chosen])
            assert figures[f"{name}auc"] == pytest.approx(roc_auc_score(y, s), abs=1e-9)
            assert figures[f"{name}ap"] == pytest.approx(average_precision_score(y, s), abs=1e-9)
        else:
            assert figures[f"{name}auc"] is figures[f"{name}ap"] is None


@given(videos)
def test_what_must_not_matter(problem):
    scores, labels = problem
    figures = frame_metrics(scores, labels)
    rising = frame_metrics([np.expm1(3 * s) for s in scores], labels)
    swapped = frame_metrics(scores[::-1], labels[::-1])
    finer = frame_metrics([np.repeat(s, 3) for s in scores], [np.repeat(y, 3) for y in labels])
    for name, value in figures.items():
        same = [swapped[name]] + [finer[name]] * (name != "video_auc")  # whose top K is a number of frames
        same += [rising[name]] * (name not in ("false_alarm_rate", "video_auc"))  # whose 0.5, or whose mean, is no rank
        assert same == [None] * len(same) if value is None else same == pytest.approx([value] * len(same), abs=1e-12)


@needs_golden
def test_the_released_codes_map_on_ucf():
    *problem, released = golden("ucf")
    ours = segment_map(*problem, "official")
    assert [ours[iou] for iou in IOUS] == pytest.approx(released, abs=1e-9)


@needs_golden
def test_the_released_codes_map_on_xd():
    """Its sort leaves equal scores in an order of the processor's, and the golden values are of one with AVX-512."""
    *problem, released = golden("xd")
    ours = segment_map(*problem, "official")
    avx512 = {"X86_V4", "AVX512_SKX"} & {*np.show_config(mode="dicts")["SIMD Extensions"]["found"]}
    assert [ours[iou] for iou in IOUS] == pytest.approx(released, abs=1e-9 if avx512 else 1e-4)


@needs_golden
@pytest.mark.parametrize("name", ["ucf", "xd"])
def test_a_perfect_predictor(name):
    probs, segments, labels, classes, _ = golden(name)
    perfect = []
    for prob, parts, names in zip(probs, segments, labels, strict=True):
        certain = np.zeros((max(len(prob), *(end for _, end in parts)), len(classes)))
        for (start, end), label in zip(parts, names, strict=True):
            certain[start:end, classes.index(label) if label in classes else 0] = 1
        perfect.append(certain)
    # Segments of one class that touch or overlap are one detection, so that even a perfect predictor misses some on XD-Violence.
    merged = [merge(*pair) for pair in zip(segments, labels, strict=True)]
    problem = (perfect, [m[0] for m in merged], [m[1] for m in merged], classes)
    if name == "ucf":  # on XD a score of 1 throughout a normal video lies nowhere above the released threshold
        assert segment_map(*problem, "official")["avg"] == pytest.approx(13 / 14, abs=1e-9)
    assert segment_map(*problem, "anomaly")["avg"] == 1


def merge(segments, labels):
    """Touching and overlapping segments of a class made one."""
    parts = []
    for label in dict.fromkeys(labels):
        for start, end in sorted(part for part, own in zip(segments, labels, strict=True) if own == label):
            if parts and parts[-1][1] == label and start <= parts[-1][0][1]:
                parts[-1][0][1] = max(end, parts[-1][0][1])
            else:
                parts.append([[start, end], label])
    return [part for part, _ in parts], [label for _, label in parts]


CLASSES = ["normal", "fight", "fire"]


def column(length, *spans, high=0.9):
    values = np.full(length, 0.1)
    for start, end in spans:
        values[start:end] = high
    return values


def test_two_touching_segments_are_found_as_one():
    """One detection over both takes the better one; the other is missed: AP 1/2 up to IoU 0.5, where it overlaps with 0.6."""
    fight = column(160, (0, 100))
    probs = [np.stack([1 - fight, fight, np.full(160, 0.05)], 1)]
    values = segment_map(probs, [[[0, 60], [60, 100]]], [["fight", "fight"]], CLASSES, "anomaly")
    assert values == {**dict.fromkeys(IOUS, 0.5), "avg": 0.5}


def test_a_class_nobody_predicted():
    """official: all is 0. anomaly: that class alone is 0; a class that scores the same at every frame is detected in the whole video."""
    fight = column(64, (0, 32))
    probs = [np.stack([np.full(64, 0.0), fight, np.full(64, 0.0)], 1)]
    truth = ([[[0, 32], [0, 32]]], [["fight", "fire"]], CLASSES)
    assert segment_map(probs, *truth, "official")["avg"] == 0
    assert segment_map(probs, *truth, "anomaly")["avg"] == 0.5


def test_a_false_alarm_before_the_hit_halves_precision():
    first, second = column(64, (0, 32), high=0.9), column(64, (32, 64), high=0.8)
    probs = [np.stack([1 - x, x, 0.5 + 0 * x], 1) for x in (first, second)]
    truth = ([[[40, 64]], [[32, 64]]], [["fight"], ["fight"]], CLASSES)
    assert segment_map(probs, *truth, "anomaly")[0.5] == pytest.approx(0.5 / 2)


def test_no_anomalous_video():
    assert segment_map([np.ones((32, 3)) / 3], [[[0, 32]]], [["A"]], CLASSES, "anomaly")["avg"] is None


@pytest.mark.parametrize(
    ("probs", "segments", "labels", "message"),
    [
        (np.ones((32, 2)), [[0, 16]], ["fight"], r"shape \(32, 2\)"),
        (np.full((32, 3), np.nan), [[0, 16]], ["fight"], "not finite"),
        (np.ones((32, 3)), [[16, 16]], ["fight"], "0 <= start < end"),
        (np.ones((32, 3)), [[0, 16]], ["theft"], "label 'theft'"),
        (np.ones((32, 3)), [[0, 16]], [], "1 segments and 0 labels"),
    ],
)
def test_bad_segments(probs, segments, labels, message):
    with pytest.raises(BadInput, match=message):
        segment_map([probs], [segments], [labels], CLASSES)
