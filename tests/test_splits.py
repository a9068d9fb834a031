"""utils/splits.py: no source on both sides, every class on both where that can be, the same for the same seed."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import BadInput
from utils.splits import split

SHARES = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 1000)
VIDEOS = st.lists(st.tuples(st.sampled_from("NABCD"), st.integers(0, 6)), min_size=2, max_size=40)


def missing(videos, held):
    """How many labels of two or more sources are on one side only."""
    count = 0
    for label in {label for label, _ in videos}:
        of = [(source, bool(on)) for (one, source), on in zip(videos, held, strict=True) if one == label]
        count += len({source for source, _ in of}) > 1 == len({on for _, on in of})
    return count


@given(VIDEOS.filter(lambda videos: len({source for _, source in videos}) > 1), SHARES, SEEDS)
def test_sources_stay_together_and_classes_are_on_both_sides_where_possible(videos, share, seed):
    labels, sources = zip(*videos, strict=True)
    held = split(labels, sources, share, seed)
    assert held.shape == (len(videos),)
    assert held.dtype == bool
    assert not {source for source, on in zip(sources, held, strict=True) if on} & {
        source for source, on in zip(sources, held, strict=True) if not on
    }
    names = sorted(set(sources))
    best = min(
        missing(videos, [source in chosen for source in sources])
        for size in range(len(names) + 1)
        for chosen in itertools.combinations(names, size)
    )
    assert missing(videos, held) == best
    np.testing.assert_array_equal(split(labels, sources, share, seed), held)
    order = np.random.default_rng(seed).permutation(len(videos))
    again = split([labels[index] for index in order], [sources[index] for index in order], share, seed)
    np.testing.assert_array_equal(again, held[order])


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 25), min_size=1, max_size=5), st.sampled_from([0.1, 0.2, 0.5, 0.8]), SEEDS)
def test_videos_of_no_common_source_are_dealt_class_by_class(counts, share, seed):
    labels = [label for label, count in counts.items() for _ in range(count)]
    if len(labels) < 2:
        return
    held = split(labels, range(len(labels)), share, seed)
    for label, count in counts.items():
        wanted = min(max(share * count, 1), count - 1) if count > 1 else count * (share > 0.5)
        got = sum(on for one, on in zip(labels, held, strict=True) if one == label)
        assert abs(got - wanted) <= 1 / 2 + 1e-9 or (count == 1 and share == 0.5)


def test_seeds_differ_and_extremes_hold_all_or_nothing():
    labels, sources = ["N", "A"] * 50, [index // 4 for index in range(100)]
    splits = {split(labels, sources, 0.2, seed).tobytes() for seed in range(10)}
    assert len(splits) > 5
    assert all(abs(np.frombuffer(one, bool).sum() - 20) <= 4 for one in splits)
    assert not split(labels, sources, 0, 1).any()
    assert split(labels, sources, 1, 1).all()
    assert len(split([], [], 0, 1)) == 0


def test_many_sources_take_no_time_worth_a_word():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 15, 20_000).tolist()
    held = split(labels, range(20_000), 0.2, 1)
    assert abs(held.mean() - 0.2) < 1e-3


def test_one_source_cannot_be_split():
    with pytest.raises(BadInput, match=r"--test-share 0.2: 1 source.*--test-share 0 "):
        split(["N", "A"], ["door", "door"], 0.2, 1)
