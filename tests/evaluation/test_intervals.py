"""utils/evaluation/intervals.py: weights that are resamples, intervals and differences by hand, and that 95 % intervals hold the truth so
often.
"""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.evaluation.intervals import difference, draws, interval, over_seeds, resampled
from utils.evaluation.metrics import PROTOCOLS, class_figures, frame_figures, segment_figures

NAN = float("nan")
CLASSES = ["normal", "fight", "fire"]


@pytest.mark.parametrize("videos", [1, 7, 290])
def test_draws_are_the_whole_test_set_then_resamples_of_its_size(videos):
    drawn = np.stack(list(draws(videos, 20, seed=3)))
    assert drawn.shape == (21, videos)
    assert (drawn[0] == 1).all()
    assert (drawn >= 0).all()
    assert (drawn.sum(1) == videos).all()
    assert np.array_equal(drawn, np.stack(list(draws(videos, 20, seed=3))))
    assert np.array_equal(drawn[:6], np.stack(list(draws(videos, 5, seed=3))))


def test_draws_differ_between_resamples_and_seeds_and_favour_no_video():
    drawn = np.stack(list(draws(10, 5000)))[1:]
    assert len(np.unique(drawn, axis=0)) > 4000
    assert not np.array_equal(drawn, np.stack(list(draws(10, 5000, seed=1)))[1:])
    assert drawn.mean(0) == pytest.approx(np.ones(10), abs=0.06)  # four standard errors
    assert (drawn == 0).mean() == pytest.approx(0.9**10, abs=0.01)  # left out with probability (1 − 1/V)^V


def test_resampled_gives_nan_where_a_figure_is_undefined():
    values = resampled(lambda weight: {"first": float(weight[0]), "none": None, "odd": None if weight[0] == 0 else 2.0}, 3, 50)
    first = np.array([weight[0] for weight in draws(3, 50)])
    assert values["first"].tolist() == first.tolist()
    assert np.isnan(values["none"]).all()
    assert np.array_equal(np.isnan(values["odd"]), first == 0)
    assert 0 < (first == 0).sum() < 50


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, *np.arange(101) / 100], (0.5, 0.025, 0.975)),
        ([0.5, *np.arange(101)[::-1] / 100, NAN, NAN], (0.5, 0.025, 0.975)),
        ([7.0, *np.arange(101) / 100], (7, 0.025, 0.975)),  # the whole test set is no resample
        ([0.5, 0.25, NAN], (0.5, 0.25, 0.25)),
        ([0.5, NAN, NAN], (0.5, None, None)),
        ([NAN, 0.1, 0.2], (None, None, None)),
    ],
)
def test_interval_by_hand(values, expected):
    result = interval(np.array(values))
    assert list(result) == ["value", "low", "high"]
    assert [None if value is None else pytest.approx(value) for value in expected] == list(result.values())


GAP = np.r_[0.5, np.linspace(0.1, 0.9, 99)]


@pytest.mark.parametrize(
    ("gap", "p"),
    [
        (GAP, 2 / 100),  # none of 99 on the far side
        (-GAP, 2 / 100),
        (np.r_[0.5, GAP[1:96], [-0.1] * 4], 10 / 100),
        (np.r_[0.5, GAP[1:98], 0.0, NAN], 4 / 99),  # 0 lies on either side, NaN on none
        (np.zeros(100), 1),
        (np.r_[0.1, np.linspace(-1, 1, 99)], 1),
        (np.r_[NAN, GAP[1:]], None),
    ],
)
def test_p_by_hand(gap, p):
    theirs = np.linspace(0, 0.3, len(gap))
    result = difference(theirs + gap, theirs + 0.0)
    assert result["p"] == (None if p is None else pytest.approx(p))
    assert {key: result[key] for key in ("value", "low", "high")} == pytest.approx(interval(gap))


