"""app/export.py, app/timeline.py and what they draw with: files that other programs read, pictures in which nothing overlaps."""

import csv
import io
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from app import export, fonts, timeline
from app.analysis import Analysis, Found, find_segments
from app.overlay import Pen, clock, cut, fit, peaks, wrap
from utils.errors import BadInput
from utils.evaluation.scores import Scores

CLASSES = ("normal", "Fighting", "Robbery")


def analysis_of(scores, *, seconds=None, classes=CLASSES, threshold=0.5, name="a video", fine=True, **more):
    """Without a video; snippets of 0.64 s, or so many seconds in all."""
    scores = np.asarray(scores, np.float32)
    rows = len(scores)
    times = np.arange(rows + 1) * 0.64 if seconds is None else np.linspace(0, seconds, rows + 1)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(classes)), rows).astype(np.float32) if fine else None
    parts = Scores(scores, probabilities)
    shared = {"frames": 16 * rows, "fps": 25.0, "size": (320, 240), "times": times, "scores": parts, "classes": classes}
    shared |= {"threshold": threshold, "threshold_from": "--threshold", "segments": find_segments(parts, times, classes, threshold)}
    return Analysis(path=Path(f"videos/{name}.mp4"), name=name, **shared | more)


def three_hours(classes=CLASSES):
    """40 segments."""
    scores = np.full(16875, 0.05)
    scores[np.add.outer(np.linspace(50, 16800, 40).astype(int), np.arange(9)).ravel()] = np.repeat(np.linspace(0.6, 0.99, 40), 9)
    return analysis_of(scores, classes=classes, name="three hours")


CHINESE = {"name": "监控录像_北门", "classes": ("正常", "打架", "入室抢劫"), "notes": ["未经训练。"], "threshold_from": "用户给定"}


@pytest.mark.parametrize("make", [lambda: analysis_of([0.1, 0.9, 0.8, 0.2]), three_hours, lambda: analysis_of([0.3], **CHINESE)])
def test_json_says_all(tmp_path, make):
    analysis = make()
    analysis.segments = [one._replace(caption="两个男人在打架" if number % 2 else None) for number, one in enumerate(analysis.segments)]
    analysis.about = {"recipe": {"crops": 10}, "checkpoint": Path("runs/best.pt"), "nan": float("nan"), "numbers": np.arange(2)}
    returned = export.write_json(analysis, tmp_path / "a.json")

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=refuse)
    assert found == returned
    assert list(found) == [
        *("video", "frames", "fps", "width", "height", "seconds", "threshold", "threshold_from", "notes", "about", "classes"),
        *("segments", "snippets"),
    ]
    assert found["about"] == {"recipe": {"crops": 10}, "checkpoint": "runs/best.pt", "nan": None, "numbers": [0, 1]}
    assert (found["video"], found["notes"]) == (str(analysis.path), analysis.notes)
    assert [found["width"], found["height"], found["frames"]] == [320, 240, analysis.frames]
    assert len(found["snippets"]) == len(analysis.anomaly)
    for at in (0, -1):
        row = found["snippets"][at]
        assert row["score"] == pytest.approx(analysis.anomaly[at], abs=1e-6)
        assert list(row["probabilities"]) == list(analysis.classes)
        assert list(row["probabilities"].values()) == pytest.approx(analysis.scores.fine[at].tolist(), abs=1e-6)
        assert row["end"] - row["start"] == pytest.approx(0.64, abs=1e-5)
    for row, one in zip(found["segments"], analysis.segments, strict=True):
        assert tuple(row) == ("start", "end", "first_snippet", "last_snippet", "class", "score", "caption")
        assert (row["class"], row["caption"], row["first_snippet"], row["last_snippet"]) == (
            one.label,
            one.caption,
            one.first,
            one.last - 1,
        )
        assert found["snippets"][row["first_snippet"]]["start"] == row["start"]
        assert found["snippets"][row["last_snippet"]]["end"] == row["end"]


