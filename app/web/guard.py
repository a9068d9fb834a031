"""What stands between strangers and Gradio: an ASGI middleware that lets through only what the page (app/web/page.py) uses.

Gradio serves many more addresses than one page needs (proxies to other hosts, component code, an editor, monitoring), and takes from a
request the path, or the web address, of a file to read. So: a list of addresses; files only from the page's own folder, symbolic links
resolved; a limit for a request's size and for what the folder holds; on a loopback address, only its own names as Host, so that another
web site whose name is made to point here gets nothing; nothing sent by a page of another web site; of headers, addresses and events only
what the page's own browser side sends, so that what Gradio would stumble over is answered here with 4xx; and a content security policy
under which the browser asks no other host.
"""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs

import anyio
import gradio
from pydantic import BaseModel, StringConstraints, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from app.web.connections import limited
from app.web.shelf import FULL, Shelf
from utils.errors import BadInput
from utils.evaluation.plots import BLUE
from utils.files import ROOT

READ = re.compile(
    r"/|/(assets|static)/.*|/(theme\.css|favicon\.ico|robots\.txt|manifest\.json|config)"
    r"|/gradio_api/(theme\.css|startup-events|queue/data|upload_progress|heartbeat/[0-9A-Za-z]{1,64}|file=.*)"
)
WRITE = re.compile(r"/gradio_api/(upload|queue/join|run/predict|cancel|reset)/?")
FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
MAX_EVENT = 64 << 10  # bytes of what a button or slider sends
MULTIPART = 64 << 10  # bytes around the file in an upload
POLL = 0.1  # seconds after which Gradio looks for work and for its progress; its own 0.001 and 0.01 take 5 % of a core with nobody there
IDLE = 30  # seconds for which an upload, or an event, may bring nothing
NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")  # of a visitor, an event, an upload: the browser draws them
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?", re.ASCII)
FORM = re.compile(r"multipart/form-data; ?boundary=[\w'()+,./:=?-]{1,70}", re.ASCII)
RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})|bytes=-[0-9]{1,15}")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
POLICY = (  # Gradio's page is made of inline scripts, and its templates are compiled in the browser
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
SET = (b"content-length", b"content-type", b"transfer-encoding", b"content-encoding")  # of an event, by the guard
TYPE = (b"content-type", b"application/json")
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

FONTS = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}  # none that a browser would have to fetch
DARK = "#005a8e"  # BLUE under a pointer
STYLE = """
.html-container { padding: 0 !important; }
#status .html-container { min-height: 6.5rem; }
#status > .wrap { inset: 0; }
#status .progress-text { position: static; transform: none; }
#status .pending { visibility: hidden; }
#reset { align-self: center; }
"""  # room for the progress, which Gradio shows over the status


def open_server(page: gradio.Blocks, *, shelf: Shelf, folder: Path | None, host: str, port: int, max_bytes: int) -> None:
    """Start the page's server, in threads, with a Guard, its connections limited and all of Gradio's extras off. Raises BadInput where the
    port is taken.
    """
    inputs = {number: [type(one) for one in function.inputs] for number, function in page.fns.items()}
    waits = page._queue.pending_messages_per_session.__contains__
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = POLL
    limits = {"shelf": shelf, "max_bytes": max_bytes, "host": host, "inputs": inputs, "waits": waits}
    closed = [place for place in (Path.home(), ROOT, folder) if place and not shelf.folder.is_relative_to(place)]
    theme = gradio.themes.Default(primary_hue="blue", spacing_size="sm", **FONTS).set(
        **{f"button_primary_background_fill{mode}": BLUE for mode in ("", "_dark")},
        **{f"button_primary_background_fill_hover{mode}": DARK for mode in ("", "_dark")},
        slider_color=BLUE,
    )
    off = dict.fromkeys(("share", "inbrowser", "enable_monitoring", "pwa", "ssr_mode", "mcp_server"), False)
    off |= {"allowed_paths": [], "footer_links": [], "quiet": True}
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            blocked_paths=[str(place) for place in closed],
            max_file_size=max_bytes,
            state_session_capacity=100,
            theme=theme,
            css=STYLE,
            app_kwargs={"middleware": [Middleware(Guard, **limits)]},
            **off,
        )
    except OSError as error:
        raise BadInput(f"--port {port} on {host}: cannot be opened ({error}); name another port") from None
    config = page.server.config
    config.http_protocol_class = limited(config.http_protocol_class)  # which the server looks up for each connection


Name = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]


