"""From the options to the data and the model of a run. (What is run: utils/engine.py; what is told of it: utils/testing.py.)"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dataset import FeatureDataset, Video, check_crops, check_features, hold_out, read_list, same_content, tested_file
from model import SYSTEMS, build_model, options_of
from utils import devices, text
from utils.batches import BalancedBatches, DrawnVersions, ShuffledBatches
from utils.captions.formats import covered_rows
from utils.captions.tree import SOURCE, CaptionTree, embedded_by, texts_beside
from utils.datasets import load_dataset
from utils.errors import BadInput, printable, some
from utils.evaluation.ground_truth import GroundTruth, load_ground_truth
from utils.evaluation.scores import check_lengths
from utils.labels import SNIPPET, Dataset
from utils.options import declared
from utils.prompt import projects
from utils.reading import open_array


def load_text(options):
    """The text side for `build_model`: CLIP, sentence encoder or class text features, as the options say; None where no block uses text."""
    if not SYSTEMS[options.model].text(options):
        return None
    if options.text_features:
        return read_text_features(options.text_features)
    if options.sentence_encoder:
        encoder = text.load_sentence_text(options.sentence_encoder, pooling=options.pooling)
        if encoder.note:
            print(f"note: {encoder.note}; --pooling chooses ({', '.join(text.POOLING)})")
        return encoder
    return text.load_clip(options.clip)


def unused_text(options) -> list[str]:
    """The typed options of the text side that this system, as the others set it, has no use for, in the order of --help."""
    system, used = SYSTEMS[options.model], set()
    if system.text(options) and options.text_features:
        used = {"text_features"}
    elif system.text(options):
        used = {"sentence_encoder", "pooling"} if options.sentence_encoder else {"clip"}
        used |= {name for name, path in system.transformers(options).items() if path}
    of_text = [one for one in declared(options.model).values() if one.group == "text"]
    return [one.flag for one in of_text if one.name in options.typed.keys() - used]


def read_text_features(path: str) -> torch.Tensor:
    """(C+1, D) float32 from a .npy. Raises BadInput where it is missing or no finite matrix."""
    features = open_array(path, "--text-features", "expected one row per class")
    if features.ndim != 2 or features.dtype.kind != "f" or features.size > 10_000_000:
        raise BadInput(f"--text-features {path}: {features.dtype} of shape {features.shape}; expected a float matrix (classes, width)")
    with np.errstate(over="ignore"):  # float64 beyond float32 turns into infinity
        features = features.astype(np.float32)
    if not np.isfinite(features).all():
        raise BadInput(f"--text-features {path}: NaN or infinity; expected a finite matrix (classes, width)")
    return torch.from_numpy(features)


def load_model(options, seed: int, classes: Sequence[str] = ()) -> torch.nn.Module:
    """The model that the options describe, with its frozen encoders, initialised from `seed`, on the device of `--device`. classes: their
    names, else the data set's.
    """
    encoder, names = load_text(options), options_of(options.model)
    beside = {
        name: text.load_transformer(path, f"--{name}") if path and isinstance(encoder, torch.nn.Module) else None
        for name, path in SYSTEMS[options.model].transformers(options).items()
    }
    sizes = {name: getattr(options, name) for name in names - beside.keys()}
    torch.manual_seed(seed)
    model = build_model(options.model, classes or load_dataset(options.data).names, encoder, **sizes, **beside)
    return model.to(devices.own_device(options.device))


def check_space(model: torch.nn.Module, options) -> None:
    """Raise BadInput where the features are of sentences and the text side, compared with them as it is, is another sentence encoder, or
    one that pools otherwise.
    """
    parts = [part for part in model.modules() if isinstance(part, text.SentenceText)]
    made = None if options.sample or not parts or projects(model) else embedded_by(Path(options.feature_root), "--feature-root")
    for part in parts:
        if made and made["encoder_digest"] != part.digest():
            raise BadInput(
                f"--sentence-encoder {options.sentence_encoder}: pooled by {'+'.join(part.pooling)}, it is not what made the features of "
                f"{options.feature_root} ({made['encoder']}, {made['pooling']}); give that one and its --pooling, or --text-projection"
            )


class Data(NamedTuple):
    """The data of one run. Videos are lists of dataset.Video; train and batches are None for a test script, captions for a system that
    reads none. same: the test videos of which a training video has the features, byte for byte. covered: which rows of the test videos have
    a sentence (T,) bool, None where it is not known of all.
    """

    dataset: Dataset
    train: FeatureDataset | None
    batches: BalancedBatches | ShuffledBatches | DrawnVersions | None
    held_out: list
    test: list
    truth: dict
    captions: CaptionTree | None = None
    same: frozenset[str] = frozenset()
    covered: dict[str, np.ndarray] | None = None


def load_captions(options) -> CaptionTree | None:
    """The caption tree of a system that reads one."""
    if "captions" not in SYSTEMS[options.model].inputs(options):
        return None
    return CaptionTree(options.caption_root, options.caption_width, mismatch=options.allow_length_mismatch)


def training_versions(captions: CaptionTree, choice: str) -> tuple[str, ...]:
    """The versions of the captions that training draws from (`--caption-choice`). Raises BadInput where the one is not there."""
    if choice == "random":
        return captions.versions
    if choice not in captions.versions:
        raise BadInput(
            f"--caption-choice {choice}: {captions.root} has {', '.join(captions.versions)}; rewrite the captions (tools.rewrite_captions, "
            f"tools.embed_captions --output {captions.root / choice}), or choose one of these"
        )
    return (choice,)


def known_coverage(videos: Sequence[Video], rows: dict[str, int], captions: CaptionTree | None) -> dict[str, np.ndarray] | None:
    """Which of a video's `rows` have a sentence of their own, (rows,) bool by name: from the NAME.jsonl beside its captions' features, else
    its own. None where one has none.
    """
    texts = captions.texts(videos) if captions else texts_beside({video.name: video.files[0] for video in videos})
    return {name: covered_rows(texts[name], rows[name]) for name in rows} if texts.keys() == rows.keys() else None


def known_truth(videos: Sequence[Video], rows: dict[str, int], given: dict[str, GroundTruth], dataset: Dataset) -> dict[str, GroundTruth]:
    """`given`, the videos of a ground-truth file, and what is known of the other test videos: a normal one needs no annotation, of an
    abnormal one without intervals the classes are known, not when it shows them. Their length is that of their features, `rows` of 16
    frames.
    """
    truth = dict(given)
    for video in videos:
        known = truth.get(video.name) or GroundTruth(SNIPPET * rows[video.name], dataset.fps, ())
        if video.abnormal and known.segments == ():
            labels = tuple(label for label, shown in zip(dataset.labels[1:], video.target[1:], strict=True) if shown)
            known = replace(known, segments=None, labels=labels)
        truth[video.name] = replace(known, source=video.source or known.source)
    return truth


def load_data(options, seed: int | None) -> Data:
    """Read the lists and ground truth, hold out the validation share, and check every file's header before anything is trained.

    seed None reads the test side only. Raises BadInput for whatever is wrong with them.
    """
    dataset = load_dataset(options.data)
    for name in ("feature_root", "test_list"):
        if getattr(options, name) is None:
            raise BadInput(f"{dataset.path}: names no {name}; write it there, or give --{name.replace('_', '-')}")
    test = read_list(options.test_list, options.feature_root, dataset, "--test-list")
    given = {} if options.gt_path is None else load_ground_truth(options.gt_path, dataset)
    if given and not given.keys() & {video.name for video in test}:
        raise BadInput(f"{options.gt_path}: the {len(test)} test videos are not in the ground truth ({test[0].name}, …); check --gt-path")
    rows = check_features(test, options.visual_width)
    for video in test:
        tested_file(video, options.test_crop)
    truth = known_truth(test, rows, given, dataset)
    check_lengths(rows, truth, options.allow_length_mismatch)
    if odd := [video.name for video in test if not video.abnormal and truth[video.name].shows]:
        print(f"note: {len(odd)} test videos are normal in the list, and tested as the ground truth has them, abnormal: {some(odd)}")
    captions = load_captions(options)
    if captions:
        captions.check(test, rows)
    covered = known_coverage(test, rows, captions)
    if seed is None:
        return Data(dataset, None, None, [], test, truth, captions, covered=covered)
    videos, held_out = read_list(options.train_list, options.feature_root, dataset, "--train-list"), []
    if both := sorted({video.name for video in videos} & {video.name for video in test}):
        if not options.allow_overlap:
            raise BadInput(
                f"{options.train_list}: {len(both)} of its {len(videos)} videos are in {options.test_list}, too ({some(both)}); figures "
                f"of videos that were trained on say nothing: take them out of one list, or accept it with --allow-overlap"
            )
        print(f"note: {len(both)} videos are in the training and in the test list: {some(both)}")
    pairs = same_content(videos, test)
    if others := [f"{a} = {b}" for a, b in pairs if a != b]:
        print(f"note: {len(others)} training videos have the features of a test video, byte for byte: {printable(', '.join(others))}")
    rows = check_features(videos, options.visual_width)
    check_crops(videos)
    if captions:
        versions = training_versions(captions, options.caption_choice)
        captions.check(videos, rows, dict.fromkeys((SOURCE, *versions)))
        print(f"captions: {captions.root}, training draws from {', '.join(versions)}")
    if options.select == "val":
        videos, held_out = hold_out(videos, options.val_share, seed, dataset)
        if len({video.abnormal for video in held_out}) < 2:
            raise BadInput(
                f"--select val: the {len(held_out)} held-out videos are all of one kind; "
                f"expected normal and abnormal ones; raise --val-share (it is {options.val_share}), or take --select last"
            )
    more = {"captions": captions, "versions": versions} if captions else {}
    train = FeatureDataset(videos, length=options.visual_length, width=options.visual_width, **more)
    batches = {"balanced": BalancedBatches, "shuffle": ShuffledBatches}[options.sampling](train.abnormal, options.batch_size, seed)
    if captions:
        batches = DrawnVersions(batches, versions)
    return Data(dataset, train, batches, held_out, test, truth, captions, frozenset(b for _, b in pairs), covered)
