"""`python -m tests.house.architecture` writes the map of `keld/__init__.py` into docs/architecture.md; `make map` runs it."""

import re
from pathlib import Path

import keld

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
_BLOCK = re.compile(r"(<!-- the map: `make map` -->\n```\n)(.*?)(```\n)", re.DOTALL)


def rooms() -> str:
    """The lines of the map, as the package's docstring has them."""
    return "".join(f"{line}\n" for line in re.findall(r"^ {4}([a-z_]+/? {2,}\S.*)$", keld.__doc__ or "", re.MULTILINE))


def drawn(page: str) -> str:
    """The lines of the map, as the page has them."""
    found = _BLOCK.search(page)
    assert found is not None
    return found[2]


if __name__ == "__main__":
    PAGE.write_text(_BLOCK.sub(lambda found: found[1] + rooms() + found[3], PAGE.read_text()))
