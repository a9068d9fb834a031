"""From a checkpoint back to what made it: which one is meant, whose data it is tested on, and whether it fits."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from model import SYSTEMS
from utils import checkpoint
from utils.captions.tree import source_folder
from utils.datasets import benchmarks, load_dataset, script_of
from utils.errors import BadInput, printable
from utils.labels import Dataset
from utils.options import Resolved, as_trained, check_options, check_system, declared, options_class, read_options


def is_of(saved: dict, dataset: Dataset) -> bool:
    """Whether a checkpoint of ours was trained on this data set and these classes."""
    return (saved["dataset"], saved["classes"]) == (dataset.key, list(dataset.names))


def check_dataset(saved: dict, path, options) -> None:
    """Raise BadInput where a checkpoint belongs to another data set than a script that is of one alone."""
    dataset = load_dataset(options.data)
    of_one = dataset.key in benchmarks() and "data" not in options.typed
    if of_one and not is_of(saved, dataset):
        raise BadInput(
            f"{path}: trained on {saved['dataset']} with {len(saved['classes'])} classes, expected {dataset.key} with "
            f"{len(dataset.names)}; use {script_of(saved['dataset'], 'test')}, or, for these classes, custom_test.py --data {dataset.key}"
        )


def weights_for(saved: dict, model, path: Path, options, dataset: Dataset) -> dict:
    """The weights of a checkpoint for a model with the classes of `dataset`. What holds something of the classes is the model's own where
    they are others than those that it was trained on.

    Raises BadInput where it does not match (`matches`), and where a weight is made for its own classes.
    """
    same, weights = is_of(saved, dataset), saved["weights"]
    matches(saved, model, path, same)
    if same:
        return weights
    of_classes, own = checkpoint.class_weights(model), checkpoint.trained_state(model)
    classes = f"its own {len(saved['classes'])} classes, not for the {len(dataset.names)} of {dataset.title}"
    if of_classes and "text_features" not in options.typed:
        raise BadInput(f"{path}: its class text features are for {classes}; give some for these: --text-features FILE.npy")
    shapes = {key: own[key].shape for key in own.keys() & weights.keys() - of_classes}
    if misfit := sorted(key for key, shape in shapes.items() if weights[key].shape != shape):
        raise BadInput(f"{path}: {misfit[0]} is for {classes}; train anew, from the weights that fit: --init {path}")
    return weights | {key: own[key] for key in of_classes}


def matches(saved: dict, model, path: Path, same_classes: bool = True) -> None:
    """Raise BadInput where a checkpoint was trained with another frozen encoder, or other text features of the same classes."""
    for name, part in checkpoint.frozen_parts(model).items():
        if saved["encoders"].get(name) != part.digest():
            raise BadInput(
                f"{path}: trained with another frozen encoder ({name}); "
                f"give the one it was trained with: --clip, --sentence-encoder (and --pooling) or --distilbert"
            )
    own, weights = checkpoint.trained_state(model), saved["weights"]
    for key in checkpoint.class_weights(model) & weights.keys() if same_classes else ():
        if own[key].shape == weights[key].shape and not torch.equal(own[key], weights[key]):
            raise BadInput(f"{path}: trained with other class text features; give those that it was trained with: --text-features")


def origin_of(saved: dict) -> str:
    """What a checkpoint of ours was trained on, in words."""
    sample = " (built-in sample)" * saved["options"]["sample"]
    return f"{saved.get('title', saved['dataset'])}'s {len(saved['classes'])} classes{sample}"


def start_from(model, options) -> dict:
    """Give `model` the weights of `--init` that fit; says which, and returns it as checkpoint.Init. Raises BadInput where the file is of
    another system or width, or nothing fits.
    """
    path = Path(options.init)
    saved = checkpoint.load(path, option="--init")
    foreign, origin = (), "a released state dict"
    if "options" in saved:
        system, width = known_system(saved, path), saved["options"].get("visual_width", options.visual_width)
        if system != options.model:
            raise BadInput(f"--init {path}: of --model {system}, found --model {options.model}; name a checkpoint of that one")
        if width != options.visual_width:
            raise BadInput(f"--init {path}: trained with --visual-width {width}, found {options.visual_width}; name one of that width")
        frozen = checkpoint.frozen_parts(model).items()
        foreign = tuple(f"{name.rpartition('.')[0]}." for name, part in frozen if saved["encoders"].get(name) != part.digest())
        origin = f"{system}, {origin_of(saved)}"
    taken, left = checkpoint.take_fitting(model, saved["weights"], path, foreign)
    print(f"init: {path} ({origin}): {len(taken)} of {len(taken) + len(left)} weights taken")
    absent = (key for key in saved["weights"] if key not in taken and key not in left and not key.startswith(getattr(model, "ignored", ())))
    if told := [*(f"{key} ({why})" for key, why in left.items()), *(f"{key} (only in the file)" for key in absent)]:
        print(f"init: not taken: {printable(', '.join(told[:6]))}" + (f" and {len(told) - 6} more" if len(told) > 6 else ""))
    return {"path": str(path), "taken": taken, "left": left, "trained_on": list(saved.get("trained_on", ()))}


def system_of(saved: dict, path: Path, options) -> str:
    """The system of a checkpoint. Of a released one nothing is known: the system is what was typed.

    Raises BadInput where nothing was, or where it is none of ours.
    """
    if "options" in saved:
        check_dataset(saved, path, options)
        return known_system(saved, path)
    if "model" not in options.typed or options.sample:
        raise BadInput(
            f"{path}: a state dict without options, as authors release them; name its system with --model and your features "
            f"with --feature-root"
        )
    return options.model


def known_system(saved: dict, path: Path) -> str:
    """The system that a checkpoint of ours names. Raises BadInput where it is not here, an option is not of its type or range, or one that
    is no more had a value that made another network.
    """
    options = saved["options"]
    if options["model"] not in SYSTEMS:
        raise BadInput(f"{path}: trained with --model {options['model']}, which is not here; available models: {', '.join(SYSTEMS)}")

    def gone(what: str) -> BadInput:
        return BadInput(
            f"{path}: trained with {what}, which this version does not have; test it with the commit that trained it ({saved['commit']})"
        )

    own = declared(options["model"])
    for name, value in options.items():
        if name in own and own[name].choices and value not in own[name].choices and not (value is None and own[name].optional):
            raise gone(f"{own[name].flag} {value}")
    check_options(options, options["model"], path)
    if options.get("mamba_width") not in (None, options.get("visual_width", 0) // 2):
        raise gone(f"--mamba-width {options['mamba_width']}")
    return options["model"]


def saved_options(saved: dict, path: Path, **more) -> Resolved:
    """The options that a checkpoint of ours was trained with; `more` wins. Files of the machine (PER_MACHINE) are unknown."""
    system = known_system(saved, path)
    known = {key: value for key, value in saved["options"].items() if key in declared(system)}
    about = {
        "dataset": saved["dataset"],
        "sample": saved["options"]["sample"],
        "typed": {},
        "overruled": {},
        "changed": {},
        "unstated": [],
        "command": "",
    }
    return options_class(system)(**about | known | more)


def tested_options(options: Resolved, path: Path, saved: dict) -> Resolved:
    """Options of a test: the checkpoint's for the model, the run's own files (options.json beside it) for the data, unless that is another
    data set, then what was typed.

    options: parsed for the checkpoint's system (`system_of`). Of a released checkpoint features and sizes are what was typed or the option
    file's. Raises BadInput where a typed model option contradicts the checkpoint (masking the padding needs no other weights).
    """
    if "options" not in saved:
        return options
    check_system(options.typed, options.model)
    own, made = declared(options.model), as_trained(saved["options"])
    for name in options.typed:
        one, trained = own[name], made.get(name)
        if one.group == "model" and name != "mask_padding" and trained not in (None, getattr(options, name)):
            raise BadInput(f"{path}: trained with {one.flag} {trained}, found {getattr(options, name)}; leave the option out")
    beside = path.parent / "options.json"
    files = read_options(beside, "--checkpoint") if beside.exists() else {}
    known = {
        name: value
        for name, value in {**files, **made}.items()
        if name in own and name not in ("data", "device", "output", "seeds", *options.typed)
    }
    another = saved["dataset"] != options.dataset
    if "data" in options.typed and options.dataset not in benchmarks() and files.get("data"):  # two may have one title
        another |= os.path.realpath(files["data"]) != os.path.realpath(options.data)
    if another:
        known = {name: value for name, value in known.items() if own[name].group != "data" and name != "caption_root"}
    sample = options.sample and saved["options"]["sample"]
    reads = SYSTEMS[options.model].inputs(replace(options, **known))
    if reads == ("captions",) and "caption_root" in options.typed and "feature_root" not in options.typed:
        known["feature_root"], sample = str(source_folder(options.caption_root)), False  # captions are all there is
    if options.sample and not sample and "feature_root" not in known:
        raise BadInput(f"{path}: trained on your own features; name them with --feature-root")
    return replace(options, **known, sample=sample, overruled={}, changed={}, unstated=[])
