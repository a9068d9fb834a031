"""One table of options: default, type, help, choices, and the values that the paper ablates. The option files state only what a dataset changes."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from model import BLOCKS, SYSTEMS, options_of
from utils.caption_tree import source_folder
from utils.errors import BadInput
from utils.prompt import PROMPTS
from utils.temporal import TEMPORAL
from utils.trclip import BRANCHES, STACKS

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Option:
    """A line of the table. `type` bool gives --name / --no-name; `many` takes several values; `tried` are the values in the paper's tables."""

    group: str
    name: str
    default: object
    type: type
    help: str
    choices: tuple | None = None
    tried: str = ""
    many: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


TABLE = [
    Option("data", "feature_root", None, str, "folder with NAME__0.npy … or NAME.npy; without it the built-in sample is used"),
    Option("captions", "caption_root", None, str, "caption features (trclip): DIR/source, DIR/rewrite-1, … with NAME.npy (T, E) each, or the source alone in DIR (tools.embed_captions)"),
    Option("captions", "caption_choice", "random", str, "version of the captions in training: one drawn each time a video is loaded, or always the same; testing takes the source", ("random", "source", "rewrite-1", "rewrite-2")),
    Option("captions", "missing_captions", "error", str, "what becomes of a video without captions", ("error", "zeros")),
    Option("data", "train_list", None, str, "CSV path,label of the training videos (list/ holds the official ones)"),
    Option("data", "test_list", None, str, "CSV path,label of the test videos"),
    Option("data", "gt_path", None, str, "ground truth as JSON (tools.make_gt)"),
    Option("data", "test_crop", 0, int, "crop that is tested, 0 = centre; a list that names its crop wins (VadCLIP: 5 on UCF, 0 on XD)"),
    Option("data", "allow_length_mismatch", 0, int, "accept videos whose features and ground truth differ by up to so many snippets"),
    Option("data", "workers", 0, int, "processes that load features"),
    Option("model", "model", "reflip", str, "which system", tuple(SYSTEMS)),
    Option("model", "visual_length", 512, int, "snippets T of a training bag and (reflip, vadclip, trclip) of a test chunk", tried="64 128 256 512 1024"),
    Option("model", "visual_width", 512, int, "feature width D (CLIP ViT-B/16: 512)"),
    Option("model", "feature_scale", 1.0, float, "features are multiplied by this: CLIP's have norm 10, a sentence encoder's norm 1 wants 10 (ours)"),
    Option("model", "visual_layers", 1, int, "blocks in each stage of the temporal network"),
    Option("model", "visual_head", 1, int, "attention heads of the local and global transformer"),
    Option("model", "attn_window", 64, int, "window of the local transformer, in snippets"),
    Option("model", "temporal", "ge", str, "temporal network (table V)", TEMPORAL, tried="all of them"),
    Option("model", "window_length", 64, int, "window of Emphasize's convolution, in snippets", tried="16 32 64 128 256"),
    Option("model", "ge_skip", True, bool, "residual connection round the whole GE block (ours)"),
    Option("model", "blocks", "both", str, "classification block, video-text alignment block, or both (table VI)", BLOCKS, tried="all of them"),
    Option("model", "v_prompt", True, bool, "multimodal prompt: class embeddings see the video (eq. 9-10)", tried="on, off"),
    Option("model", "prompt", "reparameterized", str, "what stands round the class name (table X)", PROMPTS, tried="all of them"),
    Option("model", "template", "a video of", str, "words before the class name with --prompt template", tried='"a video of", "a long video of"'),
    Option("model", "prompt_prefix", 12, int, "prompt tokens before the class name; N = prefix + postfix", tried="N = 8 16 20 24 32"),
    Option("model", "prompt_postfix", 12, int, "prompt tokens after the class name"),
    Option("model", "branches", "both", str, "trclip: visual branch, branch of captions, or both", BRANCHES),
    Option("model", "caption_width", 768, int, "trclip: width E of the caption features (SimCSE: 768)"),
    Option("model", "caption_scale", 1.0, float, "trclip: caption features are multiplied by this; an encoder of norm 1 wants 10 (ours)"),
    Option("model", "stack", "mamba", str, "trclip: what follows the graphs of the visual branch; transformer is a global one (ours)", STACKS),
    Option("model", "text_stack", "none", str, "trclip: the same in the branch of captions, before its MTN (ours; the paper has none)", STACKS),
    Option("model", "mtn", True, bool, "trclip: multi-scale temporal network at the end of either branch"),
    Option("model", "d_state", 256, int, "trclip: states a channel of the Mamba blocks"),
    Option("model", "mamba_width", None, int, "trclip: the narrower of Mamba's two widths; without it half of the branch's (paper: 256 of 512)"),
    Option("model", "temperature", 0.07, float, "τ of the alignment map", tried="0.01 0.03 0.05 0.07 0.09 0.1"),
    Option("model", "dropout", 0.0, float, "dropout; reflip, vadclip (ours): in the feed-forward networks, reflip before the CLS block, too; trclip: behind each branch"),
    Option("model", "mask_padding", False, bool, "padding never reaches a valid snippet (ours; reflip always); without it as published: vadclip, trclip, and hlnet in training, which tests whole videos"),
    Option("text", "clip", "ViT-B/16", str, "CLIP name (downloaded on first use) or a file in OpenAI's format"),
    Option("text", "sentence_encoder", None, str, "transformers name or folder of a sentence encoder, as text side for features that live in its space"),
    Option("text", "text_features", None, str, ".npy of (C+1, D) class text features computed elsewhere; no text encoder is loaded then"),
    Option("text", "distilbert", "distilbert-base-uncased", str, "transformers name or folder of the frozen encoder behind the reparameterized prompt"),
    Option("training", "max_epoch", 50, int, "epochs"),
    Option("training", "batch_size", 128, int, "bags in a batch"),
    Option("training", "sampling", "balanced", str, "batches half normal, half abnormal, or one shuffle of all bags", ("balanced", "shuffle")),
    Option("training", "lr", 3e-4, float, "learning rate"),
    Option("training", "optimizer", "adam", str, "optimizer", ("adam", "adamw", "adagrad")),
    Option("training", "weight_decay", 0.0, float, "weight decay"),
    Option("training", "scheduler", "cosine", str, "learning rate over the epochs (ours)", ("none", "cosine", "multistep")),
    Option("training", "milestones", (4, 8), int, "epochs after which multistep multiplies the rate by 0.1", many=True),
    Option("training", "grad_clip", 1.0, float, "largest gradient norm; 0 = no clipping (ours)"),
    Option("training", "ema", 0.0, float, "decay per step of an exponential average of the weights, which is what is then tested; 0 = off (ours)"),
    Option("training", "lambda_align", 0.01, float, "λ1, weight of MIL-Align"),
    Option("training", "lambda_magnitude", 0.001, float, "λ2, weight of feature-magnitude separability"),
    Option("training", "lambda_text", 0.1, float, "weight of class-embedding separation (VadCLIP's: 0.1 on UCF, 1e-4 on XD)"),
    Option("training", "margin", 10.0, float, "margin between normal and abnormal ‖G_visual‖₂ (ours; the paper prints none)"),
    Option("training", "seed", 1, int, "seed of one run"),
    Option("training", "seeds", None, int, "several seeds: one run each, then mean ± std", many=True),
    Option("training", "device", "auto", str, "where to compute", ("auto", "cpu", "cuda", "mps")),
    Option("training", "precision", "fp32", str, "bf16 = autocast of the forward pass; losses stay in fp32", ("fp32", "bf16")),
    Option("training", "resume", False, bool, "go on from OUTPUT/seed-K/last.pt"),
    Option("evaluation", "select", "val", str, "checkpoint that is tested: best on held-out training videos, last, or best on test (as the papers did)", ("val", "last", "test")),
    Option("evaluation", "val_share", 0.1, float, "share of the training videos held out with --select val"),
    Option("evaluation", "val_figure", "video", str, "with --select val: AUC (XD: AP) of the held-out videos, or of their snippets, each with its video's label (ours)", ("video", "snippet")),
    Option("evaluation", "checkpoint", None, str, "checkpoint to test; without it the newest run of the dataset (test scripts)"),
    Option("output", "output", None, str, "folder of the runs (default: runs/DATASET-MODEL)"),
    Option("output", "save_scores", None, str, "write the scores behind the figures to this .npz (test scripts)"),
    Option("output", "json", None, str, "write the report to this file (test scripts)"),
]  # fmt: skip
BY_NAME = {option.name: option for option in TABLE}
GROUPS = {
    "data": "data",
    "model": "model",
    "text": "model: text side",
    "captions": "captions (trclip)",
    "training": "training",
    "evaluation": "evaluation",
    "output": "output",
}
TEST_ONLY = {"checkpoint", "save_scores", "json"}
TRAIN_ONLY = {option.name for option in TABLE if option.group == "training" and option.name not in ("device", "precision")}
TRAIN_ONLY |= {"train_list", "select", "val_share", "val_figure"}
PER_MACHINE = {
    "resume",
    "output",
    "device",
    "workers",
    "feature_root",
    "caption_root",
    "train_list",
    "test_list",
    "gt_path",
    *TEST_ONLY,
}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line and exit code 2 (contract: Errors), the usage being what --help is for."""
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def parser(dataset: str, defaults: dict, doc: str, testing: bool) -> argparse.ArgumentParser:
    """The command line of a dataset's scripts; unset options are absent from the result, so that what was typed can be told from a default."""
    result = Parser(
        description=doc,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups = {key: result.add_argument_group(title) for key, title in GROUPS.items()}
    for option in TABLE:
        if option.name in (TRAIN_ONLY if testing else TEST_ONLY):
            continue
        default = defaults.get(option.name, option.default)
        shown = " ".join(map(str, default)) if option.many and default else default
        text = option.help.replace("%", "%%")
        notes = ([] if default is None else [f"default {shown}"]) + ([f"paper tried {option.tried}"] if option.tried else [])
        text += f" [{'; '.join(notes)}]" if notes else ""
        if option.type is bool:
            groups[option.group].add_argument(option.flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            groups[option.group].add_argument(option.flag, type=option.type, choices=option.choices, nargs="+" if option.many else None, help=text,
                                              metavar=None if option.choices else option.type.__name__.upper())  # fmt: skip
    return result


def parse(dataset: str, defaults: dict, systems: dict, sample: dict, argv, doc: str, testing: bool) -> argparse.Namespace:
    """Resolve all options: table < option file < what the system states < the option file's settings for the system, then for the
    sample < command line; `typed` holds the names given on the command line.

    systems: settings by --model; sample: settings of the built-in sample, by --model where a value is a dict. Raises BadInput for
    combinations that make no sense.
    """
    first = Parser(add_help=False, allow_abbrev=False)  # the system decides the defaults that --help shows
    first.add_argument("--model", default=defaults.get("model", BY_NAME["model"].default))
    name = first.parse_known_args(argv)[0].model
    if name in SYSTEMS:  # else the parser below names the ones there are
        defaults = defaults | SYSTEMS[name].defaults | systems.get(name, {})
    typed = vars(parser(dataset, defaults, doc, testing).parse_args(argv))
    sample = {key: value for key, value in sample.items() if not isinstance(value, dict)} | sample.get(name, {})
    unknown = [name for name in {**defaults, **sample} if name not in BY_NAME]
    if unknown:
        raise BadInput(f"{dataset}_option.py: unknown option {unknown[0]!r}; the names are in utils/options.py")
    options = {option.name: option.default for option in TABLE} | defaults
    given = options | typed
    captioned = name in SYSTEMS and SYSTEMS[name].captions and given["branches"] == "text" and given["feature_root"] is None
    if captioned and given["caption_root"] is not None:  # captions are all there is: they tell which videos there are, and how long
        options |= {"feature_root": str(source_folder(given["caption_root"])), "visual_width": given["caption_width"]}
    use_sample = "feature_root" not in typed and options["feature_root"] is None
    if use_sample:
        folder = ROOT / "data" / "sample" / dataset
        files = {
            "feature_root": "features",
            "caption_root": "captions",
            "train_list": "train.csv",
            "test_list": "test.csv",
            "gt_path": "gt.json",
            "clip": "clip.pt",
            "distilbert": "distilbert",
        }
        options |= {name: str(folder / file) for name, file in files.items()} | sample
    else:
        lists = {"train_list": "ReFLIP_rgb.csv", "test_list": "ReFLIP_rgbtest.csv", "gt_path": "gt.json"}
        options |= {name: str(ROOT / "list" / f"{dataset}_{file}") for name, file in lists.items() if options[name] is None}
    options |= typed
    options["output"] = options["output"] or str(ROOT / "runs" / f"{dataset}-{options['model']}")
    options["seeds"] = options["seeds"] or [options["seed"]]
    check(options)
    if {"seed", "seeds"} <= typed.keys():
        raise BadInput("--seed and --seeds: give one of them")
    if not testing:  # else the checkpoint names the system
        check_system(typed, name)
    if options["text_features"] and "prompt" in typed:
        raise BadInput(f"--text-features and --prompt {typed['prompt']}: features computed elsewhere have no prompt; give one of them")
    return argparse.Namespace(dataset=dataset, sample=use_sample, typed=sorted(typed), **options)


def check_system(typed, name: str) -> None:
    """Raise BadInput where an option of models or losses was typed that the system `name` does not have. Bags have a length whatever the
    system.
    """
    own = {"model", "visual_length", *options_of(name), *SYSTEMS[name].weights}
    weights = {option for system in SYSTEMS.values() for option in system.weights}
    if SYSTEMS[name].captions:
        own |= {option.name for option in TABLE if option.group == "captions"}
    for option in typed:
        if (BY_NAME[option].group in ("model", "captions") or option in weights) and option not in own:
            raise BadInput(f"{BY_NAME[option].flag}: --model {name} has no such option; leave it out")


def check(options: dict) -> None:
    """Raise BadInput for values out of range, or in an option file none of the choices."""
    for option in TABLE:
        if option.choices and options[option.name] not in option.choices:
            raise BadInput(f"{option.flag} {options[option.name]}: expected one of {', '.join(option.choices)}")
    least = {"caption_width": 1, "d_state": 1, "visual_length": 1, "visual_width": 1, "visual_layers": 1, "attn_window": 1, "window_length": 1, "max_epoch": 1, "batch_size": 2, "visual_head": 1,
             "prompt_prefix": 0, "prompt_postfix": 0, "workers": 0, "grad_clip": 0, "allow_length_mismatch": 0, "test_crop": 0, "weight_decay": 0}  # fmt: skip
    for name, low in least.items():
        if options[name] < low:
            raise BadInput(f"{BY_NAME[name].flag} {options[name]}: expected {low} or more")
    for name, (low, high) in {"val_share": (0, 0.9), "dropout": (0, 0.99), "ema": (0, 0.9999)}.items():
        if not low <= options[name] <= high:
            raise BadInput(f"{BY_NAME[name].flag} {options[name]}: expected a value from {low} to {high}")
    for name in ("lr", "temperature", "feature_scale", "caption_scale"):
        if not options[name] > 0:
            raise BadInput(f"{BY_NAME[name].flag} {options[name]}: expected a value above 0")
    if options["mamba_width"] is not None and options["mamba_width"] < 1:
        raise BadInput(f"--mamba-width {options['mamba_width']}: expected 1 or more")
    system = SYSTEMS[options["model"]]
    if system.captions and options["branches"] != "visual" and options["caption_root"] is None:
        raise BadInput(
            f"--model {options['model']} --branches {options['branches']}: needs --caption-root, the folder of caption features "
            f"(README, Captions); or train the visual branch alone: --branches visual"
        )
    if options["sampling"] == "balanced" and options["batch_size"] % 2:
        raise BadInput(f"--batch-size {options['batch_size']}: expected an even number, half of a batch is normal")
    if options["select"] == "val" and options["val_share"] == 0:
        raise BadInput("--val-share 0: --select val needs held-out videos; give a share, or --select last")
