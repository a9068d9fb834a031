"""The folder of a run, OUTPUT/seed-K/ for each seed: who may write there, what is kept, and what a run that goes on remembers."""

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from model import SYSTEMS
from utils import ranks
from utils.datasets import benchmarks, script_of
from utils.errors import BadInput
from utils.evaluation.ground_truth import TRUTH
from utils.files import ROOT, locked, make_folder, write_json
from utils.options import FOLDS, declared, read_options
from utils.reading import read_json, read_text
from utils.systems.base import System

REPLACED = ".replaced"  # in OUTPUT: the run that --overwrite replaces, until the new one is finished
# What may differ between the seeds of a run.
ADDED = {"seed", "seeds", "resume", "save_steps", "overwrite", "output", "device", "workers", "cache", "plots"}
PATHS = ("data", "feature_root", "caption_root", "train_list", "test_list", "gt_path", "init", "output")


def seed_folders(folder: Path) -> dict[int, Path]:
    """The folders OUTPUT/seed-K by K, in order."""
    found = {path.name.removeprefix("seed-"): path for path in folder.glob("seed-*") if path.is_dir()}
    return {int(seed): found[seed] for seed in sorted(filter(str.isdecimal, found), key=int)}


def fold_folders(seed_folder: Path) -> list[Path]:
    """The folders in which a seed was trained: its own, and those of its folds (--folds)."""
    return [seed_folder, *sorted(seed_folder.glob("fold-*"))]


def has_results(seed_folder: Path) -> bool:
    """Whether a training has left something there that took time."""
    names = ("last.pt", "best.pt", "scores.npz", "report.json")
    return any((place / name).exists() for place in fold_folders(seed_folder) for name in names)


def holds_run(folder: Path) -> bool:
    """Whether something stands in OUTPUT that a training must not replace: of a training, or of a test."""
    return (folder / "report.json").exists() or any(map(has_results, seed_folders(folder).values()))


def entries(folder: Path) -> list[Path]:
    """What a run leaves in OUTPUT."""
    return [*seed_folders(folder).values(), *filter(os.path.lexists, (folder / name for name in ("report.json", "report.md", "plots")))]


@contextmanager
def claimed(options) -> Iterator[None]:
    """Keep OUTPUT for the training of `options.seeds`: the seeds' folders are locked, and what stands there is gone on with (--resume),
    extended by seeds of the same options, or moved away (--overwrite) until the new run is finished; if that has not one epoch when it
    ends, the old one comes back.

    Raises BadInput where another process trains there, and where a run stands there that would be replaced or mixed with another.
    """
    if ranks.count() > 1 and not SYSTEMS[options.model].ranks:
        raise BadInput(f"torchrun: --model {options.model} is trained by one process; start it with python, without torchrun")
    ranks.wait()  # all have read what stands there
    if ranks.rank():
        ranks.wait()  # it is settled
        yield
        return
    folder = make_folder(options.output)
    if options.overwrite and options.init and Path(options.init).resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"--init {options.init}: is of the run that --overwrite replaces; name another folder with --output")
    with ExitStack() as stack:
        with locked(folder, wait=True):  # while it is settled who writes what
            asked = {*options.seeds, *(seed_folders(folder) if options.overwrite else ())}
            for seed in sorted(asked):
                stack.enter_context(locked(folder, f".seed-{seed}.lock"))
            mine = True  # what --overwrite has moved away
            try:
                stack.enter_context(locked(folder, f"{REPLACED}.lock", told=False))
            except BadInput:  # it is of a process that trains other seeds here
                if options.overwrite:
                    raise
                mine = False
            if mine:
                put_back(folder)
            if options.overwrite:
                put_away(folder)
            elif not options.resume:
                check_free(folder, options)
            check_alike(folder, options)
            for seed in options.seeds:
                place = folder / f"seed-{seed}"
                if not has_results(place) or not (place / "options.json").exists():
                    remember(place, replace(options, seed=seed))
                elif (made := read_json(place / "options.json", "--resume", dict)).get("max_epoch", math.inf) < options.max_epoch:
                    write_json(place / "options.json", made | {"max_epoch": options.max_epoch})
        ranks.wait()
        try:
            yield
            if mine:
                shutil.rmtree(folder / REPLACED, ignore_errors=True)
        except BadInput:  # what cannot be trained is no run to go on with
            for seed in options.seeds:
                if not has_results(folder / f"seed-{seed}"):
                    shutil.rmtree(folder / f"seed-{seed}", ignore_errors=True)
            raise
        finally:
            if mine:
                put_back(folder)


