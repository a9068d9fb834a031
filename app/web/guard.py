"""What stands between strangers and Gradio: an ASGI middleware that lets through only what the page (app/web/page.py) uses.

Gradio serves many more addresses than one page needs (proxies to other hosts, component code, an editor, monitoring), and takes from a
request the path, or the web address, of a file to read. So: a list of addresses; files only from the page's own folder, symbolic links
resolved; a limit for a request's size and for what the folder holds; on a loopback address, only its own names as Host, so that another
web site whose name is made to point here gets nothing; nothing sent by a page of another web site; and a content security policy under
which the browser asks no other host.
"""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import gradio
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from app.web.shelf import FULL, tidy
from utils.errors import BadInput
from utils.evaluation.plots import BLUE
from utils.files import ROOT

READ = re.compile(
    r"/|/(assets|static)/.*|/(theme\.css|favicon\.ico|robots\.txt|manifest\.json|config)"
    r"|/gradio_api/(theme\.css|startup-events|queue/data|upload_progress|heartbeat/\w+|file=.*)"
)
WRITE = re.compile(r"/gradio_api/(upload|queue/join|run/predict|cancel|reset)/?")
FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
MAX_EVENT = 64 << 10  # bytes of what a button or slider sends
MULTIPART = 64 << 10  # bytes around the file in an upload
IDLE = 30  # seconds for which an upload may bring nothing
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
POLICY = (  # Gradio's page is made of inline scripts, and its templates are compiled in the browser
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
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


def open_server(
    page: gradio.Blocks, *, home: Path, folder: Path | None, host: str, port: int, max_bytes: int, max_stored: int, keep: float
) -> None:
    """Start the page's server, in threads, with a Guard and all of Gradio's extras off. Raises BadInput where the port is taken."""
    limits = {"folder": home, "max_bytes": max_bytes, "max_stored": max_stored, "keep": keep, "host": host}
    closed = [place for place in (Path.home(), ROOT, folder) if place and not home.is_relative_to(place)]
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


class Guard:
    """ASGI middleware around Gradio's application.

    folder: the one whose files are served, which takes the uploads; max_bytes: of an upload; max_stored: bytes that the folder may hold;
    keep: seconds after which a file in it may be removed to make room; host: the address that the server listens on.
    """

    def __init__(self, app, *, folder: Path, max_bytes: int, max_stored: int, keep: float, host: str):
        self.app, self.folder, self.max_bytes, self.max_stored, self.keep = app, folder.resolve(), max_bytes, max_stored, keep
        self.names = LOOPBACK if host in LOOPBACK else None
        self.stored = 0  # bytes in the folder: as counted last, and what has come since

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page opens no web socket
            raise RuntimeError(f"a connection of type {scope['type']}: the page answers http only")
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
        if self.names and urlsplit(f"//{headers.get('host', '')}").hostname not in self.names:
            raise HTTPException(421, "This page answers only under the address it was started on.")
        own = f"{scope['scheme']}://{headers.get('host', '')}".lower()
        if scope["method"] == "POST" and headers.get("origin", own).lower() != own:
            raise HTTPException(403, "Sent by another web site.")
        wanted = {"GET": READ, "HEAD": READ, "POST": WRITE}.get(scope["method"])
        if wanted is None or not wanted.fullmatch(path):
            raise HTTPException(404, "Not here.")
        if path.startswith(FILE) and not self.holds(path.removeprefix(FILE)):
            raise HTTPException(403, "This file is not the page's to give.")
        if path.rstrip("/") == UPLOAD:
            return await self._upload(scope, receive, send, headers.get("content-length"))
        if scope["method"] == "POST":
            receive = await self._event(receive)
        return await self.app(scope, receive, send)

    def holds(self, path) -> bool:
        """Whether `path` is a regular file below the page's folder, wherever symbolic links lead."""
        try:
            real = Path(os.path.realpath(path))
            return os.path.isabs(path) and real.is_relative_to(self.folder) and real.is_file()
        except (ValueError, TypeError, OSError):
            return False

    async def _event(self, receive):
        """Read what an event sends, make sure that the files it names are the page's own, and hand on what was checked."""
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > MAX_EVENT:
                raise HTTPException(413, f"More than {MAX_EVENT} bytes for an event.")
            if not message.get("more_body"):
                break
        else:
            raise HTTPException(400, "The request was cut.")
        try:
            value = json.loads(body)
            sound = all(self.holds(path) for path in _paths(value))
        except (ValueError, RecursionError):
            raise HTTPException(400, "No JSON.") from None
        if not sound:
            raise HTTPException(403, "The event names a file that is not the page's.")
        checked, sent = json.dumps(value).encode(), False

        async def replay():
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": checked, "more_body": False}

        return replay

    async def _upload(self, scope, receive, send, announced: str | None):
        allowed = self.max_bytes + MULTIPART
        expected = int(announced) if announced and announced.isdecimal() else allowed
        if expected > allowed:
            raise HTTPException(413, f"Larger than the {self.max_bytes} bytes that this page takes.")
        self.stored = await anyio.to_thread.run_sync(tidy, self.folder, self.keep)
        if self.stored + expected > self.max_stored:
            raise HTTPException(507, FULL)
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
            if size and self.stored + size > self.max_stored:  # others came at the same time; what they announce takes no room, so
                raise HTTPException(507, FULL)  # that nobody keeps others out by announcing much
            self.stored += size
            return message

        return await self.app(scope, counted, send)


def _paths(value) -> list:
    """What stands under "path" anywhere in JSON: files, as Gradio takes them."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    named = [value["path"]] if isinstance(value, dict) and "path" in value else []
    return named + [path for one in inside for path in _paths(one)]
