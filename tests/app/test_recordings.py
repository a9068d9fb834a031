"""app/recordings.py and demo.py on folders of recorders: trees, clocks, files that follow each other, shares, and report.html."""

import itertools
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

import demo
from app import export
from app.detector import Detector
from app.recordings import Recordings
from clips import make_video
from utils.errors import BadInput
from utils.evaluation.scores import Scores
from utils.files import ROOT, locked
from utils.video.crops import Recipe
from utils.video.extraction import Extracted
from utils.video.frames import BrokenVideo


@pytest.fixture(scope="module")
def clip_file(small_clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(small_clip.state_dict(), path)
    return str(path)


@pytest.fixture
def words(clip_file, tmp_path):
    words = ["--classes", "person falling", "smoke", "--clip", clip_file, "--device", "cpu", "--threshold", "0.001", "--no-video"]
    return [*words, "--output", str(tmp_path / "out")]


def make_tree(root, **lengths):
    """A folder of videos: path -> frames."""
    for name, frames in lengths.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_video(path, frames=frames)
    return root


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def report(out) -> dict:
    text = (out / "report.html").read_text()
    assert text.startswith(f"{export.MARK}\n")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def test_a_tree_of_recorders(words, tmp_path, capsys):
    """Equal names in different folders, names that differ in their extension alone; done is not done again; one page of all."""
    lengths = {"cam1/08-00.mp4": 20, "cam2/08-00.mp4": 36, "cam2/ok.mp4": 52, "cam2/ok.avi": 60}
    folder, out = make_tree(tmp_path / "week", **lengths), tmp_path / "out"
    demo.main([str(folder), *words])
    stems = {"cam1/08-00": 20, "cam2/08-00": 36, "cam2/ok_mp4": 52, "cam2/ok_avi": 60}
    ends = (".json", ".csv", ".snippets.csv", ".png")
    assert files(out) == {f"{stem}{end}" for stem in stems for end in ends} | {"segments.csv", "report.html"}
    for stem, frames in stems.items():
        assert json.loads((out / f"{stem}.json").read_text())["frames"] == frames
    page = report(out)
    assert [page[key] for key in ("all", "videos", "left")] == [4, 4, 0]
    told = {(one["camera"], one["file"], one["when"], one["hour"], one["plays"][0][0]) for one in page["events"]}
    assert told == {
        ("cam1", "08-00.mp4", "08:00:00", "08", "../week/cam1/08-00.mp4"),
        ("cam2", "08-00.mp4", "08:00:00", "08", "../week/cam2/08-00.mp4"),
        ("cam2", "ok.mp4", "", "", "../week/cam2/ok.mp4"),
        ("cam2", "ok.avi", "", "", "../week/cam2/ok.avi"),
    }
    assert all(one["still"].startswith("/9j/") for one in page["events"])  # JPEG
    before = {name: (out / name).read_bytes() for name in files(out)}
    capsys.readouterr()
    demo.main([str(folder), *words])
    assert capsys.readouterr().out.count("done before") == 4
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    demo.main([str(folder / "cam1" / "08-00.mp4"), *words, "--output", str(out / "cam1")])
    assert "done before" in capsys.readouterr().out


def test_captions_of_two_videos_of_one_name(words, tmp_path):
    folder = make_tree(tmp_path / "week", **{"cam1/08-00.mp4": 20, "cam2/08-00.mp4": 20})
    (tmp_path / "08-00.jsonl").write_text('{"video": "08-00", "frames": 20}\n{"frames": [0, 16], "caption": "a man"}\n')
    with pytest.raises(BadInput, match=r"--captions: 08-00 is the name of .*cam1.* and .*cam2.*; captions go by name: .*"):
        demo.main([str(folder), *words, "--captions", str(tmp_path)])


class Windows(Detector):
    """A detector whose score of a snippet tells all that stands in its window of 8 snippets. made: path -> Extracted."""

    def __init__(self, made: dict):
        more = {"threshold": 0.5, "threshold_from": "a test", "length": 8, "device": torch.device("cpu")}
        super().__init__(self.windows, None, Recipe(crops=1), ("normal", "odd"), **more)
        self.made, self.decoded = made, []

    def windows(self, videos):
        weights = torch.linspace(-1, 1, 8)
        parts = {key: features[:, 0].split(8) for key, features in videos}
        scores = {key: torch.cat([part * (part * weights[: len(part)]).sum() for part in chunks]) for key, chunks in parts.items()}
        return {key: Scores(coarse=torch.sigmoid(found).numpy()) for key, found in scores.items()}

    def extract(self, path, captions=None, *, limits=None, progress=None):
        self.decoded.append(path.name)
        if str(path) not in self.made:
            raise BrokenVideo(f"{path}: broken")
        return self.made[str(path)]._replace(path=path)


def video(features, created=None):
    times = np.arange(len(features) + 1) * 0.64
    return Extracted("", features[:, None, None].numpy(), times, 16 * len(features), 25.0, (64, 48), [], created=created)


def recorded(made: dict, tmp_path, *names, latency=None):
    videos = {tmp_path / "in" / name: (tmp_path / "out" / name).with_suffix(".json") for name in names}
    by_name = {str(tmp_path / "in" / name): found for name, found in made.items()}
    return Recordings(Windows(by_name), videos, tmp_path / "out", {}, latency, None)


def scores(recordings, *names):
    paths = [next(path for path in recordings.videos if str(path).endswith(f"/{name}")) for name in names]
    return torch.cat([torch.from_numpy(recordings.analyse(path)[0].anomaly) for path in paths])


@pytest.mark.parametrize(("cuts", "latency"), [((3,), None), ((2, 4), None), ((6,), 2.0), ((2, 5, 9), 2.0)])
@pytest.mark.parametrize("clocks", ["names", "metadata"])
def test_files_that_follow_each_other_have_the_scores_of_one(tmp_path, cuts, latency, clocks):
    features = torch.randn(14, generator=torch.manual_seed(0))
    whole = recorded({"whole.mp4": video(features)}, tmp_path, "whole.mp4", latency=latency)
    expected, made = scores(whole, "whole.mp4"), {}
    for start, stop in itertools.pairwise((0, *cuts, 14)):
        begun = datetime(2024, 5, 1, 23, 59, 58) + timedelta(seconds=start * 0.64)
        name = f"cam1_{begun:%Y%m%d_%H%M%S}.mp4" if clocks == "names" else f"part{start:02d}.mp4"
        made[name] = video(features[start:stop], None if clocks == "names" else f"{begun.isoformat()}Z")
    recordings = recorded(made, tmp_path, *made, latency=latency)
    assert torch.allclose(scores(recordings, *made), expected, atol=1e-6)
    assert sorted(recordings.detector.decoded) == sorted(made)  # each once
    alone = torch.cat([scores(recorded(made, tmp_path, name, latency=latency), name) for name in made])
    assert not torch.allclose(alone, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cam1/08-00-00.mp4", "cam1/08-00-20.mp4"),  # 10 s later than the first one ends
        ("cam1/08-00-00.mp4", "cam2/08-00-10.mp4"),
        ("cam1/2024-05-01/08-00-00.mp4", "cam1/2024-05-02/08-00-10.mp4"),
        ("cam1/a.mp4", "cam1/b.mp4"),  # no clock
        ("cam1/08-00-00.mp4", "cam1/08-00-10.broken.mp4"),
    ],
)
def test_others_are_scored_alone(tmp_path, first, second):
    features = torch.randn(16, generator=torch.manual_seed(0))
    made = {first: video(features)} | ({} if "broken" in second else {second: video(features)})
    recordings = recorded(made, tmp_path, first, second)
    alone = scores(recorded(made, tmp_path, first), first)
    assert torch.equal(scores(recordings, first), alone)
    assert recordings.analyse(tmp_path / "in" / first)[1]["context"] is None
    if second in made:
        assert torch.equal(scores(recordings, second), alone)


