"""Captions in other words: each sentence rewritten by a language model, LaCLIP's in-context way, once per version.

    python -m tools.rewrite_captions data/captions --output data/rewrites --llm Qwen/Qwen3-8B-Base
    python -m tools.rewrite_captions captions.json --output data/rewrites --endpoint http://localhost:8000/v1 --model Qwen/Qwen3-8B-Base

CAPTIONS is what utils/captions/formats.py reads: NAME.jsonl or folders of them, UCA's, VADTree's and SwinBERT's files. The rewrites are
DIR/rewrite-1/[folders/]NAME.jsonl, DIR/rewrite-2/…, each with its source, the line numbers of the three pairs of its prompt, its seed, and
`fallback` where the model gave fewer than two words, or refused, and the source was taken over.

A prompt is "write image captions differently,", three `input => output` pairs drawn from --pairs, the caption (on one line, its first
--longest words) and ` =>`; of the answer counts what stands before the first new line. Such prompts suit base models; --api chat is for
servers that have no completions: reasoning, words to the user and markup are left out (utils/captions/reply.py). A parameter that a server
refuses is left out with --no-send max_tokens, another one is sent with --request max_completion_tokens=77. Paragraphs want more than the
recipe's 77 tokens: --max-tokens. A key is taken from OPENAI_API_KEY.

Every answer is kept in --cache as soon as it is there, so that after an interruption, a kill or a server's failure the same command goes on
without asking twice. A rewrite that you correct in its file stays as you wrote it. What the same sentence becomes depends on --seed and the
version, not on order or concurrency; a server may or may not honour the seed it is sent.
"""

import argparse
import json
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from tools.make_gt import read_frames
from utils.captions.formats import Caption, VideoCaptions, caption_files, read_caption_file, read_captions, write_captions
from utils.captions.llm import LEFT_OUT, SENT, Endpoint, LocalModel, Sampling
from utils.captions.rewriting import Answers, Request, file_digest, make_request, one_line, read_pairs, rewrite_of
from utils.errors import COUNT, POSITIVE, SEED, BadInput, Parser, bounded, exit_code, printable
from utils.files import ROOT, make_folder, only_writer, write_json
from utils.reading import read_json

POOL = ROOT / "list" / "caption_pairs.txt"
WAIT = bounded(float, 0, 3600)


def folders_of(paths: list[str]) -> dict[str, Path]:
    """NAME -> the folder below its CAPTIONS folder in which NAME.jsonl lies; other files have none."""
    found = {}
    for path in filter(os.path.isdir, paths):
        for file in caption_files(path):
            found[file.name.removesuffix(".jsonl")] = file.parent.relative_to(path)
    return found


def written_before(path: Path) -> dict[tuple, Caption]:
    """The rewrites that an output file holds already, by frames and source, corrected by hand or not. Empty where there is none."""
    if not path.exists():
        return {}
    return {(caption.start, caption.end, caption.more.get("source")): caption for caption in read_caption_file(path)[1].captions}


def rewritten(caption: Caption, request: Request, answer: str, chat: bool) -> Caption:
    """The caption's line in the output: the rewrite, or the source marked as `fallback`, with where it comes from."""
    text = rewrite_of(answer, request, chat)
    more = {**caption.more, "source": caption.text, "pairs": list(request.pairs), "seed": request.seed}
    more.pop("fallback", None)
    return caption._replace(text=caption.text if text is None else text, more=more | ({"fallback": True} if text is None else {}))


def finished_lines(video: VideoCaptions, there: dict, requests: dict[str, Request], answers: Answers, chat: bool) -> list[Caption] | None:
    """The output's lines of a video: those `there` already, the others from the answers. None where one is missing."""
    lines = []
    for caption in video.captions:
        if kept := there.get((caption.start, caption.end, caption.text)):
            lines.append(kept)
        elif not caption.text:
            lines.append(caption._replace(more={**caption.more, "source": ""}))
        elif (request := requests[one_line(caption.text)]).key in answers:
            lines.append(rewritten(caption, request, answers[request.key], chat))
        else:
            return None
    return lines


def prepare_folder(folder: Path, settings: dict) -> None:
    """Refuse a folder with rewrites made otherwise. Raises BadInput naming what differs."""
    make_folder(folder)
    if (folder / "rewrite.json").exists():
        before = read_json(folder / "rewrite.json", "--output", dict)
        for key, value in settings.items():
            if before.get(key) != value:
                raise BadInput(
                    f"{folder}: its rewrites were made with {key} {before.get(key)}, not {value}; name another folder with --output "
                    f"(with --cache {folder / 'answers.cache'} it does not ask again what was asked alike)"
                )
    elif next(folder.rglob("*.jsonl"), None):
        raise BadInput(f"{folder}: holds .jsonl files but no rewrite.json, so they are not of this tool; name another folder with --output")


