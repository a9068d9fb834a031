"""tools.pack_features: whatever reads features reads a pack like the folder it was made of, to the bit, or refuses it in one line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dataset
import ucf_train
import xd_train
from benchmarks import UCF
from dataset import (
    FeatureDataset,
    Video,
    check_features,
    index_features,
    load_features,
    open_features,
    read_list,
    same_content,
)
from tools import check_features as check_tool
from tools import make_gt, make_list
from tools.embed_captions import feature_places, prepare_folder
from tools.new_dataset import main as new_dataset
from tools.pack_features import main
from utils import checkpoint, packs
from utils.captions.tree import CaptionTree
from utils.errors import BadInput
from utils.loading import load_data
from utils.packs import INDEX
from utils.prefetch import make_loader
from utils.video.folder import FeatureFolder
from xd_option import parse_args

WIDTH = 3
NAMES = [
    "Abuse/Abuse001_x264__0.npy",
    "Abuse/Abuse001_x264__9.npy",
    "a b/Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6__0.npy",
    "v=8cTqh9tMz_I__#1_label_A.npy",
    "ümlaut/名__3.npy",
    os.fsdecode(b"caf\xe9__1.npy"),
    "line\nbreak.npy",
    'quote"\\.mp4.npy',
]


def save(path: Path, rows: int = 4, value: float = 1.0, dtype=np.float16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((rows, WIDTH), value, dtype))
    return path


def packed(root: Path, *words) -> Path:
    main([str(root), *map(str, words)])
    return root.with_name(root.name + "-packed")


def as_another_process():
    """What is open in this one is forgotten."""
    packs._packs.clear()
    packs._arrays.clear()


def refused(call, *parts) -> str:
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
    return message


def outcome(path: Path, width: int, crop: int | None):
    """What reading gives, or is refused with."""
    try:
        return load_features(path, width, crop).numpy().tobytes()
    except BadInput as error:
        return str(error).replace(str(path), "")


FLOATS = {dtype: np.dtype(dtype).itemsize * 8 for dtype in ("<f2", "<f4", "<f8", ">f4")}
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 4)) | st.tuples(st.integers(1, 6), st.just(10), st.integers(1, 3))


@given(data=st.data(), dtype=st.sampled_from(list(FLOATS)), fortran=st.booleans())
@settings(max_examples=60)
def test_values_types_and_shapes_are_the_folders(tmp_path_factory, data, dtype, fortran):
    """NaN, infinities, values beyond float32, negative zeros and subnormal numbers included."""
    root = tmp_path_factory.mktemp("features") / "root"
    root.mkdir()
    found = {}
    for number in range(data.draw(st.integers(1, 3))):
        values = data.draw(arrays(np.dtype(dtype), SHAPES, elements=st.floats(width=FLOATS[dtype])))
        found[f"v{number}.npy"] = values
        np.save(root / f"v{number}.npy", np.asfortranarray(values) if fortran else values)
    pack = packed(root)
    for name, values in found.items():
        array = open_features(pack / name, None)
        assert (array.dtype, array.shape) == (values.dtype.newbyteorder("="), values.shape)
        assert array.tobytes() == values.astype(array.dtype).tobytes()
        for crop in (None, 0, 9):
            assert outcome(pack / name, values.shape[-1], crop) == outcome(root / name, values.shape[-1], crop)
        assert outcome(pack / name, 7, None) == outcome(root / name, 7, None)


def test_names_and_folders_are_found_as_before(tmp_path):
    root = tmp_path / "root"
    for number, name in enumerate(NAMES):
        save(root / name, rows=number + 1, value=number)
    (root / "linked").symlink_to(save(tmp_path / "elsewhere" / "far.npy").parent)
    pack = packed(root)

    def found(place):
        index = index_features(place)
        return {
            name: {home: {crop: file.relative_to(place) for crop, file in files.items()} for home, files in homes.items()}
            for name, homes in index.items()
        }

    assert found(pack) == found(root)
    assert len(found(root)) == len(NAMES)  # two of the names are crops of one video, and a linked one
    assert found(pack / "Abuse") == found(root / "Abuse")
    for number, name in enumerate(NAMES):
        assert load_features(pack / name, WIDTH).tolist() == [[number] * WIDTH] * (number + 1)
    rows = "path,label\n/home/x/UCF/Abuse/Abuse001_x264__9.npy,Abuse\nAbuse/Abuse001_x264.npy,Abuse\nfar.npy,Normal\n"
    (tmp_path / "list.csv").write_text(rows)
    videos = read_list(tmp_path / "list.csv", pack, UCF)
    assert [(video.name, video.crops, [str(file.relative_to(pack)) for file in video.files]) for video in videos] == [
        (video.name, video.crops, [str(file.relative_to(root)) for file in video.files])
        for video in read_list(tmp_path / "list.csv", root, UCF)
    ]
    refused(lambda: load_features(pack / "Abuse" / "Abuse001_x264__5.npy", WIDTH), "Abuse001_x264__5.npy: no such file")


def test_a_folder_with_packs_in_it(tmp_path):
    """Beside loose files, from a working directory in it, and by a path with dots."""
    save(tmp_path / "all" / "one" / "a.npy", value=1)
    packed(tmp_path / "all" / "one")
    shutil.rmtree(tmp_path / "all" / "one")
    save(tmp_path / "all" / "b.npy", value=2)
    save(tmp_path / "all" / "one-packed" / "later.npy", value=3)
    for place in (tmp_path / "all", tmp_path / "all" / "one-packed" / ".."):
        files = {name: next(iter(next(iter(homes.values())).values())) for name, homes in index_features(place).items()}
        assert {name: load_features(file, WIDTH)[0, 0].item() for name, file in files.items()} == {"a": 1, "b": 2, "later": 3}
    save(tmp_path / "all" / "one-packed" / "a.npy")
    refused(lambda: index_features(tmp_path / "all"), tmp_path / "all" / "one-packed" / "a.npy", "remove one of them")


def test_what_lies_beside_features_goes_along(tmp_path):
    root = tmp_path / "root"
    save(root / "source" / "v.npy")
    for name in ("source/v.jsonl", "source/embed.json", "extract.json"):
        (root / name).write_text(name)
    (root / "video.mp4").write_bytes(bytes(1000))
    pack = packed(root)
    files = {str(path.relative_to(pack)) for path in pack.rglob("*") if path.is_file()}
    assert files == {"source/v.jsonl", "source/embed.json", "extract.json", "packed.float16", INDEX}
    assert (pack / "source" / "v.jsonl").read_text() == "source/v.jsonl"


# Out of date, damaged, missing


def change_values(root):
    save(root / "a" / "v1.npy", value=5)


def change_time(root):
    os.utime(root / "a" / "v1.npy", ns=(1, 1))


def change_captions(root):
    (root / "a" / "v1.jsonl").write_text("{}")


@pytest.mark.parametrize("change", [change_values, change_time, change_captions])
def test_a_source_that_has_changed_is_told(tmp_path, change):
    root = tmp_path / "root"
    for number in range(3):
        save(root / "a" / f"v{number}.npy", value=number)
    (root / "a" / "v1.jsonl").write_text("")
    pack = packed(root)
    index_features(pack)
    change(root)
    as_another_process()
    refused(lambda: index_features(pack), f"{pack}: packed from {root}, where a/v1", "has changed since", "--overwrite", "--feature-root")
    refused(lambda: main([str(root)]), "a/v1", "has changed", "--overwrite")
    packed(root, "--overwrite")
    assert load_features(pack / "a" / "v1.npy", WIDTH).tolist() == load_features(root / "a" / "v1.npy", WIDTH).tolist()
    as_another_process()
    save(root / "b" / "new.npy")
    refused(lambda: index_features(pack), "b/new.npy is new since")


def test_the_source_may_go(tmp_path, capsys):
    root = tmp_path / "root"
    save(root / "v0.npy", value=0)
    save(root / "v1.npy", value=1)
    pack = packed(root)
    (root / "v0.npy").unlink()
    assert set(index_features(pack)) == {"v0", "v1"}
    shutil.rmtree(root)
    pack = pack.rename(tmp_path / "elsewhere")
    assert load_features(pack / "v1.npy", WIDTH)[0, 0] == 1
    refused(lambda: main([str(root)]), root, "no such folder")


def flip(pack):
    content = bytearray((pack / "packed.float16").read_bytes())
    content[-1] ^= 1
    (pack / "packed.float16").write_bytes(content)


DAMAGE = {
    "cut": (lambda pack: os.truncate(pack / "packed.float16", 130), "packed.float16: no readable .npy array (truncated file)"),
    "fewer values": (lambda pack: np.save((pack / "packed.float16").open("wb"), np.zeros(5, np.float16)), "at 0 of 5 values"),
    "other values": (lambda pack: np.save((pack / "packed.float16").open("wb"), np.zeros(24)), "float64 of shape (24,)"),
    "gone": (lambda pack: (pack / "packed.float16").unlink(), "packed.float16: no such file"),
    "no index": (lambda pack: (pack / INDEX).write_text(""), f"{INDEX}: not a JSON file"),
    "half an index": (lambda pack: os.truncate(pack / INDEX, 100), f"{INDEX}: not a JSON file"),
    "another index": (lambda pack: (pack / INDEX).write_text('{"root": "/x"}'), f"{INDEX}: has no arrays"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_pack_is_refused(tmp_path, kind):
    spoil, reason = DAMAGE[kind]
    for number in range(2):
        save(tmp_path / "root" / f"v{number}.npy")
    pack = packed(tmp_path / "root")
    spoil(pack)
    as_another_process()
    refused(lambda: index_features(pack), pack, reason, "pack it anew with tools.pack_features")
    refused(lambda: main([str(tmp_path / "root")]), reason, "--overwrite")
    packed(tmp_path / "root", "--overwrite")
    assert set(index_features(pack)) == {"v0", "v1"}


@pytest.mark.parametrize(
    "change",
    [{"start": 13}, {"start": -1}, {"shape": [2, 5, 3]}, {"shape": [12]}, {"shape": [0, 3]}, {"crc32": []}, {"dtype": "../x"}],
)
def test_an_index_that_says_otherwise_is_refused(tmp_path, change):
    save(tmp_path / "root" / "v.npy")
    pack = packed(tmp_path / "root")
    content = json.loads((pack / INDEX).read_text())
    content["arrays"]["v.npy"] |= change
    (pack / INDEX).write_text(json.dumps(content))
    refused(lambda: index_features(pack), pack)


def test_damaged_values_are_never_read(tmp_path):
    """Each array is compared with its checksum when it is first read; of ten crops each by itself."""
    save(tmp_path / "root" / "v0.npy")
    save(tmp_path / "root" / "v1.npy")
    np.save(tmp_path / "root" / "v2.npy", np.ones((4, 10, WIDTH), np.float16))
    pack = packed(tmp_path / "root")
    flip(pack)
    as_another_process()
    assert set(index_features(pack)) == {"v0", "v1", "v2"}
    for number, crop in ((0, None), (1, None), (2, 0), (2, 8)):
        assert (load_features(pack / f"v{number}.npy", WIDTH, crop) == 1).all()
    for _ in range(2):
        refused(lambda: load_features(pack / "v2.npy", WIDTH, 9), pack / "v2.npy", "damaged since it was packed", "tools.pack_features")


# The tool


def test_damaged_values_are_packed_anew(tmp_path):
    save(tmp_path / "root" / "v.npy")
    pack = packed(tmp_path / "root")
    flip(pack)
    as_another_process()
    refused(lambda: main([str(tmp_path / "root")]), pack / "v.npy", "damaged since it was packed", "--overwrite")
    packed(tmp_path / "root", "--overwrite")
    assert (load_features(pack / "v.npy", WIDTH) == 1).all()


def test_a_pack_inside_the_folder_is_told(tmp_path):
    save(tmp_path / "root" / "train" / "a.npy")
    save(tmp_path / "root" / "test" / "b.npy")
    inside = packed(tmp_path / "root" / "train")
    refused(lambda: main([str(tmp_path / "root")]), inside, "is packed already")


def test_a_link_to_another_disk_stays_one(tmp_path):
    save(tmp_path / "root" / "v.npy")
    (tmp_path / "disk").mkdir()
    (tmp_path / "root-packed").symlink_to(tmp_path / "disk")
    for value in (1, 2):
        save(tmp_path / "root" / "v.npy", value=value)
        main([str(tmp_path / "root"), "--overwrite"])
        as_another_process()
        assert (load_features(tmp_path / "root-packed" / "v.npy", WIDTH) == value).all()
        assert (tmp_path / "root-packed").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"root", "disk", "root-packed"}


def test_an_array_that_is_nowhere_else_is_not_replaced(tmp_path):
    for name in ("a__0.npy", "b__0.npy"):
        save(tmp_path / "root" / name)
    pack = packed(tmp_path / "root")
    (tmp_path / "root" / "b__0.npy").unlink()
    save(tmp_path / "root" / "c__0.npy")
    before = {path.name: path.read_bytes() for path in pack.iterdir()}
    for more in ([], ["--overwrite"]):
        with pytest.raises(BadInput, match=r"is new since; the files of 1 of its arrays are gone \(b__0\.npy\): name another"):
            packed(tmp_path / "root", *more)
    assert {path.name: path.read_bytes() for path in pack.iterdir()} == before


def test_a_folder_of_any_name(tmp_path, capsys):
    save(tmp_path / "a b\nc" / "v__0.npy")
    packed(tmp_path / "a b\nc")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("b\\nc-packed'")
    assert str(tmp_path) in last


def test_what_is_no_feature_file_is_left_out_and_named(tmp_path, capsys):
    root = tmp_path / "root"
    save(root / "v.npy")
    np.save(root / "gt.npy", np.zeros(50))
    np.save(root / "labels.npy", np.zeros((4, WIDTH), np.int64))
    (root / "cut.npy").write_bytes(save(root / "w.npy").read_bytes()[:-1])
    pack = packed(root)
    shown = capsys.readouterr().out
    for line in ("shape (50,): 1 (gt.npy)", "int64 values: 1 (labels.npy)", "(truncated file): 1 (cut.npy)", "2 arrays, float16"):
        assert line in shown
    assert set(index_features(pack)) == {"v", "w"}
    save(root / "cut.npy")
    as_another_process()
    refused(lambda: index_features(pack), "cut.npy has changed")


def test_the_wrong_places(tmp_path, capsys):
    root = tmp_path / "root"
    refused(lambda: main([str(root)]), root, "no such folder")
    root.mkdir()
    np.save(root / "gt.npy", np.zeros(50))
    refused(lambda: main([str(root)]), f"{root}: no features below it", "gt.npy")
    assert not any(tmp_path.glob("*packed*"))
    save(root / "v.npy")
    for output in (root, root / "below", tmp_path):
        refused(lambda output=output: main([str(root), "--output", str(output)]), "lies in the other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for words in ([], ["--overwrite"]):
        refused(lambda words=words: main([str(root), "--output", str(tmp_path / "full"), *words]), "holds something else")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    pack = packed(root)
    before = (pack / INDEX).stat().st_mtime_ns
    capsys.readouterr()
    packed(root)
    assert "up to date" in capsys.readouterr().out
    assert (pack / INDEX).stat().st_mtime_ns == before
    refused(lambda: main([str(pack)]), "is packed already")
    save(tmp_path / "other" / "v.npy", value=2)
    refused(lambda: main([str(tmp_path / "other"), "--output", str(pack)]), f"{pack}: is the pack of another folder", "--overwrite")
    main([str(tmp_path / "other"), "--output", str(pack), "--overwrite"])
    assert load_features(pack / "v.npy", WIDTH)[0, 0] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"root", "full", "other", "root-packed"}  # nothing else is left


def test_a_failure_leaves_the_earlier_pack(tmp_path, monkeypatch):
    root = tmp_path / "root"
    save(root / "v.npy", value=1)
    pack = packed(root)
    save(root / "v.npy", value=2)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tools.pack_features.write_json", full)
        with pytest.raises(OSError, match="No space left"):
            main([str(root), "--overwrite"])
    assert (np.memmap(pack / "packed.float16", np.float16, offset=128) == 1).all()
    assert {path.name for path in tmp_path.iterdir()} == {"root", "root-packed"}


def test_nothing_is_written_into_a_pack(tmp_path):
    save(tmp_path / "root" / "v.npy")
    pack = packed(tmp_path / "root")
    about = {"recipe": {"layout": "one"}, "encoder": {"name": "x", "digest": "y", "width": 3}}
    for place in (pack, pack / "below"):
        refused(lambda place=place: FeatureFolder(place, about), place, "packed features", "--output")
        refused(lambda place=place: prepare_folder(place, {}), place, "packed features", "--output")


def test_tools_read_it_as_the_folder(tmp_path, capsys, monkeypatch):
    """check_features, make_list, make_gt, embed_captions and new_dataset."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for kind in ("Normal", "Fight"):
        for number in range(8):
            save(tmp_path / "root" / kind / f"{kind}{number}__0.npy", rows=5 + number)
            np.save(tmp_path / "root" / kind / f"{kind}{number}__0.npy", random.normal(size=(5 + number, WIDTH)).astype(np.float32))
    packed(tmp_path / "root")
    (tmp_path / "dataset.toml").write_text('title = "x"\nfps = 25\ntrain_list = "l.csv"\n[classes]\nNormal = "normal"\nFight = "fight"\n')
    (tmp_path / "l.csv").touch()
    (tmp_path / "official.csv").write_text("path,label\nNormal/Normal0.npy,Normal\nFight/Fight1.npy,Fight\nFight/Fight9.npy,Fight\n")
    shown = {}
    for root in ("root", "root-packed"):
        words = ["--data", "dataset.toml", "--feature-root", root, "--output", "l.csv", "--overwrite"]
        capsys.readouterr()
        make_list.main(["--annotations", "official.csv", *words])
        make_list.main(words)
        check_tool.main(["--data", ".", "--feature-root", root])
        listing = (tmp_path / "l.csv").read_text()
        new_dataset([root, "--output", f"new-{root}", "--fps", "25"])
        rows = (tmp_path / f"new-{root}" / "train.csv").read_text()
        shown[root] = capsys.readouterr().out.replace("root-packed", "root"), listing, rows
        shown[root] += (make_gt.read_frames(root), feature_places(root, ["Fight1"]))
    assert shown["root"] == shown["root-packed"]
    assert "ok: training would start" in shown["root"][0]


def test_a_caption_tree(tmp_path):
    """Its versions, files, what made them, and the texts beside them."""
    made = {"encoder": "x", "encoder_digest": "y", "fill": "zeros", "pooling": "mean"}
    for number, version in enumerate(("source", "rewrite-1", "rewrite-10", "rewrite-2")):
        save(tmp_path / "root" / version / "v.npy", value=number)
        save(tmp_path / "root" / version / "Abuse001_x264_emb_0.npy", value=number + 10)
        (tmp_path / "root" / version / "embed.json").write_text(json.dumps(made))
    caption = {"frames": [0, 16], "caption": "a man walks"}
    (tmp_path / "root" / "source" / "v.jsonl").write_text('{"video": "v"}\n' + json.dumps(caption) + "\n")
    video = Video("v", "Normal", (1.0,), (Path("v.npy"),), None)
    published = Video("Abuse001_x264", "Abuse", (1.0,), (Path("Abuse001_x264__0.npy"),), (0,))
    trees = [CaptionTree(place, WIDTH) for place in (tmp_path / "root", packed(tmp_path / "root"))]
    assert trees[1].versions == trees[0].versions == ("source", "rewrite-1", "rewrite-2", "rewrite-10")
    assert trees[1].made == trees[0].made == made
    assert trees[1].texts([video]) == trees[0].texts([video])
    for tree in trees:
        tree.check([video, published], {"v": 4, "Abuse001_x264": 4}, tree.versions)
        assert [tree.load(video, None, 4, version)[0, 0].item() for version in tree.versions] == [0, 1, 3, 2]
        assert [tree.load(published, 0, 4, version)[0, 0].item() for version in tree.versions] == [10, 11, 13, 12]
    source = CaptionTree(tmp_path / "root-packed" / "source", WIDTH)
    assert source.versions == ("source",)
    assert source.load(video, None, 4)[0, 0] == 0


