"""utils/labels.py: a dataset.toml is read, or is one line that names file, key, what was expected and what to do."""

import contextlib
import gzip
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.datasets import load_dataset
from utils.errors import BadInput
from utils.labels import class_indices

BASE = {"title": "My cameras", "fps": 25, "train_list": "train.csv", "classes": {"Normal": "normal", "Fighting": "two people fighting"}}


def toml(value, key: str = "") -> str:
    """The text of a TOML file, its tables last; a value that no TOML has stands there as it is."""
    if not isinstance(value, dict):
        return "nan" if value != value else str(value) if isinstance(value, float) else json.dumps(value).replace("null", "nothing")
    plain = [f"{json.dumps(name)} = {toml(one)}" for name, one in value.items() if not isinstance(one, dict)]
    tables = [
        f"[{key}{json.dumps(name)}]\n{toml(one, f'{key}{json.dumps(name)}.')}" for name, one in value.items() if isinstance(one, dict)
    ]
    return "\n".join([*plain, *tables])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("mine")
    (place / "train.csv").write_text("path,label\n")
    (place / "lists").mkdir()
    os.mkfifo(place / "pipe")
    (place / "nowhere").symlink_to("absent")
    return place


def refusal(folder, text: str | bytes) -> str:
    path = folder / "dataset.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BadInput) as error:
        load_dataset(folder)
    said = str(error.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    return said.removeprefix(str(path))


def test_what_it_tells(folder):
    (folder / "dataset.toml").write_text(
        toml(BASE | {"feature_root": "/somewhere", "name": "cameras", "separator": "+", "placeholder": ""})
    )
    dataset = load_dataset(folder)
    assert dataset == load_dataset(folder / "dataset.toml")
    assert (dataset.key, dataset.title, dataset.labels) == ("cameras", "My cameras", ("Normal", "Fighting"))
    assert (dataset.train_list, dataset.test_list, str(dataset.feature_root)) == (folder / "train.csv", None, "/somewhere")
    assert class_indices("Fighting++", dataset) == [1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"titel": "x"}, ": titel: unknown; expected title, fps, classes, name, headline"),
        ({"classes": None}, ": has no classes; "),
        ({"title": None}, ": has no title; "),
        ({"title": 3}, ": title 3; expected a text; "),
        ({"title": ""}, ": title = ''; expected 1 to 100 printable characters; "),
        ({"title": "a\x1b[2Jb"}, ": title = 'a\\x1b[2Jb'; expected 1 to 100"),
        ({"title": "!"}, ": name = ''; expected 1 to 50 of a-z, 0-9 and -"),
        ({"title": "UCF"}, ": title = 'UCF'; expected another one than list/ has: ucf, xd; "),
        ({"name": "xd"}, ": name = 'xd'; expected another one than list/ has: ucf, xd; "),
        ({"name": "../up"}, ": name = '../up'; expected 1 to 50"),
        ({"fps": 0}, ": fps 0; expected a value above 0; "),
        ({"fps": True}, ": fps True; expected a valid number; "),
        ({"fps": float("nan")}, ": fps nan; expected a finite number; "),
        ({"fps": "25"}, ": fps '25'; expected a valid number; "),
        ({"headline": "auc"}, ": headline 'auc'; expected 'coarse auc', 'coarse ap', 'fine auc' or 'fine ap'; "),
        ({"label_in": "file"}, ": label_in 'file'; expected 'folder' or 'name'; "),
        ({"test_crop": 10}, ": test_crop 10; expected a value of at most 9; "),
        ({"classes": {}}, ": classes = []; expected the normal class and at least one other"),
        ({"classes": {"Normal": "normal"}}, ": classes = ['Normal']; expected the normal class and at least one other"),
        ({"classes": {"Normal": "normal", "Fire": 3}}, ": classes.Fire 3; expected a text; "),
        ({"classes": ["Normal", "Fire"]}, ": classes ['Normal', 'Fire']; expected a valid dictionary; "),
        ({"classes": {"Fire": "fire", "Normal": "normal"}}, ": classes.Fire = 'fire'; expected the normal class first"),
        ({"classes": {"Normal": "normal", "Fire": "fire", "Blaze": " Fire"}}, ": classes.'Blaze' = ' Fire'; expected printable"),
        ({"classes": {"Normal": "normal", "Fire": "fire", "Blaze": "Fire"}}, ": classes.Blaze = 'Fire'; expected words of its own: Fire"),
        ({"classes": {"Normal": "normal", "": "fire"}}, ": classes.'' = 'fire'; expected printable label"),
        ({"classes": {"Normal": "normal", "a\nb": "fire"}}, ": classes.'a\\nb' = 'fire'; expected printable label"),
        ({"classes": {"Normal": "normal", "F": "\u202e"}}, ": classes.'F' = '\\u202e'; expected printable label"),
        (
            {"classes": {"Normal": "normal", **{f"c{i}": f"w{i}" for i in range(1000)}}},
            "; expected at most 1,000; ",
        ),
        ({"separator": ""}, ": separator = ''; expected at least one character"),
        ({"separator": "ght"}, ": classes.Fighting = 'two people fighting'; expected a label without the separator 'ght'"),
        ({"separator": "-", "placeholder": "Fighting"}, ": placeholder = 'Fighting'; expected what is no label"),
        ({"separator": "-", "placeholder": "0-0"}, ": placeholder = '0-0'; expected what is no label"),
        ({"placeholder": "0"}, ": placeholder = '0'; expected a separator beside it"),
        ({"train_list": "absent.csv"}, ": train_list = 'absent.csv': no such file; expected a file, relative to "),
        ({"test_list": ""}, ": test_list = '': a folder; expected a file"),
        ({"test_list": "lists"}, ": a folder"),
        ({"test_list": "pipe"}, ": a named pipe"),
        ({"ground_truth": "nowhere"}, ": a broken link"),
        ({"ground_truth": "a\0b"}, ": ground_truth = 'a\\x00b': cannot be read (embedded null byte); expected a file"),
        ({"ground_truth": "x" * 300}, "File name too long"),
        ({"feature_root": "a\0b"}, ": feature_root = 'a\\x00b': cannot be read (embedded null byte); expected a folder"),
        ({"paper": {"reflip": {"figure": {}}}}, ": paper.reflip.figure: unknown; expected headline, figures; "),
        ({"paper": {"reflip": {"figures": {"coarse auc": 88.57}}}}, ": paper.reflip.figures.coarse auc 88.57; expected a text; "),
    ],
)
def test_what_is_wrong_is_named(folder, change, said):
    content = {key: value for key, value in (BASE | change).items() if value is not None}
    found = refusal(folder, toml(content))
    assert said in found
    assert found.endswith("correct the file, or name another with --data")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (toml(BASE) + '\nNormal = "again"', "Cannot overwrite a value (at "),
        (toml(BASE) + "\nFire = ", "Invalid value"),
        ("", "has no title"),
        (b"\xff\xfet\0", "cannot be read as UTF-8 text"),
        (gzip.compress(b"x", mtime=0), "cannot be read as UTF-8 text"),
        ('title = "\\ud800"', "Escaped character is not a Unicode scalar value"),
        ("x = " + "[" * 100_000, "not a TOML file"),
        ("a." * 100_000 + "a = 1", "not a TOML file"),
        ("#" * (2**20 + 1), "more than 1 MB"),
        ("fps = " + "9" * 5000, "not a TOML file"),
    ],
)
def test_what_is_no_toml(folder, text, said):
    found = refusal(folder, text)
    assert said in found
    assert "--data" in found