def test_json_without_classes_and_with_a_name_that_is_no_text(tmp_path):
    analysis = replace(analysis_of([0.1, 0.9], fine=False), path=Path(os.fsdecode(b"video\xff.mp4")))
    export.write_json(analysis, tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert found["video"] == "video�.mp4"
    assert found["segments"][0]["class"] == "anomaly"
    assert found["snippets"][0]["probabilities"] is None


@pytest.mark.parametrize("write", [export.write_json, export.write_csv, export.plot])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["score", "time", "probability"])
def test_a_number_that_is_none_is_named(tmp_path, write, value, part):
    analysis = analysis_of([0.1, 0.9, 0.2])
    {"score": analysis.scores.coarse, "time": analysis.times, "probability": analysis.scores.fine[:, 0]}[part][1] = value
    with pytest.raises(BadInput, match=rf"a video\.mp4: the {part} of snippet 1 is {value}"):
        write(analysis, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_csv_is_read_by_pandas_and_by_csv(tmp_path):
    analysis = analysis_of([0.1, 0.9, 0.8, 0.1, 0.1, 0.7], **CHINESE)
    awkward = ['a "man", with\na beard', "=HYPERLINK(1)"]
    analysis.segments = [one._replace(caption=caption) for one, caption in zip(analysis.segments, awkward, strict=True)]
    export.write_csv(analysis, tmp_path / "a.b.csv")
    found = pd.read_csv(tmp_path / "a.b.csv")
    assert list(found) == ["video", "start", "end", "first_snippet", "last_snippet", "class", "score", "caption"]
    assert found.video.tolist() == ["videos/监控录像_北门.mp4"] * 2
    assert found[["start", "end", "first_snippet", "last_snippet"]].values.tolist() == [[0.64, 1.92, 1, 2], [3.2, 3.84, 5, 5]]
    assert found.caption.tolist() == ['a "man", with a beard', "'=HYPERLINK(1)"]  # no line of its own, no formula
    snippets = pd.read_csv(tmp_path / "a.b.snippets.csv")
    assert list(snippets) == ["snippet", "start", "end", "score", "p(正常)", "p(打架)", "p(入室抢劫)"]
    np.testing.assert_allclose(snippets.score, analysis.anomaly, atol=1e-6)
    np.testing.assert_allclose(snippets.iloc[:, 4:], analysis.scores.fine, atol=1e-6)
    with (tmp_path / "a.b.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 3


def test_csv_without_segments_and_classes(tmp_path):
    export.write_csv(analysis_of([0.1, 0.2], fine=False), tmp_path / "a.csv")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1
    assert (tmp_path / "a.snippets.csv").read_text().splitlines()[0] == "snippet,start,end,score"


def test_the_summary_has_the_best_first(tmp_path):
    rows = [
        ("a.mp4", 0, 1, 0, 1, "Fighting", 0.6, None),
        ("b.mp4", 0, 1, 0, 1, "Robbery", 0.9, "a man"),
        ("c.mp4", 0, 1, 0, 1, "x", 0.7, ""),
    ]
    export.write_summary(rows, tmp_path / "segments.csv")
    assert pd.read_csv(tmp_path / "segments.csv").video.tolist() == ["b.mp4", "c.mp4", "a.mp4"]


def test_what_is_done_is_known_until_something_changes(tmp_path):
    file = tmp_path / "out.json"
    about = {"checkpoint": "best.pt", "recipe": {"crops": 10}, "source": {"path": "a.mp4", "bytes": 9, "modified": 1}}
    analysis = replace(analysis_of([0.1, 0.9]), about=about | {"command": "python demo.py a.mp4"})
    detector = SimpleNamespace(threshold=0.5, classes=CLASSES)
    assert export.read_done(file, detector, about) is None
    export.write_json(analysis, file)
    assert export.read_done(file, detector, about) is None  # it does not say what belongs to it
    with export.replacing_set(file, None, overwrite=True) as new:
        new.with_suffix(".csv").write_text("a,b")
        written = export.write_json(analysis, new) | {"files": {"out.csv": 3}}
    assert export.read_done(file, detector, about | {"command": "python demo.py --clips a.mp4"}) == written
    for changed in ({"recipe": {"crops": 1}}, {"source": about["source"] | {"modified": 2}}, {"latency": 2.0}):
        assert export.read_done(file, detector, about | changed) is None
    for changed in ({"threshold": 0.6}, {"classes": ("normal", "x")}):
        assert export.read_done(file, SimpleNamespace(**vars(detector) | changed), about) is None
    (tmp_path / "out.csv").write_text("a,b,c")
    assert export.read_done(file, detector, about) is None
    (tmp_path / "out.csv").write_text("d,e")
    assert export.read_done(file, detector, about) == written
    for damage in (
        {"begins": "x"},
        {"begins": "2026-01-01T00:00:00Z"},
        {"stills": [3]},
        {"snippets": None},
        {"segments": [{}]},
        {"seconds": "a"},
    ):
        file.write_text(json.dumps(written | damage))
        assert export.read_done(file, detector, about) is None
    file.write_text(json.dumps(written)[:100])
    assert export.read_done(file, detector, about) is None


@pytest.mark.parametrize(
    "files", [{"../out/secret": 1}, {"/etc/passwd": 1}, {"other.csv": 1}, ["out.csv"], None, {"out.": 1, "out/../x": 1}]
)
def test_a_json_of_anybody_names_no_file_of_others(tmp_path, files):
    (tmp_path / "out.json").write_text(json.dumps({"files": files}))
    assert export.read_earlier(tmp_path / "out.json") is None


def test_the_table():
    analysis = analysis_of([0.1, 0.9, 0.8, 0.1, 0.1, 0.7], notes=["A note."])
    assert export.table(analysis).splitlines()[:3] == [
        "a video: 0:03.8, 96 frames, 320 × 240; highest score 0.90",
        "threshold 0.500: --threshold",
        "   start     end  score  class",
    ]
    assert export.table(analysis).splitlines()[3:] == [
        f"  0:00.6  0:01.9   0.90  {analysis.segments[0].label}",
        f"  0:03.2  0:03.8   0.70  {analysis.segments[1].label}",
        "note: A note.",
    ]
    assert "no segment" in export.table(analysis_of([0.1]))


@pytest.mark.parametrize("width", [60, 120])
def test_the_table_keeps_to_its_width(width):
    analysis = three_hours(("normal", "an event that somebody describes in many, many words instead of a name", "打架" * 30))
    analysis.segments = [one._replace(caption="两个男人在街上打架，\x1b[31m旁边的人在拍视频" * 5) for one in analysis.segments]
    lines = export.table(analysis, width).splitlines()
    assert len(lines) == 43
    assert max(map(export.columns, lines[2:])) <= width
    assert "\x1b" not in "".join(lines)
    assert len({export.columns(line[: line.index("两")]) for line in lines[3:]}) == 1  # the columns stand below each other


@given(st.text(max_size=60), st.integers(2, 40))
@settings(max_examples=200, deadline=None)
def test_cut_and_wrap_keep_to_the_width(text, limit):
    shown = cut(text, export.columns, limit)
    assert export.columns(shown) <= limit
    assert shown == text or shown.endswith("…")
    lines = wrap(text, export.columns, limit, 3)
    assert len(lines) <= 3
    assert all(export.columns(line) <= limit for line in lines)
    if not lines or not lines[-1].endswith("…"):
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_text_is_wrapped_at_spaces_where_it_can():
    assert wrap("one two three four", len, 9, 3) == ["one two", "three", "four"]
    assert wrap("one two three four", len, 9, 2) == ["one two", "three fo…"]
    assert wrap("两个男人在街上打架", len, 4, 3) == ["两个男人", "在街上打", "架"]
    assert wrap("", len, 4, 3) == []
    assert cut("x" * 100_000, len, 5) == "xxxx…"


@pytest.mark.parametrize(
    ("seconds", "decimals", "text"),
    [(0, 0, "0:00"), (83.26, 1, "1:23.2"), (0.3, 1, "0:00.3"), (0.299, 1, "0:00.2"), (3661, 0, "1:01:01"), (59.999, 2, "0:59.99")],
)
def test_the_clock(seconds, decimals, text):
    assert clock(seconds, decimals) == text


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=30), st.integers(1, 50), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_peaks_are_those_of_a_literal_reading(lengths, columns, random):
    times = np.append(0, np.cumsum(lengths))
    values = np.array([random.random() for _ in lengths])
    bounds = np.linspace(0, times[-1], columns + 1)
    expected = [values[(times[:-1] < high) & (times[1:] > low)].max() for low, high in itertools.pairwise(bounds)]
    np.testing.assert_array_equal(peaks(times, values, columns), expected)


@given(st.lists(st.tuples(st.floats(-5, 105), st.floats(0.5, 30)), max_size=25))
@settings(max_examples=200, deadline=None)
def test_labels_never_overlap(boxes):
    centres, widths = [centre for centre, _ in boxes], [width for _, width in boxes]
    placed = fit(centres, widths, 0, 100, range(len(boxes)), 1)
    spans = sorted((left, left + widths[number]) for number, left in placed.items())
    assert all(left >= 0 and right <= 100 for left, right in spans)
    assert all(right + 1 <= left + 1e-9 for (_, right), (left, _) in itertools.pairwise(spans))
    assert not boxes or 0 in placed  # the first one always finds a place


def figure_of(analysis, path, monkeypatch):
    """The matplotlib figure that is saved."""
    kept = []

    def keep(figure, *words, **more):
        kept.append(figure)
        real(figure, *words, **more)

    real = timeline.save
    monkeypatch.setattr(timeline, "save", keep)
    export.plot(analysis, path)
    return kept[0]


def png(shade, size):
    file = io.BytesIO()
    Image.new("RGB", size, (shade,) * 3).save(file, "PNG")
    return file.getvalue()


def thumbnails(count, seconds, size=(160, 90)):
    return [(at, png(20 * number, size)) for number, at in enumerate(np.linspace(0, seconds * 0.97, count))]


PLOTS = {
    "short": lambda: analysis_of([0.1, 0.9, 0.8, 0.2], notes=["A note of one sentence."], thumbnails=thumbnails(12, 2.56)),
    "three hours": lambda: replace(three_hours(), thumbnails=thumbnails(12, 10800), notes=["A note."] * 3),
    "no segment": lambda: analysis_of([0.1, 0.2], thumbnails=thumbnails(2, 1.28, (40, 90))),
    "one frame": lambda: replace(analysis_of([0.9]), times=np.zeros(2), frames=1, thumbnails=thumbnails(1, 0, (900, 90))),
    "many classes": lambda: three_hours(("normal", *(f"event {number} of many, described at great length" for number in range(20)))),
    "everywhere": lambda: analysis_of(np.tile([0.9, 0.1, 0.1], 300), thumbnails=thumbnails(5, 576, (90, 160))),
    "at the edge": lambda: analysis_of([0.2, 1.0], threshold=1.0, thumbnails=thumbnails(3, 1.28)),
    "below": lambda: analysis_of([0.2, 0.0], threshold=0.0),
}


@pytest.mark.parametrize("name", PLOTS)
def test_in_the_picture_nothing_overlaps(tmp_path, monkeypatch, name):
    analysis = PLOTS[name]()
    analysis.segments = [
        one._replace(caption="a man walks along the street, " * (number % 9)) for number, one in enumerate(analysis.segments)
    ]
    figure = figure_of(analysis, tmp_path / "a.png", monkeypatch)
    assert Image.open(tmp_path / "a.png").size[0] == 990
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in figure.texts}
    for axes in figure.axes:
        boxes |= {f"tick {label.get_text()} {label.get_position()}": label.get_window_extent(renderer) for label in axes.get_xticklabels()}
        if axes.images:
            boxes[f"thumbnail {axes.get_position().x0}"] = axes.get_window_extent(renderer)
    names = list(boxes)
    for number, first in enumerate(names):
        box = boxes[first]
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width, first
        assert box.y1 <= figure.bbox.height, first
        for second in names[number + 1 :]:
            assert not box.padded(-0.5).overlaps(boxes[second].padded(-0.5)), f"{first!r} lies on {second!r}"
    text = "\n".join(names)
    assert f"threshold\n{analysis.threshold:.3f}" in text
    for note in analysis.notes:
        assert note in text
    assert ("no segment" in text) == (not analysis.segments)


