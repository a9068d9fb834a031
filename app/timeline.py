"""The picture of one analysed video: its score over time, thumbnails above, the detected segments below, by class and in words."""

import io
import pathlib
import warnings

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from PIL import Image

from app.analysis import Analysis, Found
from app.fonts import DEFAULT, font_for
from app.overlay import columns, cut, fit, peaks, wrap
from utils.evaluation.plots import BLUE, VERMILLION, save
from utils.evaluation.segments import clean, clock

LANES = 8  # classes that have a row of bars
POINTS = 2000  # of the curve at most: more are less than a pixel each
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)  # seconds
WIDTH, LEFT, RIGHT = 9.0, 1.45, 0.95  # inches: the picture, and beside the time axis
SPAN, CURVE, LANE, LINE, THUMBNAIL = WIDTH - LEFT - RIGHT, 1.6, 0.17, 0.155, 0.75  # inches
DARK = "0.35"


class Sheet:
    """A figure of rows, one below the other, that share a time axis of `seconds`. rows: name -> height in inches."""

    def __init__(self, seconds: float, rows: dict[str, float]):
        self.seconds, self.rows, self.height = seconds, rows, sum(rows.values())
        self.tops = dict(zip(rows, self.height - np.cumsum([0, *rows.values()])[:-1], strict=True))  # inches from below
        self.figure = Figure(figsize=(WIDTH, self.height))

    def axes(self, row: str, **more):
        bottom = self.tops[row] - self.rows[row]
        rectangle = LEFT / WIDTH, bottom / self.height, SPAN / WIDTH, self.rows[row] / self.height
        axes = self.figure.add_axes(rectangle, xlim=(0, self.seconds), xticks=(), **more)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        return axes

    def write(self, x: float, row: str, below: float, text: str, **more) -> None:
        """x from the left, `below` from the row's top, in inches."""
        family = list(dict.fromkeys([DEFAULT, font_for(text)[0]]))
        style = {"fontsize": 7.5, "va": "top", "parse_math": False, "fontfamily": family} | more
        if len(family) > 1:
            style["weight"] = "normal"  # of these fonts one weight is known
        self.figure.text(x / WIDTH, (self.tops[row] - below) / self.height, text, **style)

    def x(self, seconds: float) -> float:
        """Inches from the left end of the time axis."""
        return SPAN * seconds / self.seconds


def draw(analysis: Analysis, path: pathlib.Path) -> None:
    """Write the PNG."""
    best = [one for one, _ in analysis.shown]
    lanes, words = lanes_of(analysis.segments), words_of(analysis, best)
    notes = [line for note in analysis.notes for line in wrap(clean(note), columns, 140, 4)]
    thumbnails, height = choose(analysis.thumbnails, analysis.seconds, [peak for _, peak in analysis.shown])
    rows = {"title": 0.38, "notes": LINE * len(notes) + 0.2 if notes else 0.0, "thumbnails": height + 0.14 if thumbnails else 0.0}
    rows |= {"numbers": 0.2, "curve": CURVE, "lanes": LANE * len(lanes) + 0.06 if lanes else 0.0, "time": 0.45}
    rows |= {"words": LINE * len(words) + 0.08}
    sheet = Sheet(max(analysis.seconds, 0.04), rows)
    sheet.write(0.12, "title", 0.11, cut(clean(analysis.name), columns, 78), fontsize=10, weight="bold")
    size = " × ".join(map(str, analysis.size))
    sheet.write(WIDTH - 0.12, "title", 0.13, f"{clock(analysis.seconds, 1)} · {analysis.length} · {size}", ha="right", color=DARK)
    if notes:
        box = {"boxstyle": "square,pad=0.4", "facecolor": "white", "edgecolor": VERMILLION, "lw": 0.8}
        sheet.write(0.18, "notes", 0.06, "\n".join(notes), color=VERMILLION, weight="bold", bbox=box, linespacing=1.35)
    axes = draw_curve(sheet, analysis)
    draw_thumbnails(sheet, thumbnails, height)
    draw_numbers(sheet, best)
    draw_time(draw_lanes(sheet, lanes) if lanes else axes)
    for row, line in enumerate(words):
        sheet.write(0.18, "words", LINE * row, line, color=DARK if row == 0 else "black")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # font_for has said it
        save(sheet.figure, path, dpi=110)


