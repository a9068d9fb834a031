"""From scores and ground truth to report.json, report.md and the printed table."""

import re
import statistics
from collections import Counter
from pathlib import Path

import numpy as np

from utils.errors import printable
from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.intervals import RESAMPLES, interval, over_seeds, resampled
from utils.evaluation.metrics import (
    PROTOCOLS,
    WHOLE_VIDEO,
    bag_score,
    class_figures,
    frame_figures,
    segment_figures,
    video_figures,
)
from utils.evaluation.scores import PARTS, by_frame, to_frames
from utils.evaluation.segments import clock, shorten
from utils.files import replacing, write_json
from utils.labels import Dataset

FEATURES = {
    "sample": "built-in sample: simulated features; these figures say nothing about {}",
    "sentences": "features of sentences, which know what their writers saw: not comparable with published figures on {}'s videos",
    "other": "features of another encoder than the system's paper has: not comparable with its figures on {}",
}
ONLINE = (
    "online looks at no later row of features; where a row knows what comes (a sentence all of its span, interpolated rows their "
    "neighbours), it is no online score"
)
COVERED = ("auc", "ap", "ano_auc", "within_video_auc")  # the figures that are also given on covered frames alone
SHOWN = 20  # detected segments in report.md
LONG = 200  # characters of a caption there
FEW = 5  # videos: of a class that fewer of them show, resampling them says nothing
SELECTED_ON_TEST = "selected on test"
SELECTED = {"val": "held-out training videos", "last": "the last epoch", "test": f"TEST ({SELECTED_ON_TEST})"}
SELECTED["released"] = "its authors' rule, which the file does not tell (most take the test set)"


def frame_labels(video: GroundTruth, frames: int) -> np.ndarray:
    """(frames,) int: 1 inside an anomalous segment."""
    labels = np.zeros(frames, np.int64)
    for start, end, _ in video.segments or ():
        labels[start:end] = 1
    return labels


def class_labels(video: GroundTruth, dataset: Dataset) -> np.ndarray:
    """(F, C) bool: which anomaly classes each frame shows."""
    labels = np.zeros((video.frames, len(dataset.labels) - 1), bool)
    for start, end, label in video.segments:
        labels[start:end, dataset.labels.index(label) - 1] = True
    return labels


def class_videos(names, truth: dict[str, GroundTruth], dataset: Dataset) -> Counter:
    """How many of the videos `names` show each class, by its name."""
    return Counter(dataset.name(label) for name in names for label in truth[name].shows)


def timed(names, truth: dict[str, GroundTruth]) -> list[str]:
    """Those of the videos `names` of which every frame is known: the normal ones and those with intervals. None where no video has
    intervals though some are abnormal: then there are no figures by frame.
    """
    known = [name for name in names if truth[name].segments is not None]
    return known if len(known) == len(names) or any(truth[name].segments for name in known) else []


def anomaly_scores(scores: dict, truth: dict[str, GroundTruth], part: str) -> list[np.ndarray] | None:
    """(F,) of each video, frame by frame, of the score named `part` (Scores.anomaly). None where the model has no such score."""
    values = [video.anomaly(part) for video in scores.values()]
    if any(value is None for value in values):
        return None
    return [to_frames(value, truth[name].frames) for name, value in zip(scores, values, strict=True)]


def bags(scores: dict, truth: dict[str, GroundTruth], part: str) -> np.ndarray | None:
    """(V,) the score named `part` of each video as a whole. None where the model has no such score."""
    values = [video.anomaly(part) for video in scores.values()]
    if any(value is None for value in values):
        return None
    frames = [truth[name].frames if by_frame(len(value), truth[name].frames) else None for name, value in zip(scores, values, strict=True)]
    return np.array(list(map(bag_score, values, frames)))


def sources_of(names, truth: dict[str, GroundTruth]) -> np.ndarray | None:
    """(V,) int from 0 on, the source of each video. None where that is not known of all."""
    sources = [truth[name].source for name in names]
    return None if None in sources or not sources else np.unique(sources, return_inverse=True)[1]


