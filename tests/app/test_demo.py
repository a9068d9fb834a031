"""demo.py as a user starts it: files and folders, a pipe, and everything that can be typed wrong."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import demo
from clips import make_video
from golden import REAL
from utils.errors import BadInput
from utils.files import ROOT
from utils.video.frames import Video

ENDS = (".json", ".csv", ".snippets.csv", ".png", ".annotated.mp4")


@pytest.fixture(scope="module")
def clip_file(small_clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(small_clip.state_dict(), path)
    return str(path)


@pytest.fixture
def words(clip_file, tmp_path):
    """A detector by text alone, whose threshold every snippet reaches, and an output folder."""
    output = ["--output", str(tmp_path / "out")]
    return ["--classes", "person falling", "smoke", "--clip", clip_file, "--device", "cpu", "--threshold", "0.001", *output]


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_a_video_becomes_a_table_json_csv_picture_and_an_annotated_copy(words, tmp_path, capsys, monkeypatch):
    video, started, start = make_video(tmp_path / "own.mp4", frames=50), [], subprocess.Popen.__init__
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda self, line, **more: (started.append(line), start(self, line, **more))[1])
    demo.main([str(video), *words, "--clips"])
    decoding = [line[3] for line in started if line[0] == sys.executable]
    assert decoding == ["utils.video.decoder", "app.annotate"]  # the scores come first; copy and clips are of one decoding
    out = tmp_path / "out"
    clips = sorted(path.name for path in out.glob("own.0*.mp4"))
    assert names_in(out) - set(clips) == {f"own{end}" for end in ENDS}
    found = json.loads((out / "own.json").read_text())
    assert [found[key] for key in ("frames", "fps", "width", "height", "classes")] == [
        50,
        25,
        64,
        48,
        ["normal", "person falling", "smoke"],
    ]
    assert len(found["snippets"]) == 3
    [segment] = found["segments"]
    assert (segment["start"], segment["end"]) == (0, 2)
    assert segment["class"] in ("person falling", "smoke")
    assert len(clips) == 1
    with open(out / "own.csv", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [segment["class"]]
    with Video(out / "own.annotated.mp4") as copy:
        assert sum(1 for _ in copy.decode()) == 50
    printed = capsys.readouterr()
    assert segment["class"] in printed.out
    assert "by their names alone" in printed.out
    assert "--threshold" in printed.err
    assert found["about"]["command"].startswith("python demo.py ")


def test_a_folder_goes_on_where_it_was_and_names_the_broken_ones(words, tmp_path, capsys):
    videos = tmp_path / "videos"
    (videos / "night").mkdir(parents=True)
    make_video(videos / "a.mp4", frames=20)
    make_video(videos / "night" / "b.mp4", frames=40)
    (videos / "c.mp4").write_bytes(b"no video at all")
    with pytest.raises(BadInput, match=r"1 of 3 videos were not done \(.*c\.mp4\)"):
        demo.main([str(videos), *words, "--no-video"])
    out = tmp_path / "out"
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert {str(path.relative_to(out)) for path in first} == {"a.json", "night/b.json"}
    with open(out / "segments.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["video"]).name for row in rows} == {"a.mp4", "b.mp4"}
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    assert "c.mp4" in capsys.readouterr().err
    make_video(videos / "c.mp4", frames=20)
    demo.main([str(videos), *words, "--no-video"])
    assert capsys.readouterr().out.count("done before") == 2
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert (out / "c.json").is_file()
    demo.main([str(videos / "a.mp4"), *words, "--no-video", "--threshold", "0.9"])  # another threshold: not the same any more
    assert json.loads((out / "a.json").read_text())["threshold"] == 0.9


def test_any_name_of_a_video(words, tmp_path, capfd):
    """Not UTF-8, terminal codes, what looks like no name: they come out. Too long for its results: one line, before any work on it."""
    video, folder = make_video(tmp_path / "own.mp4", frames=20), tmp_path / "videos"
    folder.mkdir()
    names = [os.fsdecode(b"caf\xe9"), "a\x1b[31mred", "NA", "01"]
    for name in (*names, "x" * 242):
        shutil.copy(video, folder / f"{name}.mp4")
    with pytest.raises(BadInput, match=r"1 of 5 videos were not done \(.*xxx.mp4\), why see above"):
        demo.main([str(folder), *words, "--no-video"])
    done = names_in(tmp_path / "out") - {"segments.csv", "report.html"}
    assert done == {f"{name}{end}" for name in names for end in ENDS if "annotated" not in end}
    said = "".join(capfd.readouterr())
    assert "\x1b[31m" not in said
    assert "File name too long); take a shorter, plain name" in said
    said.encode()


def test_what_an_earlier_run_lacks_is_made(words, tmp_path):
    video = make_video(tmp_path / "own.mp4", frames=20)
    demo.main([str(video), *words, "--no-video"])
    assert not (tmp_path / "out" / "own.annotated.mp4").exists()
    demo.main([str(video), *words])
    assert (tmp_path / "out" / "own.annotated.mp4").is_file()
    demo.main([str(video), *words, "--clips"])
    assert len(list((tmp_path / "out").glob("own.001.*.mp4"))) == 1


def test_a_file_with_a_latency_is_scored_as_a_stream(words, tmp_path):
    video = make_video(tmp_path / "own.mp4", frames=50)
    demo.main([str(video), *words, "--latency", "2", "--no-video"])
    assert json.loads((tmp_path / "out" / "own.json").read_text())["about"]["latency"] == 2


def test_a_pipe_gives_one_line_per_snippet(words, tmp_path):
    video = make_video(tmp_path / "own.ts", frames=50, form="mpegts")
    with open(video, "rb") as file:
        done = subprocess.run(
            [sys.executable, str(ROOT / "demo.py"), "-", *words[:-2], "--record", "live.jsonl"],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["number"] for line in lines if line["type"] == "snippet"] == [0, 1, 2]
    assert [line["state"] for line in lines if line["type"] == "event"] == ["start", "end"]
    assert (tmp_path / "live.jsonl").read_text() == done.stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "nothing to look at"),
        (["a.mp4", "rtsp://camera/1"], "a stream goes alone"),
        (
            ["a.mp4", "--classes", "smoke", "--checkpoint", "best.pt"],
            "--classes: is by text alone, --checkpoint is of a trained checkpoint",
        ),
        (["a.mp4", "--normal", "calm"], "--normal"),
        (["a.mp4", "--threshold", "0.5", "--false-positives", "0.1"], "--threshold, --false-positives: the second picks a threshold"),
        (["a.mp4", "--classes", "smoke", "--false-positives", "0.1"], "--classes: is by text alone, --false-positives is of"),
        (["a.mp4", "--output", ""], "--output: found nothing"),
        (["a.mp4", "--threshold", "2"], "expected a score from 0 to 1"),
        (["a.mp4", "--latency", "-1"], "--latency -1: expected a number from 1e-06 to 1,000,000"),
        (["a.mp4", "--timeout", "1e9"], "--timeout 1e9: expected a number from 1e-06 to 1,000,000"),
        (["a.mp4", "--max-pixels", "0"], "--max-pixels 0"),
        (["0", "--web"], "expected none, or one folder"),
        (["a.mp4", "--port", "99999999"], "--port 99999999: expected a number from 1 to 65535"),
        (["a.mp4", "--shard", "3/2"], "--shard 3/2: expected i/n with i from 1 to n, such as 1/8"),
        (["0", "--shard", "1/2"], "--shard: does nothing with a stream"),
        (["a.mp4", "--record", "f"], "--record: does nothing with video files"),
        (["RTSP://camera/1", "--clips"], "--clips: does nothing with a stream"),
        (["--web", "--latency", "2"], "--latency: does nothing with --web"),
        (["--classes", "smoke", "rtsp://camera/1"], "rtsp://camera/1 was taken for a text: write it before --classes"),
        (["a.mp4", "--captions", "absent"], "--captions absent: no such file or folder"),
        (["here.mp4", "--classes", "smoke", "--clip", "absent.pt"], "--clip absent.pt: no such file"),
        (["here.mp4", "--checkpoint", "absent.pt"], "absent.pt: no such file"),
        (["absent.mp4"], "absent.mp4: no such file or folder"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(typed, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.mp4").touch()
    with pytest.raises(BadInput) as caught:
        demo.main(typed)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_videos_themselves_are_never_written_over(words, tmp_path, monkeypatch):
    video = make_video(tmp_path / "own.mp4", frames=20)
    before = video.read_bytes()
    with pytest.raises(BadInput, match=r"own\.mp4 lies there, too; results go to a folder of their own"):
        demo.main([str(tmp_path), *words, "--output", str(tmp_path)])
    assert video.read_bytes() == before
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # results below the folder of the videos are no videos
        demo.main([".", *words[:-2], "--output", "results", "--clips"])
    assert {path.name for path in (tmp_path / "results").glob("*.json")} == {"own.json"}


def test_videos_of_one_name_in_two_folders(words, tmp_path, capsys):
    for camera in ("1", "2"):
        (tmp_path / camera).mkdir()
        make_video(tmp_path / camera / "0001__1.mp4", frames=20)
    demo.main([str(tmp_path / "1"), *words, "--no-video"])
    with pytest.raises(BadInput, match="1 of 1 videos were not done"):  # its results would replace those of the other
        demo.main([str(tmp_path / "2"), *words, "--no-video"])
    assert "0001__1.json: is of" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "0001__1.json").read_text())["video"] == str(tmp_path / "1" / "0001__1.mp4")
    demo.main([str(tmp_path / "2"), *words, "--no-video", "--overwrite"])
    assert json.loads((tmp_path / "out" / "0001__1.json").read_text())["video"] == str(tmp_path / "2" / "0001__1.mp4")
    demo.main([str(tmp_path), *words, "--no-video"])
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.json")} >= {"1/0001__1.json", "2/0001__1.json"}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_command(files):
    """The same but for what names the command line."""
    found = dict(files)
    value = json.loads(found.pop("own.json"))
    value["about"].pop("command")
    return found, value


def test_another_threshold_leaves_nothing_of_the_first(words, tmp_path):
    video, out = make_video(tmp_path / "own.mp4", frames=50), tmp_path / "out"
    demo.main([str(video), *words, "--clips"])
    assert any(name.startswith("own.001.") for name in names_in(out))
    demo.main([str(video), *words, "--clips", "--threshold", "0.99"])
    assert names_in(out) == {f"own{end}" for end in ENDS}  # no segment, no clip
    alone = tmp_path / "alone"
    demo.main([str(video), *words, "--clips", "--threshold", "0.99", "--output", str(alone)])
    assert without_command(contents(out)) == without_command(contents(alone))
    demo.main([str(video), *words, "--no-video", "--threshold", "0.98"])
    assert names_in(out) == {f"own{end}" for end in ENDS if end != ".annotated.mp4"}


@pytest.mark.slow
def test_killed_at_any_rename_the_set_is_of_one_threshold(words, tmp_path, monkeypatch):
    """Done at 0.001; killed at 0.99 before one of the renames that put its results in place; again at 0.001."""
    video, out = make_video(tmp_path / "own.mp4", frames=20), tmp_path / "out"
    run, replace = [str(video), *words, "--clips", "--no-video"], os.replace
    demo.main(run)
    first, done = contents(out), []
    for at in range(5):  # the JSON that says that it is unfinished, three files, the JSON
        done.clear()

        def kill(source, target, at=at):
            if Path(target).parent == out:
                if len(done) == at:
                    raise KeyboardInterrupt
                done.append(target)
            replace(source, target)

        monkeypatch.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            demo.main([*run, "--threshold", "0.99"])
        monkeypatch.setattr(os, "replace", replace)
        (out / ".unfinished").mkdir()  # as SIGKILL leaves it
        (out / ".unfinished" / "own.csv").write_text("half a line")
        demo.main(run)
        shutil.rmtree(out / ".unfinished", ignore_errors=True)
        assert without_command(contents(out)) == without_command(first)


def test_done_is_what_has_all_its_files_as_they_were(words, tmp_path, capsys):
    video, out = make_video(tmp_path / "own.mp4", frames=20), tmp_path / "out"
    run = [str(video), *words, "--clips", "--no-video"]
    demo.main(run)
    clip = next(one for one in names_in(out) if one.startswith("own.001."))
    before = contents(out)
    demo.main(run)
    assert "done before" in capsys.readouterr().out
    for name, change in (("own.csv", Path.unlink), (clip, Path.unlink), ("own.png", lambda file: file.write_bytes(b"another run's"))):
        change(out / name)
        demo.main(run)
        assert "done before" not in capsys.readouterr().out
        assert without_command(contents(out)) == without_command(before)


def test_no_video_is_called_as_a_table_of_ours(words, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    names = ("cam", "cam.snippets", "cam.snippets_", "segments", "cam.001")
    for number, name in enumerate(names):
        make_video(videos / f"{name}.mp4", frames=20 + number)
    run = [str(videos), "--classes", "annotated", *words[2:], "--clips"]
    for _ in range(2):
        demo.main(run)
        found = {json.loads(path.read_text())["frames"]: path for path in out.glob("*.json")}
        assert sorted(found) == list(range(20, 25))
        for number, name in enumerate(names):
            stem = found[20 + number].stem
            assert stem.rstrip("_") == name.rstrip("_")
            with open(out / f"{stem}.csv", newline="") as file:
                assert {Path(row["video"]).stem for row in csv.DictReader(file)} == {name}
            with Video(out / f"{stem}.annotated.mp4") as copy:
                assert sum(1 for _ in copy.decode()) == 20 + number
            assert len((out / f"{stem}.snippets.csv").read_text().splitlines()) == 2
        with open(out / "segments.csv", newline="") as file:
            assert {Path(row["video"]).stem for row in csv.DictReader(file)} == set(names)
    make_video(videos / "cam.mp4", frames=30)
    demo.main([str(videos / "cam.mp4"), *run[1:]])
    assert not (out / "segments.csv").exists()  # it has the old one's segments
    assert json.loads((out / "cam.json").read_text())["frames"] == 30


def test_files_of_somebody_else_are_not_replaced(words, tmp_path, capsys):
    video, out = make_video(tmp_path / "own.mp4", frames=20), tmp_path / "out"
    out.mkdir()
    for name, text in (("own.csv", "my notes"), ("own.json", '{"my": "annotations"}')):
        (out / name).write_text(text)
        with pytest.raises(BadInput, match="1 of 1 videos were not done"):
            demo.main([str(video), *words, "--no-video"])
        assert f"{name}: is not of demo.py" in capsys.readouterr().err
        assert contents(out) == {name: text.encode()}
        (out / name).unlink()
    make_video(tmp_path / "second.mp4", frames=20)
    for name in ("segments.csv", "report.html"):
        (out / name).write_text("mine")
        with pytest.raises(BadInput, match=rf"{name}: is not of demo\.py"):
            demo.main([str(video), str(tmp_path / "second.mp4"), *words, "--no-video"])
        assert contents(out).pop(name) == b"mine"
        demo.main([str(video), *words, "--no-video"])
        assert (out / name).read_text() == "mine"
        (out / name).unlink()


def test_two_demos_on_one_folder(words, tmp_path):
    from utils.files import locked

    video = make_video(tmp_path / "own.mp4", frames=20)
    with locked(tmp_path / "out"), pytest.raises(BadInput, match="writes there"):
        demo.main([str(video), *words])


def test_a_broken_video_keeps_its_earlier_results(words, tmp_path):
    video, out = make_video(tmp_path / "own.mp4", frames=20), tmp_path / "out"
    demo.main([str(video), *words, "--no-video"])
    before = contents(out)
    video.write_bytes(b"overwritten by its camera")
    with pytest.raises(BadInput, match="1 of 1 videos were not done"):
        demo.main([str(video), *words, "--no-video"])
    assert contents(out) == before


def test_an_error_of_a_checkpoint_says_which_it_is_and_how_it_was_chosen(tmp_path, monkeypatch, clip_file):
    video, path = make_video(tmp_path / "own.mp4", frames=20), tmp_path / "best.pt"
    path.write_bytes(b"no checkpoint")
    monkeypatch.setattr("utils.runs.newest_checkpoint", lambda: path)
    with pytest.raises(BadInput, match=r"\(the checkpoint: .*best\.pt, the newest run; --checkpoint names another\)$"):
        demo.main([str(video)])
    with pytest.raises(BadInput, match=r"best\.pt") as caught:
        demo.main([str(video), "--checkpoint", str(path)])
    assert "newest" not in str(caught.value)


def test_the_data_set_of_the_newest_run_is_told(monkeypatch, capsys):
    """Whose events these are: the newest run may be of another data set than the last that one thinks of."""
    about = {"model": "vadclip", "dataset": "my-cameras"}
    detector = SimpleNamespace(about=about, classes=("normal", "fighting"), threshold=0.5, threshold_from="--threshold", notes=[])
    monkeypatch.setattr("app.detector.load_detector", lambda *_, **__: detector)
    monkeypatch.setattr("utils.runs.newest_checkpoint", lambda: Path("best.pt"))
    assert demo.make_detector(demo.parse(["a.mp4"])) is detector
    told = "checkpoint: best.pt (vadclip, trained on my-cameras), the newest run; --checkpoint names another"
    assert capsys.readouterr().err.splitlines()[0] == told


def test_the_default_folder_is_the_project_s(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert demo.parse(["a.mp4"]).output == str(ROOT / "runs" / "demo")
    assert demo.parse(["a.mp4", "--output", "here"]).output == "here"


def test_a_file_whose_name_looks_like_a_webcam_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert demo.is_stream("0")
    (tmp_path / "0").touch()
    assert not demo.is_stream("0")
    assert demo.is_stream("-")
    assert demo.is_stream("rtsp://camera/stream")
    assert demo.is_stream(f"rtsp://camera/{'x' * 300}")  # longer than a file's name may be
    assert not demo.is_stream("clips/http.mp4")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="../shared/real is not here")
def test_real_videos_with_the_sample_s_checkpoint(tmp_path):
    """What the README's first lines do: train on the sample, then look at one's own videos; from another folder."""
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = [sys.executable, str(ROOT / "xd_train.py"), "--max-epoch", "1", "--output", str(tmp_path / "run")]
    subprocess.run(run, check=True, capture_output=True, cwd=tmp_path, env=env)
    drawn = {path.name for path in (tmp_path / "run/seed-1/plots").iterdir()}
    assert drawn > {"training.png", "curves.png", "confusion.png", "alignment.png"}
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in (REAL / "videos").glob("*.mp4"):
        shutil.copy(path, videos)
    command = [sys.executable, str(ROOT / "demo.py"), "videos", "--checkpoint", "run/seed-1/best.pt", "--output", "out", "--no-video"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "its scores say nothing about this video" in done.stderr
    names = {path.stem for path in videos.iterdir()}
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == names
    for path in (tmp_path / "out").glob("*.json"):
        found = json.loads(path.read_text())
        assert len(found["snippets"]) == found["frames"] // 16