def test_a_system_against_itself():
    values = np.random.default_rng(0).random(101)
    assert difference(values, values.copy()) == {"value": 0, "low": 0, "high": 0, "p": 1}


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(-1, 1))
def test_swapped_sides_change_the_sign_alone(seed, resamples, gap):
    ours, theirs = np.random.default_rng(seed).normal(size=(2, resamples + 1)).round(1)
    ours += round(gap, 1)
    there, back = difference(ours, theirs), difference(theirs, ours)
    assert there["p"] == back["p"]
    assert [there[key] for key in ("value", "low", "high")] == pytest.approx([-back[key] for key in ("value", "high", "low")], abs=1e-12)


def test_one_run_is_itself():
    run = np.array([0.5, 0.1, NAN, 0.9])
    assert np.array_equal(over_seeds([run], seed=5), run, equal_nan=True)


def test_over_seeds_is_the_mean_then_draws_of_seeds():
    runs = [np.full(3001, value) for value in (0.0, 3.0, 9.0)]
    values = over_seeds(runs, seed=0)
    assert [over_seeds(runs, seed)[0] for seed in range(10)] == [4] * 10
    assert np.array_equal(values, over_seeds(runs, seed=0))
    assert not np.array_equal(values, over_seeds(runs, seed=1))
    assert set(values[1:]) == {(a + b) / 2 for a in (0, 3, 9) for b in (0, 3, 9)}  # k − 1 of the k seeds
    assert values[1:].mean() == pytest.approx(4, abs=0.2)
    assert values[1:].var() == pytest.approx(np.var([0, 3, 9], ddof=1) / 3, rel=0.1)  # what the mean of three trainings varies by


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_draws_of_seeds_vary_as_the_mean_of_so_many_trainings_does(seeds):
    """4,000 systems, a figure of variance 1 between trainings: that of the draws is 1 / seeds on average, not (seeds − 1) / seeds²."""
    random = np.random.default_rng(0)
    trainings = random.standard_normal((4000, seeds))
    variances = [over_seeds([np.full(101, figure) for figure in system], number)[1:].var(ddof=1) for number, system in enumerate(trainings)]
    assert trainings.mean(1).var() == pytest.approx(1 / seeds, rel=0.06)
    assert np.mean(variances) == pytest.approx(1 / seeds, rel=0.06)


def test_over_seeds_keeps_the_resample_of_the_videos():
    common = np.random.default_rng(0).random(200)
    assert over_seeds([common, common, common], seed=0) == pytest.approx(common)


# Weights of one to five videos, not all 0.
weights = st.lists(st.integers(0, 3), min_size=1, max_size=5).filter(any).map(np.array)
seeds = st.integers(0, 2**32 - 1)


def repeated(parts, weight):
    """What the weight stands for: each video as often as it says."""
    return [part for part, count in zip(parts, weight, strict=True) for _ in range(count)]


def same(weighted, literal):
    """Equal figures; one that is undefined may be absent from the literally repeated videos."""
    assert literal.keys() <= weighted.keys()
    for name, value in weighted.items():
        assert literal.get(name) is None if value is None else literal[name] == pytest.approx(value, abs=1e-12)


@given(weights, seeds)
def test_weighted_frame_figures_are_those_of_repeated_videos(weight, seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 12, len(weight))
    scores = [random.integers(0, 8, size) / 8 for size in sizes]
    labels = [random.integers(0, 2, size) * random.integers(0, 2) for size in sizes]
    literal = frame_figures(repeated(scores, weight), repeated(labels, weight))(np.ones(weight.sum(), np.int64))
    same(frame_figures(scores, labels)(weight), literal)


@given(weights, seeds)
def test_weighted_class_figures_are_those_of_repeated_videos(weight, seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 12, len(weight))
    scores = [random.integers(0, 8, size) / 8 for size in sizes]
    labels = [random.integers(0, 2, (size, 2)) * random.integers(0, 2, 2) for size in sizes]
    literal = class_figures(repeated(scores, weight), repeated(labels, weight), CLASSES[1:])(np.ones(weight.sum(), np.int64))
    same(class_figures(scores, labels, CLASSES[1:])(weight), literal)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(weights, seeds)
