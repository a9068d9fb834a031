"""tools/extract_features.py, utils/video/folder.py: files that dataset.py reads, the same bytes whoever interrupts or shares the work."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tqdm import tqdm

import dataset
from benchmarks import UCF
from clips import make_video
from tools import make_list
from tools.bench.extract import literal, write_video
from tools.extract_features import main
from utils.errors import BadInput, exit_code
from utils.evaluation.scores import Scores, load_scores, save_scores
from utils.files import ROOT
from utils.sample.builder import write_clip
from utils.text import load_clip
from utils.video.encoder import load_encoder
from utils.video.extraction import Extracted
from utils.video.folder import DECODER, FeatureFolder

SHARED, CASES = ROOT.parent / "shared" / "real", ROOT.parent / "shared" / "cases"
ROWS = {"Abuse001_x264": 1, "Normal_Videos002_x264": 3, "Fighting003_x264": 5}  # seconds of 30 frames -> T below
SNIPPETS = {"Abuse001_x264": 1, "Normal_Videos002_x264": 5, "Fighting003_x264": 9}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    write_clip(path, 0)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of three videos, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for number, (name, seconds) in enumerate(ROWS.items()):
        write_video(folder / ("sub" if number == 1 else "") / f"{name}.mp4", seconds, (64, 48), number)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, videos, clip):
    """What an undisturbed run makes of them."""
    output = tmp_path_factory.mktemp("whole") / "features"
    main([str(videos), "--output", str(output), "--encoder", str(clip)])
    return output


def extract(videos, output, clip, *words):
    main([*map(str, videos if isinstance(videos, list) else [videos]), "--output", str(output), "--encoder", str(clip), *words])


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def listed(tmp_path, root, *words) -> list[dataset.Video]:
    path = tmp_path / "list.csv"
    path.write_text("path,label\nAbuse001_x264.npy,Abuse\nsub/Normal_Videos002_x264.npy,Normal\nFighting003_x264.npy,Fighting\n")
    return dataset.read_list(path, root, UCF)


def test_ten_files_a_video_as_published(tmp_path, videos, whole, clip):
    found = listed(tmp_path, whole)
    assert dataset.check_features(found, 64) == SNIPPETS
    assert [video.crops for video in found] == [tuple(range(10))] * 3
    clip_model = load_clip(str(clip))
    for video in found[:2]:
        expected = literal(next(videos.rglob(f"{video.name}.mp4")), clip_model)
        for crop, file in enumerate(video.files):
            assert np.load(file).dtype == np.float16
            gap = dataset.load_features(file, 64).numpy() - expected[:, crop]
            assert np.linalg.norm(gap) < 1e-3 * np.linalg.norm(expected[:, crop])
    for crop in (0, 9):
        shapes = {name: features.shape for name, features in dataset.test_videos(found, 64, crop)}
        assert shapes == {name: (rows, 64) for name, rows in SNIPPETS.items()}


@pytest.mark.parametrize(
    ("words", "files", "shape", "crop"),
    [
        ("--layout one", 1, (5, 10, 64), 9),
        ("--crops 1", 1, (5, 64), 5),  # the crop is not looked at
        ("--crops 1 --layout files", 1, (5, 64), 0),
        ("--crops 5", 5, (5, 64), 4),
        ("--dtype float32 --aspect keep --precision bf16 --stride 8", 10, (11, 64), 9),
    ],
)
def test_layouts_that_training_and_testing_read(tmp_path, videos, whole, clip, words, files, shape, crop):
    extract(videos, tmp_path / "features", clip, *words.split())
    found = listed(tmp_path, tmp_path / "features")
    assert {len(video.files) for video in found} == {files}
    assert np.load(found[1].files[0]).shape == shape
    assert len(dataset.FeatureDataset(found, length=4, width=64)) == 3 * (10 if shape[1:] == (10, 64) else files)
    rows = {name: features.numpy() for name, features in dataset.test_videos(found, 64, crop)}
    published = np.load(whole / "sub" / f"Normal_Videos002_x264__{0 if shape == (5, 64) and files == 1 else crop}.npy").astype(np.float32)
    same = rows["Normal_Videos002_x264"].shape == published.shape and np.array_equal(rows["Normal_Videos002_x264"], published)
    assert same == ("keep" not in words)


def test_the_manifest(videos, whole, clip):
    manifest = json.loads((whole / "extract.json").read_text())
    encoder = load_encoder(str(clip))
    recipe = {"crops": 10, "stride": 16, "aspect": "squash", "resize": "cv2", "layout": "files", "dtype": "float16"}
    assert manifest["recipe"] == recipe | {"precision": "fp32", "size": 32}
    assert manifest["decoders"] == [f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"]
    assert manifest["encoder"] == {"name": "clip.pt", "digest": encoder.digest(), "width": 64}
    assert list(manifest["videos"]) == ["Abuse001_x264", "Fighting003_x264", "sub/Normal_Videos002_x264"]
    for key, entry in manifest["videos"].items():
        name = Path(key).name
        assert (entry["file"], entry["bytes"]) == (f"{name}.mp4", (videos / f"{key}.mp4").stat().st_size)
        assert (entry["frames"], entry["fps"], entry["snippets"]) == (30 * ROWS[name], 30, SNIPPETS[name])
        assert entry["header_frames"] == entry["frames"]
        assert len(entry["features"]) == 10
        for file, digest in entry["features"].items():
            assert hashlib.sha256((whole / file).read_bytes()).hexdigest() == digest
    files = {file for entry in manifest["videos"].values() for file in entry["features"]}
    assert contents(whole).keys() == {*files, "extract.json"}


def test_a_finished_video_is_never_redone(tmp_path, videos, whole, clip, capsys, monkeypatch):
    output = tmp_path / "features"
    extract(videos / "sub", output / "sub", clip)  # another folder of features: nothing to do with what follows
    extract(videos / "Abuse001_x264.mp4", output, clip)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("Abuse*.npy")}
    assert len(before) == 10
    extract(videos, output, clip)
    assert "2 videos extracted, 1 were there" in capsys.readouterr().out
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("Abuse*.npy")}
    monkeypatch.setattr("utils.video.extraction.encode", None)  # nothing is left to encode
    extract(videos, output, clip)
    assert "0 videos extracted, 3 were there" in capsys.readouterr().out
    for file, content in contents(whole).items():
        assert (output / file).read_bytes() == content


def test_a_half_written_video_does_not_count(tmp_path, videos, whole, clip, capsys):
    output = tmp_path / "features"
    extract(videos, output, clip)
    manifest = json.loads((output / "extract.json").read_text())
    del manifest["videos"]["Abuse001_x264"]  # its files are there, one of them is not whole
    (output / "extract.json").write_text(json.dumps(manifest))
    (output / "Abuse001_x264__3.npy").write_bytes(b"\x93NUMPY")
    (output / "sub" / "Normal_Videos002_x264__7.npy").unlink()
    for name in (".Abuse001_x264__4.npy.123.tmp", "sub/.Normal_Videos002_x264__7.npy.9.tmp", ".extract.json.77.tmp"):
        (output / name).write_bytes(b"half")
    (output / ".mine.tmp").write_bytes(b"somebody else's")
    extract(videos, output, clip)
    assert "2 videos extracted, 1 were there" in capsys.readouterr().out
    (output / ".mine.tmp").unlink()
    assert contents(output) == contents(whole)


@pytest.mark.parametrize("written", range(12))
def test_writing_may_stop_anywhere(tmp_path, monkeypatch, written):
    """Ten files and the manifest: whichever is the last that is renamed."""
    source = tmp_path / "a.mp4"
    source.write_bytes(b"video")
    rows = np.random.default_rng(0).normal(size=(3, 10, 4)).astype(np.float32)
    found = Extracted(source, rows, np.arange(4.0), 48, 16.0, (64, 48), [])
    about = {"recipe": {"layout": "files", "dtype": "float16"}, "encoder": {"name": "e", "digest": "d", "width": 4}}
    FeatureFolder(tmp_path / "whole", about).write(tmp_path / "whole" / "a.npy", found)

    output, rename, count = tmp_path / "features", os.replace, iter(range(100))
    folder, targets = FeatureFolder(output, about), {source: output / "a.npy"}

    def stopping(*names):
        if next(count) == written:
            raise KeyboardInterrupt
        rename(*names)

    with monkeypatch.context() as patch:
        patch.setattr("utils.files.os.replace", stopping)
        if written < 11:
            with pytest.raises(KeyboardInterrupt):
                folder.write(targets[source], found)
        else:
            folder.write(targets[source], found)
    assert folder.unfinished(targets) == ([source] if written < 11 else [])
    FeatureFolder(output, about).write(targets[source], found)
    assert folder.unfinished(targets) == []
    assert contents(output) == contents(tmp_path / "whole")


def test_any_name_of_a_video_goes_through_lists_and_scores(tmp_path, clip):
    """Features, list, reading it and scores; what is not UTF-8 has features, and one line says that no list can hold it."""
    source, folder = make_video(tmp_path / "own.mp4", frames=20), tmp_path / "videos" / "Abuse"
    folder.mkdir(parents=True)
    names = ["NA", "01", "null", "a\x1b[31mred", "two\nlines", '"quoted", <b>', "x" * 242]
    bad = os.fsdecode(b"caf\xe9")
    for name in (*names, bad):
        shutil.copy(source, folder / f"{name}.mp4")
    main([str(tmp_path / "videos"), "--output", str(tmp_path / "features"), "--encoder", str(clip), "--crops", "1"])
    words = ["--dataset", "ucf", "--feature-root", str(tmp_path / "features"), "--output", str(tmp_path / "list.csv")]
    with pytest.raises(BadInput, match=r"list.csv: cannot hold .*caf\\udce9.* not UTF-8 text; rename"):
        make_list.main(words)
    (tmp_path / "features" / "Abuse" / f"{bad}.npy").unlink()
    make_list.main(words)
    videos = dataset.read_list(tmp_path / "list.csv", tmp_path / "features", UCF)
    assert sorted(video.name for video in videos) == sorted(names)
    scores = {video.name: Scores(dataset.load_features(video.files[0], 64).numpy()[:, 0]) for video in videos}
    save_scores(tmp_path / "scores.npz", scores, UCF.names)
    assert sorted(load_scores(tmp_path / "scores.npz")[0]) == sorted(names)


def test_shards_give_the_same_bytes_in_any_order(tmp_path, videos, whole, clip, capsys):
    for shard in (3, 1, 2):
        extract(videos, tmp_path / "features", clip, "--shard", f"{shard}/3", "--batch-size", "60", "--workers", "2")
        assert "1 videos extracted, 0 were there" in capsys.readouterr().out
    assert contents(tmp_path / "features") == contents(whole)


def test_processes_of_torchrun_share_the_work(tmp_path, videos, whole, clip, monkeypatch):
    """Their number and count come from the environment; that they wait for each other is tested below."""
    monkeypatch.setattr("tools.extract_features.wait_for_others", lambda shard: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        extract(videos, tmp_path / "features", clip)
        assert len(list((tmp_path / "features").rglob("*__0.npy"))) == {"1": 1, "0": 3}[rank]
    assert contents(tmp_path / "features") == contents(whole)


@pytest.fixture(autouse=True)
def any_processor(monkeypatch):
    """bf16 is tried wherever the tests run."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


