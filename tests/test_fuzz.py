"""Every reader under 20,000 spoiled files and words: what comes is right, or one line and exit code 2; nothing hangs, asks for memory, or
changes a file. Spoiled are the values (types, ranges, missing keys, nesting) and the bytes (flips, cuts, encodings), and what the file is.

    python tests/test_fuzz.py FOLDER SEED READER:COUNT …        what the tests run in a process of its own; FUZZ_SEED tries others
"""

import collections
import contextlib
import faulthandler
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from benchmarks import UCF
from spoil import ODD, array, become_something_else, mangle, odd_tensors, twist, write_as
from utils.errors import BadInput, exit_code
from utils.files import ROOT

MEMORY, SECONDS = 2 << 30, 30
WIDTH = 8

# The readers: files by name, the first of them the one that is spoiled (or any, where `any_file`), and what reads it.


class Reader(NamedTuple):
    inputs: int
    make: Callable[[], dict]
    read: Callable[[Path], object]
    any_file: bool = False
    odd: Callable[[], list] = list


def read_features(path: Path) -> None:
    from dataset import load_features

    load_features(path, WIDTH, 0)


def pack_files() -> dict:
    """A pack of three arrays, one of them of ten crops."""
    from tools.pack_features import pack

    with tempfile.TemporaryDirectory() as folder:
        root, place = Path(folder, "root"), Path(folder, "pack")
        for name, shape in (("a__0", (2, WIDTH)), ("b/a__1", (3, WIDTH)), ("c", (2, 10, WIDTH))):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(root / f"{name}.npy", np.ones(shape, np.float16))
        place.mkdir()
        pack(root, place)
        index = json.loads((place / "packed_features.json").read_text())
        return {"packed_features.json": index, "packed.float16": (place / "packed.float16").read_bytes()}


def read_pack(path: Path) -> None:
    from dataset import index_features, load_features
    from utils import packs

    packs._packs.clear()
    packs._arrays.clear()
    for homes in index_features(path.parent).values():
        for file in (file for files in homes.values() for file in files.values()):
            assert (load_features(file, WIDTH, 3) == 1).all()


def read_list(path: Path) -> None:
    import dataset

    dataset.read_list(path, path.parent, UCF)


def read_own(path: Path) -> None:
    from utils.datasets import load_dataset

    load_dataset(path)


def read_new(path: Path) -> None:
    """Lists of one's own: what is made of them is read again."""
    from tools import new_dataset
    from utils.datasets import load_dataset

    home, output = path.parent, path.parents[1] / "new"
    given = ["--list", str(home / "clips.csv"), "--feature-root", str(home), "--unit", "seconds", "--fps", "25", "--test-share", "0.5"]
    for words in (given, [*given, "--intervals", str(home / "events.csv")]):
        new_dataset.main([*words, "--output", str(output), "--overwrite"])
        load_dataset(output)


def read_truth(path: Path) -> None:
    from utils.evaluation.ground_truth import load_ground_truth

    load_ground_truth(path, UCF)


def read_scores(path: Path) -> None:
    from utils.evaluation.scores import load_scores

    names = path.parent / "names.list"
    load_scores(path, names if names.exists() else None)


