"""Captions of videos: one JSON-lines file per video, which a person can read and correct, and readers for what others publish.

    {"video": "NAME", "frames": 300, "fps": 30.0, "model": "…", "revision": "…", "settings": {…}}
    {"snippet": 0, "frames": [0, 16], "caption": "a man walks down a street"}

First a header, then one line per caption. Frames are 0-based, half-open. A timestamped sentence that belongs to no snippet has no
"snippet"; a rewrite has further keys ("source", "pairs", "seed"). NAME is without extension and crop suffix (utils.labels.video_name).
"""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Required

import numpy as np
from typing_extensions import TypedDict

from utils.errors import UNSHOWN, BadInput
from utils.files import files_below, irregular, replacing
from utils.labels import SNIPPET, is_video, video_name
from utils.reading import FRAMES, OPEN, Text, checked, many, parse_json, parsing, read_text, real, whole

HEADER = '{"video": NAME, "frames": number, "fps": number, …}'
LINE = '{"snippet": number, "frames": [start, end], "caption": text}'
UCA = '{"duration": seconds, "timestamps": [[start, end], …], "sentences": [text, …]}'
LLAVA = '{"start, end": text, …} in frames'
TEXTS = "[text, …], spread evenly over the video"
SWINBERT = '{"FOLDER/NAME.mp4": [text, …]}, a text per 16 frames'
NEXT = "name a file of timestamped captions"
OPTION = "CAPTIONS"
LONGEST_NAME = 255 - len(".jsonl.part")  # bytes
TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|\x9b[0-?]*[ -/]*[@-~]")  # colours, titles, …


Time = real(0, FRAMES)  # in frames


class Header(TypedDict, total=False):
    """The first line of a file of ours, its other keys left out."""

    __pydantic_config__ = OPEN

    video: Required[Text]
    frames: real(0, FRAMES, gt=0) | None
    fps: real(0, 10_000, gt=0) | None


class Line(TypedDict, total=False):
    """A further line of it."""

    __pydantic_config__ = OPEN

    snippet: whole(0, FRAMES)
    frames: Required[tuple[Time, Time]]
    caption: Required[Text]


class Sentences(TypedDict):
    """A video of UCA."""

    __pydantic_config__ = OPEN

    duration: real(0, FRAMES, gt=0)
    timestamps: many(tuple[real(), real()])
    sentences: many(Text)


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


def snippets(start: float, end: float, length: int) -> slice:
    """The rows that the frames [start, end) overlap: row t is frames [16t, 16t+16). A moment (start = end) falls into one row."""
    first, last = (round(frame, 3) / SNIPPET for frame in (start, end))
    row = math.floor(first)
    return slice(min(row, length), min(max(math.ceil(last), row + 1), length))


def covered_rows(captions: list[Caption], length: int) -> np.ndarray:
    """(length,) bool: which rows of a video have a sentence of their own."""
    covered = np.zeros(length, bool)
    for start, end, text, _ in captions:
        covered[snippets(start, end, length)] |= bool(text)
    return covered


