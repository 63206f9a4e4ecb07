"""Page: what its style sheet and its elements promise to every page that is made of them."""

import re
from importlib.resources import files

import pytest


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    wide = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
    parts = [int(wide[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_colour_can_be_told_from_the_paper(mode: str) -> None:
    """axe cannot see the colours of SVG."""
    sheet = (files("keld.page") / "sheet.css").read_text()
    blocks = re.findall(r":root \{([^}]*)\}", sheet)
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[0 if mode == "light" else 1]))
    paper = _luminance(colours.pop("paper"))
    least = {"line": 1.3} | dict.fromkeys(("s0", "s1", "s2", "s3", "ink", "muted", "late", "outline"), 4.5)
    for name, colour in colours.items():
        high, low = sorted((paper, _luminance(colour)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= least[name], name
