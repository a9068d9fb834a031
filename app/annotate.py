"""An annotated copy of a video, with its score curve burnt in, and clips of its segments: H.264 that browsers play, at the own time stamps.

The video may be anybody's: it is decoded and encoded in a process of its own, without torch (`python -m app.annotate`, its job, JSON, on
stdin), that is killed when its time is up, or the caller is interrupted. Its memory does not grow with the length, but for the index of MP4
(some 100 bytes a frame). Sound is copied where MP4 takes it as it is (app/mp4.py).
"""

import bisect
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from app import overlay
from app.mp4 import FEW_TICKS, MOST, TICKS, Output, Scaler, Sound, paste, split
from app.overlay import even
from utils.errors import BadInput
from utils.files import replacing
from utils.video.child import command, end_with_parent, environment, limit_memory
from utils.video.decoder import LIMITS, Limits
from utils.video.frames import NEXT, BrokenVideo, Video

if TYPE_CHECKING:  # imports much that the child does not need
    from app.analysis import Analysis

REPORT = 0.2  # seconds between two lines of progress
WHAT = {"annotated": "annotating", "plain": "cutting clips"}  # by the look of the frames
SLACK = 1e-4  # seconds by which stamps that were rounded on their way may differ
Progress = Callable[[int, int], None]


def write(
    analysis: "Analysis",
    *,
    copy: Path | str | None = None,
    clips: Path | str | None = None,
    name: str | None = None,
    margin: float = 1.0,
    limits: Limits = LIMITS,
    progress: Progress | None = None,
) -> list[Path]:
    """Write to `copy` (.mp4) the video with the score curve and the class of a running segment below the picture, which is as players show
    it, its longer side at most overlay.LONGEST pixels; and to the folder `clips` a clip per segment, with `margin` seconds before and
    behind it: NAME.001.CLASS.mp4, …, numbered by time. Returns the clips' paths. All files appear, or none; those of earlier runs stay.

    name: the video's, if not its own. A clip holds exactly the frames of that time, at the video's size; what lies behind the last one is
    not decoded without a copy. Both may take twice the limits' time and memory. progress(frames done, frames in all); without it a bar is
    shown. Raises BrokenVideo where the video cannot be decoded within the limits, BadInput where the files cannot be written.
    """
    if not 0 <= margin < math.inf:
        raise BadInput(f"margin of {margin} seconds around a segment: expected 0 or more")
    wanted, job = [], {"outputs": [], "overlay": None}
    if copy is not None:
        wanted.append((Path(copy), {"look": "annotated", "start": 0.0, "end": None}))
        job["overlay"] = _overlay(analysis)
    for number, one in enumerate(analysis.segments if clips is not None else (), 1):
        path = Path(clips) / f"{name or analysis.name}.{number:03d}.{file_name(one.label)}.mp4"
        wanted.append((path, {"look": "plain", "start": max(0.0, one.start - margin), "end": one.end + margin}))
    what = dict.fromkeys(WHAT[output["look"]] for _, output in wanted)
    if len(what) == 2:
        limits = replace(limits, timeout=limits.timeout and 2 * limits.timeout, memory=limits.memory and 2 * limits.memory)
    with contextlib.ExitStack() as stack:
        for path, output in wanted:
            job["outputs"].append(output | {"path": os.path.abspath(stack.enter_context(replacing(path)))})
        if wanted:
            _run(job, analysis, limits, progress, " and ".join(what))
    return [path for path, output in wanted if output["look"] == "plain"]


def _overlay(analysis: "Analysis") -> dict:
    """What the child draws below the picture: app.overlay.draw_strip's job, and the fonts of its texts."""
    from app.fonts import font_for
    from utils.evaluation.segments import clean

    notes = clean(" ".join(analysis.notes))
    segments = [{"start": one.start, "end": one.end, "label": clean(one.label), "score": one.score} for one in analysis.segments]
    texts = {"", notes, *(one["label"] for one in segments)}
    return {
        "times": analysis.times.tolist(),
        "scores": analysis.anomaly.tolist(),
        "threshold": analysis.threshold,
        "segments": sorted(segments, key=lambda one: one["start"]),
        "notes": notes,
        "fonts": {text: font_for(text)[1] for text in texts},
    }


def file_name(label: str) -> str:
    """A class name as part of a file name: letters of any script, digits, "-" and "_", at most 60 bytes. None is "annotated", which names
    a copy.
    """
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in label)
    kept = kept.encode(errors="replace")[:60].decode(errors="ignore").strip("_") or "segment"
    return "annotated_" if kept.lower() == "annotated" else kept


