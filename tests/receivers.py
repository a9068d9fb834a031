"""A web server that takes alerts, or fails in all the ways that one can."""

import hashlib
import hmac
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "between us"


class Receiver(ThreadingHTTPServer):
    """A web server that treats the first requests as `script` says ("500", "cut", "drop", "slow"), and takes the others. keep: their
    pictures, else how long those are.
    """

    daemon_threads = True

    def __init__(self, script=(), keep=True):
        self.keep, self.script, self.taken, self.attempts, self.changed = keep, iter(script), [], 0, threading.Condition()
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/hook?to=duty"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass  # whoever posts may be killed

    def wait(self, count, seconds=60):
        """Until so many events were taken."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.keys()) >= count, seconds), (len(self.keys()), count, self.attempts)

    def keys(self):
        return list(dict.fromkeys(event["key"] for event in self.taken))


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.attempts += 1
        does, length = next(self.server.script, "take"), int(self.headers["Content-Length"])
        if does == "cut":  # in the middle of what is sent
            self.rfile.read(length // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self.rfile.read(length)
        if len(body) < length:
            return
        if does == "slow":
            time.sleep(0.05)
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert self.headers["X-Signature-256"] == f"sha256={signature}"
        event = json.loads(body)
        assert self.headers["Idempotency-Key"] == event["key"]
        if does.isdecimal():
            self.send_response(int(does))
        else:
            if not self.server.keep:
                event |= {name: len(event[name] or "") for name in ("picture", "clip")}
            with self.server.changed:
                self.server.taken.append(event)
                self.server.changed.notify_all()
            if does == "drop":  # it has it, and its answer is lost
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass
