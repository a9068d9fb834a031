"""The built-in sample: simulated features round a tiny random CLIP, so that everything runs on a fresh machine in minutes.

Bit for bit the same from a seed; figures obtained on it say nothing about UCF-Crime or XD-Violence. What is simulated and why:
data/README.md.
B crops (10), T snippets of 16 frames, D feature width, C+1 classes.
"""

import contextlib
import csv
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from utils.datasets import load_dataset
from utils.errors import BadInput
from utils.evaluation.ground_truth import GroundTruth, write_ground_truth
from utils.files import make_folder, write_json
from utils.labels import CROPS, SNIPPET, Dataset
from utils.reading import read_json
from utils.sample import captions as sample_captions
from utils.text import openai_clip

WIDTH = 64  # D, CLIP's embedding; DistilBERT's own width differs on purpose


@dataclass(frozen=True)
class Settings:
    """Sizes are norms of vectors (a feature's norm is about 10, as real CLIP's), lengths are snippets, rates are per 100 snippets."""

    shortest: int = 10
    longest: int = 1500
    gap: float = 8.0  # one vector shared by all videos: the modality gap
    place: float = 3.0  # the video's own mean
    scene: float = 2.0  # each scene's deviation from it
    cuts: float = 1.5  # rate of scene changes
    drift: float = 2.0  # first-order autoregression …
    memory: float = 0.97  # … with this coefficient
    noise: float = 3.5  # white along time, common to the crops
    crop_offset: float = 1.0
    crop_noise: float = 1.5
    mirror: float = 0.8  # correlation of a mirrored crop with its original
    strength: float = 3.6  # median shift towards the class in an event
    spread: float = 0.3  # standard deviation of its logarithm
    event: tuple[int, int] = (5, 60)
    ramp: float = 2.0  # an event comes and goes over this many snippets
    bursts: float = 3.0  # rate of distractors: towards a class, but 1 or 2 snippets long


@dataclass(frozen=True)
class Video:
    """One video of the plan. `segments`: [start, end, class number] in frames, half-open; `classes`: in the order of the label."""

    split: str
    name: str
    label: str
    frames: int
    segments: tuple[tuple[int, int, int], ...]
    strengths: tuple[float, ...]


PARTS = ("sample.json", "clip.pt", "distilbert", "features", "captions", "train.csv", "test.csv", "gt.json")
VIDEOS = (240, 60)  # training and test videos, half of them normal


def make_sample(folder: Path | str, dataset: str, seed: int = 0, shuffle_labels: bool = False, videos: tuple[int, int] = VIDEOS) -> Path:
    """Write the sample of `dataset` into `folder` (whole or not at all) and return it: clip.pt, distilbert/, features/, captions/,
    train.csv, test.csv, gt.json, sample.json.

    videos: (training, test) videos, half of them normal. shuffle_labels permutes the training labels over the videos;
    nothing else changes.
    A sample that stands in `folder` is replaced. Raises BadInput where `folder` holds anything else or cannot be written.
    """
    dataset = load_dataset(dataset)
    settings = settings_of(dataset)
    rng = generator(seed, dataset)
    plan = [
        video for split, count in zip(("train", "test"), videos, strict=True) for video in plan_split(rng, dataset, split, count, settings)
    ]
    with replacing_folder(Path(folder)) as temporary:
        clip_model = write_clip(temporary / "clip.pt", seed)
        write_distilbert(temporary / "distilbert", seed)
        gap, directions = class_directions(clip_model, dataset)
        (temporary / "features").mkdir()
        for index, video in enumerate(plan):
            features = simulate(generator(seed, dataset, index + 1), video, gap, directions, settings)
            for crop, rows in enumerate(features):
                np.save(temporary / "features" / f"{video.name}__{crop}.npy", rows)
        # Generators of their own: the features stay what they are without captions.
        rngs = [generator(seed, dataset, index + 1, 1) for index in range(len(plan))]
        sample_captions.write_trees(temporary / "captions", plan, rngs, dataset, clip_model, directions)
        train = [video for video in plan if video.split == "train"]
        test = [video for video in plan if video.split == "test"]
        labels = [video.label for video in train]
        write_list(temporary / "train.csv", train, shuffled(rng, train, directions) if shuffle_labels else labels)
        write_list(temporary / "test.csv", test, [video.label for video in test])
        write_ground_truth(temporary / "gt.json", {video.name: truth(video, dataset) for video in test})
        write_json(
            temporary / "sample.json",
            {
                "dataset": dataset.key,
                "seed": seed,
                "shuffle_labels": shuffle_labels,
                "videos": list(videos),
                "settings": asdict(settings),
                "captions": sample_captions.about(),
                "versions": versions(),
            },
        )
    return Path(folder)


