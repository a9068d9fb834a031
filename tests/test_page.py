"""utils/page.py: what is drawn and listed, and what it refuses to start with. In a browser: tests/test_page_browser.py."""

import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from utils import page
from utils.analysis import Analysis, find_segments
from utils.errors import BadInput
from utils.scores import Scores


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


@pytest.mark.parametrize(("given", "kept"), [(-1, 0), (7, 1), (float("nan"), 0), (float("inf"), 1)])
def test_thresholds_are_cut_to_what_a_score_can_be(given, kept):
    assert page.at_threshold(analysis([0.1]), given).threshold == kept


def test_sizes_in_words():
    assert [page.megabytes(size) for size in (999, 20_000_000, 5_000_000_000)] == ["1 kB", "20 MB", "5,000 MB"]
    assert [page.duration(seconds) for seconds in (20, 90, 1800)] == ["20 seconds", "1.5 minutes", "30 minutes"]


@pytest.fixture
def environment():
    """The working directory and the environment variables as they were: `serve` changes them."""
    folder, before = Path.cwd(), dict(os.environ)
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(before)


class ReadsCaptions:
    caption_encoder = object()


def test_what_the_page_does_not_start_with(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="--web: this checkpoint reads captions"):
        page.serve(ReadsCaptions())
    with pytest.raises(BadInput, match=r"nowhere: no such folder"):
        page.serve(None, folder=tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(BadInput, match=r'Gradio is missing .*pip install "gradio>=6.20"'):
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
            page.serve(object(), port=port)
    assert set(Path(tempfile.gettempdir()).glob("anomaly-page-*")) == before
