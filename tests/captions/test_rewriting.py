"""utils/captions/rewriting.py: the pool, which pairs a sentence gets, the prompt, what is taken of an answer, and answers that survive a
kill.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.captions.rewriting import Answers, Pair, build_prompt, draw_pairs, make_request, one_line, read_pairs, rewrite_of, sentence_seed
from utils.errors import BadInput
from utils.files import ROOT

POOL = ROOT / "list" / "caption_pairs.txt"
PAIRS = [Pair(i, f"source {i}", f"target {i}") for i in range(1, 11)]


def request(sentence="a man walks", version=1, seed=0, pool=PAIRS, longest=300, **identity):
    return make_request(sentence, version, seed=seed, pool=pool, longest=longest, identity={"model": "m", **identity})


def test_the_pool_that_comes_along():
    pairs = read_pairs(POOL)
    assert len(pairs) >= 50
    assert len({pair.source for pair in pairs}) == len({pair.target for pair in pairs}) == len(pairs)
    lines = POOL.read_text(encoding="utf-8").splitlines()
    assert all(lines[pair.number - 1] == f"{pair.source} => {pair.target}" for pair in pairs)
    for pair in pairs:  # rewrites, not copies: at most two in three words are shared
        source, target = (set(text.lower().rstrip(".").split()) for text in pair[1:])
        assert len(source & target) <= 2 / 3 * len(target), pair


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("a => b\nc = d\n", 2, "'c = d' is no pair"),
        ("# comment\n\na => b => c", 3, "no pair"),
        ("a => b\nc => ", 2, "no pair"),
        ("a => b\nc => d\n a =>  b\n", 3, "line 1 already"),
    ],
)
def test_a_bad_line_of_a_pool_is_named(tmp_path, text, line, found):
    (tmp_path / "pool.txt").write_text(text)
    with pytest.raises(BadInput, match=f"pool.txt:{line}: .*{found}"):
        read_pairs(tmp_path / "pool.txt")


def test_a_pool_that_is_missing_or_small_or_no_text(tmp_path):
    path = tmp_path / "pool.txt"
    with pytest.raises(BadInput, match=r"pool.txt: no such file.*--pairs"):
        read_pairs(path)
    path.write_text("# two\na => b\nc => d\n")
    with pytest.raises(BadInput, match=r"2 pairs; a prompt shows 3"):
        read_pairs(path)
    path.write_bytes(b"a => caf\xe9\n")
    with pytest.raises(BadInput, match="cannot be read as UTF-8 text"):
        read_pairs(path)


words = st.text(st.characters(codec="utf-8", exclude_characters="=#"), min_size=1).map(one_line).filter(bool)


@settings(max_examples=30)
@given(st.lists(st.tuples(words, words), min_size=3, unique=True))
def test_a_pool_written_is_the_pool_read(tmp_path_factory, pairs):
    path = tmp_path_factory.getbasetemp() / "written.txt"
    path.write_text("\n# comment\n".join(f"  {source}=>{target}\t" for source, target in pairs), encoding="utf-8", newline="")
    assert [pair[1:] for pair in read_pairs(path)] == pairs


def test_the_prompt_is_laid_out_as_laclip_does():
    assert build_prompt(PAIRS[:3], "a man walks") == (
        "write image captions differently,\n\nsource 1 => target 1\n\nsource 2 => target 2\n\nsource 3 => target 3\n\na man walks =>"
    )


def test_a_request_shows_three_pairs_and_one_line():
    found = request(one_line("The video begins.\n\nA  dog is seen. It runs."), longest=7)
    instruction, *pairs, caption = found.prompt.split("\n\n")
    assert instruction == "write image captions differently,"
    assert pairs == [f"source {number} => target {number}" for number in found.pairs]
    assert caption == "The video begins. A dog is seen. =>"


def test_pairs_and_seed_follow_from_seed_version_and_sentence():
    same = request()
    assert request() == same
    others = [request(seed=1), request(version=2), request("a man ran")]
    assert len({found.seed for found in [same, *others]}) == 4
    assert any(found.pairs != same.pairs for found in others)
    keys = {found.key for found in [same, *others, request(model="other"), request(temperature=0.5), request(pool=PAIRS[:3])]}
    assert len(keys) == 7


def test_pairs_are_drawn_uniformly_in_every_order():
    draws = [tuple(pair.number for pair in draw_pairs(PAIRS[:4], 0, 1, f"sentence {i}")) for i in range(4800)]
    assert all(len(set(draw)) == 3 for draw in draws)
    count = Counter(draws)
    assert len(count) == 24  # 4 · 3 · 2 orders, 200 each; σ is 14
    assert 130 < min(count.values()) <= max(count.values()) < 270


def test_a_new_pair_changes_only_the_draws_it_enters():
    before = [draw_pairs(PAIRS[:9], 0, 1, f"sentence {i}") for i in range(500)]
    after = [draw_pairs(PAIRS, 0, 1, f"sentence {i}") for i in range(500)]
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert 0 < len(changed) < 250
    assert all(PAIRS[9] in new for new in changed)


@given(st.integers(), st.integers(1, 9), st.text())
def test_seeds_are_31_bits(seed, version, sentence):
    assert 0 <= sentence_seed(seed, version, sentence) < 2**31


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" A man strolls along.", "A man strolls along."),
        (" A man strolls.\n\na dog => an animal", "A man strolls."),
        (" A man strolls.\r\na dog", "A man strolls."),
        (" A  man\tstrolls. a dog => an animal", "A man strolls. a dog"),  # an invented pair on the same line ends it, as in LaCLIP's code
        ("\n\nA man strolls.", None),  # the caption's own line stays empty
        (" Walking", None),
        (" - .", None),
        ("", None),
    ],
)
def test_what_is_taken_of_a_completion(answer, expected):
    assert rewrite_of(answer, request()) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\n A man strolls.", "A man strolls."),
        ('"A man strolls."', "A man strolls."),
        ("a man walks => A man strolls.", "A man strolls."),
        ("=> A man strolls.\nAnother", "A man strolls."),
        ("<think>\nThe user wants\n</think>\n\nA man strolls.", "A man strolls."),
        ("<think>\nThe user wants a", None),
        ("I'm sorry, but I can't help with that.", None),
        ("Walking", None),
    ],
)
def test_what_is_taken_of_a_chat(answer, expected):
    assert rewrite_of(answer, request(), chat=True) == expected


@given(st.text(), st.text(), st.booleans())
def test_a_rewrite_is_one_line_of_words_and_what_follows_has_no_say(answer, more, chat):
    found = rewrite_of(answer, request(), chat)
    assert found is None or (found == one_line(found) and len(found.split()) >= 2 and "=>" not in found)
    if not chat:
        assert rewrite_of(f"{answer}\n{more}", request()) == found


def test_answers_come_back_and_a_torn_line_is_dropped(tmp_path):
    path, one, two = tmp_path / "folder" / "answers", request("one sentence"), request("sätze sind\ttext \ud800")
    with Answers(path) as answers:
        answers.keep(one, " A « rewrite »\nmore", model="m")
        assert json.loads(path.read_text())["sentence"] == "one sentence"  # on disk at once
        answers.keep(two, "")
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1]) + 1):
        path.write_bytes(whole[:-cut])
        with Answers(path) as answers:
            assert one.key in answers
            assert two.key not in answers
            assert answers[one.key] == " A « rewrite »\nmore"
        assert path.read_bytes() == whole.splitlines(keepends=True)[0]
    with Answers(path) as answers:
        answers.keep(two, "")
    assert path.read_bytes() == whole


def test_a_damaged_or_busy_file_of_answers_is_refused(tmp_path):
    path = tmp_path / "answers"
    with Answers(path), pytest.raises(BadInput, match="another run is writing"):
        Answers(path)
    path.write_text('{"key": "k", "answer": "a"}\n{"key": \n{"key": "l", "answer": "b"}\n')
    with pytest.raises(BadInput, match="answers:2: "):
        Answers(path)


def test_a_full_disk_is_said_and_leaves_no_half_line(tmp_path):
    resource = pytest.importorskip("resource")
    path, limits = tmp_path / "answers", resource.getrlimit(resource.RLIMIT_FSIZE)
    with Answers(path) as answers:
        answers.keep(request("one"), "the first answer")
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, limits[1]))  # the next line fits in part
        try:
            with pytest.raises(BadInput, match="answers: cannot be written"):
                answers.keep(request("two"), "the second answer")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.stat().st_size == size
        answers.keep(request("three"), "the third answer")
    with Answers(path) as answers:
        assert [request(text).key in answers for text in ("one", "two", "three")] == [True, False, True]


def test_a_folder_or_device_is_no_file_of_answers(tmp_path):
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(BadInput, match="is no regular file"):
            Answers(path)
