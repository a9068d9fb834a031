"""tools.evaluate: known figures of others' scores, paired differences, seeds, and everything that is refused in one line."""

import gzip
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import UCF, XD
from golden import REAL, SHARED
from tools.evaluate import main
from utils.errors import BadInput, exit_code
from utils.evaluation import report
from utils.evaluation.ground_truth import GroundTruth, write_ground_truth
from utils.evaluation.scores import Scores, load_scores, save_scores
from utils.files import ROOT

SCORES = REAL / "scores"
PEL4VAD = [str(SCORES / "pel4vad_ucf.csv.gz")]
VADTREE = [str(SCORES / "ucf_coarse_refined_8276.json.gz")]
NAMES = ["--names", str(SCORES / "pel4vad_ucf.list")]
needs_scores = pytest.mark.skipif(not SCORES.exists(), reason="../shared/real/scores is not here")


def evaluate(folder, *words):
    """The content of --json."""
    main([*map(str, words), "--json", str(folder / "figures.json")])
    return json.loads((folder / "figures.json").read_text())


def ucf(folder, *words):
    return evaluate(folder, "--dataset", "ucf", "--resamples", 50, *words)


@pytest.fixture(scope="module")
def vadtree_logits(tmp_path_factory):
    """VADTree's scores as they stand in its file, frame by frame; one array per NAME."""
    path = tmp_path_factory.mktemp("vadtree") / "logits.npz"
    with gzip.open(VADTREE[0], "rt") as file:
        videos = json.load(file)["vid_score"]
    arrays = {}
    for name, ranges in videos.items():
        spans = sorted((*map(int, key.split(",")), score) for key, (score, _) in ranges.items())
        logits = np.concatenate([np.full(end - start, score) for start, end, score in spans])
        arrays[name] = logits
    np.savez(path, **arrays)
    return str(path)


@needs_scores
def test_pel4vad_on_ucf_crime(tmp_path, capsys):
    content = ucf(tmp_path, "--scores", *PEL4VAD, *NAMES)
    assert (content["videos"], content["frames"]) == (290, 1109680)
    assert {key: round(content["coarse"][key]["value"], 4) for key in ("auc", "ap", "ano_auc")} == {
        "auc": 0.9009,
        "ap": 0.4099,
        "ano_auc": 0.7456,
    }
    assert content["fine"] is content["map"] is None
    assert set(content["per_class"]["coarse"]) == set(UCF.names[1:])
    shown = capsys.readouterr().out
    assert "290 videos, 1109680 frames" in shown
    assert "note" not in shown
    interval = content["coarse"]["auc"]
    assert interval["low"] < 0.9009 < interval["high"]
    assert f"coarse auc                          90.09 [{100 * interval['low']:.2f}, {100 * interval['high']:.2f}]\n" in shown


@needs_scores
@pytest.mark.parametrize(("logits", "auc", "ap"), [(True, 0.8282, 0.3283), (False, 0.8277, 0.3281)])  # four decimals make ties
def test_vadtree_on_ucf_crime(tmp_path, vadtree_logits, logits, auc, ap):
    content = ucf(tmp_path, "--scores", *([vadtree_logits] if logits else VADTREE))
    assert content["videos"] == 290
    assert {key: round(content["coarse"][key]["value"], 4) for key in ("auc", "ap")} == {"auc": auc, "ap": ap}


