"""From scores and ground truth to report.json, report.md and the printed table (contract.md: report.json, Scores)."""

import statistics
from pathlib import Path

import numpy as np

from utils.files import replacing, write_json
from utils.ground_truth import GroundTruth
from utils.intervals import RESAMPLES, interval, over_seeds, resampled
from utils.labels import DATASETS, Dataset
from utils.metrics import PROTOCOLS, class_figures, frame_figures, frame_metrics, segment_figures
from utils.scores import to_frames

FEATURES = {
    "sample": "built-in sample: simulated features; these figures say nothing about {}",
    "sentences": "features of sentences, which know what their writers saw: not comparable with published figures on {}'s videos",
}
KEYS = ("0.1", "0.2", "0.3", "0.4", "0.5", "avg")
# ReFLIP-VAD's own figures in percent (systems.md §1; the segment mAP's protocol is not stated), each the best epoch on the test set.
PAPER = {
    "ucf": {("coarse", "auc"): "88.57 (CLIP), 89.14 (FLIP)", ("coarse", "ano_auc"): "72.35 (CLIP), 74.72 (FLIP)"}
    | {("map", "official", key): value for key, value in zip(KEYS, ["14.23", "10.34", "9.32", "7.54", "6.81", "9.62"], strict=True)},
    "xd": {("fine", "ap"): "85.81 (CLIP), 86.29 (FLIP)"}
    | {("map", "official", key): value for key, value in zip(KEYS, ["39.24", "33.45", "27.71", "20.86", "17.22", "27.36"], strict=True)},
}
SELECTED_ON_TEST = "selected on test"
SELECTED = {"val": "held-out training videos", "last": "the last epoch", "test": f"TEST ({SELECTED_ON_TEST})"}


def frame_labels(video: GroundTruth, frames: int) -> np.ndarray:
    """(frames,) int: 1 inside an anomalous segment."""
    labels = np.zeros(frames, np.int64)
    for start, end, _ in video.segments:
        labels[start:end] = 1
    return labels


def class_labels(video: GroundTruth, dataset: Dataset) -> np.ndarray:
    """(F, C) bool: which anomaly classes each frame shows."""
    labels = np.zeros((video.frames, len(dataset.labels) - 1), bool)
    for start, end, label in video.segments:
        labels[start:end, dataset.labels.index(label) - 1] = True
    return labels


def anomaly_scores(scores: dict, truth: dict[str, GroundTruth], part: str) -> list[np.ndarray] | None:
    """(F,) of each video, frame by frame; `part` "coarse", or "fine" = 1 − p(normal). None where the model has no such score."""
    values = [coarse if part == "coarse" else None if fine is None else 1 - fine[:, 0] for coarse, fine in scores.values()]
    if any(value is None for value in values):
        return None
    return [to_frames(value, truth[name].frames) for name, value in zip(scores, values, strict=True)]


def frame_figure(scores: dict, truth: dict, part: str, metric: str) -> float:
    """One frame-level figure of the coarse or fine score (the other where the model has only that), no interval (`--select test`)."""
    values = anomaly_scores(scores, truth, part) or anomaly_scores(scores, truth, "fine" if part == "coarse" else "coarse")
    return frame_metrics(values, [frame_labels(truth[name], truth[name].frames) for name in scores])[metric]


def resample(scores: dict, truth: dict[str, GroundTruth], dataset: Dataset, resamples: int = RESAMPLES) -> dict[tuple, np.ndarray]:
    """Every figure of a report on the whole test set, then on each bootstrap resample: {path: (1 + resamples,)}, NaN where undefined.

    scores: {NAME: (coarse (T,) or None, fine (T, C+1) probabilities or None)}; paths are report.json's, ("coarse", "auc"),
    ("per_class", "fine", "Abuse", "ap"), ("map", "official", "0.1"), … Videos are taken by name, so that two systems with the same videos
    share their draws.
    """
    scores = {name: scores[name] for name in sorted(scores)}
    found = {}

    def add(path: tuple, figures) -> None:
        for name, values in resampled(figures, len(scores), resamples).items():
            found[(*path, *name) if isinstance(name, tuple) else (*path, name)] = values

    labels = [class_labels(truth[name], dataset) for name in scores]
    anomalous = [label.any(1) for label in labels]
    for part in ("coarse", "fine"):
        values = anomaly_scores(scores, truth, part)
        if values is not None:
            add((part,), frame_figures(values, anomalous))
            add(("per_class", part), class_figures(values, labels, dataset.labels[1:]))
    if all(fine is not None for _, fine in scores.values()):
        probs = [to_frames(fine, truth[name].frames) for name, (_, fine) in scores.items()]
        for protocol in PROTOCOLS:
            segments, names = [], []
            for name in scores:
                # The released ground truth names a normal video's whole length a segment of class "A".
                entries = truth[name].segments or ((0, truth[name].frames, "A"),) * (protocol == "official")
                segments.append([[start, end] for start, end, _ in entries])
                names.append([label for _, _, label in entries])
            add(("map", protocol), segment_figures(probs, segments, names, dataset.labels, protocol))
    return found


def evaluate(scores: dict, truth: dict[str, GroundTruth], drawn: dict[tuple, np.ndarray]) -> dict:
    """videos, frames, coarse, fine, per_class and map as in report.json, from what `resample` gave for these scores."""
    counts = {"videos": len(scores), "frames": sum(truth[name].frames for name in scores)}
    return counts | nest({path: interval(values) for path, values in drawn.items()})


