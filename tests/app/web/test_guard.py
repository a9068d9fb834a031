"""app/web/guard.py: what is let through to Gradio, by an application that stands in for it."""

import json

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.web import guard as guard_module
from app.web.guard import MAX_EVENT, MULTIPART, Guard

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


@pytest.mark.parametrize("path", ["upload", "queue/join", "run/predict", "cancel", "reset"])
def test_what_another_web_site_sends_is_refused(client, path):
    def status(origin):
        return client.post(f"/gradio_api/{path}", content=b"{}", headers={"origin": origin}).status_code

    for origin in (
        "http://evil.example",
        "null",
        "",
        "https://127.0.0.1:7860",
        "http://127.0.0.1",
        "http://127.0.0.1:7861",
        "http://localhost:7860",
    ):
        assert status(origin) == 403
    assert status("http://127.0.0.1:7860") == 200
    assert client.post(f"/gradio_api/{path}", content=b"{}").status_code == 200  # by no browser


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
    scope = {"type": "http", "method": "POST", "scheme": "http", "path": "/gradio_api/upload", "headers": headers}
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


def upload_scope(size):
    headers = [(b"host", b"127.0.0.1"), (b"content-length", str(size).encode())]
    return {"type": "http", "method": "POST", "scheme": "http", "path": "/gradio_api/upload", "headers": headers}


async def reading(scope, receive, send):
    """An application that reads what comes, and waits for the client to go when all has come."""
    while (await receive()).get("more_body"):
        pass
    await receive()
    await PlainTextResponse("passed")(scope, receive, send)


def test_uploads_that_bring_nothing_do_not_keep_others_out(home):
    guard = Guard(reading, folder=home, max_bytes=MAX, max_stored=3 * MAX, keep=3600, host="127.0.0.1")
    statuses = []

    async def send(message):
        statuses.append(message.get("status"))

    async def honest():
        messages = [{"type": "http.request", "body": bytes(MAX)}, {"type": "http.disconnect"}]

        async def receive():
            return messages.pop(0)

        await guard(upload_scope(MAX), receive, send)

    async def both():
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(guard, upload_scope(MAX), anyio.sleep_forever, send)
            await anyio.wait_all_tasks_blocked()
            await honest()
            group.cancel_scope.cancel()

    anyio.run(both)
    assert statuses[0] == 200


def test_an_upload_that_brings_nothing_is_ended(home, monkeypatch):
    monkeypatch.setattr(guard_module, "IDLE", 0.01)
    guard = Guard(reading, folder=home, max_bytes=MAX, max_stored=MULTIPART + 3 * MAX, keep=3600, host="127.0.0.1")
    messages, statuses = [{"type": "http.request", "body": b"x", "more_body": True}], []

    async def receive():
        return messages.pop() if messages else await anyio.sleep_forever()

    async def send(message):
        statuses.append(message.get("status"))

    anyio.run(guard, upload_scope(MAX), receive, send)
    assert statuses[0] == 408


def test_one_that_has_come_may_take_its_time(home, monkeypatch):
    monkeypatch.setattr(guard_module, "IDLE", 0.01)
    guard = Guard(reading, folder=home, max_bytes=MAX, max_stored=MULTIPART + 3 * MAX, keep=3600, host="127.0.0.1")
    messages, statuses = [{"type": "http.request", "body": b"x"}], []

    async def receive():
        if messages:
            return messages.pop()
        await anyio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message):
        statuses.append(message.get("status"))

    anyio.run(guard, upload_scope(1), receive, send)
    assert statuses[0] == 200


def test_uploads_at_the_same_time_do_not_fill_more_than_there_is(home):
    """Each of the three fits when it begins; two halves more than there is room for follow."""
    guard = Guard(reading, folder=home, max_bytes=MAX, max_stored=2 * MAX + 100, keep=3600, host="127.0.0.1")
    statuses, begun = [], []

    async def upload(all_begun):
        messages = [{"type": "http.disconnect"}, *({"type": "http.request", "body": bytes(MAX // 2), "more_body": more} for more in (0, 1))]

        async def receive():
            begun.append(1)
            if len(begun) == 3:
                all_begun.set()
            await all_begun.wait()
            return messages.pop()

        async def send(message):
            statuses.append(message.get("status"))

        await guard(upload_scope(MAX), receive, send)

    async def three():
        all_begun = anyio.Event()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(upload, all_begun)

    anyio.run(three)
    assert sorted(filter(None, statuses)) == [200, 507, 507]


def test_web_sockets_are_refused(client):
    with pytest.raises(RuntimeError, match="http only"), client.websocket_connect("/"):
        pass
