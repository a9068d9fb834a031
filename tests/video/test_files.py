"""utils/video/files.py, utils/files.py: which files a folder gives, what is named and left out, and what is never opened."""

import itertools
import os
import socket
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import dataset
from benchmarks import UCF
from clips import make_video
from utils.captions.formats import caption_files
from utils.errors import BadInput
from utils.files import files_below, irregular
from utils.video import frames
from utils.video.files import begins, camera_of, find_videos
from utils.video.frames import BrokenVideo, Video


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def found(tmp_path, *paths, **options):
    """{file: target} below tmp_path, as text."""
    targets = find_videos([str(path) for path in paths or (tmp_path,)], tmp_path / "out", ".npy", **options)
    return {file.relative_to(tmp_path).as_posix(): target.relative_to(tmp_path / "out").as_posix() for file, target in targets.items()}


def test_every_suffix_in_any_case(tmp_path):
    names = ["a.mp4", "b.MP4", "c.M2TS", "d.vob", "e.264", "f.265", "g.h264", "h.mjpeg", "i.DAV", "j.webm", "k.Avi", "l.ts"]
    for name in names:
        touch(tmp_path / name)
    assert list(found(tmp_path)) == sorted(names)
    assert set(found(tmp_path).values()) == {f"{name[0]}.npy" for name in names}


def test_links_are_followed_each_folder_once(tmp_path, capsys):
    touch(tmp_path / "disk" / "cam" / "a.mp4")
    root = tmp_path / "videos"
    root.mkdir()
    (root / "disk").symlink_to(tmp_path / "disk")
    (root / "again").symlink_to(tmp_path / "disk" / "cam")
    (tmp_path / "disk" / "cam" / "back").symlink_to(root)
    (root / "b.mp4").symlink_to(touch(tmp_path / "elsewhere" / "x.mp4"))
    assert found(tmp_path, root) == {"videos/again/a.mp4": "again/a.npy", "videos/b.mp4": "b.npy"}
    assert capsys.readouterr().err == ""


def test_what_systems_leave_behind_is_no_video_and_no_feature(tmp_path, capsys):
    for name in ("a.mp4", "._a.mp4", "@eaDir/a.mp4/a.mp4", "__MACOSX/a.mp4", "__MACOSX/._a.mp4", ".Trashes/b.mp4", "lost+found/c.mp4"):
        touch(tmp_path / "videos" / name)
        np.save(touch(tmp_path / "features" / name).with_suffix(".npy"), np.zeros((1, 4), np.float32))
    for name in (".DS_Store", "Thumbs.db"):
        touch(tmp_path / "videos" / name)
    assert found(tmp_path, tmp_path / "videos") == {"videos/a.mp4": "a.npy"}
    assert capsys.readouterr().err == ""
    assert list(dataset.index_features(tmp_path / "features")) == ["a"]


