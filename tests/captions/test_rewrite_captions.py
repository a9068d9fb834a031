"""tools/rewrite_captions.py against a loopback server that misbehaves as told, and against a tiny model in transformers' format."""

import contextlib
import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from golden import SHARED
from tools import rewrite_captions
from tools.rewrite_captions import main
from utils.captions.formats import read_captions
from utils.errors import BadInput, exit_code
from utils.files import ROOT

needs_cases = pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="../shared/cases is not here")
KEY = "sk-loopback-1234567890"
SENTENCES = ["a man walks", "a dog runs away", "the red car hits the shop", "people wait for a bus", "somebody opens a door"]
HEADER = {"frames": 80, "fps": 30.0, "model": "captioner", "revision": "r", "settings": {"every": 1}}


def in_other_words(prompt: str) -> str:
    """What the loopback model makes of a prompt: the caption backwards, and a pair that it invents."""
    return " " + " ".join(reversed(prompt.rpartition("\n")[2].removesuffix(" =>").split())) + "\n\na cat => an animal"


class Loopback(ThreadingHTTPServer):
    """Speaks /v1/completions and /v1/chat/completions. `script(sentence, n)` says what the nth request for a sentence gets: None a good
    answer, a text or list that content, a number that status, (status, headers) or (status, {"error": …}), "drop" a closed connection,
    "hang" no answer for a while, "drip" one that never ends, byte by byte, "drip headers" one whose headers do not.
    """

    daemon_threads = True

    def __init__(self, script=lambda sentence, n: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock, self.release = script, threading.Lock(), threading.Event()
        self.asked, self.paid, self.bodies, self.keys, self.times = Counter(), Counter(), [], set(), []
        self.busy = self.busiest = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):
        pass  # a client that was killed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path == "/v1/chat/completions"
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        sentence = prompt.rpartition("\n")[2].removesuffix(" =>")
        with server.lock:
            server.asked[sentence, body.get("seed")] += 1
            server.bodies.append({"path": self.path, **body})
            server.keys.add(self.headers["Authorization"])
            server.times.append(time.monotonic())
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            action = server.script(sentence, server.asked[sentence, body.get("seed")])
        try:
            self.act(action, prompt, (sentence, body.get("seed")), chat)
        finally:
            with server.lock:
                server.busy -= 1

    def act(self, action, prompt, which, chat):
        if action == "drop":
            self.close_connection = True
            return
        if action == "hang":
            self.server.release.wait(20)
            self.close_connection = True
            return
        if action in ("drip", "drip headers"):
            self.close_connection = True
            start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
            self.wfile.write(start + (b"\r\n" if action == "drip" else b"X-Slow: "))
            while not self.server.release.wait(0.05):
                self.wfile.write(b" ")
            return
        status, headers = action if isinstance(action, tuple) else (action, {}) if isinstance(action, int) else (200, {})
        if status == 200:
            text = action if isinstance(action, str | list) else in_other_words(prompt)
            choice = {"index": 0, "finish_reason": "stop"}
            choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text, "logprobs": None}
            answer = {
                "id": "1",
                "object": "chat.completion" if chat else "text_completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
            }
            with self.server.lock:
                self.server.paid[which] += bool(text if isinstance(text, list) else text.strip())
        else:
            answer = {"error": {"message": f"status {status} for {self.headers['Authorization']}", "code": headers.pop("code", None)}}
            answer = headers.pop("error", answer)
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def serve():
    """serve(script): a running Loopback."""
    with contextlib.ExitStack() as stack:

        def start(script=lambda sentence, n: None):
            server = Loopback(script)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            stack.callback(server.release.set)
            return server

        yield start


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def write_source(folder, sentences, name="Abuse001_x264"):
    lines = [{"video": name, **HEADER}]
    lines += [{"snippet": i, "frames": [16 * i, 16 * i + 16], "caption": text} for i, text in enumerate(sentences)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def source(tmp_path):
    """A folder of captions: two videos in two folders that share a sentence."""
    write_source(tmp_path / "captions" / "Abuse", SENTENCES[:3])
    write_source(tmp_path / "captions" / "Normal", SENTENCES[2:], "Normal_Videos_003_x264")
    return tmp_path / "captions"


def words(source, output, server, *more):
    fixed = ["--endpoint", server.url, "--model", "some/model", "--backoff", "0.01", "--timeout", "20"]
    return [str(source), "--output", str(output), *fixed, *map(str, more)]


def lines(output, version=1, place="Abuse/Abuse001_x264"):
    header, *captions = (json.loads(line) for line in (output / f"rewrite-{version}" / f"{place}.jsonl").read_text().splitlines())
    return header, captions


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jsonl")}


def test_what_a_run_writes(source, tmp_path, serve, capsys):
    server, output = serve(), tmp_path / "rewrites"
    main(words(source, output, server, "--revision", "r1"))
    assert sorted(contents(output)) == [
        f"rewrite-{version}/{place}.jsonl" for version in (1, 2) for place in ("Abuse/Abuse001_x264", "Normal/Normal_Videos_003_x264")
    ]
    header, captions = lines(output)
    assert {key: header[key] for key in ("video", "frames", "fps", "model", "revision")} == {
        "video": "Abuse001_x264",
        "frames": 80,
        "fps": 30.0,
        "model": "some/model",
        "revision": "r1",
    }
    assert header["source"] == {"model": "captioner", "revision": "r"}
    assert header["settings"] | {"temperature": 0.9, "top_p": 0.95, "max_tokens": 77, "seed": 0, "version": 1} == header["settings"]
    assert [line["caption"] for line in captions] == ["walks man a", "away runs dog a", "shop the hits car red the"]
    assert [line["source"] for line in captions] == SENTENCES[:3]
    assert [(line["snippet"], line["frames"]) for line in captions] == [(0, [0, 16]), (1, [16, 32]), (2, [32, 48])]
    pool = (Path(rewrite_captions.POOL)).read_text(encoding="utf-8").splitlines()
    prompts = {body["seed"]: body["prompt"] for body in server.bodies}
    for version in (1, 2):
        for line in lines(output, version)[1]:
            assert "fallback" not in line
            parts = ["write image captions differently,", *(pool[number - 1] for number in line["pairs"]), f"{line['source']} =>"]
            assert prompts[line["seed"]] == "\n\n".join(parts)
    assert len(prompts) == 10  # five sentences, two versions: the shared one is asked for once
    for body in server.bodies:
        assert (
            body.items() >= {"path": "/v1/completions", "model": "some/model", "temperature": 0.9, "top_p": 0.95, "max_tokens": 77}.items()
        )
        assert body["stop"] == ["\n"]
    videos, _ = read_captions([output / "rewrite-1"], 30)  # the shared format
    assert [caption.text for caption in videos["Abuse001_x264"].captions] == [line["caption"] for line in captions]
    out = capsys.readouterr().out
    assert "videos: 2, sentences: 6, distinct: 5" in out
    assert "rewritten: 10, from cache: 0, requests: 10, retries: 0" in out
    assert "12 lines in 4 files; fallbacks, where the source was taken over: 0 (0.0%)" in out


def test_uca_sentences(tmp_path, serve):
    uca = {
        "Arson002_x264": {"duration": 10.0, "timestamps": [[0.0, 1.5], [2.0, 3.0], [4.0, 5.0]], "sentences": ["a man walks", "", "a dog"]}
    }
    (tmp_path / "uca.json").write_text(json.dumps(uca))
    main(words(tmp_path / "uca.json", tmp_path / "rewrites", serve()))
    captions = lines(tmp_path / "rewrites", 1, "Arson002_x264")[1]
    assert [(line["frames"], line["caption"]) for line in captions] == [([0, 45], "walks man a"), ([60, 90], ""), ([120, 150], "dog a")]


def test_nothing_depends_on_concurrency(source, tmp_path, serve):
    def script(sentence, n):
        time.sleep(0.01 * (len(sentence) % 3))

    server = serve(script)
    main(words(source, tmp_path / "one", server, "--concurrency", 1))
    assert server.busiest == 1
    main(words(source, tmp_path / "eight", server, "--concurrency", 8))
    assert contents(tmp_path / "one") == contents(tmp_path / "eight")
    assert set(server.asked.values()) == {2}


def test_a_bad_day_of_the_server_costs_each_sentence_once(source, tmp_path, serve, capfd):
    trouble = {
        SENTENCES[0]: [(429, {"Retry-After": "0.3"}), 500, None],
        SENTENCES[1]: ["drop", 503, 502, None],
        SENTENCES[2]: ["hang", None],
        SENTENCES[3]: [(429, {}), (503, {"Retry-After": "soon"}), 408, None],
        SENTENCES[4]: ["", None],
    }
    server, output = serve(lambda sentence, n: trouble[sentence][n - 1]), tmp_path / "rewrites"
    main(words(source, output, server, "--timeout", 6, "--concurrency", 4))
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == 10
    assert {sentence: n for (sentence, _), n in server.asked.items()} == {sentence: len(acts) for sentence, acts in trouble.items()}
    assert [line["caption"] for line in lines(output, 2)[1]] == ["walks man a", "away runs dog a", "shop the hits car red the"]
    out, err = capfd.readouterr()
    assert f"requests: {2 * sum(map(len, trouble.values()))}, retries: {2 * (2 + 3 + 1 + 3 + 1)}" in out
    assert "Traceback" not in err
    main(words(source, output, server))
    assert set(server.paid.values()) == {1}
    assert "rewritten: 0, from cache: 0, requests: 0" in capfd.readouterr().out  # the files themselves hold them


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_by_all(source, tmp_path, serve, form):
    asked = []

    def script(sentence, n):
        asked.append(time.monotonic())
        if len(asked) == 1:
            return 429, {"Retry-After": "0.5" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)}
        return None

    main(words(source, tmp_path / "rewrites", serve(script), "--versions", 1, "--concurrency", 1))
    assert len(asked) == 6
    assert asked[1] - asked[0] > 0.5  # a date has whole seconds: at least one of the two is left


