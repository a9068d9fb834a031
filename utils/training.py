"""The training of one seed: what is selected, what is printed, and what the run leaves behind beside the checkpoint."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dataset import MANIFEST, Manifest, divide
from model import SYSTEMS
from utils import checkpoint, devices, engine, ranks, restore, runs
from utils.evaluation import report, segments, selection
from utils.evaluation.scores import Scores
from utils.files import make_folder
from utils.loading import Data, check_space
from utils.prompt import projection_note
from utils.reading import read_json, read_json_lines


def describe(model: torch.nn.Module, options) -> str:
    """Trained parameters, and FLOPs for one video of `visual_length`: of the whole system, or of the parts that it names (System.budget),
    beside the paper's figures for them.
    """
    parts, paper = SYSTEMS[options.model].budget
    modules = [module for name, module in model.named_children() if not parts or name in parts]
    parameters = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
    device, reads = next(model.parameters()).device, SYSTEMS[options.model].inputs(options)
    widths = [options.visual_width, *([options.caption_width] if "captions" in reads else [])]
    inputs = [torch.zeros(1, options.visual_length, width, device=device) for width in widths]
    inputs.insert(1, torch.tensor([options.visual_length], device=device))
    with torch.no_grad():
        text = model.eval().text_features()
        with FlopCounterMode(display=False) as counter:
            model(*inputs, text=text)
    total = counter.get_flop_counts()
    flops = sum(sum(counts.values()) for name, counts in total.items() if (name.split(".")[-1] in parts if parts else name == "Global"))
    of = f"{options.model}, {' + '.join(parts)}" if parts else options.model
    paper = f" ({paper})" if paper else ""
    return f"{of}: {parameters / 1e6:.2f} M trained parameters, {flops / 1e9:.2f} GFLOPs for {options.visual_length} snippets{paper}"


def selection_figure(data: Data, options):
    """The figure that `--select` maximises, with its name, as a function of the model; None for the last epoch. It is of the score that is
    reported (Dataset.headline_of).

    val: of the held-out training videos that choose. test: what the papers did, the frame-level figure that they report (by video where
    ground truth does not say when).
    """
    part, metric = data.dataset.headline_of(options.model)
    if options.select == "val":
        videos, _ = divide(data.held_out)
        about = ({video.name: video.abnormal for video in videos}, part, metric)
        return lambda model: selection.held_out_figure(engine.score(model, videos, options, data.captions), *about)
    if options.select == "test":
        unscored = {video.name: Scores(coarse=np.zeros(1, np.float32)) for video in data.test}
        selection.headline_figure(unscored, data.truth, part, metric)  # raises what it would after the first epoch
        return lambda model: selection.headline_figure(engine.score(model, data.test, options, data.captions), data.truth, part, metric)
    return None


def train(model, data: Data, options, seed: int, folder: Path | None = None) -> Path:
    """Train one seed in `folder`, OUTPUT/seed-K where none is named; the path of the selected checkpoint."""
    engine.freeze_parts(model, options.freeze)
    check_space(model, options)
    folder = ranks.first(make_folder)(folder or Path(options.output) / f"seed-{seed}")
    names = len({video.name for video, *_ in data.train.samples})
    counts = Counter(data.dataset.names[video.target.index(1)] for video in data.held_out)
    by_class = ", ".join(f"{name} {counts[name]}" for name in data.dataset.names if counts[name])
    held_out = f"{len(data.held_out)} videos held out" + (f" ({by_class})" if by_class else "")
    print(f"seed {seed}: {len(data.train)} samples of {names} videos, {held_out} -> {folder}")
    if seed == options.seeds[0]:
        print(describe(model, options))
        if note := SYSTEMS[options.model].note(options, devices.pick_device(options.device)):
            print(note)
        if note := projection_note(model):
            print(note)
    run = replace(options, seed=seed)
    own = {*(video.name for video, *_ in data.train.samples), *(video.name for video in data.held_out), *data.same}
    about = {"title": data.dataset.title, "trained_on": sorted(own)}  # tested, these say nothing about unseen videos

    def begin() -> dict:
        if not options.init:
            return about
        init = restore.start_from(model, options)
        if seen := {video.name for video in data.held_out} & set(init["trained_on"]):
            of = f"{len(seen)} of the {len(data.held_out)} videos held out here"
            print(f"note: --init was trained on {of}: thresholds, and what --select val chooses, are of seen videos")
        return {**about, "trained_on": sorted(own.union(init["trained_on"])), "init": init}

    best = about | engine.fit(  # of a run that an earlier version began
        model,
        data.train,
        data.batches,
        run,
        folder,
        devices.own_device(options.device),
        data.dataset.names,
        selection_figure(data, options),
        begin,
    )
    best["options"]["max_epoch"] = options.max_epoch  # of a run that was longer in the end than it began
    if data.held_out:  # where demo.py's threshold comes from
        checkpoint.load_trained_state(model, best["weights"], folder / "best.pt")
        best["thresholds"] = segments.thresholds(engine.score(model, divide(data.held_out)[1], options, data.captions))
    keep(best, data, run, folder)
    return folder / "best.pt"


@ranks.first
def keep(best: dict, data: Data, options, folder: Path) -> None:
    """Write what is known of a checkpoint when its training has ended, and, with --plots, the picture of that."""
    if (Path(options.feature_root) / MANIFEST).is_file():
        made = read_json(Path(options.feature_root) / MANIFEST, "--feature-root", Manifest)
        best["features"] = {key: made[key] for key in ("encoder", "recipe")}
    if data.captions and (embedded := data.captions.made):
        best["captions"] = embedded
    checkpoint.save(folder / "best.pt", best)
    runs.remember(folder, options, held_out=[video.name for video in data.held_out])
    if options.plots:
        from utils.evaluation import plots  # matplotlib takes a second

        lines = read_json_lines(folder / "log.jsonl", "--output", engine.Epoch)
        stamp = report.SELECTED_ON_TEST if options.select == "test" else ""
        plots.plot_training(make_folder(folder / "plots") / "training.png", lines, stamp, best.get("figure_of", "selection figure"))
