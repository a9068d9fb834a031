"""utils/video/clock.py: the time of every frame, whatever its stamp says."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.video.clock import ORDER, Clock


def times(stamps, fps=10, **options):
    """(seconds of every frame, jumps)."""
    clock = Clock(fps, **options)
    found = [one for number, stamp in enumerate(stamps) for one in clock.add(stamp, number)] + list(clock.rest())
    assert [number for _, number in found] == list(range(len(stamps)))
    return [seconds for seconds, _ in found], clock.jumps


@pytest.mark.parametrize(
    ("stamps", "expected", "jumps"),
    [
        ([5.0, 5.1, 5.3, None, 5.5], [0, 0.1, 0.3, 0.4, 0.5], 0),
        ([None, None, 7.0, 7.1], [0, 0.1, 0.2, 0.3], 0),
        ([1.0, 1.1, 1.1, 1.2], [0, 0.1, 0.2, 0.3], 0),
        ([5.5, 4.0, 4.1], [0, 0.1, 0.2], 1),  # set back
        ([5.5, 90.0, 90.1], [0, 0.1, 0.2], 1),  # and ahead
        ([5.5, 90.0, 90.1, 0.0, 0.1], [0, 0.1, 0.2, 0.3, 0.4], 2),
        ([0.0, 0.1, 1000.0, 0.3, 0.4], [0, 0.1, 0.2, 0.3, 0.4], 1),  # one wrong stamp
        ([1.0, 1.1, 0.0, 1.3, 1.4], [0, 0.1, 0.2, 0.3, 0.4], 1),
        ([50.0, 0.1, 0.2, 0.3], [0, 0.1, 0.2, 0.3], 1),
        ([0.0, 0.1, 50.0], [0, 0.1, 0.2], 1),
        ([0.1, 0.4, 0.3, 0.5, 0.2, 0.7], [0, 0.3, 0.35, 0.4, 0.5, 0.6], 2),  # out of order: nobody waits, but it is no longer at the end
        ([], [], 0),
    ],
)
def test_stamps(stamps, expected, jumps):
    assert times(stamps) == (pytest.approx(expected), jumps)


def test_time_without_frames():
    """As of a camera that records where something moves."""
    assert times([0.0, 0.1, 1000.0, 1000.1], gaps=True) == (pytest.approx([0, 0.1, 1000, 1000.1]), 0)
    assert times([0.0, 60.0, 120.0, 180.0], fps=25, gaps=True) == (pytest.approx([0, 60, 120, 120.04]), 1)  # the last is not confirmed
    assert times([0.0, 0.1, 1000.0, 0.3], gaps=True) == (pytest.approx([0, 0.1, 0.2, 0.3]), 1)
    assert times([0.0, 20.0, 40.0], fps=0.05) == (pytest.approx([0, 20, 40]), 0)  # a slow one


def decoded(count, between, start=0):
    """Stamps of decoding of `count` frames in the order in which they are shown, with up to `between` B-frames between two others."""
    order = sorted(range(count), key=lambda shown: (-(-shown // (between + 1)), shown % (between + 1) != 0, shown))
    places = {shown: place for place, shown in enumerate(order)}
    return [start + places[shown] / 10 for shown in range(count)]


@given(st.integers(1, 80), st.integers(0, ORDER - 1))
@settings(max_examples=50)
def test_stamps_of_decoding_are_put_in_order(count, between):
    assert times(decoded(count, between), order=ORDER) == (pytest.approx([i / 10 for i in range(count)]), 0)


@given(st.lists(st.tuples(st.integers(20, 40), st.integers(0, 1_000_000)), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=50)
def test_parts_that_follow_one_another(parts, between):
    """Each with a clock of its own: all frames are a step apart, but where one part's clock goes on within the limits from another's."""
    stamps, free = [], True
    for count, start in parts:
        free = free and not (stamps and -5 < start - max(stamps) <= 10)
        stamps += decoded(count, between, start)
    found, jumps = times(stamps, order=ORDER if between else 0)
    assert all(a < b for a, b in itertools.pairwise(found))
    if free:
        assert found == pytest.approx([i / 10 for i in range(len(stamps))], abs=1e-4)
        assert jumps == len(parts) - 1


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(0, 50).map(lambda i: i / 10)), max_size=60),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=100)
def test_any_stamps_give_times_that_do_not_go_back(stamps, gaps, ordered):
    found, _ = times(stamps, gaps=gaps, order=ORDER if ordered else 0)
    assert found[:1] in ([], [0])
    assert all(a <= b for a, b in itertools.pairwise(found))