@needs_scores
def test_pel4vad_against_vadtree(tmp_path, capsys):
    content = ucf(tmp_path, "--scores", *PEL4VAD, *NAMES, "--against", *VADTREE)
    found = content["difference"]["coarse"]["auc"]
    assert [round(figure["value"], 4) for figure in (found["ours"], found["theirs"], found)] == [0.9009, 0.8277, 0.0732]
    assert all(side["low"] < side["value"] < side["high"] for side in (found["ours"], found["theirs"]))
    assert 0 < found["low"] < found["value"] < found["high"]
    assert found["p"] == pytest.approx(2 / 51)
    shown = capsys.readouterr().out
    spread = f"{100 * found['low']:+.2f}, {100 * found['high']:+.2f}"
    assert (
        "coarse auc: 90.09 against 82.77 on the same 290 videos; the difference of +7.32 points, "
        f"95 % interval [{spread}], p = 0.039, tells the two checkpoints apart.\n"
    ) in shown
    ap = content["difference"]["coarse"]["ap"]
    assert ap["low"] < 0 < ap["high"]
    assert f"p = {ap['p']:.3f}, does not tell the two checkpoints apart.\n" in shown
    back = ucf(tmp_path, "--scores", *VADTREE, "--against", *PEL4VAD, *NAMES)["difference"]["coarse"]["auc"]
    assert (back.pop("ours"), back.pop("theirs")) == (found["theirs"], found["ours"])
    assert back == pytest.approx({"value": -found["value"], "low": -found["high"], "high": -found["low"], "p": found["p"]})


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="needs ../shared/cases")
def test_names_that_look_like_numbers(tmp_path):
    """01 to 08, as text, in a table of scores and in the ground truth."""
    cases = SHARED / "cases"
    words = ["--scores", cases / "scores_two_digits.csv", "--gt-path", cases / "gt_two_digits.json", "--resamples", "10"]
    content = evaluate(tmp_path, "--dataset", "xd", *map(str, words))
    truth = json.loads((cases / "gt_two_digits.json").read_text())
    rows = [line.split(",") for line in (cases / "scores_two_digits.csv").read_text().splitlines()[1:]]
    scores, labels = [], []
    for name, video in truth.items():
        own = np.repeat([float(score) for key, score in rows if key == name], 16)
        scores.append(np.append(own, [own[-1]] * 16)[: video["frames"]])
        labels.append(np.zeros(video["frames"]))
        for start, end, _ in video["segments"]:
            labels[-1][start:end] = 1
    assert content["videos"] == 8
    assert content["coarse"]["auc"]["value"] == pytest.approx(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))


def test_numbers_are_those_of_a_list_with_sources(tmp_path):
    truth = {name: GroundTruth(32, 24, ((0, 16, "G"),) if name == "a, b" else ()) for name in ("calm", "a, b")}
    write_ground_truth(tmp_path / "gt.json", truth)
    (tmp_path / "list.csv").write_text('path,label,source\nx/calm.npy,A,cam\n"x/a, b.npy",G,cam\n')
    (tmp_path / "scores.csv").write_text("video,score\n0,0.1\n0,0.2\n1,0.9\n1,0.3\n")
    words = ["--scores", tmp_path / "scores.csv", "--names", tmp_path / "list.csv", "--gt-path", tmp_path / "gt.json"]
    content = evaluate(tmp_path, "--dataset", "xd", *map(str, words), "--resamples", "10")
    assert content["coarse"]["auc"]["value"] == 1


@pytest.mark.parametrize("suffix", ["csv", "npz", "json"])
def test_any_name_stays_a_name(tmp_path, suffix):
    """In scores and ground truth: what pandas or NumPy would take for a number or a gap, signs of markup, the longest names."""
    names = ["NA", "null", "nan", "None", "1e5", "007", "-1", "True", "<b>x", "x" * 242, "走る", "a;b", "0x10", "Infinity", "a b"]
    truth = {name: GroundTruth(32, 24, ((0, 16, "G"),) if i % 2 else ()) for i, name in enumerate(names)}
    write_ground_truth(tmp_path / "gt.json", truth)
    values = {name: [0.5 + i / 100, 0.1] for i, name in enumerate(names)}
    path = tmp_path / f"scores.{suffix}"
    if suffix == "csv":
        path.write_text("video,score\n" + "".join(f"{name},{value}\n" for name in names for value in values[name]), encoding="utf-8-sig")
    elif suffix == "npz":
        save_scores(path, {name: Scores(np.array(row)) for name, row in values.items()}, XD.names)
    else:
        spans = {name: {"0, 16": row[0], "16, 32": row[1]} for name, row in values.items()}
        path.write_text(json.dumps({"vid_score": spans}), encoding="utf-8")
    content = evaluate(tmp_path, "--dataset", "xd", "--scores", str(path), "--gt-path", str(tmp_path / "gt.json"), "--resamples", "10")
    assert content["videos"] == len(names)


