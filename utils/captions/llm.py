"""Language models that go on with a prompt: a local one from `transformers`, or a server that speaks OpenAI's protocol.

Both have `run(requests, keep)`, which calls keep(request, answer) as soon as an answer is there (from any thread), and `counts`. What is
sampled depends on a request's prompt and seed alone.
"""

import contextlib
import email.utils
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from utils.captions.rewriting import Request, folder_name
from utils.errors import BadInput

Keep = Callable[[Request, str], None]
LONGEST_WAIT = 600  # seconds; a server that asks for more is given up
GRACE = 5  # seconds that a stopping run waits for the answers under way
IN_A_ROW = 8  # sentences given up one after the other: the server is gone
FILTERED = ("content_filter", "content_policy_violation")
SENT = ("model", "prompt", "messages", "seed", "temperature", "top_p", "max_tokens", "stop")  # parameters of a request
LEFT_OUT = SENT[3:]  # those that one can do without
CHAT = "Continue the text below after its last =>. Reply with that continuation alone: one rewritten caption on one line.\n\n"


class Sampling(NamedTuple):
    """How the next token is drawn: from the fewest whose probabilities, at `temperature`, sum to `top_p`; at most `max_tokens` of them."""

    temperature: float = 0.9
    top_p: float = 0.95
    max_tokens: int = 77


def draw_tokens(logits, uniform, temperature: float, top_p: float):
    """logits (B, V), uniform (B,) in [0, 1) -> (B,) token numbers: row i's by uniform[i] alone, so that its neighbours have no say."""
    probabilities, order = (logits.float() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    total = probabilities.double().cumsum(-1)
    kept = (total - probabilities < top_p).sum(-1, keepdim=True)  # the first is always among them
    mass = total.gather(-1, kept - 1)
    place = (total <= uniform.to(total)[:, None] * mass).sum(-1, keepdim=True)
    return order.gather(-1, place.clamp(max=kept - 1))[:, 0]


class LocalModel:
    """A causal language model from `transformers`, by hub name or local folder, on the plain prompt (no chat template).

    `revision` is the commit found at the hub, a fingerprint of the weights for a folder. Answers end at the first new line. A row's draws
    come from its own seed, so its batch has no say, except that other neighbours can change the last bits of the logits (padding, bf16),
    which now and then moves a draw on the border between two tokens. Raises BadInput naming --llm and the way out where it is missing.
    """

    chat = False

    def __init__(self, name_or_path: str, *, revision: str | None, device: str, precision: str, batch_size: int, sampling: Sampling):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        common = dict(revision=revision, trust_remote_code=False)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        try:
            self.model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype, **common).eval().to(device)
            self.tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="left", **common)
        except (OSError, ValueError, KeyError) as error:
            at = f" (revision {revision})" if revision else ""
            raise BadInput(
                f"--llm {name_or_path}{at}: cannot be loaded ({_line(error)}); expected a causal language model: download "
                f"https://huggingface.co/{name_or_path.strip('./')} on a machine with internet and give the folder, or use --endpoint"
            ) from None
        self.name, self.sampling, self.batch_size = folder_name(name_or_path), sampling, batch_size
        local = os.path.isdir(name_or_path)
        self.revision = self._digest() if local else getattr(self.model.config, "_commit_hash", None) or revision
        self.settings = {"api": "transformers", "precision": precision, **sampling._asdict()}
        self.counts = {}
        ends = self.model.generation_config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(ends, default=0)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(pad)
        lines = [i for i, text in enumerate(self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])) if "\n" in text]
        # Nothing is taken from the checkpoint's own generation settings: its penalties and cuts are no part of the recipe.
        self.model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=sampling.max_tokens, eos_token_id=sorted({*ends, *lines}) or None, pad_token_id=pad
        )

    def _digest(self) -> str:
        from utils.text import Frozen

        return Frozen(self.model).digest()

    def run(self, requests: list[Request], keep: Keep) -> None:
        """Answer all, the longest prompts first: what does not fit shows at once. Raises BadInput where a prompt exceeds the context."""
        order = sorted(requests, key=lambda request: len(request.prompt), reverse=True)
        for at in range(0, len(order), self.batch_size):
            batch = order[at : at + self.batch_size]
            for request, answer in zip(batch, self._answers(batch), strict=True):
                keep(request, answer)

    def _answers(self, batch: list[Request]) -> list[str]:
        import torch
        from transformers import LogitsProcessorList

        tokens = self.tokenizer([request.prompt for request in batch], padding=True, return_tensors="pt", return_token_type_ids=False)
        length = tokens.input_ids.shape[1]
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        if length + self.sampling.max_tokens > context:
            raise BadInput(
                f"--llm {self.name}: a prompt of {length} tokens and --max-tokens {self.sampling.max_tokens} exceed its context of "
                f"{context}; show fewer words of long captions with --longest, or take another model"
            )
        draws = [random.Random(request.seed) for request in batch]

        def draw(_, scores):
            """Greedy search over what this leaves is our draw."""
            uniform = torch.tensor([row.random() for row in draws], dtype=torch.float64, device=scores.device)
            chosen = draw_tokens(scores, uniform, self.sampling.temperature, self.sampling.top_p)
            return torch.full_like(scores, -math.inf).scatter_(-1, chosen[:, None], 0.0)

        with torch.inference_mode():
            found = self.model.generate(**tokens.to(self.model.device), logits_processor=LogitsProcessorList([draw]))
        return self.tokenizer.batch_decode(found[:, length:], skip_special_tokens=True)


