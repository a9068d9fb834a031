"""tools/make_list.py: the official lists, and lists of what a feature folder holds."""

from collections import Counter

import numpy as np
import pytest

from benchmarks import UCF, XD
from dataset import read_list
from tools.make_list import main
from utils.errors import BadInput
from utils.files import ROOT
from utils.labels import class_indices

ANNOTATIONS = ROOT.parent / "shared" / "annotations"
needs_shared = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="needs ../shared/annotations")

UCF_TEXT = "Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.AVI\n\nArson/Arson002_x264.webm\n"
XD_TEXT = "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0\nv=x__#1_label_G-B2-B6.mp4\nwangted.2008__#01-23-38_01-24-25_label_A\n"
SHIPPED = {
    "ucf_ReFLIP_rgb": ("ucf", "Anomaly_Train.txt", 1610, 810),
    "ucf_ReFLIP_rgbtest": ("ucf", "Anomaly_Test.txt", 290, 140),
    "xd_ReFLIP_rgb": ("xd", "xd_train_videos.txt", 3954, 1905),
    "xd_ReFLIP_rgbtest": ("xd", "xd_CLIP_rgbtest.csv", 800, 500),
}


@pytest.fixture
def make(tmp_path):
    """Run the tool; the rows it wrote, without the header."""

    def run(dataset, text=None, root=None, suffix=".txt", columns="path,label"):
        output = tmp_path / "list.csv"
        words = ["--dataset", dataset, "--output", output, "--overwrite"]
        if text is not None:
            (tmp_path / f"names{suffix}").write_text(text, encoding="utf-8")
            words += ["--annotations", tmp_path / f"names{suffix}"]
        if root is not None:
            words += ["--feature-root", root]
        main([str(word) for word in words])
        header, *rows = output.read_text(encoding="utf-8").splitlines()
        assert header == columns
        return rows

    return run


@pytest.fixture
def features(tmp_path):
    """Write small feature files under a folder; the folder."""

    def write(*paths):
        for path in paths:
            file = tmp_path / "features" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, np.zeros((2, 4), np.float16))
        return tmp_path / "features"

    return write


def test_ucf_official_file(make, capsys):
    assert make("ucf", UCF_TEXT) == [
        "Abuse/Abuse001_x264.npy,Abuse",
        "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.npy,Normal",
        "Arson/Arson002_x264.npy,Arson",
    ]
    assert "3 videos of UCF-Crime, 2 abnormal, 1 normal" in capsys.readouterr().out


def test_xd_names(make):
    assert make("xd", XD_TEXT) == [
        "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0.npy,B2-0-0",
        "v=x__#1_label_G-B2-B6.npy,G-B2-B6",
        "wangted.2008__#01-23-38_01-24-25_label_A.npy,A",
    ]


def test_published_list_of_ten_crops_gives_one_row_a_video(make):
    ucf = "".join(f"/home/x/UCFClip/Abuse/Abuse001_x264__{crop}.npy,Abuse\r\n" for crop in range(10))
    assert make("ucf", "path,label\r\n" + ucf, suffix=".csv") == ["Abuse/Abuse001_x264.npy,Abuse"]
    xd = "path,label\nC:\\x\\v=x__#1_label_A__0.npy,A\n"
    assert make("xd", xd, suffix=".csv") == ["v=x__#1_label_A.npy,A"]
    flat = "path,label\n/home/x/all/Abuse001_x264__5.npy,Abuse\n"
    assert make("ucf", flat, suffix=".csv") == ["Abuse001_x264.npy,Abuse"]


def test_ground_truth_json_names_the_videos(make):
    assert make("xd", '{"v=x__#1_label_B1-0-0": {"frames": 16}, "v=y__#1_label_A": {}}', suffix=".json") == [
        "v=x__#1_label_B1-0-0.npy,B1-0-0",
        "v=y__#1_label_A.npy,A",
    ]