def test_requests_per_minute(source, tmp_path, serve):
    server = serve()
    main(words(source, tmp_path / "rewrites", server, "--versions", 1, "--requests-per-minute", 600))
    assert server.times[-1] - server.times[0] > 0.25  # five requests, 0.1 s between two; the first one may come late


def test_answers_that_are_no_rewrite_fall_back_and_are_counted(source, tmp_path, serve, capsys):
    answers = {SENTENCES[0]: "", SENTENCES[1]: " Walking", SENTENCES[2]: "\n\na cat => an animal"}
    server, output = serve(lambda sentence, n: answers.get(sentence)), tmp_path / "rewrites"
    main(words(source, output, server))
    captions = lines(output)[1]
    assert [line["caption"] for line in captions] == [line["source"] for line in captions] == SENTENCES[:3]
    assert all(line["fallback"] is True and len(line["pairs"]) == 3 for line in captions)
    assert "fallback" not in lines(output, 1, "Normal/Normal_Videos_003_x264")[1][1]
    assert "12 lines in 4 files; fallbacks, where the source was taken over: 8 (66.7%)" in capsys.readouterr().out
    assert {n for (sentence, _), n in server.asked.items() if sentence == SENTENCES[0]} == {2}  # an empty answer is asked for once more
    asked = dict(server.asked)
    main(words(source, tmp_path / "again", server, "--cache", output / "answers.cache"))
    assert dict(server.asked) == asked  # nor is a fallback paid for again
    assert contents(tmp_path / "again") == contents(output)


