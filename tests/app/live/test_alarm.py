"""app/live/alarm.py: which events are told, as what, with which pictures, and the clips of a stream."""

import io
from dataclasses import replace
from datetime import datetime

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.live.alarm import Alarm, Rules
from app.live.events import Place, Scored
from app.live.stream import Connection, Cut, Opened, Snippet, parse_source
from streams import RECIPE, SIZE, Server, frames_of, number_of, write_stream
from utils.video.fragments import Footage, Fragment

CLASSES = ("normal", "fight", "fire")
STEP = 0.64  # seconds of a snippet


def told_of(values, rules, *, labels=None, numbers=None, connections=None, arrived=0.0, **more):
    """What an Alarm at 0.5 tells of a stream of scores: [(start, end) in snippets] and the events."""
    told = []
    alarm = Alarm(rules, CLASSES, 0.5, Footage(60), lambda event, jpeg, clip: told.append((event, jpeg, clip)), **more)
    for i, value in enumerate(values):
        number, fine = numbers[i] if numbers else i, np.full(3, 0.1)
        fine[(labels or [1] * len(values))[i]] = 0.8
        place = Place(
            number, connections[i] if connections else 0, number * STEP, (number + 1) * STEP, arrived + number * STEP, 0, b"%d" % i
        )
        alarm.add(Scored(place, np.float32(value), fine))
    alarm.close()
    return [(round(event["start"] / STEP), round(event["end"] / STEP)) for event, *_ in told], told, alarm


EACH = Rules(merge=0, minimum=0, longest=1e9, cool_down=0)


def test_merged_where_little_lies_between():
    high = [0, 1, 6, 7, 20]
    values = [0.9 if i in high else 0.1 for i in range(30)]
    assert told_of(values, EACH)[0] == [(0, 2), (6, 8), (20, 21)]
    assert told_of(values, replace(EACH, merge=4 * STEP + 0.01))[0] == [(0, 8), (20, 21)]
    assert told_of(values, replace(EACH, merge=4 * STEP + 0.01, minimum=1))[0] == [(0, 8)]
    assert told_of(values, replace(EACH, merge=60))[0] == [(0, 21)]
    assert told_of(values, replace(EACH, merge=60), connections=[0] * 7 + [1] * 23)[0] == [(0, 7), (7, 21)]
    assert told_of([0.9, 0.9], EACH, numbers=[0, 5])[0] == [(0, 1), (5, 6)]  # what was dropped counts as low


@pytest.mark.parametrize(("between", "told"), [(3, 1), (4, 2)])
def test_just_as_much_between_is_not_less_however_late_it_is(between, told):
    values = [0.9, 0.9, *[0.1] * between, 0.9, 0.9, *[0.1] * 9]
    for first in range(100_000, 100_100):
        events, *_ = told_of(values, replace(EACH, merge=4 * STEP), numbers=range(first, first + len(values)))
        assert len(events) == told


def test_a_long_one_is_told_while_it_goes_on_and_held_back_then():
    values = [0.9] * 100
    rules = replace(EACH, longest=9.5 * STEP)
    assert told_of(values, rules)[0] == [(at, at + 10) for at in range(0, 100, 10)]
    spans, told, alarm = told_of(values, replace(rules, cool_down=25 * STEP))
    assert spans == [(0, 10), (40, 50), (80, 90)]
    assert [event["held_back"] for event, *_ in told] == [0, 3, 6]
    assert (alarm.told, alarm.held) == (3, 7)


def test_each_class_cools_down_alone():
    values = [0.9, 0.9, 0.1, 0.1, 0.1] * 4
    labels = [1] * 5 + [2] * 5 + [1] * 10
    told = told_of(values, replace(EACH, cool_down=1000), labels=labels)[1]
    assert [event["class"] for event, *_ in told] == ["fight", "fire"]
    told = told_of(values, EACH, labels=labels, interest=["fire"])[1]
    assert [event["class"] for event, *_ in told] == ["fire"]


def test_the_best_moment():
    values = [0.1, 0.6, 0.9, 0.7, 0.1, 0.1]
    [(event, jpeg, clip)] = told_of(values, EACH)[1]
    assert (event["score"], jpeg, clip) == (0.9, b"2", None)
    assert (event["first_snippet"], event["last_snippet"], event["threshold"]) == (1, 3, 0.5)


@pytest.mark.parametrize(
    ("clock", "hours", "told"),
    [
        ("23:30", ["22:00-06:00"], 1),
        ("05:59", ["22:00-06:00"], 1),
        ("06:00", ["22:00-06:00"], 0),
        ("12:00", ["22:00-06:00"], 0),
        ("12:00", ["00:00-01:00", "11:00-13:00"], 1),
        ("21:59", ["22:00-23:00"], 1),  # it lasts until after ten
        ("12:00", ["12:00-12:00"], 0),
        ("12:00", ["12:01-12:02"], 1),  # in the middle of it
        ("12:00", [], 0),
    ],
)
def test_hours_are_local(clock, hours, told):
    moment = datetime.strptime(f"2026-03-02 {clock}:00", "%Y-%m-%d %H:%M:%S").timestamp()
    assert len(told_of([0.9] * 100, EACH, arrived=moment + STEP, hours=hours)[1]) == told


@settings(max_examples=200)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6), st.integers(0, 5))
def test_whatever_comes(high, bridge, minimum):
    """Against the rule read literally."""
    expected = []
    for at in np.flatnonzero(high):
        if expected and at - expected[-1][1] <= bridge:
            expected[-1][1] = at + 1
        else:
            expected.append([at, at + 1])
    expected = [(start, end) for start, end in expected if end - start >= minimum]
    rules = replace(EACH, merge=bridge * STEP + 0.01, minimum=minimum * STEP - 0.01 if minimum else 0)
    assert told_of([0.9 if one else 0.1 for one in high], rules)[0] == expected


@pytest.mark.parametrize(
    ("form", "codec", "start"), [("mpegts", "libx264", 90_000), ("matroska", "libx264", 0), ("h264", "libx264", 0), ("mjpeg", "mjpeg", 0)]
)
def test_a_clip_is_what_came(form, codec, start):
    """The very packets, from the key frame before it on, from 0 on."""
    footage, snippets = Footage(1000), []
    options = {"live": "1"} if form == "matroska" else {}
    with Server(lambda file: write_stream(file, range(300), form=form, codec=codec, start=start, options=options)) as server:
        for item in Connection(parse_source(f"tcp://127.0.0.1:{server.port}"), RECIPE, footage=True):
            if isinstance(item, Fragment):
                footage.add(0, item)
            elif isinstance(item, Snippet):
                snippets.append(item)
            else:
                assert isinstance(item, Opened | Cut)
    numbers = frames_of(footage.cut(0, 5.5, 8.2))
    step = 1 if codec == "mjpeg" else 25
    first, last = int(5.5 * 25) // step * step, -(-int(8.2 * 25) // step) * step
    assert abs(numbers[0] - first) <= 1
    assert abs(numbers[-1] - last) <= 2
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert frames_of(footage.cut(0, -5, 1000)) == list(range(300))
    assert footage.cut(0, 100, 200) is None
    assert footage.cut(1, 5, 8) is None
    with av.open(io.BytesIO(snippets[2].jpeg)) as picture:
        assert [number_of(frame.to_ndarray(format="rgb24")) for frame in picture.decode(video=0)] == [32]


def test_a_resolution_that_changes():
    """What came is in the clip, pictures of both sizes, and the encoder's keep their size."""

    def part(file):
        for size in (SIZE, (128, 96)):
            coded = io.BytesIO()
            write_stream(coded, range(100), form="h264", codec="libx264", size=size)
            file.write(coded.getvalue())

    footage = Footage(1000)
    with Server(part) as server:
        items = list(Connection(parse_source(f"tcp://127.0.0.1:{server.port}"), RECIPE, footage=True))
    for item in items:
        if isinstance(item, Fragment):
            footage.add(0, item)
    snippets = [item for item in items if isinstance(item, Snippet)]
    assert [number_of(one.picture) for one in snippets] == [number % 100 for number in range(0, 200, 16)]
    assert len({one.picture.shape for one in snippets}) == 1
    assert frames_of(footage.cut(0, 2, 6)) == [*range(25, 100), *range(50)]


def test_a_codec_that_mp4_does_not_take():
    with Server(lambda file: write_stream(file, range(50), form="flv", codec="flv")) as server:
        items = list(Connection(parse_source(f"tcp://127.0.0.1:{server.port}"), RECIPE, footage=True))
    assert [type(item) for item in items] == [Opened, *[Snippet] * 4, Cut]