def test_bf16_where_it_would_be_slower(tmp_path, videos, clip, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False})
    words = ("--precision", "bf16", "--device", "cpu")
    assert "--precision bf16: this processor has no bf16 products" in refused(videos, tmp_path / "features", clip, *words)
    assert not (tmp_path / "features").exists()
    extract(videos / "Abuse001_x264.mp4", tmp_path / "features", clip, "--device", "cpu")


def refused(*arguments) -> str:
    with pytest.raises(BadInput) as error:
        extract(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--crops 5", "crops 10, not 5"),
        ("--stride 8", "stride 16, not 8"),
        ("--aspect keep", "aspect squash, not keep"),
        ("--resize bicubic", "resize cv2, not bicubic"),
        ("--layout one", "layout files, not one"),
        ("--dtype float32", "dtype float16, not float32"),
        ("--precision bf16", "precision fp32, not bf16"),
    ],
)
def test_recipes_are_not_mixed(videos, whole, clip, words, said):
    before = contents(whole)
    message = refused(videos, whole, clip, *words.split())
    assert f"{whole}/extract.json: features with {said};" in message
    assert "--output" in message
    assert contents(whole) == before


def test_features_older_than_the_choice_of_a_resize(tmp_path, videos, clip, capsys):
    """They are bicubic; another decoder may go on with them, and is named beside the first."""
    one, output = videos / "Abuse001_x264.mp4", tmp_path / "features"
    extract(one, output, clip, "--resize", "bicubic")
    manifest = json.loads((output / "extract.json").read_text())
    del manifest["recipe"]["resize"], manifest["decoders"]
    (output / "extract.json").write_text(json.dumps(manifest))
    assert "features with resize bicubic, not cv2; set it as there" in refused(videos, output, clip)
    manifest["decoders"] = ["PyAV 1.0"]
    (output / "extract.json").write_text(json.dumps(manifest))
    extract(videos / "sub", output, clip, "--resize", "bicubic")
    assert "1 videos extracted" in capsys.readouterr().out.splitlines()[-1]
    assert json.loads((output / "extract.json").read_text())["decoders"] == ["PyAV 1.0", DECODER]


