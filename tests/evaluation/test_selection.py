"""The figure that chooses an epoch: by hand, of the score that is reported, finite whatever the scores."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from utils.evaluation.scores import Scores
from utils.evaluation.selection import held_out_figure

TARGETS = {"calm": (1, 0, 0), "quiet": (1, 0, 0), "fight": (0, 1, 0), "both": (0, 1, 1)}


def coarse(*values):
    return Scores(np.array(values, np.float32))


def fine(*rows):
    return Scores(None, np.array(rows, np.float32))


def log(*values):
    return np.mean(np.log(values))


def test_the_coarse_likelihood_by_hand():
    scores = {"calm": coarse(0.2), "quiet": coarse(*[0.1] * 15, 0.5), "fight": coarse(*[0.0] * 16, 0.6, 0.8), "both": coarse(0.9)}
    value, name = held_out_figure(scores, TARGETS, "coarse", "auc", "likelihood")  # K = 1, 2, 2, 1
    assert value == pytest.approx((log(0.8, 1 - 0.3) + log(0.7, 0.9)) / 2)
    assert name == "coarse log-likelihood by video"
    scores.pop("quiet")  # each kind has one weight, whatever it numbers
    assert held_out_figure(scores, TARGETS, "coarse", "auc", "likelihood")[0] == pytest.approx((log(0.8) + log(0.7, 0.9)) / 2)


def test_the_fine_likelihood_by_hand():
    scores = {
        "calm": fine(*[[0.9, 0.06, 0.04]] * 15, [0.2, 0.5, 0.3]),  # K = 2: 1 − p(normal) of 0.1 and 0.8
        "fight": fine([0.3, 0.6, 0.1], [0.5, 0.1, 0.4]),
        "both": fine([0.2, 0.7, 0.1], [0.5, 0.1, 0.4]),  # its two classes at their own snippets
    }
    value, name = held_out_figure(scores, TARGETS, "fine", "ap", "likelihood")
    assert value == pytest.approx((log(1 - 0.45) + log(0.6, math.sqrt(0.7 * 0.4))) / 2)
    assert name == "fine log-likelihood by video"


def test_an_alarm_in_a_normal_video_costs_whatever_class_it_is_of():
    calm, alarm = [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]
    scores = {"calm": fine(*[calm] * 20), "fight": fine(*[calm] * 10, *[[0.0, 1.0, 0.0]] * 10)}
    before = held_out_figure(scores, TARGETS, "fine", "ap", "likelihood").value
    scores["calm"] = fine(*[calm] * 18, *[alarm] * 2)
    assert held_out_figure(scores, TARGETS, "fine", "ap", "likelihood").value < before - 5


@given(st.data())
def test_a_likelihood_is_finite_and_at_most_zero(data):
    probability = st.sampled_from([0.0, 1.0, 1e-45, 1e-30, float(np.nextafter(np.float32(1), np.float32(0)))]) | st.floats(0, 1, width=32)
    rows = data.draw(st.integers(1, 40))
    part = data.draw(st.sampled_from(["coarse", "fine"]))
    columns = {"coarse": 1, "fine": 3}[part]
    values = {
        name: np.array(data.draw(st.lists(probability, min_size=rows * columns, max_size=rows * columns)), np.float32).reshape(rows, -1)
        for name in TARGETS
    }
    scores = {name: Scores(value[:, 0]) if part == "coarse" else Scores(None, value) for name, value in values.items()}
    value = held_out_figure(scores, TARGETS, part, "auc", "likelihood").value
    assert math.log(1e-7) - 1e-6 <= value <= 0


def test_saturated_scores_that_are_right_are_best_and_wrong_ones_worst():
    figures = [
        held_out_figure({"calm": coarse(low), "fight": coarse(high)}, TARGETS, "coarse", "auc", "likelihood").value
        for low, high in ((0, 1), (0.1, 0.9), (0.5, 0.5), (0.9, 0.1), (1, 0))
    ]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] == pytest.approx(0, abs=1e-6)


@given(st.lists(st.sampled_from([0, 0.25, 0.5, 0.75, 1]), min_size=4, max_size=4), st.sampled_from(["auc", "ap"]))
def test_auc_and_ap_are_scikit_learns(values, metric):
    scores = {name: coarse(value) for name, value in zip(TARGETS, values, strict=True)}
    expected = {"auc": roc_auc_score, "ap": average_precision_score}[metric]([0, 0, 1, 1], values)
    value, name = held_out_figure(scores, TARGETS, "coarse", metric, "auc")
    assert value == pytest.approx(expected)
    assert name == f"coarse {metric.upper()} by video"


@pytest.mark.parametrize("kind", ["auc", "likelihood"])
def test_the_epoch_is_chosen_by_the_score_that_is_reported(kind):
    """An epoch whose coarse score is the better one, and one whose fine score is."""
    good, bad = {"calm": 0.1, "fight": 0.9}, {"calm": 0.6, "fight": 0.4}

    def epoch(coarse, fine):
        rows = {name: np.array([[1 - fine[name], fine[name], 0]], np.float32) for name in good}
        return {name: Scores(np.array([coarse[name]], np.float32), rows[name]) for name in good}

    epochs = {"coarse": epoch(good, bad), "fine": epoch(bad, good)}
    for part in epochs:
        found = {name: held_out_figure(scores, TARGETS, part, "ap", kind).value for name, scores in epochs.items()}
        assert max(found, key=found.get) == part


def test_a_model_with_one_score_is_chosen_by_that_and_says_so():
    scores = {"calm": coarse(0.1), "fight": coarse(0.9)}
    assert held_out_figure(scores, TARGETS, "fine", "ap", "auc") == (1, "coarse AP by video")
    scores = {"calm": fine([0.9, 0.1, 0]), "fight": fine([0.1, 0.9, 0])}
    assert held_out_figure(scores, TARGETS, "coarse", "auc", "auc") == (1, "fine AUC by video")
