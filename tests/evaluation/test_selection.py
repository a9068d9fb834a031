"""The figure that chooses an epoch: of held-out videos, by the score that is reported."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from utils.evaluation.scores import Scores
from utils.evaluation.selection import held_out_figure

ABNORMAL = {"calm": False, "quiet": False, "fight": True, "riot": True}


def coarse(*values):
    return Scores(np.array(values, np.float32))


def fine(*rows):
    return Scores(None, np.array(rows, np.float32))


@given(st.lists(st.sampled_from([0, 0.25, 0.5, 0.75, 1]), min_size=4, max_size=4), st.sampled_from(["auc", "ap"]))
def test_auc_and_ap_are_scikit_learns(values, metric):
    scores = {name: coarse(value) for name, value in zip(ABNORMAL, values, strict=True)}
    expected = {"auc": roc_auc_score, "ap": average_precision_score}[metric]([0, 0, 1, 1], values)
    value, name, error = held_out_figure(scores, ABNORMAL, "coarse", metric)
    assert 0 <= error <= 0.5
    assert value == pytest.approx(expected)
    assert name == f"coarse {metric.upper()} by video"


def test_the_epoch_is_chosen_by_the_score_that_is_reported():
    """An epoch whose coarse score is the better one, and one whose fine score is."""
    good, bad = {"calm": 0.1, "fight": 0.9}, {"calm": 0.6, "fight": 0.4}

    def epoch(coarse, fine):
        rows = {name: np.array([[1 - fine[name], fine[name], 0]], np.float32) for name in good}
        return {name: Scores(np.array([coarse[name]], np.float32), rows[name]) for name in good}

    epochs = {"coarse": epoch(good, bad), "fine": epoch(bad, good)}
    for part in epochs:
        found = {name: held_out_figure(scores, ABNORMAL, part, "ap").value for name, scores in epochs.items()}
        assert max(found, key=found.get) == part


def test_a_model_with_one_score_is_chosen_by_that_and_says_so():
    scores = {"calm": coarse(0.1), "fight": coarse(0.9)}
    assert held_out_figure(scores, ABNORMAL, "fine", "ap")[:2] == (1, "coarse AP by video")
    scores = {"calm": fine([0.9, 0.1, 0]), "fight": fine([0.1, 0.9, 0])}
    assert held_out_figure(scores, ABNORMAL, "coarse", "auc")[:2] == (1, "fine AUC by video")


def test_the_standard_error_by_theory():
    """200 + 200 videos: the spread of the AUC as Hanley and McNeil (1982) give it."""
    random = np.random.default_rng(0)
    scores = {f"{kind}{number}": coarse(random.normal(kind)) for kind in (0, 1) for number in range(200)}
    value, _, error = held_out_figure(scores, {name: name[0] == "1" for name in scores}, "coarse", "auc")
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    assert error == pytest.approx(np.sqrt((value * (1 - value) + 199 * (one + two - 2 * value**2)) / 200**2), rel=0.1)
