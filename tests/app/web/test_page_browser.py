"""The web page as its visitors have it, driven in headless Chromium. Its server is a process of its own (tests/page_server.py)."""

import csv
import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from page_server import MARKUP, Server
from utils.video.frames import Video

pytestmark = pytest.mark.slow
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def visit(browser, server):
    """visit(**options of a browser context) opens the page; in the end, it must have asked no other host and met no error of its own."""
    contexts, asked, errors = [], [], []

    def opened(url=server.url, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(url)
        tab.wait_for_selector("#status .status")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert len(asked) > 10
    assert {re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:http://127\.0\.0\.1)", url) is None for url in asked} == {False}, asked
    assert errors == []


def upload(tab, file):
    if tab.query_selector("#upload button[aria-label=Clear]"):
        tab.click("#upload button[aria-label=Clear]")
    tab.set_input_files("#upload input[type=file]", file)


def wait_for_text(tab, text):
    tab.wait_for_function("text => document.querySelector('#status').innerText.includes(text)", arg=text)


def played(tab) -> float:
    return tab.evaluate("document.querySelector('#player video').currentTime")


def cursor(tab) -> float:
    """Where the cursor stands on the curve, in [0, 1]."""
    return tab.evaluate("parseFloat(document.querySelector('#player .curve .cursor').style.left) / 100")


def saved(tab, button, folder) -> Path:
    with tab.expect_download() as download:
        tab.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_upload_play_seek_and_download(visit, videos, tmp_path):
    tab = visit()
    assert "appear here" in tab.inner_text("#player")
    upload(tab, videos / "street.mp4")
    wait_for_text(tab, "street.mp4: 2 segments in 0:12.")
    rows = tab.query_selector_all("#segments tbody tr")
    assert [row.inner_text().split("\t") for row in rows] == [["0:04 – 0:07", "Fighting", "0.81"], ["0:10 – 0:12", "Fighting", "0.81"]]
    assert "stand-in by brightness" in tab.inner_text("#segments .notes")
    assert "0.500 (a stand-in's)" in tab.inner_text("#segments .rule")
    assert tab.eval_on_selector_all("#player svg .bar", "bars => bars.length") == 2

    tab.wait_for_function("document.querySelector('#player video').readyState >= 2")
    assert tab.evaluate("document.querySelector('#player video').duration") == pytest.approx(12, abs=0.1)
    tab.evaluate("document.querySelector('#player video').muted = true")
    tab.focus("#player .curve")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelector('#player video').currentTime > 0.5")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelector('#player video').paused")
    assert cursor(tab) == pytest.approx(played(tab) / 12, abs=0.01)

    rows[1].click()
    tab.wait_for_function("document.querySelector('#player video').currentTime > 9")
    assert played(tab) == pytest.approx(float(rows[1].get_attribute("data-start")), abs=0.01)
    assert cursor(tab) == pytest.approx(played(tab) / 12, abs=0.01)
    assert "running" in rows[1].get_attribute("class")
    assert "score 0.81" in tab.inner_text("#player .now")
    chances = [row.inner_text().split("\n") for row in tab.query_selector_all("#player .row")]
    assert chances[:2] == [["normal", "19 %"], ["Fighting", "57 %"]]

    rows[0].query_selector("button").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelector('#player video').currentTime < 9")
    assert played(tab) == pytest.approx(float(rows[0].get_attribute("data-start")), abs=0.01)

    box = tab.query_selector("#player .curve").bounding_box()
    tab.click("#player .curve", position={"x": box["width"] * 0.75, "y": 20})  # once it has stopped scrolling
    tab.wait_for_function("document.querySelector('#player video').currentTime > 8")
    assert played(tab) == pytest.approx(9, abs=0.1)
    before = played(tab)
    tab.keyboard.press("ArrowLeft")  # the curve has the focus: a snippet back
    assert before - 1.3 < float(tab.get_attribute("#player .curve", "aria-valuenow")) < before

    report = json.loads(saved(tab, "#json", tmp_path).read_text(encoding="utf-8"))
    assert report["video"] == "street.mp4"
    assert [one["class"] for one in report["segments"]] == ["Fighting", "Fighting"]
    table = saved(tab, "#csv", tmp_path)
    assert table.name == "street.csv"
    assert len(list(csv.DictReader(table.open(encoding="utf-8")))) == 2
    assert len(list(csv.DictReader(saved(tab, "#scores", tmp_path).open(encoding="utf-8")))) == len(report["snippets"]) == 19
    tab.click("#make")
    wait_for_text(tab, "The annotated video is ready.")
    copy = saved(tab, "#video", tmp_path)
    assert copy.name == "street.annotated.mp4"
    with Video(copy) as video:
        assert sum(1 for _ in video.decode()) == 300


def test_a_threshold_changes_the_segments_and_nothing_is_scored_again(visit, videos, tmp_path):
    tab = visit()
    upload(tab, videos / "street.mp4")
    wait_for_text(tab, "2 segments")
    joined = []
    tab.on("request", lambda request: joined.append(request.url) if "queue/join" in request.url else None)
    number = "#threshold input[type=number]"
    tab.fill(number, "0.1")
    tab.wait_for_selector("text=Found at the threshold 0.100")
    assert len(tab.query_selector_all("#segments tbody tr")) == 1
    assert tab.eval_on_selector_all("#player svg .bar", "bars => bars.length") == 1
    report = json.loads(saved(tab, "#json", tmp_path).read_text(encoding="utf-8"))
    assert (report["threshold"], len(report["segments"])) == (0.1, 1)
    tab.fill(number, "0.9")
    tab.wait_for_selector("text=Nothing found")
    assert "the highest score is 0.81" in tab.inner_text("#segments")
    tab.click("#reset")
    tab.wait_for_selector("text=2 segments")
    tab.wait_for_function("number => document.querySelector(number).value === '0.5'", arg=number)  # drawn after the segments
    tab.focus("#threshold input[type=range]")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("text=Found at the threshold 0.501")
    assert joined == []


def choose(tab, name):
    tab.click("#listed input")
    tab.click(f"[role=option]:has-text('{name}')")
    tab.click("#go")


def test_a_video_of_the_folder(visit, videos):
    tab = visit()
    tab.click("#listed input")
    offered = tab.eval_on_selector_all("[role=option]", "options => options.map(one => one.innerText.trim().replace(/^✓\\s*/, ''))")
    names = ("crash", "cut", "dark", "endless", "large", "long", "slow", "sound", "street", "text")
    assert offered == sorted([MARKUP, "old.avi", *(f"{name}.mp4" for name in names)])
    tab.keyboard.press("Escape")
    tab.click("#go")
    wait_for_text(tab, "Choose a video of the list first.")
    upload(tab, videos / "street.mp4")
    wait_for_text(tab, "street.mp4: 2 segments")
    tab.click("#go")  # without a choice: what was uploaded stays, with its segments and downloads
    wait_for_text(tab, "Choose a video of the list first.")
    assert tab.inner_text("#player .name") == "street.mp4"
    assert len(tab.query_selector_all("#segments tbody tr")) == 2
    tab.click("#make")
    wait_for_text(tab, "The annotated video is ready.")
    choose(tab, "dark.mp4")
    wait_for_text(tab, "dark.mp4: no segments in 0:04.")
    assert "Nothing found" in tab.inner_text("#segments")
    assert "the highest score is 0.1" in tab.inner_text("#segments")
    tab.wait_for_function("document.querySelector('#player video').readyState >= 1")
    choose(tab, "large.mp4")
    wait_for_text(tab, "large.mp4: 300 kB; expected at most 300 kB and 20 seconds.")
    assert tab.inner_text("#player .name") == "dark.mp4"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cut.mp4", "cut.mp4: cannot be"),
        ("text.mp4", "text.mp4: cannot be opened as a video"),
        ("long.mp4", "long.mp4: longer than 20 s"),
        ("crash.mp4", "crash.mp4: something went wrong here"),
    ],
)
def test_broken_uploads_are_told_and_survived(visit, videos, server, name, text):
    tab = visit()
    upload(tab, videos / "street.mp4")
    wait_for_text(tab, "2 segments")
    upload(tab, videos / name)
    wait_for_text(tab, text)
    assert tab.query_selector("#status [role=alert]")
    assert str(server.home()) not in tab.inner_text("#status")
    assert tab.inner_text("#player .name") == "street.mp4"  # the earlier result stays, under its name
    assert tab.is_visible("#json")
    upload(tab, videos / "dark.mp4")
    wait_for_text(tab, "dark.mp4: no segments")
    assert ("ZeroDivisionError: a bug\n" in server.said) >= (name == "crash.mp4")


