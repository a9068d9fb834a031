"""utils/evaluation/annotations.py: intervals as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import BadInput
from utils.evaluation.annotations import Interval, read_interval, segments_of
from utils.labels import Dataset

MINE = Dataset(key="mine", title="Mine", fps=25, labels=("Normal", "Fight", "Fire"), names=("normal", "fight", "fire"))


@pytest.mark.parametrize(
    ("start", "end", "unit", "seconds"),
    [
        ("0", "12.5", "seconds", (0, 12.5)),
        ("0,5", "12,25", "seconds", (0.5, 12.25)),
        ("1:02", "1:02:03.5", None, (62, 3723.5)),
        ("00:00:01,500", "0:02", "frames", (1.5, 2)),
        ("90:00", "5400.04", None, None),
    ],
)
def test_times(start, end, unit, seconds):
    if seconds is None:
        with pytest.raises(BadInput, match="--unit"):
            read_interval(start, end, "", unit, "t.csv: line 2")
    else:
        assert read_interval(start, end, "Fight", unit, "t.csv: line 2") == Interval(*seconds, "seconds", "Fight", "t.csv: line 2")


def test_frames():
    assert read_interval("165", "240.0", "", "frames", "here") == Interval(165, 240, "frames", None, "here")


@pytest.mark.parametrize(
    ("start", "end", "unit", "said"),
    [
        ("5", "5", "seconds", "end 5 is not behind start 5"),
        ("9", "5", "frames", "end 5 is not behind start 9"),
        ("1:00", "59", "seconds", "end 59 is not behind start 1:00"),
        ("1:00", "90", "frames", "both as clock times"),
        ("-1", "5", "frames", "'-1'; expected a whole number of frames"),
        ("1.5", "5", "frames", "'1.5'; expected a whole number of frames"),
        ("", "5", "seconds", "''; expected a time"),
        ("nan", "5", "seconds", "'nan'; expected a time"),
        ("1e3", "5", "seconds", "'1e3'; expected a time"),
        ("1:60", "2:00", None, "'1:60'; expected hh:mm:ss"),
        ("1:75:00", "2:00:00", None, "'1:75:00'; expected hh:mm:ss"),
        ("0:0:0:1", "2:00", None, "'0:0:0:1'; expected hh:mm:ss"),
        ("٣", "٥", "frames", "'٣'; expected a whole number"),
        ("5", "6", None, "--unit seconds, or --unit frames"),
    ],
)
def test_what_is_no_time(start, end, unit, said):
    with pytest.raises(BadInput) as error:
        read_interval(start, end, "", unit, "t.csv: line 7")
    assert str(error.value).startswith("t.csv: line 7: ")
    assert said in str(error.value)


@given(st.integers(0, 86_399_999), st.sampled_from([".", ","]))
def test_a_clock_time_is_read_back(milliseconds, point):
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    text = f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
    found = read_interval(text, "24:00:00", "", None, "here")
    assert found.start == pytest.approx(milliseconds / 1000)


def given_interval(start, end, unit="seconds", label=None):
    return Interval(start, end, unit, label, "t.csv: line 3")


def test_segments_are_frames_and_ends_are_cut():
    intervals = [given_interval(1, 2), given_interval(3.01, 3.011, label="Fire"), given_interval(9, 10.5), given_interval(5, 9, "frames")]
    segments, cut = segments_of("a", intervals, ["Fight"], 250, 25, MINE)
    assert segments == ((25, 50, "Fight"), (75, 76, "Fire"), (225, 250, "Fight"), (5, 9, "Fight"))
    assert cut == 12
    assert segments_of("a", [given_interval(200, 266, "frames")], ["Fight"], 250, 2, MINE) == (((200, 250, "Fight"),), 16)


@pytest.mark.parametrize(
    ("interval", "classes", "said"),
    [
        (given_interval(9, 11.1), ["Fight"], "9 to 11.1 seconds in a, which has 10.00 s"),
        (given_interval(10, 10.5), ["Fight"], "10 to 10.5 seconds in a"),
        (given_interval(0, 276, "frames"), ["Fight"], "which has 250 frames"),
        (given_interval(1, 2, label="Theft"), ["Fight"], "class 'Theft'; expected Fight, Fire"),
        (given_interval(1, 2, label="Normal"), ["Fight"], "class 'Normal'; expected Fight, Fire"),
        (given_interval(1, 2), ["Normal"], "a is Normal, the normal class"),
        (given_interval(1, 2), ["Fire", "Fight"], "no class, and a has Fire, Fight"),
    ],
)
def test_what_is_no_segment(interval, classes, said):
    with pytest.raises(BadInput) as error:
        segments_of("a", [interval], classes, 250, 25, MINE)
    assert str(error.value).startswith("t.csv: line 3: ")
    assert said in str(error.value)