def remember(seed_folder: Path, options, **more) -> None:
    """Write options.json, from which a run goes on, and a test finds the data, in whatever folder they are called."""
    files = {name: os.path.abspath(value) for name in PATHS if (value := getattr(options, name, None)) is not None}
    write_json(seed_folder / "options.json", {**vars(options), "resume": False, "overwrite": False, **files, **more})


def check_free(folder: Path, options) -> None:
    """Raise BadInput where a run would be replaced."""
    there = seed_folders(folder)
    choice = "go on with it: --resume; keep it: another --output; replace it: --overwrite"
    for seed in options.seeds:
        if seed in there and has_results(there[seed]):
            what = "a finished run" if (there[seed] / "report.json").exists() else "an unfinished run"
            raise BadInput(f"{folder}: holds {what} (seed {seed}); {choice}")
    if (folder / "report.json").exists() and not any(map(has_results, there.values())):
        raise BadInput(f"{folder}: holds the results of a test; name another --output, or replace them: --overwrite")


def check_alike(folder: Path, options) -> None:
    """Raise BadInput where another seed in OUTPUT was trained with other options: a run is one setting."""
    for seed, place in seed_folders(folder).items():
        if seed in options.seeds or not (place / "options.json").exists():
            continue
        made = read_options(place / "options.json", "--output")
        for name in (name for name in declared(options.model) if name not in ADDED):
            value = getattr(options, name)
            found = made.get(name, value)
            if name in PATHS and found is not None and value is not None:
                found, value = os.path.abspath(found), os.path.abspath(value)
            if found != (list(value) if isinstance(value, tuple) else value):
                raise BadInput(
                    f"{folder}: its seed {seed} was trained with {name} = {made[name]}, now it is {value}; give the same options, "
                    f"or another --output; --overwrite replaces the run with all its seeds"
                )


def put_away(folder: Path) -> None:
    """Move the run in OUTPUT to OUTPUT/.replaced; where one is there already, that one is the finished run, and what stands in OUTPUT the
    unfinished one that was to replace it, which goes.
    """
    if (folder / REPLACED).exists():
        print(f"the unfinished run in {folder} goes; the one before it is kept in {folder / REPLACED} until the new one is finished")
        for path in entries(folder):
            remove(path)
    elif found := entries(folder):
        half = folder / f"{REPLACED}.tmp"
        half.mkdir(exist_ok=True)
        for path in found:
            path.rename(half / path.name)
        half.rename(folder / REPLACED)
        print(f"the run in {folder} is kept in {folder / REPLACED} until the new one is finished")


def put_back(folder: Path) -> None:
    """Undo `put_away` where it was cut off, or where the new run has nothing to show."""
    half = folder / f"{REPLACED}.tmp"
    if half.exists():
        for path in list(half.iterdir()):
            path.rename(folder / path.name)
        half.rmdir()
    if (folder / REPLACED).exists() and not holds_run(folder):
        for path in entries(folder):
            remove(path)
        for path in list((folder / REPLACED).iterdir()):
            path.rename(folder / path.name)
        (folder / REPLACED).rmdir()
        print(f"the new run has not one epoch: the earlier one is back in {folder}")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@ranks.first
def newest(wanted: dict, begun: bool = False, data: str | None = None) -> Path | None:
    """The folder OUTPUT of the run under runs/ that was written last and whose options have the `wanted` values, if there is one.

    begun: also one that has saved nothing yet; data: the file of one's own data set, whose runs come before those of others of its name.
    """
    found = {}
    for path in (ROOT / "runs").glob("*/seed-*/options.json"):
        made = read_options(path, "--output")
        if (begun or has_results(path.parent)) and all(made.get(name) == value for name, value in wanted.items()):
            names = ("options.json", "last.pt", "best.pt")
            written = (place / name for place in fold_folders(path.parent) for name in names)
            same = data is None or (made.get("data") is not None and os.path.realpath(made["data"]) == os.path.realpath(data))
            moments = [(same, file.stat().st_mtime) for file in written if file.exists()]
            found[path.parents[1]] = max(found.get(path.parents[1], (False, 0.0)), *moments)
    folder = max(found, key=found.get, default=None)
    if folder and not found[folder][0]:
        print(f"note: {folder} was not trained on {data}, but on another data set of that name, or before it was moved")
    return folder


