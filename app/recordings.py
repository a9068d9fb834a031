"""A folder of recordings: those of a camera that follow each other are one to the scores, and what was found is one page, report.html."""

import base64
import contextlib
import hashlib
import json
import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from app import export
from app.analysis import Analysis
from utils.errors import BadInput
from utils.evaluation.segments import clean
from utils.files import replacing
from utils.labels import video_name
from utils.video.extraction import Extracted
from utils.video.files import NO_DAY, begins, camera_of

GAP = 5.0  # seconds by which one may begin before or behind the end of the one before
MOST = 2000  # events of a page, some 5 kB each
PLAYED = (".mp4", ".m4v", ".mov", ".webm", ".mkv")  # that browsers may play; where one cannot, the annotated copy or clip is played


class Recordings:
    """The videos of a run, each with the path of its JSON below `output`. captions: by a video's name; latency, limits: Detector.analyse's.

    A video's scores see of the one before and of the one behind it what Detector.of_features says: they depend on these files, not on what
    was done before, or who shares the work. JSON: a video's, as app.export.read_done gives it.
    """

    def __init__(self, detector, videos: dict[Path, Path], output: Path, captions: dict, latency: float | None, limits):
        self.detector, self.videos, self.output, self._captions = detector, videos, output, captions
        self._latency, self._limits, self._extracted, self._lengths = latency, limits, {}, {}
        self.cameras = {path: camera_of(target.with_name(path.name).relative_to(output)) for path, target in videos.items()}
        self.order = sorted(videos, key=lambda path: (self.cameras[path], begins(path) or datetime.min, path))
        self._place = {path: at for at, path in enumerate(self.order)}

    def read(self, path: Path) -> dict | None:
        """The JSON of a video that is done, whatever its neighbours were then."""
        return export.read_done(self.videos[path], self.detector, self._about(path))

    def done(self, path: Path) -> dict | None:
        """The JSON of a video that is done, with the neighbours that it has."""
        done = self.read(path)
        return done if done and done.get("context") == export.plain(self._context(path)) else None

    def analyse(self, path: Path) -> tuple[Analysis, dict]:
        """The analysis, and what else its JSON says: its neighbours, when it begins, a JPEG of each segment. Raises as Detector.analyse."""
        video, sides = self._extract(path), self._sides(path)
        kept = {path, *sides[0], *self.order[self._place[path] :]}  # the next one's neighbours, too
        self._extracted = {one: found for one, found in self._extracted.items() if one in kept}
        near = ([(self._extract(one), self._texts(one)) for one in side] for side in sides)
        analysis = self.detector.of_features(video, self._texts(path), self._latency, *near)
        begun, stills = self._length(path)[0], []
        for one in analysis.segments:
            peak = analysis.peak(one)
            jpeg = min(analysis.thumbnails, key=lambda offered: abs(offered[0] - peak), default=(0, b""))[1]
            stills.append(base64.b64encode(jpeg).decode())
        return analysis, export.plain({"context": self._context(path), "begins": begun and begun.isoformat(), "stills": stills})

    def _texts(self, path: Path):
        return self._captions.get(video_name(path.name))

    def _about(self, path: Path) -> dict:
        return self.detector.about_video(path, self._texts(path), self._latency)

    def _context(self, path: Path) -> list | None:
        """What is known of the files before and behind whose snippets the scores may see."""
        sides = self._sides(path)
        return [[self._about(one)["source"] for one in side] for side in sides] if any(sides) else None

    def _extract(self, path: Path) -> Extracted:
        if path not in self._extracted:
            with export.progress_bar(path.name) as bar:
                self._extracted[path] = self.detector.extract(path, self._texts(path), limits=self._limits, progress=bar)
        return self._extracted[path]

    def _length(self, path: Path) -> tuple[datetime | None, float, int]:
        """When a video begins, None where that is unknown or it cannot be scored, its seconds and snippets. What is done is not decoded."""
        if path not in self._lengths:
            self._lengths[path] = None, 0.0, 0
            with contextlib.suppress(BadInput):  # told when its turn comes
                if done := self.read(path):
                    begun = datetime.fromisoformat(done["begins"]) if done.get("begins") else begins(path)
                    self._lengths[path] = begun, done["seconds"], len(done["snippets"])
                else:
                    video = self._extract(path)
                    self._lengths[path] = begins(path, video.created), float(video.times[-1]), len(video.features)
        return self._lengths[path]

    def _sides(self, path: Path) -> tuple[list[Path], list[Path]]:
        """The videos before and behind, up to a window of snippets, with which it is one recording, in order of time."""
        sides = [], []
        for side, step in zip(sides, (-1, 1), strict=True):
            left, at = self.detector.length - 1, self._place[path]
            while left > 0 and 0 <= at + step < len(self.order) and self._follow(*sorted((at, at + step))):
                at += step
                side.append(self.order[at])
                left -= self._length(self.order[at])[2]
        return sides[0][::-1], sides[1]

    def _follow(self, *places: int) -> bool:
        """Whether the second of two videos begins where the first one ends."""
        one, behind = (self.order[place] for place in places)
        if self.cameras[one] != self.cameras[behind]:
            return False
        (begun, seconds, _), (then, *_) = self._length(one), self._length(behind)
        return bool(begun and then) and abs((then - begun).total_seconds() - seconds) <= GAP