TRUTH = {f"a{i}": GroundTruth(170, 24, ((16 * i, 16 * i + 64, XD.labels[1 + i]),)) for i in range(6)}
TRUTH |= {f"n{i}": GroundTruth(160, 24, ()) for i in range(6)}


class World:
    """A folder with the ground truth of twelve videos, and score files in it."""

    def __init__(self, folder):
        self.folder = folder
        write_ground_truth(folder / "gt.json", TRUTH)

    def scores(self, file, seed=0, truth=TRUTH, noise=1.0, rows=10, dataset=XD, coarse=True, fine=True, online=False):
        random = np.random.default_rng(seed)
        scores = {}
        for name, video in truth.items():
            signal = np.zeros((rows, len(dataset.names)))
            for start, end, label in video.segments:
                signal[start // 16 : end // 16, XD.labels.index(label)] = 2
            signal += noise * random.standard_normal(signal.shape)
            probabilities = np.exp(signal) / np.exp(signal).sum(1, keepdims=True)
            highest = signal[:, 1:].max(1)
            scores[name] = Scores(highest if coarse else None, probabilities if fine else None, highest / 2 if online else None)
        save_scores(self.folder / file, scores, dataset.names)
        return str(self.folder / file)

    def lacking(self, file, key):
        """A file of scores without that one array."""
        with np.load(self.scores(file)) as archive:
            arrays = {name: archive[name] for name in archive.files if name != key}
        np.savez(self.folder / file, **arrays)
        return str(self.folder / file)

    def words(self, *words):
        return ["--dataset", "xd", "--gt-path", str(self.folder / "gt.json"), "--resamples", "50", *map(str, words)]

    def evaluate(self, *words):
        return evaluate(self.folder, *self.words(*words))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_every_figure_of_a_system_with_both_scores(world, capsys):
    content = world.evaluate("--scores", world.scores("a.npz"))
    for part in ("coarse", "fine"):
        assert 0.5 < content[part]["auc"]["low"] < content[part]["auc"]["value"] < content[part]["auc"]["high"] <= 1
        assert set(content["per_class"][part]) == set(XD.names[1:])
    assert content["map"]["anomaly"]["avg"]["value"] > 0
    assert content["map"]["official"]["0.1"]["value"] >= content["map"]["official"]["0.5"]["value"]
    assert "XD-Violence: 12 videos, 1980 frames, 95 % bootstrap intervals over videos\n" in capsys.readouterr().out


def test_figures_of_covered_frames_from_scores_alone(world, capsys):
    """Some files hold which rows have a sentence, others not: all are measured on the same frames. Two that differ: none is."""

    def covering(file, source, rows):
        scores, _ = load_scores(source)
        save_scores(world.folder / file, {name: p._replace(covered=np.arange(10) < rows) for name, p in scores.items()}, XD.names)
        return str(world.folder / file)

    plain, other = world.scores("a.npz"), world.scores("b.npz", seed=1)
    ours, theirs = covering("ours.npz", plain, 6), covering("theirs.npz", other, 6)
    content = world.evaluate("--scores", ours)
    assert "60.0 % of the rows have a sentence of their own (normal videos 60.0 %, abnormal videos 60.0 %)" in capsys.readouterr().out
    drawn = report.resample(load_scores(ours)[0], TRUTH, XD, 50)
    assert content["covered"] == report.evaluate(load_scores(ours)[0], TRUTH, XD, drawn)["covered"]
    assert "covered" not in world.evaluate("--scores", plain)
    gap = world.evaluate("--scores", ours, "--against", theirs)["difference"]["covered"]
    assert gap == world.evaluate("--scores", ours, "--against", other)["difference"]["covered"]
    assert gap["coarse"]["auc"]["ours"]["value"] == content["covered"]["coarse"]["auc"]["value"]
    capsys.readouterr()
    differing = world.evaluate("--scores", ours, "--against", covering("less.npz", other, 5))
    assert "note: the files differ in which rows have a sentence of their own: no figures of covered frames" in capsys.readouterr().out
    assert "covered" not in differing["difference"]


def test_a_system_with_an_online_score_and_no_classes(world, capsys):
    path = world.scores("a.npz", fine=False, online=True)
    content = world.evaluate("--scores", path)
    assert content["fine"] is content["map"] is None
    ranks = ("auc", "ap", "ano_auc")
    assert [content["online"][key] for key in ranks] == [content["coarse"][key] for key in ranks]  # half the coarse score, of one order
    assert content["per_class"].keys() == {"coarse", "online"}
    difference = world.evaluate("--scores", path, "--against", path)["difference"]
    assert difference["online"]["auc"]["value"] == 0
    shown = capsys.readouterr().out
    assert f"online auc {100 * content['online']['auc']['value']:.2f}" in " ".join(shown.split())
    assert report.ONLINE in shown
    assert "\nonline auc: " in shown
    assert "fine" not in shown


def test_a_class_has_its_videos_beside_it_and_no_interval_where_they_are_few(world, capsys):
    path = world.scores("a.npz")
    figure = world.evaluate("--scores", path)["per_class"]["coarse"]["fighting"]["auc"]
    assert figure == {"value": figure["value"], "low": None, "high": None, "videos": 1}
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["per_class", "coarse", "fighting", "auc", f"{100 * figure['value']:.2f}", "1"] in lines
    compared = world.evaluate("--scores", path, "--against", world.scores("b.npz", 1))["difference"]["per_class"]["coarse"]["fighting"][
        "auc"
    ]
    assert (compared["videos"], compared["low"], compared["p"], compared["ours"]["low"]) == (1, None, None, None)


def test_order_of_the_videos_in_a_file_does_not_matter(world):
    path = world.scores("a.npz")
    content = world.evaluate("--scores", path)
    with np.load(path) as archive:
        np.savez(world.folder / "b.npz", **{key: archive[key] for key in reversed(archive.files)})
    assert world.evaluate("--scores", world.folder / "b.npz") == content | {"scores": [str(world.folder / "b.npz")]}


def test_a_system_against_itself(world, capsys):
    path = world.scores("a.npz")
    difference = world.evaluate("--scores", path, "--against", path)["difference"]
    for figure in [*difference["coarse"].values(), *difference["fine"].values(), *difference["map"]["anomaly"].values()]:
        assert figure == {"ours": figure["ours"], "theirs": figure["ours"], "value": 0, "low": 0, "high": 0, "p": 1}
    assert "tells the two checkpoints apart" not in capsys.readouterr().out


def test_seeds_of_one_system(world):
    paths = [world.scores(f"{seed}.npz", seed) for seed in range(3)]
    single = [world.evaluate("--scores", path)["fine"]["ap"]["value"] for path in paths]
    content = world.evaluate("--scores", *paths)
    found = content["fine"]["ap"]
    expected = {"value": np.mean(single), "std": np.std(single, ddof=1), "best": max(single), "worst": min(single)}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["low"] < found["value"] < found["high"]
    assert content["scores"] == paths


def test_seeds_on_either_side(world):
    ours, theirs = [world.scores(f"{seed}.npz", seed, noise=0.3) for seed in range(3)], world.scores("b.npz", 9, noise=5)
    ap = [world.evaluate("--scores", path)["coarse"]["ap"]["value"] for path in (*ours, theirs)]
    for sides, sign in ((("--scores", *ours, "--against", theirs), 1), (("--scores", theirs, "--against", *ours), -1)):
        found = world.evaluate(*sides)["difference"]["coarse"]["ap"]
        assert [found["ours"]["value"], found["theirs"]["value"]][::sign] == pytest.approx([np.mean(ap[:3]), ap[3]])
        assert found["value"] == pytest.approx(sign * (np.mean(ap[:3]) - ap[3]))
        assert found["low"] <= found["value"] <= found["high"]


@pytest.mark.parametrize(
    ("ours", "theirs", "what"), [(1, 1, "checkpoints"), (2, 1, "checkpoints"), (1, 2, "checkpoints"), (2, 2, "systems")]
)
def test_only_several_seeds_on_both_sides_tell_of_systems(world, capsys, ours, theirs, what):
    paths = [world.scores(f"{seed}.npz", seed) for seed in range(4)]
    world.evaluate("--scores", *paths[:ours], "--against", *paths[2 : 2 + theirs])
    said = [line for line in capsys.readouterr().out.splitlines() if "apart" in line]
    assert said
    assert all(line.endswith((f" tells the two {what} apart.", f" does not tell the two {what} apart.")) for line in said)


def test_each_side_has_its_own_interval_beside_the_difference(world, capsys):
    ours, theirs = [world.scores(f"{seed}.npz", seed) for seed in range(2)], world.scores("b.npz", 2)
    alone = [world.evaluate("--scores", *(side if isinstance(side, list) else [side]))["coarse"]["auc"] for side in (ours, theirs)]
    capsys.readouterr()
    found = world.evaluate("--scores", *ours, "--against", theirs)["difference"]["coarse"]["auc"]
    assert found["theirs"] == alone[1]
    assert found["ours"]["value"] == alone[0]["value"]
    assert found["ours"]["low"] < found["ours"]["value"] < found["ours"]["high"]
    cells = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("coarse auc ")).split("  ")
    shown = [
        f"{100 * row['value']:.2f} [{100 * row['low']:.2f}, {100 * row['high']:.2f}]" for row in (found["ours"], found["theirs"], found)
    ]
    assert [cell.strip() for cell in cells if cell][1:] == [*shown, f"{found['p']:.3f}"]


