"""The training loop and prediction, for every model and dataset."""

import collections
import contextlib
import itertools
import json
import math
import signal
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NotRequired

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from typing_extensions import TypedDict

from dataset import test_videos
from model import SYSTEMS
from utils import checkpoint, devices, ranks
from utils.batches import RankBatches
from utils.errors import STOPS, BadInput, Stopped, held
from utils.evaluation.scores import Scores
from utils.files import replacing
from utils.options import PER_MACHINE, as_trained
from utils.prefetch import ahead, make_loader, moved
from utils.reading import OPEN, read_json_lines, real, reason, whole
from utils.systems.base import Output

READ = 20  # steps of a GPU after which their losses are read; until then it is not waited for
WHOLE = 8192  # snippets, 73 minutes at 30 fps: of longer videos a T × T adjacency does not fit into memory


def frozen_names(freeze: str | None) -> list[str]:
    """The parts that `--freeze` names."""
    return [] if freeze is None else [name.strip() for name in freeze.split(",")]


def freeze_parts(model: nn.Module, freeze: str | None) -> None:
    """Let the top-level parts that `--freeze` names be trained no further. Raises BadInput for a name that is none of them, and where
    nothing is left to train.
    """
    parts = {name: part for name, part in model.named_children() if any(p.requires_grad for p in part.parameters())}
    for name in frozen_names(freeze):
        if name not in parts:
            raise BadInput(f"--freeze {freeze}: the model has no part {name!r} to train; its parts are {', '.join(parts)}")
        parts[name].requires_grad_(False)
    if freeze and not any(p.requires_grad for p in model.parameters()):
        raise BadInput(f"--freeze {freeze}: leaves nothing to train; name fewer parts")


