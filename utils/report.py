"""From scores and ground truth to report.json, report.md and the printed table (contract.md: report.json, Scores)."""

import statistics
import zipfile
from pathlib import Path

import numpy as np

from utils.errors import BadInput
from utils.files import replacing, write_json
from utils.ground_truth import GroundTruth
from utils.labels import DATASETS, Dataset
from utils.metrics import PROTOCOLS, bootstrap, frame_metrics, segment_map

SNIPPET = 16  # frames
# ReFLIP-VAD's own figures with CLIP features (systems.md §1), chosen as the best epoch on the test set.
PAPER = {
    "ucf": {"coarse.auc": 0.8857, "coarse.ano_auc": 0.7235, "map.official.avg": 0.0962},
    "xd": {"fine.ap": 0.8581, "map.official.avg": 0.2736},
}
SELECTED = {"val": "held-out training videos", "last": "the last epoch", "test": "TEST (selected on test)"}
SHOWN = ("auc", "ap", "ano_auc", "ano_ap", "within_video_auc", "recall_at_fpr_0.01", "recall_at_fpr_0.1", "false_alarm_rate")


def check_lengths(rows: dict[str, int], truth: dict[str, GroundTruth], allowed: int = 0) -> None:
    """rows: snippets T of each video. A video of F frames has floor or ceil(F/16) of them, depending on who extracted it.

    Raises BadInput naming the first video that ground truth lacks, or whose count is off by more than `allowed` snippets.
    """
    for name, count in rows.items():
        if name not in truth:
            raise BadInput(f"{name}: not in the ground truth; expected every test video there; add it, or name another file with --gt-path")
        frames = truth[name].frames
        off = max(frames // SNIPPET - count, count - -(-frames // SNIPPET))
        if off > allowed:
            raise BadInput(
                f"{name}: {count} snippets of features, {frames} frames of ground truth = {frames / SNIPPET:.1f} snippets; "
                f"expected the same video; accept it with --allow-length-mismatch {off}"
            )


def to_frames(values: np.ndarray, frames: int) -> np.ndarray:
    """(T, ...) one row per snippet -> (F', ...) one per frame: each 16 times, the last cut to the video's length."""
    return np.repeat(values, SNIPPET, axis=0)[:frames]


def frame_labels(video: GroundTruth, frames: int) -> np.ndarray:
    """(frames,) int: 1 inside an anomalous segment."""
    labels = np.zeros(frames, np.int64)
    for start, end, _ in video.segments:
        labels[start:end] = 1
    return labels


def pooled(scores: dict, truth: dict[str, GroundTruth], part: str) -> tuple[list, list] | None:
    """Frame scores and labels, one array per video; `part` "coarse", or "fine" = 1 − p(normal). None where the model has no such score."""
    values, labels = [], []
    for name, (coarse, fine) in scores.items():
        snippets = coarse if part == "coarse" else None if fine is None else 1 - fine[:, 0]
        if snippets is None:
            return None
        values.append(to_frames(snippets, truth[name].frames))
        labels.append(frame_labels(truth[name], len(values[-1])))
    return values, labels


def frame_figure(scores: dict, truth: dict, part: str, metric: str) -> float:
    """One frame-level figure of the coarse or fine score, without interval (for `--select test`)."""
    both = pooled(scores, truth, part) or pooled(scores, truth, "fine" if part == "coarse" else "coarse")
    return frame_metrics(*both)[metric]


def evaluate(scores: dict, truth: dict[str, GroundTruth], dataset: Dataset, allowed: int = 0) -> dict:
    """scores: {NAME: (coarse (T,) or None, fine (T, C+1) probabilities or None)} -> videos, frames, coarse, fine, map as in report.json.

    Raises BadInput as check_lengths does.
    """
    check_lengths({name: len(next(part for part in parts if part is not None)) for name, parts in scores.items()}, truth, allowed)
    result = {"videos": len(scores), "frames": sum(truth[name].frames for name in scores)}
    for part in ("coarse", "fine"):
        both = pooled(scores, truth, part)
        result[part] = None if both is None else bootstrap(*both)
    result["map"] = None
    if result["fine"] is not None:
        probs = [to_frames(fine, truth[name].frames) for name, (_, fine) in scores.items()]
        result["map"] = {}
        for protocol in PROTOCOLS:
            segments, labels = [], []
            for name in scores:
                # The released ground truth names a normal video's whole length a segment of class "A".
                entries = truth[name].segments or ((0, truth[name].frames, "A"),) * (protocol == "official")
                segments.append([[start, end] for start, end, _ in entries])
                labels.append([label for _, _, label in entries])
            values = segment_map(probs, segments, labels, list(dataset.labels), protocol)
            result["map"][protocol] = {str(key): value for key, value in values.items()}
    return result


def save_scores(path: Path | str, scores: dict, class_names) -> None:
    """NAME/coarse (T,), NAME/fine (T, C+1) and `classes` as .npz without pickled objects."""
    arrays = {"classes": np.array(list(class_names))}
    for name, (coarse, fine) in scores.items():
        arrays |= {f"{name}/{part}": value for part, value in (("coarse", coarse), ("fine", fine)) if value is not None}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_scores(path: Path | str) -> tuple[dict, tuple[str, ...]]:
    """What `save_scores` wrote: ({NAME: (coarse, fine)}, class names). Raises BadInput where the file is missing or no such archive."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(dict.fromkeys(key.rpartition("/")[0] for key in archive.files if key != "classes"))
            parts = {
                name: tuple(archive[key] if (key := f"{name}/{part}") in archive else None for part in ("coarse", "fine")) for name in names
            }
            return parts, tuple(archive["classes"].tolist())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; name scores written by --save-scores") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: no score archive ({error}); expected NAME/coarse, NAME/fine and classes in an .npz") from None


def figures(report: dict) -> dict[str, dict]:
    """All figures of a report by path, `coarse.auc` or `map.official.0.1` -> {"value", "low", "high", …}."""
    found = {f"{part}.{name}": figure for part in ("coarse", "fine") for name, figure in (report[part] or {}).items()}
    for protocol, values in (report["map"] or {}).items():
        found |= {f"map.{protocol}.{key}": value if isinstance(value, dict) else {"value": value} for key, value in values.items()}
    return found


def summarise(reports: list[dict]) -> dict:
    """Over seeds: each figure's mean as value, std (n − 1), best and worst; with one seed the report itself."""
    if len(reports) == 1:
        return reports[0]

    def spread(values: list) -> dict:
        if any(value is None for value in values):
            return {"value": None}
        return {"value": statistics.mean(values), "std": statistics.stdev(values), "best": max(values), "worst": min(values)}

    result = {
        **reports[0],
        "seeds": [seed for report in reports for seed in report["seeds"]],
        "checkpoint": [report["checkpoint"] for report in reports],
    }
    for part in ("coarse", "fine"):
        if result[part] is not None:
            result[part] = {name: spread([report[part][name]["value"] for report in reports]) for name in result[part]}
    if result["map"] is not None:
        result["map"] = {
            p: {key: spread([report["map"][p][key] for report in reports]) for key in values} for p, values in result["map"].items()
        }
    return result


def percent(figure: dict) -> str:
    """A figure in percent: with its interval, or with its std over seeds."""
    if figure["value"] is None:
        return "–"
    text = f"{100 * figure['value']:.2f}"
    if "std" in figure:
        return f"{text} ± {100 * figure['std']:.2f}"
    return f"{text} [{100 * figure['low']:.2f}, {100 * figure['high']:.2f}]" if figure.get("low") is not None else text


def rows(report: dict) -> list[tuple[str, str, str]]:
    """The table: figure, ours, the paper's."""
    table = []
    for path, figure in figures(report).items():
        part, _, name = path.partition(".")
        if part == "map" or name in SHOWN:
            paper = PAPER[report["dataset"]].get(path) if report["model"] == "reflip" and not report["sample"] else None
            table.append((path.replace("map.", "mAP "), percent(figure), "" if paper is None else f"{100 * paper:.2f}"))
    return table


def heading(report: dict) -> list[str]:
    """What a reader must know before the figures."""
    title = DATASETS[report["dataset"]].title
    seeds = ("seeds " if len(report["seeds"]) > 1 else "seed ") + ", ".join(map(str, report["seeds"]))
    lines = [f"{report['model']} on {title}: {report['videos']} videos, {report['frames']} frames, {seeds}"]
    lines.append(
        f"checkpoint selected on {SELECTED[report['selected_on']]}; "
        + ("mean ± std over seeds" if len(report["seeds"]) > 1 else "95 % bootstrap intervals over videos")
    )
    if report["sample"]:
        lines.append(f"built-in sample: simulated features; these figures say nothing about {title}")
    return lines


def print_table(report: dict) -> str:
    """The table for the terminal, in percent."""
    body = rows(report)
    left, middle = (max(len(row[i]) for row in body) for i in (0, 1))
    paper = any(row[2] for row in body)
    lines = [*heading(report), f"{'figure (%)':{left}}  {'ours':{middle}}" + ("  paper (best on test)" if paper else "")]
    return "\n".join([*lines, *(f"{name:{left}}  {ours:{middle}}  {theirs}".rstrip() for name, ours, theirs in body)])


def write_report(folder: Path | str, report: dict) -> None:
    """report.json (fractions) and report.md (percent, a table ready for a paper) in `folder`."""
    write_json(Path(folder) / "report.json", report)
    lines = [f"{line}  " for line in heading(report)] + ["", "| figure (%) | ours | paper (best epoch on test) |", "| --- | --- | --- |"]
    lines += [f"| {name} | {ours} | {theirs} |" for name, ours, theirs in rows(report)]
    lines += ["", f"`{report['command']}`", "", ", ".join(f"{name} {value}" for name, value in report["versions"].items())]
    with replacing(Path(folder) / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
