"""From a checkpoint back to what made it: which one is meant, whose data it is tested on, and whether it fits."""

from dataclasses import replace
from pathlib import Path

from model import SYSTEMS
from utils import checkpoint
from utils.captions.tree import source_folder
from utils.errors import BadInput, printable
from utils.labels import Dataset, load_dataset, script_of
from utils.options import Resolved, check_options, check_system, declared, options_class, read_options


def check_dataset(saved: dict, path, dataset: Dataset) -> None:
    """Raise BadInput where a checkpoint belongs to another dataset."""
    if saved["dataset"] != dataset.key or saved["classes"] != list(dataset.names):
        raise BadInput(
            f"{path}: trained on {saved['dataset']} with {len(saved['classes'])} classes, expected {dataset.key} with "
            f"{len(dataset.names)}; use {script_of(saved['dataset'], 'test')}"
        )


def matches(saved: dict, model, path, options) -> None:
    """Raise BadInput where a checkpoint was trained with another frozen encoder."""
    for name, part in checkpoint.frozen_parts(model).items():
        if saved["encoders"].get(name) != part.digest():
            raise BadInput(
                f"{path}: trained with another frozen encoder ({name}); "
                f"give the one it was trained with: --clip, --sentence-encoder or --distilbert"
            )


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
        origin = f"{system}, {saved['dataset']}, {len(saved['classes'])} classes"
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
        check_dataset(saved, path, load_dataset(options.data))
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
        if name in own and own[name].choices and value not in own[name].choices:
            raise gone(f"{own[name].flag} {value}")
    check_options(options, options["model"], path)
    if options.get("mamba_width") not in (None, options.get("visual_width", 0) // 2):
        raise gone(f"--mamba-width {options['mamba_width']}")
    return options["model"]


def saved_options(saved: dict, path: Path, **more) -> Resolved:
    """The options that a checkpoint of ours was trained with; `more` wins. Files of the machine (PER_MACHINE) are unknown."""
    system = known_system(saved, path)
    known = {key: value for key, value in saved["options"].items() if key in declared(system)}
    about = {"dataset": saved["dataset"], "sample": saved["options"]["sample"], "typed": {}, "overruled": {}, "unstated": [], "command": ""}
    return options_class(system)(**about | known | more)


def tested_options(options: Resolved, path: Path, saved: dict) -> Resolved:
    """Options of a test: the checkpoint's for the model, the run's own files (options.json beside it) for the data, then what was typed.

    options: parsed for the checkpoint's system (`system_of`). Of a released checkpoint features and sizes are what was typed or the option
    file's. Raises BadInput where a typed model option contradicts the checkpoint (masking the padding needs no other weights).
    """
    if "options" not in saved:
        return options
    check_system(options.typed, options.model)
    own = declared(options.model)
    for name in options.typed:
        one, trained = own[name], saved["options"].get(name)
        if one.group == "model" and name != "mask_padding" and trained not in (None, getattr(options, name)):
            raise BadInput(f"{path}: trained with {one.flag} {trained}, found {getattr(options, name)}; leave the option out")
    beside = path.parent / "options.json"
    files = read_options(beside, "--checkpoint") if beside.exists() else {}
    known = {
        name: value
        for name, value in {**files, **saved["options"]}.items()
        if name in own and name not in ("data", "device", "output", "seeds", *options.typed)
    }
    sample = options.sample and saved["options"]["sample"]
    reads = SYSTEMS[options.model].inputs(replace(options, **known))
    if reads == ("captions",) and "caption_root" in options.typed and "feature_root" not in options.typed:
        known["feature_root"], sample = str(source_folder(options.caption_root)), False  # captions are all there is
    if options.sample and not sample and "feature_root" not in known:
        raise BadInput(f"{path}: trained on your own features; name them with --feature-root")
    return replace(options, **known, sample=sample, overruled={}, unstated=[])
