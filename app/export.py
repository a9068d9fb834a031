"""What was found in a video, for people and programs: a table for the terminal, JSON, CSV, a picture with thumbnails along the time axis.

All take a app.analysis.Analysis. Times are seconds from the video's first frame, scores lie in [0, 1]. Names and captions are anybody's
text: control characters are left out, and in CSV a cell that a spreadsheet would take for a formula begins with an apostrophe.
(app/annotate.py: the annotated video and clips.)
"""

import contextlib
import csv
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from app.analysis import Analysis, Found
from app.overlay import columns, cut
from utils import files
from utils.errors import BadInput
from utils.evaluation.segments import clean, clock, shorten

COLUMNS = ("start", "end", "first_snippet", "last_snippet", "class", "score", "caption")  # of a segment


def check(analysis: Analysis) -> None:
    """Raise BadInput where a score, time or probability is no finite number."""
    for what, values in (("score", analysis.anomaly), ("time", analysis.times), ("probability", analysis.scores.fine)):
        if values is not None and not np.isfinite(values).all():
            at = int(np.argwhere(~np.isfinite(values))[0][0])
            raise BadInput(
                f"{analysis.path}: the {what} of snippet {at} is {np.ravel(values[at])[0]}; expected finite numbers; check the model"
            )


def to_dict(analysis: Analysis) -> dict:
    """What the JSON file says: plain numbers, text and None. The snippets of a segment are first_snippet to last_snippet, both included.

    Raises BadInput as `check` does.
    """
    check(analysis)
    width, height = analysis.size
    return _plain(
        {
            "video": str(analysis.path),
            "frames": analysis.frames,
            "fps": analysis.fps,
            "width": width,
            "height": height,
            "seconds": analysis.seconds,
            "threshold": analysis.threshold,
            "threshold_from": analysis.threshold_from,
            "notes": analysis.notes,
            "about": analysis.about,
            "classes": analysis.classes,
            "segments": [_row(one) for one in analysis.segments],
            "snippets": [
                {
                    "start": analysis.times[at],
                    "end": analysis.times[at + 1],
                    "score": score,
                    "probabilities": None
                    if analysis.scores.fine is None
                    else dict(zip(analysis.classes, analysis.scores.fine[at], strict=True)),
                }
                for at, score in enumerate(analysis.anomaly)
            ],
        }
    )


def _row(one: Found) -> dict:
    return dict(zip(COLUMNS, (one.start, one.end, one.first, one.last - 1, one.label, one.score, one.caption), strict=True))


def _plain(value):
    """The same in what JSON knows; numbers rounded to six decimals, those that are not finite None, and � for bytes in
    a path that are no text.
    """
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if np.isfinite(value) else None
    return None if value is None else str(value).encode(errors="surrogateescape").decode(errors="replace")


def write_json(analysis: Analysis, path: Path | str) -> dict:
    """Write and return `to_dict`."""
    value = to_dict(analysis)
    with files.replacing(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return value


def read_done(path: Path, detector, about: dict) -> dict | None:
    """What `write_json` wrote to `path` where it is of the same video and settings; None where it is to be made (anew).

    detector: its classes and threshold count; about: what Analysis.about would be (Detector.about_video), the command left out.
    """
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
        wanted = {"threshold": detector.threshold, "classes": detector.classes, "about": about}
        return done if all(_settled(done[key]) == _settled(_plain(value)) for key, value in wanted.items()) else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, not ours, or half of an older version
        return None


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
    rows = [
        (number, one["start"], one["end"], one["score"], *(one["probabilities"] or {}).values())
        for number, one in enumerate(value["snippets"])
    ]
    _write_rows(
        path.with_name(f"{path.stem}.snippets.csv"), ("snippet", "start", "end", "score", *(f"p({name})" for name in classes)), rows
    )
    _write_rows(path, ("video", *COLUMNS), [(value["video"], *one.values()) for one in value["segments"]])


def write_summary(rows: list[tuple], path: Path | str) -> None:
    """The segments of several videos in one CSV, the highest scores first. rows: (video, *COLUMNS)."""
    _write_rows(Path(path), ("video", *COLUMNS), sorted(rows, key=lambda row: -row[1 + COLUMNS.index("score")]))


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