def is_current(folder: Path, dataset: str) -> bool:
    """Whether the sample that lies in `folder` is the one that `make_sample` would write there by default, as its sample.json tells."""
    if not all((folder / name).exists() for name in PARTS):
        return False
    made = read_json(folder / "sample.json", "--output", dict)
    expected = {"videos": VIDEOS, "settings": asdict(settings_of(load_dataset(dataset))), "captions": sample_captions.about()}
    return json.loads(json.dumps(expected)).items() <= made.items()  # through JSON, which turns tuples into lists


def settings_of(dataset: Dataset) -> Settings:
    return Settings(strength=dataset.sample["strength"])


def generator(seed: int, dataset: Dataset, *index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, dataset.sample["stream"], *index])))


# The plan: who, how long, when.


def plan_split(rng: np.random.Generator, dataset: Dataset, split: str, count: int, settings: Settings) -> list[Video]:
    """`count` videos, half of them normal; lengths and classes are spread evenly over both halves, so that neither gives the label away."""
    plan = []
    for abnormal, number in ((True, count // 2), (False, count - count // 2)):
        # Log-uniform, a little heavier at the short end.
        places = ((rng.permutation(number) + rng.random(number)) / number) ** 1.2
        lengths = np.rint(settings.shortest * (settings.longest / settings.shortest) ** places).astype(int)
        first = rng.permutation(len(dataset.labels) - 1)
        for index, length in enumerate(lengths):
            frames = int(length) * SNIPPET - int(rng.integers(SNIPPET) * (rng.random() < 0.5))
            classes = pick_classes(rng, dataset, int(first[index % len(first)]) + 1) if abnormal else []
            segments = place_events(rng, classes, frames, settings)
            strengths = settings.strength * np.exp(settings.spread * rng.standard_normal(len(segments)))
            name, label = name_video(dataset, len(plan) + (1 if split == "train" else 5001), classes, frames)
            plan.append(Video(split, name, label, frames, segments, tuple(strengths.tolist())))
    return plan


def pick_classes(rng: np.random.Generator, dataset: Dataset, first: int) -> list[int]:
    """`first` and, where a video may have several, up to two others."""
    if dataset.separator is None:
        return [first]
    others = [c for c in range(1, len(dataset.labels)) if c != first]
    return [first, *rng.permutation(others)[: rng.choice(3, p=(0.6, 0.25, 0.15))].tolist()]


def place_events(rng: np.random.Generator, classes: list[int], frames: int, settings: Settings) -> tuple[tuple[int, int, int], ...]:
    """One event per class, sometimes a second of the first class: disjoint, in random order, at most 60 % of the video together."""
    events = [*classes, *classes[:1]] if classes and rng.random() < 0.4 and frames > 100 * SNIPPET else list(classes)
    if not events:
        return ()
    low, high = (np.log(length * SNIPPET) for length in settings.event)
    lengths = np.exp(rng.uniform(low, high, len(events)))
    lengths = np.rint(lengths * min(1, 0.6 * frames / lengths.sum())).astype(int)
    # The pauses between them share what is left at random.
    pauses = np.sort(rng.integers(0, frames - lengths.sum() + 1, len(events)))
    starts = pauses + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    order = rng.permutation(len(events))
    return tuple((int(start), int(start + length), events[which]) for start, length, which in zip(starts, lengths, order, strict=True))


def name_video(dataset: Dataset, number: int, classes: list[int], frames: int) -> tuple[str, str]:
    """(name, official label): `Abuse001_sample`; `Sample.0001__#00-00-00_00-01-00_label_B2-0-0` with the duration as on XD-Violence."""
    labels = [dataset.labels[c] for c in classes]
    if dataset.separator is None:
        return (f"{labels[0]}{number:03d}_sample", labels[0]) if labels else (f"Normal_Videos{number:03d}_sample", "Normal")
    label = "-".join([*labels, "0", "0"][:3]) if labels else "A"
    seconds = int(frames // dataset.fps)
    return f"Sample.{number:04d}__#00-00-00_{seconds // 3600:02d}-{seconds // 60 % 60:02d}-{seconds % 60:02d}_label_{label}", label


# The features.


def simulate(rng: np.random.Generator, video: Video, gap: np.ndarray, directions: np.ndarray, settings: Settings) -> np.ndarray:
    """(CROPS, T, D) float16 features of one video. gap (D,) unit; directions (C+1, D): unit vectors from normal to each class."""
    length, width = -(-video.frames // SNIPPET), len(gap)

    def normal(size: float, *shape: int) -> np.ndarray:
        return (size / width**0.5) * rng.standard_normal((*shape, width), np.float32)

    x = settings.gap * gap + normal(settings.place) + np.zeros((length, 1), np.float32)
    cuts = np.cumsum(rng.random(length) < settings.cuts / 100)
    x += normal(settings.scene, cuts[-1] + 1)[cuts]
    steps = normal(settings.drift, length)
    steps[1:] *= (1 - settings.memory**2) ** 0.5
    for t in range(1, length):
        steps[t] += settings.memory * steps[t - 1]
    x += steps + normal(settings.noise, length)

    for (start, end, which), strength in zip(video.segments, video.strengths, strict=True):
        x += strength * profile(start, end, length, settings.ramp)[:, None] * directions[which]
    for start in np.flatnonzero(rng.random(length) < settings.bursts / 100):
        which = rng.integers(1, len(directions))
        strength = settings.strength * np.exp(settings.spread * rng.standard_normal())
        x[start : start + rng.integers(1, 3)] += strength * directions[which]

    offsets, noise = normal(settings.crop_offset, CROPS, 1), normal(settings.crop_noise, CROPS, length)
    for part in (offsets, noise):  # crops 5–9 are 0–4 mirrored
        part[5:] = settings.mirror * part[:5] + (1 - settings.mirror**2) ** 0.5 * part[5:]
    return (x + offsets + noise).astype(np.float16)


def profile(start: int, end: int, length: int, ramp: float) -> np.ndarray:
    """(length,) in [0, 1]: how much of an event from frame `start` to `end` each snippet shows, rising and falling over `ramp` snippets
    inside it.
    """
    centre = np.arange(length) + 0.5
    start, end = start / SNIPPET, end / SNIPPET
    ramp = min(ramp, (end - start) / 2)
    return np.clip(np.minimum(centre - start, end - centre) / ramp + 0.5, 0, 1).astype(np.float32)


def class_directions(clip_model, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(gap (D,), directions (C+1, D)): a unit vector orthogonal to nothing in particular, and the unit vectors from the normal class's
    text feature to each class's.
    """
    import torch

    with torch.no_grad():
        text = clip_model.float().encode_text(openai_clip().tokenize(list(dataset.names))).numpy().astype(np.float64)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    directions = text - text[0]
    directions[1:] /= np.linalg.norm(directions[1:], axis=1, keepdims=True)
    # Rounded, so that another CPU's last bit in the transformer does not show in the features.
    gap = text.mean(0) / np.linalg.norm(text.mean(0))
    return gap.round(4).astype(np.float32), directions.round(4).astype(np.float32)


# Shuffled labels.


def shuffled(rng: np.random.Generator, train: list[Video], directions: np.ndarray) -> list[str]:
    """The labels permuted over the videos: half of the abnormal videos become normal and as many normal ones abnormal.

    Which half is the most balanced of 1,000 draws, because a class whose videos happened to keep their side would still be learnt.
    """
    evidence = np.zeros((len(train), directions.shape[1] + 1))  # what a detector could find in the video, and how long it is
    for row, video in zip(evidence, train, strict=True):
        row[-1] = np.log(video.frames)
        for (_, _, which), strength in zip(video.segments, video.strengths, strict=True):
            row[:-1] += strength * directions[which] / len(video.segments)
    abnormal = np.array([bool(video.segments) for video in train])
    half = abnormal.sum() // 2
    evidence -= evidence.mean(0)
    best = None
    for _ in range(1000):
        marked = np.concatenate(
            [rng.permutation(np.flatnonzero(abnormal))[:half], rng.permutation(np.flatnonzero(~abnormal))[: abnormal.sum() - half]]
        )
        imbalance = np.linalg.norm(evidence[marked].sum(0))
        if best is None or imbalance < best[0]:
            best = imbalance, marked
    labels = np.array([video.label for video in train], object)
    mixed = np.full(len(train), labels[~abnormal][0], object)
    mixed[best[1]] = rng.permutation(labels[abnormal])
    return mixed.tolist()


# Files.


def truth(video: Video, dataset: Dataset) -> GroundTruth:
    segments = tuple((start, end, dataset.labels[which]) for start, end, which in video.segments)
    return GroundTruth(video.frames, dataset.fps, segments)


def write_list(path: Path, videos: list[Video], labels: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{video.name}.npy", label) for video, label in zip(videos, labels, strict=True)]
        csv.writer(file, lineterminator="\n").writerows([("path", "label"), *sorted(rows)])


def write_clip(path: Path, seed: int):
    """A small random CLIP in OpenAI's state-dict format; returns the model."""
    import torch

    clip = openai_clip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = clip.model.CLIP(WIDTH, 32, 2, 64, 8, 77, 49408, 64, 1, 2)
        std = 0.1
        torch.nn.init.normal_(model.token_embedding.weight, std=std)
    with torch.no_grad():
        # In a random transformer [SOS] and [EOS], which all prompts share, make all text features alike. Here they lie along
        # one dimension that nothing reads, so that the pooled [EOS] carries the class name (pairwise cosine 0.3 instead of 0.9).
        model.token_embedding.weight[-2:] = torch.eye(64)[0] * std * 8
        for block in model.transformer.resblocks:
            block.attn.in_proj_weight[:, 0] = 0
            block.mlp.c_fc.weight[:, 0] = 0
        model.text_projection[0] = 0
    clip.model.convert_weights(model)  # fp16 where OpenAI's checkpoints have it
    torch.save(dict(model.state_dict()), path)
    return model.eval()


def write_distilbert(folder: Path, seed: int) -> None:
    """A small random DistilBERT in `transformers`' format. It is only ever run on `inputs_embeds`, so its vocabulary is a stub of 8."""
    import torch
    from safetensors.torch import save_file
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=8, max_position_embeddings=64, n_layers=2, n_heads=2, dim=96, hidden_dim=192)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DistilBertModel(config)
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})  # save_pretrained's, without its progress bar


def versions() -> dict:
    import torch
    import transformers

    return {"numpy": np.__version__, "torch": torch.__version__, "transformers": transformers.__version__}


@contextlib.contextmanager
def replacing_folder(folder: Path):
    """Yield a new folder beside `folder` that takes its place on success and is removed on failure. Only a sample is ever replaced."""
    if folder.exists() and not (folder / "sample.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: exists and is no sample (no sample.json in it); move it away or name another --output")
    make_folder(folder.parent)
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{suffix}") for suffix in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror}); free some space or name another --output") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