def test_weighted_segment_figures_are_those_of_repeated_videos(protocol, weight, seed):
    random = np.random.default_rng(seed)
    problem = [[], [], []]
    for _ in weight:
        rows = random.integers(4, 12)
        probs = np.repeat(random.random((rows, 3)), 4, axis=0)  # no equal scores within a video: their order would be arbitrary
        if random.random() < 0.4:
            probs[:, random.integers(3)] = 0.2  # never found under `official`
        edges = np.sort(random.choice(np.arange(1, 4 * rows), (random.integers(3), 2), replace=False), 1)
        names = random.choice(CLASSES[1:], len(edges)).tolist()
        for part, value in zip(problem, (probs, edges.tolist() or [[0, 4 * rows]], names or ["A"]), strict=True):
            part.append(value)
    literal = segment_figures(*(repeated(part, weight) for part in problem), CLASSES, protocol)(np.ones(weight.sum(), np.int64))
    same(segment_figures(*problem, CLASSES, protocol)(weight), literal)


def test_a_resample_without_the_only_video_where_a_class_is_found():
    """official: everything is 0. anomaly: the class has no segment in it, and does not count."""
    step = np.repeat([0.9, 0.1], 32)
    never = np.full(64, 0.2)
    probs = [np.stack(columns, 1) for columns in ((step[::-1], step, never), (step[::-1], never, step))]
    problem = (probs, [[[0, 32]], [[0, 32]]], [["fight"], ["fire"]], CLASSES)
    for protocol, expected in (("official", (2 / 3, 0)), ("anomaly", (1, 1))):
        figures = segment_figures(*problem, protocol)
        assert [figures(np.array(weight))["avg"] for weight in ([1, 1], [2, 0])] == pytest.approx(list(expected))


def lengths(random, videos):
    """Snippets and anomalous snippets of so many videos, every other one without anomalies; lengths as uneven as in UCF-Crime."""
    rows = np.clip(random.lognormal(2.3, 0.8, videos), 3, 80).astype(int)
    anomalous = np.maximum(rows * random.uniform(0.1, 0.6, videos), 1).astype(int)
    return rows, anomalous * (np.arange(videos) % 2)


OFFSET, NOISE, ANOMALOUS_VIDEO, ANOMALOUS_FRAME = 1.0, 0.7, 0.5, 1.0


def simulated(random, videos):
    """Scores and labels of a test set: a normal offset common to all snippets of a video, and noise in each."""
    scores, labels = [], []
    for rows, length in zip(*lengths(random, videos), strict=True):
        start = random.integers(rows - length + 1)
        label = np.isin(np.arange(rows), np.arange(start, start + length)).astype(int)
        offset = OFFSET * random.standard_normal() + ANOMALOUS_VIDEO * bool(length)
        scores.append(offset + NOISE * random.standard_normal(rows) + ANOMALOUS_FRAME * label)
        labels.append(label)
    return scores, labels


def true_auc():
    """Of infinitely many such videos: a mixture of two, by whether the normal snippet is from an anomalous video."""
    rows, anomalous = lengths(np.random.default_rng(1), 10**6)
    share = (rows - anomalous)[1::2].sum() / (rows - anomalous).sum()
    gap = NormalDist(sigma=np.sqrt(2 * (OFFSET**2 + NOISE**2)))
    return share * gap.cdf(ANOMALOUS_FRAME) + (1 - share) * gap.cdf(ANOMALOUS_FRAME + ANOMALOUS_VIDEO)


def test_the_simulation_has_the_auc_that_the_formula_says():
    assert frame_figures(*simulated(np.random.default_rng(2), 20000))(np.ones(20000, int))["auc"] == pytest.approx(true_auc(), abs=0.01)


@pytest.mark.slow
def test_intervals_hold_the_true_auc_of_200_test_sets():
    """290 videos each, as in UCF-Crime. (Of 1,600 other such sets 93.8 % did; of 1,000 with 100 videos each, 91.9 %.)"""
    random, true, held = np.random.default_rng(0), true_auc(), 0
    for number in range(200):
        scores, labels = simulated(random, 290)
        found = interval(resampled(frame_figures(scores, labels), 290, 500, seed=number)["auc"])
        held += found["low"] <= true <= found["high"]
    print(f"coverage of the 95 % interval: {held / 2:.1f} %")
    assert 0.92 <= held / 200 <= 0.98
