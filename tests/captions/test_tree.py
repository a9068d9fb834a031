"""Captions beside features: paired by name and length, versions drawn, names as published; the released code's pairing is a test."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
import ucf_test
import ucf_train
from benchmarks import UCF
from dataset import FeatureDataset, Video, read_list, resample
from tools.evaluate import main as evaluate
from utils import engine, loading
from utils.batches import BalancedBatches, DrawnVersions, ShuffledBatches
from utils.captions.tree import CaptionTree, split_published
from utils.errors import BadInput
from utils.evaluation.scores import Scores

WIDTH = 3


def save(path: Path, rows: int, value: float, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((rows, width), value, np.float32) + np.arange(rows, dtype=np.float32)[:, None] / 100)
    return path


def video(name: str, folder: Path, crops=None) -> Video:
    files = [folder / (f"{name}.npy" if crop is None else f"{name}__{crop}.npy") for crop in crops or [None]]
    return Video(name, "Normal", (1.0,) + 13 * (0.0,), tuple(files), tuple(crops) if crops else None)


def refused(work, *words):
    with pytest.raises(BadInput) as caught:
        work()
    for word in words:
        assert str(word) in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


def test_pairs_by_name_whatever_the_order(tmp_path):
    """The released code pairs caption row i with feature row i: of XD-Violence's, 33,810 of 39,510 pairs are wrong."""
    names = [f"v{number}" for number in range(6)]
    for number, name in enumerate(names):
        save(tmp_path / "features" / f"{name}.npy", 4, number)
    for number in (5, 3, 0, 1, 4, 2):
        save(tmp_path / "captions" / ("b" if number % 2 else "a") / f"v{number}.npy", 4, 10 * number)
    videos = [video(name, tmp_path / "features") for name in names]
    tree = CaptionTree(tmp_path / "captions", WIDTH)
    tree.check(videos, dict.fromkeys(names, 4))
    data = FeatureDataset(videos, length=8, width=WIDTH, captions=tree)
    for number in range(6):
        features, valid, _, captions = data[number]
        assert (features[0, 0].item(), captions[0, 0].item(), valid) == (number, 10 * number, 4)
    tested = {
        name: (features[0, 0].item(), captions[0, 0].item()) for name, features, captions in dataset.test_videos(videos, WIDTH, 0, tree)
    }
    assert tested == {name: (number, 10 * number) for number, name in enumerate(names)}
    (tmp_path / "captions" / "a" / "v2.npy").unlink()
    (tmp_path / "captions" / "b" / "v3.npy").unlink()
    without = CaptionTree(tmp_path / "captions", WIDTH)
    refused(lambda: without.check(videos, dict.fromkeys(names, 4)), "no captions of 2 of 6 videos (v2, v3)", "tools.make_list")


def test_captions_of_another_length_are_refused_or_brought_to_it(tmp_path):
    """In the released code they are cut into chunks by themselves, so that another number of chunks crashes the test."""
    for rows, name in ((4, "equal"), (5, "longer"), (3, "shorter")):
        save(tmp_path / f"{name}.npy", rows, 1)
    videos = [video(name, tmp_path) for name in ("equal", "longer", "shorter")]
    rows = {part.name: 4 for part in videos}
    refused(lambda: CaptionTree(tmp_path, WIDTH).check(videos, rows), "longer.npy", "5 rows", "have 4", "--allow-length-mismatch 1")
    tree = CaptionTree(tmp_path, WIDTH, mismatch=1)
    tree.check(videos, rows)
    found = {part.name: tree.load(part, None, 4)[:, 0].tolist() for part in videos}
    assert found["equal"] == found["longer"] == pytest.approx([1, 1.01, 1.02, 1.03])
    assert found["shorter"] == pytest.approx([1, 1.01, 1.02, 1.02])
    refused(lambda: CaptionTree(tmp_path, 7).check(videos, rows), "equal.npy", "(4, 3)", "--caption-width")
    refused(lambda: CaptionTree(tmp_path / "absent", WIDTH), "absent", "--caption-root")