def test_what_is_no_file(folder, tmp_path):
    def said(place):
        with pytest.raises(BadInput) as error:
            load_dataset(place)
        assert "\n" not in str(error.value)
        return str(error.value)

    expected = "; expected ucf, xd, a folder with dataset.toml, or that file; tools.new_dataset writes one"
    assert said("absent") == f"--data absent: no such data set{expected}"
    assert said(tmp_path) == f"--data {tmp_path}: {tmp_path}/dataset.toml: no such file{expected}"
    assert said(folder / "pipe") == f"--data {folder}/pipe: a named pipe{expected}"
    assert said("a\0b").startswith("--data a\\x00b: cannot be read")
    assert "File name too long" in said("x" * 300)
    (tmp_path / "dataset.toml").mkdir()
    assert said(tmp_path) == f"--data {tmp_path}: {tmp_path}/dataset.toml: a folder{expected}"


LABELS = ["Normal", "normal", "Fight", "fight", "A-B", "0", "7", "", " ", "a.b", "[x]", "x" * 60, "\0", "é", "Nor\nmal", "\u202e", "🔥"]
TEXTS = st.sampled_from([*LABELS, "normal traffic", "Fight ", "train.csv", "absent", "lists", "pipe", "ucf", "coarse ap", "name"])
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.text(st.characters(exclude_categories=()), max_size=5),
    st.lists(TEXTS, max_size=2), st.dictionaries(TEXTS, TEXTS, max_size=2),
)  # fmt: skip
WORDS = st.sampled_from([f"words {letter}" for letter in "abcdefgh"] * 3 + LABELS)
CLASSES = st.dictionaries(st.sampled_from(["Fire", "Theft", "a b", "x.y", *LABELS]), WORDS, max_size=3)
KEYS = ["title", "fps", "classes", "name", "headline", "separator", "placeholder", "label_in", "test_crop", "train_list", "test_list"]
KEYS += ["ground_truth", "feature_root", "paper", "tables", "sample", "titel", ""]
CHANGES = st.one_of(st.just({}), st.dictionaries(st.sampled_from(KEYS), ODD, max_size=2))
SAME = st.just(lambda data: data)
BYTES = st.one_of(
    *[SAME] * 5,
    st.tuples(st.integers(0, 200), st.binary(max_size=3)).map(lambda one: lambda data: data[: one[0]] + one[1] + data[one[0] :]),
    st.integers(0, 200).map(lambda place: lambda data: data[:place]),
    st.sampled_from(["utf-16", "utf-8-sig", "latin-1"]).map(
        lambda kind: lambda data: data.decode(errors="replace").encode(kind, "replace")
    ),
    st.sampled_from([b"\r\n", b"\r", b""]).map(lambda end: lambda data: data.replace(b"\n", end)),
)


