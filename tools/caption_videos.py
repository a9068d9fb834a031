"""Captions of videos, one per snippet of 16 frames, by a captioner of `transformers`, as text files that can be read and corrected.

    python -m tools.caption_videos VIDEOS --captioner HuggingFaceTB/SmolVLM2-500M-Video-Instruct --output captions/source
    python -m tools.caption_videos VIDEOS --captioner Salesforce/blip-image-captioning-base --every 4 --output captions/source

VIDEOS are files, or folders whose subfolders are kept. Each video becomes NAME.jsonl (utils/captions/formats.py): the model, its revision
and all settings, then a line per snippet. A video-language model sees --frames pictures of a window of --window frames from the snippet's
first on, as SwinBERT's dense captioning does (behind the video's end its last frame stands in); an image captioner sees the middle frame.
With --every K a caption covers K snippets. Started again, it goes on after the last caption (NAME.jsonl.part) and never redoes a finished
video; the result is that of an undisturbed run if the batch size is the same. A broken video is named and left out, and the exit code is 2.
Where a captioner answers nothing, the caption is empty, and a warning says how many are.
Work is shared by --shard i/n, or over the processes of torchrun. No code of the model's repository is run.
"""

import argparse
import itertools
import math
import sys
import zlib
from contextlib import nullcontext, suppress
from pathlib import Path

import torch
from tqdm import tqdm
from typing_extensions import TypedDict

from utils.captions.captioner import DTYPES, Captioner
from utils.captions.formats import Caption, VideoCaptions, caption_line, read_caption_file, write_captions
from utils.devices import own_gpu
from utils.distributed import share, wait_for_others
from utils.errors import COUNT, SEED, BadInput, Parser, bounded, exit_code, printable, some
from utils.files import make_folder, only_writer
from utils.labels import SNIPPET
from utils.reading import FRAMES, OPEN, Plain, Text, opened, parse_json, read_bytes, real, whole
from utils.video.files import find_videos
from utils.video.frames import BrokenVideo, Video, middles, windows

LONGEST = 768  # pixels of a picture's longer side: what no captioner looks at is not kept in memory
SLIMMEST = 100  # longer side over shorter one, at most: processors refuse what is much slimmer


def about(captioner: Captioner, options) -> dict:
    """What decides the captions, for the headers: two runs share a folder only if it is the same. Fills in defaults of `options`."""
    length = SNIPPET * options.every
    if not captioner.chat and (options.frames or options.window):
        raise BadInput(f"--frames, --window: {captioner.name} captions single pictures, the middle one of a snippet; leave them out")
    options.window = (options.window or max(64, length)) if captioner.chat else length
    options.frames = (options.frames or min(8, options.window)) if captioner.chat else 1
    if options.frames > options.window:
        raise BadInput(f"--frames {options.frames}: more than the window has (--window {options.window}); take fewer")
    options.prompt = captioner.prompt_of(options.prompt)
    kept = ("every", "frames", "window", "prompt", "max_new_tokens", "precision")
    settings = {key: getattr(options, key) for key in kept} | {"longest_side": LONGEST}
    if options.temperature:  # then the batches decide, too
        settings |= {"temperature": options.temperature, "seed": options.seed, "batch_size": options.batch_size}
    return {"model": captioner.name, "revision": captioner.revision, "settings": settings}


class Header(TypedDict):
    """The first line of a file of this tool, as far as it is compared."""

    __pydantic_config__ = OPEN

    model: Text
    revision: Text | None
    settings: dict[Text, Plain]


class Line(TypedDict):
    """A further line of it."""

    __pydantic_config__ = OPEN

    snippet: whole(0, FRAMES)
    frames: tuple[real(0, FRAMES), real(0, FRAMES)]
    caption: Text


