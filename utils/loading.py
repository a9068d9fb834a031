"""What the four scripts share: from options to data and model, one run per seed, and the report of a checkpoint."""

import argparse
import json
import platform
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dataset import FeatureDataset, check_features, hold_out, read_list, same_content, test_videos
from model import SYSTEMS, build_model, options_of
from tools.make_sample import is_current, make_sample
from utils import checkpoint, engine, plots, report, restore, segments, text
from utils.analysis import thresholds
from utils.batches import BalancedBatches, DrawnVersions, ShuffledBatches
from utils.caption_tree import SOURCE, CaptionTree
from utils.crops import MANIFEST
from utils.errors import BadInput
from utils.files import make_folder, read_json, write_json
from utils.ground_truth import load_ground_truth
from utils.intervals import difference
from utils.labels import DATASETS, Dataset
from utils.mamba import Mamba, scan_backend
from utils.options import ROOT
from utils.scores import check_lengths, save_scores


def announce(options) -> None:
    """Say which data is used; make the built-in sample if it is wanted and not there yet."""
    title = DATASETS[options.dataset].title
    if not options.sample:
        what = "captions" if SYSTEMS[options.model].captions and options.branches == "text" else "features"
        print(f"data: {title} {what} in {options.feature_root}")
        return
    print(f"data: built-in sample (simulated features; figures say nothing about {title})")
    folder = ROOT / "data" / "sample" / options.dataset
    if not is_current(folder, options.dataset):  # absent, or of an earlier version of this project
        print(f"making the sample in {folder}")
        make_sample(folder, options.dataset)


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises BadInput for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, available in there.items() if available))
    if not there[name]:
        raise BadInput(f"--device {name}: not available here; expected one of {', '.join(d for d, yes in there.items() if yes)}")
    return torch.device(name)


def load_text(options):
    """The text side for `build_model`: CLIP, sentence encoder or class text features, as the options say; None where no block uses text."""
    if not SYSTEMS[options.model].text or (options.model == "reflip" and options.blocks == "cls"):
        return None
    if options.text_features:
        return read_text_features(options.text_features)
    if options.sentence_encoder:
        return text.load_sentence_text(options.sentence_encoder)
    return text.load_clip(options.clip)


def read_text_features(path: str) -> torch.Tensor:
    """(C+1, D) float32 from a .npy. Raises BadInput where it is missing or no finite matrix."""
    try:
        features = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise BadInput(f"--text-features {path}: no such file; name a .npy of one row per class") from None
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(
            f"--text-features {path}: not a .npy array ({str(error).splitlines()[0]}); name a .npy of one row per class"
        ) from None
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f" or not np.isfinite(features).all():
        raise BadInput(f"--text-features {path}: expected a finite float matrix (classes, width)")
    return torch.from_numpy(features.astype(np.float32))


def load_model(options, seed: int) -> torch.nn.Module:
    """The model that the options describe, with its frozen encoders, initialised from `seed`, on the device of `--device`."""
    encoder, names = load_text(options), options_of(options.model)
    sizes = {name: getattr(options, name) for name in names if name != "distilbert"}
    if isinstance(encoder, torch.nn.Module) and "distilbert" in names and options.prompt == "reparameterized":
        sizes["distilbert"] = text.load_transformer(options.distilbert, "--distilbert")
    torch.manual_seed(seed)
    return build_model(options.model, DATASETS[options.dataset].names, encoder, **sizes).to(pick_device(options.device))


def describe(model: torch.nn.Module, options) -> str:
    """Trained parameters, and FLOPs for one video of `visual_length`: of the system; of ReFLIP-VAD the temporal network and its block,
    beside the paper's budget (table IX).
    """
    parts = ("temporal", "ffn_cls", "classifier") if options.model == "reflip" else None
    modules = [module for name, module in model.named_children() if parts is None or name in parts]
    parameters = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
    device, classes = next(model.parameters()).device, len(DATASETS[options.dataset].names)
    widths = [options.visual_width, *([options.caption_width] if with_captions(options) else [])]
    inputs = [torch.zeros(1, options.visual_length, width, device=device) for width in widths]
    inputs.insert(1, torch.tensor([options.visual_length], device=device))
    word = getattr(model, "word_linear", None)  # of TrCLIP-VAD: text features are as wide as both branches
    text = torch.zeros(classes, options.visual_width if word is None else word.out_features, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs, text=text)
    total = counter.get_flop_counts()
    flops = sum(sum(counts.values()) for name, counts in total.items() if (name.split(".")[-1] in parts if parts else name == "Global"))
    of = f"{options.temporal} network and CLS block" if parts else options.model
    paper = " (paper, GE: 1.14 M, 0.36 GFLOPs)" if parts else ""
    return f"{of}: {parameters / 1e6:.2f} M trained parameters, {flops / 1e9:.2f} GFLOPs for {options.visual_length} snippets{paper}"


class Data(NamedTuple):
    """The data of one run. Videos are lists of dataset.Video; train and batches are None for a test script, captions for a system that
    reads none.
    """

    dataset: Dataset
    train: FeatureDataset | None
    batches: BalancedBatches | ShuffledBatches | DrawnVersions | None
    held_out: list
    test: list
    truth: dict
    captions: CaptionTree | None = None
    without_captions: list = []  # noqa: RUF012, names of test videos, never written to