def draw_curve(sheet: Sheet, analysis: Analysis):
    """The score in steps with the threshold, and the segments as a shade behind; returns the axes."""
    axes = sheet.axes("curve", ylim=(0, 1.02), yticks=(0, 0.5, 1))
    times, values = analysis.times, analysis.anomaly
    if len(values) > POINTS:
        times, values = np.linspace(0, analysis.seconds, POINTS + 1), peaks(times, values, POINTS)
    shades = [
        Path.unit_rectangle().transformed(Affine2D().scale(one.end - one.start, 1.02).translate(one.start, 0)) for one in analysis.segments
    ]
    for colour, alpha in ((BLUE, 0.2), *((("white", 1), (VERMILLION, 0.45)) if shades else ())):  # the last two inside segments
        fill = axes.fill_between(times, np.append(values, values[-1]), step="post", color=colour, alpha=alpha, lw=0)
        if colour != BLUE:
            fill.set_clip_path(Path.make_compound_path(*shades), axes.transData)
    for one in analysis.segments:
        axes.axvspan(one.start, one.end, color=VERMILLION, alpha=0.12, lw=0, zorder=0)
    axes.step(times, np.append(values, values[-1]), where="post", color=BLUE, lw=1.3 if len(values) < 500 else 0.8)
    axes.axhline(analysis.threshold, color="black", lw=0.9, ls=(0, (5, 3)))
    axes.set_ylabel("anomaly score", fontsize=8)
    beside = np.clip(analysis.threshold / 1.02, 0.09, 0.91)  # the two lines stay beside the axes
    label = f"threshold\n{analysis.threshold:.3f}"
    sheet.write(WIDTH - RIGHT + 0.06, "curve", CURVE * (1 - beside), label, va="center", linespacing=1.1)
    return axes


def lanes_of(segments: list[Found]) -> list[tuple[str, list[Found]]]:
    """(name, segments) per class, that with the highest score first; of more than LANES the others together."""
    found: dict[str, list[Found]] = {}
    for one in sorted(segments, key=lambda one: -one.score):
        found.setdefault(clean(one.label), []).append(one)
    lanes = list(found.items())
    if len(lanes) > LANES:
        rest = lanes[LANES - 1 :]
        lanes[LANES - 1 :] = [(f"{len(rest)} other classes", [one for _, found in rest for one in found])]
    return lanes


def draw_lanes(sheet: Sheet, lanes: list[tuple[str, list[Found]]]):
    """A row of bars per class, its name on the left; returns the axes."""
    axes = sheet.axes("lanes", facecolor="none", ylim=(-len(lanes), 0.06 / LANE), yticks=())
    for row, (label, found) in enumerate(lanes):
        bars = [(one.start, max(one.end - one.start, sheet.seconds / 700)) for one in found]  # none is too short to be seen
        axes.broken_barh(bars, (-row - 0.85, 0.7), color=VERMILLION, lw=0)
        below = 0.06 + LANE * (row + 0.5)
        sheet.write(LEFT - 0.08, "lanes", below, cut(label, columns, 22), ha="right", va="center", color=VERMILLION)
    return axes


def draw_numbers(sheet: Sheet, best: list[Found]) -> None:
    """The numbers of the listed segments above them; where two would overlap, that of the higher score stays."""
    centres = [sheet.x((one.start + one.end) / 2) for one in best]
    order = sorted(range(len(best)), key=lambda number: -best[number].score)
    for number, left in fit(centres, [0.14] * len(best), -0.07, SPAN + 0.07, order).items():
        style = {"ha": "center", "va": "bottom", "color": VERMILLION, "weight": "bold"}
        style["bbox"] = {"boxstyle": "square,pad=0.1", "facecolor": "white", "lw": 0}  # over the thumbnails' lines
        sheet.write(LEFT + left + 0.07, "numbers", 0.18, str(number + 1), **style)


