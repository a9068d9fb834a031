"""Captions of videos: one JSON-lines file per video, which a person can read and correct, and readers for what others publish.

    {"video": "NAME", "frames": 300, "fps": 30.0, "model": "…", "revision": "…", "settings": {…}}
    {"snippet": 0, "frames": [0, 16], "caption": "a man walks down a street"}

First a header, then one line per caption. Frames are 0-based, half-open. A timestamped sentence that belongs to no snippet has no
"snippet"; a rewrite has further keys ("source", "pairs", "seed"). NAME is without extension and crop suffix (utils.labels.video_name).
"""

import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from utils.errors import UNSHOWN, BadInput
from utils.files import replacing
from utils.labels import SNIPPET, video_name

HEADER = '{"video": NAME, "frames": number, "fps": number, …}'
LINE = '{"snippet": number, "frames": [start, end], "caption": text}'
UCA = '{"duration": seconds, "timestamps": [[start, end], …], "sentences": [text, …]}'
LLAVA = '{"start, end": text, …} in frames'
SWINBERT = '{"FOLDER/NAME.mp4": [text, …]}, a text per 16 frames'
NEXT = "name a file of timestamped captions"
LONGEST_NAME = 255 - len(".jsonl.part")  # bytes
TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|\x9b[0-?]*[ -/]*[@-~]")  # colours, titles, …


class Caption(NamedTuple):
    """A text and the frames [start, end) it tells of; `more`: the other keys of its line (`snippet`, `source`, …)."""

    start: float
    end: float
    text: str
    more: dict = {}  # noqa: RUF012 (a NamedTuple's default; never written to)


@dataclass
class VideoCaptions:
    """A video: frames and frames per second where they are known, its captions, and what else its header says (`model`, `settings`, …)."""

    frames: float | None
    fps: float | None
    captions: list[Caption]
    about: dict = field(default_factory=dict)


def read_captions(paths, fps: float) -> tuple[dict[str, VideoCaptions], dict[str, int]]:
    """Read caption files: (NAME -> VideoCaptions in the files' order, how many timestamps were put right: `swapped`, `clipped`).

    Each path is one of
    - a file NAME.jsonl as above, or a folder of them (any depth),
    - UCA: JSON {NAME: {"duration", "timestamps", "sentences"}} in seconds, which `fps` makes frames; times the wrong way round are swapped,
      those outside [0, duration] clipped,
    - LLaVA-Video's as VADTree publishes them: JSON {"vid_captions": {NAME.mp4: {"start, end": text}}} in frames; also gzipped,
    - SwinBERT's as the dense script of TEVAD writes them (github.com/coranholmes/SwinBERT, src/tasks/dense_caption_mass.py): a line
      {"FOLDER/NAME.mp4": [text, …]} per video. Text i saw a window (64 frames by default) that begins at frame 16i; it is taken as the
      caption of the frames [16i, 16i+16), so that a video of F frames has ceil(F/16) of them. How many frames it has is not told.

    Raises BadInput naming the file and the line or video where something is not so, or a video stands in two places.
    """
    videos: dict[str, VideoCaptions] = {}
    mended = {"swapped": 0, "clipped": 0}
    places: dict[str, str] = {}
    for path in paths:
        for name, place, video in _read_path(Path(path), fps, mended):
            _check_name(name, place)
            if name in videos:
                another = "another" if str(places[name]) != str(place) else "another place"
                raise BadInput(f"{place}: {name} stands in {another} of the caption files too ({places[name]}); name each file once")
            videos[name], places[name] = _plain(video), place
    if not videos:
        raise BadInput(f"{paths[0]}: no videos; {NEXT}")
    return videos, mended


def read_caption_file(path: Path | str) -> tuple[str, VideoCaptions]:
    """Read one NAME.jsonl: (NAME, its captions in the file's order). Raises BadInput naming file and line; NAME must be the file's name."""
    name, video = _read_lines(Path(path), read_text(path).split("\n"))
    return name, _plain(video)