def test_the_resize_makes_other_features(tmp_path, videos, whole, clip):
    extract(videos / "Abuse001_x264.mp4", tmp_path / "features", clip, "--resize", "bicubic")
    one, other = (np.load(folder / "Abuse001_x264__0.npy").astype(float) for folder in (whole, tmp_path / "features"))
    assert 1e-3 < np.linalg.norm(one - other) / np.linalg.norm(one) < 0.5


def test_encoders_are_not_mixed(tmp_path, videos, whole):
    write_clip(tmp_path / "clip.pt", 1)
    assert "features of another encoder (clip.pt, weights " in refused(videos, whole, tmp_path / "clip.pt")


def test_the_name_of_an_encoder_may_change(tmp_path, videos, whole, clip, capsys):
    (tmp_path / "renamed.pt").write_bytes(clip.read_bytes())
    extract(videos, whole, tmp_path / "renamed.pt")
    assert "3 were there" in capsys.readouterr().out


ABOUT = '"recipe": {}, "encoder": {"digest": "1", "width": 2, "name": "3"}'


@pytest.mark.parametrize(
    "text",
    ["no JSON", "[1]", '{"recipe": 1}', f"{{{ABOUT}}}", *(f'{{{ABOUT}, "videos": {{}}, "decoders": {value}}}' for value in ("3", "[{}]"))],
)
def test_a_manifest_that_is_none_is_named(tmp_path, videos, clip, text):
    (tmp_path / "extract.json").write_text(text)
    assert f"{tmp_path}/extract.json: " in refused(videos, tmp_path, clip)
    assert (tmp_path / "extract.json").read_text() == text