def _run(job: dict, analysis: "Analysis", limits: Limits, progress: Progress | None, what: str) -> None:
    """Let a child process do the job, and pass on how far it is. Raises as `write` does; the child does not outlive the call."""
    job |= {"video": os.path.abspath(analysis.path), "name": str(analysis.path), "limits": asdict(limits)}
    job |= {"size": analysis.size, "seconds": analysis.seconds, "fps": analysis.fps, "gap": float(np.diff(analysis.times).max())}
    expired, last = threading.Event(), {}
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        child = subprocess.Popen(
            command("app.annotate"),
            stdin=subprocess.PIPE,  # stays open: the child ends when this process does
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            start_new_session=True,  # Ctrl-C reaches only this process, which then kills it
        )
        stack.enter_context(contextlib.suppress(BrokenPipeError))  # closing the pipe to one that is dead
        stack.enter_context(child)
        stack.callback(child.kill)
        if limits.timeout is not None:
            timer = threading.Timer(limits.timeout, lambda: (expired.set(), child.kill()))
            stack.callback(timer.cancel)
            timer.start()
        if progress is None:
            bar = stack.enter_context(tqdm(total=analysis.frames, unit="frame", desc=what))
            progress = lambda done, _: bar.update(done - bar.n)  # noqa: E731
        with contextlib.suppress(BrokenPipeError):  # it has died already, which is told below
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
        for line in child.stdout:
            last = json.loads(line)
            if "frames" in last or "done" in last:
                progress(last.get("frames", analysis.frames), analysis.frames)
        code = child.wait()
        errors.seek(0)
        said = errors.read()[-4000:].decode(errors="replace").strip()
    if expired.is_set():
        found = f"{what} ran longer than {limits.timeout:g} s"
        raise BrokenVideo(f"{analysis.path}: {found}; expected at most that; allow it more time, or {NEXT}")
    if "broken" in last:
        raise BrokenVideo(last["broken"])
    if "failed" in last:
        raise OSError(*last["failed"])  # `replacing` names the file
    if code < 0:  # FFmpeg crashed, or the system was short of memory
        raise BrokenVideo(f"{analysis.path}: {what} died (signal {-code}); expected a sound file that fits into memory; {NEXT}")
    if code or "done" not in last:
        raise RuntimeError(f"{what} {analysis.path} ended with exit code {code}:\n{said}")


# From here on: the child process.


class Plain:
    """Frames as players show them, of even sides."""

    def __init__(self, first, job: dict):
        self.scaler = Scaler(first, (even(job["size"][0]), even(job["size"][1])))

    def __call__(self, frame, seconds: float) -> np.ndarray:
        planes = self.scaler(frame)
        return np.concatenate([plane.ravel() for plane in planes]).reshape(-1, planes[0].shape[1])


