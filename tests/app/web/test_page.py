"""app/web/page.py: what is drawn and listed, and what it refuses to start with. In a browser: tests/test_page_browser.py."""

import json
import os
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from app.analysis import Analysis, find_segments
from app.web import page
from app.web.shelf import Shelf
from utils.captions.formats import Caption, VideoCaptions
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.video.decoder import Limits


def analysis(scores, fine=None, classes=("normal", "Fighting", "Smoke"), path="/home/a b.mp4"):
    """One of a snippet a second, with the threshold 0.5."""
    parts = Scores(np.array(scores, np.float32), fine)
    times = np.arange(len(scores) + 1.0)
    return Analysis(
        path=Path(path),
        name="a b",
        frames=25 * len(scores),
        fps=25.0,
        size=(320, 240),
        times=times,
        scores=parts,
        classes=classes,
        threshold=0.5,
        threshold_from="a test",
        segments=find_segments(parts, times, classes, 0.5),
        notes=["Scores of a test."],
    )


def test_the_player_gets_plain_numbers_and_a_relative_address():
    fine = np.array([[0.75, 0.25, 0], [0.1, 0.2, 0.7]], np.float32)
    value = page.for_player(analysis([0.25, 1 / 3], fine), "key", "a b.mp4")
    assert value["video"] == "gradio_api/file=/home/a%20b.mp4"
    assert value["scores"] == [0.25, 0.3333]
    assert value["times"] == [0, 1, 2]
    assert [one["name"] for one in value["classes"]] == ["normal", "Fighting", "Smoke"]
    assert value["classes"][2]["values"] == [0, 0.7]


def test_a_system_without_classes():
    assert page.for_player(analysis([0.2, 0.9]), "key", "a.mp4")["classes"] == []


def test_of_many_classes_the_most_probable_are_drawn_in_their_order():
    fine = np.full((4, 40), 0.01)
    fine[1, 39], fine[2, 7] = 0.6, 0.5
    drawn = page.for_player(analysis([0] * 4, fine, tuple(map(str, range(40)))), "key", "a.mp4")["classes"]
    names = [one["name"] for one in drawn]
    assert len(names) == page.STRIPS
    assert {"7", "39"} < set(names)
    assert names == sorted(names, key=int)


def test_another_threshold_finds_other_segments_without_new_scores():
    first = analysis([0.1, 0.6, 0.9, 0.1, 0.1, 0.4])
    assert [(one.start, one.end) for one in first.segments] == [(1, 3)]
    lower = page.at_threshold(first, 0.4)
    assert [(one.start, one.end) for one in lower.segments] == [(1, 3), (5, 6)]
    assert lower.threshold == 0.4
    assert lower.threshold_from == "set on the page; the detector's own is 0.500: a test"
    assert lower.scores is first.scores
    assert page.at_threshold(first, 0.5) is first
    assert page.for_segments(page.at_threshold(first, 0.95), "key")["segments"] == []


def test_what_strangers_are_told_of_this_computer():
    whole = analysis([0.1])
    whole.about.update(command="python demo.py --web /home/me", checkpoint="/home/me/runs/best.pt", clip="ViT-B/16", recipe={"crops": 1})
    told = page.public(whole)
    assert told.about == {"checkpoint": "best.pt", "clip": "ViT-B/16", "recipe": {"crops": 1}}
    assert told.path == Path("a b.mp4")
    assert "command" in whole.about


def test_a_threshold_that_looks_as_the_own_one_is_it():
    first = replace(analysis([0.1, 0.31279, 0.9]), threshold=0.3127645)
    first.segments = find_segments(first.scores, first.times, first.classes, first.threshold)
    assert page.shown(first.threshold) == 0.313
    assert page.at_threshold(first, 0.313) is first  # though 0.31279 does not reach 0.313
    assert page.at_threshold(first, 0.314).segments != first.segments


@pytest.mark.parametrize(("given", "kept"), [(-1, 0), (7, 1), (float("nan"), 0), (float("inf"), 1)])
def test_thresholds_are_cut_to_what_a_score_can_be(given, kept):
    assert page.at_threshold(analysis([0.1]), given).threshold == kept


def test_sizes_in_words():
    assert [page.megabytes(size) for size in (999, 20_000_000, 5_000_000_000)] == ["1 kB", "20 MB", "5,000 MB"]
    assert [page.duration(seconds) for seconds in (20, 90, 1800)] == ["20 seconds", "1.5 minutes", "30 minutes"]


