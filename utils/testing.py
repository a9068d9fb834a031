"""The test of a checkpoint: scores, figures with intervals, detected segments, report and plots; and the summary over seeds."""

import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from model import SYSTEMS
from utils import checkpoint, engine, restore, runs
from utils.evaluation import plots, report, segments
from utils.evaluation.intervals import difference
from utils.evaluation.scores import load_scores, save_scores
from utils.files import make_folder, write_json
from utils.labels import Dataset
from utils.loading import Data
from utils.prompt import projects
from utils.reading import read_json


class Tested(NamedTuple):
    """A tested checkpoint: its report, what report.resample drew for it, and its scores by video."""

    report: dict
    drawn: dict
    scores: dict


def test(model, path: Path, data: Data, options, folder: Path, shown: Path) -> Tested:
    """Test a checkpoint once: scores.npz, report.json, report.md and plots/ in `folder`; the table is printed, and `shown` as where they
    are.
    """
    saved = checkpoint.load(path)
    released = "options" not in saved
    if not released:
        restore.matches(saved, model, path, options)
    checkpoint.load_trained_state(model, saved["weights"], path)
    texts = data.captions.texts(data.test) if data.captions else None
    scores = engine.score(model, data.test, options, data.captions)
    drawn = report.resample(scores, data.truth, data.dataset)
    selected = "released" if released else saved["options"]["select"] if saved.get("figure") is not None else "last"
    result = {
        "dataset": options.dataset,
        "title": data.dataset.title,
        "model": options.model,
        "checkpoint": str(path),
        "selected_on": selected,
        "sample": options.sample,
        "features": features_of(options, saved.get("features"), projects(model)),
        **published(data.dataset, options.model, drawn),
        "official_videos": None if options.sample else official_videos(scores, data.dataset),
        "trained_on": sorted(scores.keys() & set(saved.get("trained_on", ()))),
        **({"init": {key: saved["init"][key] for key in ("path", "taken", "left")}} if "init" in saved else {}),
        **report.evaluate(scores, data.truth, data.dataset, drawn),
        "command": options.command,
        "versions": versions() | {"commit": saved.get("commit", "released by the authors")},
        "seeds": [] if released else [saved["options"]["seed"]],
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    trained_so = not released and saved["options"].get("mask_padding")
    if getattr(model, "mask_padding", False) and not trained_so and not SYSTEMS[options.model].whole:  # whole videos have no padding
        result["padding"] = padding_effect(model, data, options, drawn)
    known = segments.known_threshold(saved.get("thresholds"), segments.RATE)
    threshold, source = known or segments.unknown_threshold(segments.RATE)
    result["threshold"] = {"value": threshold, "from": source}
    found = segments.detect(scores, data.truth, data.dataset, threshold, texts)
    result["segments"] = segments.rows(found, data.truth, data.dataset)
    for place in {folder / "scores.npz", Path(options.save_scores or folder / "scores.npz")}:
        save_scores(place, scores, data.dataset.names)
    report.write_report(folder, result)
    if options.json:
        write_json(options.json, result)
    draw(folder / "plots", [scores], data, result)
    plots.plot_scores(folder / "plots", scores, data.truth, data.dataset, report.stamp(result), found)
    print(report.print_table(result))
    print(f"report: {shown / 'report.md'}   plots: {shown / 'plots'}")
    return Tested(result, drawn, scores)


def published(dataset: Dataset, model: str, drawn: dict) -> dict:
    """What a report takes from the system's paper: `paper`, its figures by name and the rule that selected its checkpoint; `headline`, the
    figure that it reports, of the other score where the model has not that one, and Ano-AUC beside an AUC, AVG mAP beside an AP (without
    class scores Ano-AUC).
    """
    part, metric = dataset.headline_of(model)
    if (part, metric) not in drawn:
        part = "fine" if part == "coarse" else "coarse"
    mean = ("map", "official", "avg")
    headline = [[part, metric], list(mean if metric == "ap" and mean in drawn else (part, "ano_auc"))]
    figures = dataset.papers.get(model, {}).get("figures", {})
    return {"headline": headline, "paper": {"rule": SYSTEMS[model].rule, "figures": figures}}


def features_of(options, made: dict | None, projected: bool) -> str:
    """What the features are, as a report names them. made: what the checkpoint says of them, which goes by their manifest, if there is
    one: else the number of columns tells whether they can be those of the system's paper. projected: whether they live in another space
    than the text side, so that a sentence encoder there says nothing of them.
    """
    system = SYSTEMS[options.model]
    if options.sample:
        return "sample"
    if options.sentence_encoder and (not projected or "captions" in system.inputs(options)):
        return "sentences"
    named = made["encoder"]["name"] == system.encoder if made else not options.sentence_encoder
    return "visual" if options.visual_width in system.widths and named else "other"


def official_videos(scores: dict, dataset: Dataset) -> list[int] | None:
    """[how many of the tested videos are of a benchmark's official test set, how many that has]; None for other data sets."""
    if not dataset.papers:
        return None
    official = read_json(dataset.gt_path, "--gt-path").keys()
    return [len(official & scores.keys()), len(official)]


def padding_effect(model, data: Data, options, masked: dict) -> dict:
    """What masking the padding moves: paired differences of the figures with it (`masked`, from report.resample) and as published."""
    model.mask_padding = False
    published = report.resample(engine.score(model, data.test, options, data.captions), data.truth, data.dataset)
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
    """Mean ± std over the seeds, and those that another process has finished, as report.json, report.md and plots/ of the whole run."""
    found = {part.report["seeds"][0]: part for part in tested}
    for seed, place in runs.seed_folders(folder).items():
        if seed not in found and (place / "report.json").exists():
            scores = load_scores(place / "scores.npz")[0]
            found[seed] = Tested(read_json(place / "report.json", "--output"), report.resample(scores, data.truth, data.dataset), scores)
    tested = [found[seed] for seed in sorted(found)]
    result = report.summarise([part.report for part in tested], [part.drawn for part in tested])
    report.write_report(folder, result)
    if len(tested) > 1:
        draw(folder / "plots", [part.scores for part in tested], data, result)
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