def test_feature_root_keeps_what_is_there_under_its_own_path(make, features, capsys):
    root = features("deep/er/Abuse001_x264__0.npy", "deep/er/Abuse001_x264__1.npy", "Arson002_x264.npy", "Other.npy")
    assert make("ucf", UCF_TEXT, root) == ["deep/er/Abuse001_x264.npy,Abuse", "Arson002_x264.npy,Arson"]
    assert f"no features below {root}: 1 of 3 videos (Normal_Videos001_x264)" in capsys.readouterr().out


def test_sources_and_a_crop_that_is_named_alone_are_kept(make, features):
    root = features(*(f"Abuse/Abuse00{video}_x264__{crop}.npy" for video in (1, 2) for crop in (0, 5)), "Abuse/Abuse003_x264.npy")
    rows = ["Abuse/Abuse001_x264__5.npy,Abuse,cam 1", *(f"Abuse/Abuse002_x264__{crop}.npy,Abuse,cam 2" for crop in (0, 5))]
    rows += ["Abuse/Abuse003_x264__5.npy,Abuse,cam 2", "Abuse/Abuse004_x264.npy,Abuse,cam 3"]
    kept = make("ucf", "\n".join(["path,label,source", *rows]), root, ".csv", "path,label,source")
    assert kept == [
        "Abuse/Abuse001_x264__5.npy,Abuse,cam 1",
        "Abuse/Abuse002_x264.npy,Abuse,cam 2",
        "Abuse/Abuse003_x264.npy,Abuse,cam 2",  # all that there is of it
    ]


def test_of_two_folders_the_official_one_counts(make, features):
    root = features("Abuse/Abuse001_x264.npy", "old/Abuse001_x264.npy")
    assert make("ucf", "Abuse/Abuse001_x264.mp4\n", root) == ["Abuse/Abuse001_x264.npy,Abuse"]
    root = features("older/Arson002_x264.npy", "old/Arson002_x264.npy")
    with pytest.raises(BadInput, match=r"Arson002_x264 lies in .*old.* and in .*old"):
        make("ucf", UCF_TEXT, root)


def test_folder_without_annotations(make, features):
    root = features("Arson/Arson002_x264__0.npy", "Arson/Arson002_x264__1.npy", "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.npy")
    assert make("ucf", root=root) == [
        "Arson/Arson002_x264.npy,Arson",
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.npy,Normal",
    ]
    with pytest.raises(BadInput, match=r"no label; XD-Violence expects _label_… in the name; .*--annotations"):
        make("xd", root=root)
    features("loose.npy")
    with pytest.raises(BadInput, match=r"loose\.npy: no label; UCF-Crime expects a folder named after the class"):
        make("ucf", root=root)


def test_what_it_writes_reads_back_as_a_list(make, features, tmp_path):
    root = features("B/v=x__#1_label_G-B2-B6__3.npy", "wangted.2008__#01-23-38_01-24-25_label_A.npy")
    make("xd", XD_TEXT, root)
    videos = read_list(tmp_path / "list.csv", root, XD)
    assert [(video.name, video.label) for video in videos] == [
        ("v=x__#1_label_G-B2-B6", "G-B2-B6"),
        ("wangted.2008__#01-23-38_01-24-25_label_A", "A"),
    ]


@pytest.mark.parametrize(
    ("dataset", "text", "suffix", "said"),
    [
        ("ucf", "Abuse001_x264.mp4\n", ".txt", r"'Abuse001_x264.mp4' has no label; UCF-Crime expects it in its folder"),
        ("ucf", "Abuses/Abuse001_x264.mp4\n", ".txt", r"has no label"),
        ("xd", "Abuse/Abuse001_x264.mp4\n", ".txt", r"XD-Violence expects it in its name"),
        ("xd", "v=x__#1_label_B3-0-0\n", ".txt", r"label 'B3' is no class"),
        ("xd", "v=x__#1_label_A\n", ".csv", r"path,label"),
        ("ucf", "path,label\nx/a.npy,Abuse\nx/a.npy,Arson\n", ".csv", r"a stands there as Abuse and as Arson"),
        ("ucf", "\n", ".txt", r"no videos"),
        ("xd", "[]", ".json", r"no videos"),
        ("ucf", None, "", r"nothing to list"),
    ],
)
def test_bad_input_writes_nothing(make, tmp_path, dataset, text, suffix, said):
    (tmp_path / "list.csv").write_text("as it was")
    with pytest.raises(BadInput, match=said) as error:
        make(dataset, text, suffix=suffix)
    assert "--annotations" in str(error.value) or "keep one" in str(error.value)
    assert (tmp_path / "list.csv").read_text() == "as it was"