def test_a_filtered_sentence_falls_back(source, tmp_path, serve):
    main(words(source, tmp_path / "rewrites", serve(lambda sentence, n: (400, {"code": "content_filter"}) if "dog" in sentence else None)))
    assert [bool(line.get("fallback")) for line in lines(tmp_path / "rewrites")[1]] == [False, True, False]


@needs_cases
def test_replies_that_went_wrong(tmp_path, serve):
    """Each `content` of ../shared/cases/chat_answers.json becomes its `caption`, or, null, a counted fallback."""
    rows = json.loads((SHARED / "cases" / "chat_answers.json").read_text(encoding="utf-8"))
    sentences = [f"a man walks past number {i}" for i in range(len(rows))]
    write_source(tmp_path / "captions", sentences, "Own")
    server = serve(lambda sentence, n: rows[sentences.index(sentence)]["content"])
    main(words(tmp_path / "captions", tmp_path / "rewrites", server, "--api", "chat", "--versions", 1))
    found = [None if line.get("fallback") else line["caption"] for line in lines(tmp_path / "rewrites", 1, "Own")[1]]
    assert found == [row["caption"] for row in rows]


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (
            [{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "In other "}, {"type": "text", "text": "words."}],
            "In other words.",
        ),
        (["In other words."], "In other words."),
        ([{"type": "text", "text": {"value": "In other words.", "annotations": []}}], "In other words."),
        ([{"type": "refusal", "refusal": "I cannot do that."}], None),
        ([], None),
    ],
)
def test_an_answer_in_parts(tmp_path, serve, content, caption):
    write_source(tmp_path / "captions", ["a man walks"], "Own")
    main(words(tmp_path / "captions", tmp_path / "rewrites", serve(lambda sentence, n: content), "--api", "chat", "--versions", 1))
    assert [None if line.get("fallback") else line["caption"] for line in lines(tmp_path / "rewrites", 1, "Own")[1]] == [caption]


