"""The web page over a stand-in for a detector, in a process of its own, and videos for it.

    python tests/page_server.py --port N [--folder DIR --max-bytes N …]

A snippet's score is the brightness of its first frame, so that a test decides what is found. It prints the page's address.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from app.analysis import Analysis, find_segments
from app.web.page import serve
from clips import make_video
from utils.captions.formats import Caption, VideoCaptions
from utils.errors import exit_code
from utils.evaluation.scores import Scores
from utils.files import ROOT
from utils.labels import video_name
from utils.video.decoder import Limits
from utils.video.frames import BrokenVideo, Video, to_rgb

MAX_BYTES, MAX_SECONDS = 300_000, 20
LIMITS = ["--max-bytes", MAX_BYTES, "--max-seconds", MAX_SECONDS, "--queue-size", 2]
MARKUP = "<img src=x onerror=document.title='hit'>{{value}}${7*7}.mp4"
CLASSES = ("normal", "Fighting", "Explosion <b>&</b>")


class Brightness:
    """Detector.analyse, by brightness. A video named "slow" takes two seconds, one named "crash" meets a bug, one named "endless" ten
    minutes.
    """

    caption_encoder = None

    def analyse(self, path, *, captions=None, limits: Limits, progress) -> Analysis:
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
        for _ in range(12_000 * ("endless" in path.name)):
            progress(path, len(scores), None)
            time.sleep(0.05)
        time.sleep(2 * ("slow" in path.name))
        values = np.array(scores)
        fine = np.stack([1 - values, values * 0.7, values * 0.3], 1)
        all_scores, bounds = Scores(values, fine), np.array([*times, frame.time + 1 / video.fps])
        said = captions.captions if captions else ()
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
            captions=said,
            segments=find_segments(all_scores, bounds, CLASSES, 0.5, said, video.decoded),
            notes=["A stand-in by brightness: its scores mean nothing."],
        )


def street(number: int) -> np.ndarray:
    """Dark for 4 s, bright for 2, dark for 4, bright for 1, dark: 12 seconds of 25 frames, with a spot that moves."""
    bright = 100 <= number < 150 or 250 <= number < 275
    picture = np.full((120, 160, 3), 210 if bright else 50, np.uint8)
    picture[40:60, number % 140 : number % 140 + 20] = (200, 60, 20)
    return picture


def add_sound(silent: Path, path: Path) -> None:
    """Copy a video beside 12 s of silence in AAC."""
    import av

    with av.open(str(silent)) as source, av.open(str(path), "w") as target:
        [video] = source.streams.video
        picture, sound = target.add_stream_from_template(video), target.add_stream("aac", rate=8000, layout="mono")
        target.start_encoding()
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.stream = picture
                target.mux(packet)
        for start in range(0, 12 * 8000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            frame.rate, frame.pts = 8000, start
            target.mux(sound.encode(frame))
        target.mux(sound.encode())


def make_clips(outside: Path) -> Path:
    """A folder of videos to choose from and to upload, with links out of it; beside it, in `outside`, what must not be given."""
    (outside / "secret.mp4").write_bytes(b"the secret")
    folder = outside / "clips"
    folder.mkdir()
    size = (160, 120)
    make_video(folder / "street.mp4", 300, size, picture=street)
    make_video(folder / "dark.mp4", 100, size, picture=lambda number: np.full((120, 160, 3), 30, np.uint8))
    make_video(folder / "old.avi", 300, size, "mpeg4", picture=street)
    add_sound(folder / "old.avi", folder / "sound.mp4")
    make_video(folder / "long.mp4", 25 * MAX_SECONDS + 50, size, picture=street)
    make_video(folder / "crash.mp4", 20, size)
    make_video(folder / "slow.mp4", 20, size)
    make_video(folder / "endless.mp4", 20, size)
    shutil.copy(folder / "street.mp4", folder / MARKUP)
    whole = (folder / "street.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    (folder / "large.mp4").write_bytes(bytes(MAX_BYTES + 1))
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    return folder


class Server:
    """The page in a process of its own, started by `python -m module --port N words…`, which must print its address.

    Environment variables try to loosen it.
    """

    def __init__(self, module, *words):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "True"}
        # What glibc keeps of a decoder's buffers for next time (up to 60 MB, back and forth) would hide a leak.
        environment |= {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, "--port", str(self.port), *map(str, words)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said, self.open = [], threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self.open.wait(120), "".join(self.said)
        self.url = f"http://127.0.0.1:{self.port}/"
        assert f"page: {self.url}\n" in self.said, "".join(self.said)

    def _listen(self):
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("page: "):
                self.open.set()
        self.open.set()

    def home(self) -> Path:
        """The page's own folder, from the process's working directory beside it."""
        return Path(os.readlink(f"/proc/{self.process.pid}/cwd")).with_name("files")

    def stop(self) -> None:
        """End it as `kill` does; it must leave nothing behind."""
        home = self.home()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, "".join(self.said)
        assert not home.parent.exists()


def event(client, target, data, session) -> dict:
    """An event by hand: `data` for the function behind the component with the id `target`."""
    config = client.get("config").json()
    ids = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
    function = next(one["id"] for one in config["dependencies"] if ids[target] in [place[0] for place in one["targets"]])
    return {"data": data, "fn_index": function, "session_hash": session, "trigger_id": ids[target]}


def ask(client, target, data, session=None) -> str:
    """All that the server says to an event sent by hand."""
    session = session or os.urandom(6).hex()
    answer = client.post("gradio_api/queue/join", json=event(client, target, data, session))
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text}"
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
        lines = []
        for line in stream.iter_lines():
            lines.append(line)
            if "process_completed" in line:
                break
    return "\n".join(lines)


def file_data(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--folder", type=Path)
    for name, kind in {"max-bytes": int, "max-seconds": float, "max-stored": int, "queue-size": int, "keep": float}.items():
        parser.add_argument(f"--{name}", type=kind)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    captions = {video_name(MARKUP): VideoCaptions(300, 25, [Caption(0, 300, MARKUP)])}
    sys.exit(exit_code(lambda: serve(Brightness(), captions=captions, **given)))