def test_an_oversized_upload_and_one_that_is_no_video(visit, videos, tmp_path):
    tab = visit()
    upload(tab, videos / "large.mp4")
    tab.wait_for_selector("text=exceed the maximum allowed size")
    (tmp_path / "page.html").write_text("<script>document.title='hit'</script>")
    tab = visit()
    upload(tab, tmp_path / "page.html")
    tab.wait_for_selector("text=Invalid file type")
    assert "No video yet." in tab.inner_text("#status")


def test_a_full_queue(visit, videos):
    tabs = [visit() for _ in range(4)]
    for tab, name in zip(tabs, ("endless", "slow", "slow", "slow"), strict=True):
        upload(tab, videos / f"{name}.mp4")
        tab.wait_for_function("document.querySelector('#status').innerText.match(/snippets|queue|Error/)")
    tabs[3].wait_for_selector("text=This application is currently busy")
    tabs[0].close()  # its work ends with it
    for tab in tabs[1:3]:
        wait_for_text(tab, "slow.mp4: no segments")
    upload(tabs[3], videos / "dark.mp4")
    wait_for_text(tabs[3], "dark.mp4: no segments")


@pytest.mark.parametrize("name", ["old.avi", "sound.mp4"])  # nothing of it, the sound alone
def test_what_the_browser_cannot_play_is_shown_as_the_annotated_copy(visit, videos, name):
    tab = visit()
    upload(tab, videos / name)
    wait_for_text(tab, f"{name}: 2 segments")
    tab.wait_for_selector("text=This browser cannot play the video as it is")
    tab.click("#segments tbody tr >> nth=1")
    assert cursor(tab) == pytest.approx(10.24 / 12, abs=0.01)  # the curve works without it
    assert not tab.is_visible("#player video")
    tab.click("#make")
    tab.wait_for_function("document.querySelector('#player video').readyState >= 1")
    assert tab.is_visible("#player video")
    assert "annotated.mp4" in tab.get_attribute("#player video", "src")
    assert tab.evaluate("document.querySelector('#player video').videoWidth") > 0


