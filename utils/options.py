"""The options of the scripts, as typed dataclasses: what all systems share stands here, what one system has in its settings (model.py,
utils/systems/). The option files state values; `parse` resolves them.
"""

import argparse
import difflib
import math
import shlex
import sys
import types
from dataclasses import dataclass, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from typing_extensions import TypedDict

from model import SYSTEMS
from utils.datasets import benchmarks, load_dataset
from utils.errors import BadInput, Parser
from utils.files import ROOT
from utils.labels import Dataset
from utils.reading import OPEN, Flag, Text, read_json
from utils.systems.base import option
from utils.text import POOLING

HIGH = {int: 100_000, float: 1e6}  # where the range of an option ends if it does not say
SEED = 2**32 - 1


@dataclass(kw_only=True)
class Shared:
    """What every system is trained and tested with."""

    data: str | None = option(None, "data set: a folder with dataset.toml, that file, or one of list/ by name", group="data")
    feature_root: str | None = option(None, "folder with NAME__0.npy … or NAME.npy; without it the built-in sample is used", group="data")
    train_list: str | None = option(None, "CSV path,label of the training videos (list/ holds the official ones)", group="data")
    test_list: str | None = option(None, "CSV path,label of the test videos", group="data")
    gt_path: str | None = option(None, "ground truth as JSON (tools.make_gt)", group="data")
    test_crop: int = option(
        0, "crop that is tested, 0 = centre; a list that names its crop wins (VadCLIP: 5 on UCF, 0 on XD)", group="data", low=0, high=9
    )
    allow_length_mismatch: int = option(
        0, "accept videos whose features and ground truth differ by up to so many snippets", group="data", low=0
    )
    allow_overlap: bool = option(False, "train although videos of the test list are in the training list, too", group="data")
    workers: int | None = option(
        None, "processes that load features; without it 0 on a CPU, and on a GPU one for each core, up to 8", group="data", low=0, high=256
    )
    cache: bool = option(False, "keep the whole training set, resampled, in the GPU's or the host's memory", group="data")
    model: str = option("reflip", "which system", choices=tuple(SYSTEMS))
    preset: str | None = option(
        None, "settings of the system by name; they win over the option file, and what is typed over them", group="training"
    )
    clip: str = option("ViT-B/16", "CLIP name (downloaded on first use) or a file in OpenAI's format", group="text")
    sentence_encoder: str | None = option(
        None, "transformers name or folder of a sentence encoder, as text side for features that live in its space", group="text"
    )
    pooling: str | None = option(
        None,
        "of the sentence encoder's tokens; without it as the encoder's own files say, else mean (SimCSE's authors take pooler)",
        group="text",
        choices=tuple(POOLING),
    )
    text_features: str | None = option(
        None, ".npy of (C+1, D) class text features computed elsewhere; no text encoder is loaded then", group="text"
    )
    distilbert: str = option(
        "distilbert-base-uncased",
        "transformers name or folder of the frozen encoder behind the reparameterized prompt",
        group="text",
        tried="with and without (table VIII)",
    )
    max_epoch: int = option(50, "epochs", group="training", low=1)
    batch_size: int = option(128, "bags in a batch", group="training", low=2)
    sampling: str = option(
        "balanced", "batches half normal, half abnormal, or one shuffle of all bags", group="training", choices=("balanced", "shuffle")
    )
    lr: float = option(3e-4, "learning rate", group="training", above=0)
    optimizer: str = option("adam", "optimizer", group="training", choices=("adam", "adamw", "adagrad"))
    weight_decay: float = option(0.0, "weight decay", group="training", low=0)
    scheduler: str = option("cosine", "learning rate over the epochs (ours)", group="training", choices=("none", "cosine", "multistep"))
    milestones: tuple[int, ...] = option((4, 8), "epochs after which multistep multiplies the rate by 0.1", group="training", low=1)
    grad_clip: float = option(1.0, "largest gradient norm; 0 = no clipping (ours)", group="training", low=0)
    seed: int = option(1, "seed of one run", group="training", low=0, high=SEED)
    seeds: tuple[int, ...] | None = option(None, "several seeds: one run each, then mean ± std", group="training", low=0, high=SEED)
    device: str = option("auto", "where to compute", group="training", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option("fp32", "bf16 = autocast of the forward pass; losses stay in fp32", group="training", choices=("fp32", "bf16"))
    init: str | None = option(
        None,
        "start from the weights of this checkpoint that fit by name and shape, but for those of its classes",
        group="training",
    )
    freeze: str | None = option(
        None, "parts that are not trained and stay as in testing, such as temporal,prompt; a wrong name lists them", group="training"
    )
    resume: bool | str = option(
        False,
        "go on with the run in OUTPUT (without --output: the newest), with the options it has; auto: begin where there is none in OUTPUT",
        group="training",
        choices=(False, True, "auto"),
    )
    compile: bool = option(False, "torch.compile for temporal network and heads; minutes at the start", group="training")
    save_steps: int | None = option(
        None, "also save every so many steps of an epoch; after SIGTERM and SIGUSR1 the next step is saved anyhow", group="training", low=1
    )
    overwrite: bool = option(False, "replace the run in OUTPUT; it is kept until the new one is finished", group="training")
    select: str = option(
        "val",
        "checkpoint that is tested: the latest within a standard error of the best on held-out videos, last, or best on test (as papers)",
        group="evaluation",
        choices=("val", "last", "test"),
    )
    val_share: float = option(0.1, "share of the training videos held out with --select val", group="evaluation", low=0, high=0.9)
    folds: int | None = option(
        None,
        "cross-validation, no test list: the training list's videos in so many folds, each scored by a model trained on the others",
        group="evaluation",
        low=2,
        high=1000,
    )
    folds_of: str = option(
        "sources",
        "what is dealt to folds: the sources of the list's column `source`, if it has one, or single videos whatever they are of",
        group="evaluation",
        choices=("sources", "videos"),
    )
    shuffle_labels: bool = option(False, "with --folds, a control: the labels are permuted, anew for each seed", group="evaluation")
    checkpoint: str | None = option(None, "checkpoint to test; without it the newest run of the dataset (test scripts)", group="evaluation")
    output: str | None = option(
        None, "folder of the run (default: runs/DATASET-MODEL, with --folds …-folds, of the sample runs/sample-…)", group="output"
    )
    save_scores: str | None = option(None, "write the scores behind the figures to this .npz (test scripts)", group="output")
    json: str | None = option(None, "write the report to this file (test scripts)", group="output")
    plots: bool = option(True, "pictures of the run, and of each test video's scores, 0.1 s each", group="output")


@dataclass(kw_only=True)
class Resolved(Shared):
    """All options of a run, with where they come from. typed: what stood on the command line; overruled: name -> what the option file says
    where the sample says something else; changed: the same where the preset does; unstated: hyperparameters that the file does not set for
    the system of which it sets all; command: the command line that started the run.
    """

    dataset: str
    sample: bool
    typed: dict
    overruled: dict
    changed: dict
    unstated: list
    command: str


GROUPS = {
    "data": "data",
    "model": "model",
    "text": "model: text side",
    "captions": "captions",
    "training": "training",
    "evaluation": "evaluation",
    "output": "output",
}
TEST_ONLY = {"checkpoint", "save_scores", "json"}
FOLDS = {"folds", "folds_of", "shuffle_labels"}  # decide which lists a run is of, as files do
# Of that group, what an option file need not set.
OF_ONE_RUN = {"preset", "init", "freeze", "resume", "save_steps", "compile", "overwrite", "seeds"}
TESTED_TOO = {"device", "precision"}  # of the group "training", what a test script has, too
PER_MACHINE = {
    *("resume", "save_steps", "compile", "overwrite", "output", "init", "device", "workers", "cache", "plots"),
    *("data", "feature_root", "caption_root", "train_list", "test_list", "gt_path"),
    *TEST_ONLY,
    *FOLDS,
}


class Declared:
    """What is known of an option: its `field`'s name, default and metadata, and its type annotation."""

    def __init__(self, field, hint):
        self.name, self.default, self.hint = field.name, field.default, hint
        self.help, self.group, self.choices, self.tried = (field.metadata[key] for key in ("help", "group", "choices", "tried"))
        self.low, self.high, self.above = (field.metadata[key] for key in ("low", "high", "above"))
        kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        self.optional = types.NoneType in kinds
        kind = next(kind for kind in kinds if kind is not types.NoneType)
        self.many = get_origin(kind) is tuple
        self.type = get_args(kind)[0] if self.many else kind
        self.high = HIGH.get(self.type) if self.high is None else self.high

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def training(self) -> bool:
        """Whether only a training script has it."""
        more = {"train_list", "allow_overlap", "select", "val_share", "cache", *FOLDS}
        return (self.group == "training" and self.name not in TESTED_TOO) or self.name in more

    @property
    def hyperparameter(self) -> bool:
        """Whether it decides what is trained: an option file lists it for the system that it is about."""
        return self.group in ("model", "training") and self.name not in (*TESTED_TOO, *OF_ONE_RUN)

    def add_to(self, group, help: str) -> None:
        """Add it to the command line; its default is the parser's."""
        if self.type is bool and self.choices:  # the flag, or the flag and a word
            words = [one for one in self.choices if isinstance(one, str)]
            group.add_argument(self.flag, nargs="?", const=True, choices=words, help=help)
        elif self.type is bool:
            group.add_argument(self.flag, action=argparse.BooleanOptionalAction, help=help)
        else:
            metavar, nargs = None if self.choices else self.type.__name__.upper(), "+" if self.many else None
            group.add_argument(self.flag, type=self.type, choices=self.choices, nargs=nargs, metavar=metavar, help=help)

    def check_type(self, value, place: str) -> None:
        """Raise BadInput, naming `place`, unless the value of an option file is of the option's type."""
        if (value is None and self.optional) or (isinstance(value, str) and value in (self.choices or ())):
            return
        values = value if self.many and isinstance(value, (list, tuple)) else [value]
        fits = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}[self.type]
        if not all(type(one) in fits for one in values) or (self.many and values is not value):
            kind = {float: "a number", int: "a whole number", str: "a text in quotes", bool: "True or False"}[self.type]
            kind = f"numbers in brackets, {self.default or (1, 2)}" if self.many else kind
            raise BadInput(f"{place}: {self.name} = {value!r}, of type {type(value).__name__}; expected {kind}; correct that line")

    def check(self, value, place: str | None = None) -> None:
        """Raise BadInput unless the value is one of the choices, finite and in its range. place: the option file, where it stands there."""

        def wrong(found, expected: str) -> BadInput:
            what = f"{place}: {self.name} = {found!r}" if place else f"{self.flag} {found}"
            return BadInput(f"{what}: expected {expected}")

        if self.choices and value not in self.choices and not (value is None and self.optional):
            raise wrong(value, f"one of {', '.join(self.choices)}")
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, str) and (len(one) > 4000 or "\0" in one):
                raise wrong(f"{one[:80]}…", "at most 4000 characters, none of them NUL")
            if self.type not in (int, float) or one is None:
                continue
            if isinstance(one, float) and not math.isfinite(one):
                raise wrong(one, "a finite number")
            if self.above is not None and not self.above < one <= self.high:
                raise wrong(one, f"a value above {self.above} and up to {self.high:,.10g}")
            if self.low is not None and not self.low <= one <= self.high:
                raise wrong(one, f"a value from {self.low} to {self.high:,.10g}")