def test_one_recording_under_two_names_is_found(tmp_path):
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        save(tmp_path / "root" / f"{name}.npy", value=value)
    pack = packed(tmp_path / "root")
    video = {name: Video(name, "Normal", (1.0,), (pack / f"{name}.npy",), None) for name in "abc"}
    assert same_content([video["a"]], [video["b"], video["c"]]) == [("a", "b")]
    assert check_features(video.values(), WIDTH) == dict.fromkeys("abc", 4)


def test_another_process_reads_it_by_path_alone(tmp_path):
    """As workers do that are not forked."""
    save(tmp_path / "root" / "v.npy", value=2)
    pack = packed(tmp_path / "root")
    data = FeatureDataset([Video("v", "Normal", (1.0,), (pack / "v.npy",), None)], length=2, width=WIDTH)
    loader = torch.utils.data.DataLoader(data, sampler=[[0, 0]], batch_size=None, num_workers=1, multiprocessing_context="spawn")
    ((features, lengths, _),) = loader
    assert (features == 2).all()
    assert lengths.tolist() == [2, 2]


# Training


def trained(train, words, output, *more):
    """Weights of the selected checkpoint and scores."""
    train([*words, "--max-epoch", "1", "--seed", "1", "--output", str(output), *more])
    with np.load(output / "seed-1" / "scores.npz") as scores:
        return checkpoint.load(output / "seed-1" / "best.pt"), {name: scores[name].tobytes() for name in scores.files}