def write_captions(path: Path | str, name: str, video: VideoCaptions) -> None:
    """Write the captions of video `name` as a .jsonl under `path`, whole or not at all."""
    lines = [header_line(name, video), *map(caption_line, video.captions)]
    with replacing(path) as temporary:
        # half of a surrogate pair, which a JSON file may hold, goes out as it came in: \\ud83d
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")


def header_line(name: str, video: VideoCaptions) -> str:
    """The first line of a caption file, without line end."""
    return _json({"video": name, "frames": _number(video.frames), "fps": video.fps, **video.about})


def caption_line(caption: Caption) -> str:
    """The line of one caption, without line end."""
    snippet = {"snippet": caption.more["snippet"]} if "snippet" in caption.more else {}
    frames = [_number(caption.start), _number(caption.end)]
    return _json({**snippet, "frames": frames, "caption": caption.text, **{k: v for k, v in caption.more.items() if k != "snippet"}})


def _plain(video: VideoCaptions) -> VideoCaptions:
    return replace(video, captions=[caption._replace(text=plain_text(caption.text)) for caption in video.captions])


def _check_name(name: str, place: Path) -> None:
    """Raises BadInput unless files can be called NAME.jsonl, NAME.npy, …"""
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= LONGEST_NAME or "\0" in name or "/" in name:
        raise BadInput(
            f"{place}: {_short(name)}; expected a video's name, 1 to {LONGEST_NAME} bytes that a file's name may have; rename it"
        )


def plain_text(text: str) -> str:
    """A caption as its readers get it: without white space around it, terminal codes, control characters, byte order and direction marks;
    half a surrogate pair, which is no character, is U+FFFD.
    """
    text = TERMINAL.sub("", text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return UNSHOWN.sub(lambda found: found[0] if found[0].isspace() else "", text).strip()


def read_text(path: Path | str) -> str:
    """The text of a caption file, unpacked if it ends in .gz. Raises BadInput where it cannot be read or is no UTF-8."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; name an existing one with CAPTIONS") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {NEXT}") from None


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _number(value: float | None) -> float | int | None:
    return int(value) if value is not None and value == int(value) else value


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _read_path(path: Path, fps: float, mended: dict[str, int]) -> Iterator[tuple[str, Path, VideoCaptions]]:
    """(NAME, file, captions) of each video that `path` holds, whatever its format."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.jsonl") if not file.name.startswith("."))
        if not files:
            raise BadInput(f"{path}: no .jsonl below it; name a caption file or a folder of NAME.jsonl")
        for file in files:
            name, video = read_caption_file(file)
            yield name, file, video
        return
    text = read_text(path)
    lines = text.split("\n")
    if _is_swinbert(_parsed(lines[0])):
        for number, line in enumerate(lines, 1):
            if line.strip():
                if not _is_swinbert(entry := _parsed(line)):
                    raise BadInput(f"{path}: line {number}: {_short(line)}; expected {SWINBERT}; correct that line")
                yield from ((video_name(name), path, _from_swinbert(texts)) for name, texts in entry.items())
    elif path.name.removesuffix(".gz").endswith(".jsonl"):
        name, video = _read_lines(path, lines)
        yield name, path, video
    else:
        try:
            content = json.loads(text)
        except ValueError as error:
            raise BadInput(f"{path}: not a JSON file ({error}); {NEXT}") from None
        is_llava = isinstance(content, dict) and "vid_captions" in content
        entries = content["vid_captions"] if is_llava else content
        for name, entry in entries.items() if isinstance(entries, dict) else [("the file", entries)]:
            if is_llava:
                yield video_name(name), path, _checked(path, name, LLAVA, _from_llava, entry)
            else:
                yield video_name(name), path, _checked(path, name, UCA, _from_uca, entry, fps, mended)


def _parsed(line: str):
    try:
        return json.loads(line)
    except ValueError:
        return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")


def _checked(path, name, expected, read, *arguments) -> VideoCaptions:
    try:
        return read(*arguments)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: {name}: {type(error).__name__} {error}; expected {expected}; {NEXT}") from None


