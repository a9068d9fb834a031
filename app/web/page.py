"""The web page: a video in, its scores, segments and downloads out. Gradio shows it; app/web/guard.py stands before it.

A folder of the page's own, made anew at each start and removed at its end, holds what visitors upload and what is made for them; no other
file is served. A video of the owner's folder is copied there before it is shown.
"""

import os
import secrets
import shutil
import tempfile
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from app.analysis import Analysis, find_segments
from app.web.shelf import FULL, Shelf, keep_only, keep_tidy, new_folder, safe_name, take, videos
from utils.captions.formats import VideoCaptions
from utils.errors import BadInput, printable
from utils.evaluation.segments import clean, clock, shorten
from utils.labels import VIDEO_SUFFIXES, video_name
from utils.video.decoder import Limits
from utils.video.frames import BrokenVideo

KEEP = 3600  # seconds for which uploads and results stay
OLDEST = (6, 20)  # of Gradio: up to 6.15 requests lead out of the page's folder, up to 6.16 the browser asks other hosts
INSTALL = "pip install -r requirements-app.txt"
STRIPS = 14  # classes whose probabilities are drawn
HERE = Path(__file__).parent
SLOT = '<div class="slot"></div>'


def build(
    detector,
    *,
    shelf: Shelf,
    folder: Path | None,
    captions: dict[str, VideoCaptions],
    limits: Limits,
    deadline: float,
    max_bytes: int,
    queue_size: int,
):
    """The page as gr.Blocks, which `serve` launches.

    detector: see app/detector.py; shelf: the page's own folder; folder: whose videos are offered by name; captions: by name of a video
    (utils.labels.video_name), an uploaded one's, too; limits: of decoding, with max_seconds; deadline: seconds that one visitor's work may
    take in all; max_bytes: of a video; queue_size: visitors that may wait while one is served.
    """
    gr, home = import_gradio(), shelf.folder
    caps = f"at most {megabytes(max_bytes)} and {duration(limits.max_seconds)}"
    script, style, template = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("js", "css", "html"))

    def part(name: str, template: str, value, **more):
        js = f"{script}\n{name}(element, props, watch);"
        return gr.HTML(value, html_template=template, css_template=style, js_on_load=js, apply_default_css=False, elem_id=name, **more)

    def failed(text: str) -> dict:
        return {status: said("bad", text)}  # what is shown of an earlier video, which is named there, stays

    served, writing = None, threading.Lock()  # the visitor whose work is under way, one at a time

    def reporter(visitor: str, path: Path, progress, **shown):
        """A callback that shows how far the work has come, and stops it when its time is over or nobody waits for it: BrokenVideo."""
        nonlocal served
        served, end = visitor, time.monotonic() + deadline

        def report(done: int, expected: int | None):
            if served != visitor:
                raise BrokenVideo(f"{path}: its visitor has gone")
            if time.monotonic() > end:
                raise BrokenVideo(f"{path}: takes longer than {duration(deadline)} here; expected at most that; cut it")
            progress((min(done, expected), expected) if expected else None, **shown)

        return report

    def left(request: gr.Request):
        nonlocal served
        if request.session_hash == served:
            served = None

    def analyse(path: Path, name: str, visitor: str, progress) -> dict:
        if not shelf.room():
            return failed(FULL)
        texts = captions.get(video_name(name))
        if texts is None and detector.caption_encoder is not None:
            return failed(f"{name}: the model here reads captions, and this page has none of that name.")
        report = reporter(visitor, path, progress, desc=shorten(name, 24), unit="snippets")
        try:
            progress(None, desc=shorten(name, 24))
            shelf.use(path)
            analysis = detector.analyse(path, captions=texts, limits=limits, progress=lambda _, done, expected: report(done, expected))
        except BadInput as error:
            return failed(str(error).replace(printable(path), name))
        except Exception:
            traceback.print_exc()
            return failed(f"{name}: something went wrong here; whoever started the page sees in the terminal what it was.")
        key = secrets.token_hex(8)
        several = "segment" if len(analysis.segments) == 1 else "segments"
        return {
            status: said("good", f"{name}: {len(analysis.segments) or 'no'} {several} in {clock(analysis.seconds)}."),
            state: {"analysis": analysis, "key": key},
            player: gr.update(value=for_player(analysis, key, name), copy=None),
            threshold: gr.update(value=shown(analysis.threshold)),
            more: gr.update(visible=True),
            **results(analysis, key),
        }

    def results(analysis: Analysis, key: str) -> dict:
        """What depends on the threshold. The files take the place of the earlier ones; at a new address, as a browser may know the old."""
        from app import export

        told = public(analysis)
        with writing:
            place, name = new_folder(home / key / "tables"), safe_name(analysis.name)
            made = [place / f"{name}{end}" for end in (".json", ".csv", ".snippets.csv")]
            export.write_json(told, made[0])
            export.write_csv(told, made[1])
            keep_only(place)
        return {
            found: for_segments(analysis, key),
            **dict(zip((as_json, as_csv, as_scores), map(str, made), strict=True)),
            make: gr.update(visible=True),
            as_video: gr.update(value=None, visible=False),
        }

    def uploaded(file: str | None, request: gr.Request, progress=gr.Progress()):  # noqa: B008 (that is how Gradio hands it over)
        if file is None:
            return failed("No video was uploaded.")
        return analyse(Path(file), clean(Path(file).name), request.session_hash, progress)

    def chosen(name: str | None, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        if not name:
            return failed("Choose a video of the list first.")
        name, file = clean(str(name)), videos(folder).get(str(name))
        if file is None:
            return failed(f"{name}: not in the list; choose a video that is.")
        try:
            size = file.stat().st_size
            if size > max_bytes:
                return failed(f"{name}: {megabytes(size)}; expected {caps}.")
            if not shelf.room(size):
                return failed(FULL)
            shelf.add(size, 1)
            return analyse(take(file, home), name, request.session_hash, progress)
        except OSError as error:
            return failed(f"{name}: cannot be read ({error.strerror}).")

    def changed(kept: dict | None, value: float) -> dict:
        return nothing if kept is None else results(at_threshold(kept["analysis"], value), kept["key"])

    def back(kept: dict | None) -> dict:
        return nothing if kept is None else {threshold: shown(kept["analysis"].threshold), **results(kept["analysis"], kept["key"])}

    def annotated(kept: dict | None, value: float, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        if kept is None:
            return failed("The results are gone, as they stay for an hour; look at the video once more.")
        from app import annotate

        analysis = at_threshold(kept["analysis"], value)
        report = reporter(request.session_hash, analysis.path, progress, desc="annotated video", unit="frames")
        copy = new_folder(home / kept["key"] / "video") / f"{safe_name(analysis.name)}.annotated.mp4"

        def measured(done: int, expected: int):
            if not shelf.fits(sum(file.stat().st_size for file in copy.parent.iterdir())):
                raise BadInput(FULL)
            report(done, expected)

        try:
            if not shelf.room():
                raise BadInput(FULL)
            report(0, analysis.frames)
            annotate.write(analysis, copy=copy, limits=limits, progress=measured)
            shelf.add(copy.stat().st_size, 1)
            keep_only(copy.parent)
        except BadInput as error:
            shutil.rmtree(copy.parent, ignore_errors=True)
            return {status: said("bad", str(error).replace(str(analysis.path), clean(analysis.path.name)))}
        return {
            make: gr.update(visible=False),
            as_video: gr.update(value=str(copy), visible=True),
            player: gr.update(copy=address(copy)),
            status: said("good", "The annotated video is ready."),
        }

    with gr.Blocks(title="Anomalies in a video", analytics_enabled=False, fill_width=True) as page:
        state = gr.State(None, time_to_live=KEEP)
        with gr.Row(equal_height=False, elem_id="page"):
            with gr.Column(scale=2, min_width=280, elem_id="input"):
                gr.Markdown(f"# Anomalies in a video\nVideos of {caps}. They stay for an hour on the computer that serves this page.")
                upload = gr.File(label="Your video", file_types=sorted(VIDEO_SUFFIXES), height=150, elem_id="upload")
                if folder is not None:
                    label = f"Or one of the folder “{clean(folder.name)}”"
                    # Gradio prints a traceback for what is not in the list; `chosen` says it.
                    listed = gr.Dropdown(list(videos(folder)), value=None, label=label, allow_custom_value=True, elem_id="listed")
                    go = gr.Button("Look at it", variant="primary", elem_id="go")
                status = part("status", SLOT, said("idle", "No video yet."))
            with gr.Column(scale=5, min_width=320, elem_id="output"):
                player = part("player", template, None, copy=None)
                with gr.Column(visible=False, elem_id="more") as more:
                    with gr.Row():
                        threshold = gr.Slider(0, 1, 0.5, step=0.001, label="Threshold", scale=4, buttons=[], elem_id="threshold")
                        reset = gr.Button("Reset", size="sm", scale=0, min_width=90, elem_id="reset")
                    found = part("segments", SLOT, None)
                    with gr.Row():
                        as_json = gr.DownloadButton("JSON", size="sm", min_width=120, elem_id="json")
                        as_csv = gr.DownloadButton("Segments, CSV", size="sm", min_width=120, elem_id="csv")
                        as_scores = gr.DownloadButton("Scores, CSV", size="sm", min_width=120, elem_id="scores")
                        make = gr.Button("Make annotated video", size="sm", min_width=120, elem_id="make")
                        as_video = gr.DownloadButton("Annotated video", size="sm", min_width=120, visible=False, elem_id="video")

        nothing = {found: gr.skip()}
        by_threshold = [found, as_json, as_csv, as_scores, make, as_video]
        work = {"concurrency_id": "work", "concurrency_limit": 1, "show_progress_on": [status], "api_visibility": "private"}
        light = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        everything = [status, state, player, threshold, more, *by_threshold]
        upload.upload(uploaded, upload, everything, **work)
        threshold.input(changed, [state, threshold], by_threshold, trigger_mode="always_last", **light)
        reset.click(back, state, [threshold, *by_threshold], **light)
        page.unload(left)
        make.click(annotated, [state, threshold], [make, as_video, player, status], **work)
        if folder is not None:
            go.click(chosen, listed, everything, **work)
            page.load(lambda: gr.update(choices=list(videos(folder))), None, listed, **light)
    return page.queue(max_size=queue_size, api_open=False, default_concurrency_limit=1)


def serve(
    detector,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    folder: Path | None = None,
    captions: dict[str, VideoCaptions] | None = None,
    limits: Limits | None = None,
    max_bytes: int = 500_000_000,
    max_seconds: float | None = None,
    deadline: float | None = None,
    max_stored: int = 10_000_000_000,
    keep: float = KEEP,
    queue_size: int = 8,
) -> None:
    """Serve the page until it is interrupted. See `build`. Unless limits say so, a video may last an hour, and take half an hour to decode;
    the deadline is half an hour, too, or as long as decoding may take. max_stored: bytes of all that is kept, which is for `keep` seconds.

    To be called once a process, from its main thread: it changes the working directory to an empty one and Gradio's environment variables.
    Raises BadInput where Gradio is missing, the folder is none, or the port is taken.
    """
    if detector.caption_encoder is not None and not captions:
        raise BadInput("--web: this checkpoint reads captions; name those of your videos with --captions (tools.caption_videos)")
    if folder is not None and not (folder := Path(folder).resolve()).is_dir():
        raise BadInput(f"{folder}: no such folder; expected one with videos; name it, or leave it out")
    limits = limits or Limits()
    limits = replace(limits, max_seconds=max_seconds or limits.max_seconds or 3600, timeout=limits.timeout or 1800)
    deadline = deadline or max(1800, limits.timeout)
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="anomaly-page-", ignore_cleanup_errors=True) as place:
        home, empty = Path(place).resolve() / "files", Path(place).resolve() / "empty"
        home.mkdir()
        empty.mkdir()
        for name in [name for name in os.environ if name.startswith("GRADIO_")]:
            del os.environ[name]  # none may open what is closed here
        os.environ |= {"GRADIO_TEMP_DIR": str(home), "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
        import_gradio()  # reads them
        from app.web.guard import open_server

        shelf, over = Shelf(home, keep=keep, max_bytes=max_stored), threading.Event()
        caps = {"limits": limits, "deadline": deadline, "max_bytes": max_bytes, "queue_size": queue_size}
        page = build(detector, shelf=shelf, folder=folder, captions=captions or {}, **caps)
        threading.Thread(target=keep_tidy, args=(shelf, over), daemon=True).start()
        os.chdir(empty)
        try:
            open_server(page, shelf=shelf, folder=folder, host=host, port=port, max_bytes=max_bytes)
            print(f"page: {page.local_url}", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:  # SIGTERM, too: utils.errors.exit_code
            pass
        finally:
            over.set()
            page.close(verbose=False)
            os.chdir(before)


def import_gradio():
    """Gradio, or BadInput saying what to install."""
    try:
        import gradio
    except ImportError as error:
        raise BadInput(f"--web: Gradio is missing ({error}); {INSTALL}") from None
    if tuple(map(int, gradio.__version__.split(".")[:2])) < OLDEST:
        raise BadInput(f"--web: Gradio {gradio.__version__} found, 6.20 or newer expected, as older ones have holes; {INSTALL}")
    return gradio


def at_threshold(analysis: Analysis, threshold: float) -> Analysis:
    """The same video with the segments of another threshold, which is cut to [0, 1]. The page shows three decimals: what looks as the own
    threshold there is meant to be it.
    """
    threshold = min(1.0, max(0.0, float(threshold)))
    if shown(threshold) == shown(analysis.threshold):
        return analysis
    said = {"captions": analysis.captions, "frames": analysis.frames, "stride": analysis.stride}
    segments = find_segments(analysis.scores, analysis.times, analysis.classes, threshold, **said)
    source = f"set on the page; the detector's own is {analysis.threshold:.3f}: {analysis.threshold_from}"
    return replace(analysis, threshold=threshold, threshold_from=source, segments=segments)


def shown(threshold: float) -> float:
    """As the page's slider has it."""
    return round(threshold, 3)


def public(analysis: Analysis) -> Analysis:
    """The same without what a stranger need not know of this computer: its command line, its folders."""
    about = {
        key: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
        for key, value in analysis.about.items()
        if key not in ("command", "source")
    }
    return replace(analysis, path=Path(analysis.path.name), about=about)


def said(kind: str, text: str) -> dict:
    """A line of the page's state: `idle`, `good` or `bad`."""
    return {"kind": kind, "text": text}


def address(path: Path) -> str:
    """Where the browser finds a file of the page's folder, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"


def for_player(analysis: Analysis, key: str, name: str) -> dict:
    """What app/web/page.js draws; of many classes, those STRIPS with the highest probabilities."""
    fine, classes = analysis.scores.fine, []
    if fine is not None:
        drawn = sorted(np.argsort(-fine.max(0), kind="stable")[:STRIPS])
        classes = [{"name": analysis.classes[one], "values": rounded(fine[:, one])} for one in drawn]
    return {
        "key": key,
        "name": name,
        "video": address(analysis.path),
        "times": rounded(analysis.times),
        "scores": rounded(analysis.anomaly),
        "classes": classes,
    }


def for_segments(analysis: Analysis, key: str) -> dict:
    """What app/web/page.js lists."""
    return {
        "key": key,
        "threshold": analysis.threshold,
        "from": analysis.threshold_from,
        "highest": float(analysis.anomaly.max()),
        "segments": [{key: getattr(one, key) for key in ("start", "end", "label", "score", "caption")} for one in analysis.segments],
        "notes": analysis.notes,
    }


def rounded(values: np.ndarray) -> list[float]:
    return np.round(values.astype(float), 4).tolist()


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"
