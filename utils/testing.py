"""The test of a checkpoint: scores, figures with intervals, detected segments, report and plots; and the summary over seeds."""

import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from model import SYSTEMS
from utils import checkpoint, engine, ranks, restore, runs
from utils.captions.tree import MANIFEST as EMBEDDED
from utils.evaluation import report, segments
from utils.evaluation.ground_truth import TRUTH, load_ground_truth, write_ground_truth
from utils.evaluation.intervals import difference
from utils.evaluation.scores import load_scores, save_scores
from utils.files import make_folder, write_json
from utils.labels import Dataset
from utils.loading import Data
from utils.prompt import projects
from utils.reading import read_json


class Tested(NamedTuple):
    """A tested checkpoint: its report, what report.resample drew for it, its scores by video, and what is known of these."""

    report: dict
    drawn: dict
    scores: dict
    truth: dict
    dataset: Dataset


def test(model, path: Path, data: Data, options, folder: Path, shown: Path) -> Tested | None:
    """Test a checkpoint once: scores.npz, report.json, report.md and, with --plots, plots/ in `folder`; the table is printed, and `shown`
    as where they are. Of several ranks the first one does that, with the scores of all; the others give None.
    """
    saved = ranks.first(checkpoint.load)(path)
    released = "options" not in saved
    weights = saved["weights"] if released else restore.weights_for(saved, model, path, options, data.dataset)
    checkpoint.load_trained_state(model, weights, path)
    elsewhere = not released and not restore.is_of(saved, data.dataset)
    texts = data.captions.texts(data.test) if data.captions else None
    features = features_of(options, saved.get("features"), projects(model))
    scores = engine.score(model, data.test, options, data.captions)
    trained_so = not released and saved["options"].get("mask_padding")
    unmasked = None
    if getattr(model, "mask_padding", False) and not trained_so and not SYSTEMS[options.model].whole:  # whole videos have no padding
        model.mask_padding = False
        unmasked = engine.score(model, data.test, options, data.captions)
        model.mask_padding = True
    if ranks.rank():
        return None
    if features == "sentences" and data.covered:
        scores = {name: parts._replace(covered=data.covered[name]) for name, parts in scores.items()}
    drawn = report.resample(scores, data.truth, data.dataset)
    frozen = engine.frozen_names(options.freeze)
    selected = "released" if released else saved["options"]["select"] if saved.get("figure") is not None else "last"
    result = {
        "dataset": options.dataset,
        "title": data.dataset.title,
        "model": options.model,
        "checkpoint": str(path),
        "selected_on": selected,
        **({"selected_by": saved["figure_of"]} if "figure_of" in saved else {}),
        "sample": options.sample,
        "features": features,
        **published(data.dataset, options.model, drawn, len(report.timed(scores, data.truth)) < len(scores), elsewhere),
        "official_videos": None if options.sample else official_videos(scores, data.dataset),
        "trained_on": sorted(scores.keys() & set(saved.get("trained_on", ()))),
        **({"trained_for": trained_for(saved, data.dataset)} if elsewhere else {}),
        **({"init": {key: saved["init"][key] for key in ("path", "taken", "left")}} if "init" in saved else {}),
        **report.evaluate(scores, data.truth, data.dataset, drawn),
        "command": options.command,
        "versions": versions() | {"commit": saved.get("commit", "released by the authors")},
        "seeds": [] if released else [saved["options"]["seed"]],
        "parameters": sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and name.split(".")[0] not in frozen),
    }
    if unmasked:
        result["padding"] = padding_effect(unmasked, data, drawn)
    known = segments.known_threshold(saved.get("thresholds"), segments.RATE)
    threshold, source = known or segments.unknown_threshold(segments.RATE)
    result["threshold"] = {"value": threshold, "from": source}
    found = segments.detect(scores, data.truth, data.dataset, threshold, texts)
    result["segments"] = segments.rows(found, data.truth, data.dataset)
    for place in {folder / "scores.npz", Path(options.save_scores or folder / "scores.npz")}:
        save_scores(place, scores, data.dataset.names)
    keep_truth(folder, result, scores, data.truth, options.gt_path)
    report.write_report(folder, result)
    if options.json:
        write_json(options.json, result)
    draw(options, folder, [scores], data.truth, data.dataset, result, found)
    print(report.print_table(result))
    print(f"report: {shown / 'report.md'}" + f"   plots: {shown / 'plots'}" * options.plots)
    return Tested(result, drawn, scores, data.truth, data.dataset)


