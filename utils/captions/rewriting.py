"""LaCLIP's in-context recipe (Fan et al., NeurIPS 2023, arXiv 2305.20088) for rewriting captions: the pool of pairs, the prompt, what is
taken of an answer, and the answers kept on disk. Which model answers is utils/captions/llm.py's business.

Everything a request holds follows from (seed, version, sentence) and the pool, so neither order nor concurrency nor an interruption
changes what is asked.
"""

import errno
import fcntl
import hashlib
import heapq
import json
import os
import re
import threading
from pathlib import Path
from typing import NamedTuple

from typing_extensions import TypedDict

from utils.captions.reply import reply_of
from utils.errors import BadInput
from utils.files import make_folder
from utils.reading import OPEN, Text, parse_json, parsing, read_bytes, read_text

INSTRUCTION = "write image captions differently,"
SHOWN = 3  # pairs a prompt shows
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # scripts without spaces


class Pair(NamedTuple):
    """`source => target` of the pool; `number` is its line in the file, from 1."""

    number: int
    source: str
    target: str


class Request(NamedTuple):
    """What a model is asked: a sentence's prompt with what went into it, and the key under which the answer is kept."""

    sentence: str
    version: int
    pairs: tuple[int, ...]
    seed: int
    prompt: str
    key: str


def one_line(text: str) -> str:
    """`text` with every run of white space, line ends among them, as one space: a prompt gives a caption one line."""
    return " ".join(text.split())


def read_pairs(path: Path | str, option: str = "--pairs") -> list[Pair]:
    """Read a pool: UTF-8, `input => output` a line; empty lines and those that begin with # do not count.

    Raises BadInput naming file and line where a line is no such pair or stands there twice, or fewer than three pairs are there.
    """
    lines = read_text(path, option).split("\n")
    pairs: dict[tuple[str, str], Pair] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = tuple(one_line(part) for part in line.split("=>"))
        if len(parts) != 2 or not all(parts):
            raise BadInput(
                f"{path}:{number}: {one_line(line)[:80]!r} is no pair; expected `input => output`, one a line; mend or delete it"
            )
        if parts in pairs:
            raise BadInput(f"{path}:{number}: stands in line {pairs[parts].number} already; delete one of the two")
        pairs[parts] = Pair(number, *parts)
    if len(pairs) < SHOWN:
        raise BadInput(f"{path}: {len(pairs)} pairs; a prompt shows {SHOWN} different ones; add some, or name another file with {option}")
    return list(pairs.values())


def _hash(*parts) -> "hashlib._Hash":
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16)


def sentence_seed(seed: int, version: int, sentence: str) -> int:
    """The seed of one answer, 31 bits: the same for the same sentence wherever it stands."""
    return int.from_bytes(_hash("seed", seed, version, sentence).digest()[:4]) >> 1


def draw_pairs(pool: list[Pair], seed: int, version: int, sentence: str) -> list[Pair]:
    """Three pairs at random, without replacement: those that come first when (seed, version, sentence, pair) is hashed.

    So each draw is uniform, and a pair added to a pool of n changes the draw of about 3 sentences in n, not of all.
    """
    start = _hash("pairs", seed, version, sentence)

    def rank(pair: Pair) -> bytes:
        mixed = start.copy()
        mixed.update(f"{pair.source}\n{pair.target}".encode())
        return mixed.digest()

    return heapq.nsmallest(SHOWN, pool, key=rank)


def build_prompt(pairs: list[Pair], sentence: str) -> str:
    """The prompt as LaCLIP's code lays it out, blank lines between the parts; only not indented, as it is there because its code is."""
    return "\n\n".join([INSTRUCTION, *(f"{pair.source} => {pair.target}" for pair in pairs), f"{sentence} =>"])


