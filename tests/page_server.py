"""The web page over a stand-in for a detector, in a process of its own: `python -m tests.page_server PORT [--option value …]`.

A snippet's score is the brightness of its first frame, so that a test decides what is found. It prints the page's address.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from utils.analysis import Analysis, find_segments
from utils.decoder import Limits
from utils.page import serve
from utils.scores import Scores
from utils.video import BrokenVideo, Video, to_rgb

CLASSES = ("normal", "Fighting", "Explosion <b>&</b>")


class Brightness:
    """Detector.analyse, by brightness; slow: seconds that a video takes at least."""

    def __init__(self, slow: float = 0):
        self.slow = slow

    def analyse(self, path, *, limits: Limits, progress) -> Analysis:
        path, times, scores = Path(path), [], []
        with Video(path, max_pixels=limits.max_pixels) as video:
            for number, frame in enumerate(video.decode()):
                if frame.time > limits.max_seconds:
                    raise BrokenVideo(f"{path}: longer than {limits.max_seconds:g} s; expected at most that; cut it")
                if number % 16 == 0:
                    times.append(frame.time)
                    scores.append(to_rgb(frame).mean() / 255)
                    progress(path, len(scores), (video.expected() or 0) // 16 or None)
        if "crash" in path.name:
            raise ZeroDivisionError("a bug")
        time.sleep(self.slow)
        values = np.array(scores)
        fine = np.stack([1 - values, values * 0.7, values * 0.3], 1)
        all_scores, bounds = Scores(values, fine), np.array([*times, frame.time + 1 / video.fps])
        return Analysis(
            path=path,
            name=path.stem,
            frames=video.decoded,
            fps=video.fps,
            size=(video.width, video.height),
            times=bounds,
            scores=all_scores,
            classes=CLASSES,
            threshold=0.5,
            threshold_from="a stand-in's",
            segments=find_segments(all_scores, bounds, CLASSES, 0.5),
            notes=["A stand-in by brightness: its scores mean nothing."],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--folder", type=Path)
    for name, kind in {"slow": float, "max-bytes": int, "max-seconds": float, "max-stored": int, "queue-size": int}.items():
        parser.add_argument(f"--{name}", type=kind)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    serve(Brightness(given.pop("slow", 0)), **given)