def keep_truth(folder: Path, result: dict, scores: dict, truth: dict, gt_path: str | None) -> None:
    """Where the ground truth that a result was measured on is no file of its own, write it beside the scores, and say in the result what
    file there was.
    """
    if "timed" in result:
        result["truth"] = str(gt_path or "none was given")
    if result.keys() & {"timed", "sources", "folds"}:
        write_ground_truth(folder / TRUTH, {name: truth[name] for name in sorted(scores)})
    else:
        (folder / TRUTH).unlink(missing_ok=True)  # of an earlier test


def trained_for(saved: dict, dataset: Dataset) -> dict:
    """What a report says of a checkpoint that was trained for other classes: what and which they were, and how many are tested."""
    return {"data": restore.origin_of(saved), "classes": saved["classes"], "tested": len(dataset.names)}


def published(dataset: Dataset, model: str, drawn: dict, by_video: bool = False, elsewhere: bool = False) -> dict:
    """What a report takes from the system's paper: `paper`, its figures by name and the rule that selected its checkpoint; `headline`, the
    figure that it reports, of the other score where the model has not that one, and Ano-AUC beside an AUC, AVG mAP beside an AP (without
    class scores Ano-AUC). Where ground truth does not say when, it is the figure by video, with AP beside AUC or the other way round.
    elsewhere: the model was trained for other classes, of which no paper reports.
    """
    part, metric = dataset.headline_of(model)
    if not {(part, metric), ("video", part, metric)} & drawn.keys():
        part = "fine" if part == "coarse" else "coarse"
    mean = ("map", "official", "avg")
    headline = [[part, metric], list(mean if metric == "ap" and mean in drawn else (part, "ano_auc"))]
    if by_video:
        headline = [["video", part, metric], ["video", part, "ap" if metric == "auc" else "auc"]]
    figures = {} if elsewhere else dataset.papers.get(model, {}).get("figures", {})
    return {"headline": headline, "paper": {"rule": SYSTEMS[model].rule, "figures": figures}}


def features_of(options, made: dict | None, projected: bool) -> str:
    """What the features are, as a report names them. made: what the checkpoint says of them, which goes by their manifest, if there is
    one: else the number of columns tells whether they can be those of the system's paper. projected: whether they live in another space
    than the text side, so that a sentence encoder there says nothing of them; the manifest of tools.embed_captions beside them does.
    """
    system = SYSTEMS[options.model]
    if options.sample:
        return "sample"
    encoded = made is None and options.sentence_encoder and system.text(options) and not options.text_features
    in_its_space = encoded and (not projected or "captions" in system.inputs(options))
    if in_its_space or Path(options.feature_root, EMBEDDED).is_file():
        return "sentences"
    named = made["encoder"]["name"] == system.encoder if made else not options.sentence_encoder
    return "visual" if options.visual_width in system.widths and named else "other"


def official_videos(scores: dict, dataset: Dataset) -> list[int] | None:
    """[how many of the tested videos are of a benchmark's official test set, how many that has]; None for other data sets."""
    if not dataset.papers or dataset.gt_path is None:
        return None
    official = read_json(dataset.gt_path, "--gt-path").keys()
    return [len(official & scores.keys()), len(official)]


def padding_effect(unmasked: dict, data: Data, masked: dict) -> dict:
    """What masking the padding moves: paired differences of the figures with it (`masked`, from report.resample) and of the scores
    without, as published.
    """
    published = report.resample(unmasked, data.truth, data.dataset)
    rows = {
        path: {"published": float(published[path][0]), "masked": float(masked[path][0]), **difference(masked[path], published[path])}
        for path in published
        if "per_class" not in path and not np.isnan(published[path][0])
    }
    return {"videos": len(data.test), "figures": report.nest(rows)}