def read_caption_files(path: Path) -> None:
    from tools.embed_captions import frames_of
    from utils.captions.embedding import caption_features
    from utils.captions.formats import read_captions

    for video in read_captions([path], 30)[0].values():
        vectors = {caption.text: np.zeros(WIDTH, np.float32) for caption in video.captions}
        caption_features(video.captions, vectors, length=max(1, frames_of(video) // 16), width=WIDTH, fill="nearest")


def read_part(path: Path) -> None:
    from tools import caption_videos

    with contextlib.suppress(BadInput):
        caption_videos.check_settings(path, caption_videos.first_line(path), {"model": "m", "revision": "r", "settings": {}})
    caption_videos.read_part(path, 1)


def read_cache(path: Path) -> None:
    from utils.captions.rewriting import Answers

    with Answers(path):
        pass


def read_pool(path: Path) -> None:
    from utils.captions.rewriting import read_pairs

    read_pairs(path)


def read_official(path: Path) -> None:
    from tools.make_gt import read_annotations
    from tools.make_list import read_videos

    (read_annotations if path.name == "annotations.txt" else read_videos)(path, UCF)


def read_frames(path: Path) -> None:
    from tools import make_gt

    make_gt.read_frames(path)


def read_manifests(path: Path) -> None:
    from dataset import Manifest
    from tools import embed_captions, rewrite_captions
    from utils.reading import read_json
    from utils.sample.builder import is_current
    from utils.video.folder import FeatureFolder

    about = MANIFEST | {"videos": {}}
    if path.name == "extract.json":
        read_json(path, "--feature-root", Manifest)
        found = FeatureFolder(path.parent, {key: about[key] for key in ("recipe", "encoder")})
        found.unfinished({ROOT / "README.md": path.parent / "README.npy"})
    elif path.name == "sample.json":
        is_current(path.parent, "ucf")
    else:
        tool = embed_captions if path.name == "embed.json" else rewrite_captions
        tool.prepare_folder(path.parent, {"seed": 0, "encoder_digest": "x", "captions": {"a": "b"}})


def read_class_features(path: Path) -> None:
    from utils.loading import read_text_features

    read_text_features(str(path))


WORDS = ["--feature-root", "x", "--model", "deepmil", "--visual-width", str(WIDTH), "--optimizer", "adam", "--device", "cpu"]


def small_training(path: Path):
    """A network of WIDTH columns, the options of its run, and engine.Training, whose optimizer has made a step."""
    import torch

    import ucf_option
    from utils import engine, loading

    options = ucf_option.parse_args([*WORDS, "--output", str(path)])
    model = loading.load_model(options, 0)
    run = engine.Training(model, options, UCF.names, steps=1)
    model(torch.zeros(1, 4, WIDTH), torch.tensor([4])).coarse.sum().backward()
    run.optimizer.step()
    run.scheduler.step()
    return model, options, run


def read_best(path: Path) -> None:
    import ucf_option
    from utils import checkpoint, loading, restore
    from utils.evaluation.segments import known_threshold

    options = ucf_option.parse_args(["--feature-root", "x", "--device", "cpu"], testing=True)
    saved = checkpoint.load(path)
    options = ucf_option.parse_args(["--feature-root", "x", "--device", "cpu"], testing=True, model=restore.system_of(saved, path, options))
    options = restore.tested_options(options, path, saved)
    model = loading.load_model(options, options.seed)
    restore.matches(saved, model, path)
    checkpoint.load_trained_state(model, saved["weights"], path)
    known_threshold(saved.get("thresholds"), 0.01)
    restore.saved_options(saved, path)


def read_last(path: Path) -> None:
    _, _, run = small_training(path.parent)
    run.resume(path.parent)


def run_files() -> dict:
    """best.pt, last.pt, options.json and log.jsonl as a training leaves them."""
    from utils import checkpoint

    model, options, run = small_training(Path("out"))
    about = {**run.about, "epoch": 1, "weights": checkpoint.trained_state(model)}
    more = {"figure": 0.5, "figure_of": "coarse AUC by video"}
    more["thresholds"] = {"videos": 3, "snippets": 90, "rates": {"0.01": 0.75, "0.05": 0.5}}
    made = {"encoder": MANIFEST["encoder"], "recipe": MANIFEST["recipe"]}
    states = {"optimizer": run.optimizer.state_dict(), "scheduler": run.scheduler.state_dict(), "random": checkpoint.random_state()}
    line = {"epoch": 1, "loss_rank": 0.5, "loss": 0.75, "steps": 3, "seconds": 0.25, "lr": 1e-3, "val": 0.5}
    return {
        "last.pt": {**about, "best": 0.5, **states, "part": {"steps": 1, "sums": {"loss": 1.5}, "seconds": 0.25}},
        "best.pt": {**about, **more, "features": made, "captions": {"encoder": "words", "encoder_digest": "0" * 16, "fill": "zeros"}},
        "options.json": json.loads(json.dumps(vars(options))),
        "log.jsonl": [line, line | {"epoch": 2}],
    }


def best_files() -> dict:
    files = run_files()
    return {name: files[name] for name in ("best.pt", "options.json")}


def last_files() -> dict:
    files = run_files()
    return {name: files[name] for name in ("last.pt", "log.jsonl")}


def clip_files() -> dict:
    import torch

    from utils.text import openai_clip

    torch.manual_seed(0)
    return {"clip.pt": dict(openai_clip().model.CLIP(8, 32, 1, 64, 8, 7, 90, 64, 1, 1).state_dict())}


def read_clip(path: Path) -> None:
    from utils.text import load_clip

    load_clip(str(path))


def model_files() -> dict:
    """The folder of a sentence encoder, whose parts but the tokenizer a DistilBERT has, too."""
    import tempfile

    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "man", "walks"])}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    with tempfile.TemporaryDirectory() as folder:
        sizes = dict(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=8, max_position_embeddings=16
        )
        BertModel(BertConfig(**sizes)).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    files |= {name: json.loads(content) for name, content in files.items() if name.endswith(".json")}
    weights = files["model.safetensors"]
    size = struct.unpack("<Q", weights[:8])[0]
    files["model.safetensors"] = [json.loads(weights[8 : 8 + size]), weights[8 + size :]]
    module = "sentence_transformers.models."
    files["modules.json"] = [
        {"idx": i, "name": str(i), "path": path, "type": module + kind}
        for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])
    ]
    files["1_Pooling/config.json"] = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}
    return files