def test_a_model_that_only_reasons_is_shown(source, tmp_path, serve, capsys):
    server = serve(lambda sentence, n: "<think>\nOkay, the user\x1b[2J wants")
    main(words(source, tmp_path / "rewrites", server, "--api", "chat"))
    out = capsys.readouterr().out
    assert "fallbacks, where the source was taken over: 12 (100.0%)" in out
    assert "the first begins '<think>" in out
    assert "--max-tokens" in out
    assert "\x1b" not in out


def test_what_is_sent_can_be_chosen(source, tmp_path, serve):
    server, output = serve(), tmp_path / "rewrites"
    more = ["--no-send", "max_tokens", "seed", "stop", "--request", "max_completion_tokens=77", "effort=low", 'kwargs={"thinking": false}']
    main(words(source, output, server, "--versions", 1, *more))
    for body in server.bodies:
        assert not {"max_tokens", "seed", "stop"} & body.keys()
        assert body.items() >= {"max_completion_tokens": 77, "effort": "low", "kwargs": {"thinking": False}, "temperature": 0.9}.items()
    assert lines(output)[0]["settings"]["request"] == {"max_completion_tokens": 77, "effort": "low", "kwargs": {"thinking": False}}
    with pytest.raises(BadInput, match=r"made with no_send \['max_tokens', 'seed', 'stop'\], not None"):
        main(words(source, output, server, "--versions", 1))


UNSUPPORTED = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


