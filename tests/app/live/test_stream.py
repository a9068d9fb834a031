"""app/live/stream.py: what may be a stream, every frame of it once and in order, and senders that cheat, hang or break off."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from app.live.stream import START, Connection, Cut, Opened, Snippet, parse_source
from clips import is_gone
from streams import RECIPE, CutOff, Server, number_of, picture, rtsp_camera, write_stream
from utils.errors import BadInput
from utils.files import ROOT


def read(source, **options):
    """(Opened or None, [Snippet], Cut) of one connection."""
    items = list(Connection(parse_source(source), RECIPE, **options))
    opened = [item for item in items if isinstance(item, Opened)]
    return (*opened, None)[0], [item for item in items if isinstance(item, Snippet)], items[-1]


def read_sent(part, **options):
    with Server(part) as server:
        return read(f"tcp://127.0.0.1:{server.port}", **options)


@pytest.fixture
def web():
    """web(path -> (content type, bytes or a redirect's target)): the address of an HTTP server on this machine."""
    servers = []

    def serve(pages):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                kind, body = pages[self.path.partition("?")[0]]
                self.send_response(302 if kind == "redirect" else 200)
                if kind == "redirect":
                    self.send_header("Location", body)
                else:
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.end_headers()

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("rtsp://user:secret@camera:554/h264?token=1", "rtsp://user:secret@camera:554/h264?token=1", "rtsp://camera:554/h264"),
        ("RTMP://host/live/key", "rtmp://host/live/key", "rtmp://host/live/key"),
        ("udp://@:1234", "udp://@:1234", "udp://:1234"),
        ("tcp://127.0.0.1:9?listen=1", "tcp://127.0.0.1:9?listen=1", "tcp://127.0.0.1:9"),
        ("rtsp://10.0.0.1:554/user=admin&password=secret", "rtsp://10.0.0.1:554/user=admin&password=secret", "rtsp://10.0.0.1:554/user"),
        ("rtsp://user:12/secret@host/h264", "rtsp://user:12/secret@host/h264", "rtsp://…"),
        ("-", "pipe:0", "-"),
    ],
)
def test_sources(text, url, shown):
    source = parse_source(text)
    assert (source.url, source.shown, source.device) == (url, shown, None)


@pytest.mark.parametrize(
    "text",
    [
        "video.mp4",
        "file:///etc/passwd",
        "concat:a.ts|b.ts",
        "subfile,,start,0,end,9,,:a.ts",
        "data:,x",
        "ftp://host/a.ts",
        "http://",
        "rtsp://host:65536/a",
        "rtsp://host:554:1/a",
        "rtsp://host/a\nb",
        "",
        "-1",
    ],
)
def test_what_is_no_stream_is_refused(text):
    with pytest.raises(BadInput, match="no stream; expected one of rtsp://"):
        parse_source(text)


def test_a_password_is_not_repeated():
    with pytest.raises(BadInput) as caught:
        parse_source("ftp://user:secret@host/a?key=hidden")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/video77").exists(), reason="names Linux' device")
def test_a_missing_webcam():
    assert parse_source("77").shown == "webcam 77"
    opened, snippets, cut = read("77")
    assert (opened, snippets) == (None, [])
    assert "No such file or directory" in cut.reason


def test_the_child_starts_without_torch():
    code = "import sys, app.live.stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_pictures_stand_as_players_show_them():
    more = {"form": "mp4", "codec": "libx264", "options": {"movflags": "frag_keyframe+empty_moov"}}
    opened, [plain, *_], _ = read_sent(lambda file: write_stream(file, range(40), **more))
    turned, [snippet, *_], _ = read_sent(lambda file: write_stream(file, range(40), aspect=Fraction(1, 2), mirrored=True, **more))
    assert (opened.width, opened.height, turned.width, turned.height) == (64, 48, 32, 48)
    assert snippet.picture.shape == plain.picture.shape  # squashed
    assert np.abs(snippet.picture[:, ::-1].astype(int) - plain.picture).mean() < 3
    keep = replace(RECIPE, keep_aspect=True)
    with Server(lambda file: write_stream(file, range(20), aspect=Fraction(1, 2), **more)) as server:
        [kept, *_] = [item for item in Connection(parse_source(f"tcp://127.0.0.1:{server.port}"), keep) if isinstance(item, Snippet)]
    assert kept.picture.shape == (*keep.shape(32, 48)[::-1], 3)