def with_captions(options) -> bool:
    """Whether the system reads caption features, as its branches say."""
    return SYSTEMS[options.model].captions and options.branches != "visual"


def load_captions(options) -> CaptionTree | None:
    """The caption tree of a system that reads one."""
    if not with_captions(options):
        return None
    mismatch = options.allow_length_mismatch
    return CaptionTree(options.caption_root, options.caption_width, missing=options.missing_captions, mismatch=mismatch)


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


def load_data(options, seed: int | None) -> Data:
    """Read the lists and ground truth, hold out the validation share, and check every file's header before anything is trained.

    seed None reads the test side only. Raises BadInput for whatever is wrong with them.
    """
    dataset = DATASETS[options.dataset]
    test = read_list(options.test_list, options.feature_root, dataset, "--test-list")
    truth = load_ground_truth(options.gt_path, dataset)
    rows = check_features(test, options.visual_width)
    check_lengths(rows, truth, options.allow_length_mismatch)
    captions = load_captions(options)
    without = captions.check(test, rows) if captions else []
    if without:
        print(f"note: {len(without)} of {len(test)} test videos have no captions and take zeros: {', '.join(without[:5])}")
    if seed is None:
        return Data(dataset, None, None, [], test, truth, captions, without)
    videos, held_out = read_list(options.train_list, options.feature_root, dataset, "--train-list"), []
    both = sorted({video.name for video in videos} & {video.name for video in test})
    if both:
        print(f"note: {len(both)} videos are in the training and in the test list: {', '.join(both[:5])}")
    if pairs := [f"{a} = {b}" for a, b in same_content(videos, test) if a != b]:
        print(f"note: {len(pairs)} training videos have the features of a test video, byte for byte: {', '.join(pairs)}")
    rows = check_features(videos, options.visual_width)
    if captions:
        versions = training_versions(captions, options.caption_choice)
        silent = captions.check(videos, rows, dict.fromkeys((SOURCE, *versions)))
        print(f"captions: {captions.root}, training draws from {', '.join(versions)}; {len(silent)} training videos have none")
    if options.select == "val":
        videos, held_out = hold_out(videos, options.val_share, seed, dataset)
        if len({video.abnormal for video in held_out}) < 2:
            raise BadInput(
                f"--select val: the {len(held_out)} held-out videos are all of one kind; "
                f"raise --val-share {options.val_share}, or --select last"
            )
    train = FeatureDataset(videos, length=options.visual_length, width=options.visual_width, captions=captions)
    batches = {"balanced": BalancedBatches, "shuffle": ShuffledBatches}[options.sampling](train.abnormal, options.batch_size, seed)
    if captions:
        batches = DrawnVersions(batches, versions)
    return Data(dataset, train, batches, held_out, test, truth, captions, without)


def score(model, videos, options, captions: CaptionTree | None = None) -> dict:
    """Scores of a list of videos, one crop each (engine.predict), with their source captions where the system reads some."""
    return engine.predict(
        model,
        test_videos(videos, options.visual_width, options.test_crop, captions),
        options,
        pick_device(options.device),
        len(videos),
    )


def selection_figure(data: Data, options):
    """The figure that `--select` maximises, as a function of the model; None for the last epoch.

    val: AUC (UCF) or AP (XD) of the held-out training videos, or of their snippets (`--val-figure`).
    test: what the papers did, coarse frame AUC (UCF), fine frame AP (XD).
    """
    metric = "auc" if options.dataset == "ucf" else "ap"
    if options.select == "val":
        abnormal = {video.name: video.abnormal for video in data.held_out}
        return lambda model: engine.video_figure(score(model, data.held_out, options, data.captions), abnormal, metric, options.val_figure)
    if options.select == "test":
        part = "coarse" if options.dataset == "ucf" else "fine"
        return lambda model: report.frame_figure(score(model, data.test, options, data.captions), data.truth, part, metric)
    return None


def train(model, data: Data, options, seed: int) -> Path:
    """Train one seed under OUTPUT/seed-K; the path of the selected checkpoint."""
    folder = make_folder(Path(options.output) / f"seed-{seed}")
    names = len({video.name for video, *_ in data.train.samples})
    by_class = ", ".join(f"{label} {count}" for label, count in sorted(Counter(video.label for video in data.held_out).items()))
    held_out = f"{len(data.held_out)} videos held out" + (f" ({by_class})" if by_class else "")
    print(f"seed {seed}: {len(data.train)} samples of {names} videos, {held_out} -> {folder}")
    if seed == options.seeds[0]:
        print(describe(model, options))
        if any(isinstance(part, Mamba) for part in model.modules()):
            print(scan_backend(pick_device(options.device)))
    run = argparse.Namespace(**{**vars(options), "seed": seed})
    best = engine.fit(
        model,
        data.train,
        data.batches,
        run,
        folder,
        pick_device(options.device),
        data.dataset.names,
        selection_figure(data, options),
    )
    if data.held_out:  # where demo.py's threshold comes from
        checkpoint.load_trained_state(model, best["weights"], folder / "best.pt")
        normal = [video for video in data.held_out if not video.abnormal]
        best["thresholds"] = thresholds(score(model, normal, options, data.captions))
    if (Path(options.feature_root) / MANIFEST).is_file():
        made = read_json(Path(options.feature_root) / MANIFEST, "--feature-root")
        best["features"] = {key: made[key] for key in ("encoder", "recipe")}
    checkpoint.save(folder / "best.pt", best)
    write_json(
        folder / "options.json",
        {**vars(run), "command": command(), "held_out": [video.name for video in data.held_out]},
    )
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    plots.plot_training(make_folder(folder / "plots") / "training.png", lines, report.SELECTED_ON_TEST if options.select == "test" else "")
    return folder / "best.pt"


