"""Your own videos: when something abnormal happens in them, and what.

    python demo.py VIDEO_OR_FOLDER                                  with the newest run's checkpoint
    python demo.py VIDEO --checkpoint runs/ucf-vadclip/seed-234/best.pt
    python demo.py VIDEO --checkpoint model_ucf.pth --model vadclip --data ucf      one that its authors released
    python demo.py VIDEO --runtime onnx --checkpoint DIR            with what tools.export wrote
    python demo.py VIDEO --classes "person falling" smoke           your own events, by text alone
    python demo.py rtsp://camera/stream | 0 | -                     a stream, a webcam, a pipe: one JSON line per snippet and event
    python demo.py cameras.toml [--status]                          several cameras, with alerts (docs/on-duty.md); how they are
    python demo.py [FOLDER] --web                                   a page in the browser

Of each video NAME the folder --output gets NAME.json and NAME.csv (the segments), NAME.snippets.csv, NAME.png (score curve with
thumbnails), NAME.annotated.mp4 (the video with its score curve), with --clips also one clip per segment. Of several videos, segments.csv
lists all segments, best first, and report.html shows them. A video that is done is not done again unless something was changed; then its
new results take the place of the earlier ones, all together. A broken video is named and left out, and the exit code is 2. Write the
videos before --classes.
"""

import argparse
import contextlib
import math
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from utils.distributed import share
from utils.errors import POSITIVE, BadInput, Parser, alone, exit_code, printable
from utils.files import ROOT

STREAM = re.compile(r"[a-z][a-z0-9+.]+://|-$|\d+$", re.IGNORECASE)
OURS = re.compile(r"(segments|.*\.snippets)_*", re.IGNORECASE | re.DOTALL)  # names whose table would be one of ours
DAY, HOUR = 86_400.0, 3600.0  # seconds
ONLY = {  # options that do something in one of the uses only
    "file": ("output", "video", "clips", "overwrite", "shard"),
    "stream": ("reconnect", "every_snippet"),
    "cameras": ("status",),
    "page": ("host", "port"),
}
NOT = {  # and those that do nothing in one
    "file": ("record",),
    "stream": ("max_seconds", "timeout", "captions", "caption_encoder", "caption_pooling"),
    "cameras": ("max_seconds", "timeout", "captions", "caption_encoder", "caption_pooling"),
    "page": ("latency", "record"),
}
TRAINED = ("checkpoint", "model", "data", "encoder", "distilbert", "sentence_encoder", "text_features")
TRAINED += ("caption_encoder", "caption_pooling", "runtime", "false_positives")
EXPORTED = ("model", "data", "encoder", "clip", "distilbert", "sentence_encoder", "text_features", "precision")  # part of an export
RELEASED = "of a checkpoint that its authors released"


def is_stream(source: str) -> bool:
    """Whether a source is a stream: an address, the number of a webcam, or `-`. A file or folder of that name is taken as such."""
    return bool(STREAM.match(source)) and not os.path.exists(source)  # Path.exists raises where an address is too long for a name


def are_cameras(source: str) -> bool:
    """Whether a source is a file that lists cameras."""
    return source.lower().endswith(".toml") and not os.path.isdir(source)


def parse_sizes(argv) -> Parser:
    """The options of the system that --model names, for whoever trained a checkpoint with other sizes than the option file has."""
    parser = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", metavar="SYSTEM", help=f"system {RELEASED}; --help with it lists its sizes")
    if system := getattr(parser.parse_known_args(argv)[0], "model", None):
        from model import SYSTEMS, options_of
        from utils.options import declared

        if system not in SYSTEMS:
            raise BadInput(f"--model {system}: no such model; available models: {', '.join(SYSTEMS)}")
        group = parser.add_argument_group(f"sizes of {system}, where they are not those of the option file")
        for one in declared(system).values():
            if one.name in options_of(system) - {"distilbert"}:
                one.add_to(group, one.help.replace("%", "%%"))
    return parser


