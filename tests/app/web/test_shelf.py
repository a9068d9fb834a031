"""app/web/shelf.py: which videos of a folder are offered, copies of them, and what is cleared away."""

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web import shelf
from app.web.shelf import Shelf


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


@pytest.fixture
def stored(tmp_path):
    """stored(name, size, age) puts a file into the shelf's folder as Gradio does, below a folder of its own; its path."""

    def put(name, size, age=0.0):
        file = tmp_path / "shelf" / f"of-{name}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
        os.utime(file, (time.time() - age, time.time() - age))
        return file

    (tmp_path / "shelf").mkdir()
    return put


def make_shelf(tmp_path, **more):
    return Shelf(tmp_path / "shelf", **{"keep": 3600, "max_bytes": 1000, "pause": 0} | more)


def names(tmp_path):
    return sorted(file.name for file in (tmp_path / "shelf").rglob("*"))


def test_tidy_removes_what_is_old_and_counts_the_rest(tmp_path, stored, monkeypatch):
    old, new = stored("old.mp4", 100), stored("new.mp4", 100)
    place = make_shelf(tmp_path)
    place.tidy()
    assert (place.bytes, place.files) == (200, 2)
    now = time.time()
    monkeypatch.setattr(shelf.time, "time", lambda: now + 3601)
    os.utime(new, (now + 60, now + 60))
    place.tidy()
    assert (place.bytes, place.files) == (100, 1)
    assert names(tmp_path) == ["new.mp4", "of-new.mp4"]  # no empty folder
    assert not old.exists()


def test_tidying_goes_on_until_it_is_over(tmp_path, stored):
    stored("old", 1)
    waits = iter([False, False, True])

    class Over(threading.Event):
        def wait(self, timeout=None):
            assert timeout == pytest.approx(-1 / 6)
            return next(waits)

    shelf.keep_tidy(make_shelf(tmp_path, keep=-1.0), Over())
    assert names(tmp_path) == []
    assert list(waits) == []


def test_the_folder_is_not_walked_for_each_visitor(tmp_path, stored, monkeypatch):
    now, walked, walk = 0.0, [], os.walk
    monkeypatch.setattr(shelf.time, "monotonic", lambda: now)
    monkeypatch.setattr(os, "walk", lambda *words, **more: walked.append(now) or walk(*words, **more))
    stored("a.mp4", 400)
    place = make_shelf(tmp_path, pause=1.0)
    for number in range(100):
        now = number / 100
        assert place.room(500)
        place.add(1, 1)
    assert walked == [0]
    assert (place.bytes, place.files) == (500, 101)
    now = 5.0
    assert place.room(500)
    assert walked == [0]
    assert place.room(501)  # more than there seems to be: counted, there is
    assert walked == [0, 5]
    assert place.bytes == 400
    now = 15.0
    assert place.room(1)
    assert walked == [0, 5, 15]


@pytest.mark.parametrize("most", [{"max_bytes": 1000}, {"max_bytes": 10**9, "max_files": 10}])
def test_where_there_is_no_room_what_nobody_works_on_goes_first(tmp_path, stored, most):
    files = [stored(f"{number}.mp4", 100, age=100 - number) for number in range(10)]
    writing = tmp_path / "shelf" / "tmp123"  # an upload under way
    place = make_shelf(tmp_path, **most)
    place.use(files[0])
    os.utime(files[0], (1e9 + time.time() - 1e9 - 200,) * 2)  # the oldest
    place.tidy()
    assert place.room(100)
    left = [file for file in files if file.exists()]
    assert files[0] in left  # it is being worked on
    assert left[1:] == files[-len(left) + 1 :]  # the newest
    assert len(left) < 10
    assert not files[1].parent.exists()
    writing.touch()
    os.truncate(writing, 10**9)
    assert not place.room(10**9)
    assert writing.exists()


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