class Steps:
    """A detector that reports ten steps; `between` is called after each."""

    caption_encoder = None

    def __init__(self, between=lambda step: None):
        self.between, self.steps = between, 0

    def analyse(self, path, *, captions, limits, progress):
        for step in range(1, 11):
            progress(path, step, 10)
            self.steps = step
            self.between(step)
        found = analysis([0.1, 0.6, 0.9, 0.1], path=path)
        return found if captions is None else page.at_threshold(replace(found, captions=captions.captions), 0.55)


class Page:
    """What `build` makes, its functions by name, called as by one visitor."""

    def __init__(self, folder, detector, *, deadline=1800.0, max_stored=10_000, captions=None):
        self.home, self.visitor = folder / "home", SimpleNamespace(session_hash="visitor")
        self.home.mkdir()
        (self.home / "a b.mp4").write_bytes(b"video")
        caps = {"deadline": deadline, "max_bytes": 1000, "queue_size": 2, "captions": captions or {}}
        shelf = Shelf(self.home, keep=3600, max_bytes=max_stored, pause=0)
        self.blocks = page.build(detector, shelf=shelf, folder=None, limits=Limits(max_seconds=60), **caps)
        self.functions = {one.name: one.fn for one in self.blocks.fns.values()}

    def call(self, name, *values):
        return {component.elem_id or "state": value for component, value in self.functions[name](*values).items()}

    def upload(self):
        return self.call("uploaded", str(self.home / "a b.mp4"), self.visitor, lambda *_, **__: None)

    def make(self, state, threshold=0.5):
        return self.call("annotated", state, threshold, self.visitor, lambda *_, **__: None)

    def files(self):
        return sorted(file.name for file in self.home.rglob("*") if file.is_file())


DOWNLOADS = ["a b.mp4", "a_b.csv", "a_b.json", "a_b.snippets.csv"]


def test_a_threshold_that_moves_leaves_no_files_behind(tmp_path):
    made = Page(tmp_path, Steps())
    state = made.upload()["state"]
    assert made.files() == DOWNLOADS
    folders, addresses = len(list(made.home.rglob("*"))), set()
    for threshold in np.linspace(0, 1, 20):
        changed = made.call("changed", state, threshold)
        addresses.add(changed["json"])
        assert json.loads(Path(changed["json"]).read_text())["threshold"] == pytest.approx(threshold, abs=1e-6)
    made.call("back", state)
    assert made.files() == DOWNLOADS
    assert len(list(made.home.rglob("*"))) == folders
    assert len(addresses) == 20  # what a browser has kept of one is not taken for another


def test_a_full_page_takes_no_more_work(tmp_path, monkeypatch):
    from app import annotate

    made = Page(tmp_path, Steps())
    state = made.upload()["state"]
    (made.home / "other.mp4").write_bytes(bytes(10_001))
    assert made.upload() == {"status": {"kind": "bad", "text": page.FULL}}  # what is shown stays
    monkeypatch.setattr(annotate, "write", None)  # not reached
    assert made.make(state) == {"status": {"kind": "bad", "text": page.FULL}}
    assert made.files() == [*DOWNLOADS, "other.mp4"]
    assert "json" in made.call("changed", state, 0.3)  # in the place of the earlier ones


def test_annotated_copies_take_the_place_of_earlier_ones_and_end_when_the_page_is_full(tmp_path, monkeypatch):
    from app import annotate

    written = 500

    def write(_, *, copy, limits, progress):
        copy.write_bytes(bytes(written))
        progress(1, 2)
        progress(2, 2)

    monkeypatch.setattr(annotate, "write", write)
    made = Page(tmp_path, Steps())
    state = made.upload()["state"]
    first, second = made.make(state), made.make(state, 0.3)
    assert second["status"]["kind"] == "good"
    assert first["video"]["value"] != second["video"]["value"]
    assert made.files() == sorted([*DOWNLOADS, "a_b.annotated.mp4"])
    written = 10_000
    assert made.make(state) == {"status": {"kind": "bad", "text": page.FULL}}
    assert Path(second["video"]["value"]).stat().st_size == 500  # it stays
    assert len(list(made.home.rglob("video/*"))) == 1