def parse(argv) -> argparse.Namespace:
    from utils.evaluation.segments import RATE, RATES
    from utils.video.decoder import Limits

    sizes, limits = parse_sizes(argv), Limits()
    about = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser("demo.py", parents=[sizes], **about)

    def add(group, *names, **more):
        more["help"] += "" if more.get("default") is None or more.get("action") else " [default %(default)s]"
        group.add_argument(*names, **more)

    add(parser, "sources", nargs="*", metavar="SOURCE", help="videos and folders of them, one stream, or a cameras.toml")
    what = parser.add_argument_group("what is looked for")
    add(what, "--checkpoint", metavar="FILE", help="best.pt of a run [the newest run under runs/ of this project]")
    add(what, "--data", metavar="NAME_OR_PATH", help=f"data set {RELEASED}: one of list/ by name, or a folder with dataset.toml")
    add(what, "--classes", nargs="+", metavar="EVENT", help="your own events, found by CLIP's text side without any training")
    add(what, "--normal", nargs="+", metavar="TEXT", help="with --classes: what it looks like when nothing happens")
    add(what, "--threshold", type=float, metavar="SCORE", help="score from which on a snippet belongs to a segment [the checkpoint's]")
    rate = "share of normal snippets that may reach the threshold; the checkpoint knows it from its held-out videos"
    add(what, "--false-positives", type=float, choices=RATES, default=RATE, help=rate)
    add(what, "--latency", type=POSITIVE, metavar="S", help="a stream's score is final after so long [5]; a file's is as if it were one")
    model = parser.add_argument_group("model files")
    add(model, "--encoder", metavar="NAME_OR_FILE", help="image encoder [that of the training features, else the system's]")
    add(model, "--clip", metavar="NAME_OR_FILE", help="CLIP of the text side [the checkpoint's; with --classes ViT-B/16]")
    for name in ("distilbert", "sentence-encoder", "text-features"):
        add(model, f"--{name}", metavar="NAME_OR_PATH", help="if it lies elsewhere than in training")
    add(model, "--captions", metavar="PATH", help="NAME.jsonl or a folder of them (tools.caption_videos): quoted with the segments")
    add(model, "--caption-encoder", metavar="NAME_OR_PATH", help="sentence encoder of a checkpoint that reads captions [as in training]")
    add(model, "--caption-pooling", metavar="NAME", help="what tools.embed_captions --pooling was given [as in training]")
    add(model, "--crops", type=int, choices=(1, 5, 10), help="crops of a frame whose scores are averaged [1]")
    add(model, "--aspect", choices=("squash", "keep"), help="frames become 340 × 256, or keep their shape [as in training, else squash]")
    add(model, "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    add(model, "--runtime", choices=("torch", "onnx"), default="torch", help="onnx: --checkpoint is a folder of tools.export")
    add(model, "--precision", choices=("fp32", "bf16"), default="fp32", help="of encoder and model")
    output = parser.add_argument_group("output")
    add(output, "--output", metavar="DIR", help="folder of the results [runs/demo of this project]")
    add(output, "--video", action=argparse.BooleanOptionalAction, default=True, help="write the annotated copy of the video")
    add(output, "--clips", action="store_true", help="write one clip per segment")
    add(output, "--overwrite", action="store_true", help="analyse again what is done")
    add(output, "--shard", metavar="i/n", help="only the i-th part of n of the videos; torchrun's processes share them by themselves")
    live = parser.add_argument_group("streams")
    add(live, "--record", metavar="FILE", help="append the JSON lines to this file, too")
    add(live, "--reconnect", action=argparse.BooleanOptionalAction, default=True, help="connect again where the stream is cut")
    add(live, "--every-snippet", action="store_true", help="fall behind rather than drop snippets when the encoder is too slow")
    add(live, "--status", action="store_true", help="show how the cameras of a cameras.toml are that another process follows")
    page = parser.add_argument_group("page")
    add(page, "--web", action="store_true", help="a page in the browser: drop a video, or choose one of the folder's")
    add(page, "--host", default="127.0.0.1", help="address it listens on; another one shows it to your network")
    add(page, "--port", type=int, default=7860, help="its port")
    cap = parser.add_argument_group("limits on a video")
    add(cap, "--max-pixels", type=int, default=limits.max_pixels, metavar="N", help="of a picture")
    add(cap, "--max-seconds", type=POSITIVE, metavar="S", help="length [a day; with --web an hour]")
    add(cap, "--timeout", type=POSITIVE, metavar="S", help="time for decoding one video [an hour; with --web 30 minutes, for all of it]")
    options = parser.parse_args(argv)
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    options.sizes = vars(sizes.parse_known_args(argv)[0])
    options.model = options.sizes.pop("model", None)
    check(options, given)
    options.output = options.output or str(ROOT / "runs" / "demo")
    return options


def check(options, given: set[str]) -> None:
    """Raise BadInput for combinations that make no sense; `given`: the options that are not at their default."""
    for name in TRAINED:
        if options.classes and name in given:
            raise BadInput(f"--classes: is by text alone, --{name.replace('_', '-')} is of a trained checkpoint; leave one of them out")
    if (options.model or options.data) and not (options.model and options.data and options.checkpoint):
        raise BadInput("--model, --data: say what a released --checkpoint is of; give all three, or of a run of yours the checkpoint alone")
    if options.runtime == "onnx":
        if options.checkpoint is None:
            raise BadInput("--runtime onnx: needs the folder that tools.export wrote; name it with --checkpoint")
        if found := [name for name in EXPORTED if name in given] or ["device"] * (options.device not in ("auto", "cpu")):
            raise BadInput(f"--{found[0].replace('_', '-')}: does nothing with --runtime onnx, on the CPU; leave it out")
    if options.normal and not options.classes:
        raise BadInput("--normal: says what normal looks like for --classes; leave it out, or name events")
    for name in ("threshold", "max_pixels"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            raise BadInput(f"--{name.replace('_', '-')} {value}: expected a number above 0")
    if not 0 < options.port < 65536:
        raise BadInput(f"--port {options.port}: expected a number from 1 to 65535")
    if options.threshold is not None and "false_positives" in given:
        raise BadInput("--threshold, --false-positives: the second picks a threshold that training saved; give one of them")
    if options.threshold is not None and options.threshold > 1:
        raise BadInput(f"--threshold {options.threshold}: expected a score from 0 to 1")
    share(options.shard)
    streams = [source for source in options.sources if is_stream(source)]
    lists = [source for source in options.sources if are_cameras(source)]
    use = "page" if options.web else "stream" if streams else "cameras" if lists else "file"
    if use == "page" and (streams or lists or len(options.sources) > 1):
        raise BadInput(f"--web: found {len(options.sources)} sources or a stream; expected none, or one folder of videos to choose from")
    if use != "page" and not options.sources:
        swallowed = [text for text in [*(options.classes or []), *(options.normal or [])] if is_stream(text) or Path(text).exists()]
        hint = f" ({swallowed[-1]} was taken for a text: write it before --classes)" if swallowed else ""
        raise BadInput(f"demo.py: nothing to look at{hint}; name a video, a folder or a stream, or open the page with --web")
    if use in ("stream", "cameras") and len(options.sources) > 1:
        raise BadInput(f"a {'stream' if use == 'stream' else 'list of cameras'} goes alone; found {len(options.sources)} sources; name one")
    for name in [*NOT[use], *(name for other, names in ONLY.items() if other != use for name in names)]:
        if name in given:
            where = {"file": "with video files", "stream": "with a stream", "cameras": "with a list of cameras", "page": "with --web"}[use]
            raise BadInput(f"--{name.replace('_', '-')}: does nothing {where}; leave it out")
    if options.status and (others := given - {"status", "sources"}):
        raise BadInput(f"--{min(others).replace('_', '-')}: does nothing with --status; leave it out")
    if options.captions and not Path(options.captions).exists():
        raise BadInput(f"--captions {options.captions}: no such file or folder; name what tools.caption_videos wrote")


def make_detector(options):
    """The detector that the options describe: a checkpoint's, or of --classes. Raises BadInput for whatever does not fit."""
    shared = {"crops": options.crops, "keep_aspect": options.aspect and options.aspect == "keep", "threshold": options.threshold}
    shared |= {"device": options.device, "precision": options.precision}
    if options.classes:
        from app.zero_shot import NORMAL, text_detector

        shared["crops"] = options.crops or 1
        detector = text_detector(options.clip or "ViT-B/16", options.classes, normal=options.normal or NORMAL, **shared)
    elif options.runtime == "onnx":
        from app.exported import load_exported

        own = {"rate": options.false_positives, "caption_encoder": options.caption_encoder, "caption_pooling": options.caption_pooling}
        detector = load_exported(Path(options.checkpoint), **own, **{name: shared[name] for name in ("crops", "keep_aspect", "threshold")})
        print(
            f"checkpoint: {printable(options.checkpoint)} ({detector.about['model']}, trained on {detector.about['dataset']})",
            file=sys.stderr,
        )
    else:
        from app.detector import load_detector
        from utils.runs import newest_checkpoint

        typed = options.checkpoint is not None
        path = Path(options.checkpoint) if typed else newest_checkpoint()
        chosen = "named by --checkpoint" if typed else "the newest run; --checkpoint names another"
        if (path / "scorer.onnx").exists():
            raise BadInput(f"--checkpoint {path}: an export; add --runtime onnx")
        files = {name: getattr(options, name) for name in ("clip", "distilbert", "sentence_encoder", "text_features")}
        own = {"encoder": options.encoder, "files": files, "rate": options.false_positives}
        own |= {"caption_encoder": options.caption_encoder, "caption_pooling": options.caption_pooling}
        try:
            detector = load_detector(path, released=released_options(options) if options.model else None, **own, **shared)
        except BadInput as error:
            raise BadInput(str(error) if typed and str(path) in str(error) else f"{error} (the checkpoint: {path}, {chosen})") from None
        what = f"{detector.about['model']}, trained on {detector.about['dataset']}"
        print(f"checkpoint: {printable(path)} ({what}), {chosen}", file=sys.stderr)
    print(f"looking for: {printable(', '.join(detector.classes[1:]))}", file=sys.stderr)
    print(f"threshold {detector.threshold:.3f}: {printable(detector.threshold_from)}", file=sys.stderr)
    for note in detector.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    return detector


def released_options(options):
    """The options of a checkpoint that its authors released: those of --model in the option file of --data, and the sizes that were typed.

    Raises BadInput where there is no such data set, or a size is out of range.
    """
    from importlib import import_module

    from utils.datasets import command_of, load_dataset
    from utils.options import declared

    script, *words = command_of(load_dataset(options.data), "option")
    known = declared(options.model)
    for name, value in options.sizes.items():
        known[name].check(value)
    files = [word for name in ("feature_root", "test_list", "caption_root") if name in known for word in (known[name].flag, "-")]
    words += ["--model", options.model, *files]  # nothing of these files is read here
    made = import_module(script.removesuffix(".py")).parse_args(words, testing=True, model=options.model)
    return replace(made, **options.sizes)


def is_whole(done: dict, options) -> bool:
    """Whether a video's results hold all that the options ask for. done: what its JSON says."""
    copies = [name for name in done["files"] if name.endswith(".mp4")]
    clips = [name for name in copies if not name.endswith(".annotated.mp4")]
    return len(copies) - len(clips) >= options.video and (len(clips) >= len(done["segments"]) or not options.clips)


def find(options) -> dict[Path, Path]:
    """The video files, each with the path of its JSON; no two results have the same name, nor that of a table of several videos.

    Raises BadInput where there are none, or they lie where the results go.
    """
    from utils.video.files import find_videos

    videos = find_videos(options.sources, Path(options.output), ".json", by_name=False)
    for path, target in videos.items():
        if path.resolve().parent == target.resolve().parent:
            raise BadInput(f"--output {options.output}: {path} lies there, too; results go to a folder of their own, name another")
    return {path: target.with_name(f"{target.stem}_.json") if OURS.fullmatch(target.stem) else target for path, target in videos.items()}


def check_captions(videos: dict[Path, Path], captions: dict) -> None:
    """Raise BadInput where captions are of one of several videos of a name, for they do not say of which."""
    from utils.labels import video_name

    named: dict = {}
    for path in videos:
        if named.setdefault(name := video_name(path.name), path) != path and name in captions:
            raise BadInput(f"--captions: {name} is the name of {named[name]} and {path}; captions go by name: look at one folder at a time")


def analyse_files(detector, videos: dict[Path, Path], captions: dict, options, limits) -> None:
    """Analyse video files; captions: by a video's name. Raises BadInput at the end where some were broken."""
    from app import annotate, export
    from app.recordings import Recordings, write_report
    from utils.distributed import wait_for_others
    from utils.files import check_name, locked, make_folder

    output, (number, count) = make_folder(options.output), share(options.shard)
    summary, report = output / "segments.csv", output / "report.html"
    detector.about["command"] = shlex.join(["python", "demo.py", *options.argv])
    found, broken, part = {}, [], f".{number + 1}-of-{count}" * (count > 1)
    with contextlib.ExitStack() as locks:
        locks.enter_context(locked(output, shared=count > 1))
        if part:
            locks.enter_context(locked(output, f".lock{part}"))
        for file in (summary, report):
            if len(videos) > 1 and file.exists() and not export.is_ours(file) and not options.overwrite:
                raise BadInput(f"{file}: is not of demo.py; move it, name another --output, or replace it with --overwrite")
        recordings = Recordings(detector, videos, output, captions, options.latency, limits)
        mine = recordings.order[number * len(videos) // count : (number + 1) * len(videos) // count]
        for path in mine:
            target = videos[path]
            try:
                check_name(target.with_suffix(".annotated.mp4"))  # the longest name of its results, before the work
                done = None if options.overwrite else recordings.done(path)
                if done is None or not is_whole(done, options):
                    export.check_earlier(target, detector.about_video(path, None, None), options.overwrite)
                    analysis, more = recordings.analyse(path)
                    with export.replacing_set(target, done, options.overwrite, part) as new:
                        export.write_csv(analysis, new.with_suffix(".csv"))
                        export.plot(analysis, new.with_suffix(".png"))
                        copy = new.with_suffix(".annotated.mp4") if options.video else None
                        annotate.write(analysis, copy=copy, clips=new.parent if options.clips else None, name=new.stem, limits=limits)
                        for file in filter(export.is_ours, (summary, report)):
                            file.unlink(missing_ok=True)  # what it says of this video does not hold any more
                        export.write_json(analysis, new, more)
                    print(export.table(analysis))
                    done = export.read_earlier(target)
                else:
                    print(f"{printable(path)}: done before ({printable(target)}); --overwrite does it again")
                done.pop("snippets")  # there may be many
                found[path] = done
            except BadInput as error:  # a broken video, or one whose results have too long a name: the others are done
                broken.append(path)
                print(f"error: {error}", file=sys.stderr)
        if len(videos) > 1:
            with locked(output, ".report.lock", wait=True, told=False):
                for path in set(videos) - set(mine):  # of the others that share the work
                    if done := recordings.read(path):
                        found[path] = done | {"snippets": None}
                found = {path: found[path] for path in recordings.order if path in found}
                rows = [(str(path), *segment.values()) for path, done in found.items() for segment in done["segments"]]
                export.write_summary(rows, summary)
                write_report(report, recordings, found, detector.notes)
            print(f"{len(rows)} segments in {len(found)} videos: {printable(summary)}, {printable(report.name)}")
    wait_for_others(options.shard)
    if broken:
        raise BadInput(f"{len(broken)} of {len(mine)} videos were not done ({', '.join(map(str, broken[:5]))}), why see above")


def main(argv=None) -> None:
    options = parse(argv)
    options.argv = sys.argv[1:] if argv is None else argv
    from utils.captions.formats import read_captions
    from utils.video.decoder import Limits

    live = not options.web and is_stream(options.sources[0])
    plan = None
    if not options.web and are_cameras(options.sources[0]):
        from app.live import cameras

        plan = cameras.read_cameras(options.sources[0], filled=not options.status)
        if options.status:
            cameras.show_status(plan)
            return
    if live or plan or options.web:
        with alone():  # torchrun's processes would do the same
            pass
    videos = {} if live or plan or options.web else find(options)  # before any model is loaded
    captions = read_captions([options.captions], 30)[0] if options.captions else {}
    check_captions(videos, captions)
    if videos and share(options.shard)[1] > 1 and options.device in ("auto", "cuda"):
        import torch

        from utils.devices import own_gpu

        if torch.cuda.is_available():
            torch.cuda.set_device(own_gpu())  # each process of torchrun has its own
    detector = make_detector(options)
    if options.web:
        from app.web import page

        limits = Limits(max_pixels=options.max_pixels, max_seconds=options.max_seconds, timeout=options.timeout)
        more = {"folder": options.sources[0] if options.sources else None, "host": options.host, "port": options.port}
        page.serve(detector, captions=captions, limits=limits, **more)
    elif live or plan:
        from app.detector import LATE
        from app.live.follower import run

        detector.notes.append(LATE)
        print(f"note: {LATE}", file=sys.stderr)
        more = {"record": options.record, "latency": options.latency or 5.0, "max_pixels": options.max_pixels}
        if plan:
            cameras.run(detector, plan, **more)
        else:
            run(detector, options.sources[0], reconnect=options.reconnect, wait=options.every_snippet or None, **more)
    else:
        limits = Limits(max_pixels=options.max_pixels, max_seconds=options.max_seconds or DAY, timeout=options.timeout or HOUR)
        analyse_files(detector, videos, captions, options, limits)


if __name__ == "__main__":
    sys.exit(exit_code(main, within=contextlib.nullcontext))  # torchrun's processes share the videos