def test_another_video_of_the_same_name_is_not_taken_for_it(tmp_path, videos, clip):
    (tmp_path / "a").mkdir()
    extract(videos / "Abuse001_x264.mp4", tmp_path / "features", clip)
    other = write_video(tmp_path / "a" / "Abuse001_x264.mp4", 2, (64, 48))
    assert "Abuse001_x264.npy: the features are those of Abuse001_x264.mp4 of " in refused(other, tmp_path / "features", clip)
    assert "are both Abuse001_x264; the outputs go by name" in refused([videos, other], tmp_path / "features", clip)


def test_equal_names_in_different_folders(tmp_path, clip, capsys):
    """As recorders write them: the features lie in the same tree, each of its own video, and lists find them by their folders."""
    for number, name in enumerate(("cam1/08-00.mp4", "cam2/08-00.mp4", "cam2/ok.mp4", "cam2/ok.avi")):
        (tmp_path / "week" / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / "week" / name, frames=16 * (number + 1))
    output = tmp_path / "features"
    for left in ("4 videos extracted, 0 were there", "0 videos extracted, 4 were there"):
        extract(tmp_path / "week", output, clip, "--crops", "1")
        assert left in capsys.readouterr().out
    rows = {str(path.relative_to(output)): len(np.load(path)) for path in output.rglob("*.npy")}
    assert rows == {"cam1/08-00.npy": 1, "cam2/08-00.npy": 2, "cam2/ok_mp4.npy": 3, "cam2/ok_avi.npy": 4}
    for name in rows:
        (tmp_path / "list.csv").write_text(f"path,label\n{name},Abuse\n")
        [video] = dataset.read_list(tmp_path / "list.csv", output, UCF)
        assert video.files == (output / name,)