def test_missing_file_and_folder(make, features, tmp_path):
    with pytest.raises(BadInput, match=r"none.txt: no such file.*--annotations"):
        main(["--dataset", "ucf", "--annotations", str(tmp_path / "none.txt"), "--output", str(tmp_path / "x.csv")])
    with pytest.raises(BadInput, match=r"no such folder.*--feature-root"):
        make("ucf", UCF_TEXT, tmp_path / "none")
    with pytest.raises(BadInput, match=r"features of none of the 3 videos \(first: Abuse001_x264\)"):
        make("ucf", UCF_TEXT, features("Other.npy"))


@needs_shared
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_lists_are_what_the_tool_writes_from_the_official_files(name, tmp_path):
    dataset, source, _, _ = SHIPPED[name]
    main(["--dataset", dataset, "--annotations", str(ANNOTATIONS / source), "--output", str(tmp_path / "list.csv")])
    assert (tmp_path / "list.csv").read_bytes() == (ROOT / "list" / f"{name}.csv").read_bytes()


@pytest.mark.parametrize("name", SHIPPED)
def test_counts_of_the_shipped_lists(name):
    dataset, _, videos, abnormal = SHIPPED[name]
    dataset = {"ucf": UCF, "xd": XD}[dataset]
    rows = [line.rsplit(",", 1) for line in (ROOT / "list" / f"{name}.csv").read_text().splitlines()[1:]]
    assert len(rows) == len({path for path, _ in rows}) == videos
    assert sum(class_indices(label, dataset) != [0] for _, label in rows) == abnormal


def test_training_and_test_lists_share_no_video():
    for key in ("ucf", "xd"):
        names = Counter(
            line.rsplit(",", 1)[0].rsplit("/", 1)[-1]
            for part in ("rgb", "rgbtest")
            for line in (ROOT / "list" / f"{key}_ReFLIP_{part}.csv").read_text().splitlines()[1:]
        )
        assert max(names.values()) == 1


@needs_shared
def test_published_test_lists_hold_the_same_videos_and_labels(tmp_path):
    for key in ("ucf", "xd"):
        output = tmp_path / f"{key}.csv"
        main(["--dataset", key, "--annotations", str(ANNOTATIONS / f"{key}_CLIP_rgbtest.csv"), "--output", str(output)])
        shipped = (ROOT / "list" / f"{key}_ReFLIP_rgbtest.csv").read_text().splitlines()
        assert sorted(output.read_text().splitlines()) == sorted(shipped)


def test_another_list_is_not_replaced_unasked(features, tmp_path, capsys):
    words = ["--dataset", "ucf", "--feature-root", str(features("Arson/a.npy")), "--output", str(tmp_path / "list.csv")]
    main(words)
    main(words)  # what stands there already is written again
    features("Arson/b.npy")
    before = (tmp_path / "list.csv").read_bytes()
    with pytest.raises(BadInput, match=r"list\.csv: holds something else; name another --output, or replace it: --overwrite"):
        main(words)
    assert (tmp_path / "list.csv").read_bytes() == before
    main([*words, "--overwrite"])
    assert (tmp_path / "list.csv").read_text() == "path,label\nArson/a.npy,Arson\nArson/b.npy,Arson\n"
