"""What is burnt into an annotated copy of a video: below the picture a strip with the score curve and the class of a running segment.
Nothing but a frame stands over the picture, whose corners have the camera's own clock and name.

Everything is drawn by PIL as RGB pictures, once or where it changes (a second, a snippet, a segment); app/annotate.py copies them into
the frames. No torch and no matplotlib, so that the process that draws starts at once. Sizes in pixels, (width, height); times in seconds
from the first frame. Colours are Okabe and Ito's, on a dark ground.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.evaluation.segments import clock

LONGEST, SHORTEST, NARROWEST = 1280, 640, 320  # of a copy's longer side, and of its width, where the text must be readable
GROUND, WHITE, GREY, SKY, AMBER, VERMILLION = "#15181c", "#ffffff", "#aab2bb", "#56b4e9", "#e69f00", "#d55e00"
NOTES = 3  # lines of notes
LONG = 400  # characters: no line has as many
FINE = 3  # the curve is drawn so many times larger, for smooth edges


@dataclass(frozen=True)
class Layout:
    """Where things are in a frame of `size`: the picture, of size `picture`, at `place`; below `ground` pixels the strip with the curve."""

    size: tuple[int, int]
    picture: tuple[int, int]
    place: tuple[int, int]
    ground: int
    font: int
    axis: tuple[int, int, int, int]  # x of 0 s, x of the end, y (in the strip) of score 1, y of score 0
    notes: tuple[str, ...]  # lines

    @property
    def strip(self) -> tuple[int, int]:
        return self.size[0], self.size[1] - self.ground

    @property
    def header(self) -> int:
        """Height of the strip's first line, which says time, class and score."""
        return even(2 * self.font)


def even(value: float) -> int:
    """The nearest even number, at least 2: yuv420p has one colour for 2 × 2 pixels."""
    return max(2, 2 * round(value / 2))