def test_broken_videos_are_named_skipped_and_counted(tmp_path, videos, whole, clip, capsys):
    (tmp_path / "text.mp4").write_text("a man walks")
    make_video(tmp_path / "large.mp4", 2, (320, 240))
    words = ["--output", str(tmp_path / "features"), "--encoder", str(clip), "--max-pixels", "10000"]
    for _ in range(2):  # the others are there the second time
        assert exit_code(lambda: main([str(tmp_path / "text.mp4"), str(videos), str(tmp_path / "large.mp4"), *words])) == 2
        out, error = capsys.readouterr()
        assert f"error: {tmp_path}/text.mp4: cannot be opened" in error
        assert f"error: {tmp_path}/large.mp4: 320 × 240 pixels" in error
        assert error.splitlines()[-1].startswith("error: 2 of 5 videos are broken (")
        assert "Traceback" not in error
    assert "0 videos extracted, 3 were there" in out
    assert contents(tmp_path / "features") == contents(whole)  # of broken ones there is nothing
    (tmp_path / "text.mp4").unlink()
    write_video(tmp_path / "text.mp4", 1, (64, 48))  # a sound copy
    extract(tmp_path / "text.mp4", tmp_path / "features", clip)
    assert (tmp_path / "features" / "text__9.npy").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [("--max-seconds 2", "longer than 2 s"), ("--timeout 0.001", "its decoder ran longer than 0.001 s")],
)
def test_limits_are_options(tmp_path, videos, clip, capsys, words, said):
    words = ["--output", str(tmp_path / "features"), "--encoder", str(clip), *words.split()]
    assert exit_code(lambda: main([str(videos / "Fighting003_x264.mp4"), *words])) == 2
    assert f"Fighting003_x264.mp4: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["--stride 0", "--stride x", "--crops 3", "--batch-size -1", "--workers 0", "--max-pixels 0", "--timeout nan", "--max-seconds inf"],
)
def test_options_out_of_range(tmp_path, videos, clip, words):
    with pytest.raises(BadInput, match=f"{words.split()[0]}.*(expected a|invalid choice)"):
        extract(videos, tmp_path / "features", clip, *words.split())


@pytest.mark.parametrize("words", ["--crops 5 --layout one", "--shard 0/2", "--shard 3/2", "--shard x"])
def test_options_that_make_no_sense(tmp_path, videos, clip, words):
    assert words.rpartition("--")[2] in refused(videos, tmp_path / "features", clip, *words.split())


def test_bad_paths_and_encoders(tmp_path, videos, clip):
    assert "nowhere: no such file" in refused(tmp_path / "nowhere", tmp_path / "features", clip)
    assert "no video" in refused(tmp_path, tmp_path / "features", clip)
    assert refused(videos, tmp_path / "features", "ViT-B/1").startswith("--encoder ViT-B/1: ")
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file: cannot write there" in refused(videos, tmp_path / "file", clip)