def read_captions(paths, fps: float, lengths: dict[str, int] | None = None) -> tuple[dict[str, VideoCaptions], dict[str, int]]:
    """Read caption files: (NAME -> VideoCaptions in the files' order, how many timestamps were put right: `swapped`, `clipped`). lengths:
    the frames of videos by name, as far as they are known.

    Each path is one of
    - a file NAME.jsonl as above, or a folder of them (any depth),
    - UCA: JSON {NAME: {"duration", "timestamps", "sentences"}} in seconds, which `fps` makes frames; times the wrong way round are swapped,
      those outside [0, duration] clipped,
    - LLaVA-Video's as VADTree publishes them: JSON {"vid_captions": {NAME.mp4: {"start, end": text}}} in frames; also gzipped,
    - SwinBERT's as the dense script of TEVAD writes them (github.com/coranholmes/SwinBERT, src/tasks/dense_caption_mass.py): a line
      {"FOLDER/NAME.mp4": [text, …]} per video. Text i saw a window (64 frames by default) that begins at frame 16i; it is taken as the
      caption of the frames [16i, 16i+16), so that a video of F frames has ceil(F/16) of them. How many frames it has is not told.
    - texts without times, as CoReVAD publishes InternVL's: JSON {NAME: [text, …]}, spread evenly over the video, whose length `lengths`
      must have.

    Raises BadInput naming the file and the line or video where something is not so, or a video stands in two places.
    """
    videos: dict[str, VideoCaptions] = {}
    mended = {"swapped": 0, "clipped": 0}
    places: dict[str, str] = {}
    for path in paths:
        for name, place, video in _read_path(Path(path), fps, mended, lengths or {}):
            _check_name(name, place)
            if name in videos:
                another = "another" if str(places[name]) != str(place) else "another place"
                raise BadInput(f"{place}: {name} stands in {another} of the caption files too ({places[name]}); name each file once")
            videos[name], places[name] = _plain(video), place
    if not videos:
        raise BadInput(f"{paths[0]}: no videos; {NEXT}")
    return videos, mended


def caption_files(folder: Path | str) -> list[Path]:
    """Every NAME.jsonl below a folder, sorted; links are followed (utils.files.files_below)."""
    return sorted(file for file in files_below(folder) if file.name.endswith(".jsonl") and not irregular(file))


def read_caption_file(path: Path | str) -> tuple[str, VideoCaptions]:
    """Read one NAME.jsonl: (NAME, its captions in the file's order). Raises BadInput naming file and line; NAME must be the file's name."""
    name, video = _read_lines(Path(path), read_text(path, OPTION).split("\n"))
    return name, _plain(video)


def write_captions(path: Path | str, name: str, video: VideoCaptions) -> None:
    """Write the captions of video `name` as a .jsonl under `path`, whole or not at all."""
    lines = [header_line(name, video), *map(caption_line, video.captions)]
    with replacing(path) as temporary:
        # half of a surrogate pair, which a JSON file may hold, goes out as it came in: \\ud83d
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")


def header_line(name: str, video: VideoCaptions) -> str:
    """The first line of a caption file, without line end."""
    return _json({"video": name, "frames": _number(video.frames), "fps": video.fps and float(video.fps), **video.about})


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


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _number(value: float | None) -> float | int | None:
    return int(value) if value is not None and value == int(value) else value


def _read_path(path: Path, fps: float, mended: dict[str, int], lengths: dict[str, int]) -> Iterator[tuple[str, Path, VideoCaptions]]:
    """(NAME, file, captions) of each video that `path` holds, whatever its format."""
    if path.is_dir():
        if not (files := caption_files(path)):
            raise BadInput(f"{path}: no .jsonl below it; name a caption file or a folder of NAME.jsonl")
        for file in files:
            name, video = read_caption_file(file)
            yield name, file, video
        return
    text = read_text(path, OPTION)
    lines = text.split("\n")
    files = _is_swinbert(first := _parsed(lines[0])) and any("/" in name or is_video(name) for name in first)
    if files or (_is_swinbert(first) and any(map(str.strip, lines[1:]))):
        for number, line in enumerate(lines, 1):
            if line.strip():
                if not _is_swinbert(entry := _parsed(line)):
                    raise BadInput(f"{path}: line {number}: {_short(line)}; expected {SWINBERT}; correct that line")
                yield from ((video_name(name), path, _from_swinbert(texts)) for name, texts in entry.items())
    elif path.name.removesuffix(".gz").endswith(".jsonl"):
        name, video = _read_lines(path, lines)
        yield name, path, video
    else:
        content = parse_json(text, str(path), NEXT)
        is_llava = isinstance(content, dict) and "vid_captions" in content
        entries = content["vid_captions"] if is_llava else content
        for name, entry in entries.items() if isinstance(entries, dict) else [("the file", entries)]:
            if is_llava:
                yield video_name(name), path, _checked(path, name, LLAVA, _from_llava, entry)
            elif isinstance(entry, list) and entry:
                yield video_name(name), path, _checked(path, name, TEXTS, _from_texts, entry, lengths.get(video_name(name)))
            else:
                yield video_name(name), path, _checked(path, name, UCA, _from_uca, entry, fps, mended)