def _from_uca(entry, fps: float, mended: dict[str, int]) -> VideoCaptions:
    duration, times, texts = float(entry["duration"]), entry["timestamps"], entry["sentences"]
    spans = [(float(start), float(end), text.strip()) for (start, end), text in zip(times, texts, strict=True)]
    if not 0 < duration < math.inf or not all(map(math.isfinite, (t for start, end, _ in spans for t in (start, end)))):
        raise ValueError("a time that is no number")
    captions = []
    for start, end, text in spans:
        mended["swapped"] += end < start
        mended["clipped"] += max(start, end) > duration or min(start, end) < 0
        start, end = (min(max(time, 0.0), duration) for time in sorted((start, end)))
        captions.append(Caption(round(start * fps, 3), round(end * fps, 3), text))  # 4.8 s × 30 must not come out above 144 frames
    return VideoCaptions(fps * duration, fps, captions)


def _from_llava(entry) -> VideoCaptions:
    captions = []
    for key, text in entry.items():
        start, end = (float(part) for part in key.split(","))
        if not 0 <= start <= end < math.inf:
            raise ValueError(f"frames {key!r}")
        captions.append(Caption(start, end, text.strip()))
    return VideoCaptions(None, None, sorted(captions, key=lambda caption: caption[:2]))


def _is_swinbert(entry) -> bool:
    """Whether it is {NAME: [text, …], …}, and nothing else."""
    return (
        isinstance(entry, dict)
        and bool(entry)
        and all(isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) for texts in entry.values())
    )


def _from_swinbert(texts: list[str]) -> VideoCaptions:
    captions = [Caption(SNIPPET * i, SNIPPET * (i + 1), text.strip(), {"snippet": i}) for i, text in enumerate(texts)]
    return VideoCaptions(None, None, captions, {"model": "SwinBERT"})


def _read_lines(path: Path, lines: list[str]) -> tuple[str, VideoCaptions]:
    """The content of a file in our own format."""

    def wrong(number: int, found: str, expected: str) -> BadInput:
        return BadInput(f"{path}: line {number}: {found}; expected {expected}; correct that line")

    name, video, seen = None, None, {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise wrong(number, f"no JSON ({error})", HEADER if video is None else LINE) from None
        if video is None:
            if not isinstance(entry, dict) or not isinstance(entry.get("video"), str):
                raise wrong(number, _short(line), f"the header {HEADER}")
            name, frames, fps = (entry.pop(key, None) for key in ("video", "frames", "fps"))
            if name != path.name.removesuffix(".gz").removesuffix(".jsonl"):
                raise wrong(number, f'"video": {name!r} in a file named {path.name}', f"{name}.jsonl, the video's name")
            for key, value in (("frames", frames), ("fps", fps)):
                if value is not None and not (_is_number(value) and value > 0):
                    raise wrong(number, f'"{key}": {value!r}', "a number above 0, or null")
            video = VideoCaptions(frames, fps, [], entry)
            continue
        span = entry.pop("frames", None) if isinstance(entry, dict) else None
        text = entry.pop("caption", None) if isinstance(entry, dict) else None
        if not isinstance(span, list) or len(span) != 2 or not all(map(_is_number, span)) or not isinstance(text, str):
            raise wrong(number, _short(line), LINE)
        if not 0 <= span[0] <= span[1]:
            raise wrong(number, f'"frames": {span}', "0 <= start <= end")
        if "snippet" in entry:
            snippet = entry["snippet"]
            if type(snippet) is not int or snippet < 0:
                raise wrong(number, f'"snippet": {snippet!r}', "a whole number from 0")
            if snippet in seen:
                raise wrong(number, f"snippet {snippet}, as on line {seen[snippet]}", "each snippet once")
            seen[snippet] = number
        video.captions.append(Caption(*span, text.strip(), entry))
    if video is None:
        raise BadInput(f"{path}: empty; expected the header {HEADER} and then lines {LINE}; {NEXT}")
    return name, video