def read_model(path: Path) -> None:
    from utils.text import load_sentence_text, load_transformer

    folder = path.parents[len(path.parts) - 2 - path.parts.index("files")]
    if path.name in ("config.json", "model.safetensors") and path.parent == folder:
        load_transformer(str(folder), "--distilbert")
    load_sentence_text(str(folder))


def flags_of(main) -> list[str]:
    """The options that a command line has, as its --help shows them."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main(["--help"])
    return sorted(set(re.findall(r"--[a-z][a-z-]+", shown.getvalue())) - {"--help"})


def command_lines() -> dict:
    """How each script and tool reads its words; those that do no more than that before they look at a file."""
    import demo
    import ucf_option
    import xd_option
    from model import SYSTEMS
    from tools import (
        ablate,
        caption_videos,
        embed_captions,
        evaluate,
        extract_features,
        make_gt,
        make_list,
        new_dataset,
        rewrite_captions,
    )

    found = {"demo": (demo.parse, ["x.mp4"]), "ablate": (ablate.main, ["losses", "--dataset", "ucf", "--dry-run"])}
    for system in SYSTEMS:
        found |= {
            f"ucf {system}": (ucf_option.parse_args, ["--model", system]),
            f"xd {system}": (xd_option.parse_args, ["--model", system]),
        }
    found["test"] = (lambda words: xd_option.parse_args(words, testing=True), [])
    more = {extract_features: [], new_dataset: [], caption_videos: ["--captioner", "x"], embed_captions: ["--encoder", "x"]}
    more |= {rewrite_captions: ["--llm", "x"]}
    for tool, words in more.items():
        found[tool.__name__] = (tool.parse, ["x", "--output", "x", *words])
    found["evaluate"] = (evaluate.main, ["--dataset", "ucf", "--scores", "absent.npz"])
    found["make_gt"] = (make_gt.main, ["--dataset", "ucf", "--annotations", "absent", "--frames", "absent", "--output", "absent/x"])
    found["make_list"] = (make_list.main, ["--dataset", "ucf", "--annotations", "absent", "--output", "absent/x"])
    return found


VALUES = [
    "",
    "-1",
    "0",
    "1",
    "3",
    "0.5",
    "1e18",
    "1e30",
    "-1e300",
    "10000000",
    "9" * 400,
    "9" * 5000,
    "nan",
    "inf",
    "٣",
    "1_000",
    "1/0",
    "0/0",
]
VALUES += [
    "2/1",
    "--",
    "-",
    "x",
    "None",
    "True",
    "1 2",
    "\0",
    "a\0b",
    "a\nb",
    "\udce9",
    "x" * 300,
    "x" * 5000,
    "/" * 5000,
    "../..",
    "/dev/zero",
]


def try_words(lines: dict, flags: dict, draw: random.Random) -> None:
    name = draw.choice(list(lines))
    main, words = lines[name]
    words = list(words)
    for _ in range(draw.choice([1, 1, 2, 3])):
        flag = draw.choice(flags[name] or ["--x"])
        value = draw.choice(VALUES)
        more = draw.choice([[flag, value], [flag, value], [f"{flag}={value}"], [flag, value, draw.choice(VALUES)], [flag], [value]])
        place = draw.choice([len(words), draw.randrange(len(words) + 1)])
        words[place:place] = more
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(words)


MANIFEST = {
    "recipe": {"crops": 10, "stride": 16, "aspect": "squash", "layout": "one", "dtype": "float16", "precision": "fp32", "size": 32},
    "encoder": {"name": "clip.pt", "digest": "0123456789abcdef", "width": WIDTH},
    "videos": {
        "README": {
            "file": "README.md",
            "bytes": 3,
            "frames": 40,
            "fps": 30.0,
            "header_frames": 40,
            "snippets": 2,
            "features": {"README.npy": "00"},
        }
    },
}
TRUTH = {"Abuse028_x264": {"frames": 1408, "fps": 30, "segments": [[165, 240, "Abuse"]]}, "n": {"frames": 16, "fps": 29.97, "segments": []}}
CAPTION = {"snippet": 0, "frames": [0, 16], "caption": "a man walks", "source": "a man", "pairs": [1, 2, 3]}
HEADER = {"video": "Own", "frames": 40, "fps": 25.0, "model": "m", "revision": "r", "settings": {"window": 64}}
UCA = {"Abuse001_x264": {"duration": 4.0, "timestamps": [[0.0, 0.4], [3.5, 3.0]], "sentences": ["A man walks.", "a car"]}}
LLAVA = {"vid_captions": {"Abuse028_x264.mp4": {"0, 577": "a man", "577, 580": "b"}}, "config": {}}
KEPT = {"key": "00ff", "sentence": "a man", "version": 1, "pairs": [1, 2, 3], "seed": 5, "answer": "somebody walks"}
RANGES = {"vid_score": {"Abuse028_x264.mp4": {"0, 577": [-1, 0.9], "577, 580": 0.5}}}
LIST = [["path", "label"], ["Abuse/Abuse028_x264.npy", "Abuse"], ["n.npy", "Normal"]]
SCORES = [["video", "score"], *[["Abuse028_x264.mp4", str(i / 8)] for i in range(4)]]
FEATURES = array(np.ones((3, 10, WIDTH), np.float16))

FRACTIONS = {"a/coarse": array(np.ones(4)), "a/fine": array(np.ones((4, 2))), "classes": array(np.array(["n", "f"]))}
NUMBERED = [["v", "pred"], ["0", "0.5"], ["1", "1"]]
OFFICIAL = "Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/N1.mp4\n"


def new_files() -> dict:
    return {"clips.csv": CLIPS, "events.csv": EVENTS} | {f"{name}.npy": FEATURES for name in "abc"}


OWN = 'title = "Mine"\nfps = 25\nseparator = "-"\n\n[classes]\nNormal = "normal"\nFire = "fire"\n"a.b" = "smoke"\n'
CLIPS = [["path", "label", "source", "start", "end", "class"], ["a.mp4", "Normal", "1", "", "", ""]]
CLIPS += [["b.mp4", "Fire", "1", "0:00", "0:01.5", "Fire"], ["b.mp4", "Fire", "1", "1", "1.8", ""], ["c", "Normal", "2", "", "", ""]]
EVENTS = [["path", "start", "end"], ["b", "0.5", "1"], ["x/b.mp4", "0:00:00", "0:00:01,5"]]


READERS = {
    "features": Reader(1800, lambda: {"x.npy": FEATURES}, read_features),
    "pack": Reader(800, pack_files, read_pack, True),
    "list": Reader(1600, lambda: {"l.csv": LIST, "Abuse028_x264.npy": FEATURES, "n.npy": FEATURES}, read_list),
    "truth": Reader(1600, lambda: {"gt.json": TRUTH}, read_truth),
    "scores npz": Reader(
        1200,
        lambda: {"s.npz": FRACTIONS},
        read_scores,
    ),
    "scores csv": Reader(1200, lambda: {"s.csv": SCORES}, read_scores),
    "scores csv by number": Reader(600, lambda: {"s.csv": NUMBERED, "names.list": "b.npy\na.npy\n"}, read_scores, True),
    "scores json": Reader(1000, lambda: {"s.json": RANGES}, read_scores),
    "scores json.gz": Reader(300, lambda: {"s.json.gz": RANGES}, read_scores),
    "captions": Reader(1500, lambda: {"Own.jsonl": [HEADER, CAPTION, CAPTION | {"snippet": 1, "frames": [16, 32.5]}]}, read_caption_files),
    "captions uca": Reader(1000, lambda: {"captions.json": UCA}, read_caption_files),
    "captions llava": Reader(800, lambda: {"captions.json": LLAVA}, read_caption_files),
    "captions swinbert": Reader(600, lambda: {"captions.jsonl": [{"a/One.mp4": ["a", "b"]}, {"a/Two.mp4": ["c"]}]}, read_caption_files),
    "captions part": Reader(500, lambda: {"Own.jsonl.part": [HEADER, CAPTION]}, read_part),
    "cache": Reader(900, lambda: {"answers.cache": [KEPT, KEPT | {"key": "01"}]}, read_cache),
    "pairs": Reader(400, lambda: {"pairs.txt": "# pool\na b => c d\ne => f\ng => h\n"}, read_pool),
    "annotations": Reader(400, lambda: {"annotations.txt": "Abuse028_x264.mp4  Abuse  165  240  -1  -1\n"}, read_official),
    "official list": Reader(400, lambda: {"Anomaly_Train.txt": OFFICIAL}, read_official),
    "dataset.toml": Reader(600, lambda: {"dataset.toml": OWN}, read_own),
    "new data set": Reader(600, new_files, read_new, True),
    "frames": Reader(300, lambda: {"frames.json": {"a.mp4": 30, "b": {"frames": 40}}}, read_frames),
    "extract.json": Reader(500, lambda: {"extract.json": MANIFEST}, read_manifests),
    "embed.json": Reader(200, lambda: {"embed.json": {"seed": 0, "encoder_digest": "x", "captions": {"a": "b"}}}, read_manifests),
    "rewrite.json": Reader(200, lambda: {"rewrite.json": {"seed": 0, "encoder_digest": "x", "captions": {"a": "b"}}}, read_manifests),
    "sample.json": Reader(200, lambda: {"sample.json": {"videos": [1, 2], "settings": {}, "captions": {}}}, read_manifests),
    "text features": Reader(500, lambda: {"t.npy": array(np.ones((14, WIDTH), np.float32))}, read_class_features),
    "best.pt": Reader(1000, best_files, read_best, True, odd_tensors),
    "last.pt": Reader(900, last_files, read_last, True, odd_tensors),
    "clip.pt": Reader(300, clip_files, read_clip, False, odd_tensors),
    "encoder folder": Reader(400, model_files, read_model, True),
    "options": Reader(2000, dict, lambda path: None),
}


def state_of(folder: Path) -> dict:
    found = {}
    for path in sorted(folder.rglob("*")):
        found[path] = path.read_bytes() if path.is_file() and not path.is_symlink() else os.lstat(path).st_mode
    return found


class Hang(BaseException):
    """Raised in a reader that takes too long."""


def hang(*_) -> None:
    raise Hang


def fuzz(name: str, count: int, seed: str, folder: Path, said_to: int) -> list[str]:
    """Try `count` inputs on a reader; one text per input that came out wrong."""
    reader, wrong, codes = READERS[name], [], collections.Counter()
    files = reader.make()
    odd = ODD + reader.odd()
    lines = command_lines() if name == "options" else {}
    flags = {
        key: flags_of(main if words[:1] != ["--model"] else lambda more, main=main, words=words: main([*words, *more]))
        for key, (main, words) in lines.items()
    }
    home = folder / "files"
    for number in range(count):
        draw = random.Random(f"{seed} {name} {number}")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        target = draw.choice(list(files)) if reader.any_file else next(iter(files), "none")
        for file, value in files.items():
            (home / file).parent.mkdir(exist_ok=True)
            if file == target and not isinstance(value, bytes | str) and draw.random() < 0.6:
                with contextlib.suppress(Exception):  # what cannot be written cannot be read
                    (home / file).write_bytes(write_as(file, twist(value, draw, odd if file.endswith(".pt") else ODD)))
                    continue
            content = write_as(file, value)
            (home / file).write_bytes(mangle(content, draw) if file == target else content)
        path = home / target
        if files and draw.random() < 0.02:
            become_something_else(path, draw)
        before = state_of(home)
        os.ftruncate(said_to, 0)
        os.lseek(said_to, 0, os.SEEK_SET)
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            code = exit_code(lambda draw=draw, path=path: try_words(lines, flags, draw) if lines else reader.read(path))
            fault = ""
        except Hang:
            code, fault = -1, f"no end within {SECONDS} s"
        except BaseException:
            code, fault = -1, traceback.format_exc(limit=-6)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        codes[code] += 1
        sys.stderr.flush()
        said = os.pread(said_to, 100_000, 0).decode(errors="replace")
        if code == 2 and not (said.startswith("error: ") and said.count("\n") == 1 and len(said) < 2100):
            fault = f"not one line: {said[:2000]!r}"
        elif code == 2 and files and home.name not in said:
            fault = f"names no file: {said}"
        after = state_of(home)
        was = before.get(path)
        # A cache that is not there begins; half a line at the end of one is cut off.
        torn = code == 0 and name == "cache" and (not isinstance(was, bytes) or was.startswith(after[path]))
        if after != before and not torn:
            fault = fault or f"changed on disk: {sorted(file.name for file in after.keys() ^ before.keys())}"
        if fault:
            kept = folder / f"{name} {number}".replace(" ", "-")
            shutil.rmtree(kept, ignore_errors=True)
            wrong.append(f"{name} {number} ({target}): {fault}")
    faulthandler.cancel_dump_traceback_later()
    print(f"{name}: {codes[0]} right, {codes[2]} refused, {len(wrong)} wrong", flush=True)
    return wrong


def main(folder: str, seed: str, *readers: str) -> int:
    """Fuzz READER:COUNT …; what came out wrong is printed, and the exit code is 1 then."""
    import torch

    from utils import checkpoint

    torch.set_num_threads(1)
    checkpoint.commit = lambda: "0000000"  # asks git
    signal.signal(signal.SIGALRM, hang)
    said_to = os.open(Path(folder, "stderr"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    kept = os.dup(2)
    faulthandler.enable(os.fdopen(os.dup(kept), "w"))
    os.dup2(said_to, 2)
    wrong = []
    for reader in readers:
        name, _, count = reader.rpartition(":")
        READERS[name].make()  # imports what it needs before memory is counted
        now = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))
        wrong += fuzz(name, int(count), seed, Path(folder), said_to)
    print("\n".join(wrong))
    return bool(wrong)


def run(folder: Path, *readers: str) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(folder), os.environ.get("FUZZ_SEED", "0"), *readers],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_what_is_spoiled_is_refused_in_one_line_or_right(reader, tmp_path):
    run(tmp_path, f"{reader}:{READERS[reader].inputs}")


def test_a_few_of_every_reader(tmp_path):
    assert sum(reader.inputs for reader in READERS.values()) >= 20_000
    run(tmp_path, *(f"{name}:12" for name in READERS if name not in ("clip.pt", "encoder folder")))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
