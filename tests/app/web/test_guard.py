"""app/web/guard.py: what is let through to Gradio, by an application that stands in for it."""

import json

import anyio
import gradio
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from app.web import guard as guard_module
from app.web.guard import MAX_EVENT, MULTIPART, Guard
from app.web.shelf import Shelf

MAX = 1000
FORM = {"content-type": "multipart/form-data; boundary=x"}
INPUTS = {0: [gradio.File], 1: [gradio.State, gradio.Slider], 2: [gradio.Dropdown], 3: []}


def guarded(app, home, *, most=MULTIPART + 3 * MAX, host="127.0.0.1"):
    return Guard(
        app,
        shelf=Shelf(home, keep=3600, max_bytes=most, pause=0),
        max_bytes=MAX,
        host=host,
        inputs=INPUTS,
        waits=lambda visitor: visitor == "a",
    )


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

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])])
    return TestClient(guarded(app, home), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/assets/index.js", 200),
        ("GET", "/config", 200),
        ("GET", "/gradio_api/queue/data?session_hash=a", 200),
        ("GET", "/gradio_api/queue/data?session_hash=b", 404),  # nobody of that name waits
        ("GET", "/gradio_api/queue/data", 404),
        ("GET", "/gradio_api/queue/data?session_hash=a&session_hash=b", 400),
        ("GET", "/gradio_api/upload_progress?upload_id=" + "x" * 65, 400),
        ("GET", "/gradio_api/heartbeat/" + "x" * 65, 404),
        ("GET", "/config?" + "&" * 30 + "a=1&" * 30, 400),
        ("GET", "/assets/%00", 404),
        ("GET", "/assets/%0a", 404),
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
    client = TestClient(guarded(PlainTextResponse("passed"), home, host="0.0.0.0"), base_url="http://page.example")
    assert client.get("/").status_code == 200
    for host in ("[", "a[b", "page.example:port", "", "[::1", "a b", "é"):
        assert client.get("/", headers={"host": host.encode()}).status_code == 400
    for host, status in (("page.example", 200), ("a.example, b.example", 200), ("[", 400), ("a/b", 400), ("", 400)):
        assert client.get("/", headers={"x-forwarded-host": host}).status_code == status


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        *((good, 200) for good in ("bytes=0-", "bytes=0-1", "bytes=2-900", "bytes=-2", " bytes=4-4")),
        *(
            (bad, 416)
            for bad in ("bytes=0-1-2", "bytes=5-", "bytes=2-1", "bytes=", "bytes=-", "lines=0-1", "bytes=0-1,3-4", "bytes=\u00b2-3", "")
        ),
        ("bytes=" + 40 * "9" + "-", 416),
    ],
)
def test_one_range_that_the_file_has(client, home, wanted, status):
    assert client.get(f"/gradio_api/file={home / 'a.mp4'}", headers={"range": wanted.encode("latin-1")}).status_code == status


@pytest.mark.parametrize("path", ["upload", "queue/join", "run/predict", "cancel", "reset"])
def test_what_another_web_site_sends_is_refused(client, path):
    def status(origin):
        return client.post(f"/gradio_api/{path}", headers={"origin": origin, **sent[0]}, **sent[1]).status_code

    event = {"data": [], "fn_index": 3, "session_hash": "a", "event_id": "b"}
    sent = (FORM, {"content": b"x"}) if path == "upload" else ({}, {"json": event})

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
    assert client.post(f"/gradio_api/{path}", headers=sent[0], **sent[1]).status_code == 200  # by no browser
    assert client.get("/config", headers={"origin": "http://["}).status_code == 403


def test_every_answer_has_the_headers(client):
    for path in ("/", "/docs", "/gradio_api/file=/etc/passwd"):
        headers = client.get(path).headers
        assert headers.get_list("content-security-policy") == [headers["content-security-policy"]]
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def join(client, value, **more):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"}, **more)


def event(*data, function, **more):
    return {"data": list(data), "fn_index": function, "session_hash": "visitor", "trigger_id": 7} | more


def test_an_event_names_only_own_files(client, home):
    file = {"path": str(home / "a.mp4"), "orig_name": "é.mp4", "meta": {"_type": "gradio.FileData"}}
    for data in (file, [file], file | {"url": "http://127.0.0.1:1/x", "size": "large", "is_stream": True}):
        assert join(client, event(data, function=0, event_data={"a": 1}, batched=True)).json() == event(file, function=0)
    for path in ("/etc/passwd", "http://127.0.0.1:1/x", str(home / ".." / "secret.mp4"), str(home / "link.mp4"), str(home), "a.mp4", ""):
        assert join(client, event(file | {"path": path}, function=0)).status_code == 403
    for path in (7, None, ["a"], {"path": "/etc/passwd"}):
        assert join(client, event(file | {"path": path}, function=0)).status_code == 400


