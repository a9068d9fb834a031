"""Fonts for texts in any script: file names, event names and captions are the user's, and no font has every character."""

import functools
import sys
from pathlib import Path

DEFAULT = "DejaVu Sans"  # comes with matplotlib


@functools.cache
def font_for(text: str) -> tuple[str, str]:
    """Family and file of the first installed font that has every character of `text`: matplotlib's own where it does.

    Where none has, it is matplotlib's, too, which draws boxes, and stderr says so.
    """
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    own = (DEFAULT, str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"))
    wanted = {ord(character) for character in text if not character.isspace()}
    upright = [font for font in fontManager.ttflist if font.style == "normal" and font.weight in (400, "normal", "regular")]
    others = sorted((font.name, font.fname) for font in upright if "LastResort" not in font.fname)  # that one has boxes for all
    for family, file in [own, *others]:
        if wanted <= characters(file):
            return family, file
    missing = "".join(sorted(chr(code) for code in wanted - characters(own[1])))
    print(f"warning: no installed font has {missing[:20]}: boxes in pictures; install one (Debian: fonts-noto-cjk)", file=sys.stderr)
    return own


@functools.cache
def characters(file: str) -> frozenset[int]:
    """The code points that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # removed since matplotlib listed the fonts, or damaged
        return frozenset()