@pytest.mark.parametrize(
    ("form", "codec", "options", "assumed"),
    [
        ("mpegts", "mpeg2video", {}, False),
        ("flv", "flv", {}, False),
        ("matroska", "libx264", {"live": "1"}, False),
        ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, False),
        ("h264", "libx264", {}, False),
        ("mjpeg", "mjpeg", {}, True),
    ],
)
def test_every_frame_once_and_in_order(form, codec, options, assumed):
    opened, snippets, cut = read_sent(lambda file: write_stream(file, range(3, 75), form=form, codec=codec, rate=10, options=options))
    fps = 25 if assumed else 10
    assert (opened.fps, opened.assumed, opened.recorded, opened.width, opened.height) == (fps, assumed, False, 64, 48)
    assert [number_of(snippet.picture) for snippet in snippets] == [3, 19, 35, 51, 67]
    assert [snippet.number for snippet in snippets] == [0, 1, 2, 3, 4]
    assert [snippet.frames for snippet in snippets] == [16, 16, 16, 16, 8]
    edges = [(snippet.start * fps, snippet.end * fps) for snippet in snippets]
    assert edges == [pytest.approx((first, min(first + 16, 72)), abs=0.02) for first in (0, 16, 32, 48, 64)]  # Matroska counts in ms
    assert all(snippet.picture.shape == (37, 49, 3) for snippet in snippets)
    assert (cut.frames, cut.jumps, cut.reason) == (72, 0, "the stream ended")
    assert snippets[-1].arrived == cut.arrived


def test_pictures_one_after_the_other_over_http(web):
    """What simple cameras send: multipart JPEG, without time stamps."""
    body = b""
    for number in range(3, 67):
        coded = io.BytesIO()
        Image.fromarray(picture(number)[:48]).convert("RGB").save(coded, "JPEG", quality=95)
        length = len(coded.getvalue())
        body += b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (length, coded.getvalue())
    opened, snippets, _ = read(f"{web({'/': ('multipart/x-mixed-replace; boundary=frame', body)})}/")
    assert (opened.fps, opened.assumed) == (25, True)
    assert [number_of(snippet.picture) for snippet in snippets] == [3, 19, 35, 51]


def test_rtsp():
    with Server(lambda client: rtsp_camera(client, range(5, 105)), raw=True) as server:
        opened, snippets, cut = read(f"rtsp://user:password@127.0.0.1:{server.port}/h264")
    assert (opened.fps, opened.recorded, cut.frames, cut.jumps) == (25, False, 100, 0)
    assert [number_of(snippet.picture) for snippet in snippets] == list(range(5, 105, 16))
    assert [snippet.start for snippet in snippets] == pytest.approx([16 * i / 25 for i in range(7)], abs=1e-3)


@pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="looks into /proc for the listener")
def test_udp():
    """A sender that knows of no receiver: what comes once somebody listens is read, and silence is a cut."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        coded, found = io.BytesIO(), []
        write_stream(coded, range(200))
        listener = threading.Thread(target=lambda: found.append(read(f"udp://127.0.0.1:{port}", timeout=8)))
        listener.start()
        while f":{port:04X} " not in Path("/proc/net/udp").read_text():
            time.sleep(0.05)
        for at in range(0, len(coded.getvalue()), 1316):  # seven packets of a transport stream
            sender.sendto(coded.getvalue()[at : at + 1316], ("127.0.0.1", port))
            time.sleep(0.001)
        listener.join()
    [(opened, snippets, cut)] = found
    assert (opened.recorded, cut.frames, cut.reason) == (False, 200, "no data for 8 s")
    assert [number_of(snippet.picture) for snippet in snippets] == list(range(0, 200, 16))


def test_a_recording_is_known_as_one(web, tmp_path):
    path = tmp_path / "a.mp4"
    write_stream(str(path), range(60), codec="libx264")
    address = web({"/a.mp4": ("video/mp4", path.read_bytes())})
    opened, snippets, _ = read(f"{address}/a.mp4")
    assert opened.recorded
    assert [snippet.frames for snippet in snippets] == [16, 16, 16]  # the rest is left out, as in the extraction of a file


def test_time_stamps_may_start_anywhere_and_jump():
    def part(file):
        write_stream(file, range(40), start=90_000)
        write_stream(file, range(40, 80), start=100)
        write_stream(file, range(80, 112), start=1_000_000)

    _, snippets, cut = read_sent(part)
    assert cut.jumps == 2
    assert [number_of(snippet.picture) for snippet in snippets] == list(range(0, 112, 16))
    assert [snippet.start for snippet in snippets] == pytest.approx([16 * i / 25 for i in range(7)])
    assert [snippet.end for snippet in snippets] == pytest.approx([16 * (i + 1) / 25 for i in range(7)])


def test_a_connection_that_breaks_within_a_picture():
    _, snippets, cut = read_sent(lambda file: write_stream(CutOff(file, 40_000), range(1000)))
    assert 20 < cut.frames < 1000
    assert [number_of(snippet.picture) for snippet in snippets] == list(range(0, cut.frames, 16))
    assert sum(snippet.frames for snippet in snippets) == cut.frames


@pytest.mark.parametrize("kind", ["ffconcat", "hls", "sdp", "dash"])
def test_a_playlist_names_no_local_file(kind, tmp_path, web):
    path = tmp_path / "neighbour.ts"
    write_stream(str(path), range(50))
    text = {
        "ffconcat": f"ffconcat version 1.0\nfile 'file:{path}'\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:{path}\n#EXT-X-ENDLIST\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:file:{path}\nm=video 5000 RTP/AVP 33\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"><Period>'
        f'<AdaptationSet mimeType="video/mp2t"><Representation id="1" bandwidth="1"><BaseURL>file:{path}</BaseURL></Representation>'
        f"</AdaptationSet></Period></MPD>",
    }[kind].encode()
    kinds = {"hls": "application/vnd.apple.mpegurl", "dash": "application/dash+xml", "sdp": "application/sdp"}
    address = web({"/list": (kinds.get(kind, "text/plain"), text)})
    found = [read(f"{address}/list"), read_sent(lambda file: file.write(text))]
    limits = {"timeout": 10, "max_pixels": 1 << 20, "memory": 1 << 30}
    task = {"source": asdict(parse_source("-")), "recipe": asdict(RECIPE), "more": limits}
    piped = subprocess.run([sys.executable, "-m", "app.live.stream", json.dumps(task)], input=text, capture_output=True, cwd=ROOT)
    assert piped.stdout[:1] == b"e", piped.stderr  # the end is the first message
    assert b"no video of these formats" in piped.stdout
    for opened, snippets, cut in found:
        assert (opened, snippets, cut.frames) == (None, [], 0)


def test_an_address_leads_to_no_local_file(tmp_path, web):
    path = tmp_path / "neighbour.ts"
    write_stream(str(path), range(50))
    assert read(f"{web({'/x': ('redirect', f'file://{path}')})}/x")[0] is None
    allowed = web({"/y": ("video/mp2t", path.read_bytes())})
    assert read(f"{web({'/x': ('redirect', f'{allowed}/y')})}/x")[0] is not None  # it is the file that is refused, not the redirect


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (lambda file: file.write(b"no video " * 1000), "no video of these formats"),
        (lambda file: None, "no video of these formats"),
        (lambda file: write_stream(file, range(20)), "not one frame of at most 3071 pixels"),
        (lambda file: write_stream(file, range(20), codec="libx264", form="matroska"), "64 × 48 pixels, expected at most 3071"),
    ],
)
def test_what_is_no_video_or_too_large(part, reason):
    opened, snippets, cut = read_sent(part, max_pixels=3071)
    assert (opened, snippets, cut.frames) == (None, [], 0)
    assert reason in cut.reason


def large(file, width, height):
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(width, height, "yuvj420p")))
        container.mux(stream.encode())


def test_a_strip_is_no_picture():
    opened, snippets, cut = read_sent(lambda file: large(file, 4000, 16))
    assert (opened, snippets, cut.reason) == (None, [], "4000 × 16 pixels, expected sides of at most 1 : 100")


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is limited")
def test_memory_is_limited():
    opened, snippets, _ = read_sent(lambda file: large(file, 4000, 2000))
    assert opened is not None
    assert [snippet.frames for snippet in snippets] == [3]
    opened, snippets, cut = read_sent(lambda file: large(file, 4000, 2000), memory=32 << 20)
    assert snippets == []
    assert "ended" not in cut.reason, cut.reason


def test_a_sender_that_falls_silent():
    over, coded = threading.Event(), io.BytesIO()
    write_stream(coded, range(120))

    def part(file):
        file.write(coded.getvalue())
        file.flush()
        over.wait(60)

    with Server(part) as server:
        _, snippets, cut = read(f"tcp://127.0.0.1:{server.port}", timeout=4)
        over.set()
    assert [number_of(snippet.picture) for snippet in snippets] == list(range(0, 120, 16))
    assert sum(snippet.frames for snippet in snippets) == 120
    assert (cut.frames, cut.jumps, cut.reason) == (120, 0, "no data for 4 s")


def test_a_child_that_hangs_is_killed_and_nothing_is_lost(monkeypatch):
    over = threading.Event()

    def part(file):
        write_stream(file, range(100))
        file.flush()
        over.wait(30)

    with Server(part) as server:
        connection = Connection(parse_source(f"tcp://127.0.0.1:{server.port}"), RECIPE, timeout=60)
        items = []
        for item in connection:
            items.append(item)
            if isinstance(item, Snippet) and item.number == 4:
                connection._patience = 0.5  # instead of two minutes
                os.kill(connection.pid, signal.SIGSTOP)
        over.set()
    *_, last, cut = items
    assert isinstance(cut, Cut)
    assert "was killed" in cut.reason
    assert last.number >= 4
    assert cut.frames >= 80
    with pytest.raises(ProcessLookupError):
        os.kill(connection.pid, 0)


def test_a_start_may_take_its_time():
    """Where many processes start at once it takes longer than a frame may: it is no hang."""
    with Server(lambda file: write_stream(file, range(20))) as server:
        connection = Connection(parse_source(f"tcp://127.0.0.1:{server.port}"), RECIPE, timeout=20)
        assert connection._patience == START > 50
        assert [connection._patience for _ in connection] == [45] * 4


def test_nobody_reads_any_more():
    """A parent that dies leaves no child behind."""
    over = threading.Event()

    def part(file):
        with contextlib.suppress(OSError, av.FFmpegError):
            while not over.is_set():
                write_stream(file, range(100))

    with Server(part) as server:
        code = (
            "import os; from app.live.stream import *\n"
            f"c = Connection(parse_source('tcp://127.0.0.1:{server.port}'), Recipe()); next(iter(c)); print(c.pid, flush=True); os._exit(9)"
        )
        parent = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT)
        pid = int(parent.stdout)
        gone = is_gone(pid)
        over.set()
    assert gone