@pytest.mark.parametrize(
    ("status", "error", "more", "expected"),
    [
        (
            400,
            {"error": {"message": UNSUPPORTED, "param": "max_tokens"}},
            [],
            "--no-send max_tokens, and --request max_completion_tokens=77",
        ),
        (400, {"error": {"message": "Unsupported value: 'temperature'", "param": "temperature"}}, [], "--no-send temperature"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "not permitted"}]}, [], "--no-send seed"),
        (400, {"error": "Unrecognized request argument supplied: top_p"}, [], "--no-send top_p"),
        (
            400,
            {"message": "top_k must be below 9 (max_tokens is 5)"},
            ["--request", "top_k=50"],
            "it refuses top_k: change --request top_k=50",
        ),
        (400, {"error": {"message": "bad max_completion_tokens"}}, [], "check --model, --api and the sampling options"),
    ],
)
def test_a_parameter_that_the_server_refuses_is_named(source, tmp_path, serve, capsys, status, error, more, expected):
    server = serve(lambda sentence, n: (status, {"error": error}))
    assert exit_code(lambda: main(words(source, tmp_path / "rewrites", server, "--concurrency", 1, *more))) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: --endpoint {server.url}: answers {status} (")
    assert expected in said


@pytest.mark.parametrize("action", ["drip", "drip headers"])
def test_an_answer_that_never_ends_is_given_up(tmp_path, serve, capsys, action):
    """A byte every 0.05 s, so that no single read is late; the time is for the whole answer."""
    write_source(tmp_path / "captions", ["a man walks"], "Own")
    server = serve(lambda sentence, n: action if n <= 2 else None)
    main(words(tmp_path / "captions", tmp_path / "rewrites", server, "--timeout", 0.4, "--versions", 1))
    assert lines(tmp_path / "rewrites", 1, "Own")[1][0]["caption"] == "walks man a"
    assert (
        exit_code(lambda: main(words(tmp_path / "captions", tmp_path / "other", server, "--timeout", 0.2, "--retries", 0, "--seed", 1)))
        == 2
    )
    assert "no whole answer within 0.2 seconds, see --timeout" in capsys.readouterr().err


def test_one_interruption_ends_a_run_whose_server_drips(source, tmp_path, serve):
    """Ctrl-C, once; the four answers that are there stay."""
    server, output = serve(lambda sentence, n: "drip" if server.paid.total() >= 4 else None), tmp_path / "rewrites"
    command = [sys.executable, "-m", "tools.rewrite_captions", *words(source, output, server, "--concurrency", 1, "--timeout", 10000)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (server.paid.total() == 4 and server.busy == 1):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("interrupted: ")
    assert "Traceback" not in error
    assert len((output / "answers.cache").read_bytes().splitlines()) == 4


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--request", "max_completion_tokens"], "expected NAME=VALUE"),
        (["--request", "stream=true"], "read by this tool"),
        (["--request", "temperature=1"], "--no-send temperature"),
    ],
)
def test_requests_that_cannot_be(source, tmp_path, serve, more, expected):
    with pytest.raises(BadInput, match=expected):
        main(words(source, tmp_path / "rewrites", serve(), *more))


def test_chat(source, tmp_path, serve):
    server = serve(lambda sentence, n: f'\n"{sentence} => In other words."\nAnd more.')
    main(words(source, tmp_path / "rewrites", server, "--api", "chat"))
    assert {line["caption"] for line in lines(tmp_path / "rewrites")[1]} == {"In other words."}
    assert {body["path"] for body in server.bodies} == {"/v1/chat/completions"}
    assert all("write image captions differently," in body["messages"][0]["content"] for body in server.bodies)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "--api chat"), (400, "--model"), (429, "quota")],
)
def test_a_refusal_ends_the_run_at_once_and_tells_no_key(source, tmp_path, serve, capfd, status, expected):
    server = serve(lambda sentence, n: (status, {"code": "insufficient_quota"}))
    assert exit_code(lambda: main(words(source, tmp_path / "rewrites", server, "--concurrency", 1))) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: --endpoint {server.url}: answers {status} (status {status} for Bearer …); ")
    assert expected in error
    assert "10 of 10 sentences are left" in error
    assert sum(server.asked.values()) == 1


def test_the_key_is_nowhere(source, tmp_path, serve, capfd):
    server = serve(lambda sentence, n: f"the key is {KEY}" if "dog" in sentence else 500 if "car" in sentence else None)
    code = exit_code(lambda: main(words(source, tmp_path / "rewrites", server, "--retries", 1)))
    assert code == 2
    assert server.keys == {f"Bearer {KEY}"}
    written = b"".join(path.read_bytes() for path in (tmp_path / "rewrites").rglob("*") if path.is_file())
    assert b"the key is" in written
    assert KEY.encode() not in written
    assert KEY not in "".join(capfd.readouterr())


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_without_a_key_a_local_server_gets_none(source, tmp_path, serve, monkeypatch, key):
    monkeypatch.delenv("OPENAI_API_KEY")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    server = serve()
    main(words(source, tmp_path / "rewrites", server))
    assert server.keys == {"Bearer none"}


