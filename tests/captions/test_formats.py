"""utils/captions/formats.py: a file that a person can correct, and the readers of what others publish."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import REAL
from utils.captions.formats import Caption, VideoCaptions, plain_text, read_caption_file, read_captions, write_captions
from utils.errors import BadInput

HEADER = '{"video": "Own", "frames": 40, "fps": 25.0, "model": "m"}'
ONE = '{"snippet": 0, "frames": [0, 16], "caption": "a man walks"}'
UCA = {"duration": 4.0, "timestamps": [[0.0, 0.4], [3.5, 3.0], [3.8, 4.2]], "sentences": ["A man walks.", " the dog ", "a car"]}


def test_a_file_is_what_the_format_says(tmp_path):
    captions = [
        Caption(0.0, 16.0, "a “man”", {"snippet": 0}),
        Caption(16, 20.5, "une rue", {"snippet": 1, "source": "a street", "pairs": [3]}),
    ]
    write_captions(tmp_path / "Own.jsonl", "Own", VideoCaptions(40, 25.0, captions, {"model": "m", "settings": {"window": 16}}))
    assert (tmp_path / "Own.jsonl").read_text(encoding="utf-8") == (
        '{"video": "Own", "frames": 40, "fps": 25.0, "model": "m", "settings": {"window": 16}}\n'
        '{"snippet": 0, "frames": [0, 16], "caption": "a “man”"}\n'
        '{"snippet": 1, "frames": [16, 20.5], "caption": "une rue", "source": "a street", "pairs": [3]}\n'
    )


texts = st.text().map(plain_text)
spans = st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted)


@given(
    st.lists(st.tuples(spans, texts, st.dictionaries(st.sampled_from(["source", "seed"]), st.text() | st.integers())), max_size=4),
    st.none() | st.integers(1, 10**6),
    st.booleans(),
)
def test_what_is_written_is_read_again(tmp_path_factory, entries, frames, numbered):
    captions = [Caption(*span, text, ({"snippet": i} if numbered else {}) | more) for i, (span, text, more) in enumerate(entries)]
    video = VideoCaptions(frames, None, captions, {"model": "m"})
    path = tmp_path_factory.mktemp("captions") / "Own.jsonl"
    write_captions(path, "Own", video)
    assert read_caption_file(path) == ("Own", video)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("half an emoji \ud83d", "half an emoji \ufffd"),
        ("\ude00 a\udcff\udcfeb", "\ufffd a\ufffd\ufffdb"),
        ("\ud83d\ude00 a whole one", "😀 a whole one"),
        ("\x1b[31mred\x1b[0m, \x1b]0;title\x07a \x9b1mman\x1b", "red, a man"),
        ("a\0 \0m\0a\0n", "a man"),
        ("\ufeffa \u202enam\u202c\u200f walks", "a nam walks"),
        ("<b>a & b</b> | $x$ “c” ‘d’\n走る 👩‍🚒", "<b>a & b</b> | $x$ “c” ‘d’\n走る 👩‍🚒"),
    ],
)
def test_what_of_a_text_is_taken(text, plain):
    assert plain_text(text) == plain


@given(st.text(st.characters()))
def test_any_text_can_be_written_and_is_taken_once(text):
    plain = plain_text(text)
    plain.encode("utf-8")
    assert plain_text(plain) == plain
    assert "\x1b" not in plain


BAD_TEXT = "a\ud83d \x1b[2Jman\0"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("uca.json", json.dumps({"Own": {"duration": 4, "timestamps": [[0, 2]], "sentences": [BAD_TEXT]}})),
        ("llava.json", json.dumps({"vid_captions": {"Own.mp4": {"0, 9": BAD_TEXT}}})),
        ("swinbert.txt", json.dumps({"a/Own.mp4": [BAD_TEXT]})),
        ("Own.jsonl", f"{HEADER}\n{json.dumps({'frames': [0, 16], 'caption': BAD_TEXT})}"),
    ],
)
def test_any_text_is_taken_from_every_format(tmp_path, name, content):
    for encoded in (content, f"\ufeff{content}"):
        (tmp_path / name).write_text(encoded, encoding="utf-8")
        videos, _ = read_captions([tmp_path / name], fps=30)
        assert [caption.text for caption in videos["Own"].captions] == ["a\ufffd man"]


@pytest.mark.parametrize("name", ["", "a\0b", "half \ud83d", "x" * 245, "走" * 82, "folder/"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    (tmp_path / "captions.json").write_text(json.dumps({name: UCA}))
    with pytest.raises(BadInput, match=r"expected a video's name, 1 to 244 bytes"):
        read_captions([tmp_path / "captions.json"], fps=30)


@pytest.mark.parametrize("name", ["NA", "01", "null", "1e5", "x" * 242, "<b>x", "a\x1b[31mb", os.fsdecode(b"caf\xe9")])
def test_a_name_stays_the_name_it_is(tmp_path, name):
    (tmp_path / "captions.json").write_text(json.dumps({name: UCA}))
    videos, _ = read_captions([tmp_path / "captions.json"], fps=30)
    assert list(videos) == [name]
    write_captions(tmp_path / f"{name}.jsonl", name, videos[name])
    assert read_caption_file(tmp_path / f"{name}.jsonl")[0] == name


def test_what_an_editor_leaves_is_read(tmp_path):
    """A byte order mark, line ends of Windows, empty lines."""
    (tmp_path / "Own.jsonl").write_bytes(f"\ufeff{HEADER}\r\n\r\n{ONE}\r\n\r\n".encode())
    assert read_caption_file(tmp_path / "Own.jsonl")[1] == VideoCaptions(
        40, 25.0, [Caption(0, 16, "a man walks", {"snippet": 0})], {"model": "m"}
    )


@pytest.mark.parametrize(
    ("lines", "number", "expected"),
    [
        ([ONE], 1, "the header"),
        (["[1]", ONE], 1, "the header"),
        (['{"frames": 40}'], 1, "the header"),
        ([HEADER.replace("Own", "Else"), ONE], 1, "Own.jsonl"),
        ([HEADER.replace("40", "-1"), ONE], 1, "frames -1"),
        ([HEADER.replace("25.0", "NaN"), ONE], 1, "fps nan; expected a finite number"),
        ([HEADER, ONE[:-1]], 2, '"frames"'),
        ([HEADER, "", ONE, "a man walks"], 4, '"frames"'),
        ([HEADER, "[]"], 2, '"frames"'),
        ([HEADER, '{"frames": [0, 16]}'], 2, '"caption"'),
        ([HEADER, '{"frames": [0], "caption": "a"}'], 2, '"frames"'),
        ([HEADER, '{"frames": [0, "16"], "caption": "a"}'], 2, '"frames"'),
        ([HEADER, '{"frames": [0, Infinity], "caption": "a"}'], 2, '"frames"'),
        ([HEADER, '{"frames": [0, 16], "caption": null}'], 2, '"caption"'),
        ([HEADER, '{"frames": [16, 0], "caption": "a"}'], 2, "start <= end"),
        ([HEADER, '{"frames": [-1, 0], "caption": "a"}'], 2, "frames.0 -1"),
        ([HEADER, '{"snippet": 0.5, "frames": [0, 16], "caption": "a"}'], 2, "snippet 0.5; expected a valid integer"),
        ([HEADER, ONE, ONE], 3, "as on line 2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, lines, number, expected):
    (tmp_path / "Own.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadInput) as error:
        read_captions([str(tmp_path)], fps=30)
    assert f"Own.jsonl: line {number}: " in str(error.value)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_is_read_whatever_its_depth(tmp_path):
    for place in ("b/Two.jsonl", "a/deep/One.jsonl"):
        write_captions(tmp_path / place, Path(place).stem, VideoCaptions(16, None, [Caption(0, 16, place)]))
    (tmp_path / "b" / "Half.jsonl.part").write_text("no caption file")
    (tmp_path / "b" / "Two.npy").write_bytes(b"features")
    videos, mended = read_captions([tmp_path], fps=30)
    assert {name: video.captions[0].text for name, video in videos.items()} == {"One": "a/deep/One.jsonl", "Two": "b/Two.jsonl"}
    assert mended == {"swapped": 0, "clipped": 0}


def test_uca_seconds_become_frames_and_times_are_put_right(tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps({"Abuse001_x264": UCA}))
    videos, mended = read_captions([tmp_path / "captions.json"], fps=30)
    assert mended == {"swapped": 1, "clipped": 1}
    captions = [Caption(0, 12, "A man walks."), Caption(90, 105, "the dog"), Caption(114, 120, "a car")]
    assert videos == {"Abuse001_x264": VideoCaptions(120, 30, captions)}


@pytest.mark.parametrize("zipped", [True, False])
def test_llava_frames(tmp_path, zipped):
    content = json.dumps({"vid_captions": {"Abuse028_x264.mp4": {"577, 580": "b\n", "0, 577": "a"}}, "config": {}}).encode()
    path = tmp_path / ("captions.json.gz" if zipped else "captions.json")
    path.write_bytes(gzip.compress(content) if zipped else content)
    videos, _ = read_captions([path], fps=24)
    assert videos == {"Abuse028_x264": VideoCaptions(None, None, [Caption(0, 577, "a"), Caption(577, 580, "b")])}


@pytest.mark.parametrize("name", ["captions.txt", "captions.jsonl", "captions.json"])
@pytest.mark.parametrize("count", [1, 2])
def test_swinbert_has_a_caption_per_16_frames(tmp_path, name, count):
    names = ["Abuse/Abuse001_x264.mp4", "/frames/01_0014"][:count]
    (tmp_path / name).write_text("".join(json.dumps({name: ["a man walks", "a dog"]}) + "\n" for name in names))
    videos, _ = read_captions([tmp_path / name], fps=24)
    assert list(videos) == ["Abuse001_x264", "01_0014"][:count]
    captions = [Caption(0, 16, "a man walks", {"snippet": 0}), Caption(16, 32, "a dog", {"snippet": 1})]
    assert videos["Abuse001_x264"] == VideoCaptions(None, None, captions, {"model": "SwinBERT"})


def test_texts_without_times_are_spread_over_the_video(tmp_path):
    """90 frames, three texts: one each 30 frames. 32 frames: each 10.667."""
    (tmp_path / "captions.json").write_text(json.dumps({"Abuse028_x264": ["a", " b", "c"], "Two": ["d", "e", "f"]}, indent=1))
    videos, _ = read_captions([tmp_path / "captions.json"], 30, {"Abuse028_x264": 90, "Two": 32})
    assert videos["Abuse028_x264"] == VideoCaptions(90, None, [Caption(0, 30, "a"), Caption(30, 60, "b"), Caption(60, 90, "c")])
    assert [caption[:2] for caption in videos["Two"].captions] == [(0, 10.667), (10.667, 21.333), (21.333, 32)]
    (tmp_path / "line.json").write_text(json.dumps({"Abuse028_x264": ["a", " b", "c"]}))
    assert read_captions([tmp_path / "line.json"], 30, {"Abuse028_x264": 90})[0] == {"Abuse028_x264": videos["Abuse028_x264"]}
    with pytest.raises(BadInput, match=r"captions.json: Two: texts without times, .* name its ground truth: --gt of"):
        read_captions([tmp_path / "captions.json"], 30, {"Abuse028_x264": 90})


def test_a_wrong_line_of_swinbert_is_named(tmp_path):
    (tmp_path / "captions.txt").write_text('{"a/One.mp4": ["a"]}\n{"a/Two.mp4": [1]}\n')
    with pytest.raises(BadInput, match=r"captions.txt: line 2: .*expected .*text"):
        read_captions([tmp_path / "captions.txt"], fps=24)


@pytest.mark.parametrize(
    "entry",
    [
        [],
        None,
        {"duration": 3.0, "timestamps": [[0, 1]]},
        {"duration": 3.0, "timestamps": [[0, 1]], "sentences": []},
        {"duration": 3.0, "timestamps": [[0, 1, 2]], "sentences": ["a"]},
        {"duration": 3.0, "timestamps": [[0, "x"]], "sentences": ["a"]},
        {"duration": 3.0, "timestamps": [[0, float("nan")]], "sentences": ["a"]},
        {"duration": 3.0, "timestamps": [[0, 1]], "sentences": [None]},
        {"duration": 0, "timestamps": [], "sentences": []},
    ],
)
def test_other_captions_in_seconds_are_refused_by_name(tmp_path, entry):
    (tmp_path / "captions.json").write_text(json.dumps({"Fine": UCA, "Broken": entry}))
    with pytest.raises(BadInput, match=r"captions.json: Broken: .*timestamps"):
        read_captions([str(tmp_path / "captions.json")], fps=30)


@pytest.mark.parametrize("entry", [[], None, {"0-16": "a"}, {"0, 16": None}, {"16, 0": "a"}, {"0, nan": "a"}, {"0, 16, 32": "a"}])
def test_other_captions_in_frames_are_refused_by_name(tmp_path, entry):
    (tmp_path / "captions.json").write_text(json.dumps({"vid_captions": {"Fine.mp4": {"0, 16": "a"}, "Broken.mp4": entry}}))
    with pytest.raises(BadInput, match=r"captions.json: Broken.mp4: .*in frames"):
        read_captions([str(tmp_path / "captions.json")], fps=30)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.json", b"{"),
        ("captions.json", b"{}"),
        ("captions.json", b"[1]"),
        ("captions.json", b'{"vid_captions": [1]}'),
        ("captions.json", b"\xff\xfe\x00"),
        ("captions.json.gz", b"no gzip"),
        ("captions.json.gz", gzip.compress(b'{"a": 1}', mtime=0)[:-9]),
        ("captions.jsonl", b""),
        ("captions.txt", b"a man walks\n"),
    ],
)
def test_a_file_that_holds_no_captions_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as error:
        read_captions([tmp_path / name], fps=30)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_empty_folders_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"no-such.json: no such file"):
        read_captions([tmp_path / "no-such.json"], fps=30)
    with pytest.raises(BadInput, match=r"no .jsonl below it"):
        read_captions([tmp_path], fps=30)


def test_a_video_in_two_places_is_refused(tmp_path):
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps({"Own": UCA}))
    with pytest.raises(BadInput, match=r"two.json: Own stands in another .*one.json"):
        read_captions([tmp_path / "one.json", tmp_path / "two.json"], fps=30)
    for folder in ("a", "b"):
        write_captions(tmp_path / folder / "Own.jsonl", "Own", VideoCaptions(16, None, []))
    with pytest.raises(BadInput, match=r"b/Own.jsonl: Own stands in another .*a/Own.jsonl"):
        read_captions([tmp_path], fps=30)
    (tmp_path / "captions.txt").write_text('{"a/Own.mp4": ["a"]}\n{"b/Own.mp4": ["b"]}\n')
    with pytest.raises(BadInput, match=r"Own stands in another place"):
        read_captions([tmp_path / "captions.txt"], fps=30)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
def test_uca_as_published():
    """1,854 videos in three files, 23,542 sentences, no time out of order or beyond its video's duration."""
    videos, mended = read_captions([REAL / "uca_captions" / f"UCFCrime_{part}.json" for part in ("Train", "Val", "Test")], fps=30)
    assert len(videos) == 1854
    assert sum(len(video.captions) for video in videos.values()) == 23542
    assert mended == {"swapped": 0, "clipped": 0}
    assert all(caption.text for video in videos.values() for caption in video.captions)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
def test_machine_captions_as_published():
    """All 290 test videos; their ranges follow one another from frame 0 to the end, which our ground truth rounds to a multiple of 16."""
    videos, _ = read_captions([REAL / "machine_captions" / "vadtree_ucf_test.json.gz"], fps=30)
    truth = json.loads((REAL / "ground_truth" / "ucf_test.json").read_text())
    assert videos.keys() == truth.keys()
    for name, video in videos.items():
        edges = [caption.start for caption in video.captions] + [video.captions[-1].end]
        assert edges[0] == 0
        assert edges[1:-1] == [caption.end for caption in video.captions[:-1]]
        assert abs(edges[-1] - truth[name]["frames"]) <= 16
        assert all(caption.text for caption in video.captions)