def nest(figures: dict[tuple, dict]) -> dict:
    """{("coarse", "auc"): {…}, …} -> {"coarse": {"auc": {…}}, …}, None for a score that is absent."""
    result: dict = {"coarse": None, "fine": None, "per_class": None, "map": None}
    for path, figure in figures.items():
        place = result
        for key in path[:-1]:
            place[key] = place.get(key) or {}
            place = place[key]
        place[path[-1]] = figure
    return result


def figures(report: dict) -> dict[tuple, dict]:
    """All figures of a report by path, ("coarse", "auc") or ("map", "official", "0.1") -> {"value", "low", "high", …}; `nest` undone."""

    def walk(path: tuple, place):
        if place and "value" in place:
            yield path, place
        elif place:
            for key, inner in place.items():
                yield from walk((*path, key), inner)

    return {path: figure for part in ("coarse", "fine", "map", "per_class") for path, figure in walk((part,), report[part])}


def summarise(reports: list[dict], drawn: list[dict[tuple, np.ndarray]]) -> dict:
    """Over seeds: each figure's mean as value with its interval (utils/intervals.py, over_seeds), std (n − 1), best and worst; with one
    seed the report itself. `drawn` is what `resample` gave for each of the reports.
    """
    if len(reports) == 1:
        return reports[0]
    result = {}
    for path in drawn[0]:
        values = [float(part[path][0]) for part in drawn]
        if not np.isnan(values).any():
            best, worst = (min, max) if path[-1] == "false_alarm_rate" else (max, min)
            spread = {"std": statistics.stdev(values), "best": best(values), "worst": worst(values)}
            result[path] = interval(over_seeds([part[path] for part in drawn], seed=0)) | spread
        else:
            result[path] = {"value": None, "low": None, "high": None}
    seeds = [seed for report in reports for seed in report["seeds"]]
    return {**reports[0], **nest(result), "seeds": seeds, "checkpoint": [report["checkpoint"] for report in reports]}


def percent(figure: dict) -> str:
    """A figure in percent: mean ± std over seeds where there are several, then its interval."""
    if figure["value"] is None:
        return "–"
    text = f"{100 * figure['value']:.2f}" + (f" ± {100 * figure['std']:.2f}" if "std" in figure else "")
    return text if figure["low"] is None else f"{text} [{100 * figure['low']:.2f}, {100 * figure['high']:.2f}]"


def rows(report: dict) -> list[tuple[str, str, str]]:
    """The table: figure, ours, the paper's (only beside features of the paper's kind)."""
    paper = PAPER[report["dataset"]] if report["model"] == "reflip" and report["features"] == "visual" else {}
    return [
        (" ".join(("mAP", *path[1:]) if path[0] == "map" else path), percent(figure), paper.get(path, ""))
        for path, figure in figures(report).items()
        if path[0] != "per_class"
    ]


def class_rows(report: dict) -> list[list[str]]:
    """The table by class: class, then AUC and AP of the coarse and the fine score, where there are such."""
    parts = [(part, figure) for part in report["per_class"] or {} for figure in ("auc", "ap")]
    names = next(iter((report["per_class"] or {"": {}}).values()))
    header = ["class", *(f"{part} {figure}" for part, figure in parts)]
    return [header] + [[name, *(percent(report["per_class"][part][name][figure]) for part, figure in parts)] for name in names]


def heading(report: dict) -> list[str]:
    """What a reader must know before the figures."""
    title = DATASETS[report["dataset"]].title
    seeds = ("seeds " if len(report["seeds"]) > 1 else "seed ") + ", ".join(map(str, report["seeds"]))
    lines = [f"{report['model']} on {title}: {report['videos']} videos, {report['frames']} frames, {seeds}"]
    lines.append(
        f"checkpoint selected on {SELECTED[report['selected_on']]}; "
        + ("mean ± std over seeds, " if len(report["seeds"]) > 1 else "")
        + ("95 % bootstrap intervals over videos" + (" and seeds" if len(report["seeds"]) > 1 else ""))
    )
    if report["features"] in FEATURES:
        lines.append(FEATURES[report["features"]].format(title))
    return lines


def stamp(report: dict) -> str:
    """What must stand on a picture: nothing, unless the checkpoint was selected on the test set."""
    return SELECTED_ON_TEST if report["selected_on"] == "test" else ""


def print_table(report: dict) -> str:
    """The table for the terminal, in percent."""
    body = rows(report)
    left, middle = (max(len(row[i]) for row in body) for i in (0, 1))
    paper = any(row[2] for row in body)
    lines = [*heading(report), f"{'figure (%)':{left}}  {'ours':{middle}}" + ("  paper (best on test)" if paper else "")]
    return "\n".join([*lines, *(f"{name:{left}}  {ours:{middle}}  {theirs}".rstrip() for name, ours, theirs in body)])


def markdown(rows: list) -> list[str]:
    """The first row is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]


def write_report(folder: Path | str, report: dict) -> None:
    """report.json (fractions) and report.md (percent, a table ready for a paper) in `folder`."""
    write_json(Path(folder) / "report.json", report)
    lines = [f"{line}  " for line in heading(report)]
    lines += ["", *markdown([("figure (%)", "ours", "paper (best epoch on test)"), *rows(report)])]
    lines += ["", "By class: the videos that show it and the normal videos; frames of other classes count neither way.", ""]
    lines += markdown(class_rows(report))
    lines += ["", f"`{report['command']}`", "", ", ".join(f"{name} {value}" for name, value in report["versions"].items())]
    with replacing(Path(folder) / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
