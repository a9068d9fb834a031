import os
import pickle
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from benchmarks import UCF, XD
from dataset import (
    FeatureDataset,
    Video,
    check_features,
    chunk,
    divide,
    hold_out,
    load_features,
    read_list,
    resample,
    same_content,
    split_crop,
)
from golden import SHARED
from utils.batches import BalancedBatches, ShuffledBatches
from utils.errors import BadInput
from utils.labels import multi_hot

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder `shared` does not lie beside the project")
WIDTH = 4


def save(path: Path, rows: int = 3, value: float = 1.0, shape: tuple = (WIDTH,), dtype=np.float16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((rows, *shape), value, dtype))
    return path


def write_list(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["path,label", *rows]) + "\n", encoding="utf-8")
    return path


def refused(call, *parts) -> str:
    """The one line that `call` is refused with; it holds every one of `parts`."""
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


def a_video(label: str, name: str = "v", of=UCF) -> Video:
    return Video(name, label, tuple(multi_hot(label, of).tolist()), (Path(f"{name}.npy"),), None)


# Names and lists


@pytest.mark.parametrize(
    ("file", "name", "crop"),
    [
        ("Abuse028_x264__5.npy", "Abuse028_x264", 5),
        ("Abuse028_x264.npy", "Abuse028_x264", None),
        (
            "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6__0.npy",
            "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6",
            0,
        ),
        ("v=8cTqh9tMz_I__#1_label_A.npy", "v=8cTqh9tMz_I__#1_label_A", None),
        ("a__12.npy", "a__12", None),
        ("a__3__4.npy", "a__3", 4),
    ],
)
def test_split_crop(file, name, crop):
    assert split_crop(file) == (name, crop)


@pytest.mark.parametrize("file", ["", ".npy", "a", "a__5", "a.npz", "a.npy.gz"])
def test_split_crop_refuses_other_files(file):
    refused(lambda: split_crop(file), file, ".npy")


def test_our_list_finds_the_crops_beside_the_row(tmp_path):
    root = tmp_path / "features"
    for crop in (9, 0, 3):
        save(root / "Abuse" / f"Abuse001_x264__{crop}.npy")
    save(root / "Normal" / "Normal_Videos001.npy", shape=(10, WIDTH))
    rows = ("Normal/Normal_Videos001.npy,Normal", "Abuse/Abuse001_x264.npy,Abuse")
    normal, abuse = read_list(write_list(tmp_path / "l.csv", *rows), root, UCF)
    assert normal == Video("Normal_Videos001", "Normal", (1.0, *[0.0] * 13), (root / "Normal" / "Normal_Videos001.npy",), None, False)
    assert (abuse.name, abuse.label, abuse.crops, abuse.named) == ("Abuse001_x264", "Abuse", (0, 3, 9), False)
    assert [file.name[-5] for file in abuse.files] == ["0", "3", "9"]
    assert abuse.target == (0.0, 1.0, *[0.0] * 12)


def test_train_rows_of_one_video_become_one_video(tmp_path):
    rows = []
    for name, label in (("Abuse001_x264", "Abuse"), ("Arson001_x264", "Arson")):
        for crop in range(10):
            save(tmp_path / label / f"{name}__{crop}.npy")
            rows.append(f"/home/x/UCFClipFeatures/{label}/{name}__{crop}.npy,{label}")
    videos = read_list(write_list(tmp_path / "l.csv", *reversed(rows)), tmp_path, UCF)
    assert [video.name for video in videos] == ["Arson001_x264", "Abuse001_x264"]
    assert all(video.crops == tuple(range(10)) and video.named for video in videos)
    assert [split_crop(file.name)[1] for file in videos[0].files] == list(range(10))


def test_both_kinds_of_rows_in_one_list(tmp_path):
    for crop in range(2):
        save(tmp_path / "a" / f"one__{crop}.npy")
        save(tmp_path / "a" / f"two__{crop}.npy")
    one, two = read_list(write_list(tmp_path / "l.csv", "a/one.npy,Arson", "/x/two__1.npy,Abuse"), tmp_path, UCF)
    assert (one.crops, one.named) == ((0, 1), False)
    assert (two.crops, two.named, two.files) == ((1,), True, (tmp_path / "a" / "two__1.npy",))
    (both,) = read_list(write_list(tmp_path / "l.csv", "a/one__1.npy,Arson", "a/one.npy,Arson"), tmp_path, UCF)
    assert (both.crops, both.named) == ((0, 1), False)


