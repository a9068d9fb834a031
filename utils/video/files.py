"""Which videos a tool works through."""

import os
import sys
from pathlib import Path

from utils.errors import BadInput
from utils.files import files_below, irregular
from utils.labels import VIDEO_SUFFIXES, is_video, video_name

NAMED = 5  # files that are left out, at most


def find_videos(paths: list[str], output: Path, suffix: str, *, by_name: bool = True) -> dict[Path, Path]:
    """The videos among `paths` and below them, sorted: file -> its NAME + `suffix` below `output`, subfolders kept. What lies below
    `output` is left out, where that is inside one of the folders. A line on stderr counts and names what else is left out: files that are
    no videos by their names, and those that are no regular files.

    by_name: NAME is that of lists and ground truth (utils.labels.video_name), and all differ; else the file's own without extension.
    Raises BadInput where one does not exist or is no regular file, there is none, or two have the same name (the same output).
    """
    targets: dict[Path, Path] = {}
    left: list[str] = []

    def unreadable(error: OSError) -> None:
        left.append(f"{error.filename} ({error.strerror})")

    for path in map(Path, paths):
        files, is_folder = [path], os.path.isdir(path)
        if is_folder:
            found = sorted(files_below(path, but=output, failed=unreadable))
            files = [file for file in found if is_video(file.name)]
            left += [str(file) for file in found if not is_video(file.name)]
        for file in files:
            if fault := irregular(file):
                if not is_folder:
                    hint = " (a pipe is read by: cat PIPE | python demo.py -)" if "pipe" in fault else ""
                    fault = fault.replace("no such file", "no such file or folder")
                    raise BadInput(f"{path}: {fault}; name videos, or a folder of videos{hint}")
                left.insert(0, f"{file} ({fault})")
                continue
            folder = file.parent.relative_to(path) if is_folder else Path()
            targets[file] = output / folder / f"{video_name(file.name) if by_name else file.stem}{suffix}"
    names = ", ".join(left[:NAMED]) + (", …" if len(left) > NAMED else "")
    if not targets:
        there = f" ({names})" if left else ""
        raise BadInput(
            f"{paths[0]}: no video below it, {len(left)} other files{there}; expected one of {', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    if left:
        print(f"note: {len(left)} files are left out, no videos by their names, or no regular files: {names}", file=sys.stderr)
    called: dict = {}
    for file, target in targets.items():
        if called.setdefault(key := target.name if by_name else target, file) != file:
            raise BadInput(
                f"{file} and {called[key]} are both {target.name.removesuffix(suffix)}; the outputs go by name: rename one of them"
            )
    return targets
