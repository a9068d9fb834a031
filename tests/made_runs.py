"""Runs made by hand, and a training script that copies one, for tests of tools that start trainings and read what they left."""

import json

import numpy as np

from benchmarks import UCF
from utils.evaluation import report
from utils.evaluation.ground_truth import GroundTruth, write_ground_truth
from utils.evaluation.scores import load_scores

# Two videos with their later half anomalous, two normal ones; four snippets each.
TRUTH = {f"a{i}": GroundTruth(64, 30, ((32, 64, UCF.labels[i]),)) for i in (1, 2)} | {f"n{i}": GroundTruth(64, 30, ()) for i in (1, 2)}
TRAIN = """
import os, pathlib, shutil, sys
words = sys.argv[1:]
value = lambda option: words[words.index(option) + 1]
place = pathlib.Path(value("--output"))
with open("started", "a") as file:
    file.write(" ".join(words) + "\\n")
print("threads", os.environ["OMP_NUM_THREADS"])
if place.name == os.environ.get("FAIL"):
    sys.exit("error: no luck" if os.environ["CODE"] == "1" else print("error: no luck", file=sys.stderr) or 2)
if "HANG" in os.environ:
    import time
    (place / "seed-1").mkdir()
    (place / "seed-1" / "last.pt").touch()
    time.sleep(60)
shutil.copytree("made", place / ("seed-" + value("--seed")), dirs_exist_ok=True)
"""


def made_run(folder, seed=1, found=("a1", "a2"), fine=True, seconds=(2.0, 2.0), covered=None):
    """What a run leaves: its scores are 0.9 in the anomalous half of the videos `found` and 0.1 everywhere else. covered: which of the four
    rows have a sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"classes": np.array(UCF.names)}
    for name in TRUTH:
        arrays[f"{name}/coarse"] = np.full(4, 0.1)
        if name in found:
            arrays[f"{name}/coarse"][2:] = 0.9
        if covered is not None:
            arrays[f"{name}/covered"] = np.array(covered, bool)
        if fine:
            arrays[f"{name}/fine"] = np.column_stack([1 - arrays[f"{name}/coarse"], *[arrays[f"{name}/coarse"] / 13] * 13])
    np.savez(folder / "scores.npz", **arrays)
    write_ground_truth(folder / "gt.json", TRUTH)
    scores = load_scores(folder / "scores.npz")[0]
    about = {"dataset": "ucf", "model": "reflip", "checkpoint": "best.pt", "selected_on": "val", "sample": False, "features": "visual"}
    about |= {"headline": [["coarse", "auc"], ["coarse", "ano_auc"]], "paper": {"rule": "best", "figures": {}}, "official_videos": None}
    about |= report.evaluate(scores, TRUTH, UCF, report.resample(scores, TRUTH, UCF))
    about |= {"command": "python ucf_train.py", "versions": {"torch": "2", "commit": f"c{seed}"}, "seeds": [seed], "parameters": 1234}
    (folder / "report.json").write_text(json.dumps(about))
    (folder / "options.json").write_text(json.dumps({"gt_path": str(folder / "gt.json")}))
    (folder / "log.jsonl").write_text("".join(json.dumps({"seconds": s, "steps": 4}) + "\n" for s in seconds))


def started(folder) -> list[str]:
    """The calls since the last look."""
    file = folder / "started"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines
