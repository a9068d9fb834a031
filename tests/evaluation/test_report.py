"""utils/evaluation/report.py: report.json, report.md and the printed table with absent scores, few videos, published figures, released
weights.
"""

import json

import numpy as np
import pytest

from benchmarks import DATASETS, UCF
from model import SYSTEMS
from utils.evaluation import report
from utils.evaluation.ground_truth import GroundTruth
from utils.evaluation.intervals import difference
from utils.evaluation.metrics import frame_metrics
from utils.evaluation.scores import PARTS, Scores

SHOWN = {"Fighting": 5, "Abuse": 4}  # videos
TRUTH = {f"{label}{i}": GroundTruth(160, 30, ((32, 96, label),)) for label, videos in SHOWN.items() for i in range(videos)}
TRUTH |= {f"Normal{i}": GroundTruth(160, 30, ()) for i in range(5)}
TRUTH["Fighting0"] = GroundTruth(160, 30, ((0, 48, "Fighting"), (96, 160, "Fighting")))  # two segments of one video
ABOUT = {
    "dataset": "ucf", "title": "UCF-Crime",
    "model": "reflip", "checkpoint": "best.pt", "selected_on": "val", "sample": False, "features": "visual",
    "command": "python ucf_train.py", "versions": {"torch": "2"}, "seeds": [1], "headline": [["coarse", "auc"], ["coarse", "ano_auc"]],
    "paper": {"rule": "best epoch on test", "figures": {}}, "threshold": {"value": 0.5, "from": "told"}, "official_videos": [14, 14],
}  # fmt: skip


def made_scores(seed=0, parts=("coarse", "fine", "online")):
    random = np.random.default_rng(seed)
    scores = {}
    for name, video in TRUTH.items():
        labels = report.frame_labels(video, 160)[::16]
        found = {"coarse": labels + random.random(10), "fine": random.dirichlet(np.ones(14), 10), "online": labels + 2 * random.random(10)}
        scores[name] = Scores(**{part: found[part] for part in parts})
    return scores


def made(seed=0, parts=("coarse", "fine", "online"), **about):
    """A report, and what was drawn for it."""
    scores = made_scores(seed, parts)
    drawn = report.resample(scores, TRUTH, UCF, resamples=20)
    return ABOUT | report.evaluate(scores, TRUTH, UCF, drawn) | about, drawn


def written(folder, content):
    """report.md; report.json holds the content."""
    report.write_report(folder, content)
    assert json.loads((folder / "report.json").read_text()) == content
    return (folder / "report.md").read_text()


def test_the_online_score_has_the_figures_of_the_coarse_one(tmp_path):
    content, _ = made()
    assert content["online"].keys() == content["coarse"].keys()
    assert content["online"] != content["coarse"]
    assert content["per_class"]["online"].keys() == content["per_class"]["coarse"].keys() == {"fighting", "abuse"}
    for shown in (written(tmp_path, content), report.print_table(content)):
        assert report.percent(content["online"]["ano_auc"]) in shown
        assert "online looks at no later row of features; where a row knows what comes (" in shown  # else it is taken for more


@pytest.mark.parametrize("parts", [("coarse",), ("coarse", "online"), ("fine",)])
def test_a_score_that_is_absent_is_in_no_table(tmp_path, parts):
    content, _ = made(parts=parts, headline=[[parts[0], "auc"], [parts[0], "ano_auc"]])
    assert {part for part in PARTS if content[part] is not None} == set(parts) == content["per_class"].keys()
    assert (content["map"] is None) == ("fine" not in parts)
    shown = written(tmp_path, content) + report.print_table(content)
    for part, name in (("coarse", "coarse"), ("fine", "fine"), ("online", "online"), ("fine", "mAP")):
        assert (f"{name} " in shown) == (part in parts)


def test_figures_of_a_class_count_its_videos_and_few_have_no_interval(tmp_path):
    content, drawn = made()
    several = report.summarise([content, made(1)[0]], [drawn, made(1)[1]])
    for result in (content, several):
        for part in PARTS:
            for figure in ("auc", "ap"):
                enough, few = (result["per_class"][part][name][figure] for name in ("fighting", "abuse"))
                assert (enough["videos"], few["videos"]) == (5, 4)
                assert enough["low"] <= enough["value"] <= enough["high"]
                assert few["value"] is not None
                assert few["low"] is few["high"] is None
    shown = written(tmp_path, content)
    assert "No interval where fewer than 5 videos show the class." in shown
    assert "| class | videos | coarse auc | coarse ap |" in shown
    few = content["per_class"]["coarse"]["abuse"]
    assert f"| abuse | 4 | {100 * few['auc']['value']:.2f} | {100 * few['ap']['value']:.2f} |" in shown


@pytest.mark.parametrize(
    ("model", "dataset", "figure", "paper", "rule"),
    [
        ("reflip", "ucf", "coarse auc", "88.57 (CLIP), 89.14 (FLIP)", "best epoch on test"),
        ("reflip", "xd", "mAP official avg", "27.36", "best epoch on test"),
        ("vadclip", "ucf", "coarse auc", "88.02 (CLIP)", "best on test"),
        ("vadclip", "xd", "fine ap", "84.51 (CLIP)", "best on test"),
        ("vadclip", "xd", "mAP official avg", "24.70 (CLIP)", "best on test"),
        ("dsanet", "ucf", "coarse auc", "89.44 (CLIP)", "best on test"),
        ("dsanet", "xd", "coarse ap", "86.95 (CLIP)", "best on test"),
        ("deepmil", "ucf", "coarse auc", "75.41 (C3D)", "selection not stated"),
        ("trclip", "ucf", "coarse auc", "88.59 (CLIP and captions)", "best on test"),
        ("trclip", "xd", "coarse ap", "86.38 (CLIP and captions)", "best on test"),
        ("hlnet", "xd", "coarse ap", "78.64 (I3D and audio), 78.10 (I3D, in ReFLIP-VAD's tables)", "selection not stated"),
    ],
)
def test_published_figures_stand_beside_ours_with_their_rule(tmp_path, model, dataset, figure, paper, rule):
    figures = DATASETS[dataset].papers[model]["figures"]
    content, _ = made(model=model, dataset=dataset, paper={"rule": SYSTEMS[model].rule, "figures": figures})
    for shown in (written(tmp_path, content), report.print_table(content)):
        lines = shown.splitlines()
        assert any(figure in line and line.rstrip(" |").endswith(paper) for line in lines)
        assert any(f"paper ({rule})" in line for line in lines)


@pytest.mark.parametrize("about", [{"features": "sentences"}, {"features": "sample"}, {"paper": {"rule": "best", "figures": {}}}])
def test_no_published_figure_beside_other_features_or_where_there_is_none(tmp_path, about):
    content, _ = made(**{"paper": {"rule": "best", "figures": {"coarse auc": "99"}}} | about)
    assert "paper" not in written(tmp_path, content) + report.print_table(content)


def test_every_published_figure_is_one_of_ours():
    labels = {report.label(path) for path in report.figures(made()[0])}
    papers = [(system, paper) for dataset in DATASETS.values() for system, paper in dataset.papers.items()]
    assert {label for _, paper in papers for label in paper["figures"]} <= labels
    assert {system for system, _ in papers} <= set(SYSTEMS)


def test_a_released_checkpoint_says_that_its_selection_is_not_known(tmp_path):
    content, _ = made(selected_on="released", seeds=[], parameters=1234567)
    for shown in (written(tmp_path, content), report.print_table(content)):
        assert f"reflip (1,234,567 trained parameters) on UCF-Crime: 14 videos, {14 * 160} frames\n" in shown.replace("  \n", "\n")
        assert f"checkpoint selected on {report.SELECTED['released']}" in shown
    assert report.stamp(content) == "released checkpoint"
    assert report.stamp(content | {"selected_on": "test"}) == "selected on test"
    assert report.stamp(content | {"selected_on": "val"}) == ""


def covering(scores, count=5):
    """The same scores; the first `count` of ten rows have a sentence, in normal videos one row less."""
    return {name: parts._replace(covered=np.arange(10) < count - name.startswith("Normal")) for name, parts in scores.items()}


def test_figures_of_covered_frames_and_how_many_these_are(tmp_path):
    scores = covering(made_scores())
    drawn = report.resample(scores, TRUTH, UCF, resamples=20)
    content = ABOUT | report.evaluate(scores, TRUTH, UCF, drawn) | {"features": "sentences"}
    assert content["coverage"] == pytest.approx({"all": (9 * 5 + 5 * 4) / 140, "normal": 0.4, "abnormal": 0.5})
    for part in ("coarse", "fine", "online"):
        covered = content["covered"][part]
        assert covered.keys() == {"auc", "ap", "ano_auc", "within_video_auc"}
        frames = [np.repeat(parts.covered, 16) for parts in scores.values()]
        labels = [report.frame_labels(TRUTH[name], 160) for name in scores]
        expected = frame_metrics(report.anomaly_scores(scores, TRUTH, part), labels, frames)
        assert {name: figure["value"] for name, figure in covered.items()} == pytest.approx({name: expected[name] for name in covered})
        assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in covered.values())
    plain, _ = made()
    assert all(content[key] == plain[key] for key in plain if key != "features")  # the others stay as they were
    shown = written(tmp_path, content)
    assert f"| covered fine auc | {report.percent(content['covered']['fine']['auc'])} |" in shown
    said = "46.4 % of the rows have a sentence of their own (normal videos 40.0 %, abnormal videos 50.0 %); covered figures are of"
    assert said in shown
    assert said in report.print_table(content)


def test_coverage_that_is_not_known_is_said(tmp_path):
    content, drawn = made(features="sentences")
    scores = covering(made_scores(1))
    known = report.resample(scores, TRUTH, UCF, resamples=20)
    newer = made(1, features="sentences")[0] | report.evaluate(scores, TRUTH, UCF, known)
    for result in (content, report.summarise([newer, content], [known, drawn]), report.summarise([content, newer], [drawn, known])):
        assert "which rows have a sentence is not known: expected NAME.jsonl" in written(tmp_path, result)
        assert "covered" not in written(tmp_path, result)
    both = report.summarise([newer, newer], [known, known])
    assert both["coverage"] == newer["coverage"]
    assert both["covered"]["coarse"]["auc"]["std"] == 0
    assert "have a sentence" not in written(tmp_path, made()[0])


def test_what_masking_the_padding_moves(tmp_path):
    content, masked = made()
    _, published = made(1)
    assert "padding" not in written(tmp_path, content) + report.print_table(content)
    moved = {
        path: {"published": published[path][0], "masked": masked[path][0], **difference(masked[path], published[path])}
        for path in masked
        if path[0] in PARTS
    }
    content["padding"] = {"videos": 14, "figures": report.nest(moved)}
    row = moved["coarse", "auc"]
    cells = ["coarse auc", f"{100 * row['published']:.2f}", f"{100 * row['masked']:.2f}", report.percent(row), f"{row['p']:.3f}"]
    assert f"| {' | '.join(cells)} |" in written(tmp_path, content)
    lines = [line.split() for line in report.print_table(content).splitlines()]
    assert " ".join(cells).split() in lines
    assert "padding" not in report.summarise([content, made(1)[0]], [masked, published])


def segment(score, caption=None, label="abuse"):
    return {
        "start": 45, "end": 96, "seconds": [1.5, 63.2], "class": label, "score": score, "annotated": score > 0.5, "caption": caption,
    }  # fmt: skip


def test_detected_segments_stand_in_report_md_the_highest_first(tmp_path):
    content, _ = made()
    assert "segment" not in written(tmp_path, content).lower()
    content["segments"] = {"Abuse0": [segment(0.25, "low"), segment(0.75, "high")], "Normal0": [], "Fighting0": [segment(0.5)]}
    lines = written(tmp_path, content).splitlines()
    start = lines.index("| video | from | to | class | score (%) | annotated | caption |")
    assert lines[start + 2 : start + 6] == [
        "| Abuse0 | 0:01 | 1:04 | abuse | 75.0 | yes | high |",
        "| Fighting0 | 0:01 | 1:04 | abuse | 50.0 | no | – |",
        "| Abuse0 | 0:01 | 1:04 | abuse | 25.0 | no | low |",
        "",
    ]
    assert any("Detected segments: 3 in 2 of 14 videos" in line for line in lines)
    assert any(line.startswith("1 of 3 have none: ") for line in lines)