def make_request(sentence: str, version: int, *, seed: int, pool: list[Pair], longest: int, identity: dict) -> Request:
    """The request for a sentence (one line). Only its first `longest` words stand in the prompt (LaCLIP cuts to 512 tokens).

    `identity` is what decides the answer besides: model, revision, sampling. JSON values.
    """
    pairs = draw_pairs(pool, seed, version, sentence)
    prompt = build_prompt(pairs, " ".join(sentence.split()[:longest]))
    own = sentence_seed(seed, version, sentence)
    key = _hash(json.dumps(identity, sort_keys=True), version, own, prompt).hexdigest()
    return Request(sentence, version, tuple(pair.number for pair in pairs), own, prompt, key)


def rewrite_of(answer: str, request: Request, chat: bool = False) -> str | None:
    """The rewrite in a model's answer, on one line; None where there is none: fewer than two words, a refusal, unfinished reasoning.

    A completion goes on after the caption's ` =>`: what stands before the first new line counts. A chat model begins a text of its own
    (utils/captions/reply.py), of whose caption the first line counts; in both, only what stands before a further `=>`, for models go on to
    invent pairs.
    """
    shown = request.prompt.rpartition("\n")[2].removesuffix("=>").strip()
    reply = reply_of(answer if chat else re.split(r"[\r\n]", answer, maxsplit=1)[0], shown)
    line = one_line(reply.partition("\n")[0]).partition("=>")[0].strip()
    words = [word for word in line.split() if any(map(str.isalnum, word))]
    return line if max(len(words), len(UNSPACED.findall(line))) >= 2 else None


class Kept(TypedDict):
    """A line of the answers on disk, as far as it is read again."""

    __pydantic_config__ = OPEN

    key: Text
    answer: Text


class Answers:
    """The answers received so far, in a file that only grows: one JSON object a line, written as soon as its answer is there.

    answers[key] is the answer as the model gave it. A last line torn by a kill is dropped; the file is locked against a second writer.
    Raises BadInput naming file and line where another line is damaged, or another run is writing.
    """

    def __init__(self, path: Path | str):
        self.path, self._found, self._lock = Path(path), {}, threading.Lock()
        if self.path.exists() and not self.path.is_file():
            raise BadInput(f"{path}: is no regular file; name a file with --cache")
        make_folder(self.path.parent)
        try:
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise BadInput(f"{path}: cannot be written ({error.strerror}); name another file with --cache") from None
        try:
            self._claim()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _claim(self):
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{self.path}: another run is writing there; wait for it, or name another file with --cache") from None
        except OSError:
            pass  # a file system without locks

    def _read(self):
        self._file.seek(0)
        *lines, torn = self._file.read().split(b"\n")
        for number, line in enumerate(lines, 1):
            place = f"{self.path}:{number}"
            with parsing(f"{place}: no answer that was kept", "delete the line, or see --cache"):
                text = line.decode()
            entry = parse_json(text, place, "delete the line, or see --cache", Kept)
            self._found[entry["key"]] = entry["answer"]
        if torn:
            self._file.truncate(self._file.tell() - len(torn))

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> str:
        return self._found[key]

    def __len__(self) -> int:
        return len(self._found)

    def keep(self, request: Request, answer: str, **more) -> None:
        """Append an answer; from any thread. The system has it when this returns, so that killing the process loses nothing."""
        about = {"sentence": request.sentence, "version": request.version, "pairs": request.pairs, "seed": request.seed}
        line = json.dumps({"key": request.key, **about, **more, "answer": answer}, ensure_ascii=False) + "\n"
        content = line.encode("utf-8", "replace")  # half a surrogate pair is no text
        with self._lock:
            size = self._file.seek(0, os.SEEK_END)
            try:
                if self._file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._file.truncate(size)  # no half line before the next one
                raise BadInput(f"{self.path}: cannot be written ({error.strerror}); free some space, then start again") from None
            self._found[request.key] = answer

    def close(self) -> None:
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def file_digest(path: Path | str) -> str:
    """A fingerprint of a file's content, 16 hexadecimal digits."""
    return hashlib.sha256(read_bytes(path, "--pairs")).hexdigest()[:16]


def folder_name(name_or_path: str) -> str:
    """A model's name for the records: a local folder's last part, whoever's machine it lies on; a hub name as it is."""
    return Path(name_or_path).resolve().name if os.path.isdir(name_or_path) else name_or_path