def with_root(words, option, root):
    words = list(words)
    words[words.index(option) + 1] = str(root)
    return words


def equal(one, other):
    (best, scores), (best_too, scores_too) = one, other
    assert scores == scores_too
    assert best["weights"].keys() == best_too["weights"].keys()
    assert all(torch.equal(value, best_too["weights"][name]) for name, value in best["weights"].items())
    assert [best.get(key) for key in ("features", "captions", "thresholds")] == [
        best_too.get(key) for key in ("features", "captions", "thresholds")
    ]


def test_the_batches_of_an_epoch_are_the_same(small_sample, tmp_path):
    words = small_sample("xd")
    main([words[words.index("--feature-root") + 1], "--output", str(tmp_path / "pack")])
    batches = {}
    for name, its_words in (("folder", words), ("pack", with_root(words, "--feature-root", tmp_path / "pack"))):
        for more in ((), ("--cache",)):
            options = parse_args([*its_words, *more])
            data = load_data(options, 1)
            loader = make_loader(data.train, data.batches, options, torch.device("cpu"))
            batches[name, *more] = [part.numpy().tobytes() for batch in loader for part in batch]
            held_out = list(dataset.test_videos(data.held_out, 64, 0))
            batches[name, *more] += [features.numpy().tobytes() for _, features in held_out]
    first, *others = batches.values()
    assert all(other == first for other in others)