def test_at_most_twenty_segments_are_shown_and_their_captions_cut(tmp_path):
    content, _ = made(segments={"Abuse0": [segment(i / 100, f"caption {i} " + 300 * "x") for i in range(30)]})
    rows = [line for line in written(tmp_path, content).splitlines() if line.startswith("| Abuse0 |")]
    assert [f"caption {i} " in row for i, row in zip(range(29, 9, -1), rows, strict=True)] == 20 * [True]
    assert all(len(row) < 270 and row.endswith("x… |") for row in rows)


def test_a_caption_is_no_markup_in_report_md(tmp_path):
    caption = "a|b\n# <img src=x> [x](http://x.y) www.x.y $1$ *b* `c` ~~d~~ &amp; a_b ![i](j) @you \\ e"
    content, _ = made(segments={"v=x_1|2": [segment(0.5, caption)]})
    [row] = [line for line in written(tmp_path, content).splitlines() if line.startswith("| v=x")]
    assert row == (
        r"| v=x\_1\|2 | 0:01 | 1:04 | abuse | 50.0 | no | "
        r"a\|b \# \<img src=x\> \[x\](http\://x.y) www\.x.y \$1\$ \*b\* \`c\` \~\~d\~\~ "
        r"\&amp; a\_b \!\[i\](j) \@you \\ e |"
    )


def test_segments_without_any_caption_have_no_column_for_it(tmp_path):
    content, _ = made(segments={"Abuse0": [segment(0.5)]})
    shown = written(tmp_path, content)
    assert "| score (%) | annotated |\n" in shown
    assert "no NAME.jsonl beside the caption features" not in shown
    assert "1 in 1 of 14 videos. The best" in shown
    assert "Cut at the threshold 0.500: told.\n" in shown
    assert "No segment was detected" in written(tmp_path, content | {"segments": {"Abuse0": []}})


def test_segments_are_of_one_checkpoint():
    (first, drawn), (second, other) = made(segments={"Abuse0": [segment(0.5)]}), made(1, segments={})
    assert "segments" not in report.summarise([first, second], [drawn, other])


@pytest.mark.parametrize(
    ("headline", "first", "second"),
    [
        ([["coarse", "auc"], ["coarse", "ano_auc"]], ("coarse AUC", "coarse", "auc"), ("Ano-AUC", "coarse", "ano_auc")),
        ([["fine", "ap"], ["map", "official", "avg"]], ("fine AP", "fine", "ap"), ("AVG mAP (official)", "map", "official", "avg")),
    ],
)
def test_a_report_opens_with_its_headline(tmp_path, headline, first, second):
    (content, drawn), (other, more) = made(headline=headline), made(1, headline=headline)
    for result in (content, report.summarise([content, other], [drawn, more])):
        figures = report.figures(result)
        value, _, low = report.percent(figures[first[1:]]).partition(" [")
        text = f"{first[0]} {value} %, 95 % interval [{low}; {second[0]} {report.percent(figures[second[1:]]).partition(' [')[0]} %"
        assert written(tmp_path, result).splitlines()[0] == f"**{text}**"
        assert report.print_table(result).splitlines()[0] == text


@pytest.mark.parametrize(
    ("official", "said"),
    [
        ([14, 14], None),
        ([14, 290], "no benchmark result: 14 of the 290 videos of UCF-Crime's official test set"),
        ([3, 290], "no benchmark result: 3 of the 290 videos of UCF-Crime's official test set, and 11 others"),
        ([0, 290], "no benchmark result: 0 of the 290 videos of UCF-Crime's official test set, and 14 others"),
    ],
)
def test_a_papers_figures_stand_beside_the_whole_official_test_set_only(tmp_path, official, said):
    content, _ = made(official_videos=official, paper={"rule": "best", "figures": {"coarse auc": "99.99"}})
    for shown in (written(tmp_path, content), report.print_table(content)):
        assert ("99.99" in shown) == (said is None)
        assert "no benchmark result" not in shown if said is None else said in shown
    folds = {"count": 5, "of": "videos", "shuffled": False}
    assert "99.99" not in report.print_table(content | {"folds": folds})