def _parsed(line: str):
    try:
        return parse_json(line, "", "")
    except BadInput:
        return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")


def _checked(path, name, expected, read, entry, *arguments) -> VideoCaptions:
    with parsing(f"{path}: {name}: no captions", f"expected {expected}; {NEXT}"):
        return read(entry, *arguments, f"{path}: {name}")


def _from_uca(entry, fps: float, mended: dict[str, int], place: str) -> VideoCaptions:
    entry = checked(Sentences, entry, place, f"expected {UCA}; {NEXT}")
    duration = entry["duration"]
    if fps * duration > FRAMES:
        raise ValueError(f"{duration} seconds")
    captions = []
    for (start, end), text in zip(entry["timestamps"], entry["sentences"], strict=True):
        mended["swapped"] += end < start
        mended["clipped"] += max(start, end) > duration or min(start, end) < 0
        start, end = (min(max(time, 0.0), duration) for time in sorted((start, end)))
        captions.append(Caption(round(start * fps, 3), round(end * fps, 3), text.strip()))  # 4.8 s × 30 must not come out above 144
    return VideoCaptions(fps * duration, fps, captions)


def _from_llava(entry, place: str) -> VideoCaptions:
    captions = []
    for key, text in checked(dict[Text, Text], entry, place, f"expected {LLAVA}; {NEXT}").items():
        start, end = (float(part) for part in key.split(","))
        if not 0 <= start <= end <= FRAMES:
            raise ValueError(f"frames {key!r}")
        captions.append(Caption(start, end, text.strip()))
    return VideoCaptions(None, None, sorted(captions, key=lambda caption: caption[:2]))


def _from_texts(entry, frames: int | None, place: str) -> VideoCaptions:
    texts = checked(many(Text), entry, place, f"expected {TEXTS}; {NEXT}")
    if frames is None:
        raise BadInput(
            f"{place}: texts without times, and how many frames the video has is not known; name its ground truth: --gt of "
            f"tools.embed_captions, --frames of tools.rewrite_captions"
        )
    ends = [round(i * frames / len(texts), 3) for i in range(len(texts) + 1)]
    return VideoCaptions(frames, None, [Caption(*span, text.strip()) for span, text in zip(pairwise(ends), texts, strict=True)])


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

    name, video, seen = None, None, {}
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        place, todo = f"{path}: line {number}", f"expected {f'the header {HEADER}' if video is None else LINE}; correct that line"
        entry = parse_json(text, place, todo, Header if video is None else Line)
        if video is None:
            name, frames, fps = (entry.pop(key, None) for key in ("video", "frames", "fps"))
            if name != path.name.removesuffix(".gz").removesuffix(".jsonl"):
                raise BadInput(f'{place}: "video": {name!r} in a file named {path.name}; expected the video\'s name, {name}.jsonl; {todo}')
            video = VideoCaptions(frames, fps, [], entry)
            continue
        start, end = entry.pop("frames")
        if start > end:
            raise BadInput(f'{place}: "frames": {[start, end]}; expected 0 <= start <= end; correct that line')
        if "snippet" in entry:
            snippet = entry["snippet"]
            if snippet in seen:
                raise BadInput(f"{place}: snippet {snippet}, as on line {seen[snippet]}; expected each snippet once; correct that line")
            seen[snippet] = number
        text = entry.pop("caption").strip()
        video.captions.append(Caption(start, end, text, entry))
    if video is None:
        raise BadInput(f"{path}: empty; expected the header {HEADER} and then lines {LINE}; {NEXT}")
    return name, video
