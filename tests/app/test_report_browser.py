"""report.html from a file, driven in headless Chromium: it filters, sorts and plays, shows names as text, and asks nobody for anything."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from app.recordings import Recordings, write_report
from clips import make_video

pytestmark = pytest.mark.slow
MARKUP = "</script><img src=x onerror=document.title='hit'>"


class NoDetector:
    def about_video(self, path, captions, latency):
        return {"source": {"path": str(path)}}


def spot(number):
    picture = np.full((48, 64, 3), 90, np.uint8)
    picture[20:30, number % 54 : number % 54 + 10] = 220
    return picture


def segment(start, label, score, caption=None):
    return {"start": start, "end": start + 1.5, "class": label, "score": score, "caption": caption}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a report of four videos; one can be played by its annotated copy alone, one not at all."""
    folder = tmp_path_factory.mktemp("week #1 100%")
    file = io.BytesIO()
    Image.new("RGB", (160, 90), (200, 80, 20)).save(file, "JPEG")
    still, found, videos = base64.b64encode(file.getvalue()).decode(), {}, {}

    def add(name, *segments, begins=None, files=(), **more):
        path = folder / "week" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if more:
            make_video(path, 100, picture=spot, **more)
        videos[path] = folder / "out" / f"{name.rpartition('.')[0]}.json"
        stills = [still] * len(segments)
        found[path] = {"begins": begins, "segments": list(segments), "files": dict.fromkeys(files, 1), "stills": stills}

    add("cam1/08-00.mp4", segment(2, "Fighting", 0.7), segment(0.5, "Fighting", 0.95), begins="2024-05-01T08:59:59", codec="libx264")
    add("cam2/08-00.avi", segment(1, "Fire", 0.8), begins="2024-05-01T08:00:00", files=["08-00.annotated.mp4"], codec="mpeg4")
    (folder / "out" / "cam2").mkdir(parents=True)
    make_video(folder / "out" / "cam2" / "08-00.annotated.mp4", 100, picture=spot)
    add("cam2/lost.mp4", segment(0, MARKUP, 0.9, MARKUP))
    add(f"cam2/{MARKUP.replace('/', '')}.mp4", segment(2.5, "Fire", 0.1), codec="libx264")
    recordings = Recordings(NoDetector(), videos, folder / "out", {}, None, None)
    write_report(folder / "out" / "report.html", recordings, found, [f"A note {MARKUP}"])
    return (folder / "out" / "report.html").as_uri()


@pytest.fixture
def tab(browser, page):
    asked, errors = [], []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    tab.goto(page)
    yield tab
    assert tab.title() == "Recordings"
    assert tab.locator("img[src=x]").count() == 0
    context.close()
    assert errors == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def heads(tab):
    return tab.locator("#events b").all_text_contents()  # what is not painted yet has no inner text


def test_filters_and_order(tab):
    assert heads(tab) == ["Fighting 0.95", f"{MARKUP} 0.90", "Fire 0.80", "Fighting 0.70", "Fire 0.10"]
    assert tab.inner_text("#about") == "5 events in 4 videos; all are in segments.csv."
    assert tab.inner_text("#notes") == f"A note {MARKUP}"
    tab.select_option("#order", "earliest")
    assert heads(tab) == ["Fire 0.80", "Fighting 0.95", "Fighting 0.70", "Fire 0.10", f"{MARKUP} 0.90"]
    tab.select_option("#camera", "cam2")
    assert heads(tab) == ["Fire 0.80", "Fire 0.10", f"{MARKUP} 0.90"]
    tab.select_option("#class", "Fire")
    tab.select_option("#hour", "08:00")
    assert heads(tab) == ["Fire 0.80"]
    assert tab.inner_text("#count") == "1 of 5 events"
    for title in ("camera", "class"):
        tab.select_option(f"#{title}", "")
    assert heads(tab) == ["Fire 0.80", "Fighting 0.95"]  # the other begins at 9
    assert tab.locator("#hour option").all_inner_texts() == ["all", "08:00 (2)", "09:00 (1)", "unknown (2)"]


def test_an_event_is_played_at_its_time(tab):
    played = "(v => v.readyState > 1 && !v.seeking ? [v.currentSrc, v.currentTime] : ['', 0])(document.querySelector('video'))"
    for head, name, start in (
        ("Fighting 0.70", "week/cam1/08-00.mp4", 2),
        ("Fire 0.10", "onerror", 2.5),
        ("Fire 0.80", "annotated.mp4", 1),
    ):
        tab.click(f"#events button:has(b:text-is('{head}'))")
        now = "", 0.0
        while name not in now[0] or now[1] < start:  # the page forbids what wait_for_function does
            tab.wait_for_timeout(50)
            now = tab.evaluate(played)
        assert now[1] <= start + 3.1  # its end, at the latest
        assert tab.inner_text("#playing").startswith(head)
        assert tab.locator("[aria-current] b").all_inner_texts() == [head]
    tab.click("#events button:has(b:text('0.90'))")
    tab.wait_for_selector("#playing:has-text('this browser cannot play it')")
    assert not tab.is_visible("video")


def test_narrow(tab):
    for width in (390, 1280):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("[...document.images].every(one => one.naturalWidth == 160)")