def test_a_name_or_caption_is_text_never_markup_or_template(visit, videos):
    tab = visit()
    choose(tab, "onerror")
    wait_for_text(tab, "2 segments")
    for place in ("#status", "#player .name"):
        assert MARKUP in tab.inner_text(place)
        assert tab.query_selector(f"{place} img") is None
    assert [cell.inner_text() for cell in tab.query_selector_all("#segments tbody td:last-child")] == [MARKUP, MARKUP]  # its caption
    assert tab.query_selector("#segments img") is None
    assert tab.title() == "Anomalies in a video"
    assert "Explosion <b>&</b>" in tab.text_content("#player .classes")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, {}], ids=["phone", "desk"])
def test_nothing_overflows_and_text_can_be_read(visit, videos, device, scheme):
    tab = visit(color_scheme=scheme, **device)
    upload(tab, videos / "street.mp4")
    wait_for_text(tab, "2 segments")
    wide = """() => [...document.querySelectorAll("#page *")].filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
        .map((one) => one.outerHTML.slice(0, 200))"""
    assert tab.evaluate(wide) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    places = "all => all.map(one => one.getBoundingClientRect()).map(({left, right}) => [left, right])"
    ticks = tab.eval_on_selector_all("#player .ticks span", places)
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(ticks))
    lightness = """(selector) => { const parts = (text) => text.match(/[\\d.]+/g).map(Number);
        const element = document.querySelector(selector), ground = getComputedStyle(document.body).backgroundColor;
        const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, share, at) => sum + share * ((rgb[at] / 255) ** 2.2), 0.05);
        const pair = [light(parts(getComputedStyle(element).color)), light(parts(ground))];
        return Math.max(...pair) / Math.min(...pair); }"""
    overlaps = """() => { const curve = document.querySelector("#player svg").getBoundingClientRect();
        return [...document.querySelectorAll("#player .levels span")].map((one) => one.getBoundingClientRect())
            .filter((one) => one.width && one.right > curve.left); }"""
    assert tab.evaluate(overlaps) == []  # the labels keep off the curve
    tops = [tab.query_selector(f"#segments {part}").bounding_box()["y"] for part in (".notes", "table")]
    assert tops == sorted(tops)
    tab.wait_for_selector("#threshold input[type=number]")
    box = "one => [one.value, one.scrollWidth <= one.clientWidth]"
    assert tab.eval_on_selector("#threshold input[type=number]", box) == ["0.5", True]
    for selector in ("#player .name", "#segments td", "#status .status"):
        assert tab.evaluate(lightness, selector) > 4.5
    assert tab.is_visible("#player .row") == (device != PHONE)
    tab.tap("#segments tbody tr >> nth=1") if device else tab.click("#segments tbody tr >> nth=1")
    tab.wait_for_function("document.querySelector('#player video').currentTime > 9")


def test_a_real_detector_through_the_demo(browser, small_clip, videos, tmp_path):
    torch.save(small_clip.state_dict(), tmp_path / "clip.pt")
    what = ["--classes", "person falling", "smoke", "--clip", tmp_path / "clip.pt", "--device", "cpu", "--threshold", "0.001"]
    started = Server("demo", videos, "--web", *what, "--max-seconds", "15")
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(started.url)
    choose(tab, "street.mp4")
    wait_for_text(tab, "street.mp4: 1 segment in 0:12.")
    assert "without training" in tab.inner_text("#segments .notes")
    classes = [row.inner_text().split("\n")[0] for row in tab.query_selector_all("#player .row")]
    assert classes == ["normal", "person falling", "smoke"]
    report = json.loads(saved(tab, "#json", tmp_path).read_text(encoding="utf-8"))
    assert (report["video"], report["frames"], len(report["snippets"])) == ("street.mp4", 300, 18)
    assert str(tmp_path) not in json.dumps(report)
    tab.click("#make")
    wait_for_text(tab, "The annotated video is ready.")
    upload(tab, videos / "long.mp4")
    wait_for_text(tab, "long.mp4: ")
    assert "15" in tab.inner_text("#status [role=alert]")
    upload(tab, videos / "text.mp4")
    wait_for_text(tab, "text.mp4: cannot be opened as a video")
    context.close()
    started.stop()