class Tested(NamedTuple):
    """A tested checkpoint: its report, what report.resample drew for it, and its scores by video."""

    report: dict
    drawn: dict
    scores: dict


def test(model, path: Path, data: Data, options, folder: Path) -> Tested:
    """Test a checkpoint once: scores.npz, report.json, report.md and plots/ in `folder`; the table is printed."""
    saved = checkpoint.load(path)
    released = "options" not in saved
    if not released:
        restore.matches(saved, model, path, options)
    checkpoint.load_trained_state(model, saved["weights"], path)
    texts = segments.read_texts(data.captions, data.test) if data.captions else None
    scores = score(model, data.test, options, data.captions)
    drawn = report.resample(scores, data.truth, data.dataset)
    selected = "released" if released else saved["options"]["select"] if saved.get("figure") is not None else "last"
    result = {
        "dataset": options.dataset,
        "model": options.model,
        "checkpoint": str(path),
        "selected_on": selected,
        "sample": options.sample,
        "features": "sample" if options.sample else "sentences" if options.sentence_encoder else "visual",
        **report.evaluate(scores, data.truth, drawn),
        "command": command(),
        "versions": versions() | {"commit": saved.get("commit", "released by the authors")},
        "seeds": [] if released else [saved["options"]["seed"]],
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    trained_so = not released and saved["options"].get("mask_padding")
    if getattr(model, "mask_padding", False) and not trained_so and not SYSTEMS[options.model].whole:  # whole videos have no padding
        result["padding"] = padding_effect(model, data, options, drawn)
    if data.captions:
        result["without_captions"] = data.without_captions
    found = segments.detect(scores, data.truth, data.dataset, texts)
    result["segments"] = segments.rows(found, data.truth, data.dataset)
    for place in {folder / "scores.npz", Path(options.save_scores or folder / "scores.npz")}:
        save_scores(place, scores, data.dataset.names)
    report.write_report(folder, result)
    if options.json:
        write_json(options.json, result)
    draw(folder / "plots", [scores], data, result)
    plots.plot_scores(folder / "plots", scores, data.truth, data.dataset, report.stamp(result), found)
    print(report.print_table(result))
    print(f"report: {folder / 'report.md'}   plots: {folder / 'plots'}")
    return Tested(result, drawn, scores)


def padding_effect(model, data: Data, options, masked: dict) -> dict:
    """What masking the padding moves: paired differences of the figures with it (`masked`, from report.resample) and as published."""
    model.mask_padding = False
    published = report.resample(score(model, data.test, options, data.captions), data.truth, data.dataset)
    model.mask_padding = True
    rows = {
        path: {"published": float(published[path][0]), "masked": float(masked[path][0]), **difference(masked[path], published[path])}
        for path in published
        if path[0] != "per_class" and not np.isnan(published[path][0])
    }
    return {"videos": len(data.test), "figures": report.nest(rows)}


def draw(folder: Path, runs: list[dict], data: Data, result: dict) -> None:
    """The pictures of one seed or of several: ROC and PR curves; for one seed also confusion and the alignment map of the test video with
    the most anomalous frames.
    """
    stamp = report.stamp(result)
    plots.plot_curves(make_folder(folder) / "curves.png", runs, data.truth, stamp)
    if len(runs) == 1 and result["fine"] is not None:
        plots.plot_confusion(folder / "confusion.png", runs[0], data.truth, data.dataset, stamp)
        name = max(runs[0], key=lambda name: report.frame_labels(data.truth[name], data.truth[name].frames).sum())
        plots.plot_alignment(folder / "alignment.png", name, runs[0][name].fine, data.truth[name], data.dataset, stamp)


def summarise(tested: list[Tested], data: Data, folder: Path) -> None:
    """Mean ± std over the seeds, as report.json, report.md and plots/ of the whole run."""
    result = report.summarise([part.report for part in tested], [part.drawn for part in tested])
    report.write_report(folder, result)
    if len(tested) > 1:
        draw(folder / "plots", [part.scores for part in tested], data, result)
        print(report.print_table(result))
    print(f"report over {len(tested)} seed{'s' if len(tested) > 1 else ''}: {folder / 'report.md'}")


def command() -> str:
    """The command line, without the interpreter's path."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict:
    """What a figure depends on: Python, torch, processor, threads."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **gpu,
    }
