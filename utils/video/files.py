"""Which videos a tool works through."""

import os
import re
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from utils.errors import BadInput
from utils.files import files_below, irregular
from utils.labels import VIDEO_SUFFIXES, check_video_name, is_video, video_name

NAMED = 5  # files that are left out, at most
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_./]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?=(?:\d{4}|\d{6})?(?!\d))")
TIME = re.compile(r"(?<!\d)([01]\d|2[0-3])[-_.:h]?([0-5]\d)(?:[-_.:m]?([0-5]\d))?(?!\d)")  # behind the day
APART = re.compile(TIME.pattern.replace("]?", "]"))  # where the name tells no day, `0001` is a number
NO_DAY = datetime.min.date()  # of a clock time alone


def find_videos(paths: list[str], output: Path, suffix: str, *, by_name: bool = True, unique: bool = False) -> dict[Path, Path]:
    """The videos among `paths` and below them, sorted: file -> its NAME + `suffix` below `output`, subfolders kept; where two files of a
    folder differ in their extension alone, NAME_EXTENSION. What lies below `output` is left out, where that is inside one of the folders.
    A line on stderr counts and names what else is left out: files that are no videos by their names, and those that are no regular files.

    by_name: NAME is that of lists and ground truth (utils.labels.video_name), else the file's own without extension; unique: no two have
    the same, whatever their folders.
    Raises BadInput where one does not exist or is no regular file, there is none, or two have the same output.
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
            if by_name:
                check_video_name(file, video_name(file.name))
            targets[file] = output / folder / f"{video_name(file.name) if by_name else file.stem}{suffix}"
    names = ", ".join(left[:NAMED]) + (", …" if len(left) > NAMED else "")
    if not targets:
        there = f" ({names})" if left else ""
        raise BadInput(
            f"{paths[0]}: no video below it, {len(left)} other files{there}; expected one of {', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    if left:
        print(f"note: {len(left)} files are left out, no videos by their names, or no regular files: {names}", file=sys.stderr)
    alike = Counter((file.parent, target) for file, target in targets.items())
    for file, target in targets.items():
        if alike[file.parent, target] > 1 and not unique:
            targets[file] = target.with_name(f"{target.name.removesuffix(suffix)}_{file.suffix[1:]}{suffix}")
    called: dict = {}
    for file, target in targets.items():
        if called.setdefault(key := target.name if unique else target, file) != file:
            raise BadInput(
                f"{file} and {called[key]} are both {target.name.removesuffix(suffix)}; the outputs go by name: rename one of them"
                + ", or name the folder that both lie in" * (not unique and file.parent != called[key].parent)
            )
    return targets


def begins(path: Path, created: str | None = None) -> datetime | None:
    """When a recording begins, local time, without zone: by its name (`2024-05-01/08-00.mp4`, `cam_20240501_080000.mp4`; of a name that
    tells no day the date is NO_DAY), else by `created`, the creation_time of its metadata in ISO format, UTC unless it says; None: unknown.
    """
    name, days, above = path.stem, list(DAY.finditer(str(path))), len(str(path)) - len(path.name)
    own = [day for day in days if day.end() > above]  # in the name itself, which may tell the end as well
    day = own[0] if own else days[-1] if days else None
    time = TIME.search(name[day.end() - above :]) if own else APART.search(name) if day else APART.match(name)
    try:
        if time:
            begun = datetime(*(int(day[part]) for part in (1, 3, 4))) if day else datetime.min
            return begun.replace(hour=int(time[1]), minute=int(time[2]), second=int(time[3] or 0))
        made = datetime.fromisoformat(created) if created else None
        if made and made.year > 1990:  # a camera whose clock was never set says 1970 or 1904
            return (made if made.tzinfo else made.replace(tzinfo=UTC)).astimezone().replace(tzinfo=None)
    except ValueError:  # 31 February; no date at all
        pass
    return None


def camera_of(path: Path) -> str:
    """The camera of a recording: what its folders, and its name before the day, say but for the day. `path`: below the folder of all."""
    day = DAY.search(path.name)
    folders = [part.strip(" _-.") for part in DAY.sub("", path.parent.as_posix()).split("/")]
    return "/".join(filter(None, [*folders, path.name[: day.start()].strip(" _-.") if day else ""]))
