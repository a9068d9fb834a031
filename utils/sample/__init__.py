"""The built-in sample: simulated features, captions, encoders, lists and ground truth. Made when it is first wanted."""

from pathlib import Path

from model import SYSTEMS
from utils import ranks
from utils.datasets import load_dataset, script_of
from utils.files import ROOT, locked
from utils.loading import unused_text
from utils.options import sample_files


@ranks.first
def announce(options) -> None:
    """Say which data is used, what a line that was deleted from the option file falls back to, what the preset sets, and which typed
    options have no effect; of the built-in sample also which settings it overrules, and make it if it is not there yet.
    """
    title, file = load_dataset(options.data).title, script_of(options.dataset, "option")
    if options.unstated:
        taken = ", ".join(f"{name} {getattr(options, name)}" for name in options.unstated)
        print(f"{file} does not set: {taken}, the default of the code")
    if options.changed:
        taken = ", ".join(f"{name} {getattr(options, name)} (not {value})" for name, value in options.changed.items())
        print(f"preset {options.preset}: {taken}; an option that you type wins over it")
    if unused := unused_text(options):
        print(f"note: not used by --model {options.model} as it is set here: {', '.join(unused)}")
    if not options.sample:
        what = " and ".join(SYSTEMS[options.model].inputs(options))
        print(f"data: {title} {what} in {options.feature_root}")
        return
    print(f"data: built-in sample (simulated features; figures say nothing about {title})")
    if options.overruled:
        files = [name for name in sample_files(options.dataset) if name in options.overruled]
        changed = [f"{name} {getattr(options, name)} (not {value})" for name, value in options.overruled.items() if name not in files]
        changed = ", ".join(changed + [f"{name} its own (not {options.overruled[name]})" for name in files])
        print(f"the sample overrules {file} (SAMPLE there): {changed}; an option that you type wins over both")
    from utils.sample.builder import is_current, make_sample  # not needed where your own features are

    folder = ROOT / "data" / "sample" / options.dataset
    here = Path(options.feature_root).parent == folder  # else it is somebody's copy, which a checkpoint names
    if here and not is_current(folder, options.dataset):  # absent, or of an earlier version of this project
        with locked(folder.parent, f".{options.dataset}.lock", wait=True):
            if not is_current(folder, options.dataset):  # another process may have made it meanwhile
                print(f"making the sample in {folder}")
                make_sample(folder, options.dataset)
