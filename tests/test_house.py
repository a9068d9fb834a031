"""Who may import whom, where import-linter (pyproject.toml) cannot look: it takes packages, and model.py and dataset.py are modules."""

import ast
import re
from pathlib import Path

from model import SYSTEMS
from utils.files import ROOT
from utils.options import declared

GROUND = {
    "utils.errors",
    "utils.files",
    "utils.ranks",
    "utils.reading",
    "utils.packs",
    "utils.labels",
    "utils.text",
    "utils.losses",
    "utils.temporal",
    "utils.prompt",
    "utils.systems",
}
SCRIPTS = ("ucf_train", "ucf_test", "xd_train", "xd_test", "custom_train", "custom_test")


def imported(path: Path) -> set[str]:
    """Our modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= (
                {node.module} if node.module not in ("utils", "app", "tools") else {f"{node.module}.{part.name}" for part in node.names}
            )
        elif isinstance(node, ast.Import):
            found |= {part.name for part in node.names}
    return {name for name in found if name.split(".")[0] in ("utils", "app", "tools", "model", "dataset", "demo", *SCRIPTS)}


def test_the_model_and_the_data_stand_on_the_ground():
    assert {".".join(name.split(".")[:2]) for name in imported(ROOT / "model.py")} <= GROUND
    assert {".".join(name.split(".")[:2]) for name in imported(ROOT / "dataset.py")} <= GROUND | {"model"}


def test_scripts_and_option_files_import_no_other_wing():
    for name in (*SCRIPTS, "ucf_option", "xd_option", "custom_option"):
        assert not {part for part in imported(ROOT / f"{name}.py") if part.split(".")[0] in ("app", "tools", "demo")}


def test_no_systems_name_in_shared_code():
    """What a system has more than others it says in its SYSTEM: names stand in model.py, its file, option files and a paper's tables."""
    shared = [
        *ROOT.glob("utils/*.py"),
        *(path for wing in ("evaluation", "captions", "video", "sample") for path in ROOT.glob(f"utils/{wing}/*.py")),
    ]
    shared += [ROOT / "dataset.py", ROOT / "demo.py", *ROOT.glob("app/**/*.py")]
    strings = {}
    for path in shared:
        tree = ast.parse(path.read_text())
        strings[path] = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {(path.name, name) for path, found in strings.items() for name in SYSTEMS if name in found}
    assert named <= {("options.py", "reflip")}  # the default of --model


def test_no_data_sets_name_in_code():
    """It stands in its files: list/, its option file and its two scripts."""
    for path in [*ROOT.glob("*.py"), *(path for wing in ("utils", "tools", "app") for path in ROOT.glob(f"{wing}/**/*.py"))]:
        strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not {"ucf", "xd"} & strings, path


def test_options_that_texts_name_exist():
    """Those of every script, in code and docs; beside those of the programs that docs speak of, and of versions before this one."""
    files = [path for path in ROOT.rglob("*.py") if not {".venv", "tests"} & set(path.relative_to(ROOT).parts)]
    known = {one.flag for system in SYSTEMS for one in declared(system).values()} | {"--help"}
    for call in (node for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        if getattr(call.func, "attr", getattr(call.func, "id", "")) in ("add_argument", "add"):
            known |= {str(word.value) for word in call.args if isinstance(word, ast.Constant)}
    others = {"--standalone", "--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-id", "--rdzv-endpoint", "--nodes"}
    others |= {"--ntasks-per-node", "--gpus-per-node", "--local-dir", "--array", "--cpus-per-task", "--time", "--short", "--porcelain"}
    others |= {"--max-restarts", "--open-mode", "--requeue", "--signal"}
    gone = {("restore.py", "--mamba-width"), ("engine.py", "--ema")}  # named as such
    named = {}
    for path in [*files, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[a-z]*/README.md")]:
        if path.name == "LOG.md":  # of what was tried and is no more
            continue
        for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", path.read_text()):
            if not {name, name.replace("--no-", "--")} & (known | others) and (path.name, name) not in gone:
                named.setdefault(name, path.name)
    assert named == {"--its-name": "base.py", "--no": "ablate.py"}  # placeholders