class _GaveUp(Exception):
    """A sentence stays unanswered in this run: its retries are used up, or the run is stopping (no message)."""


class _Pace:
    """When the next request may go: `per_minute` evenly spaced, and none before a server that asked for patience has had it."""

    def __init__(self, per_minute: float | None):
        self.step, self.next, self.lock = 60 / per_minute if per_minute else 0.0, 0.0, threading.Lock()

    def turn(self) -> float:
        """0 where a request may go now (the turn is taken), else the seconds after which to ask again."""
        with self.lock:
            now = time.monotonic()
            if now < self.next:
                return self.next - now
            self.next = now + self.step
            return 0.0

    def patience(self, seconds: float) -> None:
        with self.lock:
            self.next = max(self.next, time.monotonic() + seconds)


class Endpoint:
    """A model behind an OpenAI-compatible server, through the `openai` client: plain completions, or `chat` where it has only that.

    The key comes from OPENAI_API_KEY and goes nowhere else; without one, servers of one's own get the word "none". `no_send` names
    parameters that are left out of the requests, `extra` holds further ones. 408, 409, 429, 5xx, broken connections and answers that are
    not there whole after `timeout` seconds are tried again `retries` times, after `backoff` seconds, twice that, … (with jitter), and not
    before Retry-After. An empty answer is asked for once more, then taken as it is; what a server's content filter stops counts as empty.
    Other answers that are no success raise BadInput at once, naming the parameter that the server refused. What a stopping run has under
    way is still received, for it is paid for, if it comes within GRACE seconds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        revision: str | None,
        chat: bool,
        sampling: Sampling,
        concurrency: int,
        retries: int,
        backoff: float,
        per_minute: float | None,
        timeout: float,
        no_send: Sequence[str] = (),
        extra: dict | None = None,
    ):
        try:
            import openai
        except ImportError:
            raise BadInput("--endpoint: needs the package openai; pip install -r requirements-app.txt, or use --llm") from None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            shown = "…" if parts.username or parts.query else url  # it may hold a key
            raise BadInput(f"--endpoint {shown}: expected http(s)://HOST[:PORT]/v1; a key belongs into the environment (OPENAI_API_KEY)")
        self._key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
        if not (self._key.isascii() and self._key.isprintable()):
            raise BadInput("OPENAI_API_KEY: holds characters that no key has; set it anew")
        self.url, self.name, self.revision, self.chat, self.sampling = url, model, revision, chat, sampling
        self.settings = {"api": "chat" if chat else "completions", **sampling._asdict()}
        self.settings |= {key: value for key, value in (("no_send", sorted(no_send)), ("request", extra)) if value}  # they decide as well
        self.concurrency, self.retries, self.backoff, self.timeout = concurrency, retries, backoff, timeout
        self.no_send, self.extra = frozenset(no_send), extra or {}
        self.counts = {"requests": 0, "retries": 0}
        self._last = math.inf  # when the answers under way are given up
        self._errors, self._lock, self._stop, self._pace = openai, threading.Lock(), threading.Event(), _Pace(per_minute)
        # Retries are ours: counted, stoppable. Its time-out is for each read, so that a server which drips never meets it.
        self._client = openai.OpenAI(api_key=self._key, base_url=url, max_retries=0, timeout=timeout)

    def run(self, requests: list[Request], keep: Keep) -> None:
        """Answer all. Raises BadInput where the server refuses, or where sentences are left after all retries."""
        self._stop.clear()
        self._last = math.inf
        pool = ThreadPoolExecutor(self.concurrency)
        row, reason = 0, ""
        try:
            for future in as_completed([pool.submit(self._work, request, keep) for request in requests]):
                try:
                    future.result()
                    row = 0
                except _GaveUp as error:
                    if self._stop.is_set():  # for a refusal, which another future holds
                        continue
                    row, reason = row + 1, str(error)
                    if row == IN_A_ROW:
                        break
        finally:
            self._stop.set()
            self._last = time.monotonic() + GRACE
            pool.shutdown(wait=True, cancel_futures=True)
        if reason:
            raise BadInput(f"--endpoint {self.url}: no answer after {self.retries} retries ({reason}); see to the server, then start again")

    def _work(self, request: Request, keep: Keep) -> None:
        keep(request, self._ask(request))

    def _ask(self, request: Request) -> str:
        reason, empty = "", 0
        for attempt in range(self.retries + 1):
            self._wait(0)
            while wait := self._pace.turn():
                self._wait(wait)
            self._count("requests")
            try:
                answer = self._in_time(request)
                empty += not answer.strip()
                if answer.strip() or empty > 1:
                    return answer
                reason, delay = "an empty answer", 0.0
            except self._errors.APIStatusError as error:
                if error.code in FILTERED:
                    return ""
                reason = self._message(error)
                if (error.status_code < 500 and error.status_code not in (408, 409, 429)) or error.code == "insufficient_quota":
                    self._stop.set()  # none that is paid for follows
                    raise BadInput(f"--endpoint {self.url}: answers {reason}; {self._next_step(error)}") from None
                delay = _retry_after(error.response.headers.get("retry-after"))
                if delay > LONGEST_WAIT:
                    raise _GaveUp(f"{reason}; it asks to wait {delay:.0f} s") from None
                if error.status_code == 429:
                    self._pace.patience(delay)
            except (self._errors.APIError, TimeoutError, ValueError) as error:  # ValueError: an answer that is no JSON
                reason, delay = self._message(error), 0.0
            if attempt < self.retries:
                self._count("retries")
                self._wait(max(delay, min(LONGEST_WAIT, self.backoff * 2**attempt) * random.uniform(0.75, 1.25)))
        if empty:
            return ""
        raise _GaveUp(reason)

    def _in_time(self, request: Request) -> str:
        """The text of a request's answer. Raises what `_call` does, TimeoutError where it is not there whole after `timeout` seconds, and
        _GaveUp where the run has been stopping for GRACE seconds.
        """
        answer = Future()

        def work():
            try:
                answer.set_result(self._call(request))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()  # what a server drips into it later is nobody's
        late = time.monotonic() + self.timeout
        while not answer.done() and time.monotonic() < min(late, self._last):
            with contextlib.suppress(TimeoutError):
                answer.exception(timeout=0.1)
        with contextlib.suppress(self._errors.APITimeoutError):  # a read's own time-out, which is as long
            if answer.done():
                return answer.result()
        if self._last <= late:
            raise _GaveUp
        raise TimeoutError(f"no whole answer within {self.timeout:g} seconds, see --timeout")

    def _call(self, request: Request) -> str:
        """One request; the text of its answer. Raises what the client raises, ValueError where a success holds no answer."""
        sampling = dict(model=self.name, seed=request.seed, **self.sampling._asdict(), **({} if self.chat else {"stop": ["\n"]}))
        sampling = {key: value for key, value in sampling.items() if key not in self.no_send} | {"extra_body": self.extra or None}
        if self.chat:  # all in one message: not every model's template knows a system
            messages = [{"role": "user", "content": CHAT + request.prompt}]
            answer = self._client.chat.completions.create(messages=messages, **sampling)
        else:
            answer = self._client.completions.create(prompt=request.prompt, **sampling)
        try:
            choice = answer.choices[0]
            content = choice.message.content if self.chat else choice.text
            return "" if choice.finish_reason in FILTERED else self._scrub(_text_of(content))
        except (TypeError, IndexError, AttributeError):
            raise ValueError("a success without an answer in it") from None

    def _next_step(self, error) -> str:
        if error.status_code in (401, 403):
            return "set OPENAI_API_KEY to a key of that server"
        if error.status_code == 404:
            return "check --model and --endpoint (most end in /v1); a server without completions needs --api chat"
        if error.status_code == 429:
            return "its quota is used up"
        name = _refused(error.body, [name for name in (*LEFT_OUT, *self.extra) if name not in self.no_send])
        if name is None:
            return "check --model, --api and the sampling options"
        if name in self.extra:
            return f"it refuses {name}: change --request {name}={self.extra[name]}, or leave it out"
        other = re.search(r"[Uu]se ['\"`]?(\w+)['\"`]? instead", str(error.body))
        value = self.sampling._asdict().get(name, "VALUE")
        more = f"--request {other[1]}={value}" if other else "--request NAME=VALUE for what it takes in its place"
        return f"it refuses {name}: change it, or leave it out with --no-send {name}, and {more}"

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise _GaveUp

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _scrub(self, text: str) -> str:
        return text if self._key == "none" else text.replace(self._key, "…")

    def _message(self, error: Exception) -> str:
        """What went wrong, on one line, without the key."""
        body = getattr(error, "body", None)
        said = (body.get("message") or body.get("detail") or body) if isinstance(body, dict) else body
        text = str(said or error.__cause__ or error)
        status = getattr(error, "status_code", None)
        return f"{status} ({_line(self._scrub(text))})" if status else _line(self._scrub(text))


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 where there is none to be read."""
    try:
        seconds = float(value or 0)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return max(0.0, seconds) if not math.isnan(seconds) else 0.0


def _text_of(content) -> str:
    """An answer's text: as it is, or what its parts say, reasoning left out. Raises TypeError for what is neither."""
    if isinstance(content, str) or content is None:
        return content or ""
    if isinstance(content, list):
        return "".join(map(_text_of, content))
    content = content if isinstance(content, dict) else content.model_dump()
    if content.get("type") not in (None, "text", "output_text"):
        return ""
    text = content.get("text")
    return _text_of(text.get("value") if isinstance(text, dict) else text)


def _refused(body, names) -> str | None:
    """Which of the parameters `names` an error's body is about: what its `param` or `detail` says, else the first that its message has."""
    body = body if isinstance(body, dict) else {"message": body}
    for said in (body.get("param"), body.get("detail"), body.get("message")):
        found = {name: re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", str(said)) for name in names}
        if any(found.values()):
            return min((place.start(), name) for name, place in found.items() if place)[1]
    return None


def _line(error: Exception | str) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200].replace(str(Path.home()), "~")