def ask(backend, requests: list[Request], answers: Answers, cached: int) -> None:
    """Put the requests to the model and keep its answers. Raises what the model's side raises, with the number of answers missing."""
    fallbacks = 0
    with tqdm(total=cached + len(requests), initial=cached, unit="sentence", desc="rewriting captions") as bar:

        def keep(request: Request, answer: str) -> None:
            nonlocal fallbacks
            answers.keep(request, answer, model=backend.name, revision=backend.revision)
            with bar.get_lock():
                fallbacks += rewrite_of(answer, request, backend.chat) is None
                bar.update()
                bar.set_postfix({"fallbacks": fallbacks, **backend.counts}, refresh=False)

        try:
            backend.run(requests, keep)
        except BadInput as error:
            left = sum(request.key not in answers for request in requests)
            raise BadInput(f"{error}; {left} of {len(requests)} sentences are left, all other answers are kept") from None


def parser_() -> argparse.ArgumentParser:
    parser = Parser("python -m tools.rewrite_captions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", nargs="+", metavar="CAPTIONS", help="caption files or folders of NAME.jsonl")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of rewrite-1/, rewrite-2/, …")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--llm", metavar="NAME_OR_PATH", help="causal language model of transformers: hub name or local folder")
    which.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible server, as http://localhost:8000/v1")
    parser.add_argument("--model", metavar="NAME", help="the model's name at --endpoint")
    parser.add_argument("--revision", help="--llm: commit, branch or tag at the hub; --endpoint: what to record as its revision")
    parser.add_argument(
        "--versions", type=bounded(int, 1, 100), default=2, help="rewrites per sentence (default: %(default)s, the paper's)"
    )
    parser.add_argument("--pairs", metavar="FILE", default=str(POOL), help="pool of in-context pairs (default: list/caption_pairs.txt)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the drawn pairs and of the sampling (default: %(default)s)")
    parser.add_argument("--temperature", type=POSITIVE, default=0.9, help="(default: %(default)s, LaCLIP's)")
    parser.add_argument("--top-p", type=bounded(float, 1e-6, 1), default=0.95, help="(default: %(default)s, LaCLIP's)")
    parser.add_argument("--max-tokens", type=COUNT, default=77, help="new tokens at most (default: %(default)s, LaCLIP's)")
    parser.add_argument("--longest", type=COUNT, default=300, metavar="WORDS", help="words of a caption shown (default: %(default)s)")
    parser.add_argument("--fps", type=POSITIVE, default=30, help="frames per second of UCA's videos (default: %(default)s)")
    parser.add_argument("--frames", metavar="FILE_OR_FOLDER", help="lengths of videos whose captions tell no times: as tools.make_gt's")
    parser.add_argument("--cache", metavar="FILE", help="answers kept (default: DIR/answers.cache)")
    local = parser.add_argument_group("with --llm")
    local.add_argument("--batch-size", type=COUNT, default=32, help="prompts at a time (default: %(default)s)")
    local.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="(default: %(default)s)")
    local.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s, CUDA where there is one)")
    server = parser.add_argument_group("with --endpoint")
    server.add_argument("--api", choices=("completions", "chat"), default="completions", help="(default: %(default)s)")
    server.add_argument("--no-send", nargs="+", choices=LEFT_OUT, default=[], metavar="NAME", help=f"leave out: {', '.join(LEFT_OUT)}")
    server.add_argument("--request", nargs="+", default=[], metavar="NAME=VALUE", help="send this, too: max_completion_tokens=77 top_k=50")
    server.add_argument("--concurrency", type=bounded(int, 1, 1000), default=8, help="requests at a time (default: %(default)s)")
    server.add_argument("--requests-per-minute", type=POSITIVE, metavar="N", help="at most, evenly spaced (default: no limit)")
    server.add_argument("--timeout", type=POSITIVE, default=120, metavar="SECONDS", help="for a whole answer (default: %(default)s)")
    server.add_argument("--retries", type=bounded(int, 0, 1000), default=6, help="per sentence (default: %(default)s)")
    server.add_argument("--backoff", type=WAIT, default=1, metavar="SECONDS", help="before the first, then doubled (default: %(default)s)")
    return parser


def parse(argv) -> argparse.Namespace:
    options = parser_().parse_args(argv)
    if options.endpoint and not options.model:
        raise BadInput("--endpoint: which of its models? name one with --model")
    if options.llm and options.model:
        raise BadInput(f"--model {options.model}: names a model at --endpoint; --llm names the local one already")
    if options.llm and (options.no_send or options.request):
        raise BadInput("--no-send, --request: say what --endpoint is sent; with --llm leave them out")
    options.request = further(options.request, options.no_send)
    return options