@pytest.fixture
def odd(tmp_path):
    """A folder of what is no regular file: names in every kind."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for suffix in (".mp4", ".npy", ".jsonl"):
        os.mkfifo(folder / f"pipe{suffix}")
        (folder / f"broken{suffix}").symlink_to(tmp_path / "nowhere")
        (folder / f"loop{suffix}").symlink_to(folder / f"loop{suffix}")
        (folder / f"null{suffix}").symlink_to("/dev/zero")
    return folder


def test_pipes_devices_and_broken_links_are_named_and_never_opened(tmp_path, odd, capsys):
    touch(odd / "a.mp4")
    for name in ("b.rmvb", "notes.txt"):
        touch(odd / name)
    assert found(tmp_path, odd) == {"odd/a.mp4": "a.npy"}
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("note: 14 files are left out, no videos by their names, or no regular files: ")
    for name in ("pipe.mp4 (a named pipe)", "broken.mp4 (a broken link)", "null.mp4 (a device)", "loop.mp4 ("):
        assert f"{odd}/{name}" in line
    assert dataset.index_features(odd) == {}
    assert caption_files(odd) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe.mp4", "a named pipe"),
        ("broken.mp4", "a broken link"),
        ("null.mp4", "a device"),
        ("none.mp4", "no such file"),
        ("a\0", "null"),
        ("a" * 300, "too long"),
    ],
)
def test_what_is_named_directly(tmp_path, odd, name, said):
    with pytest.raises(BadInput, match=said) as error:
        find_videos([f"{odd}/{name}"], tmp_path / "out", ".npy")
    assert "\n" not in str(error.value)
    with pytest.raises(BrokenVideo, match=said):
        Video(odd / name)


def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its path may have 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.mp4")
        assert irregular("a.mp4") == "a socket"
        assert irregular(".") == "a folder"


def test_features_that_are_no_files_are_named(tmp_path, odd):
    path = tmp_path / "list.csv"
    touch(odd / "._a.npy")
    for name, said in (
        ("pipe.npy", "a named pipe"),
        ("broken.npy", "a broken link"),
        ("none.npy", "no file none.npy"),
        ("._a.npy", "no file"),
    ):
        path.write_text(f"path,label\n{name},Abuse\n")
        with pytest.raises(BadInput, match=said):
            dataset.read_list(path, odd, UCF)


@pytest.mark.parametrize("row", ["f.npy", "f.mp4", "f.MP4", "f", "Abuse/f.avi", "/home/other/f__0.npy"])
def test_rows_of_a_list_may_name_the_video(tmp_path, row):
    file = tmp_path / "root" / "f__0.npy"
    np.save(touch(file), np.zeros((1, 4), np.float32))
    path = tmp_path / "list.csv"
    path.write_text(f"path,label\n{row},Abuse\n")
    [video] = dataset.read_list(path, tmp_path / "root", UCF)
    assert (video.name, video.files) == ("f", (file,))


def test_two_feature_files_of_one_video(tmp_path):
    for name in ("a.npy", "a.mp4.npy"):
        np.save(tmp_path / name, np.zeros((1, 4), np.float32))
    with pytest.raises(BadInput, match=r"a\.npy and .*a\.mp4\.npy are both a; keep one of them"):
        dataset.index_features(tmp_path)


def test_the_results_are_no_videos(tmp_path, capsys):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "out" / "a.annotated.mp4")
    assert found(tmp_path) == {"a.mp4": "a.npy"}
    assert capsys.readouterr().err == ""
    assert [file.name for file in files_below(tmp_path / "out", but=tmp_path / "out")] == ["a.annotated.mp4"]


def test_a_folder_without_videos_says_what_is_there(tmp_path):
    touch(tmp_path / "a.rmvb")
    with pytest.raises(BadInput, match=r"no video below it, 1 other files \(.*a\.rmvb\); expected one of \.264, "):
        found(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch, capsys):
    touch(tmp_path / "a.mp4"), touch(tmp_path / "closed" / "b.mp4")
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(found(tmp_path)) == ["a.mp4"]
    assert f"{tmp_path}/closed (Permission denied)" in capsys.readouterr().err
    with pytest.raises(BadInput, match="closed: cannot be read"):
        dataset.index_features(tmp_path)


def dahua(path):
    """A recording as Dahua's cameras write it: a block of H.264 a frame, with a head that says size, codec and rate."""
    raw = make_video(path.with_suffix(".h264"), 20, form="h264", options={"g": "1"}).read_bytes()
    starts = [at for at in range(len(raw)) if raw.startswith(b"\0\0\0\1\x67", at)] + [len(raw)]  # each frame has its own parameters
    content = b""
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        head = b"DHAV\xfd\0\0\0" + number.to_bytes(4, "little")
        extra = bytes([0x80, 0, 64 // 8, 48 // 8, 0x81, 0, 2, 25])
        size = 24 + len(extra) + end - start + 8
        head += size.to_bytes(4, "little") + bytes(4) + (40 * number).to_bytes(2, "little") + bytes([len(extra), 0])
        content += head + extra + raw[start:end] + b"dhav" + size.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.m2ts", lambda path: make_video(path, 20, form="mpegts")),
        ("a.vob", lambda path: make_video(path, 20, codec="mpeg2video", form="vob")),
        ("a.264", lambda path: make_video(path, 20, form="h264")),
        ("a.mjpeg", lambda path: make_video(path, 20, codec="mjpeg", form="mjpeg", options={"strict": "-1"})),
        ("a.dav", dahua),
    ],
)
def test_the_new_suffixes_are_decoded(tmp_path, name, make):
    with Video(make(tmp_path / name)) as video:
        numbers = [round(frames.to_rgb(frame).mean() / 4) for frame in video.decode()]
    assert numbers == list(range(20))


