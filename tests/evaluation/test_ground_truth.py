"""utils/evaluation/ground_truth.py: what is read back, and what is refused by name."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import UCF, XD
from utils.errors import BadInput
from utils.evaluation.ground_truth import GroundTruth, load_ground_truth, write_ground_truth
from utils.labels import video_name

GOOD = {"frames": 1408, "fps": 30, "segments": [[165, 240, "Abuse"]]}


def load(tmp_path, content, dataset=UCF):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    return load_ground_truth(path, dataset)


def test_reads_the_format_of_the_contract(tmp_path):
    truth = load(tmp_path, {"Abuse028_x264": GOOD, "Normal_Videos_003_x264": {"frames": 16, "fps": 29.97, "segments": []}})
    assert truth == {
        "Abuse028_x264": GroundTruth(1408, 30.0, ((165, 240, "Abuse"),)),
        "Normal_Videos_003_x264": GroundTruth(16, 29.97, ()),
    }


def test_overlapping_segments_of_several_classes_are_kept_in_order(tmp_path):
    segments = [[50, 84, "B2"], [25, 92, "G"]]
    assert load(tmp_path, {"x": {"frames": 100, "fps": 24, "segments": segments}}, XD)["x"].segments == ((50, 84, "B2"), (25, 92, "G"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 0}, "frames 0"),
        ({"frames": -16}, "frames -16"),
        ({"frames": 16.0}, "frames 16.0"),
        ({"frames": True}, "frames True"),
        ({"frames": None}, "frames None"),
        ({"fps": 0}, "fps 0"),
        ({"fps": -1}, "fps -1"),
        ({"fps": math.nan}, "fps nan"),
        ({"fps": math.inf}, "fps inf"),
        ({"fps": "30"}, "fps '30'"),
        ({"segments": None}, "segments None"),
        ({"segments": [[-1, 240, "Abuse"]]}, "segments.0.0 -1; expected a value of at least 0"),
        ({"segments": [[240, 240, "Abuse"]]}, "start < end"),
        ({"segments": [[241, 240, "Abuse"]]}, "start < end"),
        ({"segments": [[0, 1409, "Abuse"]]}, "1408 frames"),
        ({"segments": [[0, 10.5, "Abuse"]]}, "segments.0.1 10.5; expected a valid integer"),
        ({"segments": [[0, 10]]}, "has no segments.0.2"),
        ({"segments": [[0, 10, "B2"]]}, "class 'B2'"),
        ({"segments": [[0, 10, "abuse"]]}, "class 'abuse'"),
        ({"segments": [[0, 10, "Normal"]]}, "class 'Normal'"),
    ],
)
def test_bad_entry_names_file_video_and_option(tmp_path, change, said):
    with pytest.raises(BadInput) as error:
        load(tmp_path, {"Fine": GOOD, "Broken": GOOD | change})
    message = str(error.value)
    assert said in message
    assert "Broken" in message
    assert "Fine" not in message
    assert str(tmp_path / "gt.json") in message
    assert "--gt-path" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [{}, [], 3, {"x": []}, {"x": {"frames": 16, "fps": 30}}, {"x": {"frames": 16, "segments": []}}])
def test_other_json_is_refused(tmp_path, content):
    with pytest.raises(BadInput, match="--gt-path"):
        load(tmp_path, content)


def test_missing_file_and_no_json(tmp_path):
    with pytest.raises(BadInput, match=r"no such file.*--gt-path"):
        load_ground_truth(tmp_path / "none.json", UCF)
    (tmp_path / "text.json").write_text("Abuse028_x264  Abuse  165  240")
    with pytest.raises(BadInput, match="not a JSON file"):
        load_ground_truth(tmp_path / "text.json", UCF)


@st.composite
def truths(draw):
    frames = draw(st.integers(1, 10**6))
    segments = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, frames - 1))
        segments.append((start, draw(st.integers(start + 1, frames)), draw(st.sampled_from(XD.labels[1:]))))
    fps = draw(st.sampled_from([24.0, 30.0, 29.97]) | st.floats(1e-3, 1e3))
    return GroundTruth(frames, fps, tuple(segments))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: video_name(name) == name)


@given(st.dictionaries(NAMES, truths(), min_size=1, max_size=5))
def test_what_is_written_is_read_back_in_order_one_video_a_line(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("gt") / "gt.json"
    write_ground_truth(path, truth)
    read = load_ground_truth(path, XD)
    assert list(read.items()) == list(truth.items())
    assert path.read_text(encoding="utf-8").count("\n") == len(truth) + 2
    assert [file.name for file in path.parent.iterdir()] == ["gt.json"]


def test_names_lose_their_extension(tmp_path):
    path = tmp_path / "gt.json"
    entry = '{"frames": 5, "fps": 30, "segments": []}'
    path.write_text(f'{{"Abuse028_x264.MP4": {entry}, "b.webm": {entry}}}')
    assert list(load_ground_truth(path, UCF)) == ["Abuse028_x264", "b"]
    path.write_text(f'{{"a.MP4": {entry}, "a": {entry}}}')
    with pytest.raises(BadInput, match=r"gt\.json: a stands there twice, as a too"):
        load_ground_truth(path, UCF)