@pytest.mark.slow
def test_training_gives_the_same_bytes(small_sample, tmp_path):
    words = small_sample("xd")
    main([words[words.index("--feature-root") + 1], "--output", str(tmp_path / "pack")])
    folder = trained(xd_train.main, words, tmp_path / "a")
    equal(folder, trained(xd_train.main, with_root(words, "--feature-root", tmp_path / "pack"), tmp_path / "b"))


@pytest.mark.slow
def test_training_on_ten_crops_in_one_file_and_captions(small_sample, tmp_path):
    words = [*small_sample("ucf", model="trclip"), "--caption-choice", "random"]
    root, captions = (Path(words[words.index(f"--{name}-root") + 1]) for name in ("feature", "caption"))
    (tmp_path / "features").mkdir()
    for name in {path.name.partition("__")[0] for path in root.iterdir()}:
        crops = [np.load(root / f"{name}__{crop}.npy") for crop in range(10)]
        np.save(tmp_path / "features" / f"{name}.npy", np.stack(crops, 1).astype(np.float32))
    words = with_root(words, "--feature-root", tmp_path / "features")
    folder = trained(ucf_train.main, words, tmp_path / "folder")
    main([str(tmp_path / "features")])
    main([str(captions), "--output", str(tmp_path / "captions")])
    words = with_root(with_root(words, "--feature-root", tmp_path / "features-packed"), "--caption-root", tmp_path / "captions")
    for name, more in (("packed", ["--workers", "2"]), ("cached", ["--cache"]), ("cached-2", ["--cache", "--workers", "2"])):
        equal(folder, trained(ucf_train.main, words, tmp_path / name, *more))