@given(rows=st.integers(1, 40), length=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_captions_are_resampled_as_features_are(rows, length):
    """What stands in a row of either comes from the same snippets."""
    both = torch.rand(rows, 5)
    whole, valid = resample(both, length)
    features, captions = resample(both[:, :2].clone(), length), resample(both[:, 2:].clone(), length)
    assert torch.allclose(torch.cat([features[0], captions[0]], 1), whole)
    assert features[1] == captions[1] == valid


def test_published_names_and_crops(tmp_path):
    assert split_published("Abuse001_x264_emb_0", None) == ("Abuse001_x264", 0)
    assert split_published("v=a_emb", 3) == ("v=a", 3)
    assert split_published("Abuse001_x264", None) == ("Abuse001_x264", None)
    for crop in range(2):
        save(tmp_path / "features" / f"XD__{crop}.npy", 2, crop)
        save(tmp_path / "features" / f"UCF__{crop}.npy", 2, crop)
        save(tmp_path / "captions" / f"XD_emb__{crop}.npy", 2, 10 + crop)
    save(tmp_path / "captions" / "UCF_emb_0.npy", 2, 20)
    tree = CaptionTree(tmp_path / "captions", WIDTH)
    videos = [video("XD", tmp_path / "features", (0, 1)), video("UCF", tmp_path / "features", (0, 1))]
    tree.check(videos, {"XD": 2, "UCF": 2})
    data = FeatureDataset(videos, length=2, width=WIDTH, captions=tree)
    pairs = [(data[number][0][0, 0].item(), data[number][3][0, 0].item()) for number in range(4)]
    assert pairs == [(0, 10), (1, 11), (0, 20), (1, 20)]
    tested = {name: captions[0, 0].item() for name, _, captions in dataset.test_videos(videos, WIDTH, 1, tree)}
    assert tested == {"XD": 11, "UCF": 20}


def test_one_name_in_two_folders(tmp_path):
    save(tmp_path / "Abuse" / "v.npy", 2, 1)
    save(tmp_path / "captions" / "Abuse" / "v.npy", 2, 10)
    save(tmp_path / "captions" / "Old" / "v.npy", 2, 20)
    tree = CaptionTree(tmp_path / "captions", WIDTH)
    assert tree.load(video("v", tmp_path / "Abuse"), None, 2)[0, 0] == 10
    refused(lambda: tree.find(video("v", tmp_path), None), "Abuse", "Old", "keep one")


def three_versions(folder: Path, names) -> CaptionTree:
    for value, version in enumerate(("source", "rewrite-1", "rewrite-2")):
        for name in names:
            save(folder / version / f"{name}.npy", 4, value)
    return CaptionTree(folder, WIDTH)


def test_a_version_is_drawn_each_time_a_video_is_loaded(tmp_path):
    names = [f"v{number}" for number in range(8)]
    tree = three_versions(tmp_path / "captions", names)
    assert tree.versions == ("source", "rewrite-1", "rewrite-2")
    for number, name in enumerate(names):
        save(tmp_path / f"{name}.npy", 4, number)
    data = FeatureDataset([video(name, tmp_path) for name in names], length=4, width=WIDTH, captions=tree)
    plain = BalancedBatches([number % 2 > 0 for number in range(8)], 4, seed=7)
    drawn = DrawnVersions(BalancedBatches([number % 2 > 0 for number in range(8)], 4, seed=7), tree.versions)
    seen, orders = Counter(), []
    for epoch in range(1, 60):
        plain.set_epoch(epoch)
        drawn.set_epoch(epoch)
        batches = list(drawn)
        assert [[number for number, _ in batch] for batch in batches] == list(plain)  # drawing changes no batch
        assert batches == list(drawn)  # an epoch can be run again
        orders.append(batches)
        for item in (item for batch in batches for item in batch):
            seen[item] += 1
            features, _, _, captions = data[item]
            assert (features[0, 0].item(), tree.versions[int(captions[0, 0])]) == item
            assert data.name(item) == names[item[0]]
    assert len({str(batches) for batches in orders}) == len(orders)
    assert set(seen) == {(number, version) for number in range(8) for version in tree.versions}
    assert min(seen.values()) > 5  # of 59 / 3
    _, _, source = next(dataset.test_videos([video("v0", tmp_path)], WIDTH, 0, tree))
    assert source[0, 0] == 0
    assert len(DrawnVersions(ShuffledBatches([True, False, True], 2, 1), ["source"])) == 2


def test_which_versions_training_draws_from(tmp_path):
    tree = three_versions(tmp_path, ["v0", "v1"])
    assert loading.training_versions(tree, "random") == tree.versions
    assert loading.training_versions(tree, "rewrite-2") == ("rewrite-2",)
    alone = CaptionTree(tmp_path / "source", WIDTH)
    assert loading.training_versions(alone, "random") == ("source",)
    refused(lambda: loading.training_versions(alone, "rewrite-1"), "--caption-choice rewrite-1", "tools.rewrite_captions")
    (tmp_path / "rewrite-2" / "v1.npy").unlink()
    for number in range(2):
        save(tmp_path / "features" / f"v{number}.npy", 4, 0)
    videos = [video("v0", tmp_path / "features"), video("v1", tmp_path / "features")]
    rows = {"v0": 4, "v1": 4}
    tree = CaptionTree(tmp_path, WIDTH)
    refused(lambda: tree.check(videos, rows, tree.versions), "rewrite-2", "v1", "finish tools.rewrite_captions")
    tree.check(videos, rows, ("source", "rewrite-1"))


@pytest.mark.slow
def test_captions_through_the_scripts(small_sample, tmp_path, capsys, monkeypatch):
    """Both branches and the captions alone train and test; a test takes other captions (`--caption-root`), and refuses those that lack
    some.
    """
    words = small_sample("ucf", model="trclip")
    root = Path(words[words.index("--caption-root") + 1])
    ucf_train.main([*words, "--output", str(tmp_path / "both")])
    assert "training draws from source, rewrite-1, rewrite-2" in capsys.readouterr().out
    alone = words.copy()
    del alone[alone.index("--feature-root") : alone.index("--feature-root") + 2]
    del alone[alone.index("--visual-width") : alone.index("--visual-width") + 2]
    ucf_train.main(
        [*alone, "--branches", "text", "--text-stack", "mamba", "--caption-choice", "source", "--output", str(tmp_path / "text")]
    )
    reports = {name: json.loads((tmp_path / name / "report.json").read_text()) for name in ("both", "text")}
    assert reports["both"]["parameters"] > reports["text"]["parameters"]
    assert len(reports["both"]["segments"]) == len(reports["text"]["segments"]) == reports["both"]["videos"]

    tested = read_list(words[words.index("--test-list") + 1], root / "source", UCF)
    other = tmp_path / "other"
    for part in tested[1:]:
        save(other / part.files[0].name, len(np.load(part.files[0])), 0.5, 64)
    best = tmp_path / "both" / "seed-234" / "best.pt"
    test = ["--checkpoint", str(best), "--caption-root", str(other), "--output", str(tmp_path / "again")]
    refused(lambda: ucf_test.main(test), f"no captions of 1 of {len(tested)} videos ({tested[0].name})")
    save(other / tested[0].files[0].name, len(np.load(tested[0].files[0])), 0.5, 64)
    ucf_test.main(test)
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["coarse"]["auc"] != reports["both"]["coarse"]["auc"]

    def peaked(model, videos, options, captions):
        """Every video shows abuse in its fourth row, and only there."""
        rows = {part.name: len(np.load(part.files[0])) for part in videos}
        scores = {name: np.where(np.arange(count) == 3, 0.9, 0.1) for name, count in rows.items()}
        return {name: Scores(one, np.stack([1 - one, one, *np.zeros((12, len(one)))], 1)) for name, one in scores.items()}

    monkeypatch.setattr(engine, "score", peaked)
    ucf_test.main(["--checkpoint", str(best), "--output", str(tmp_path / "words")])
    found = json.loads((tmp_path / "words" / "report.json").read_text())["segments"]
    for part in tested:
        [segment] = found[part.name]
        said = json.loads(part.files[0].with_suffix(".jsonl").read_text().splitlines()[4])  # a header, then a line a snippet
        assert (segment["start"], segment["class"], segment["caption"]) == (48, "abuse", said["caption"])
    assert found[tested[0].name][0]["caption"] in (tmp_path / "words" / "report.md").read_text()
    monkeypatch.undo()
    other = ["--checkpoint", str(tmp_path / "text" / "seed-234" / "best.pt"), *test[2:]]
    refused(lambda: ucf_test.main(other), "holds a run, or the test of another checkpoint")
    ucf_test.main([*other[:-1], str(tmp_path / "third")])  # lengths, too, are those of these captions


@pytest.mark.slow
def test_covered_frames_through_the_scripts(small_sample, tmp_path, capsys):
    """Features of sentences, known by their manifest: which rows have a sentence stands in NAME.jsonl, and then in the scores. Without the
    former the report says so.
    """
    words, captions = (small_sample("ucf", model=model) for model in ("deepmil", "trclip"))
    root = shutil.copytree(Path(captions[captions.index("--caption-root") + 1]) / "source", tmp_path / "features")
    (root / "embed.json").write_text(json.dumps({"encoder": "words", "encoder_digest": "0" * 16, "fill": "zeros"}))
    tested = read_list(words[words.index("--test-list") + 1], root, UCF)
    rows, abnormal = {part.name: len(np.load(part.files[0])) for part in tested}, {part.name: part.abnormal for part in tested}
    for number, part in enumerate(tested):
        texts = part.files[0].with_suffix(".jsonl")
        texts.write_text("".join(texts.read_text().splitlines(keepends=True)[: 1 + number]))  # a header, then a line a snippet
    words[words.index("--feature-root") + 1] = str(root)
    ucf_train.main([*words, "--output", str(tmp_path / "run"), "--max-epoch", "1"])
    place = next((tmp_path / "run").glob("seed-*"))
    made = json.loads((place / "report.json").read_text())
    shares = {"all": rows, "normal": [n for n in rows if not abnormal[n]], "abnormal": [n for n in rows if abnormal[n]]}
    counts = {part.name: number for number, part in enumerate(tested)}
    assert made["features"] == "sentences"
    assert made["coverage"] == pytest.approx({key: sum(counts[n] for n in own) / sum(rows[n] for n in own) for key, own in shares.items()})
    assert set(made["covered"]) == {"coarse"}
    shown = (place / "report.md").read_text()
    assert "of the rows have a sentence of their own (normal videos " in shown
    assert "| covered coarse within_video_auc | " in shown
    evaluate(["--dataset", "ucf", "--scores", str(place / "scores.npz"), "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text())["covered"] == made["covered"]
    tested[3].files[0].with_suffix(".jsonl").unlink()
    ucf_test.main(["--checkpoint", str(place / "best.pt"), "--output", str(tmp_path / "again")])
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["coarse"] == made["coarse"]
    assert again.keys() == made.keys() - {"coverage", "covered"}
    assert "which rows have a sentence is not known" in (tmp_path / "again" / "report.md").read_text()


def test_options_of_captions_belong_to_trclip(small_sample):
    words = small_sample("ucf", model="vadclip")
    refused(lambda: ucf_train.main([*words, "--caption-root", "x"]), "--caption-root: --model vadclip has no such option")
    refused(lambda: ucf_train.main([*words, "--d-state", "8"]), "--d-state: --model vadclip has no such option")
    root = words[words.index("--feature-root") + 1]
    refused(
        lambda: ucf_train.main(["--model", "trclip", "--feature-root", root]),
        "--model trclip: reads captions",
        "--caption-root",
        "--branches visual",
    )
    refused(lambda: ucf_train.main(["--model", "trclip", "--d-state", "0"]), "--d-state 0")