def wanted_of(options) -> dict:
    """What the newest run must be of: this dataset and, if one was typed, this --model."""
    return {name: getattr(options, name) for name in ("dataset", "model") if name == "dataset" or name in options.typed}


def own_data(options) -> str | None:
    """The file of one's own data set, whose name others may have; None of one in list/."""
    return None if options.dataset in benchmarks() else options.data


def newest_checkpoint(options=None) -> Path:
    """The best.pt written last of the newest run: of the dataset and the --model that were typed, without options of any.

    Raises BadInput where there is no run, and where the newest has no best.pt: another run's is no substitute.
    """
    wanted = wanted_of(options) if options else {}
    what = f" of {' with '.join(wanted.values())}" if wanted else ""
    folder = newest(wanted, data=own_data(options) if options else None)
    if folder is None:
        train = f"python {script_of(wanted.get('dataset', benchmarks()[0]), 'train')}"
        raise BadInput(f"runs/*/seed-*/best.pt: no run{what} yet; run {train}, or name a checkpoint with --checkpoint")
    found = [place / "best.pt" for path in seed_folders(folder).values() for place in fold_folders(path) if (place / "best.pt").exists()]
    if not found:
        raise BadInput(f"{folder}: the newest run{what} has no best.pt; finish it (--resume), or name a checkpoint with --checkpoint")
    return max(found, key=lambda path: path.stat().st_mtime)


def tell_unfinished(checkpoint: Path, options) -> None:
    """Say so where the run that a checkpoint is of has epochs before it."""
    log = checkpoint.parent / "log.jsonl"
    epochs = len(read_text(log, "--checkpoint").splitlines()) if log.is_file() else options.max_epoch
    if epochs < options.max_epoch:
        print(f"note: its training is at epoch {epochs} of {options.max_epoch}: unfinished, or under way; --resume finishes it")


@contextmanager
def test_folder(options, checkpoint: Path) -> Iterator[tuple[Path, Path]]:
    """A new folder for the results of a test, and where they go when the block ends (`tested_in`), in place of all that an earlier test
    left there. Raises BadInput where another process writes there.
    """
    folder = tested_in(options, checkpoint)
    if ranks.rank():  # of torchrun: the first one writes
        yield folder, folder
        return
    with locked(folder), tempfile.TemporaryDirectory(prefix=".test-", dir=folder) as new:
        unread = None
        try:
            yield Path(new), folder
        except BrokenPipeError as error:  # whoever read along has seen enough; the table is printed last
            unread = error
        (folder / TRUTH).unlink(missing_ok=True)  # which, as plots/, not every test leaves
        shutil.rmtree(folder / "plots", ignore_errors=True)
        for path in Path(new).iterdir():
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            path.replace(folder / path.name)
        if unread:
            raise unread


def tested_in(options, checkpoint: Path) -> Path:
    """Where the results of a test go: --output, or `test` beside the checkpoint, on another data set than its own `test-DATASET`. Raises
    BadInput where a typed --output holds a run, or the results of another checkpoint.
    """
    if "output" not in options.typed:
        made = checkpoint.parent / "options.json"
        own = not made.exists() or read_options(made, "--checkpoint").get("dataset") == options.dataset
        return checkpoint.parent / ("test" if own else f"test-{options.dataset}")
    folder = Path(options.output)
    if holds_run(folder) or has_results(folder):
        made = read_json(folder / "report.json", "--output", dict) if (folder / "report.json").exists() else {}
        trained = (folder / "best.pt").exists() or any(map(has_results, seed_folders(folder).values()))
        before = made.get("checkpoint")
        if trained or not isinstance(before, str) or os.path.realpath(before) != os.path.realpath(checkpoint):
            raise BadInput(f"--output {folder}: holds a run, or the test of another checkpoint; name another folder")
    return folder