@pytest.mark.parametrize("size", [(160, 90), (120, 90), (60, 90), (400, 90)])
@pytest.mark.parametrize("peaks", [[], [30.0], [1.0, 2.0, 3.0, 50.0, 61.0, 63.0]])
def test_each_listed_segment_has_a_thumbnail(size, peaks):
    offered = [(0.64 * number, png(0, size)) for number in range(100)]
    chosen, height = timeline.choose(offered, 64.0, peaks)
    times = [seconds for seconds, _ in chosen]
    assert times == sorted(times)
    for peak in peaks:
        assert min(abs(seconds - peak) for seconds in times) <= 0.64
    width = height * size[0] / size[1]
    assert len(times) * (width + 0.06) <= timeline.SPAN + 0.0601
    assert len(times) >= max(len(peaks), 2)
    if not peaks:
        assert max(np.diff([0.0, *times, 64.0])) <= 1.6 * 64 / len(times)


def test_thumbnails_stand_at_their_times(tmp_path, monkeypatch):
    analysis = analysis_of(np.full(100, 0.1), thumbnails=thumbnails(12, 64.0))
    figure = figure_of(analysis, tmp_path / "a.png", monkeypatch)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) >= 4
    curve = figure.axes[0].get_position()
    for axes, line in zip(shown, figure.artists + figure.lines, strict=True):
        picture = axes.images[0].get_array()
        seconds = next(at for at, one in analysis.thumbnails if Image.open(io.BytesIO(one)).getpixel((0, 0))[0] == picture[0, 0, 0])
        x = line.get_xdata()
        assert (x[1] - curve.x0) / curve.width * 64 == pytest.approx(seconds, abs=0.01)  # the line ends at its time
        place = axes.get_position()
        assert x[0] == pytest.approx((place.x0 + place.x1) / 2)
        assert place.x0 <= x[1] <= place.x1  # below itself