def resample(
    scores: dict, truth: dict[str, GroundTruth], dataset: Dataset, resamples: int = RESAMPLES, by_video: bool = False
) -> dict[tuple, np.ndarray]:
    """Every figure of a report on the whole test set, then on each bootstrap resample: {path: (1 + resamples,)}, NaN where undefined.

    scores: {NAME: Scores}; paths are report.json's, ("coarse", "auc"), ("per_class", "fine", "abuse", "ap"), ("map", "official", "0.1"), …
    Videos are taken by name, so that two systems with the same videos share their draws. Figures of a class that fewer than FEW videos
    show are NaN on every resample: they get no interval.

    Figures by frame are of the videos `timed` gives. Where these are not all, where sources are known, or with `by_video`, there are
    figures of whole videos, too: ("video", "coarse", "auc"), ("video", "per_class", "coarse", "abuse", "ap"), …. As by frame, a class is
    measured on the videos that show it and on the normal ones, by the anomaly score, of the fine one 1 − p(normal): what the field reports
    class by class is how well a class is told from normal, not from other classes.
    """
    scores = {name: scores[name] for name in sorted(scores)}
    found = {}

    def add(path: tuple, figures, names) -> None:
        for name, values in resampled(figures, len(names), resamples, sources=sources_of(names, truth)).items():
            found[(*path, *name) if isinstance(name, tuple) else (*path, name)] = values

    known = timed(scores, truth)
    if by_video or len(known) < len(scores) or sources_of(scores, truth) is not None:
        sources = sources_of(scores, truth)
        classes = [np.array([[label in truth[name].shows for label in dataset.labels[1:]]]) for name in scores]
        for part in PARTS:
            values = bags(scores, truth, part)
            if values is not None:
                add(("video", part), video_figures(values, np.array([row.any() for row in classes]), sources), scores)
                add(("video", "per_class", part), class_figures(values[:, None], classes, dataset.names[1:]), scores)
    if known:
        add_frame_figures(add, {name: scores[name] for name in known}, truth, dataset)
    if len(known) < len(scores):
        found = {path: values for path, values in found.items() if path[1] != "video_auc"}  # of these videos alone
    for path, values in found.items():
        if "per_class" in path and class_videos(scores if path[0] == "video" else known, truth, dataset)[path[-2]] < FEW:
            values[1:] = np.nan
    return found


def add_frame_figures(add, scores: dict, truth: dict[str, GroundTruth], dataset: Dataset) -> None:
    """The figures by frame, and segment mAP, of videos whose every frame is known, as add(path, figures, names)."""
    labels = [class_labels(truth[name], dataset) for name in scores]
    anomalous = [label.any(1) for label in labels]
    for part in PARTS:
        values = anomaly_scores(scores, truth, part)
        if values is not None:
            add((part,), frame_figures(values, anomalous), scores)
            add(("per_class", part), class_figures(values, labels, dataset.names[1:]), scores)
            if coverage_known(scores):
                covered = [to_frames(video.covered, truth[name].frames) for name, video in scores.items()]
                add(("covered", part), of_covered(frame_figures(values, anomalous, covered)), scores)
    if all(video.fine is not None for video in scores.values()):
        probs = [to_frames(video.fine, truth[name].frames) for name, video in scores.items()]
        for protocol in PROTOCOLS:
            segments, names = [], []
            for name in scores:
                # The released ground truth names a normal video's whole length a segment of class "A": XD-Violence's normal one, and
                # where that label is none, or of an anomaly, no class at all.
                whole = protocol == "official" and dataset.labels[0] == WHOLE_VIDEO
                entries = truth[name].segments or ((0, truth[name].frames, WHOLE_VIDEO),) * whole
                segments.append([[start, end] for start, end, _ in entries])
                names.append([label for _, _, label in entries])
            add(("map", protocol), segment_figures(probs, segments, names, dataset.labels, protocol), scores)


def of_covered(figures):
    """Those of the figures, a function of the videos' weight, that are given on covered frames."""
    return lambda weight: {name: value for name, value in figures(weight).items() if name in COVERED}


def coverage_known(scores: dict) -> bool:
    """Whether it is known of all videos which of their rows have a sentence."""
    return all(video.covered is not None for video in scores.values())


def coverage(covered: dict[str, np.ndarray], abnormal: dict[str, bool]) -> dict[str, float]:
    """Which share of the rows has a sentence of its own: `all`, `normal` and `abnormal` videos, as far as their kind is known.

    covered: (T,) bool by name; abnormal: by name, of the videos of which it is known.
    """
    rows = {"all": list(covered.values())}
    for kind, value in (("normal", False), ("abnormal", True)):
        rows[kind] = [covered[name] for name in covered if abnormal.get(name) is value]
    return {kind: float(np.concatenate(parts).mean()) for kind, parts in rows.items() if parts}


def coverage_line(shares: dict[str, float]) -> str:
    """What `coverage` gives, in words."""
    kinds = ", ".join(f"{kind} videos {100 * share:.1f} %" for kind, share in shares.items() if kind != "all")
    return f"{100 * shares['all']:.1f} % of the rows have a sentence of their own" + (f" ({kinds})" if kinds else "")


def evaluate(scores: dict, truth: dict[str, GroundTruth], dataset: Dataset, drawn: dict[tuple, np.ndarray]) -> dict:
    """videos, frames, coarse, fine, online, per_class and map as in report.json, from what `resample` gave for these scores.

    Where ground truth is not complete, "timed": on how many videos the figures by frame are; where sources are known, "sources": how many;
    where it is known which rows have a sentence, "coverage": the share of them, and "covered": figures on their frames alone.
    """
    counts = {"videos": len(scores), "frames": sum(truth[name].frames for name in scores)}
    if (known := len(timed(scores, truth))) < len(scores):
        counts["timed"] = known
    if (sources := sources_of(scores, truth)) is not None:
        counts["sources"] = int(sources.max()) + 1
    if coverage_known(scores):
        counts["coverage"] = coverage({name: scores[name].covered for name in scores}, {name: bool(truth[name].shows) for name in scores})
    return counts | nest(counted({path: interval(values) for path, values in drawn.items()}, scores, truth, dataset))


def counted(figures: dict[tuple, dict], names, truth: dict[str, GroundTruth], dataset: Dataset) -> dict[tuple, dict]:
    """The figures by path; those of a class also with `videos`, how many of the videos that they are of show it."""
    shown = {kind: class_videos(of, truth, dataset) for kind, of in ((True, names), (False, timed(names, truth)))}
    return {
        path: figure | ({"videos": shown[path[0] == "video"][path[-2]]} if "per_class" in path else {}) for path, figure in figures.items()
    }


def nest(figures: dict[tuple, dict]) -> dict:
    """{("coarse", "auc"): {…}, …} -> {"coarse": {"auc": {…}}, …}, None for a score that is absent."""
    result: dict = dict.fromkeys((*PARTS, "map", "per_class"))
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

    return {path: figure for part in ("video", *PARTS, "covered", "map", "per_class") for path, figure in walk((part,), report.get(part))}


def summarise(reports: list[dict], drawn: list[dict[tuple, np.ndarray]]) -> dict:
    """Over seeds: each figure's mean as value with its interval (utils/evaluation/intervals.py, over_seeds), std (n − 1), best and worst;
    with one seed the report itself. `drawn` is what `resample` gave for each of the reports. Seeds of which not all know the coverage (an
    earlier version's) have none.
    """
    if len(reports) == 1:
        return reports[0]
    result = {}
    first = figures(reports[0])
    apart = {"padding", "segments", "threshold"}  # of one checkpoint
    if any(report.get("coverage") != reports[0].get("coverage") for report in reports):
        apart |= {"coverage", "covered"}
    for path in (path for path in drawn[0] if path[0] != "covered" or "coverage" not in apart):
        values = [float(part[path][0]) for part in drawn]
        result[path] = first.get(path, {}) | interval(over_seeds([part[path] for part in drawn], seed=0))
        if not np.isnan(values).any():
            best, worst = (min, max) if path[-1] == "false_alarm_rate" else (max, min)
            result[path] |= {"std": statistics.stdev(values), "best": best(values), "worst": worst(values)}
    seeds = [seed for report in reports for seed in report["seeds"]]
    common = {key: value for key, value in reports[0].items() if key not in apart}
    return {**common, **nest(result), "seeds": seeds, "checkpoint": [report["checkpoint"] for report in reports]}


def percent(figure: dict) -> str:
    """A figure in percent: mean ± std over seeds where there are several, then its interval."""
    if figure["value"] is None:
        return "–"
    text = f"{100 * figure['value']:.2f}" + (f" ± {100 * figure['std']:.2f}" if "std" in figure else "")
    return text if figure["low"] is None else f"{text} [{100 * figure['low']:.2f}, {100 * figure['high']:.2f}]"


def label(path: tuple) -> str:
    """A figure's name in tables."""
    return " ".join(("mAP", *path[1:]) if path[0] == "map" else path)


def rows(report: dict) -> list[tuple[str, ...]]:
    """The table: figure, ours, and beside visual features the paper's, whose header names its selection rule."""
    paper = report["paper"]["figures"] if report["features"] == "visual" and is_benchmark(report) else {}
    table = [("figure (%)", "ours", f"paper ({report['paper']['rule']})")]
    table += [
        (label(path), percent(figure), paper.get(label(path), "")) for path, figure in figures(report).items() if "per_class" not in path
    ]
    return table if paper else [row[:2] for row in table]


def class_rows(report: dict) -> list[list[str]]:
    """The table by class: class, videos that show it, then AUC and AP of each score that there is."""
    by_part = {f"video {part}": rows for part, rows in report.get("video", {}).get("per_class", {}).items()} | (report["per_class"] or {})
    parts = [(part, figure) for part in by_part for figure in ("auc", "ap")]
    table = [["class", "videos", *(f"{part} {figure}" for part, figure in parts)]]
    for name, row in next(iter(by_part.values()), {}).items():
        found = [by_part[part].get(name, {}).get(figure) for part, figure in parts]  # by frame not every class has figures
        table.append([name, str(row["auc"].get("videos", "–")), *("–" if one is None else percent(one) for one in found)])
    return table


def padding_rows(report: dict) -> list[tuple[str, ...]]:
    """The table of what masking the padding moves, masked minus published on the same videos. Empty where it was not measured."""
    moved = figures(report.get("padding", {}).get("figures", {}))
    table = [("padding (%)", "published", "masked", "difference", "p")] if moved else []
    for path, row in moved.items():
        if path[-1] in ("auc", "ap", "ano_auc", "ano_ap", "avg"):
            table.append((label(path), f"{100 * row['published']:.2f}", f"{100 * row['masked']:.2f}", percent(row), p_value(row)))
    return table


def segment_rows(report: dict) -> list[list[str]]:
    """The table of the SHOWN detected segments with the highest scores, in Markdown. Empty where there is none."""
    found = [(row["score"], name, row) for name, rows in report.get("segments", {}).items() for row in rows]
    found.sort(key=lambda row: -row[0])
    quoted = any(row["caption"] for *_, row in found)
    table = [["video", "from", "to", "class", "score (%)", "annotated", *["caption"] * quoted]] if found else []
    for score, name, row in found[:SHOWN]:
        times = [clock(row["seconds"][0]), clock(np.ceil(row["seconds"][1]))]
        words = [escape(shorten(row["caption"] or "–", LONG))] * quoted
        annotated = {True: "yes", False: "no", None: "–"}[row["annotated"]]
        table.append([escape(name), *times, escape(row["class"]), f"{100 * score:.1f}", annotated, *words])
    return table


