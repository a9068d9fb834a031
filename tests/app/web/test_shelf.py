"""app/web/shelf.py: which videos of a folder are offered, copies of them, and what is cleared away."""

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web import shelf


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.mp4").write_bytes(b"b")
    place = tmp_path / "videos"
    (place / "day 1").mkdir(parents=True)
    (place / ".trash").mkdir()
    for name in ("a.mp4", "day 1/é.MKV", "notes.txt", ".hidden.mp4", ".trash/c.mp4"):
        (place / name).write_bytes(name.encode())
    (place / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (place / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (place / "passwords.mp4").symlink_to("/etc/passwd")
    (place / "inside.mp4").symlink_to(place / "a.mp4")
    (place / "more").symlink_to(tmp_path / "elsewhere")
    (place / "folder.mp4").mkdir()
    return place


def test_videos_of_a_folder_and_nothing_outside_it(folder):
    found = shelf.videos(folder)
    assert list(found) == ["a.mp4", "inside.mp4", "day 1/é.MKV"]
    assert found["inside.mp4"] == folder / "a.mp4"
    assert all(found.get(name) is None for name in ("../secret.mp4", "/etc/passwd", "out.mp4", "more/b.mp4", "a.mp4/", "./a.mp4"))


def test_no_more_than_listed(folder, monkeypatch):
    monkeypatch.setattr(shelf, "LISTED", 2)
    assert list(shelf.videos(folder)) == ["a.mp4", "inside.mp4"]


def test_a_copy_is_made_once_and_anew_when_the_video_changes(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    copy = shelf.take(folder / "a.mp4", home)
    assert copy.read_bytes() == b"a.mp4"
    assert copy.is_relative_to(home)
    assert copy.name == "a.mp4"
    copy.write_bytes(b"kept")
    assert shelf.take(folder / "a.mp4", home).read_bytes() == b"kept"
    (folder / "a.mp4").write_bytes(b"a new one")
    changed = shelf.take(folder / "a.mp4", home)
    assert changed != copy
    assert changed.read_bytes() == b"a new one"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="the system cannot refuse links")
def test_a_link_put_in_the_place_of_a_video_is_not_followed(folder, tmp_path):
    with pytest.raises(OSError, match="symbolic"):
        shelf.take(folder / "out.mp4", tmp_path)


def test_tidy_removes_what_is_old_and_counts_the_rest(tmp_path, monkeypatch):
    old, new = tmp_path / "1" / "old.mp4", tmp_path / "2" / "new.mp4"
    for file in (old, new):
        file.parent.mkdir()
        file.write_bytes(bytes(100))
    assert shelf.tidy(tmp_path, keep=3600) == 200
    now = time.time()
    monkeypatch.setattr(shelf.time, "time", lambda: now + 3601)
    os.utime(new, (now + 60, now + 60))
    assert shelf.tidy(tmp_path, keep=3600) == 100
    assert [file.name for file in tmp_path.rglob("*")] == ["2", "new.mp4"]
    assert tmp_path.is_dir()


def test_tidying_goes_on_until_it_is_over(tmp_path, monkeypatch):
    (tmp_path / "old").write_bytes(b"x")
    waits = iter([False, False, True])

    class Over(threading.Event):
        def wait(self, timeout=None):
            assert timeout == 600
            return next(waits)

    shelf.keep_tidy(tmp_path, -1.0, Over())
    assert not list(tmp_path.iterdir())
    assert list(waits) == []


def test_only_the_latest_version_is_kept(tmp_path):
    first = shelf.new_folder(tmp_path / "key" / "tables")
    (first / "a.json").write_text("1")
    other = shelf.new_folder(tmp_path / "key" / "video")
    second = shelf.new_folder(tmp_path / "key" / "tables")
    shelf.keep_only(second)
    assert not first.exists()
    assert second.is_dir()
    assert other.is_dir()


@given(st.text())
def test_safe_names(text):
    name = shelf.safe_name(text)
    assert 1 <= len(name) <= 80
    assert not set('/\\:*?"<>|\0\n') & set(name)
    assert not name.startswith(".")