def test_equal_names_in_different_folders_keep_the_tree(tmp_path):
    for name in ("cam1/08-00.mp4", "cam2/08-00.mp4", "cam2/ok.mp4", "cam2/ok.avi", "cam2/ok.d/a.mp4", "b.mp4"):
        touch(tmp_path / name)
    tree = {"b.mp4": "b", "cam1/08-00.mp4": "cam1/08-00", "cam2/08-00.mp4": "cam2/08-00", "cam2/ok.d/a.mp4": "cam2/ok.d/a"}
    tree |= {"cam2/ok.mp4": "cam2/ok_mp4", "cam2/ok.avi": "cam2/ok_avi"}
    for by_name in (True, False):
        assert found(tmp_path, by_name=by_name) == {file: f"{target}.npy" for file, target in tree.items()}
    with pytest.raises(BadInput, match=r"cam2/08-00\.mp4 and .*cam1/08-00\.mp4 are both 08-00; .*: rename one of them$"):
        found(tmp_path, unique=True)
    with pytest.raises(BadInput, match=r"cam2/ok\.mp4 and .*cam2/ok\.avi are both ok; .*: rename one of them$"):
        found(tmp_path, tmp_path / "cam2", unique=True)
    with pytest.raises(BadInput, match=r"are both 08-00; .*, or name the folder that both lie in$"):
        found(tmp_path, tmp_path / "cam1", tmp_path / "cam2")
    touch(tmp_path / "cam2" / "ok_avi.mov")
    with pytest.raises(BadInput, match=r"are both ok_avi; the outputs go by name: rename one of them$"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("name", "begun"),
    [
        ("cam1/2024-05-01/08-30.mp4", "2024-05-01 08:30:00"),
        ("2024/05/01/cam1/08.30.15-08.40.15[M][0@0][0].dav", "2024-05-01 08:30:15"),
        ("cam 1/cam1_20240501_083015.mp4", "2024-05-01 08:30:15"),
        ("cam_01_20240501083015.mp4", "2024-05-01 08:30:15"),
        ("2024-05-01T08-30-15.mkv", "2024-05-01 08:30:15"),
        ("2023-01-01/2024-05-01 08h30.mp4", "2024-05-01 08:30:00"),
        ("10.0.0.64_01_20210101120000_20210101130000.mp4", "2021-01-01 12:00:00"),  # from, to
        ("2024-05-02/cam_20240501_230000-20240502_000000.mp4", "2024-05-01 23:00:00"),
        ("cam1/08-00.mp4", "0001-01-01 08:00:00"),  # no day
        ("cam1/23.59.59.mp4", "0001-01-01 23:59:59"),
        ("2024-05-01/0830.mp4", None),  # a number
        ("2024-05-01/cam_1280x720.mp4", None),
        ("2024-02-31/08-00.mp4", None),
        ("2024-05-01.mp4", None),
        ("cam1/24-00.mp4", None),
        ("fight/fi001.mp4", None),
        ("A.Beautiful.Mind.2001__#00-01-45_00-02-50_label_A.mp4", None),
        ("Abuse001_x264.mp4", None),
        ("20240501123456789.mp4", None),
    ],
)
def test_when_a_recording_begins_by_its_name(name, begun):
    assert begins(Path(name)) == (begun and datetime.fromisoformat(begun))


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("cam1/08-00.mp4", "cam1"),
        ("cam1/2024-05-01/08-00.mp4", "cam1"),
        ("2024/05/01/shop/cam 2/08-00.mp4", "shop/cam 2"),
        ("gate_20240501_080000.mp4", "gate"),
        ("site/gate_2024-05-01 08-00.mp4", "site/gate"),
        ("a.mp4", ""),
    ],
)
def test_the_camera_of_a_recording(name, camera):
    assert camera_of(Path(name)) == camera


def test_when_a_recording_begins_by_its_metadata(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert begins(Path("a.mp4"), "2024-05-01T20:00:00.000000Z") == datetime(2024, 5, 2, 1, 30)
        assert begins(Path("a.mp4"), "2024-05-01 20:00:00") == datetime(2024, 5, 2, 1, 30)
        assert begins(Path("2024-05-01_07-00.mp4"), "2024-05-01T20:00:00Z") == datetime(2024, 5, 1, 7)
        for none in ("1970-01-01T00:00:00.000000Z", "1904-01-01T00:00:00Z", "yesterday", "", None):
            assert begins(Path("a.mp4"), none) is None
    finally:
        monkeypatch.undo()
        time.tzset()