def arrange(size: tuple[int, int], notes: str, pen: "Pen") -> Layout:
    """The layout for a video shown at `size` with these notes."""
    scale = min(LONGEST / max(size), max(1.0, SHORTEST / max(size)))
    width = max(NARROWEST, even(size[0] * scale))
    font = max(12, round(min(width, 1.4 * size[1] * scale) / 52))
    lines = pen.wrap(notes, font, width - font, NOTES)
    header, curve = even(2 * font), max(4 * font, even(0.14 * size[1] * scale))
    strip = even(header + curve + font * (2.4 + (0.4 + 1.35 * len(lines) if lines else 0)))
    scale = min(scale, (LONGEST - strip) / size[1])  # the strip belongs to the longer side of a tall picture
    picture = even(size[0] * scale), even(size[1] * scale)
    axis = (font // 2, width - even(6.4 * font), header + font // 3, header + curve)
    place = 2 * ((width - picture[0]) // 4), 0
    return Layout((width, picture[1] + strip), picture, place, picture[1], font, axis, tuple(lines))


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def peaks(times: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    """(columns,) the highest of the snippets' values (T,) in each of so many equal parts of the time from times[0] to times[T]."""
    bounds = np.linspace(times[0], times[-1], columns + 1)
    first = np.clip(np.searchsorted(times, bounds[:-1], side="right") - 1, 0, len(values) - 1)
    last = np.clip(np.searchsorted(times, bounds[1:], side="left"), first + 1, len(values))
    pairs = np.stack([first, last], 1).ravel()
    return np.maximum.reduceat(np.append(values, values[-1]), pairs)[::2]


def fit(centres, widths, low: float, high: float, order, gap: float = 0) -> dict[int, float]:
    """Which of the boxes centred at `centres` find a place between low and high, and their left edges: {index: left}.

    They are placed in `order`, pushed inside at the ends; one that would come nearer than `gap` to another is left out.
    """
    placed: dict[int, float] = {}
    for index in order:
        left = max(low, min(centres[index] - widths[index] / 2, high - widths[index]))
        if left + widths[index] <= high and all(
            left + widths[index] + gap <= other or other + widths[number] + gap <= left for number, other in placed.items()
        ):
            placed[index] = left
    return placed


def cut(text: str, measure: Callable[[str], float], width: float) -> str:
    """As much of the text as fits, with an ellipsis where something was left out."""
    shown, kept = text if len(text) <= LONG else f"{text[:LONG]}…", min(len(text), LONG)
    while kept and measure(shown) > width:
        kept -= 1
        shown = f"{text[:kept].rstrip()}…"
    return shown if measure(shown) <= width else ""


def wrap(text: str, measure: Callable[[str], float], width: float, lines: int) -> list[str]:
    """The text in at most so many lines, broken at spaces, beside Chinese characters, or else anywhere; what does not fit is left out with
    an ellipsis.
    """
    result, rest = [], text
    while rest and len(result) < lines - 1 and measure(rest[:LONG]) > width:
        kept = min(len(rest), LONG)
        while kept > 1 and measure(rest[:kept]) > width:
            kept -= 1
        places = (at for at in range(min(kept, len(rest) - 1), 0, -1) if rest[at] == " " or _wide(rest[at - 1]) or _wide(rest[at]))
        kept = next(places, kept)
        result.append(rest[:kept].rstrip())
        rest = rest[kept:].lstrip()
    return [*result, cut(rest, measure, width)] if rest else result


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


class Pen:
    """Text in the fonts that have its characters. fonts: {text: path of a font file}; every other text is written in the font of ""."""

    def __init__(self, fonts: dict[str, str]):
        self.fonts, self.loaded = fonts, {}

    def font(self, text: str, size: int) -> ImageFont.FreeTypeFont:
        key = self.fonts.get(text, self.fonts[""]), size
        if key not in self.loaded:
            self.loaded[key] = ImageFont.truetype(Path(key[0]), size)
        return self.loaded[key]

    def width(self, text: str, size: int) -> float:
        return self.font(text, size).getlength(text)

    def write(self, draw: ImageDraw.ImageDraw, place, text: str, size: int, colour=WHITE, anchor="la", shown: str | None = None) -> None:
        """`shown` is what is written of `text`, where that is not all."""
        draw.text(place, text if shown is None else shown, colour, self.font(text, size), anchor)

    def cut(self, text: str, size: int, width: float) -> str:
        return cut(text, self.font(text, size).getlength, width)

    def wrap(self, text: str, size: int, width: float, lines: int) -> list[str]:
        return wrap(text, self.font(text, size).getlength, width, lines)


def x_of(layout: Layout, seconds: float, end: float) -> float:
    left, right = layout.axis[:2]
    return left + (right - left) * min(1.0, max(0.0, seconds / end if end > 0 else 0.0))


def draw_strip(layout: Layout, job: dict, pen: Pen) -> tuple[np.ndarray, np.ndarray]:
    """The strip, (S, W, 3) uint8, as it looks where the video has been played, and where it has not yet.

    job: times (T+1), scores (T), threshold, segments (start, end, label, score), notes (one text).
    """
    (width, height), font, end = layout.strip, layout.font, job["times"][-1]
    left, right, top, bottom = layout.axis
    image = Image.new("RGB", (width, height), GROUND)
    image.paste(_curve(layout, job), (left, 0))
    draw = ImageDraw.Draw(image)
    limit = round(bottom - job["threshold"] * (bottom - top))
    for text, y in (("1", top), ("0", bottom)):
        if abs(y - limit) > 1.7 * font:
            pen.write(draw, (right + font // 2, y), text, font, GREY, "lm")
    middle = min(max(limit, top + 0.6 * font), bottom - 0.5 * font)  # of its two lines of text, which stay beside the curve
    for text, y in (("threshold", middle - 0.55 * font), (f"{job['threshold']:.3f}", middle + 0.55 * font)):
        pen.write(draw, (right + font // 2, y), text, font, AMBER, "lm")
    bars = [(x_of(layout, one["start"], end), x_of(layout, one["end"], end)) for one in job["segments"]]
    for start, stop in bars:
        draw.rectangle((start, bottom + 3, max(start + 1, stop - 1), bottom + 3 + font // 3), VERMILLION)
    labels = [one["label"] for one in job["segments"]]
    shown = [pen.cut(label, font, 0.4 * width) for label in labels]
    widths = [pen.font(label, font).getlength(cut) for label, cut in zip(labels, shown, strict=True)]
    order = sorted(range(len(labels)), key=lambda number: -job["segments"][number]["score"])
    placed = fit([(start + stop) / 2 for start, stop in bars], widths, left, width - font // 2, order, font)
    for number, x in placed.items():
        pen.write(draw, (x, bottom + 0.55 * font), labels[number], font, WHITE, shown=shown[number])
    for row, line in enumerate(layout.notes):
        pen.write(draw, (left, bottom + (2.4 + 1.35 * row) * font), job["notes"], font, AMBER, shown=line)
    waiting = image.copy()
    waiting.paste(Image.blend(Image.new("RGB", image.size, GROUND), image, 0.55).crop((left, top, right, bottom)), (left, top))
    for drawn in (image, waiting):
        for x in range(left, right, font // 2):
            ImageDraw.Draw(drawn).line((x, limit, min(x + font // 4, right), limit), AMBER, max(1, font // 12))
    return np.asarray(image), np.asarray(waiting)


def _curve(layout: Layout, job: dict) -> Image.Image:
    """The curve alone, filled, from 0 s to the end; what belongs to a segment stands out."""
    left, right, top, bottom = layout.axis
    columns, height, end = FINE * (right - left), FINE * (bottom - top), job["times"][-1]
    times = np.asarray(job["times"])
    values = np.clip(peaks(times, np.asarray(job["scores"]), columns), 0, 1)
    level = height - np.round(values * height).astype(int)  # (columns,) rows from above
    rows = np.arange(height)[:, None]
    inside = np.zeros(columns, bool)
    for one in job["segments"]:
        start, stop = (int(columns * min(1.0, one[key] / end)) if end > 0 else 0 for key in ("start", "end"))
        inside[start : max(stop, start + 1)] = True
    line = np.where(inside[:, None], _mix(VERMILLION, WHITE, 0.55), _mix(SKY))  # (columns, 3), as are the next two
    ground = np.where(inside[:, None], _mix(VERMILLION, GROUND, 0.28), _mix(WHITE, GROUND, 0.05))
    fill = np.where(inside[:, None], _mix(VERMILLION, GROUND, 0.8), _mix(SKY, GROUND, 0.42))
    picture = np.where((rows >= level)[..., None], fill, ground)  # (height, columns, 3)
    upper = np.minimum(level, np.minimum(np.append(level[1:], level[-1]), np.append(level[0], level[:-1])))  # joins the steps
    picture = np.where(((rows >= upper - FINE // 2) & (rows < level + 2 * FINE - FINE // 2))[..., None], line, picture)
    drawn = Image.fromarray(picture).resize((right - left, bottom - top), Image.Resampling.BOX)
    whole = Image.new("RGB", (right - left, layout.strip[1]), GROUND)
    whole.paste(drawn, (0, top))
    return whole


def _mix(colour: str, other: str = GROUND, share: float = 1.0) -> np.ndarray:
    """(3,) uint8: so much of the one colour, the rest of the other."""
    one, two = (np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)]) for name in (colour, other))
    return np.round(share * one + (1 - share) * two).astype(np.uint8)


def draw_header(layout: Layout, seconds: float, end: float, score: float, running: dict | None, pen: Pen) -> np.ndarray:
    """(header, W, 3) uint8: the strip's first line. running: the segment (label, score) whose class is named; a long name is cut."""
    image = Image.new("RGB", (layout.size[0], layout.header), GROUND)
    draw, font, middle = ImageDraw.Draw(image), layout.font, layout.header // 2
    time = f"{clock(seconds)} / {clock(end)}"
    pen.write(draw, (layout.axis[0], middle), time, font, WHITE, "lm")
    text = f"anomaly score {score:.2f}"
    box = pen.width(text, font) + font
    right = layout.size[0] - layout.axis[0]
    if running:
        draw.rectangle((right - box, 2, right, layout.header - 3), VERMILLION)
        left, peak = layout.axis[0] + pen.width(time, font) + font, f" · peak {running['score']:.2f}"
        space = right - box - font - left  # between time and score
        peak = peak if pen.width(peak, font) < space / 2 else ""
        shown = pen.cut(running["label"], font, space - pen.width(peak, font) - font)
        width = pen.font(running["label"], font).getlength(shown)
        start = left + (space - width - pen.width(peak, font)) / 2
        draw.rectangle((start - font / 2, 2, start + width + pen.width(peak, font) + font / 2, layout.header - 3), VERMILLION)
        pen.write(draw, (start, middle), running["label"], font, WHITE, "lm", shown)
        pen.write(draw, (start + width, middle), peak, font, WHITE, "lm")
    pen.write(draw, (right - box / 2, middle), text, font, WHITE, "mm")
    return np.asarray(image)