def test_dollars_are_no_formula(tmp_path):
    export.plot(analysis_of([0.9, 0.1], name=r"$\frac", notes=["$x$ _ ^ \\"], classes=("normal", "$a", "b$_{")), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_lanes_are_classes():
    found = [Found(0, 1, number, number + 1, f"class {number % 12}", number / 20) for number in range(20)]
    lanes = timeline.lanes_of(found)
    assert [label for label, _ in lanes] == [f"class {number}" for number in (7, 6, 5, 4, 3, 2, 1)] + ["5 other classes"]
    assert sum(len(ones) for _, ones in lanes) == 20
    assert timeline.lanes_of([]) == []


def test_characters_that_no_font_has_are_said(capsys):
    fonts.font_for.cache_clear()
    assert fonts.font_for("Fighting — Schlägerei Драка") == fonts.font_for("")
    assert capsys.readouterr().err == ""
    assert fonts.font_for("\U0010fffd")[0] == fonts.DEFAULT  # private use
    assert "no installed font has \U0010fffd" in capsys.readouterr().err


def test_a_font_that_has_the_characters_is_found(monkeypatch):
    """As if DejaVu had no Greek."""
    fonts.font_for.cache_clear()
    real = fonts.characters
    monkeypatch.setattr(fonts, "characters", lambda file: real(file) - ({ord("λ")} if "DejaVu" in file else set()))
    family, file = fonts.font_for("λ")
    fonts.font_for.cache_clear()
    assert "DejaVu" not in file
    assert ord("λ") in real(file)
    assert Pen({"": fonts.font_for("")[1], "λ": file}).font("λ", 12).getname()[0] == family