def test_work_ends_at_the_deadline(tmp_path, monkeypatch):
    from app import annotate

    now = 0.0

    def later(_):
        nonlocal now
        now += 30

    monkeypatch.setattr(page.time, "monotonic", lambda: now)
    detector = Steps(later)
    made = Page(tmp_path, detector, deadline=90.0)
    ended = made.upload()
    assert ended == {"status": {"kind": "bad", "text": "a b.mp4: takes longer than 1.5 minutes here; expected at most that; cut it"}}
    assert detector.steps == 4

    detector.between = lambda step: None
    state = made.upload()["state"]

    def slow(_, *, copy, limits, progress):
        later(1)
        progress(1, 9)
        later(1)
        later(1)
        later(1)
        progress(2, 9)
        raise AssertionError("it went on")

    monkeypatch.setattr(annotate, "write", slow)
    assert "takes longer than 1.5 minutes" in made.make(state)["status"]["text"]
    assert made.files() == DOWNLOADS


def test_work_ends_when_its_visitor_has_gone(tmp_path):
    detector = Steps(lambda step: made.functions["left"](SimpleNamespace(session_hash="visitor" if step == 5 else "another")))
    made = Page(tmp_path, detector)
    assert made.upload()["status"] == {"kind": "bad", "text": "a b.mp4: its visitor has gone"}
    assert detector.steps == 5
    detector.between = lambda step: None
    assert made.upload()["status"]["kind"] == "good"


@pytest.mark.parametrize(("timeout", "given", "deadline"), [(None, None, 1800), (60, None, 1800), (7200, None, 7200), (7200, 300, 300)])
@pytest.mark.usefixtures("environment")
def test_the_deadline_is_half_an_hour_unless_more_is_allowed(monkeypatch, timeout, given, deadline):
    asked = []

    def build(*_, **options):
        asked.append((options["deadline"], options["limits"].timeout))
        raise BadInput("enough")

    monkeypatch.setattr(page, "build", build)
    with pytest.raises(BadInput, match="enough"):
        page.serve(Steps(), limits=Limits(timeout=timeout), deadline=given)
    assert asked == [(deadline, timeout or 1800)]


class ReadsCaptions(Steps):
    caption_encoder = object()


def test_captions_are_those_of_the_video_s_name(tmp_path):
    """They are quoted, at another threshold, too; where the model reads some and there are none, the visitor is told."""
    said = VideoCaptions(96, 25, [Caption(0, 32, "a street"), Caption(32, 64, "a fight")])
    made = Page(tmp_path, ReadsCaptions(), captions={"a b": said})
    found = made.upload()
    assert [one["caption"] for one in found["segments"]["segments"]] == ["a fight"]
    moved = made.call("changed", found["state"], 0.05)
    assert [one["caption"] for one in moved["segments"]["segments"]] == ["a fight"]
    (tmp_path / "other").mkdir()
    told = Page(tmp_path / "other", ReadsCaptions(), captions={"c": said}).upload()["status"]
    assert told == {"kind": "bad", "text": "a b.mp4: the model here reads captions, and this page has none of that name."}


@pytest.fixture
def environment():
    """The working directory and the environment variables as they were: `serve` changes them."""
    folder, before = Path.cwd(), dict(os.environ)
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(before)


def enough(*_, **__):
    raise BadInput("enough")


@pytest.mark.usefixtures("environment")
def test_what_the_page_does_not_start_with(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="--web: this checkpoint reads captions"):
        page.serve(ReadsCaptions())
    with pytest.raises(BadInput, match=r"nowhere: no such folder"):
        page.serve(Steps(), folder=tmp_path / "nowhere")
    monkeypatch.setattr(page, "build", enough)
    with pytest.raises(BadInput, match="enough"):  # with some it starts
        page.serve(ReadsCaptions(), captions={"a": VideoCaptions(None, None, [])})
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(BadInput, match=r"Gradio is missing .*pip install -r requirements-app.txt"):
        page.import_gradio()


def test_an_old_gradio_is_refused(monkeypatch):
    import gradio

    monkeypatch.setattr(gradio, "__version__", "6.9.1")
    with pytest.raises(BadInput, match=r"Gradio 6.9.1 found, 6.20 or newer expected.*pip install"):
        page.import_gradio()


@pytest.mark.usefixtures("environment")
def test_a_port_that_is_taken(tmp_path):
    before = set(Path(tempfile.gettempdir()).glob("anomaly-page-*"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"--port {port} on 127.0.0.1: cannot be opened"):
            page.serve(Steps(), port=port)
    assert set(Path(tempfile.gettempdir()).glob("anomaly-page-*")) == before