def write_report(path: Path, recordings: Recordings, found: dict[Path, dict], notes: list[str]) -> None:
    """The page of a run, one file that asks no other host: of `found` (video -> JSON) the MOST events of the highest scores, each with its
    picture and what a player plays. Names and captions are shown as text.
    """
    events = []
    for video, done in found.items():
        begun, stills = done.get("begins") and datetime.fromisoformat(done["begins"]), done.get("stills") or []
        for number, one in enumerate(done["segments"]):
            when = (begun + timedelta(seconds=one["start"])).isoformat(" ", "seconds") if begun else ""
            told = {"when": when.split()[1] if when and begun.date() == NO_DAY else when, "hour": when[11:13]}
            told |= {"camera": clean(recordings.cameras[video]), "file": clean(video.name), "still": "".join(stills[number : number + 1])}
            plays = _plays(recordings, video, done["files"], number + 1, one["start"])
            events.append(one | told | {"class": clean(one["class"]), "caption": clean(one["caption"] or ""), "plays": plays})
    best = sorted(events, key=lambda one: -one["score"])[:MOST]
    value = {"events": best, "all": len(events), "videos": len(found), "left": len(recordings.videos) - len(found), "notes": notes}
    data = re.sub("[<>&\u2028\u2029]", lambda sign: f"\\u{ord(sign[0]):04x}", json.dumps(export.plain(value), ensure_ascii=False))
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    for kind in ("style", "script"):  # the page allows these two, and nothing that a name might smuggle in
        inside = re.search(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)[1]
        page = page.replace(f"{{{kind}}}", base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode())
    with replacing(path) as temporary:
        temporary.write_text(page.replace("{data}", data), encoding="utf-8")


def _plays(recordings: Recordings, video: Path, files, number: int, start: float) -> list[tuple[str, float]]:
    """Addresses from the page, and seconds: the video's own, and of its copies, which every browser plays."""
    target = recordings.videos[video]
    places = [(target.with_name(name), start) for name in files if name.endswith(".annotated.mp4")]
    places += [(target.with_name(name), min(1.0, start)) for name in files if name.startswith(f"{target.stem}.{number:03d}.")]
    places.insert(0 if video.suffix.lower() in PLAYED else len(places), (video, start))
    home = os.path.realpath(recordings.output)
    return [(quote(os.fsencode(os.path.relpath(os.path.realpath(place), home))), seconds) for place, seconds in places]