@pytest.mark.parametrize(
    "sent",
    [
        *(event(None, value, function=1) for value in ([0.5], "0.5", None, True, {}, -0.1, 1.1, 1e400, float("nan"))),
        *(event(value, 0.5, function=1) for value in (0, "", {}, [], False)),
        *(event(value, function=2) for value in (7, ["street.mp4"], {}, True, "x" * 5000)),
        *(event(value, function=0) for value in ("street.mp4", [], [None], {}, {"path": "a"}, {"path": "a", "meta": 1}, 7)),
        *(event(*values, function=1) for values in ((), (None,), (None, 0.5, 0.5))),
        *(event(function=function) for function in (4, -1, 1e3, "3", None, [3], 10**30)),
        *(event(function=3, session_hash=name) for name in (None, "", "a b", "x" * 65, 7, ["a"], "a\n")),
        *(event(function=3, trigger_id=number) for number in ("7", [7], 1.5)),
        *({"data": data, "fn_index": 3, "session_hash": "a"} for data in (None, {}, "", 7)),
        *(None, [], 7, "event", {}),
    ],
)
def test_what_the_page_does_not_send_is_refused(client, sent):
    assert join(client, json.dumps(sent).encode()).status_code == 400
    assert join(client, event(None, 0, function=1)).status_code == 200
    assert join(client, event("street.mp4", function=2)).status_code == 200


def test_what_was_checked_is_what_arrives(client, home):
    path = json.dumps(str(home / "a.mp4"))
    body = '{"data": [{"path": %s, "path": %s, "meta": {}}], "fn_index": 0, "session_hash": "a"}'
    answer = join(client, (body % ('"/etc/passwd"', path)).encode())
    assert answer.json()["data"] == [{"path": str(home / "a.mp4"), "orig_name": None, "meta": {}}]
    assert b"passwd" not in answer.content
    assert join(client, (body % (path, '"/etc/passwd"')).encode()).status_code == 403


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 30_000])
def test_an_event_that_is_no_json(client, body):
    assert join(client, body).status_code == 400


def test_a_large_event(client):
    fill = MAX_EVENT - len(json.dumps(event(function=3, fill="")))
    assert join(client, json.dumps(event(function=3, fill="x" * fill)).encode()).status_code == 200
    assert join(client, json.dumps(event(function=3, fill="x" * (fill + 1))).encode()).status_code == 413


def test_an_event_that_does_not_come(home, monkeypatch):
    monkeypatch.setattr(guard_module, "IDLE", 0.01)
    messages, statuses = [{"type": "http.request", "body": b"{", "more_body": True}], []

    async def receive():
        return messages.pop() if messages else await anyio.sleep_forever()

    async def send(message):
        statuses.append(message.get("status"))

    anyio.run(guarded(None, home), upload_scope(1) | {"path": "/gradio_api/queue/join"}, receive, send)
    assert statuses[0] == 408


def test_an_upload_that_an_event_names_is_not_removed_to_make_room(home):
    async def answer(scope, receive, send):
        await PlainTextResponse("passed", status)(scope, receive, send)

    guard = guarded(answer, home)
    for status, kept in ((503, set()), (200, {str(home / "a.mp4")})):
        client = TestClient(guard, base_url="http://127.0.0.1:7860")
        assert join(client, event({"path": str(home / "a.mp4"), "meta": {}}, function=0)).status_code == status
        assert guard.shelf._used == kept


def upload(client, body):
    return client.post("/gradio_api/upload", content=body, headers=FORM)


def test_uploads_up_to_the_limit(client):
    assert upload(client, bytes(MAX)).content == bytes(MAX)
    assert upload(client, bytes(MAX + MULTIPART)).status_code == 200
    assert upload(client, bytes(MAX + MULTIPART + 1)).status_code == 413
    assert upload(client, bytes(MAX)).status_code == 200  # nothing of it is left


def test_an_upload_that_is_announced_too_large_is_not_read(home):
    guard = guarded(None, home, most=MULTIPART + 3 * MAX)
    scope, sent = upload_scope(MAX + MULTIPART + 1), []

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
        "POST", "/gradio_api/upload", content=pieces((MAX + MULTIPART) // 100 + 1), headers=FORM | {"content-length": "5"}
    )
    assert client.send(lying).status_code == 413


def test_a_full_folder(client, home):
    (home / "more.mp4").write_bytes(bytes(MULTIPART + 2 * MAX))
    assert upload(client, bytes(MAX // 2)).status_code == 200
    assert upload(client, bytes(MAX)).status_code == 507
    (home / "more.mp4").unlink()
    assert upload(client, bytes(MAX)).status_code == 200


def upload_scope(size):
    headers = [(b"host", b"127.0.0.1"), (b"content-length", str(size).encode()), *((a.encode(), b.encode()) for a, b in FORM.items())]
    return {"type": "http", "method": "POST", "scheme": "http", "path": "/gradio_api/upload", "query_string": b"", "headers": headers}


async def reading(scope, receive, send):
    """An application that reads what comes, and waits for the client to go when all has come."""
    while (await receive()).get("more_body"):
        pass
    await receive()
    await PlainTextResponse("passed")(scope, receive, send)


def test_uploads_that_bring_nothing_do_not_keep_others_out(home):
    guard = guarded(reading, home, most=3 * MAX)
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
    guard = guarded(reading, home, most=MULTIPART + 3 * MAX)
    messages, statuses = [{"type": "http.request", "body": b"x", "more_body": True}], []

    async def receive():
        return messages.pop() if messages else await anyio.sleep_forever()

    async def send(message):
        statuses.append(message.get("status"))

    anyio.run(guard, upload_scope(MAX), receive, send)
    assert statuses[0] == 408


def test_one_that_has_come_may_take_its_time(home, monkeypatch):
    monkeypatch.setattr(guard_module, "IDLE", 0.01)
    guard = guarded(reading, home, most=MULTIPART + 3 * MAX)
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
    guard = guarded(reading, home, most=2 * MAX + 100)
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
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
        pass