class Event(BaseModel, strict=True):
    """What a button or slider sends; whatever else is in it is not handed on."""

    data: list
    fn_index: int
    session_hash: Name
    trigger_id: int | None = None


class Cancel(BaseModel, strict=True):
    """What a closed page sends."""

    session_hash: Name
    fn_index: int
    event_id: Name


class Reset(BaseModel, strict=True):
    event_id: Name


class Uploaded(BaseModel, strict=True):
    """A file of the page's folder, as gr.File has it."""

    path: str
    orig_name: str | None = None
    meta: dict[str, str]


class Guard:
    """ASGI middleware around Gradio's application.

    shelf: the folder whose files are served, which takes the uploads; max_bytes: of an upload; host: the address that the server listens
    on; inputs: of each of the page's functions the classes of the components that it reads; waits: whether a visitor of that name waits for
    answers.
    """

    def __init__(self, app, *, shelf: Shelf, max_bytes: int, host: str, inputs: dict[int, list[type]], waits: Callable[[str], bool]):
        self.app, self.shelf, self.folder, self.max_bytes, self.inputs, self.waits = app, shelf, shelf.folder, max_bytes, inputs, waits
        self.names = LOOPBACK if host in LOOPBACK else None

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":  # the page opens none
            return await send({"type": "websocket.close", "code": 1000})
        started = False

        async def answer(message):
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                mine = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [(name, value) for name, value in message["headers"] if name.lower().decode() not in HEADERS] + mine
            await send(message)

        try:
            await self._pass(scope, receive, answer)
        except HTTPException as error:
            if started:
                raise
            await PlainTextResponse(error.detail, error.status_code, headers={"connection": "close"})(scope, receive, answer)

    async def _pass(self, scope, receive, send):
        path, headers = scope["path"], {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = HOST.fullmatch(headers.get("host", ""))
        if self.names and (host is None or host[1].strip("[]").lower() not in self.names):
            raise HTTPException(421, "This page answers only under the address it was started on.")
        if host is None or not HOST.fullmatch(headers.get("x-forwarded-host", "a").split(",")[0].strip()):
            raise HTTPException(400, "No name of a host.")
        own = f"{scope['scheme']}://{headers.get('host', '')}".lower()
        if headers.get("origin", own).lower() != own:
            raise HTTPException(403, "Sent by another web site.")
        wanted = {"GET": READ, "HEAD": READ, "POST": WRITE}.get(scope["method"])
        odd = "\0" in path or any(len(part) > 255 for part in path.split("/"))  # no name of a file
        if wanted is None or not wanted.fullmatch(path) or (odd and not path.startswith(FILE)):
            raise HTTPException(404, "Not here.")
        self._check_query(path, scope["query_string"].decode("latin-1"))
        if path.startswith(FILE):
            self._check_file(path.removeprefix(FILE), headers.get("range"))
        if path.rstrip("/") == UPLOAD:
            return await self._upload(scope, receive, send, headers)
        if scope["method"] == "POST":
            receive, send = await self._event(path, receive, send)
            scope = scope | {"headers": [(name, value) for name, value in scope["headers"] if name not in SET] + [TYPE]}
        return await self.app(scope, receive, send)

    def _check_query(self, path: str, query: str) -> None:
        """That each name behind "?" is there once and looks as the browser draws them, and that who asks for answers waits for some."""
        try:
            given = parse_qs(query, keep_blank_values=True, max_num_fields=20)
        except ValueError:
            raise HTTPException(400, "No query.") from None
        for name in ("session_hash", "upload_id"):
            if name in given and (len(given[name]) != 1 or not NAME.fullmatch(given[name][0])):
                raise HTTPException(400, f"No {name}.")
        if path.endswith("/queue/data") and not self.waits(given.get("session_hash", [""])[0]):
            raise HTTPException(404, "Nobody of that name waits here.")

    def _check_file(self, path: str, wanted: str | None) -> None:
        """That a file is the page's, and has the part of it that is wanted, which is one range or all."""
        try:
            if not self.holds(path):
                raise FileNotFoundError
            size = os.stat(path).st_size
        except OSError:  # cleared away between the two, perhaps
            raise HTTPException(403, "This file is not the page's to give.") from None
        if wanted is not None:
            part = RANGE.fullmatch(wanted.strip())
            if part is None or (part[1] and not int(part[1]) < size) or (part[2] and int(part[2]) < int(part[1])):
                raise HTTPException(416, "No range of this file.", {"content-range": f"bytes */{size}"})

    def holds(self, path) -> bool:
        """Whether `path` is a regular file below the page's folder, wherever symbolic links lead."""
        try:
            real = Path(os.path.realpath(path))
            return os.path.isabs(path) and real.is_relative_to(self.folder) and real.is_file()
        except (ValueError, TypeError, OSError):
            return False

    async def _event(self, path: str, receive, send):
        """Read what an event sends, make sure that it is what the page's own browser side would send and that the files it names are the
        page's own, and hand on what was checked: (receive, send) for the application.
        """
        body = b""
        try:
            with anyio.fail_after(IDLE):
                while (message := await receive())["type"] == "http.request":
                    body += message.get("body", b"")
                    if len(body) > MAX_EVENT:
                        raise HTTPException(413, f"More than {MAX_EVENT} bytes for an event.")
                    if not message.get("more_body"):
                        break
                else:
                    raise HTTPException(400, "The request was cut.")
        except TimeoutError:
            raise HTTPException(408, f"No whole event in {IDLE} seconds.") from None
        named, kind = [], {"cancel": Cancel, "reset": Reset}.get(path.rstrip("/").rsplit("/", 1)[1], Event)
        try:
            value = kind.model_validate(json.loads(body))
            if kind is Event:
                value.data, named = self._check_data(value)
        except (ValueError, RecursionError, ValidationError):
            raise HTTPException(400, "No event of this page.") from None
        if not all(map(self.holds, named)):
            raise HTTPException(403, "The event names a file that is not the page's.")
        checked, sent = json.dumps(value.model_dump()).encode(), False

        async def answer(message):
            if message.get("status") == 200:
                for file in named:
                    self.shelf.use(file)  # somebody waits for what comes of it
            await send(message)

        async def replay():
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": checked, "more_body": False}

        return replay, answer

    def _check_data(self, event: Event) -> tuple[list, list[str]]:
        """What an event says for each component that its function reads, and the files among it. Raises ValueError where it is of another
        kind than the component sends.
        """
        kinds, files = self.inputs.get(event.fn_index), []
        if kinds is None or len(kinds) != len(event.data):
            raise ValueError("no such function, or one that reads something else")

        def checked(kind: type, value):
            if kind is gradio.Slider:
                sound = type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1
            elif kind is gradio.Dropdown:
                sound = value is None or (type(value) is str and len(value) < 4096)
            elif kind is gradio.File and value is not None:
                file = Uploaded.model_validate(value[0] if type(value) is list and len(value) == 1 else value)
                files.append(file.path)
                return file.model_dump()
            else:  # of what the server itself keeps nothing is sent
                sound = value is None
            if not sound:
                raise ValueError(f"no value of a {kind.__name__}")
            return value

        return [checked(kind, value) for kind, value in zip(kinds, event.data, strict=True)], files

    async def _upload(self, scope, receive, send, headers: dict[str, str]):
        if not FORM.fullmatch(headers.get("content-type", "")):
            raise HTTPException(400, "No upload.")
        allowed, announced = self.max_bytes + MULTIPART, headers.get("content-length", "")
        expected = int(announced) if re.fullmatch("[0-9]{1,18}", announced) else allowed
        if expected > allowed:
            raise HTTPException(413, f"Larger than the {self.max_bytes} bytes that this page takes.")
        due = self.shelf.is_due(expected)  # else a thread for it would take a fifth of the time of an upload
        if not (await anyio.to_thread.run_sync(self.shelf.room, expected) if due else self.shelf.fits(expected)):
            raise HTTPException(507, FULL)
        self.shelf.add(0, 1)
        received, whole = 0, False

        async def counted():
            nonlocal received, whole
            try:
                with anyio.fail_after(None if whole else IDLE):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"Nothing came for {IDLE} seconds.") from None
            size, whole = len(message.get("body", b"")), not message.get("more_body")
            received += size
            if received > allowed:  # of a request that did not announce its length
                raise HTTPException(413, f"Larger than the {self.max_bytes} bytes that this page takes.")
            if size and not self.shelf.fits(size):  # others came at the same time; what they announce takes no room, so that nobody
                raise HTTPException(507, FULL)  # keeps others out by announcing much
            self.shelf.add(size)
            return message

        try:
            await self.app(scope, counted, send)
        except ClientDisconnect:  # in the middle of it
            pass
        except (TypeError, AttributeError):  # Gradio's, of a part that is no file
            raise HTTPException(400, "No upload.") from None