@pytest.mark.slow
@settings(max_examples=1000)
@given(CLASSES, CHANGES, st.sampled_from([None, None, "-", "i"]), BYTES)
def test_it_is_read_or_is_one_line(folder, classes, changes, separator, spoil):
    content = (
        BASE | {"classes": {"Normal": "normal", "Smoke": "smoke"} | classes} | ({"separator": separator} if separator else {}) | changes
    )
    data = spoil(toml(content).encode(errors="surrogatepass"))
    path = folder / "dataset.toml"
    path.write_bytes(data)
    with contextlib.ExitStack() as stack:
        stack.callback(path.unlink)
        try:
            dataset = load_dataset(path)
        except BadInput as error:
            said = str(error)
            assert said.startswith(f"{path}: ")
            assert "expected" in said or any(word in said for word in ("not a TOML file", "has no ", "UTF-8"))
            assert said.endswith("--data")
            assert "\n" not in said
            return
    assert len(dataset.labels) == len(dataset.names) >= 2
    assert len({name.casefold() for name in dataset.names}) == len(dataset.names)
    assert "normal" in f"{dataset.labels[0]} {dataset.names[0]}".lower()
    assert 0 < dataset.fps <= 10_000
    assert all(path is None or path.is_file() for path in (dataset.train_list, dataset.test_list, dataset.gt_path))
    for number, label in enumerate(dataset.labels):
        assert class_indices(label, dataset) == [number]
        if dataset.separator:
            assert class_indices(dataset.separator.join([label, dataset.labels[0]]), dataset) == [number]  # abnormal, whatever else