def escape(text: str) -> str:
    """Text from outside, such as a caption or a name, for a cell of a Markdown table: nothing in it is markup, HTML or a link."""
    return re.sub(r"(?<=www)\.|[\\`*_{}\[\]<>#|~$&!:@]", r"\\\g<0>", printable(" ".join(text.split())))


def threshold_of(report: dict) -> str:
    return f"threshold {report['threshold']['value']:.3f}: {report['threshold']['from']}"


def p_value(row: dict) -> str:
    return "–" if row["p"] is None else f"{row['p']:.3f}"


def is_benchmark(report: dict) -> bool:
    """Whether the official test set was tested, all of it and nothing else, and no folds: only then may a paper's figures stand beside
    ours.
    """
    shared, official = report["official_videos"] or (0, 0)
    return "folds" not in report and shared == official == report["videos"]


def headline(report: dict) -> str:
    """The figure that the paper reports, with its interval, and the second one that readers look for."""
    found = figures(report)
    first, *others = [(path, found[path]) for path in map(tuple, report["headline"]) if path in found]
    value, _, low = percent(first[1]).partition(" [")
    text = f"{title(first[0])} {value} %" + (f", 95 % interval [{low}" if low else "")
    return "; ".join([text, *(f"{title(path)} {percent(figure).partition(' [')[0]} %" for path, figure in others)])


def title(path: tuple) -> str:
    """A headline figure's name: coarse AUC, Ano-AUC, AVG mAP, coarse AUC by video."""
    if path[0] == "video":
        return f"{title(path[1:])} by video"
    if path[0] == "map":
        return f"{'AVG mAP' if path[-1] == 'avg' else f'mAP@{path[-1]}'} ({path[1]})"
    if path[1].startswith("ano_"):
        return f"Ano-{path[1][4:].upper()}"
    return f"{path[0]} {path[1].upper() if path[1] in ('auc', 'ap') else path[1]}"


def heading(report: dict) -> list[str]:
    """What a reader must know before the figures: first the headline."""
    name = report.get("title", report["dataset"])  # earlier versions wrote no title
    seeds = (", seeds " if len(report["seeds"]) > 1 else ", seed ") + ", ".join(map(str, report["seeds"])) if report["seeds"] else ""
    size = f" ({report['parameters']:,} trained parameters)" if "parameters" in report else ""
    lines = [headline(report), f"{report['model']}{size} on {name}: {report['videos']} videos, {report['frames']} frames{seeds}"]
    lines.append(
        f"checkpoint selected on {selection(report)}; "
        + ("mean ± std over seeds, " if len(report["seeds"]) > 1 else "")
        + (f"95 % bootstrap intervals over {resampled_over(report)}" + (" and seeds" if len(report["seeds"]) > 1 else ""))
    )
    lines += [*cross_validated(report), *not_known(report), *covered_lines(report)]
    if report["official_videos"] and not is_benchmark(report):
        shared, official = report["official_videos"]
        lines.append(
            f"no benchmark result: {shared} of the {official} videos of {name}'s official test set"
            + (f", and {report['videos'] - shared} others" if shared < report["videos"] else "")
        )
    if seen := report.get("trained_on"):
        lines.append(
            f"{len(seen)} of the {report['videos']} test videos were trained on ({', '.join(seen[:3])}{', …' * (len(seen) > 3)}): these "
            f"figures do not tell how unseen videos are scored"
        )
    if made := report.get("trained_for"):
        lines.append(f"trained on {made['data']}, tested on {name}'s {made['tested']}")
    if init := report.get("init"):
        lines.append(f"training began from {init['path']}: {len(init['taken'])} of {len(init['taken']) + len(init['left'])} weights taken")
    if report["features"] in FEATURES and (report["features"] != "other" or report["official_videos"]):  # no paper, nothing to compare
        lines.append(FEATURES[report["features"]].format(name))
    if report.get("online"):
        lines.append(ONLINE)
    return lines


def selection(*reports: dict) -> str:
    """On what the checkpoints were selected, and by which figure, where that is known: those of an earlier version do not say."""
    names = dict.fromkeys(report["selected_by"] for report in reports if "selected_by" in report)
    return SELECTED[reports[0]["selected_on"]] + (f": {' / '.join(names)}" if names else "")


