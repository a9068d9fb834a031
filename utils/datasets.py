"""A data set is a file: one of list/, or somebody's dataset.toml."""

import re
from pathlib import Path
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from utils.errors import BadInput
from utils.files import ROOT, irregular
from utils.labels import Dataset
from utils.reading import CLOSED, Plain, Text, parse_toml, read_text, real, shown, whole

FILE = "dataset.toml"  # what a data set's file is called in its folder
LONGEST = 2**20  # bytes of that file
CLASSES = 1000  # at most
Headline = Literal["coarse auc", "coarse ap", "fine auc", "fine ap"]


class Paper(TypedDict):
    """What a system's paper reports on a data set: its headline where that is not the data set's, and figures in percent by their names in
    reports.
    """

    __pydantic_config__ = CLOSED

    headline: NotRequired[Headline]
    figures: NotRequired[dict[Text, Text]]


class Simulated(TypedDict):
    """The built-in sample of a data set: its stream of random numbers, and how far an event stands out."""

    __pydantic_config__ = CLOSED

    stream: whole(0, 1000)
    strength: real(0)


class File(TypedDict):
    """A dataset.toml. docs/own-data.md explains the keys."""

    __pydantic_config__ = CLOSED

    title: Text
    fps: real(0, 10_000, gt=0)
    classes: dict[Text, Text]
    name: NotRequired[Text]
    headline: NotRequired[Headline]
    separator: NotRequired[Text]
    placeholder: NotRequired[Text]
    label_in: NotRequired[Literal["folder", "name"]]
    test_crop: NotRequired[whole(0, 9)]
    train_list: NotRequired[Text]
    test_list: NotRequired[Text]
    ground_truth: NotRequired[Text]
    feature_root: NotRequired[Text]
    paper: NotRequired[dict[Text, Paper]]
    tables: NotRequired[dict[Text, dict[Text, Text]]]
    presets: NotRequired[dict[Text, dict[Text, dict[Text, Plain]]]]
    sample: NotRequired[Simulated]


def benchmarks() -> list[str]:
    """The data sets of list/, by name."""
    return sorted(path.stem for path in (ROOT / "list").glob("*.toml"))


def script_of(key: str, kind: str) -> str:
    """The script (`kind`: train, test or option) of a data set: its own where there is one, else custom_….py."""
    own = f"{key}_{kind}.py"
    return own if (ROOT / own).exists() else f"custom_{kind}.py"


def command_of(dataset: Dataset, kind: str) -> list[str]:
    """That script as it is typed."""
    script = script_of(dataset.key, kind)
    return [script] if dataset.key in benchmarks() else [script, "--data", str(dataset.path)]


def load_dataset(place: Path | str, option: str = "--data") -> Dataset:
    """The data set called `place`: the name of a file of list/ (without .toml), a .toml file, or a folder with a dataset.toml.

    Raises BadInput naming file and key where it cannot be read or is not as `File` declares, where the first class is not the normal one,
    a class stands there twice, or a list is missing.
    """
    path = ROOT / "list" / f"{place}.toml" if str(place) in benchmarks() else Path(place)
    fault = irregular(path)
    if fault == "a folder":
        path = path / FILE
        fault = irregular(path)
    if fault:
        found = f"{path}: {fault}" if path != Path(place) else fault.replace("no such file", "no such data set")
        known = f"{', '.join(benchmarks())}, a folder with {FILE}, or that file"
        raise BadInput(f"{option} {place}: {found}; expected {known}; tools.new_dataset writes one")
    return parse_dataset(read_text(path, option, LONGEST), path, f"correct the file, or name another with {option}")


def parse_dataset(text: str, path: Path, todo: str) -> Dataset:
    """The data set that the text of a file `path` describes; load_dataset. todo: what to do where it is none."""
    known = parse_toml(text, str(path), todo, File)

    def wrong(key: str, value, expected: str) -> BadInput:
        return BadInput(f"{path}: {key} = {shown(value)}; expected {expected}; {todo}")

    labels, names = tuple(known["classes"]), tuple(known["classes"].values())
    title, separator, placeholder = known["title"].strip(), known.get("separator"), known.get("placeholder")
    key = known.get("name", re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"))
    if not title or not title.isprintable() or len(title) > 100:
        raise wrong("title", title, "1 to 100 printable characters")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,49}", key):
        raise wrong("name", key, "1 to 50 of a-z, 0-9 and -, for folders; it is the title's unless you give one")
    if key in benchmarks() and path.parent.resolve() != ROOT / "list":
        which = "name" if "name" in known else "title"
        raise wrong(which, known[which], f"another one than list/ has: {', '.join(benchmarks())}")
    if not 2 <= len(labels) <= CLASSES:
        expected = 'the normal class and at least one other, as label = "words"' if len(labels) < 2 else f"at most {CLASSES:,}"
        raise wrong("classes", list(labels), expected)
    if separator == "":
        raise wrong("separator", separator, "at least one character, or no such line where a video has one label")
    if placeholder is not None and not separator:
        raise wrong("placeholder", placeholder, "a separator beside it")
    if placeholder is not None and (placeholder in labels or separator in placeholder):
        raise wrong("placeholder", placeholder, f"what is no label, without the separator {separator!r}")
    said: dict[str, str] = {}
    for label, words in known["classes"].items():
        if not all(text and text.isprintable() and text == text.strip() for text in (label, words)):
            raise wrong(f"classes.{shown(label)}", words, "printable label and words, no blanks round them")
        if (other := said.setdefault(words.casefold(), label)) != label:
            raise wrong(f"classes.{label}", words, f"words of its own: {other} has the same")
        if separator and separator in label:
            raise wrong(f"classes.{label}", words, f"a label without the separator {separator!r}")
    if not any("normal" in word.lower() for word in (labels[0], names[0])):
        raise wrong(f"classes.{labels[0]}", names[0], 'the normal class first, with "normal" in its words')
    files = {name: path.parent / known[name] for name in ("train_list", "test_list", "ground_truth", "feature_root") if name in known}
    for name, file in files.items():
        fault, what = irregular(file), "file"
        if name == "feature_root":
            fault, what = fault if "\0" in known[name] else None, "folder"  # which may be made later
        if fault:
            raise BadInput(
                f"{path}: {name} = {shown(known[name])}: {fault}; expected a {what}, relative to {path.parent} or in full; {todo}"
            )
    return Dataset(
        key=key,
        title=title,
        fps=known["fps"],
        labels=labels,
        names=names,
        headline=tuple(known.get("headline", "coarse auc").split()),
        separator=separator,
        placeholder=placeholder,
        label_in=known.get("label_in", "folder"),
        test_crop=known.get("test_crop", 0),
        path=path,
        train_list=files.get("train_list"),
        test_list=files.get("test_list"),
        gt_path=files.get("ground_truth"),
        feature_root=files.get("feature_root"),
        papers=known.get("paper", {}),
        tables=known.get("tables", {}),
        presets=known.get("presets", {}),
        sample=known.get("sample"),
    )