@needs_shared
@pytest.mark.parametrize(("file", "of", "count"), [("ucf", UCF, 290), ("xd", XD, 800)])
@pytest.mark.parametrize("folders_kept", [0, 1, 2])
def test_published_lists_work_unchanged(tmp_path, file, of, count, folders_kept):
    path = SHARED / "annotations" / f"{file}_CLIP_rgbtest.csv"
    rows = [line.rsplit(",", 1) for line in path.read_text().splitlines()[1:]]
    for row, _ in rows:
        # The reader makes no use of the content here, so an empty file stands for the features.
        target = tmp_path.joinpath(*Path(row).parts[-1 - folders_kept :])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    videos = read_list(path, tmp_path, of, "--test-list")
    assert len(videos) == count
    for video, (row, label) in zip(videos, rows, strict=True):
        name, crop = split_crop(Path(row).name)
        assert (video.name, video.label, video.crops, video.named) == (name, label, (crop,), True)
        assert video.files[0].parts[-1 - folders_kept :] == Path(row).parts[-1 - folders_kept :]


def test_the_longest_tail_wins(tmp_path):
    save(tmp_path / "old" / "f__5.npy")
    right = save(tmp_path / "deep" / "UCF" / "Abuse" / "f__5.npy")
    save(tmp_path / "Arson" / "f__5.npy")
    (video,) = read_list(write_list(tmp_path / "l.csv", "/home/x/UCF/Abuse/f__5.npy,Abuse"), tmp_path, UCF)
    assert video.files == (right,)
    (video,) = read_list(write_list(tmp_path / "l.csv", r"D:\x\UCF\Abuse\f__5.npy,Abuse"), tmp_path, UCF)
    assert video.files == (right,)


@pytest.mark.parametrize("row", ["/home/x/Abuse/f__5.npy", "/home/x/f__5.npy", "/home/x/f.npy"])
def test_a_tail_of_two_files_names_both(tmp_path, row):
    first, second = save(tmp_path / "a" / "Abuse" / "f__5.npy"), save(tmp_path / "b" / "Abuse" / "f__5.npy")
    path = write_list(tmp_path / "l.csv", f"{row},Abuse")
    refused(lambda: read_list(path, tmp_path, UCF), path, row, first, second)


def test_the_exact_place_beats_an_equal_tail(tmp_path):
    exact = save(tmp_path / "Abuse" / "f__5.npy")
    save(tmp_path / "copy" / "Abuse" / "f__5.npy")
    for row in ("Abuse/f__5.npy", "./Abuse/f.npy", exact):  # the last: the user's own absolute path
        (video,) = read_list(write_list(tmp_path / "l.csv", f"{row},Abuse"), tmp_path, UCF)
        assert video.files == (exact,)


def test_packed_and_separate_crops_of_one_video_are_refused(tmp_path):
    packed, single = save(tmp_path / "f.npy", shape=(10, WIDTH)), save(tmp_path / "f__0.npy")
    refused(lambda: read_list(write_list(tmp_path / "l.csv", "f.npy,Abuse"), tmp_path, UCF), packed, single)
    (video,) = read_list(write_list(tmp_path / "l.csv", "f__0.npy,Abuse"), tmp_path, UCF)
    assert video.files == (single,)
    single.unlink()  # ten crops in one file do not stand in for a file that the list names
    refused(lambda: read_list(tmp_path / "l.csv", tmp_path, UCF), "no file f__0.npy")


@pytest.mark.parametrize(("row", "wanted"), [("/x/Abuse/f__5.npy", "f__5.npy"), ("Abuse/g.npy", "g.npy or g__0.npy")])
def test_a_missing_file_names_row_file_root_and_option(tmp_path, row, wanted):
    save(tmp_path / "Abuse" / "f__4.npy")
    path = write_list(tmp_path / "l.csv", "Abuse/f__4.npy,Abuse", f"{row},Abuse")
    refused(lambda: read_list(path, tmp_path, UCF), path, "row 2", row, wanted, tmp_path, "--feature-root")


