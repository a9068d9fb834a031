"""Which videos are held out for testing: whole sources (a camera, a scene), a like share of every class."""

from collections.abc import Hashable, Sequence

import numpy as np

from utils.errors import BadInput

TRIES = 20  # first guesses; the best of what they lead to is taken
WORK = 20_000  # sources in all tries together: of many, one guess will do


def split(labels: Sequence[Hashable], sources: Sequence[Hashable], share: float, seed: int) -> np.ndarray:
    """(N,) bool, True for the videos of the test list: of each label about `share`, all videos of a source on the same side.

    labels, sources: of each video. A label of two or more sources stands on both sides, unless other labels of these sources do not allow
    for it; one of a single source trains, if `share` is below half. The same videos, share and seed give the same split, in whatever order
    they come. Raises BadInput where one source has all videos.
    """
    if share in (0, 1):
        return np.full(len(labels), share == 1)
    groups, classes = _numbers(sources), _numbers(labels)
    counts = np.zeros((groups.max(initial=-1) + 1, classes.max(initial=-1) + 1), np.int64)  # (sources, labels)
    np.add.at(counts, (groups, classes), 1)
    if len(counts) < 2:
        raise BadInput(f"--test-share {share:g}: {len(counts)} source in all; expected two or more; --test-share 0 has no test list")
    rng = np.random.default_rng(seed)
    tries = [_descend(counts, share, rng) for _ in range(max(1, min(TRIES, WORK // len(counts))))]
    return min(tries, key=lambda found: found[0])[1][groups]


def _numbers(values: Sequence[Hashable]) -> np.ndarray:
    """(N,) the number of each value among the different ones, in their order."""
    number = {value: index for index, value in enumerate(sorted(set(values)))}
    return np.array([number[value] for value in values], np.int64)


def _descend(counts: np.ndarray, share: float, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """From a first guess on, the source that helps most changes sides, until none does: (how bad it is, (sources,) bool)."""
    total, several = counts.sum(0), (counts > 0).sum(0) > 1

    def badness(held: np.ndarray) -> np.ndarray:
        """held: (..., labels) videos of the test list. A label that is missing on one side weighs more than all shares together."""
        missing = several & ((held == 0) | (held == total))
        return (len(total) + 1) * missing.sum(-1) + ((held / total - share) ** 2).sum(-1)

    order = rng.permutation(len(counts))  # else the first of equally good ones would always be taken
    counts, test = counts[order], rng.random(len(counts)) < share
    held = counts[test].sum(0)
    best = badness(held)
    while True:
        moved = badness(held + np.where(test[:, None], -counts, counts))
        at = moved.argmin()
        if moved[at] >= best - 1e-9:
            found = np.empty_like(test)
            found[order] = test
            return float(best), found
        held, best = held + (-counts[at] if test[at] else counts[at]), moved[at]
        test[at] = not test[at]