@ranks.first
def remembered(folder: Path) -> tuple[list[int], dict | None]:
    """The seeds of a run, and the options that it remembers, if it has begun."""
    there = seed_folders(folder)
    files = [path / "options.json" for path in there.values() if (path / "options.json").exists()]
    return list(there), read_options(max(files, key=lambda path: path.stat().st_mtime), "--resume") if files else None


def resumed(parse_args: Callable, argv: list[str] | None):
    """Options of a training script. With --resume those that the run was started with, and what is typed for this machine; without
    --output that run is the newest one of the dataset. With --resume auto the same, of the run in OUTPUT, if there is one. What has changed
    is said; a typed option that would train otherwise is refused when last.pt is read, of --max-epoch here.
    """
    words = sys.argv[1:] if argv is None else argv
    options = parse_args(words)
    if not options.resume:
        return options
    if options.overwrite:
        raise BadInput("--resume and --overwrite: one goes on with a run, the other replaces it; give one of them")
    wanted = wanted_of(options)
    here = "output" in options.typed or options.resume == "auto"
    folder = Path(options.output) if here else newest(wanted, begun=True, data=own_data(options))
    there, made = remembered(folder) if folder else ([], None)
    if made is None and options.resume == "auto":
        return replace(options, resume=False)
    if made is None:
        where = folder or f"runs/: of {' with '.join(wanted.values())}"
        raise BadInput(f"--resume: {where} has no run to go on with; leave --resume out, or name the run's folder with --output")
    if options.typed.get("model", made["model"]) != made["model"]:
        raise BadInput(f"--resume: {folder} was trained with --model {made['model']}, found {options.model}; leave the option out")
    own = declared(made["model"])
    known = {name: tuple(value) if own[name].many and value else value for name, value in made.items() if name in own}
    preset = ["--preset", made["preset"]] if made.get("preset") in SYSTEMS[made["model"]].presets else []
    now = parse_args([*preset, *words, "--model", made["model"], *([] if made["sample"] else ["--feature-root", made["feature_root"]])])
    for name, one in own.items():
        decides = (one.hyperparameter and name != "seed") or name in ("select", "val_share")
        if decides and name not in options.typed and known.get(name) != getattr(now, name):
            file, value = script_of(options.dataset, "option"), getattr(now, name)
            print(f"note: {file} says {name} {value} by now; the run goes on with {known.get(name)}")
    known.pop("data", None)  # where this checkout has it
    begun = made.get("init")
    if "init" in options.typed and os.path.abspath(options.init) != begun:
        raise BadInput(
            f"--resume: {folder} was begun {f'from {begun}' if begun else 'without --init'}, found --init {options.init}; leave it out"
        )
    for name in sorted(FOLDS & options.typed.keys()):
        if (found := made.get(name, own[name].default)) != getattr(options, name):
            what = f"--resume: {folder} was begun with {own[name].flag} {found}, found {getattr(options, name)}"
            raise BadInput(f"{what}; leave the option out, or name another --output without --resume")
    if "max_epoch" in options.typed and options.max_epoch > made["max_epoch"]:
        by_steps = SYSTEMS[made["model"]].second is not System._field_defaults["second"]
        if made["scheduler"] == "cosine" or by_steps:
            schedule = f"--model {made['model']}" if by_steps else "--scheduler cosine"
            what = f"--resume: {folder} was begun with --max-epoch {made['max_epoch']}, found {options.max_epoch}"
            raise BadInput(f"{what}: its learning rate falls over all epochs ({schedule}); leave it out, or begin another --output")
    known |= {name: getattr(options, name) for name in options.typed} | {"resume": True, "overwrite": False, "output": str(folder)}
    known["seeds"] = options.seeds if {"seed", "seeds"} & options.typed.keys() else sorted({*there, *made["seeds"]})
    print(f"going on with {folder}, seed{'s' if len(known['seeds']) > 1 else ''} {', '.join(map(str, known['seeds']))}")
    return replace(
        now, **known, sample=made["sample"], typed=options.typed, overruled={}, changed={}, unstated=[], command=str(made.get("command"))
    )