def draw(options, folder: Path, runs: list[dict], truth: dict, dataset: Dataset, result: dict, found: dict | None = None) -> None:
    """The pictures of one seed or of several, in folder/plots: ROC and PR curves; for one seed also confusion and the alignment map of the
    test video with the most anomalous frames; each video's scores where `found`, its detected segments, are given. Curves and confusion are
    of the videos of which every frame is known, where there are such. Without --plots earlier ones stay, unless a training went on since.
    """
    folder, logs = folder / "plots", folder.rglob("log.jsonl")
    if not options.plots:
        if folder.is_dir() and any(log.stat().st_mtime_ns > folder.stat().st_mtime_ns for log in logs):
            shutil.rmtree(folder)
        return
    from utils.evaluation import plots  # matplotlib takes a second

    stamp = report.stamp(result)
    make_folder(folder)
    known = [{name: scores[name] for name in report.timed(scores, truth)} for scores in runs]
    if known[0]:
        plots.plot_curves(folder / "curves.png", known, truth, stamp)
    if len(runs) == 1 and next(iter(runs[0].values())).fine is not None:
        if known[0]:
            plots.plot_confusion(folder / "confusion.png", known[0], truth, dataset, stamp)
        anomalous = {name: report.frame_labels(truth[name], truth[name].frames).sum() for name in runs[0]}
        name = max(anomalous, key=lambda name: (anomalous[name], bool(truth[name].shows)))
        plots.plot_alignment(folder / "alignment.png", name, runs[0][name].fine, truth[name], dataset, stamp)
    if found is not None:
        plots.plot_scores(folder, runs[0], truth, dataset, stamp, found)


def reread(place: Path, truth: dict, dataset: Dataset) -> Tested:
    """What an earlier test left in a folder. truth: what it was measured on, unless it left that, too."""
    made, scores = read_json(place / "report.json", "--output"), load_scores(place / "scores.npz")[0]
    truth = load_ground_truth(place / TRUTH, dataset) if (place / TRUTH).exists() else truth
    return Tested(made, report.resample(scores, truth, dataset, by_video="video" in made), scores, truth, dataset)


def pool(folds: list[Tested], truth: dict, dataset: Dataset, options, folder: Path, about: dict) -> Tested:
    """The test of a seed's folds as one: what `test` leaves, in `folder`, but for what is of one checkpoint. about: how they were dealt."""
    scores = {name: parts for fold in folds for name, parts in fold.scores.items()}
    drawn = report.resample(scores, truth, dataset, by_video=True)
    apart = {"padding", "segments", "threshold", "timed", "truth", "sources", "coverage", "covered"}
    result = {key: value for key, value in folds[0].report.items() if key not in apart} | {
        "checkpoint": [fold.report["checkpoint"] for fold in folds],
        **published(dataset, options.model, drawn, len(report.timed(scores, truth)) < len(scores)),
        "official_videos": None if options.sample else official_videos(scores, dataset),
        "trained_on": sorted(name for fold in folds for name in fold.report["trained_on"]),
        **report.evaluate(scores, truth, dataset, drawn),
        "folds": about,
    }
    save_scores(folder / "scores.npz", scores, dataset.names)
    keep_truth(folder, result, scores, truth, options.gt_path)
    report.write_report(folder, result)
    draw(options, folder, [scores], truth, dataset, result)
    print(report.print_table(result))
    print(f"report over {len(folds)} folds: {folder / 'report.md'}")
    return Tested(result, drawn, scores, truth, dataset)


@ranks.first
def summarise(tested: list[Tested], options) -> None:
    """Mean ± std over the seeds, and those that another process has finished, as report.json, report.md and plots/ of the whole run."""
    folder = Path(options.output)
    found = {part.report["seeds"][0]: part for part in tested}
    for seed, place in runs.seed_folders(folder).items():
        if seed not in found and (place / "report.json").exists():
            found[seed] = reread(place, tested[0].truth, tested[0].dataset)
    tested = [found[seed] for seed in sorted(found)]
    result = report.summarise([part.report for part in tested], [part.drawn for part in tested])
    report.write_report(folder, result)
    if len(tested) > 1:
        draw(options, folder, [part.scores for part in tested], tested[0].truth, tested[0].dataset, result)
        print(report.print_table(result))
    print(f"report over {len(tested)} seed{'s' if len(tested) > 1 else ''}: {folder / 'report.md'}")


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