def test_done_is_not_done_again_until_a_neighbour_comes(tmp_path):
    names = [f"cam1/08-00-{6 * number:02d}.mp4" for number in range(4)]
    made = {name: video(torch.randn(9, generator=torch.manual_seed(number))) for number, name in enumerate(names)}

    def run(*names):
        recordings = recorded(made, tmp_path, *names)
        for path, target in recordings.videos.items():
            if recordings.done(path) is None:
                analysis, more = recordings.analyse(path)
                with export.replacing_set(target, None, overwrite=False) as new:
                    export.write_json(analysis, new, more)
        return recordings.detector.decoded

    assert run(*names[:3]) == ["08-00-00.mp4", "08-00-06.mp4", "08-00-12.mp4"]
    before = {name: (tmp_path / "out" / name).with_suffix(".json").read_bytes() for name in names[:3]}
    assert run(*names[:3]) == []
    assert sorted(run(*names)) == ["08-00-06.mp4", "08-00-12.mp4", "08-00-18.mp4"]  # the first sees nothing of the last
    after = {name: (tmp_path / "out" / name).with_suffix(".json").read_bytes() for name in names[:3]}
    assert [before[name] == after[name] for name in names[:3]] == [True, True, False]
    assert run(*names) == []
    context = json.loads(after[names[2]])["context"]
    assert [[Path(one["path"]).name for one in side] for side in context] == [["08-00-06.mp4"], ["08-00-18.mp4"]]


def test_shares_give_what_one_process_gives(words, tmp_path, capsys):
    folder = make_tree(tmp_path / "week", **{f"cam{camera}/0{hour}-00.mp4": 20 for camera in (1, 2) for hour in (8, 9)})
    demo.main([str(folder), *words, "--output", str(tmp_path / "whole")])
    for part, there in (("3/3", 2), ("1/3", 3), ("2/3", 4)):
        demo.main([str(folder), *words, "--shard", part])
        assert len(list((tmp_path / "out").rglob("*.png"))) == there == report(tmp_path / "out")["videos"]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    for name in files(tmp_path / "whole"):
        one, other = ((tmp_path / place / name).read_text(errors="replace") for place in ("out", "whole"))
        assert re.sub('"command": .*', "", one) == re.sub('"command": .*', "", other)


def test_shares_and_a_whole_run_do_not_meet(words, tmp_path):
    folder = make_tree(tmp_path / "week", **{"a.mp4": 20, "b.mp4": 20})
    with locked(tmp_path / "out"), pytest.raises(BadInput, match="writes there"):
        demo.main([str(folder), *words, "--shard", "1/2"])
    with locked(tmp_path / "out", shared=True):
        with pytest.raises(BadInput, match="writes there"):
            demo.main([str(folder), *words])
        demo.main([str(folder), *words, "--shard", "1/2"])
        assert (tmp_path / "out" / ".lock").exists()  # it goes with the last one
        with locked(tmp_path / "out", ".lock.2-of-2"), pytest.raises(BadInput, match="writes there"):
            demo.main([str(folder), *words, "--shard", "2/2"])
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.slow
def test_processes_of_torchrun_share_the_videos(words, tmp_path):
    folder = make_tree(tmp_path / "week", **{f"cam1/0{hour}-00.mp4": 20 for hour in range(3)})
    (folder / "cam1" / "00-00.mp4").write_bytes(b"no video")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "demo.py"), str(folder), *words]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert "1 of 1 videos were not done" in done.stderr
    assert [report(tmp_path / "out")[key] for key in ("videos", "left")] == [2, 1]