@pytest.mark.parametrize(("rows", "dtype"), [(1e6, "float16"), (np.nan, "float32")])
def test_features_that_are_not_finite_are_not_written(tmp_path, rows, dtype):
    about = {"recipe": {"layout": "one", "dtype": dtype}, "encoder": {"name": "e", "digest": "d", "width": 4}}
    folder = FeatureFolder(tmp_path, about)
    found = Extracted(tmp_path / "a.mp4", np.full((3, 10, 4), rows, np.float32), np.arange(4.0), 48, 16.0, (64, 48), [])
    with pytest.raises(BadInput, match=rf"a\.mp4: features beyond {dtype}"):
        folder.write(tmp_path / "a.npy", found)
    assert not list(tmp_path.glob("*.npy"))


# Slow: real processes.


def alone(*words):
    tqdm.set_lock(threading.RLock())  # not the one that a sister may hold when it is killed
    extract(*words)


def start(videos, output, clip):
    """An extraction in a process of its own, forked from this one, which has loaded everything."""
    process = multiprocessing.get_context("fork").Process(target=alone, args=(videos, output, clip, "--workers", "2"))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/real")
def test_killed_at_random_moments_and_then_once_to_the_end(tmp_path, clip):
    videos, output, chance = SHARED / "videos", tmp_path / "features", random.Random(0)
    began = time.monotonic()
    undisturbed = start(videos, tmp_path / "whole", clip)
    undisturbed.join()
    took = time.monotonic() - began
    assert undisturbed.exitcode == 0
    assert len(list((tmp_path / "whole").glob("*.npy"))) == 90
    kills, finished = 0, set()
    while kills < 20:
        process = start(videos, output, clip)
        process.join(chance.uniform(0, took / 4))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        done = json.loads((output / "extract.json").read_text())["videos"] if (output / "extract.json").exists() else {}
        assert finished <= done.keys()  # what is finished stays
        assert all((output / file).is_file() for entry in done.values() for file in entry["features"])
        finished = set(done)
        if process.exitcode == 0:  # done before the kill: once more from the start
            finished = set()
            for file in output.iterdir():
                file.unlink()
    last = start(videos, output, clip)
    last.join()
    assert last.exitcode == 0
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_a_broken_video_does_not_stop_the_others_of_torchrun(tmp_path, videos, whole, clip):
    """torchrun kills all processes as soon as one ends with an exit code: the first has only the broken video."""
    (tmp_path / "a.mp4").write_text("a man walks")
    many = [str(tmp_path / "a.mp4"), *map(str, sorted(videos.rglob("*.mp4")))]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "--standalone", "-m", "tools.extract_features", *many]
    words = ["--output", str(tmp_path / "features"), "--encoder", str(clip)]
    done = subprocess.run([*run, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "error: 1 of 1 videos are broken" in done.stderr
    names = {Path(key).name for key in json.loads((tmp_path / "features" / "extract.json").read_text())["videos"]}
    assert names == set(ROWS)
    for name in ("Abuse001_x264__0.npy", "Fighting003_x264__9.npy"):
        assert (tmp_path / "features" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
def test_frames_that_no_player_shows_are_told_and_no_damage(tmp_path, clip, capsys):
    frames = {"third_of_frames": (67, 199), "h264_open_gop": (96, 100)}
    extract([CASES / "third_of_frames.avi", CASES / "h264_open_gop.mp4"], tmp_path / "out", clip, "--crops", "1")
    entries, told = json.loads((tmp_path / "out" / "extract.json").read_text())["videos"], capsys.readouterr().err
    assert {name: (entry["frames"], entry["header_frames"]) for name, entry in entries.items()} == frames
    for name, (shown, counted) in frames.items():
        assert entries[name]["snippets"] == shown // 16
        assert f"{counted - shown} of the {counted} frames that its header counts can be shown by no player" in told