def resampled_over(report: dict) -> str:
    return f"{report['sources']} sources" if "sources" in report else "videos"


def cross_validated(report: dict) -> list[str]:
    """What was done with --folds. Empty where there was a test list."""
    if "folds" not in report:
        return []
    folds = report["folds"]
    line = f"{folds['count']} folds of the training list: each video is scored by a model that was trained on the other folds"
    if folds["of"] == "sources":
        line += ", no source on both sides"
    elif "sources" in report:
        line += "; single videos were dealt, sources stand on both sides: these figures hold what recognising a scene gains"
    return [line + "; labels shuffled: a control" * folds["shuffled"]]


def not_known(report: dict) -> list[str]:
    """What cannot be had because nobody says when the abnormal videos show something, and why. Empty where ground truth is complete."""
    if "timed" not in report:
        return []
    truth = f" (ground truth: {report['truth']})" if "truth" in report else ""
    if not report["timed"]:
        return [f"no frame figures: no test video has intervals{truth}"]
    return [f"frame figures on {report['timed']} of {report['videos']} videos with intervals, or normal{truth}"]


def covered_lines(report: dict) -> list[str]:
    """How many rows have a sentence, where features are of sentences. Empty where they are not."""
    if "coverage" in report:
        return [f"{coverage_line(report['coverage'])}; covered figures are of the frames of these rows alone"]
    if report.get("features") != "sentences":
        return []
    return ["which rows have a sentence is not known: expected NAME.jsonl, as tools.embed_captions writes it, beside every test video's"]


def stamp(report: dict) -> str:
    """What must stand on a picture: nothing, unless the checkpoint was selected on the test set, or may have been."""
    return {"test": SELECTED_ON_TEST, "released": "released checkpoint"}.get(report["selected_on"], "")


def print_table(report: dict) -> str:
    """The table for the terminal, in percent."""
    return "\n".join([*heading(report), *aligned(rows(report)), *aligned(padding_rows(report))])


def aligned(rows: list) -> list[str]:
    """Lines with columns of one width each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(rows: list) -> list[str]:
    """The first row is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]


def write_report(folder: Path | str, report: dict) -> None:
    """report.json (fractions) and report.md (percent, a table ready for a paper) in `folder`."""
    write_json(Path(folder) / "report.json", report)
    first, *more = heading(report)
    lines = [f"**{first}**", "", *(f"{line}  " for line in more)]
    lines += ["", *markdown(rows(report))]
    if moved := padding_rows(report):
        lines += ["", "What masking the padding moves, paired on the same videos:", "", *markdown(moved)]
    lines += ["", "By class: the videos that show it, which are counted, and the normal videos; frames of other classes count neither way."]
    lines += [f"No interval where fewer than {FEW} videos show the class.", ""]
    lines += markdown(class_rows(report))
    if table := segment_rows(report):
        count, videos = sum(map(len, report["segments"].values())), sum(map(bool, report["segments"].values()))
        lines += ["", f"Detected segments: {count} in {videos} of {report['videos']} videos. The best:"]
        lines += ["", *markdown(table), "", f"Cut at the {threshold_of(report)}."]
        lines += ["Annotated: whether it shares frames with an annotated segment of its class."]
        lines += ["– where nobody says when the video shows something."] * ("timed" in report)
        quoted = table[0][-1] == "caption"
        lines += ["Caption: the one at its highest snippet."] * quoted
        silent = sum(row["caption"] is None for found in report["segments"].values() for row in found)
        if silent and quoted:
            lines += [f"{silent} of {count} have none: their videos have no NAME.jsonl beside the caption features, or it is silent there."]
    elif "segments" in report:
        lines += ["", f"No segment was detected ({threshold_of(report)})."]
    lines += ["", f"`{report['command']}`", "", ", ".join(f"{name} {value}" for name, value in report["versions"].items())]
    with replacing(Path(folder) / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")  # the command may hold any path
