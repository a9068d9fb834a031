"""The built-in sample: the same bytes from the same seed, what it promises to hold, and what it never overwrites."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import utils.sample.builder
from benchmarks import DATASETS
from tools.make_sample import main
from utils.errors import BadInput
from utils.evaluation.ground_truth import load_ground_truth
from utils.labels import class_indices
from utils.sample import captions as sample_captions
from utils.sample.builder import is_current, make_sample
from utils.text import load_clip, load_transformer

VIDEOS = (40, 30)


@pytest.fixture(scope="module", params=["ucf", "xd"])
def sample(request, tmp_path_factory):
    return request.param, make_sample(tmp_path_factory.mktemp("sample") / request.param, request.param, videos=VIDEOS)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_same_bytes(sample, tmp_path):
    key, folder = sample
    again = files(make_sample(tmp_path / "again", key, videos=VIDEOS))
    assert again == files(folder)
    other = files(make_sample(tmp_path / "other", key, seed=1, videos=VIDEOS))
    assert all(other[name] != again[name] for name in again if name.suffix in (".csv", ".pt", ".safetensors"))


def test_videos_classes_and_lengths(sample):
    key, folder = sample
    dataset = DATASETS[key]
    truth = load_ground_truth(folder / "gt.json", dataset)
    for split, count in zip(("train", "test"), VIDEOS, strict=True):
        rows = pd.read_csv(folder / f"{split}.csv", dtype=str)
        classes = [class_indices(label, dataset) for label in rows.label]
        assert len(rows) == count
        assert sum(c == [0] for c in classes) == count // 2
        assert {c for found in classes for c in found} == set(range(len(dataset.labels)))
        assert (max(map(len, classes)) > 1) == (key == "xd")
        lengths = []
        for path in rows.path:
            name = path.removesuffix(".npy")
            crops = [np.load(folder / "features" / f"{name}__{k}.npy") for k in range(10)]
            assert {crop.shape for crop in crops} == {crops[0].shape}
            assert crops[0].dtype == np.float16
            assert 8 < np.linalg.norm(crops[0].astype(float), axis=1).mean() < 13  # real CLIP features: about 10
            lengths.append(len(crops[0]))
            if split == "test":
                assert lengths[-1] == -(-truth[name].frames // 16)
        assert min(lengths) < 30
        assert max(lengths) > 700
    assert set(truth) == {path.removesuffix(".npy") for path in rows.path}
    for name, label in zip(rows.path, rows.label, strict=True):
        labels = {segment[2] for segment in truth[name.removesuffix(".npy")].segments}
        assert labels == {dataset.labels[c] for c in class_indices(label, dataset)} - {dataset.labels[0]}


def test_mirrored_crops_resemble_their_originals_most(sample):
    _, folder = sample
    name = max((folder / "features").glob("*__0.npy"), key=lambda path: path.stat().st_size).name.removesuffix("__0.npy")
    crops = np.stack([np.load(folder / "features" / f"{name}__{k}.npy") for k in range(10)]).astype(np.float32)
    rest = crops - crops.mean(0)
    assert np.corrcoef(rest[0].ravel(), rest[5].ravel())[0, 1] > 0.5
    assert abs(np.corrcoef(rest[0].ravel(), rest[6].ravel())[0, 1]) < 0.3


def test_encoders_load(sample):
    _, folder = sample
    assert load_clip(str(folder / "clip.pt")).text_projection.shape == (64, 64)
    assert load_transformer(str(folder / "distilbert"), "--distilbert").config.hidden_size == 96


def test_class_features_differ(sample):
    from utils.text import openai_clip

    key, folder = sample
    with torch.no_grad():
        text = load_clip(str(folder / "clip.pt")).encode_text(openai_clip().tokenize(list(DATASETS[key].names)))
    text = torch.nn.functional.normalize(text, dim=-1)
    assert (text @ text.T - torch.eye(len(text))).max() < 0.9


def lines(path):
    """Header and captions of a .jsonl file."""
    about, *captions = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return about, captions


def test_captions_and_rewrites_have_a_row_per_snippet_and_the_text_of_each_row(sample):
    key, folder = sample
    dataset, trees = DATASETS[key], ("source", "rewrite-1", "rewrite-2")
    names = {path.name.partition("__0.npy")[0]: path for path in (folder / "features").glob("*__0.npy")}
    vectors = {}
    for name, features in names.items():
        rows, texts = len(np.load(features)), {}
        for tree in trees:
            embedded = np.load(folder / "captions" / tree / f"{name}.npy")
            about, captions = lines(folder / "captions" / tree / f"{name}.jsonl")
            assert (embedded.shape, embedded.dtype) == ((rows, 64), np.float16)
            assert (about["video"], about["fps"], about["model"]) == (name, dataset.fps, "simulated")
            assert [line["snippet"] for line in captions] == list(range(rows))
            assert [line["frames"] for line in captions] == [[16 * t, min(16 * t + 16, about["frames"])] for t in range(rows)]
            texts[tree] = [line["caption"] for line in captions]
            for text, row in zip(texts[tree], embedded, strict=True):
                assert vectors.setdefault(text, row.tobytes()) == row.tobytes()
            if tree != "source":
                assert [line["source"] for line in captions] == texts["source"]
        assert -(-about["frames"] // 16) == rows
        assert all(len({a, b, c}) == 3 for a, b, c in zip(*texts.values(), strict=True))
    assert {len(list((folder / "captions" / tree).iterdir())) for tree in trees} == {2 * len(names)}
    rows = np.stack([np.frombuffer(row, np.float16).astype(float) for row in vectors.values()])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2)
    assert len(np.unique(rows, axis=0)) == len(vectors)


def test_captions_tell_most_of_an_event_and_now_and_then_one_that_is_not_there(sample):
    key, folder = sample
    dataset = DATASETS[key]
    told = {
        wording.format(who=who, where=where): name
        for name in dataset.names[1:]
        for meaning in sample_captions.SENTENCES[name]
        for wording in meaning
        for who in sample_captions.PEOPLE
        for where in sample_captions.PLACES
    }
    inside, outside = [], []
    for name, video in load_ground_truth(folder / "gt.json", dataset).items():
        for line in lines(folder / "captions" / "source" / f"{name}.jsonl")[1]:
            shown = {label for start, end, label in video.segments if start <= line["frames"][0] + 8 < end}
            said = told.get(line["caption"])
            (inside if shown else outside).append(
                said in {dataset.names[dataset.labels.index(label)] for label in shown} if shown else said
            )
    assert 0.5 < np.mean(inside) < 0.9
    assert 0.01 < np.mean([said is not None for said in outside]) < 0.06
    assert len(set(outside)) > len(dataset.names) / 2


def test_shuffled_labels_carry_nothing(sample, tmp_path):
    key, folder = sample
    mixed = make_sample(tmp_path / "mixed", key, shuffle_labels=True, videos=VIDEOS)
    true, shuffled = (pd.read_csv(place / "train.csv", dtype=str).set_index("path").label for place in (folder, mixed))
    normal = DATASETS[key].labels[0]
    table = pd.crosstab(true == normal, shuffled.loc[true.index] == normal)
    assert sorted(true) == sorted(shuffled)
    assert (table == VIDEOS[0] // 4).all(axis=None)
    a, b = files(folder), files(mixed)
    assert {str(name) for name in a if a[name] != b[name]} == {"train.csv", "sample.json"}
    assert json.loads(b[next(name for name in b if name.name == "sample.json")])["shuffle_labels"]


def test_only_a_sample_is_ever_replaced(sample, tmp_path):
    key, _ = sample
    (tmp_path / key).mkdir()
    (tmp_path / key / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="is no sample"):
        main(["--dataset", key, "--output", str(tmp_path)])
    assert [path.name for path in tmp_path.rglob("[!.]*")] == [key, "thesis.txt"]


def test_a_sample_of_other_settings_is_noticed(tmp_path):
    assert not is_current(tmp_path / "absent", "xd")
    small = make_sample(tmp_path / "xd", "xd", videos=(8, 4))
    assert not is_current(small, "xd")
    about = json.loads((small / "sample.json").read_text())
    (small / "sample.json").write_text(json.dumps({**about, "videos": list(utils.sample.builder.VIDEOS)}))
    assert is_current(small, "xd")
    about = json.loads((small / "sample.json").read_text())
    (small / "sample.json").write_text(json.dumps({key: value for key, value in about.items() if key != "captions"}))
    assert not is_current(small, "xd")  # made before there were captions