def further(words: list[str], left_out: list[str]) -> dict:
    """What requests hold besides, {NAME: VALUE}; values are JSON, else text. Raises BadInput for a name that has an option of its own."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", name):
            raise BadInput(f"--request {word}: expected NAME=VALUE, as max_completion_tokens=77")
        if name == "stream" or (name in SENT and name not in left_out):
            raise BadInput(
                f"--request {word}: {name} is sent already, or read by this tool; see --help for its option, or --no-send {name}"
            )
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def make_backend(options):
    """The model that answers, local or behind a server."""
    sampling = Sampling(options.temperature, options.top_p, options.max_tokens)
    if options.endpoint:
        return Endpoint(
            options.endpoint,
            options.model,
            revision=options.revision,
            chat=options.api == "chat",
            sampling=sampling,
            concurrency=options.concurrency,
            retries=options.retries,
            backoff=options.backoff,
            per_minute=options.requests_per_minute,
            timeout=options.timeout,
            no_send=options.no_send,
            extra=options.request,
        )
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: not available here; expected cpu or auto")
    device = "cpu" if options.device == "cpu" or not torch.cuda.is_available() else "cuda"
    about = dict(revision=options.revision, device=device, precision=options.precision, batch_size=options.batch_size)
    return LocalModel(options.llm, sampling=sampling, **about)


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    with only_writer(options.output):
        rewrite(options, argv)


def rewrite(options, argv: list[str]) -> None:
    """Have all captions rewritten; rewrite.json, and what is told of them."""
    pool = read_pairs(options.pairs)
    videos, mended = read_captions(options.captions, options.fps, read_frames(options.frames) if options.frames else None)
    backend = make_backend(options)
    output, versions = Path(options.output), range(1, options.versions + 1)
    identity = {"model": backend.name, "revision": backend.revision, **backend.settings}
    told = {"no_send": None, "request": None}  # named where a folder's rewrites were made without
    settings = {**told, **identity, "seed": options.seed, "longest": options.longest, "pool": file_digest(options.pairs)}
    prepare_folder(output, settings)

    folders = folders_of(options.captions)
    files = {
        (version, name): output / f"rewrite-{version}" / folders.get(name, Path()) / f"{name}.jsonl"
        for version in versions
        for name in videos
    }
    there = {which: written_before(path) for which, path in files.items()}
    sentences = list(dict.fromkeys(one_line(caption.text) for video in videos.values() for caption in video.captions if caption.text))
    common = dict(seed=options.seed, pool=pool, longest=options.longest, identity=identity)
    requests = {version: {sentence: make_request(sentence, version, **common) for sentence in sentences} for version in versions}
    needed = {
        requests[version][one_line(caption.text)]: None
        for version, name in files
        for caption in videos[name].captions
        if caption.text and (caption.start, caption.end, caption.text) not in there[version, name]
    }
    cut = sum(len(sentence.split()) > options.longest for sentence in sentences)
    number = sum(len(video.captions) for video in videos.values())
    counts = {"videos": len(videos), "sentences": number, "distinct": len(sentences), **mended, "cut": cut}
    command = shlex.join(["python", "-m", "tools.rewrite_captions", *argv])
    write_json(output / "rewrite.json", {**settings, **counts, "command": command})
    print(", ".join(f"{key}: {value}" for key, value in counts.items()))

    def write_finished(answers: Answers) -> Counter:
        """Write each file whose rewrites are all there; what they hold."""
        found = Counter({"files not finished": 0})
        for (version, name), path in files.items():
            video, before = videos[name], list(there[version, name].values())
            lines = finished_lines(video, there[version, name], requests[version], answers, backend.chat)
            if lines is None:
                found["files not finished"] += 1
                continue
            if lines != before or not path.exists():
                source = {key: value for key, value in video.about.items() if key != "settings"}
                about = {"model": backend.name, "revision": backend.revision, "settings": settings | {"version": version}, "source": source}
                write_captions(path, name, VideoCaptions(video.frames, video.fps, lines, about))
            for line in lines:
                fallback = bool(line.more.get("fallback"))
                found.update(lines=1, fallbacks=fallback, same=not fallback and line.text == line.more["source"])
        return found

    with Answers(options.cache or output / "answers.cache") as answers:
        todo = [request for request in needed if request.key not in answers]
        try:
            ask(backend, todo, answers, len(needed) - len(todo))
        finally:
            found = write_finished(answers)
    counts = {"rewritten": len(todo), "from cache": len(needed) - len(todo), **backend.counts}
    print(f"{output}: {', '.join(f'{key}: {value}' for key, value in counts.items())}")
    print(
        f"{found['lines']} lines in {len(files)} files; fallbacks, where the source was taken over: {found['fallbacks']} "
        f"({found['fallbacks'] / max(1, found['lines']):.1%}); rewrites that are the source word for word: {found['same']}"
    )
    empty = (answers[request.key] for request in needed if rewrite_of(answers[request.key], request, backend.chat) is None)
    if found["fallbacks"] > found["lines"] / 2 and (first := next(empty, None)) is not None:
        print(
            f"note: most answers hold no caption; the first begins {printable(first[:100])!r}; a model that reasons wants --max-tokens, "
            f"or to be told not to (--request); the recipe is for base models"
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