class Annotated:
    """Frames of the annotated copy: a canvas on which only what has changed is drawn anew."""

    def __init__(self, first, job: dict):
        self.job, self.pen = job["overlay"], overlay.Pen(job["overlay"]["fonts"])
        self.layout = overlay.arrange(tuple(job["size"]), self.job["notes"], self.pen)
        self.scaler = Scaler(first, self.layout.picture)
        self.played, waiting = map(self.scaler.planes, overlay.draw_strip(self.layout, self.job, self.pen))
        width, height = self.layout.size
        self.flat = np.empty((height * 3 // 2, width), np.uint8)
        self.canvas = split(self.flat)
        for plane, value in zip(self.canvas, (16, 128, 128), strict=True):
            plane[:] = value  # black beside a narrow picture
        self.frame = [plane[0, 0] for plane in self.scaler.planes(np.asarray(Image.new("RGB", (2, 2), overlay.VERMILLION)))]
        paste(self.canvas, waiting, 0, self.layout.ground)
        self.starts, self.cursor, self.header = [one["start"] for one in self.job["segments"]], 0, None

    def __call__(self, frame, seconds: float) -> np.ndarray:
        """(3/2 H, W): the same array each time."""
        paste(self.canvas, self.scaler(frame), *self.layout.place)
        number = bisect.bisect_right(self.starts, seconds + SLACK) - 1
        running = number >= 0 and seconds < self.job["segments"][number]["end"] - SLACK
        self._move_cursor(seconds)
        self._write_header(seconds, number if running else None)
        if running:
            self._draw_frame()
        return self.flat

    def _draw_frame(self) -> None:
        """A frame around the picture: a segment is running."""
        for plane, value, share in zip(self.canvas, self.frame, (1, 2, 2), strict=True):
            (left, top), (width, height) = ([length // share for length in pair] for pair in (self.layout.place, self.layout.picture))
            picture, line = plane[top : top + height, left : left + width], even(self.layout.font / 4) // share
            picture[:line], picture[-line:], picture[:, :line], picture[:, -line:] = (value,) * 4

    def _move_cursor(self, seconds: float) -> None:
        """What has been played is uncovered up to the cursor, which runs over the curve."""
        *_, top, bottom = self.layout.axis
        x = 2 * int(overlay.x_of(self.layout, seconds, self.job["times"][-1]) / 2)
        for plane, played, share, white in zip(self.canvas, self.played, (1, 2, 2), (235, 128, 128), strict=True):
            start, stop, header = self.cursor // share, (x + 2) // share, self.layout.header // share
            plane[self.layout.ground // share + header :, start:stop] = played[header:, start:stop]
            plane[(self.layout.ground + top) // share : (self.layout.ground + bottom) // share, x // share : stop] = white
        self.cursor = x

    def _write_header(self, seconds: float, running: int | None) -> None:
        snippet = min(max(0, bisect.bisect_right(self.job["times"], seconds + SLACK) - 1), len(self.job["scores"]) - 1)
        shown = int(seconds + SLACK), self.job["scores"][snippet], running
        if shown != self.header:
            self.header = shown
            one = None if running is None else self.job["segments"][running]
            drawn = overlay.draw_header(self.layout, shown[0], self.job["times"][-1], shown[1], one, self.pen)
            paste(self.canvas, self.scaler.planes(drawn), 0, self.layout.ground)


LOOKS = {"annotated": Annotated, "plain": Plain}


def work(job: dict, report: Callable[..., None]) -> None:
    """Decode the video once, up to the end of the last output, and write all outputs."""
    limits, name, step = job["limits"], job["name"], 1 / (job["fps"] or 25)
    ticks = TICKS if job["gap"] * TICKS < MOST else FEW_TICKS
    waiting = sorted((Output(**output, name=name, ticks=ticks) for output in job["outputs"]), key=lambda output: output.start)
    running, first, told = [], None, 0.0
    longest = math.inf if limits["max_seconds"] is None else limits["max_seconds"] + step
    with Video(job["video"], max_pixels=limits["max_pixels"], name=name) as video:
        for index, (seconds, frame) in enumerate(video.timed()):
            if first is None:
                first = frame
                sound = Sound(job["video"], frame.time or 0.0, limits["max_pixels"])
                draw = {look: LOOKS[look](frame, job) for look in {output.look for output in waiting}}
            if seconds > longest:
                raise BrokenVideo(f"{name}: longer than {limits['max_seconds']:g} s; expected at most that; cut it, or allow more seconds")
            while waiting and waiting[0].start - SLACK <= seconds:
                running.append(waiting.pop(0))
            for output in [output for output in running if output.end - SLACK <= seconds]:
                output.close(output.end)
                running.remove(output)
            if not running and not waiting:
                break
            pictures = {look: draw[look](frame, seconds) for look in {output.look for output in running}}
            for output in running:
                output.add(pictures[output.look], seconds, job["fps"], first, sound)
            for packet in sound.until(seconds):
                for output in running:
                    output.add_sound(*packet)
            if time.monotonic() - told > REPORT:
                told = time.monotonic()
                report(frames=index + 1)
    end = max(job["seconds"], seconds + 1 / ticks)
    for packet in sound.until(end) if running else ():
        for output in running:
            output.add_sound(*packet)
    for output in running + waiting:
        output.close(min(output.end, end))
    report(done=True)


def main() -> None:
    def report(**said) -> None:
        print(json.dumps(said), flush=True)

    job = json.loads(sys.stdin.readline())
    end_with_parent()
    memory = job["limits"]["memory"]
    limit_memory(memory)
    try:
        work(job, report)
    except BrokenVideo as error:
        report(broken=str(error))
    except MemoryError:
        report(broken=f"{job['name']}: does not fit into {memory} bytes; expected a smaller picture; {NEXT}")
    except OSError as error:
        report(failed=[error.errno, error.strerror])


if __name__ == "__main__":
    main()