def make_optimizer(model: nn.Module, options) -> torch.optim.Optimizer:
    """The optimizer of `--optimizer`, on a GPU in one kernel where torch has that; a model with parts of another learning rate states them
    in `parameter_groups(lr)`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = model.parameter_groups(options.lr) if hasattr(model, "parameter_groups") else parameters
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}[options.optimizer]
    fused = {"fused": True} if parameters[0].is_cuda and options.optimizer != "adagrad" else {}
    return kind(groups, lr=options.lr, weight_decay=options.weight_decay, **fused)


def make_scheduler(optimizer: torch.optim.Optimizer, options):
    """Learning rate by epoch."""
    if options.scheduler == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.max_epoch)
    milestones = options.milestones if options.scheduler == "multistep" else []
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)


def step(model: nn.Module, batch, optimizer, options, device: torch.device, second=()) -> dict[str, Tensor]:
    """One step of training on (features, lengths, labels), or with captions behind, of several ranks on their slices; the value of each
    loss, on the device, which is not waited for. On a CPU nothing is changed if the loss is not finite. second: what System.second gives.
    """
    features, lengths, labels, *captions = (part.to(device, non_blocking=True) for part in batch)
    with devices.autocast(device, options.precision):
        # What is compiled is the temporal network and its heads; the text side is an encoder of anybody's.
        text = {"text": model.text_features()} if options.compile else {}
        out = model(features, lengths, *captions, **text)
    losses = SYSTEMS[options.model].losses(out, labels, lengths, options)
    total = sum(losses.values())
    if not total.requires_grad:
        raise BadInput(f"--freeze {options.freeze}: no loss depends on what is left to train; name fewer parts")
    values = ranks.summed({f"loss_{name}": value for name, value in losses.items()} | {"loss": total})
    if not ranks.is_host(device) or math.isfinite(values["loss"]):
        model.zero_grad(set_to_none=True)
        total.backward()
        ranks.sum_gradients(model)
        if options.grad_clip:
            nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
        for one in (optimizer, *second):
            one.step()
    return values


class Epoch(TypedDict):
    """A line of log.jsonl; besides these the losses by name. val: the selection figure, with --select val or test."""

    __pydantic_config__ = OPEN

    epoch: whole(1, 2**40)
    steps: whole(1, 2**40)
    seconds: real(0)
    lr: real()
    loss: real()
    val: NotRequired[real()]


ABOUT = ("title", "trained_on", "init", "figure_of")  # of a checkpoint (checkpoint.Best), what its options do not tell


class Training:
    """What a training run is made of between two steps, and how it goes to and from last.pt. `best` is the highest selection figure so
    far, `error` its standard error; steps: those of an epoch, of which `step` are done, with `sums` of their losses, in `seconds`.
    """

    def __init__(self, model: nn.Module, options, classes, steps: int, more: dict | None = None):
        self.model, self.options = model, options
        self.optimizer = make_optimizer(model, options)
        self.scheduler = make_scheduler(self.optimizer, options)
        self.second = SYSTEMS[options.model].second(model, options, steps)
        self.epoch, self.best, self.error, self.log = 0, -math.inf, 0.0, []
        self.steps, self.step, self.sums, self.seconds = steps, 0, collections.Counter(), 0.0
        self.unread: list[tuple[int, list[str], dict[str, Tensor]]] = []  # steps, their videos and losses
        encoders = {name: part.digest() for name, part in checkpoint.frozen_parts(model).items()}
        about = {"dataset": options.dataset, "classes": list(classes), "commit": checkpoint.commit(), "encoders": encoders}
        self.about = {"options": saved_options(options), **about} | (more or {})

    def resume(self, folder: Path, figure=None) -> None:
        """Go on from folder/last.pt. `figure` measures the best epoch anew where an earlier version chose it, by another figure perhaps.
        Raises BadInput where the file is missing or was trained with other options.
        """
        path = folder / "last.pt"
        state = ranks.first(checkpoint.load)(path, checkpoint.Last, "--resume")
        trained = as_trained(state["options"])
        for name, value in self.about["options"].items():
            found = trained.get(name)
            longer = name == "max_epoch" and isinstance(found, int) and found < value  # as far as runs.resumed allows it
            if found != value and not longer:
                raise BadInput(f"--resume: {path} was trained with {name} = {found}, now it is {value}; give the same options")
        if state["options"].get("ema"):
            raise BadInput(
                f"--resume: {folder / 'last.pt'} was trained with --ema, which this version does not have; train anew without --resume"
            )
        if figure and "figure_of" not in state and 0 < state["epoch"] < self.options.max_epoch:
            best = ranks.first(checkpoint.load)(folder / "best.pt", option="--resume")
            checkpoint.load_trained_state(self.model, best["weights"], folder / "best.pt")
            state["best"], name, state["error"] = figure(self.model)
            print(f"note: an earlier version chose epoch {best['epoch']}; {name} chooses from here on, of which it has {state['best']:.4g}")
            state["figure_of"] = name
        checkpoint.load_trained_state(self.model, state["weights"], folder / "last.pt")
        checkpoint.load_steps(self.optimizer, self.scheduler, state, str(path))
        if self.second:
            checkpoint.load_steps(*self.second, state.get("second", {}), f"{path}: second")
        checkpoint.set_random_state(state["random"], f"{path}: random")
        self.epoch, self.best, self.error = state["epoch"], state["best"], state.get("error", 0.0)
        self.about |= {name: state[name] for name in ABOUT if name in state}
        log = ranks.first(read_json_lines)(folder / "log.jsonl", "--resume", Epoch) if self.epoch else []
        self.log = [line for line in log if line["epoch"] <= self.epoch]
        if part := state.get("part"):
            self.step, self.sums, self.seconds = part["steps"], collections.Counter(part["sums"]), part["seconds"]
            if self.step > self.steps:
                raise BadInput(f"--resume: {path} has {self.step} steps of an epoch, which now has {self.steps}; give the list it had")

    def read(self) -> None:
        """Read the losses of the steps since it was last called. Raises BadInput where one is not finite, naming the batch."""
        values = torch.stack([value for *_, losses in self.unread for value in losses.values()]).tolist() if self.unread else []
        waiting, self.unread = self.unread, []
        for number, videos, losses in waiting:
            found, values = dict(zip(losses, values, strict=False)), values[len(losses) :]
            if not math.isfinite(found["loss"]):
                raise BadInput(not_finite(found, self.epoch + 1, number, videos))
            self.sums.update(found)

    def check(self) -> None:
        """Raises BadInput where a weight or a running statistic is not finite, which a loss need not show: nothing of that is saved."""
        for key, value in checkpoint.trained_state(self.model).items():
            if not value.isfinite().all():
                told = f"epoch {self.epoch + 1}: {key} is not finite, though the loss is; nothing of that is saved"
                raise BadInput(f"{told}: the training diverges, lower --lr")

    def save(self, folder: Path) -> None:
        """Write last.pt, from which training goes on after the last step that is done; of several ranks the first one writes.

        Raises BadInput as `read` and `check` do.
        """
        self.read()
        self.check()
        if not ranks.rank():
            self.write(folder)

    def write(self, folder: Path) -> None:
        """Write last.pt of what `check` has seen."""
        states = checkpoint.steps_state(self.optimizer, self.scheduler) | {"random": checkpoint.random_state()}
        if self.second:
            states["second"] = checkpoint.steps_state(*self.second)
        if self.step:
            states["part"] = {"steps": self.step, "sums": dict(self.sums), "seconds": self.seconds}
        with held():
            checkpoint.save(folder / "last.pt", {**self.content(), "best": self.best, "error": self.error, **states})

    def content(self) -> dict:
        """What all checkpoints hold."""
        return {**self.about, "epoch": self.epoch, "weights": checkpoint.trained_state(self.model)}

    def finish_epoch(self, folder: Path, figure) -> None:
        """Measure the selection figure, keep best.pt and last.pt, add to log.jsonl; `figure` None keeps the last epoch as the best. Of
        several ranks the first one writes.

        The best is the latest epoch within a standard error of the highest figure (for trees: Breiman et al., 1984): a hundred held-out
        videos do not tell nearer ones apart, and of those the one that has learnt longest is as a rule the better one.
        """
        self.read()
        self.check()
        measured = figure(self.model) if figure else None
        with held():  # all of it, or none
            self.epoch += 1
            line = {"epoch": self.epoch} | {name: value / self.steps for name, value in self.sums.items()}
            line |= {"steps": self.steps, "seconds": round(self.seconds, 3), "lr": self.scheduler.get_last_lr()[0]}
            self.scheduler.step()
            self.step, self.sums, self.seconds = 0, collections.Counter(), 0.0
            if measured:
                line["val"], self.about["figure_of"], error = measured
                if line["val"] > self.best:
                    self.best, self.error = line["val"], error
            self.log.append(line)
            if not ranks.rank():
                if figure is None or line["val"] >= self.best - self.error:
                    checkpoint.save(folder / "best.pt", {**self.content(), "figure": line.get("val")})
                with replacing(folder / "log.jsonl") as temporary:
                    temporary.write_text("".join(json.dumps(entry) + "\n" for entry in self.log))
                self.write(folder)


def can_go_on(folder: Path) -> bool:
    """Whether a training has left its last.pt. Raises BadInput where that is gone: a new run would replace best.pt and log.jsonl."""
    log = folder / "log.jsonl"
    epochs = log.read_bytes().count(b"\n") if log.exists() else 0
    there = (folder / "last.pt").exists()
    if not there and epochs > 1:  # a kill may leave one, and the epoch is made again
        raise BadInput(
            f"--resume: {folder / 'last.pt'} is gone, log.jsonl tells of {epochs} epochs; put it back, or train anew: --overwrite"
        )
    return there


def fit(model: nn.Module, train, batches, options, folder: Path, device: torch.device, classes, figure=None, begin=dict) -> dict:
    """Train `model` on `train` (FeatureDataset) in `batches` (dataset.BalancedBatches, ShuffledBatches), keep last.pt and the selected
    best.pt in `folder`, return the latter.

    figure(model) -> (float, its name, its standard error) is the selection figure, measured after each epoch; None selects the last epoch.
    begin() starts a run that does not go on, and gives what its checkpoints hold of that (ABOUT). A resumed run equals the uninterrupted
    one, to the bit on CPU, of several ranks with as many. Raises BadInput where a loss or a weight is not finite, and Stopped when
    last.pt is written after the step, of whichever rank, in which a signal came.
    """
    devices.keep_freed_memory()
    goes_on = options.resume and ranks.first(can_go_on)(folder)
    run = Training(model, options, classes, len(batches), {} if goes_on else begin())
    if options.compile:
        compile_graph(model)
    if str(folder).encode(errors="replace").decode() != str(folder):
        raise BadInput(f"{folder}: is not UTF-8, and TensorBoard writes into no such folder; name another one with --output")
    if goes_on:
        run.resume(folder, figure)
    elif not ranks.rank():
        for left in [folder / "log.jsonl", *folder.glob("events.out.tfevents.*")]:  # by an attempt that did not end its first epoch
            left.unlink(missing_ok=True)
    if ranks.count() > 1:  # alike to the bit, whatever the ranks' processors
        model.load_state_dict(ranks.first(checkpoint.trained_state)(model), strict=False)
        share_random_state()
    order = RankBatches(batches)
    loader = make_loader(train, order, options, device)
    with ending_workers(loader), nullcontext() if ranks.rank() else SummaryWriter(folder, purge_step=run.epoch + 1) as board:
        while run.epoch < options.max_epoch:
            batches.set_epoch(run.epoch + 1)
            order.start = run.step
            model.train()
            for name in frozen_names(options.freeze):  # batch statistics stay as they are, too
                model.get_submodule(name).eval()
            try:
                with held() as came:
                    train_epoch(run, train, order, ahead(loader, device), device, folder, came)
                run.finish_epoch(folder, figure)
            except Stopped:
                if run.step:
                    run.save(folder)
                raise
            except RuntimeError as error:
                if not any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__):
                    raise
                said = reason(getattr(error, "inner_exception", error))
                raise BadInput(f"--compile: torch.compile cannot do it here ({said}); leave it out, or install that") from None
            with held((*STOPS, signal.SIGINT)):  # an exception in the middle of its queue, and TensorBoard would never close
                for name, value in run.log[-1].items() if board else ():
                    board.add_scalar(name, value, run.epoch)
            tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in run.log[-1].items()))
    return ranks.first(checkpoint.load)(folder / "best.pt")


def share_random_state() -> None:
    """Give all ranks the first one's random state, which is that of one process (ranks.Dropout)."""
    checkpoint.set_random_state(ranks.first(checkpoint.random_state)())