def test_the_spread_of_the_seeds_of_one_side_is_not_paired_with_the_others(world):
    paths = [world.scores(f"{seed}.npz", seed) for seed in range(3)]
    found = world.evaluate("--scores", *paths, "--against", *paths)["difference"]["fine"]["auc"]
    assert found["value"] == 0
    assert found["low"] < 0 < found["high"]


def part(*names):
    return {name: TRUTH[name] for name in names}


MOST, OTHERS = part("a0", "a1", "a2", "n0", "n1"), part("a1", "a2", "n1", "n2")


def test_missing_videos_are_noted(world, capsys):
    most, others = world.scores("most.npz", truth=MOST), world.scores("others.npz", truth=OTHERS)
    assert world.evaluate("--scores", most)["videos"] == 5
    shown = capsys.readouterr().out
    assert f"note: 5 of the 12 videos of {world.folder / 'gt.json'} have scores; figures are of these\n" in shown
    assert "in the other's scores" not in shown
    content = world.evaluate("--scores", most, "--against", others)
    assert content["videos"] == 3
    shown = capsys.readouterr().out
    assert "note: 2 videos of --scores are not in the other's scores; both are measured on the 3 they share\n" in shown
    assert "note: 1 videos of --against are not in the other's scores; both are measured on the 3 they share\n" in shown
    assert "on the same 3 videos" in shown
    shared = world.evaluate("--scores", world.scores("shared.npz", truth=part("a1", "a2", "n1")), "--against", others)
    assert shared["videos"] == 3
    assert shared["difference"]["coarse"]["auc"]["theirs"] == content["difference"]["coarse"]["auc"]["theirs"]


