"""utils/guard.py: what is let through to Gradio, by an application that stands in for it."""

import json

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from utils.guard import MAX_EVENT, MULTIPART, Guard

MAX = 1000


@pytest.fixture
def home(tmp_path):
    place = tmp_path / "home"
    place.mkdir()
    (place / "a.mp4").write_bytes(b"video")
    (place / "link.mp4").symlink_to("/etc/passwd")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    return place


@pytest.fixture
def client(home):
    async def answer(request):
        body = await request.body()
        return PlainTextResponse(body or b"passed", headers={"content-security-policy": "none"})

    guard = Middleware(Guard, folder=home, max_bytes=MAX, max_stored=MULTIPART + 3 * MAX, keep=3600, host="127.0.0.1")
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])], middleware=[guard])
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/assets/index.js", 200),
        ("GET", "/config", 200),
        ("GET", "/gradio_api/queue/data?session_hash=a", 200),
        ("POST", "/", 404),
        ("PUT", "/", 404),
        ("OPTIONS", "/gradio_api/queue/join", 404),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/", 404),
        ("GET", "/gradio_api/file/etc/passwd", 404),
        ("GET", "/gradio_api/info", 404),
        ("GET", "/gradio_api/openapi.json", 404),
        ("GET", "/docs", 404),
        ("GET", "/monitoring", 404),
        ("GET", "/gradio_api/deep_link?session_hash=a", 404),
        ("GET", "/gradio_api/custom_component/a/client/component/index.js", 404),
        ("GET", "/gradio_api/stream/a/1/2/playlist.m3u8", 404),
        ("POST", "/gradio_api/call/predict", 404),
        ("POST", "/gradio_api/component_server", 404),
        ("POST", "/gradio_api/vibe-edit", 404),
        ("POST", "/gradio_api/process_recording", 404),
        ("GET", "/gradio_api/run-history/records", 404),
        ("GET", "/gradio_api/file=http://127.0.0.1:1/", 403),
        ("GET", "/gradio_api/file=", 403),
    ],
)
def test_addresses(client, method, path, status):
    assert client.request(method, path).status_code == status


def test_files_only_from_the_own_folder(client, home):
    def get(path):
        return client.get(f"/gradio_api/file={path}").status_code

    assert get(home / "a.mp4") == 200
    assert get(str(home / "a.mp4").replace("/", "%2F")) == 200
    for path in ("/etc/passwd", home.parent / "secret.mp4", home / "link.mp4", home, "a.mp4", home / "b.mp4", "%00", "file:///etc/passwd"):
        assert get(path) == 403
    for up in ("/../secret.mp4", "/%2e%2e/secret.mp4", "/%252e%252e/secret.mp4", "/..%2fsecret.mp4", "%2F..%2Fsecret.mp4"):
        assert get(f"{home}{up}") in (403, 404)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::2]", "127.0.0.1@evil.example"])
def test_another_name_is_refused_on_a_loopback_address(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_own_names(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_any_name_on_an_open_address(home):
    guard = Guard(PlainTextResponse("passed"), folder=home, max_bytes=MAX, max_stored=MAX, keep=1, host="0.0.0.0")
    assert TestClient(guard, base_url="http://page.example").get("/").status_code == 200


def test_every_answer_has_the_headers(client):
    for path in ("/", "/docs", "/gradio_api/file=/etc/passwd"):
        headers = client.get(path).headers
        assert headers.get_list("content-security-policy") == [headers["content-security-policy"]]
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def join(client, value, **more):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"}, **more)


def test_an_event_names_only_own_files(client, home):
    own = {"data": [{"path": str(home / "a.mp4"), "meta": {"_type": "gradio.FileData"}}, 1, "é"], "fn_index": 0}
    assert join(client, own).json() == own
    outside = [
        "/etc/passwd",
        "http://127.0.0.1:1/x",
        str(home / ".." / "secret.mp4"),
        str(home / "link.mp4"),
        str(home),
        "a.mp4",
        "",
        7,
        None,
    ]
    for path in outside:
        for data in ({"path": path}, [[{"a": {"path": path}}]], {"path": {"path": path}}):
            assert join(client, {"data": data}).status_code == 403


def test_what_was_checked_is_what_arrives(client, home):
    path = json.dumps(str(home / "a.mp4"))
    twice = f'{{"data": [{{"path": "/etc/passwd", "path": {path}}}]}}'.encode()
    assert join(client, twice).json() == {"data": [{"path": str(home / "a.mp4")}]}
    assert b"passwd" not in join(client, twice).content
    assert join(client, f'{{"path": {path}, "path": "/etc/passwd"}}'.encode()).status_code == 403


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 30_000])
def test_an_event_that_is_no_json(client, body):
    assert join(client, body).status_code == 400


def test_a_large_event(client):
    assert join(client, b'"' + b"x" * (MAX_EVENT - 2) + b'"').status_code == 200
    assert join(client, b'"' + b"x" * MAX_EVENT + b'"').status_code == 413


def upload(client, body):
    return client.post("/gradio_api/upload", content=body)


def test_uploads_up_to_the_limit(client):
    assert upload(client, bytes(MAX)).content == bytes(MAX)
    assert upload(client, bytes(MAX + MULTIPART)).status_code == 200
    assert upload(client, bytes(MAX + MULTIPART + 1)).status_code == 413
    assert upload(client, bytes(MAX)).status_code == 200  # nothing of it is left


def test_an_upload_that_is_announced_too_large_is_not_read(home):
    guard = Guard(None, folder=home, max_bytes=MAX, max_stored=MULTIPART + 3 * MAX, keep=1, host="127.0.0.1")
    headers = [(b"host", b"127.0.0.1"), (b"content-length", str(MAX + MULTIPART + 1).encode())]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}
    sent = []

    async def receive():
        raise AssertionError("it was read")

    async def send(message):
        sent.append(message)

    anyio.run(guard, scope, receive, send)
    assert sent[0]["status"] == 413


def test_an_upload_that_does_not_say_how_long_it_is(client):
    def pieces(count):
        return (bytes(100) for _ in range(count))

    assert upload(client, pieces(10)).status_code == 200
    assert upload(client, pieces((MAX + MULTIPART) // 100 + 1)).status_code == 413
    lying = client.build_request(
        "POST", "/gradio_api/upload", content=pieces((MAX + MULTIPART) // 100 + 1), headers={"content-length": "5"}
    )
    assert client.send(lying).status_code == 413


def test_a_full_folder(client, home):
    (home / "more.mp4").write_bytes(bytes(MULTIPART + 2 * MAX))
    assert upload(client, bytes(MAX // 2)).status_code == 200
    assert upload(client, bytes(MAX)).status_code == 507
    (home / "more.mp4").unlink()
    assert upload(client, bytes(MAX)).status_code == 200


def test_web_sockets_are_refused(client):
    with pytest.raises(RuntimeError, match="http only"), client.websocket_connect("/"):
        pass
