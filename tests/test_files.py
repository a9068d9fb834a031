"""utils/files.py: outputs that appear whole or not at all, whatever their names and content hold."""

import json
import os

import pytest

from utils.errors import BadInput
from utils.files import check_name, replacing, write_json


def test_the_longest_names_are_written(tmp_path):
    for name in ("x" * 242 + ".json", "x" * 255, "走" * 80 + ".json"):
        write_json(tmp_path / name, [1])
        assert json.loads((tmp_path / name).read_text()) == [1]


def test_without_overwrite_only_the_same_content_is_written_again(tmp_path):
    path = tmp_path / "a.txt"
    for _ in range(2):
        with replacing(path, overwrite=False) as temporary:
            temporary.write_text("one")
    with pytest.raises(BadInput, match=r"a\.txt: holds something else; .*--overwrite"), replacing(path, overwrite=False) as temporary:
        temporary.write_text("two")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "one")]
    with replacing(path) as temporary:
        temporary.write_text("two")
    assert path.read_text() == "two"


@pytest.mark.parametrize("name", ["x" * 256, "走" * 90, "a\0b"])
def test_a_name_that_no_file_can_have_is_one_line(tmp_path, name):
    with pytest.raises(BadInput, match=r"cannot be written \(.*\); take a shorter, plain name"), replacing(tmp_path / name):
        pass
    with pytest.raises(BadInput, match="shorter"):
        check_name(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_json_carries_a_name_that_is_not_utf8(tmp_path):
    value = {"video": os.fsdecode(b"caf\xe9"), "half": "\ud83d", "whole": "😀"}
    write_json(tmp_path / os.fsdecode(b"\xff.json"), value)
    assert json.loads((tmp_path / os.fsdecode(b"\xff.json")).read_text(encoding="utf-8")) == value


def test_text_that_is_not_utf8_is_one_line_and_leaves_the_file_alone(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("before")
    with pytest.raises(BadInput, match=r"list.csv: cannot hold '.*Abuse/caf\\udce9.npy.*rename that file"), replacing(path) as temporary:
        temporary.write_text(f"path,label\nAbuse/{os.fsdecode(b'caf' + bytes([0xE9]))}.npy,Abuse\n", encoding="utf-8")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