def test_retries_used_up_keep_what_is_paid_for(source, tmp_path, serve, capsys):
    broken = {SENTENCES[4]}
    server, output = serve(lambda sentence, n: 500 if sentence in broken else None), tmp_path / "rewrites"
    assert exit_code(lambda: main(words(source, output, server, "--retries", 2))) == 2
    assert "no answer after 2 retries (500 (status 500" in (error := capsys.readouterr().err)
    assert "2 of 10 sentences are left, all other answers are kept" in error
    assert {n for (sentence, _), n in server.asked.items() if sentence in broken} == {3}
    assert sorted(contents(output)) == ["rewrite-1/Abuse/Abuse001_x264.jsonl", "rewrite-2/Abuse/Abuse001_x264.jsonl"]  # those are whole
    broken.clear()
    main(words(source, output, server, "--retries", 2))
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == 10
    assert len(contents(output)) == 4


def test_a_server_that_is_gone_is_given_up(tmp_path, serve, capsys):
    write_source(tmp_path / "many", [f"this is number {i}" for i in range(100)])
    server = serve(lambda sentence, n: (503, {"Retry-After": "3600"}))
    assert exit_code(lambda: main(words(tmp_path / "many", tmp_path / "rewrites", server, "--concurrency", 2))) == 2
    assert sum(server.asked.values()) < 100  # eight, and those that begin before this is seen
    assert "asks to wait 3600 s" in (error := capsys.readouterr().err)
    assert "200 of 200 sentences are left" in error


def test_nobody_listens(source, tmp_path, serve, capsys):
    server = serve()
    server.shutdown()
    server.server_close()
    assert exit_code(lambda: main(words(source, tmp_path / "rewrites", server, "--retries", 1))) == 2
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_the_middle(source, tmp_path, serve, kind):
    """Four answers arrive, then the server hangs; the process is stopped. Started again, it asks for the other six alone."""
    hanging = True

    def script(sentence, n):
        return "hang" if hanging and server.paid.total() >= 4 else None

    server, output = serve(script), tmp_path / "rewrites"
    # A broken connection is not asked anew before the signal is seen.
    command = [sys.executable, "-m", "tools.rewrite_captions", *words(source, output, server, "--concurrency", 1, "--backoff", 30)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (server.paid.total() == 4 and server.busy == 1 and sum(server.asked.values()) == 5):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(kind)
        if kind == signal.SIGKILL:
            process.wait(20)
        else:
            time.sleep(0.2)
            hanging = False
            server.release.set()  # what was under way may still come; here its connection breaks
            process.wait(20)
    finally:
        process.kill()
        error = process.communicate()[1]
    assert process.returncode == (-signal.SIGKILL if kind == signal.SIGKILL else 128 + kind)
    assert kind == signal.SIGKILL or error.splitlines()[-1] == "interrupted: everything finished so far is saved"
    cache = output / "answers.cache"
    assert len(cache.read_bytes().splitlines()) == 4
    if kind == signal.SIGKILL:
        with cache.open("ab") as file:
            file.write(b'{"key": "torn in the mid')
    hanging = False
    server.release.set()
    main(words(source, output, server))
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == 10
    undisturbed = tmp_path / "undisturbed"
    main(words(source, undisturbed, serve()))
    assert contents(output) == contents(undisturbed)


def test_an_answer_under_way_when_the_run_is_interrupted_is_kept(source, tmp_path, serve, monkeypatch):
    """Ctrl-C while the fifth answer is being made: it is waited for and kept, and no sixth is asked for."""

    def script(sentence, n):
        if sum(server.asked.values()) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    monkeypatch.setattr("utils.captions.llm.GRACE", 60)
    server, output = serve(script), tmp_path / "rewrites"
    with pytest.raises(KeyboardInterrupt):
        main(words(source, output, server, "--concurrency", 1))
    assert sum(server.asked.values()) == server.paid.total() == len((output / "answers.cache").read_text().splitlines()) == 5


def test_corrected_rewrites_stay_and_new_sentences_are_asked_for(source, tmp_path, serve):
    server, output = serve(), tmp_path / "rewrites"
    main(words(source, output, server))
    path = output / "rewrite-1" / "Abuse" / "Abuse001_x264.jsonl"
    path.write_text(path.read_text().replace("walks man a", "A man is on foot."))
    write_source(source / "Abuse", [SENTENCES[0], "a cat runs away", SENTENCES[2]])
    (output / "answers.cache").unlink()
    main(words(source, output, server))
    assert [line["caption"] for line in lines(output)[1]] == ["A man is on foot.", "away runs cat a", "shop the hits car red the"]
    assert set(server.asked.values()) == {1}


def test_a_folder_of_other_rewrites_is_refused(source, tmp_path, serve, capsys):
    server, output = serve(), tmp_path / "rewrites"
    main(words(source, output, server, "--versions", 1))
    for more, found in [(["--seed", "1"], "seed 0, not 1"), (["--temperature", "0.5"], "temperature 0.9, not 0.5")]:
        with pytest.raises(BadInput, match=f"made with {found}; name another folder with --output"):
            main(words(source, output, server, *more))
    main(words(source, output, server, "--versions", 3))  # more versions may follow
    assert len(contents(output)) == 6
    assert set(server.asked.values()) == {1}
    with pytest.raises(BadInput, match=r"no rewrite\.json"):
        main(words(source, source, server))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--endpoint", "localhost:8000"], "--endpoint localhost:8000: expected http"),
        (["--endpoint", f"http://user:{KEY}@localhost/v1"], "OPENAI_API_KEY"),
        (["--endpoint", f"http://localhost/v1?key={KEY}"], "OPENAI_API_KEY"),
        (["--model", ""], "--model: found nothing"),
        (["--versions", "0"], "--versions 0: expected a whole number from 1 to 100"),
        (["--top-p", "1.5"], "--top-p 1.5"),
        (["--retries", "-1"], "--retries -1"),
        (["--requests-per-minute", "nan"], "--requests-per-minute nan"),
    ],
)
def test_options_that_cannot_be(source, tmp_path, serve, more, expected):
    with pytest.raises(BadInput) as error:
        main(words(source, tmp_path / "rewrites", serve(), *more))
    assert expected in str(error.value)
    assert KEY not in str(error.value)


