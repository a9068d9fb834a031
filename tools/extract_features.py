"""Video files -> the features that training and testing read, as VadCLIP published its own: ten crops, one frame in 16, CLIP ViT-B/16.

    python -m tools.extract_features VIDEOS --output features
    python -m tools.extract_features VIDEOS --output features --encoder ViT-B/16.pt --shard 1/2 --workers 8
    torchrun --nproc-per-node 8 -m tools.extract_features VIDEOS --output features

VIDEOS are files that FFmpeg reads, or folders, whose subfolders are kept. Each video becomes NAME__0.npy … NAME__9.npy of (T, D), or with
--layout one NAME.npy of (T, 10, D); T = max(1, frames // 16). extract.json beside them states the recipe, the encoder and its fingerprint,
the decoder, and of each video frames, frames per second, snippets and checksums; features of another recipe are not mixed in. Started
again, the tool goes on where it was: a finished video is never redone, and a half-written one never counts. A broken video (cut, damaged,
no video at all, above the limits) is named and left out, and the exit code is 2.

Files are not trusted: each one is decoded in a process of its own, of limited memory, that is killed after --timeout.
"""

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from utils.devices import encoding_device, own_gpu
from utils.distributed import share, wait_for_others
from utils.errors import COUNT, POSITIVE, BadInput, Parser, bounded, exit_code, some
from utils.files import only_writer
from utils.video.crops import COUNTS, RESIZES, Recipe
from utils.video.decoder import LIMITS, Limits
from utils.video.encoder import LITE, load_encoder
from utils.video.extraction import extract
from utils.video.files import find_videos
from utils.video.folder import FeatureFolder
from utils.video.frames import BrokenVideo

BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} videos [{elapsed}<{remaining}]"


def parse(argv) -> argparse.Namespace:
    parser = Parser("python -m tools.extract_features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO_OR_FOLDER", help="videos, or folders of them")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the features, and of extract.json")
    add("--encoder", default="ViT-B/16", metavar="NAME_OR_FILE", help=f"a CLIP, by name or file, or {LITE} (default: %(default)s)")
    add("--crops", type=int, choices=COUNTS, default=10, help="centre; and four corners; and these mirrored (default: %(default)s)")
    add("--stride", type=COUNT, default=16, metavar="N", help="frames of a snippet, the first of which is taken (default: %(default)s)")
    add("--aspect", choices=("squash", "keep"), default="squash", help="pictures of 340 × 256, or shorter side 256 (default: %(default)s)")
    add("--resize", choices=RESIZES, default=Recipe.resize, help="as published, or CLIP's own, over all pixels (default: %(default)s)")
    add("--layout", choices=("files", "one"), help="a file per crop, or one per video (default: files, of one crop one)")
    add("--dtype", choices=("float16", "float32"), default="float16", help="of the files (default: %(default)s)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the encoder (default: %(default)s)")
    add("--batch-size", type=COUNT, metavar="N", help="crops at a time (default: 60 on a GPU, elsewhere a megapixel, 20 of 224)")
    add("--workers", type=bounded(int, 1, 256), metavar="N", help="videos decoded at a time (default: half the CPU cores, at most 8)")
    add("--shard", metavar="i/n", help="only every n-th video, from the i-th on, i = 1 … n")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="of the encoder (default: %(default)s)")
    add("--max-pixels", type=bounded(int, 1, 10**9), default=LIMITS.max_pixels, metavar="N", help="of a picture (default: %(default)s)")
    add("--max-seconds", type=POSITIVE, metavar="S", help="length of a video (default: any)")
    add("--timeout", type=POSITIVE, metavar="S", default=3600, help="for decoding a video, waits for the encoder left out (default: 3600)")
    options = parser.parse_args(argv)
    options.layout = options.layout or ("one" if options.crops == 1 else "files")
    if options.layout == "one" and options.crops == 5:
        raise BadInput("--layout one: training and testing read one crop or ten of a file, not 5; use --layout files, or other --crops")
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of each process of torchrun
    options.workers = options.workers or min(8, max(1, cores // 2))
    options.device = encoding_device(options.device, options.precision)
    if options.device.type == "cuda":
        options.device = torch.device("cuda", own_gpu())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    return options


def main(argv=None) -> None:
    options = parse(argv)
    number, count = share(options.shard)
    with only_writer(options.output, f".{number + 1}-of-{count}"):
        extract_share(options, number, count)


def extract_share(options, number: int, count: int) -> None:
    """Extract every `count`-th video from `number` on."""
    targets = find_videos(options.videos, options.output, ".npy")
    encoder = load_encoder(options.encoder)
    recipe = Recipe(
        crops=options.crops, stride=options.stride, keep_aspect=options.aspect == "keep", size=encoder.size, resize=options.resize
    )
    kept = {key: getattr(options, key) for key in ("crops", "stride", "aspect", "resize", "layout", "dtype", "precision")}
    about = {
        "recipe": kept | {"size": encoder.size},
        "encoder": {"name": encoder.name, "digest": encoder.digest(), "width": encoder.width},
    }
    folder = FeatureFolder(options.output, about)
    mine = dict(list(targets.items())[number::count])
    todo = folder.unfinished(mine)
    limits = Limits(max_pixels=options.max_pixels, max_seconds=options.max_seconds, timeout=options.timeout)
    broken = []
    with tqdm(total=len(todo), desc="extracting", bar_format=BAR, disable=not todo) as bar:
        parts: dict[Path, float] = {}  # of videos under way
        finished = 0

        def progress(video: Path, done: int, expected: int | None) -> None:
            parts[video] = min(done / expected, 1) if expected else 0
            bar.update(finished + sum(parts.values()) - bar.n)

        arguments = {"device": options.device, "precision": options.precision, "batch_size": options.batch_size}
        for found in extract(todo, encoder, recipe, **arguments, workers=options.workers, limits=limits, progress=progress):
            if isinstance(found, BrokenVideo):
                broken.append(found.path)
                tqdm.write(f"error: {found}", file=sys.stderr)
            else:
                folder.write(targets[found.path], found)
                for note in found.notes:
                    tqdm.write(f"note: {found.path}: {note}", file=sys.stderr)
            parts.pop(found.path, None)
            finished += 1
            bar.update(finished + sum(parts.values()) - bar.n)
    print(f"{options.output}: {len(todo) - len(broken)} videos extracted, {len(mine) - len(todo)} were there")
    wait_for_others(options.shard)
    if broken:
        raise BadInput(f"{len(broken)} of {len(mine)} videos are broken ({some(broken)}), why see above; the others are extracted")


if __name__ == "__main__":
    sys.exit(exit_code(main, within=nullcontext))  # torchrun's processes share the videos
