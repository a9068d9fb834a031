"""What was found in a video, for people and programs: a table for the terminal, JSON, CSV, a picture with thumbnails along the time axis.

All take a app.analysis.Analysis. Times are seconds from the video's first frame, scores lie in [0, 1]. Names and captions are anybody's
text: control characters are left out, and in CSV a cell that a spreadsheet would take for a formula begins with an apostrophe.
(app/annotate.py: the annotated video and clips.)
"""

import contextlib
import csv
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Annotated, NotRequired

import numpy as np
from pydantic import AfterValidator
from tqdm import tqdm
from typing_extensions import TypedDict

from app.analysis import Analysis, Found
from app.overlay import columns, cut
from utils import files
from utils.errors import BadInput
from utils.evaluation.segments import clean, clock, shorten
from utils.reading import OPEN, ROWS, Text, checked, read_json, real, whole

ENDS = (".csv", ".snippets.csv", ".png", ".annotated.mp4")  # of a video's files beside its JSON; clips have names of their own
UNFINISHED = ".unfinished"  # folder in which results are made
MARK = '<!doctype html><meta name="generator" content="demo.py">'  # the first line of report.html


def _local(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is not None:
        raise ValueError("a local time")
    return text


_rows = whole(0, ROWS)
Segment = TypedDict(
    "Segment",
    {"start": real(), "end": real(), "first_snippet": _rows, "last_snippet": _rows, "class": Text, "score": real(), "caption": Text | None},
)
COLUMNS = tuple(Segment.__annotations__)


class Done(TypedDict):
    """What is read again of a video's JSON. begins: local time; stills: JPEGs in base64."""

    __pydantic_config__ = OPEN

    seconds: real(0)
    segments: list[Segment]
    snippets: list
    begins: NotRequired[Annotated[Text, AfterValidator(_local)] | None]
    stills: NotRequired[list[Text] | None]


def check(analysis: Analysis) -> None:
    """Raise BadInput where a score, time or probability is no finite number."""
    for what, values in (("score", analysis.anomaly), ("time", analysis.times), ("probability", analysis.scores.fine)):
        if values is not None and not np.isfinite(values).all():
            at = int(np.argwhere(~np.isfinite(values))[0][0])
            found = f"the {what} of snippet {at} is {np.ravel(values[at])[0]}"
            raise BadInput(f"{analysis.path}: {found}; expected finite numbers; check the model")


def to_dict(analysis: Analysis) -> dict:
    """What the JSON file says: plain numbers, text and None. The snippets of a segment are first_snippet to last_snippet, both included.

    Raises BadInput as `check` does.
    """
    check(analysis)
    fine, (width, height) = analysis.scores.fine, analysis.size
    rows = [None] * len(analysis.anomaly) if fine is None else [dict(zip(analysis.classes, row, strict=True)) for row in fine]
    snippets = zip(analysis.times[:-1], analysis.times[1:], analysis.anomaly, rows, strict=True)
    value = {"video": analysis.path, "frames": analysis.frames, "fps": analysis.fps, "width": width, "height": height}
    value |= {name: getattr(analysis, name) for name in ("seconds", "threshold", "threshold_from", "notes", "about", "classes")}
    value["segments"] = [_row(one) for one in analysis.segments]
    value["snippets"] = [dict(zip(("start", "end", "score", "probabilities"), one, strict=True)) for one in snippets]
    return plain(value)


def _row(one: Found) -> dict:
    return dict(zip(COLUMNS, (one.start, one.end, one.first, one.last - 1, one.label, one.score, one.caption), strict=True))


def plain(value):
    """The same in what JSON knows; numbers rounded to six decimals, those that are not finite None, and � for bytes in
    a path that are no text.
    """
    if isinstance(value, dict):
        return {plain(str(key)): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if np.isfinite(value) else None
    return None if value is None else str(value).encode(errors="surrogateescape").decode(errors="replace")


def write_json(analysis: Analysis, path: Path | str, more: dict | None = None) -> dict:
    """Write and return `to_dict`, with what is in `more` behind it."""
    value = to_dict(analysis) | (more or {})
    files.write_json(path, value)
    return value


def read_done(path: Path, detector, about: dict) -> dict | None:
    """What is in `path` where it is the JSON of the same video and settings, and all the files that it names (`replacing_set`) lie beside
    it as they were; None where something is to be made (anew).

    detector: its classes and threshold count; about: what Analysis.about would be (Detector.about_video), the command left out.
    """
    wanted, done = {"threshold": detector.threshold, "classes": detector.classes, "about": about}, read_earlier(path)
    try:
        checked(Done, done, str(path), "")
        same = all(_settled(done[key]) == _settled(plain(value)) for key, value in wanted.items())
        return done if same and done["files"] == {name: path.with_name(name).stat().st_size for name in done["files"]} else None
    except (OSError, KeyError, TypeError, BadInput):  # not there, not ours, damaged, or half of an older version
        return None


def read_earlier(path: Path) -> dict | None:
    """What is in `path` where that is the JSON of a video's results, whole or not, with its other "files"; None where it is not ours."""
    try:
        found = read_json(path, "--output", dict)
        names = found["files"].keys()
        return found if all(Path(name).name == name and name.startswith(f"{path.stem}.") for name in names) else None
    except (ValueError, KeyError, TypeError, AttributeError):  # BadInput is a ValueError
        return None


def check_earlier(path: Path, about: dict, overwrite: bool) -> None:
    """Raise BadInput where results of a video under the JSON `path` would take the place of files of somebody else, or of the results of
    another video that is still there. `about`: what the JSON will say about the video. With `overwrite` only what is no file is refused.
    """
    earlier, own = read_earlier(path), plain(about["source"]["path"])
    try:
        other = earlier["about"]["source"]["path"]
        if other != own and Path(other).exists() and not overwrite:
            raise BadInput(f"{path}: is of {other}, which has the same name; name another --output, or replace it with --overwrite")
    except (TypeError, KeyError, OSError):  # none there, or not whole
        pass
    _check_place({path.name, *(f"{path.stem}{end}" for end in ENDS)}, path, earlier, overwrite)


def _check_place(names, path: Path, earlier: dict | None, overwrite: bool) -> None:
    known = {} if earlier is None else {path.name, *earlier["files"]}
    for file in (path.with_name(name) for name in sorted(names)):
        if os.path.lexists(file) and not file.is_file():
            raise BadInput(f"{file}: is no regular file; move it, or name another --output")
        if os.path.lexists(file) and file.name not in known and not overwrite:
            raise BadInput(f"{file}: is not of demo.py; move it, name another --output, or replace it with --overwrite")


@contextlib.contextmanager
def replacing_set(path: Path, kept: dict | None, overwrite: bool, share: str = ""):
    """Yield the path of the JSON in a folder of its own, where all results of a video are made; on success they take the place of the
    earlier results under `path`, on failure those are untouched. In between, and after a kill in between, the JSON there says what may be
    moved, but nothing that `read_done` takes for done.

    kept: what `read_done` gave: what was made before for the same settings and is not made anew stays. One process at a time in a folder,
    or of a `share`.
    Raises BadInput where files lie there that no earlier results name, unless `overwrite`.
    """
    folder = path.parent / f"{UNFINISHED}{share}"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        files.make_folder(folder)
        yield folder / path.name
        earlier, value = read_earlier(path), json.loads((folder / path.name).read_text(encoding="utf-8"))
        made = {file.name for file in folder.iterdir()}
        _check_place(made, path, earlier, overwrite)
        old = set() if earlier is None else set(earlier["files"])
        stay = set() if kept is None else old - made
        value["files"] = {name: (folder if name in made else path.parent).joinpath(name).stat().st_size
                          for name in sorted(made - {path.name} | stay)}  # fmt: skip
        files.write_json(folder / path.name, value)
        files.write_json(path, {"unfinished": True, "files": dict.fromkeys(sorted(old | made - {path.name}), 0)})
        for name in old - stay - made:
            path.with_name(name).unlink(missing_ok=True)
        for name in sorted(made - {path.name}):
            os.replace(folder / name, path.with_name(name))
        os.replace(folder / path.name, path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); free some space or name another --output") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settled(value):
    return {key: one for key, one in value.items() if key != "command"} if isinstance(value, dict) else value


def _cell(value):
    """A cell of a CSV file."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def _write_rows(path: Path, header, rows) -> None:
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_cell(name) for name in header])
        writer.writerows([_cell(value) for value in row] for row in rows)


def write_csv(analysis: Analysis, path: Path | str) -> None:
    """A row per segment to `path`, NAME.csv, and a row per snippet, with its class probabilities, to NAME.snippets.csv beside it."""
    value, path = to_dict(analysis), Path(path)
    classes = [] if analysis.scores.fine is None else value["classes"]
    header = ("snippet", "start", "end", "score", *(f"p({name})" for name in classes))
    rows = [(at, *numbers, *(fine or {}).values()) for at, (*numbers, fine) in enumerate(map(dict.values, value["snippets"]))]
    _write_rows(path.with_name(f"{path.stem}.snippets.csv"), header, rows)
    _write_rows(path, ("video", *COLUMNS), [(value["video"], *one.values()) for one in value["segments"]])


def write_summary(rows: list[tuple], path: Path | str) -> None:
    """The segments of several videos in one CSV, the highest scores first. rows: (video, *COLUMNS)."""
    _write_rows(Path(path), ("video", *COLUMNS), sorted(rows, key=lambda row: -row[1 + COLUMNS.index("score")]))


def is_ours(path: Path) -> bool:
    """Whether a file is what `write_summary` or app.recordings.write_report writes."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(200) in (f"{','.join(('video', *COLUMNS))}\n", f"{MARK}\n")
    except (OSError, ValueError):
        return False


def table(analysis: Analysis, width: int = 120) -> str:
    """The segments for a terminal of `width` columns: a head, a line each, then the notes. Captions are cut to fit."""
    about = f"{clock(analysis.seconds, 1)}, {analysis.length}, {' × '.join(map(str, analysis.size))}"
    lines = [f"{clean(analysis.name)}: {about}; highest score {analysis.anomaly.max():.2f}"]
    lines += [f"threshold {analysis.threshold:.3f}: {clean(analysis.threshold_from)}"]
    cells = [("start", "end", "score", "class", "caption")]
    cells += [
        (clock(one.start, 1), clock(one.end, 1), f"{one.score:.2f}", clean(one.label), clean(one.caption or ""))
        for one in analysis.segments
    ]
    if len(cells) == 1:
        lines.append("no segment: no snippet reaches the threshold")
    else:
        widths = [min(max(map(columns, column)), width // 3) for column in zip(*cells, strict=True)]
        widths[-1] = max(7, width - sum(widths[:-1]) - 10)
        for row in cells if any(row[-1] for row in cells[1:]) else [row[:-1] for row in cells]:
            texts = [cut(text, columns, limit) for text, limit in zip(row, widths, strict=False)]
            padded = [" " * (limit - columns(text)) + text for text, limit in zip(texts[:3], widths, strict=False)]
            padded += [text + " " * (limit - columns(text)) for text, limit in zip(texts[3:], widths[3:], strict=False)]
            lines.append(("  " + "  ".join(padded)).rstrip())
    return "\n".join([*lines, *(f"note: {clean(note)}" for note in analysis.notes)])


@contextlib.contextmanager
def progress_bar(name: str):
    """A bar for one video's snippets; yields a function for the `progress` of utils.video.extraction.extract."""
    with tqdm(desc=shorten(clean(name), 40), unit="snippet", leave=False) as bar:

        def progress(_, done: int, expected: int | None) -> None:
            bar.total = expected
            bar.update(done - bar.n)

        yield progress


def plot(analysis: Analysis, path: Path | str) -> None:
    """A PNG of the score over time (app/timeline.py)."""
    from app.timeline import draw  # matplotlib is slow to import, and not needed by the others

    check(analysis)
    draw(analysis, Path(path))