def test_the_client_is_named_where_it_is_missing(source, tmp_path, serve, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(BadInput, match=r"needs the package openai; pip install -r requirements-app.txt"):
        main(words(source, tmp_path / "rewrites", serve()))


# The local model


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """A tiny random Llama with a word tokenizer of the pool, whose checkpoint asks for other sampling than the recipe's."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llm")
    text = rewrite_captions.POOL.read_text(encoding="utf-8").lower().split()
    vocabulary = ["<s>", "</s>", "<unk>", "\n", *(f" {word}" for word in sorted(set(text)))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[^ \n]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=256)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=1, pad_token_id=None, **sizes))
    model.lm_head.weight.data[3] = 0  # a new line is as likely as the average word
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=1.5, bos_token_id=0, eos_token_id=1)
    model.save_pretrained(folder)
    return str(folder)


def local(source, output, llm, *more):
    fixed = ["--llm", llm, "--device", "cpu", "--precision", "fp32", "--max-tokens", "20"]
    main([str(source), "--output", str(output), *fixed, *map(str, more)])
    return contents(output)


def test_a_local_model_is_reproducible_whatever_the_batch(source, tmp_path, llm, capsys):
    one = local(source, tmp_path / "one", llm, "--batch-size", 1)
    assert len(one) == 4
    assert local(source, tmp_path / "again", llm, "--batch-size", 1) == one
    assert local(source, tmp_path / "four", llm, "--batch-size", 4) == one
    assert local(source, tmp_path / "seed", llm, "--batch-size", 4, "--seed", 1) != one
    header, captions = lines(tmp_path / "one")
    assert header["model"] == Path(llm).name
    assert len(header["revision"]) == 16
    rewrites = [line["caption"] for version in (1, 2) for line in lines(tmp_path / "one", version)[1]]
    assert len(set(rewrites)) == 6  # the versions differ, and top_k = 1 of the checkpoint is not followed
    assert all(len(line["pairs"]) == 3 for line in captions)
    assert "rewritten: 10, from cache: 0" in capsys.readouterr().out


def test_a_local_run_resumed_equals_an_undisturbed_one(source, tmp_path, llm, monkeypatch):
    from utils.captions.llm import LocalModel

    undisturbed, whole, asked = local(source, tmp_path / "undisturbed", llm), LocalModel._answers, []

    def answers(self, batch):
        if len(asked) == 6:
            raise KeyboardInterrupt
        asked.extend(request.key for request in batch)
        return whole(self, batch)

    monkeypatch.setattr(LocalModel, "_answers", answers)
    with pytest.raises(KeyboardInterrupt):
        local(source, tmp_path / "resumed", llm, "--batch-size", 3)
    monkeypatch.setattr(LocalModel, "_answers", lambda self, batch: asked.extend(request.key for request in batch) or whole(self, batch))
    assert local(source, tmp_path / "resumed", llm, "--batch-size", 3) == undisturbed
    assert len(asked) == len(set(asked)) == 10


def test_a_local_answer_ends_at_its_first_new_line(llm, monkeypatch):
    """Row 0's fourth token is a new line, row 1's eighth, of the 60 that they may have; then the model is not run on."""
    import torch

    from utils.captions import llm as module
    from utils.captions.rewriting import Request

    steps = []

    def draw(logits, *_):
        steps.append(len(logits))
        return torch.tensor([3 if len(steps) == stop else 10 + len(steps) for stop in (4, 8)])

    monkeypatch.setattr(module, "draw_tokens", draw)
    sampling = module.Sampling(max_tokens=60)
    model = module.LocalModel(llm, revision=None, device="cpu", precision="bf16", batch_size=2, sampling=sampling)
    found = {}
    requests = [Request(text, 1, (1, 2, 3), 0, f"a man\n\n{text} =>", text) for text in ("a man walks down the street", "a dog runs")]
    model.run(requests, lambda request, answer: found.update({request.sentence: answer}))
    assert [len(answer.split(" ")) - 1 for answer in found.values()] == [3, 7]
    assert all(answer.endswith("\n") for answer in found.values())
    assert len(steps) < 12


def test_tokens_are_drawn_from_the_nucleus_at_the_temperature():
    import torch

    from utils.captions.llm import draw_tokens

    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    uniform = torch.linspace(0, 1, 10001)[:-1]
    drawn = draw_tokens(probabilities.log().expand(len(uniform), 4), uniform, temperature=1.0, top_p=0.9)
    share = torch.bincount(drawn, minlength=4) / len(uniform)
    torch.testing.assert_close(share, torch.tensor([0.1, 0.5, 0, 0.35]) / 0.95, atol=2e-4, rtol=0)  # 0.5 + 0.35 < 0.9: a third is taken in
    hot = draw_tokens(probabilities.log().expand(len(uniform), 4), uniform, temperature=0.5, top_p=1.0)
    share = torch.bincount(hot, minlength=4) / len(uniform)
    torch.testing.assert_close(share, probabilities.square() / probabilities.square().sum(), atol=2e-4, rtol=0)
    assert draw_tokens(probabilities.log()[None], torch.tensor([0.999999]), temperature=1.0, top_p=0.01).item() == 1


def test_a_prompt_that_exceeds_the_context_is_said(tmp_path, llm):
    write_source(tmp_path / "long", ["a man walks down the street and " * 40])
    with pytest.raises(BadInput, match=r"exceed its context of 256; show fewer words of long captions with --longest"):
        local(tmp_path / "long", tmp_path / "rewrites", llm)
    assert len(local(tmp_path / "long", tmp_path / "rewrites-2", llm, "--longest", 20)) == 2


def test_a_model_that_is_missing(source, tmp_path):
    with pytest.raises(BadInput, match=r"--llm no/such-model: cannot be loaded .*give the folder, or use --endpoint"):
        local(source, tmp_path / "rewrites", "no/such-model")