def test_a_difference_that_no_resample_defines(world, capsys):
    """Two videos and one resample, which draws one of them twice."""
    pair = part("a0", "n0")
    words = ["--scores", world.scores("a.npz", 0, pair), "--against", world.scores("b.npz", 1, pair), "--resamples", 1]
    found = world.evaluate(*words)["difference"]["coarse"]["auc"]
    assert (found["low"], found["high"], found["p"]) == (None, None, None)
    assert "no interval, does not tell the two checkpoints apart" in capsys.readouterr().out


REFUSED = {
    "classes of another dataset": (lambda w: ["--scores", w.scores("a.npz", dataset=UCF)], "--scores a.npz: its classes are normal, abuse"),
    "classes of another dataset, and no class scores": (
        lambda w: ["--scores", w.scores("a.npz", dataset=UCF, fine=False)],
        "--scores a.npz: its classes are normal, abuse",
    ),
    "classes of another dataset, other side": (
        lambda w: ["--scores", w.scores("a.npz"), "--against", w.scores("b.npz", dataset=UCF)],
        "--against b.npz: its classes are normal, abuse",
    ),
    "no video in common": (
        lambda w: ["--scores", w.scores("a.npz", truth=part("a0", "n0")), "--against", w.scores("b.npz", truth=part("a1", "n1"))],
        "no video in common",
    ),
    "no score in common": (
        lambda w: ["--scores", w.scores("a.npz", fine=False), "--against", w.scores("b.npz", coarse=False)],
        "no figure in common",
    ),
    "seeds with different videos": (
        lambda w: ["--scores", w.scores("a.npz", truth=part("a0", "n0")), w.scores("b.npz", truth=part("a0", "n0", "n1"))],
        "--scores: n1 is in only one of a.npz and b.npz",
    ),
    "seeds with different videos, other side": (
        lambda w: ["--scores", w.scores("c.npz"), "--against", w.scores("a.npz"), w.scores("b.npz", truth=part("a0", "n0"))],
        "--against: a1 is in only one of a.npz and b.npz",
    ),
    "seeds with different scores": (
        lambda w: ["--scores", w.scores("a.npz"), w.scores("b.npz", coarse=False)],
        "--scores: a0 has other scores in b.npz than in a.npz",
    ),
    "one video without a score that others have": (
        lambda w: ["--scores", w.lacking("a.npz", "n0/fine")],
        "a.npz: n0 has coarse, a0 has coarse and fine",
    ),
    "video that ground truth lacks": (
        lambda w: ["--scores", w.scores("a.npz", truth=TRUTH | {"odd": GroundTruth(160, 24, ())})],
        "--scores a.npz: odd: not in the ground truth",
    ),
    "another length": (lambda w: ["--scores", w.scores("a.npz", rows=12)], "a.npz: a0: 12 snippets"),
    "no such file": (lambda w: ["--scores", "none.npz"], "none.npz: no such file"),
    "no such file, other side": (lambda w: ["--scores", w.scores("a.npz"), "--against", "none.npz"], "none.npz: no such file"),
    "no resamples": (lambda w: ["--scores", w.scores("a.npz"), "--resamples", "0"], "--resamples 0"),
    "no ground truth": (lambda w: ["--scores", w.scores("a.npz"), "--gt-path", "none.json"], "none.json: no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_exit_code_2(world, capsys, case):
    make, said = REFUSED[case]
    assert exit_code(lambda: main(world.words(*make(world), "--json", world.folder / "figures.json"))) == 2
    error = capsys.readouterr().err.replace(f"{world.folder}/", "")
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (world.folder / "figures.json").exists()


def test_another_length_is_accepted_by_the_option_that_the_message_names(world, capsys):
    path = world.scores("a.npz", rows=13)
    assert exit_code(lambda: main(world.words("--scores", path))) == 2
    assert capsys.readouterr().err.endswith("--allow-length-mismatch 2\n")  # a0: 170 frames, 10 or 11 snippets
    assert exit_code(lambda: main(world.words("--scores", path, "--allow-length-mismatch", 2))) == 2
    assert capsys.readouterr().err.endswith("--allow-length-mismatch 3\n")  # n0: 160 frames, 10 snippets
    assert world.evaluate("--scores", path, "--allow-length-mismatch", 3)["frames"] == 1980


def test_a_run_s_own_ground_truth_is_found(small_sample, tmp_path, capsys):
    import xd_train

    words = [*small_sample("xd"), "--max-epoch", "1", "--output", str(tmp_path / "run")]
    xd_train.main(words)
    run = tmp_path / "run" / "seed-1"
    (run / "test").mkdir()
    (run / "test" / "scores.npz").write_bytes((run / "scores.npz").read_bytes())  # as xd_test.py leaves them
    for place in (run / "scores.npz", run / "test" / "scores.npz"):
        content = evaluate(tmp_path, "--dataset", "xd", "--resamples", 20, "--scores", place)
        assert content["coarse"]["ap"]["value"] == json.loads((run / "report.json").read_text())["coarse"]["ap"]["value"]
        assert "note" not in capsys.readouterr().out
    official = ["--gt-path", str(ROOT / "list" / "xd_gt.json")]
    with pytest.raises(BadInput, match="not in the ground truth"):
        main(["--dataset", "xd", "--scores", str(run / "scores.npz"), *official])
    other = tmp_path / "other" / "seed-1"
    other.mkdir(parents=True)
    for name in ("scores.npz", "best.pt"):
        (other / name).write_bytes((run / name).read_bytes())
    (other / "options.json").write_text(json.dumps({"gt_path": "elsewhere.json"}))
    with pytest.raises(BadInput, match=r"was tested on .*gt.json, .* on elsewhere.json; measure them apart"):
        main(["--dataset", "xd", "--scores", str(run / "scores.npz"), "--against", str(other / "scores.npz")])


def test_a_run_tested_on_another_data_set_is_measured_by_that_ones_ground_truth(world, tmp_path):
    run = world.folder / "run"
    (run / "test-xd").mkdir(parents=True)
    (run / "best.pt").touch()
    (run / "options.json").write_text(json.dumps({"gt_path": str(tmp_path / "other.json")}))
    (run / "report.json").write_text('{"dataset": "ucf"}')
    (run / "test-xd" / "report.json").write_text('{"dataset": "xd"}')
    scores = world.scores("run/test-xd/scores.npz")
    with pytest.raises(BadInput, match=r"not in the ground truth"):  # the data set's own, which has other videos
        main(["--dataset", "xd", "--scores", scores])
    (run / "test-xd" / "report.json").write_text('{"dataset": "ucf"}')
    with pytest.raises(BadInput, match=r"other\.json"):
        main(["--dataset", "xd", "--scores", scores])


def test_scores_of_the_sample_are_told(world, capsys):
    run = world.folder / "run"
    run.mkdir()
    (run / "best.pt").touch()
    for sample in (True, False):
        (run / "options.json").write_text(json.dumps({"sample": sample, "gt_path": str(world.folder / "gt.json")}))
        main(["--dataset", "xd", "--scores", world.scores("run/scores.npz"), "--resamples", "10"])
        assert ("note: scores of the built-in sample, simulated features: the figures say nothing" in capsys.readouterr().out) is sample


def test_another_dataset_is_told_before_its_ground_truth_is_read(world):
    """The run's ground truth is of classes that the data set does not have: not that is the fault."""
    run = world.folder / "run"
    run.mkdir()
    (run / "best.pt").touch()
    (run / "options.json").write_text(json.dumps({"gt_path": str(world.folder / "gt.json")}))
    with pytest.raises(
        BadInput, match=r"scores\.npz: its classes are normal, fighting, .*; expected those of UCF-Crime, .*check --dataset"
    ):
        main(["--dataset", "ucf", "--scores", world.scores("run/scores.npz")])