def compile_graph(model: nn.Module, **more) -> None:
    """`--compile`: what the model computes as one graph. more: for torch.compile. Raises BadInput where it cannot be one."""
    if ranks.count() > 1:
        raise BadInput(f"--compile: one process expected, torchrun started {ranks.count()}; leave it out, or start one with python")
    if found := next((type(part).__name__ for part in model.modules() if not getattr(part, "compiles", True)), None):
        raise BadInput(f"--compile: {type(model).__name__} has {found}, which torch.compile cannot take into a graph; leave it out")
    model.compile(fullgraph=True, **more)


def train_epoch(run: Training, train, order: RankBatches, loaded: Iterable, device: torch.device, folder: Path, came: list) -> None:
    """Make the steps of an epoch that are left; every --save-steps last.pt is written. Raises Stopped where a rank has a signal that
    `came`, and as `fit` does.
    """
    model, options, epoch, began = run.model, run.options, run.epoch + 1, time.perf_counter() - run.seconds
    batches = itertools.islice(order.batches, order.start, None)
    what = f"epoch {epoch}/{options.max_epoch}"
    bar = tqdm(batches, what, run.steps, unit="batch", initial=run.step, leave=False, disable=ranks.rank() > 0)
    for indices, batch in zip(bar, loaded, strict=True):
        if not ranks.mine(indices):  # what was loaded is another rank's
            batch = [part[:0] for part in batch]
        ranks.Dropout.bags = len(indices)
        values = step(model, batch, run.optimizer, options, device, run.second)
        if len(indices) < ranks.count():  # who had no bag has drawn nothing
            share_random_state()
        run.step += 1
        run.unread.append((run.step, [train.name(index) for index in indices], values))
        if ranks.is_host(device) or len(run.unread) == READ:
            run.read()
        run.seconds = time.perf_counter() - began
        if stopped := max(ranks.counts(came[0] if came else 0)):
            raise Stopped(stopped)
        if options.save_steps and run.step % options.save_steps == 0:
            run.save(folder)