def test_contradicting_rows_are_refused(tmp_path):
    save(tmp_path / "a" / "f__0.npy")
    save(tmp_path / "b" / "f__1.npy")
    path = write_list(tmp_path / "l.csv", "a/f__0.npy,Abuse", "b/f__1.npy,Abuse")
    refused(lambda: read_list(path, tmp_path, UCF), "row 2", tmp_path / "a", tmp_path / "b")
    path = write_list(tmp_path / "l.csv", "a/f__0.npy,Abuse", "a/f__0.npy,Arson")
    refused(lambda: read_list(path, tmp_path, UCF), "row 2", "Abuse", "Arson")


def test_a_label_of_the_other_dataset_names_list_and_row(tmp_path):
    save(tmp_path / "f.npy")
    path = write_list(tmp_path / "l.csv", "f.npy,B2-0-0")
    refused(lambda: read_list(path, tmp_path, UCF), path, "row 1", "'B2-0-0'", "UCF-Crime")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "header ''"),
        ("path,label\n", "0 rows"),
        ("f.npy,Abuse\n", "header 'f.npy,Abuse'"),
        ("path;label\nf.npy;Abuse\n", "header 'path;label'"),
        ("label,path\nAbuse,f.npy\n", "header 'label,path'"),
        ("path,label,source\nf.npy,Abuse,\n", "line 2 has no source"),
        ("path,label\nf.npy,Abuse,x\n", "line 2 has 3 fields"),
        ("path,label\nf.npy,Abuse\nf.npy,Abuse,x\n", "line 3 has 3 fields"),
        ('path,label\n"f.npy,Abuse\n', "line 2 has 1 fields"),
        ("path,label\nf.npy\n", "line 2 has 1 fields"),
        ("path,label\n" + "x" * 5_000_000, "line 2"),
        ("," * 5_000_000, "header ''"),
        ("path,label\n,Abuse\n", "row 1"),
    ],
)
def test_a_bad_list_is_refused(tmp_path, text, reason):
    save(tmp_path / "f.npy")
    path = tmp_path / "l.csv"
    path.write_text(text)
    refused(lambda: read_list(path, tmp_path, UCF, "--test-list"), path, reason)


def test_a_list_that_is_no_text_or_missing_names_the_option(tmp_path):
    path = tmp_path / "l.csv"
    path.write_bytes(b"path,label\n\xff\xfe,\x00")
    for bad in (path, tmp_path / "none.csv", tmp_path):
        refused(lambda bad=bad: read_list(bad, tmp_path, UCF, "--test-list"), bad, "--test-list")
    refused(lambda: read_list(path, tmp_path / "none", UCF), tmp_path / "none", "--feature-root")


def test_a_list_from_a_spreadsheet(tmp_path):
    save(tmp_path / "f.npy")
    path = tmp_path / "l.csv"
    path.write_bytes("\ufeffpath, label\r\nf.npy, Abuse \r\n\r\n".encode())
    assert [video.label for video in read_list(path, tmp_path, UCF)] == ["Abuse"]


def test_linked_folders_are_followed_and_end(tmp_path):
    real = save(tmp_path / "elsewhere" / "f.npy").parent
    root = tmp_path / "root"
    root.mkdir()
    (root / "Abuse").symlink_to(real)
    (real / "back").symlink_to(root)
    (video,) = read_list(write_list(tmp_path / "l.csv", "Abuse/f.npy,Abuse"), root, UCF)
    assert video.files == (root / "Abuse" / "f.npy",)
    assert list(dataset.index_features(root)["f"]) == [("Abuse",)]  # once, not again through each turn of the loop


# Feature files


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_features_are_read_as_float32(tmp_path, dtype, order):
    values = np.random.default_rng(0).normal(size=(7, WIDTH)).astype(dtype, order=order)
    np.save(tmp_path / "f.npy", values)
    features = load_features(tmp_path / "f.npy", WIDTH)
    assert features.dtype == torch.float32
    assert features.is_contiguous()
    assert np.array_equal(features.numpy(), values.astype(np.float32))
    features += 1  # writable, and the file stays as it was
    assert np.array_equal(np.load(tmp_path / "f.npy", allow_pickle=False), values)