@cache
def options_class(system: str) -> type:
    """The dataclass of all options of a run of `system`."""
    return make_dataclass("Options", [], bases=(SYSTEMS[system].settings, Resolved), kw_only=True)


@cache
def declared(system: str) -> dict[str, Declared]:
    """The options of a system by name."""
    kind = options_class(system)
    hints = get_type_hints(kind)
    return {field.name: Declared(field, hints[field.name]) for field in fields(kind) if "help" in field.metadata}


def every_option() -> dict[str, Declared]:
    """The options of all systems by name."""
    return {name: one for system in reversed(SYSTEMS) for name, one in declared(system).items()}


def command_line(system: str, defaults: dict, doc: str, testing: bool, custom: bool) -> argparse.ArgumentParser:
    """The command line of a dataset's scripts; unset options are absent from the result, so that what was typed can be told from a default.

    --help shows what `system` has; the others' options are taken, too, to be refused by name.
    """
    result = Parser(
        usage="%(prog)s [options]",
        description=doc,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups = {key: result.add_argument_group(title) for key, title in GROUPS.items()}
    own = declared(system)
    for one in (own | every_option()).values():
        if (one.training if testing else one.name in TEST_ONLY) or (one.name == "data" and not custom):
            continue
        default = defaults.get(one.name, one.default)
        shown = " ".join(map(str, default)) if one.many and default else default
        notes = ([] if default is None else [f"default {shown}"]) + ([f"paper tried {one.tried}"] if one.tried else [])
        notes += [f"there are: {', '.join(SYSTEMS[system].presets) or 'none'}"] if one.name == "preset" else []
        text = one.help.replace("%", "%%") + (f" [{'; '.join(notes)}]" if notes else "")
        one.add_to(groups[one.group], text if one.name in own else argparse.SUPPRESS)
    return result


def parse(data: str | None, common: dict, systems: dict, sample: dict, argv, doc: str, testing: bool, model: str | None = None) -> Resolved:
    """Resolve all options: the dataclasses' defaults < what the system's paper sets (System.defaults) < `common` < the option file's
    settings for the system < those of `--preset` < those for the sample < command line; lists and the like that nobody names are the data
    set's own.

    data: the data set's file, as its path in this project; None: --data names one, and there is no built-in sample. common: settings for
    all systems; systems: settings by system; sample: settings of the built-in sample, by system where a value is a dict; model: the system,
    where a checkpoint names it. Raises BadInput for unknown names, values of another type or out of range, and combinations that make no
    sense.
    """
    script = Path(data).stem if data else "custom"
    file = f"{script}_option.py"
    first = Parser(add_help=False, allow_abbrev=False)  # the system decides the defaults that --help shows
    first.add_argument("--model", default=model or common.get("model", "reflip"))
    system = first.parse_known_args(argv)[0].model
    for name in {*systems, *(name for name, value in sample.items() if isinstance(value, dict))}:
        if name not in SYSTEMS:
            raise BadInput(f"{file}: {name!r} is no system; available: {', '.join(SYSTEMS)}")
    name = system if system in SYSTEMS else next(iter(SYSTEMS))  # else the command line below names the ones there are
    known = declared(name)
    own_sample = {key: value for key, value in sample.items() if not isinstance(value, dict)} | sample.get(name, {})
    for where, settings in {"COMMON": common, f"SYSTEMS[{name!r}]": systems.get(name, {}), "SAMPLE": own_sample}.items():
        if not isinstance(settings, dict):
            raise BadInput(f"{file}: {where} = {settings!r}; expected dict(name=value, …)")
        for key, value in settings.items():
            if key not in known:
                raise BadInput(unknown(f"{file}: {where}", key, name))
            known[key].check_type(value, file)
            known[key].check(value, file)
    stated = SYSTEMS[name].defaults | common | systems.get(name, {})
    typed = vars(command_line(name, stated, doc, testing, custom=data is None).parse_args(argv))
    place = ROOT / data if data else typed.get("data", stated.get("data"))
    if place is None:
        raise BadInput(
            f"--data: which data set? Expected a folder with dataset.toml (tools.new_dataset writes one), or {', '.join(benchmarks())}"
        )
    dataset = load_dataset(place)
    stated = {"test_crop": dataset.test_crop} | stated
    preset = of_preset(typed.get("preset", stated.get("preset")), name, dataset)
    values = {key: one.default for key, one in known.items()} | stated | {"model": system}
    changed = {key: values[key] for key in preset if key not in typed and values[key] != preset[key]}
    stated, values = stated | preset, values | preset
    given = values | typed

    reads = SYSTEMS[name].inputs(argparse.Namespace(**given))
    if reads == ("captions",) and given["feature_root"] is None and given["caption_root"] is not None:
        from utils.captions.tree import source_folder  # captions are all there is: they tell which videos there are, and how long

        values |= {"feature_root": str(source_folder(given["caption_root"])), "visual_width": given["caption_width"]}
    use_sample = data is not None and "feature_root" not in typed and values["feature_root"] is None
    overruled = {}
    if use_sample:
        own_sample = {key: path for key, path in sample_files(dataset.key).items() if key in known} | own_sample
        said = [key for key in sorted(own_sample.keys() - typed.keys()) if key in stated or known[key].hyperparameter]
        overruled = {key: values[key] for key in said if values[key] not in (None, own_sample[key])}
        values |= own_sample
        changed = {key: value for key, value in changed.items() if key not in own_sample}
    else:
        own = {key: getattr(dataset, key) for key in ("train_list", "test_list", "gt_path", "feature_root")}
        values |= {key: str(path) for key, path in own.items() if path and values[key] is None}
    values |= {key: value for key, value in typed.items() if key in known} | {"data": str(dataset.path)}
    folder = f"{'sample-' * use_sample}{dataset.key}-{values['model']}{'-folds' * bool(values.get('folds'))}"
    values["output"] = values["output"] or str(ROOT / "runs" / folder)
    wanted = () if testing else ("feature_root", "train_list", *(() if values["folds"] else ("test_list",)))
    for key in wanted:  # of a test the checkpoint's run has them, too
        if values[key] is None:
            raise BadInput(f"{dataset.path}: names no {key}; write it there, or give {known[key].flag}")
    if {"seed", "seeds"} <= typed.keys():
        raise BadInput("--seed and --seeds: give one of them")
    values["seeds"] = list((None if "seed" in typed else values["seeds"]) or [values["seed"]])
    for key in typed.keys() & known.keys():
        known[key].check(values[key])
    if not testing or model:  # else the checkpoint names the system
        check_system(typed, name)
        check_together(values, typed, reads)
    unstated = [key for key, one in known.items() if one.hyperparameter and key not in stated.keys() | typed.keys()]
    about = {"typed": typed, "overruled": overruled, "changed": changed, "unstated": unstated if name == common.get("model") else []}
    about["command"] = shlex.join(["python", f"{script}_{'test' if testing else 'train'}.py", *(sys.argv[1:] if argv is None else argv)])
    return options_class(name)(dataset=dataset.key, sample=use_sample, **about, **values)


class Remembered(TypedDict):
    """options.json beside a run, as far as everybody needs it."""

    __pydantic_config__ = OPEN

    model: Text
    sample: Flag
    feature_root: Text | None


def read_options(path: Path, option: str) -> dict:
    """The options that a run remembers in options.json. Raises BadInput where one is not of its type or range."""
    made = read_json(path, option, Remembered)
    check_options(made, made["model"], path)
    return as_trained(made)


def as_trained(made: dict) -> dict:
    """The options that a run remembers, with those hyperparameters that were none yet when it was made: what an option's default in the
    code says is what was done before there was the option, whatever the option files say by now.
    """
    own = declared(made["model"]) if made["model"] in SYSTEMS else {}
    before = {name: list(one.default) if one.many else one.default for name, one in own.items() if one.hyperparameter}
    return before | made


def check_options(values: dict, system: str, path: Path) -> None:
    """Raise BadInput, naming `path`, where an option that a file of a run holds is not of its type or range."""
    for name, value in values.items():
        if system in SYSTEMS and (one := declared(system).get(name)):
            one.check_type(value, str(path))
            one.check(value, str(path))


def of_preset(preset: str | None, system: str, dataset: Dataset) -> dict:
    """What a preset of a system sets on a data set. Raises BadInput where there is none of that name, or the data set's file is wrong."""
    there = SYSTEMS[system].presets
    if preset is None:
        return {}
    if preset not in there:
        found = f"expected one of {', '.join(there)}" if there else "the system has none; leave it out"
        raise BadInput(f"--preset {preset}: no such preset of --model {system}; {found}")
    more = dataset.presets.get(system, {}).get(preset, {})
    for key in more:
        if key not in declared(system):
            raise BadInput(unknown(f"{dataset.path}: presets.{system}.{preset}", key, system))
    check_options(more, system, dataset.path)
    return there[preset] | more


def unknown(place: str, key: str, system: str) -> str:
    """What to say of a name that `system` has not."""
    if owners := [other for other in SYSTEMS if key in declared(other)]:
        return f"{place}: {key!r} is no option of --model {system}; it is one of {', '.join(owners)}: put it under that name in SYSTEMS"
    near = difflib.get_close_matches(str(key), declared(system), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"the names are in {system}'s --help"
    return f"{place}: unknown option {key!r}; {hint}"


def sample_files(dataset: str) -> dict[str, str]:
    """The options that name files, for the built-in sample of a dataset."""
    files = {
        "feature_root": "features",
        "caption_root": "captions",
        "train_list": "train.csv",
        "test_list": "test.csv",
        "gt_path": "gt.json",
        "clip": "clip.pt",
        "distilbert": "distilbert",
    }
    return {name: str(ROOT / "data" / "sample" / dataset / file) for name, file in files.items()}


def check_system(typed, system: str) -> None:
    """Raise BadInput where an option was typed that `system` does not have."""
    for name in typed:
        if name not in declared(system):
            raise BadInput(f"{every_option()[name].flag}: --model {system} has no such option; leave it out")


def check_together(values: dict, typed, reads: tuple) -> None:
    """Raise BadInput for values that do not go together. reads: what the system reads of a video."""
    if "captions" in reads and values["caption_root"] is None:
        raise BadInput(
            f"--model {values['model']}: reads captions; name the folder of caption features with --caption-root (docs/captions.md), "
            f"or leave them out with --branches visual"
        )
    if values["sampling"] == "balanced" and values["batch_size"] % 2:
        raise BadInput(f"--batch-size {values['batch_size']}: expected an even number, half of a batch is normal")
    if values["select"] == "val" and values["val_share"] == 0:
        raise BadInput("--val-share 0: --select val needs held-out videos; give a share, or --select last")
    if values["folds"] is None and (odd := sorted({"folds_of", "shuffle_labels"} & set(typed))):
        raise BadInput(f"{every_option()[odd[0]].flag}: says how --folds deals the training list; give a number of --folds, too")
    if values["text_features"] and "prompt" in typed:
        raise BadInput(f"--text-features and --prompt {typed['prompt']}: features computed elsewhere have no prompt; give one of them")