@contextlib.contextmanager
def ending_workers(loader: torch.utils.data.DataLoader):
    """End the loader's workers with the block, however that ends. One that was told to end as it began (Slurm tells the whole group) is
    an interruption of the training, too.
    """
    try:
        yield
    except RuntimeError as error:
        if "killed by signal: Terminated" in str(error):
            raise Stopped(signal.SIGTERM) from None
        raise
    finally:
        if loader._iterator is not None:  # else they go with the process, and print what they think of it
            with contextlib.suppress(RuntimeError):
                loader._iterator._shutdown_workers()


def saved_options(options) -> dict:
    """What a checkpoint remembers: the options that make the result, not where a machine keeps its files."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(options).items()
        if name not in PER_MACHINE | {"typed", "overruled", "changed", "unstated", "seeds", "command"}
    }


def not_finite(values: dict, epoch: int, number: int, names: list[str]) -> str:
    terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return (
        f"loss is not finite in epoch {epoch}, batch {number} ({terms}); videos: {', '.join(dict.fromkeys(names))}; "
        f"nothing from this step on is saved: lower --lr, or check these features"
    )


def tested(out: Output) -> Scores:
    """The scores in a model's output, as tensors (B, T) and (B, T, C+1)."""
    classes = out.alignment.float().softmax(-1) if out.probs is None and out.alignment is not None else out.probs
    return Scores(out.coarse, classes, out.online)