def choose(thumbnails: list, seconds: float, peaks: list[float]) -> tuple[list, float]:
    """Those nearest to `peaks`, one of each listed segment, and as many others as fit side by side, evenly chosen from so many seconds; and
    their height in inches, less where there are many peaks.
    """
    if not thumbnails:
        return [], 0.0
    width, height = Image.open(io.BytesIO(thumbnails[0][1])).size
    times = np.array([time for time, _ in thumbnails])
    chosen = {int(np.abs(times - peak).argmin()) for peak in peaks}
    inches = min(THUMBNAIL, SPAN / 3 * height / width, ((SPAN + 0.06) / max(len(chosen), 1) - 0.06) * height / width)
    count = min(len(thumbnails), int((SPAN + 0.0601) / (inches * width / height + 0.06)))
    others = {int(np.abs(times - (place + 0.5) * seconds / count).argmin()) for place in range(count)} - chosen  # the middles of shares
    far = sorted(others, key=lambda number: -min((abs(times[number] - times[one]) for one in chosen), default=0.0))
    chosen |= set(far[: count - len(chosen)])
    return [(thumbnails[number][0], Image.open(io.BytesIO(thumbnails[number][1]))) for number in sorted(chosen)], inches


def draw_thumbnails(sheet: Sheet, thumbnails: list, height: float) -> None:
    """Each above its own time, or beside its neighbour and joined to its time by a line."""
    if not thumbnails:
        return
    width = height * thumbnails[0][1].width / thumbnails[0][1].height
    lefts = [sheet.x(seconds) - width / 2 for seconds, _ in thumbnails]
    for number in range(len(lefts)):  # pushed apart to the right, then back from the end
        lefts[number] = max(lefts[number], lefts[number - 1] + width + 0.06 if number else 0.0)
    for number in reversed(range(len(lefts))):
        lefts[number] = min(lefts[number], lefts[number + 1] - width - 0.06 if number + 1 < len(lefts) else SPAN - width)
    top, bottom = sheet.tops["thumbnails"], sheet.tops["curve"]
    for left, (seconds, picture) in zip(lefts, thumbnails, strict=True):
        place = (LEFT + left) / WIDTH, (top - height) / sheet.height, width / WIDTH, height / sheet.height
        axes = sheet.figure.add_axes(place, xticks=(), yticks=())
        axes.imshow(picture, aspect="auto", interpolation="antialiased")
        axes.spines[:].set(color=DARK, linewidth=0.6)
        x, y = np.array([LEFT + left + width / 2, LEFT + sheet.x(seconds)]), np.array([top - height, bottom])
        sheet.figure.add_artist(Line2D(x / WIDTH, y / sheet.height, color="0.6", lw=0.7, zorder=-1))


def draw_time(axes) -> None:
    """The time axis, in round steps."""
    end = axes.get_xlim()[1]
    step = next((step for step in STEPS if end / step <= 9), end)
    ticks = np.arange(0, end * (1 + 1e-9), step)
    axes.set_xticks(ticks, [clock(tick, 0 if step >= 1 else 1 if step >= 0.1 else 2) for tick in ticks])
    axes.set_xlabel("time", fontsize=8, labelpad=2)


def words_of(analysis: Analysis, best: list[Found]) -> list[str]:
    """Where the threshold comes from, then the listed segments."""
    lines = wrap(f"threshold {analysis.threshold:.3f}: {clean(analysis.threshold_from)}", columns, 140, 1)
    if not best:
        return [*lines, "no segment: no snippet reaches the threshold"]
    for number, one in enumerate(best, 1):
        text = f"{number}  {clock(one.start, 1)}–{clock(one.end, 1)}  {cut(clean(one.label), columns, 40)} {one.score:.2f}"
        first, *more = wrap(f"{text}: {clean(one.caption)}" if one.caption else text, columns, 140, 2)
        lines += [first, *(f"     {line}" for line in more)]
    more = len(analysis.segments) - len(best)
    return [*lines, f"     and {more} more, with lower scores"] if more else lines
