"""Which videos a tool works through."""

from pathlib import Path

from utils.errors import BadInput
from utils.labels import video_name
from utils.video.frames import SUFFIXES


def find_videos(paths: list[str], output: Path, suffix: str, *, by_name: bool = True) -> dict[Path, Path]:
    """The videos among `paths` and below them, sorted: file -> its NAME + `suffix` below `output`, subfolders kept. What lies below
    `output` is left out, where that is inside one of the folders.

    by_name: NAME is that of lists and ground truth (utils.labels.video_name), and all differ; else the file's own without extension.
    Raises BadInput where one does not exist, there is none, or two have the same name (the same output).
    """
    targets: dict[Path, Path] = {}
    results = output.resolve()
    for path in map(Path, paths):
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder; name videos, or a folder of videos")
        files = [path]
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
            if path.resolve() in results.parents:
                files = [file for file in files if results not in file.resolve().parents]
        for file in files:
            folder = file.parent.relative_to(path) if path.is_dir() else Path()
            targets[file] = output / folder / f"{video_name(file.stem) if by_name else file.stem}{suffix}"
    if not targets:
        raise BadInput(f"{paths[0]}: no video ({', '.join(sorted(SUFFIXES))}) below it; name videos, or a folder of videos")
    names: dict = {}
    for file, target in targets.items():
        if names.setdefault(key := target.name if by_name else target, file) != file:
            raise BadInput(
                f"{file} and {names[key]} are both {target.name.removesuffix(suffix)}; the outputs go by name: rename one of them"
            )
    return targets