@torch.inference_mode()
def predict(
    model: nn.Module, videos: Iterable[tuple], options, device: torch.device, total: int | None = None, text: Tensor | None = None
) -> dict[str, Scores]:
    """Scores of each (name, features (T, D)) or (name, features, captions (T, E)): {name: Scores}, float32.

    Videos are cut into chunks of `visual_length`, and chunks of like length share a batch, unless the system is tested on whole videos (of
    up to WHOLE snippets); the text side is run once, or given as `text`. The bar counts to `total` videos; without it there is none.
    """
    devices.keep_freed_memory()
    model.eval()
    whole = SYSTEMS[options.model].whole
    if text is None:
        with devices.autocast(device, options.precision):
            text = model.text_features()
    scores: dict[str, list] = {}
    waiting: list[tuple[str, int, tuple[Tensor, ...]]] = []

    def flush():
        waiting.sort(key=lambda item: len(item[2][0]))
        size = 1 if whole else 16 if ranks.is_host(device) else 64
        found, batches = [], [waiting[i : i + size] for i in range(0, len(waiting), size)]
        for batch in batches:
            lengths = moved(torch.tensor([len(inputs[0]) for _, _, inputs in batch]), device)
            columns = zip(*(inputs for _, _, inputs in batch), strict=True)  # features, and captions where there are some
            features, *captions = (moved(nn.utils.rnn.pad_sequence(column, batch_first=True), device) for column in columns)
            with devices.autocast(device, options.precision):
                out = model.forward(features, lengths, *captions, text=text)  # not what training compiled, whose sizes are others
            found.append([part if part is None else part.float() for part in tested(out)])
        for batch, parts in zip(batches, on_host(found), strict=True):
            for row, (name, position, (valid, *_)) in enumerate(batch):
                scores[name][position] = [part if part is None else part[row, : len(valid)] for part in parts]
        waiting.clear()

    for name, *inputs in tqdm(videos, "scores", total, unit="video", leave=False, disable=total is None):
        parts = list(zip(*(part.split(WHOLE if whole else options.visual_length) for part in inputs), strict=True))
        scores[name] = [None] * len(parts)
        waiting += [(name, position, part) for position, part in enumerate(parts)]
        if len(waiting) >= 128:
            flush()
    flush()
    return {
        name: Scores(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)))
        for name, parts in scores.items()
    }


def on_host(found: list[list[Tensor | None]]) -> list[list[np.ndarray | None]]:
    """Float32 tensors as arrays, brought from a GPU in one copy."""
    there = [part for parts in found for part in parts if part is not None]
    flat = iter(torch.cat([part.flatten() for part in there]).cpu().split([part.numel() for part in there]) if there else ())
    return [[part if part is None else next(flat).view(part.shape).numpy() for part in parts] for parts in found]


def score(model: nn.Module, videos: list, options, captions=None) -> dict[str, Scores]:
    """Scores of listed videos (dataset.Video), one crop each, with their source captions where the system reads some. Of several ranks each
    computes those of its slice, and has all.
    """
    own = ranks.mine(videos)
    listed = test_videos(own, options.visual_width, options.test_crop, captions)
    scores = ranks.merged(predict(model, listed, options, devices.own_device(options.device), None if ranks.rank() else len(own)))
    return {video.name: scores[video.name] for video in videos}