def test_a_crop_of_ten_is_picked(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 10, WIDTH)).astype(np.float32)
    np.save(tmp_path / "f.npy", values)
    for crop in (0, 9):
        assert np.array_equal(load_features(tmp_path / "f.npy", WIDTH, crop).numpy(), values[:, crop])
    for crop in (None, 10, -1):
        refused(lambda crop=crop: load_features(tmp_path / "f.npy", WIDTH, crop), tmp_path / "f.npy", "--test-crop")
    save(tmp_path / "g.npy")
    assert load_features(tmp_path / "g.npy", WIDTH, 5).shape == (3, WIDTH)


def _npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros((3, WIDTH)))


BAD_FILES = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "FIFO": (os.mkfifo, "a named pipe"),
    "empty": (lambda path: path.touch(), "empty file"),
    "no rows": (lambda path: save(path, 0), "no rows"),
    "wide": (lambda path: save(path, shape=(WIDTH + 1,)), "shape (3, 5)"),
    "flat": (lambda path: save(path, shape=()), "shape (3,)"),
    "scalar": (lambda path: np.save(path, np.float32(1)), "shape ()"),
    "rank 4": (lambda path: save(path, shape=(10, 1, WIDTH)), "shape (3, 10, 1, 4)"),
    "five crops": (lambda path: save(path, shape=(5, WIDTH)), "shape (3, 5, 4)"),
    "crops first": (lambda path: save(path, 10, shape=(3, WIDTH)), "shape (10, 3, 4)"),
    "integers": (lambda path: save(path, dtype=np.int64), "int64 values"),
    "complex": (lambda path: save(path, dtype=np.complex64), "complex64 values"),
    "objects": (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "pickled objects"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1.0])), "no .npy, or a pickle"),
    "text": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "no .npy, or a pickle"),
    "npz": (_npz, ".npz archive"),
    "no zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), ".npz archive"),
    "cut": (lambda path: path.write_bytes(save(path).read_bytes()[:-1]), "truncated file"),
    "no data": (lambda path: path.write_bytes(save(path).read_bytes()[:128]), "truncated file"),
    "cut header": (lambda path: path.write_bytes(save(path).read_bytes()[:40]), "truncated file"),
    "bad header": (lambda path: path.write_bytes(save(path).read_bytes().replace(b"{'", b"(('")), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_on_reading_and_at_the_start(tmp_path, kind):
    make, reason = BAD_FILES[kind]
    path = tmp_path / "f.npy"
    make(path)
    message = refused(lambda: load_features(path, WIDTH, 0), path, reason, "--visual-width")
    video = Video("f", "Abuse", a_video("Abuse").target, (path,), None)
    assert refused(lambda: check_features([a_video_of(tmp_path / "ok.npy"), video], WIDTH)) == message


def test_features_of_another_width_name_theirs(tmp_path):
    assert "set --visual-width 5 or --feature-root" in refused(lambda: load_features(save(tmp_path / "f.npy", shape=(5,)), WIDTH))
    assert "set --visual-width or --feature-root" in refused(lambda: load_features(save(tmp_path / "g.npy", shape=(3, WIDTH)), WIDTH))


def a_video_of(path: Path) -> Video:
    return Video(path.stem, "Abuse", a_video("Abuse").target, (save(path),), None)


@pytest.mark.parametrize(("dtype", "value"), [(np.float16, np.nan), (np.float32, -np.inf), (np.float64, 1e300)])
def test_a_value_that_is_not_finite_names_its_row(tmp_path, dtype, value):
    values = np.ones((6, WIDTH), dtype)
    values[4, 2] = value
    np.save(tmp_path / "f.npy", values)
    refused(lambda: load_features(tmp_path / "f.npy", WIDTH), tmp_path / "f.npy", "row 4")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=3))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_damaged_header_shows_a_traceback(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    content = bytearray(save(path).read_bytes())
    for place, byte in changes:
        content[place] = byte
    path.write_bytes(content)
    message = str(path)
    try:
        load_features(path, WIDTH)
    except BadInput as error:
        message = str(error)
    assert path.name in message
    assert "\n" not in message


def test_the_crops_of_a_video_have_as_many_rows(tmp_path):
    files = (save(tmp_path / "f__0.npy"), save(tmp_path / "f__1.npy"), save(tmp_path / "f__2.npy", rows=4))
    video = Video("f", "Abuse", a_video("Abuse").target, files, (0, 1, 2))
    refused(lambda: check_features([video], WIDTH), files[2], files[0], "(4, 4)", "(3, 4)")
    save(files[2])
    check_features([video], WIDTH)
    for file in files:
        save(file, shape=(10, WIDTH))
    refused(lambda: check_features([video], WIDTH), files[0], "(3, 10, 4)", "(3, 4)")


# Resampling and chunks


@needs_shared
@pytest.mark.parametrize("rows", [1, 7, 255, 256, 257, 300, 511, 512, 513, 1000])
def test_golden_resampling(rows):
    golden = np.load(SHARED / "golden" / "resample.npz", allow_pickle=False)
    features = torch.from_numpy(golden[f"in_{rows}"])
    sampled, valid = resample(features, 256)
    assert valid == golden[f"train_len_{rows}"]
    np.testing.assert_allclose(sampled.numpy(), golden[f"train_{rows}"], rtol=0, atol=1e-7)
    chunks, lengths = chunk(features, 256)
    # The released code gives a video below the length no axis of chunks; ours always has it.
    stored = golden[f"test_{rows}"]
    assert np.array_equal(chunks.numpy(), stored if rows >= 256 else stored[None])
    assert lengths.sum() == golden[f"test_len_{rows}"]


def literal_resample(features: np.ndarray, length: int) -> np.ndarray:
    """Segment by segment, as the released code's description has it."""
    edges = np.linspace(0, len(features), length + 1, dtype=np.int32)
    return np.stack([features[a:b].mean(0) if a != b else features[a] for a, b in pairwise(edges)])


sizes = given(rows=st.integers(1, 700), length=st.integers(1, 300), seed=st.integers(0, 99))


def some_features(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@sizes
def test_resample(rows, length, seed):
    features = some_features(rows, seed)
    sampled, valid = resample(features, length)
    assert sampled.shape == (length, WIDTH)
    assert sampled.dtype == torch.float32
    assert valid == min(rows, length)
    if rows <= length:
        assert torch.equal(sampled[:rows], features)
        assert not sampled[rows:].any()
    else:
        np.testing.assert_allclose(sampled.numpy(), literal_resample(features.numpy(), length), atol=1e-6)


@settings(deadline=None)
@given(length=st.integers(1, 100), times=st.integers(1, 8), seed=st.integers(0, 99))
def test_even_division_keeps_the_mean(length, times, seed):
    features = some_features(length * times, seed)
    sampled, _ = resample(features, length)
    assert torch.allclose(sampled.double().mean(0), features.double().mean(0), atol=1e-5)
    assert torch.allclose(sampled, features.view(length, times, WIDTH).mean(1), atol=1e-5)


@settings(deadline=None)
@sizes
def test_chunks_give_the_video_back(rows, length, seed):
    features = some_features(rows, seed)
    chunks, lengths = chunk(features, length)
    assert chunks.shape == (rows // length + 1, length, WIDTH)
    assert lengths.dtype == torch.int64
    assert torch.equal(chunks.flatten(0, 1)[:rows], features)
    assert not chunks.flatten(0, 1)[rows:].any()
    valid = torch.arange(length) < lengths[:, None]
    assert torch.equal(chunks[valid], features)
    assert (lengths == 0).tolist() == [False] * (len(chunks) - 1) + [rows % length == 0]


# Training samples


def test_every_crop_is_a_sample(tmp_path):
    for crop in range(3):
        save(tmp_path / f"a__{crop}.npy", rows=2, value=crop)
    packed = np.arange(10, dtype=np.float32)[None, :, None] * np.ones((8, 10, WIDTH), np.float32)
    np.save(tmp_path / "b_label_B2-G-0.npy", packed)
    save(tmp_path / "c.npy", rows=4, value=7)
    rows = ("a.npy,A", "b_label_B2-G-0.npy,B2-G-0", "c.npy,A")
    samples = FeatureDataset(read_list(write_list(tmp_path / "l.csv", *rows), tmp_path, XD), length=4, width=WIDTH)
    assert len(samples) == 3 + 10 + 1
    assert samples.abnormal == [False] * 3 + [True] * 10 + [False]
    values = [samples[i][0][0, 0].item() for i in range(14)]
    assert values == [0, 1, 2, *range(10), 7]
    features, valid, target = samples[1]
    assert (features.shape, features.dtype, valid) == ((4, WIDTH), torch.float32, 2)
    assert features.sum() == 2 * WIDTH
    features, valid, target = samples[3 + 5]
    assert valid == 4
    assert torch.equal(target, torch.tensor([0.0, 0, 1, 0, 0, 0, 1]))


def test_samples_and_batches_in_a_loader(tmp_path):
    names = {"n1": "Normal", "n2": "Normal", "n3": "Normal", "a1": "Abuse"}
    for name in names:
        save(tmp_path / f"{name}.npy")
    path = write_list(tmp_path / "l.csv", *(f"{name}.npy,{label}" for name, label in names.items()))
    samples = FeatureDataset(read_list(path, tmp_path, UCF), length=5, width=WIDTH)
    batches = BalancedBatches(samples.abnormal, batch_size=4, seed=1)
    loaded = list(torch.utils.data.DataLoader(samples, batch_sampler=batches))
    assert len(loaded) == len(batches) == 2
    for features, lengths, targets in loaded:
        assert features.shape == (4, 5, WIDTH)
        assert lengths.tolist() == [3] * 4
        assert targets[:, 0].tolist() == [1, 1, 0, 0]


counts = st.integers(1, 60)


@settings(deadline=None)
@given(normal=counts, abnormal=counts, half=counts, seed=st.integers(0, 9), data=st.data())
def test_balanced_batches(normal, abnormal, half, seed, data):
    kinds = data.draw(st.permutations([False] * normal + [True] * abnormal))
    sampler = BalancedBatches(kinds, 2 * half, seed)
    batches = list(sampler)
    larger, used = max(normal, abnormal), min(half, max(normal, abnormal))
    assert len(batches) == len(sampler) == -(-larger // used)
    assert all([kinds[i] for i in batch] == [False] * used + [True] * used for batch in batches)
    for kind, count in ((False, normal), (True, abnormal)):
        drawn = [i for batch in batches for i in batch if kinds[i] == kind]
        every = {i for i, k in enumerate(kinds) if k == kind}
        # Whole shuffles follow one another: each block of `count` draws has every sample once, the last one none twice.
        for start in range(0, len(drawn), count):
            block = drawn[start : start + count]
            assert len(set(block)) == len(block)
            assert len(block) < count or set(block) == every
        if count == larger:
            assert set(drawn) == every
            assert max(Counter(drawn).values()) <= 2


def test_the_order_depends_on_seed_and_epoch_alone():
    kinds = [False] * 40 + [True] * 30

    def order(seed, epoch, before=()):
        sampler = BalancedBatches(kinds, 16, seed)
        for earlier in before:
            sampler.set_epoch(earlier)
            list(sampler)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 2) == order(3, 2, before=(0, 1))
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


@given(samples=st.integers(2, 200), size=st.integers(2, 64), seed=st.integers(0, 9))
def test_shuffled_batches_see_each_sample_once(samples, size, seed):
    batches = ShuffledBatches([number > 0 for number in range(samples)], size, seed)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert sorted(chain(*drawn)) == list(range(samples))
    assert all(len(batch) == size for batch in drawn[:-1])
    assert list(batches) == drawn
    batches.set_epoch(1)
    assert sorted(chain(*batches)) == list(range(samples))


def test_one_recording_under_two_names_is_found(tmp_path):
    def videos(folder, values):
        return [Video(name, "Normal", (1.0,), (save(tmp_path / folder / f"{name}.npy", 3, v),), None) for name, v in values.items()]

    assert same_content(videos("train", {"a": 1, "b": 2}), videos("test", {"c": 2, "d": 3})) == [("b", "c")]


@pytest.mark.parametrize("kinds", [[False] * 3, [True] * 3, []])
def test_a_list_of_one_kind_is_refused(kinds):
    refused(lambda: BalancedBatches(kinds, 2, 0), f"{kinds.count(False)} normal", "--train-list")


@pytest.mark.parametrize("batch_size", [0, 1, 7, -2])
def test_an_odd_batch_is_refused(batch_size):
    refused(lambda: BalancedBatches([False, True], batch_size, 0), f"--batch-size {batch_size}")


# Test videos


def test_one_crop_of_each_video_is_tested(tmp_path):
    for crop in (0, 5):
        save(tmp_path / f"ours__{crop}.npy", value=crop)
        save(tmp_path / f"published__{crop}.npy", value=crop)
    save(tmp_path / "single.npy", value=8)
    np.save(tmp_path / "packed.npy", np.arange(10.0)[None, :, None] * np.ones((2, 10, WIDTH)))
    rows = ("ours.npy,Abuse", "/x/published__5.npy,Abuse", "single.npy,Normal", "packed.npy,Normal")
    videos = read_list(write_list(tmp_path / "l.csv", *rows), tmp_path, UCF)

    def values(crop):
        tested = list(dataset.test_videos(videos, WIDTH, crop))
        assert [name for name, _ in tested] == ["ours", "published", "single", "packed"]
        assert [tuple(features.shape) for _, features in tested] == [(3, WIDTH)] * 3 + [(2, WIDTH)]
        return [features[0, 0].item() for _, features in tested]

    assert values(0) == [0, 5, 8, 0]
    assert values(5) == [5, 5, 8, 5]
    refused(lambda: values(3), "--test-crop 3", "ours", "crops 0, 5", tmp_path)
    refused(lambda: list(dataset.test_videos(videos[3:], WIDTH, 10)), "packed.npy", "--test-crop")


def test_a_lone_crop_that_no_list_named_is_not_taken_for_another(tmp_path):
    save(tmp_path / "f__5.npy")
    videos = read_list(write_list(tmp_path / "l.csv", "f.npy,Abuse"), tmp_path, UCF)
    refused(lambda: list(dataset.test_videos(videos, WIDTH, 0)), "--test-crop 0", "crops 5")
    assert len(list(dataset.test_videos(videos, WIDTH, 5))) == 1
    save(tmp_path / "f__2.npy", value=2)  # several named crops leave the choice to the option
    videos = read_list(write_list(tmp_path / "l.csv", "/x/f__2.npy,Abuse", "/x/f__5.npy,Abuse"), tmp_path, UCF)
    ((_, features),) = dataset.test_videos(videos, WIDTH, 2)
    assert features[0, 0] == 2


# Held-out videos

labels = st.lists(st.sampled_from(["A", "B1-0-0", "G-B2-B6", "B2-G-0"]), max_size=60)


@given(labels=labels, share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_hold_out(labels, share, seed):
    videos = [a_video(label, f"v{i}", XD) for i, label in enumerate(labels)]
    train, held = hold_out(videos, share, seed, XD)
    assert sorted(train + held, key=videos.index) == videos  # complete and disjoint
    assert train == [video for video in videos if video in train]  # in the list's order
    assert held == [video for video in videos if video in held]
    for first in {label.split("-")[0] for label in labels}:
        count, out = (sum(video.label.split("-")[0] == first for video in part) for part in (videos, held))
        assert out == 0 if count == 1 else 1 <= out <= count - 1
        assert abs(out - share * count) <= 1
    assert (train, held) == hold_out(videos, share, seed, XD)


def test_hold_out_depends_on_the_seed():
    videos = [a_video("Abuse", f"v{i}") for i in range(50)]
    splits = {tuple(hold_out(videos, 0.1, seed, UCF)[1]) for seed in range(5)}
    assert len(splits) > 1
    assert {len(held) for held in splits} == {5}


@given(labels=labels)
def test_thresholds_are_of_normal_videos_that_do_not_choose_the_epoch(labels):
    videos = [a_video(label, f"v{i}", XD) for i, label in enumerate(labels)]
    normal = [video for video in videos if not video.abnormal]
    choosing, measuring = divide(videos)
    assert [video for video in choosing if video.abnormal] == [video for video in videos if video.abnormal]
    if len(normal) < 2:
        assert (choosing, measuring) == (videos, normal)
    else:
        assert measuring == normal[1::2]
        assert sorted(choosing + measuring, key=videos.index) == videos


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_is_no_fraction_is_refused(share):
    refused(lambda: hold_out([a_video("Abuse")], share, 0, UCF), f"--val-share {share}")
