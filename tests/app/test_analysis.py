"""Segments of a video by threshold, and thresholds by false-positive rate."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.analysis import find_segments
from utils.evaluation.scores import Scores
from utils.evaluation.segments import BRIDGE, RATES, thresholds

CLASSES = ("normal", "fighting", "arson")


def scores(values, fine=None):
    return Scores(coarse=np.array(values, np.float32), fine=None if fine is None else np.array(fine, np.float32))


def test_segments_are_runs_above_the_threshold_with_one_lower_snippet_bridged():
    times = np.array([0, 0.5, 1.1, 1.5, 2, 2.5, 3, 3.5, 4])
    fine = [[0.2, 0.5, 0.3]] * 4 + [[0.2, 0.1, 0.7]] * 4
    found = find_segments(scores([0.1, 0.9, 0.2, 0.5, 0.1, 0.1, 0.4, 0.6], fine), times, CLASSES, 0.4)
    assert [(one.first, one.last, one.start, one.end, one.label) for one in found] == [
        (1, 4, 0.5, 2.0, "fighting"),
        (6, 8, 3.0, 4.0, "arson"),
    ]
    assert [round(one.score, 6) for one in found] == [0.9, 0.6]
    assert find_segments(scores([0.1, 0.2]), times[:3], CLASSES, 0.4) == []
    assert find_segments(scores([0.9]), times[:2], CLASSES, 0.4)[0].label == "anomaly"


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(2**-6, 1, width=32))
def test_every_snippet_at_the_threshold_is_in_one_segment(values, threshold):
    times = np.arange(len(values) + 1.0)
    found = find_segments(scores(values), times, CLASSES, threshold)
    inside = [t for one in found for t in range(one.first, one.last)]
    assert len(inside) == len(set(inside))
    values = np.float32(values)
    assert {t for t in range(len(values)) if values[t] >= threshold} <= set(inside)
    assert all(values[one.first] >= threshold and values[one.last - 1] >= threshold for one in found)
    assert all(b.first - a.last > BRIDGE for a, b in itertools.pairwise(found))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=400))
def test_at_most_the_named_share_of_normal_snippets_reaches_a_threshold(values):
    half = len(values) // 2
    known = thresholds({"a": scores(values[:half]), "b": scores(values[half:])} if half else {"b": scores(values)})
    assert known["snippets"] == len(values)
    assert set(known["rates"]) == {str(rate) for rate in RATES if int(rate * len(values))}
    for rate, threshold in known["rates"].items():
        share = (np.float32(values) >= threshold).mean()
        assert share <= float(rate)
        lower = max(value for value in np.float32(values) if value < threshold)  # the lowest: one snippet's score less is too low
        assert (np.float32(values) >= lower).mean() > float(rate)


def test_thresholds_by_hand():
    known = thresholds({"calm": scores(np.linspace(0.01, 1, 100))})
    assert known["videos"] == 1
    assert list(known["rates"]) == ["0.01", "0.05", "0.1", "0.2"]  # of 100 snippets 0.1 % is less than one
    assert np.isclose(known["rates"]["0.05"], 0.95)
    assert thresholds({}) == {"videos": 0, "snippets": 0, "rates": {}}
