"""Bootstrap over videos: 95 % intervals of any figure, and paired differences between two systems.

V videos. A resample draws V of them with replacement, which is a weight (V,) int; a figure is a function of such a weight
(utils/evaluation/metrics.py). Videos of one source (a camera, a scene) resemble each other: where sources are known, these are drawn, each
with all its videos.
"""

from collections.abc import Callable, Iterator

import numpy as np

RESAMPLES = 1000


def draws(videos: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """The whole test set, then each resample: weights (V,) int64. The same seed gives the same draws, which is what pairs two systems."""
    yield np.ones(videos, np.int64)
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(videos, size=videos), minlength=videos)


def resampled(
    figures: Callable[[np.ndarray], dict], videos: int, resamples: int = RESAMPLES, seed: int = 0, sources: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Each figure on the whole test set, then on each resample: (1 + resamples,) float, NaN where it is undefined.

    sources: (V,) int from 0 on, the source of each video; None: each video is one of its own.
    """
    of = np.arange(videos) if sources is None else sources
    rows = [figures(weight[of]) for weight in draws(of.max() + 1, resamples, seed)]
    return {name: np.array([np.nan if row.get(name) is None else row[name] for row in rows]) for name in rows[0]}


def interval(values: np.ndarray) -> dict[str, float | None]:
    """(1 + resamples,) -> {"value", "low", "high"}: 95 % percentile interval. Resamples in which the figure is undefined are left out;
    all three are None where the whole test set leaves it undefined.
    """
    if np.isnan(values[0]):
        return {"value": None, "low": None, "high": None}
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist() if len(drawn) else (None, None)
    return {"value": float(values[0]), "low": low, "high": high}


def over_seeds(runs: list[np.ndarray], seed: int) -> np.ndarray:
    """Mean over the seeds of one system: k arrays (1 + resamples,) -> one. Each resample of the videos also draws seeds, so that the
    interval holds the spread between trainings as far as k runs can tell it.

    It draws k − 1 of them: the mean of k draws would vary by (k − 1)/k of what the mean of k trainings does, half of it with two seeds;
    that of k − 1 draws varies by all of it. One seed is drawn as it is, and its interval holds no spread between trainings.
    """
    values, random = np.stack(runs), np.random.default_rng(seed)
    chosen = random.integers(len(runs), size=(max(len(runs) - 1, 1), values.shape[1]))
    result = np.take_along_axis(values, chosen, 0).mean(0)
    result[0] = values[:, 0].mean()
    return result


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | None]:
    """Paired difference of a figure, ours − theirs, on the same draws: `interval`'s keys and "p", two-sided: twice the share of resamples
    on the far side of 0, both counts increased by one. None where no resample defines the difference.
    """
    gap = ours - theirs
    result = interval(gap)
    drawn = gap[1:][~np.isnan(gap[1:])]
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1
    return {**result, "p": None if result["low"] is None else float(min(1, 2 * tail / (len(drawn) + 1)))}
