"""The web page as strangers may have it: attacked over HTTP. Its server is a process of its own (tests/page_server.py)."""

import http.server
import os
import socket
import threading
from pathlib import Path

import httpx
import pytest

from page_server import MAX_BYTES, ROOT, ask, event, file_data

pytestmark = pytest.mark.slow


@pytest.fixture
def http_client(server):
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


def test_no_file_outside_the_own_folder(http_client, server, videos):
    stranger = videos.parent / "secret.mp4"
    (server.home() / "link.mp4").symlink_to(stranger)
    places = ["/etc/passwd", stranger, videos / "street.mp4", ROOT / "README.md", "README.md", "../secret.mp4", server.home() / "link.mp4"]
    for place in places:
        for path in (
            f"file={place}",
            f"file/{place}",
            f"file=%2e%2e%2f{place}",
            f"file={server.home()}/..%2f..%2f..{place}",
            f"file=file://{place}",
        ):
            answer = http_client.get(f"gradio_api/{path}")
            assert answer.status_code in (403, 404), path
            assert b"root:" not in answer.content
    raw = f"GET /gradio_api/file={server.home()}/../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # as a client sends it that tidies no path
        connection.sendall(raw.encode())
        assert connection.makefile("rb").read(12) == b"HTTP/1.1 403"


def test_an_event_that_names_a_file_by_hand(http_client, server, videos):
    for path in ("/etc/passwd", videos / "street.mp4", videos.parent / "secret.mp4", server.home() / ".." / "empty", "README.md"):
        assert ask(http_client, "upload", [file_data(path)]).startswith("403")
    [own] = http_client.post("gradio_api/upload", files={"files": ("../../up.mp4", (videos / "street.mp4").read_bytes())}).json()
    assert Path(own).is_relative_to(server.home())
    assert Path(own).name == "up.mp4"
    assert "up.mp4: 2 segments" in ask(http_client, "upload", [file_data(own)])


def test_the_server_fetches_nothing_for_strangers(http_client, server):
    asked = []

    class Inner(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    inner = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inner)
    threading.Thread(target=inner.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{inner.server_port}/inner.mp4"
    own = http_client.post("gradio_api/upload", files={"files": ("a.mp4", b"junk")}).json()[0]
    ask(http_client, "upload", [file_data(url)])
    assert "a.mp4: cannot be opened" in ask(http_client, "upload", [file_data(own, url=url)])
    assert ask(http_client, "go", [file_data(url)]).startswith("400")
    assert ask(http_client, "upload", [url]).startswith("400")
    for path in (f"file={url}", f"proxy={url}", f"file={url.replace('127.0.0.1', 'localhost')}"):
        assert http_client.get(f"gradio_api/{path}").status_code in (403, 404)
    assert httpx.get(url, trust_env=False).status_code == 200
    inner.shutdown()
    assert asked == ["/inner.mp4"]  # ours


def test_a_chosen_name_is_one_of_the_list(http_client, server, videos):
    for name in (
        "../secret.mp4",
        "link.mp4",
        "/etc/passwd",
        str(videos / "street.mp4"),
        "./street.mp4",
        "street.mp4/",
        "",
        None,
        7,
        ["street.mp4"],
        {},
    ):
        said = ask(http_client, "go", [name])
        assert "process_completed" in said if name is None or isinstance(name, str) else said.startswith("400"), said
        assert "segment" not in said
        assert "the secret" not in said
    assert not [line for line in server.said if "Traceback" in line]
    assert "street.mp4: 2 segments" in ask(http_client, "go", ["street.mp4"])


def test_an_oversized_upload_by_hand_leaves_nothing(http_client, server):
    before = sum(file.stat().st_size for file in server.home().rglob("*.mp4"))
    for size in (MAX_BYTES + 1, 50 * MAX_BYTES):
        answer = http_client.post("gradio_api/upload", files={"files": ("big.mp4", bytes(size))})
        assert answer.status_code == 413
    assert sum(file.stat().st_size for file in server.home().rglob("*.mp4")) == before


def test_a_slider_moved_by_hand_does_not_fill_the_disk(http_client, server):
    assert "street.mp4: 2 segments" in ask(http_client, "go", ["street.mp4"], "mover")
    before = len(list(server.home().rglob("*")))
    for step in range(20):
        answer = http_client.post("gradio_api/run/predict", json=event(http_client, "threshold", [None, step / 20], "mover"))
        assert '"threshold":' in answer.text
    assert len(list(server.home().rglob("*"))) == before


def test_the_work_of_a_visitor_who_has_gone_is_ended(http_client):
    session = os.urandom(6).hex()
    with http_client.stream("GET", f"gradio_api/heartbeat/{session}") as alive:
        beats = alive.iter_lines()  # as long as this iterator lives, so does the connection
        next(beats)
        assert http_client.post("gradio_api/queue/join", json=event(http_client, "go", ["endless.mp4"], session)).status_code == 200
        with http_client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            lines = stream.iter_lines()
            assert any('"progress"' in line for line in lines)
    assert "street.mp4: 2 segments" in ask(http_client, "go", ["street.mp4"])  # there is one worker


def test_another_web_site_sends_nothing(http_client, server):
    other = {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    before = len(list(server.home().rglob("*")))
    assert http_client.post("gradio_api/upload", files={"files": ("a.mp4", b"evil")}, headers=other).status_code == 403
    assert (
        http_client.post("gradio_api/queue/join", json=event(http_client, "go", ["street.mp4"], "evil"), headers=other).status_code == 403
    )
    assert len(list(server.home().rglob("*"))) == before


def test_the_folder_is_its_owner_s_alone(http_client, server):
    [own] = http_client.post("gradio_api/upload", files={"files": ("a.mp4", b"junk")}).json()
    assert Path(own).read_bytes() == b"junk"
    assert Path(own).is_relative_to(server.home())
    assert (server.home().parent.stat().st_mode & 0o077) == 0


def test_other_names_other_addresses_and_other_doors(http_client, server):
    assert http_client.get("", headers={"host": "evil.example"}).status_code == 421
    for path in ("docs", "gradio_api/info", "gradio_api/openapi.json", "monitoring", "gradio_api/runs", "gradio_api/mcp/", "login_check"):
        assert http_client.get(path).status_code == 404
    for path in ("gradio_api/call/uploaded", "gradio_api/api/uploaded", "gradio_api/component_server", "gradio_api/vibe-edit"):
        assert http_client.post(path, json={"data": []}).status_code == 404
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    sockets = [line.split()[1] for line in listening if line.split()[3] == "0A" and line.split()[1].endswith(f":{server.port:04X}")]
    assert sockets == [f"0100007F:{server.port:04X}"]  # 127.0.0.1
    assert list(server.home().with_name("empty").iterdir()) == []