def check_settings(path: Path, line: str, wanted: dict) -> None:
    """Raises BadInput naming what differs where the captions whose header is `line` were made otherwise."""
    header = parse_json(line, f"{path}: no header of this tool", "delete it, or name another folder with --output", Header)
    found = {"model": header["model"], "revision": header["revision"], **header["settings"]}
    wanted = {**{key: wanted[key] for key in ("model", "revision")}, **wanted["settings"]}
    if wanted["revision"]:
        found.pop("model"), wanted.pop("model")  # the same weights may lie elsewhere by now
    for key in [*wanted, *found]:
        if found.get(key) != wanted.get(key):
            differ = f"{key} {found.get(key)!r}, not {wanted.get(key)!r}"
            raise BadInput(f"{path}: captioned with {differ}; delete it, or name another folder with --output")


def first_line(path: Path) -> str:
    with opened(path, "--output") as file:
        return file.readline(1_000_000).decode(errors="replace")


def read_part(path: Path, batch: int) -> list[Caption]:
    """The captions of an unfinished file, whole batches only, so that the rest is batched as it would have been."""
    captions = []
    for line in read_bytes(path, "--output").split(b"\n")[1:-1]:  # what follows the last line end is half a line
        try:
            entry = parse_json(line.decode(errors="replace"), str(path), "", Line)
        except BadInput:
            break
        captions.append(Caption(*entry["frames"], entry["caption"], {"snippet": entry["snippet"]}))
    return captions[: len(captions) // batch * batch]


def caption_video(path: Path, target: Path, captioner: Captioner, header: dict, options, bar) -> None:
    """Caption one video into `target`, going on where `target`.part ends. Raises BrokenVideo as utils.video.frames does, and for a mere
    strip.
    """
    part, length, name = part_of(target), SNIPPET * options.every, target.stem
    captions = read_part(part, options.batch_size) if part.exists() else []
    make_folder(target.parent)
    write_captions(part, name, VideoCaptions(None, None, captions, header))
    bar.update(len(captions) * options.every)
    offsets = middles(options.window, options.frames)
    generation = {"max_new_tokens": options.max_new_tokens, "num_beams": 1, "do_sample": bool(options.temperature)}
    if options.temperature:
        generation["temperature"] = options.temperature
    with Video(path) as video, part.open("a", encoding="utf-8") as file:
        if max(width := round(video.width * video.aspect), video.height) > SLIMMEST * min(width, video.height):
            raise BrokenVideo(f"{path}: {width} × {video.height} pixels; expected sides of at most 1 : {SLIMMEST}; leave it out")
        clips = windows(video, offsets, length, first=len(captions), longest=LONGEST)
        while batch := list(itertools.islice(clips, options.batch_size)):
            torch.manual_seed(zlib.crc32(f"{options.seed} {name} {batch[0].number}".encode(errors="surrogateescape")))
            texts = captioner.captions(
                [clip.pictures for clip in batch],
                offsets=offsets,
                window=options.window,
                fps=video.fps,
                prompt=options.prompt,
                generation=generation,
            )
            new = [
                Caption(clip.start, clip.end, text, {"snippet": clip.number * options.every})
                for clip, text in zip(batch, texts, strict=True)
            ]
            file.writelines(f"{caption_line(caption)}\n" for caption in new)
            file.flush()
            captions += new
            bar.update(sum(math.ceil((clip.end - clip.start) / SNIPPET) for clip in batch))
    write_captions(target, name, VideoCaptions(video.decoded, video.fps, captions, header))
    part.unlink()


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def expected_snippets(path: Path) -> int:
    """What the header promises, for the bar; 0 where it says nothing or the file is broken, which is reported when its turn comes."""
    with suppress(BrokenVideo), Video(path) as video:
        return math.ceil((video.expected() or 0) / SNIPPET)
    return 0


def warn_of_empty(targets) -> None:
    """Say on stderr how many captions are empty; an empty one becomes a row of zeros beside the features."""
    found = {(target, number): text for target in targets for number, (*_, text, _) in enumerate(read_caption_file(target)[1].captions)}
    if empty := [where for where, text in found.items() if not text]:
        target, number = empty[0]
        print(
            f"warning: {len(empty)} of {len(found)} captions are empty, the first is line {number + 2} of {printable(target)}: the "
            f"captioner answered nothing, or refused; write them by hand, or try another --prompt or captioner",
            file=sys.stderr,
        )


def parse(argv) -> argparse.Namespace:
    parser = Parser("python -m tools.caption_videos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO_OR_FOLDER", help="videos, or folders of them")
    parser.add_argument("--captioner", required=True, metavar="NAME_OR_PATH", help="captioner of transformers: hub name or local folder")
    parser.add_argument("--revision", help="commit, tag or branch of the captioner on the hub (default: its main branch)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the captions: NAME.jsonl")
    parser.add_argument("--every", type=COUNT, default=1, metavar="K", help="snippets that one caption covers (default: %(default)s)")
    parser.add_argument("--frames", type=COUNT, metavar="N", help="pictures that a video-language model sees, spread evenly (default: 8)")
    parser.add_argument("--window", type=COUNT, metavar="W", help="frames they are spread over (default: 64, or the snippets covered)")
    parser.add_argument("--prompt", metavar="TEXT", help="what a video-language model is asked, or how an image caption begins")
    parser.add_argument("--max-new-tokens", type=COUNT, default=40, metavar="N", help="longest caption (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=bounded(float, 0, 100), default=0.0, help="draw the words at random (default: %(default)s, the likeliest)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of the random words (default: %(default)s)")
    parser.add_argument("--batch-size", type=COUNT, default=8, help="captions at a time (default: %(default)s)")
    parser.add_argument("--precision", choices=list(DTYPES), help="of the captioner (default: bf16 on a GPU, fp32 elsewhere)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s, CUDA where there is one)")
    parser.add_argument("--device-map", metavar="MAP", help="spread a large captioner over devices: auto, balanced (needs accelerate)")
    parser.add_argument("--shard", metavar="i/n", help="only every n-th video, from the i-th on, i = 1 … n")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: not available here; expected cpu or auto")
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    options.device = f"cuda:{own_gpu()}" if on_gpu else "cpu"
    options.precision = options.precision or ("bf16" if on_gpu else "fp32")
    return options


def main(argv=None) -> None:
    options = parse(argv)
    number, count = share(options.shard)
    with only_writer(options.output, f".{number + 1}-of-{count}"):
        caption(options, number, count)


def caption(options, number: int, count: int) -> None:
    """Caption every `count`-th video from `number` on."""
    output = Path(options.output)
    videos = dict(list(find_videos(options.videos, output, ".jsonl", unique=True).items())[number::count])
    captioner = Captioner(options.captioner, options.revision)
    header = about(captioner, options)
    for target in videos.values():
        for path in (target, part_of(target)):
            if path.exists():
                check_settings(path, first_line(path), header)
        if target.exists():
            part_of(target).unlink(missing_ok=True)  # stopped between the two
    make_folder(output)
    todo = {path: target for path, target in videos.items() if not target.exists()}
    broken = []
    if todo:
        captioner.load(precision=options.precision, device=options.device, device_map=options.device_map)
    with tqdm(total=sum(map(expected_snippets, todo)), unit="snippet", desc="captioning") as bar:
        for path, target in todo.items():
            try:
                caption_video(path, target, captioner, header, options, bar)
            except BrokenVideo as error:
                part_of(target).unlink(missing_ok=True)  # a sound copy of the video is captioned from its start
                broken.append(path)
                tqdm.write(f"error: {error}", file=sys.stderr)
            except OSError as error:
                raise BadInput(f"{target}: cannot be written ({error.strerror or error}); free some space and start again") from None
    print(f"{output}: {len(todo) - len(broken)} videos captioned, {len(videos) - len(todo)} were there")
    warn_of_empty(target for path, target in videos.items() if path not in broken)
    wait_for_others(options.shard)
    if broken:
        raise BadInput(f"{len(broken)} of {len(videos)} videos are broken ({some(broken)}), why see above; the others are captioned")


if __name__ == "__main__":
    sys.exit(exit_code(main, within=nullcontext))  # torchrun's processes share the videos
