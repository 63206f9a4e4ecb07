"""Documents: README and docs/ as data: pages, their blocks, paragraphs, links.  For the tests that compare them with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HISTORY = ROOT / "CHANGELOG.md"  # tells what was so
PAGES = [*sorted({*ROOT.glob("*.md"), ROOT / "example_project" / "README.md", *DOCS.rglob("*.md")} - {HISTORY})]
_FENCE = re.compile(r"^```(\S*)(?: title=\"(\S+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: its language, the file it is to be saved as (None: it is not), and its text."""

    language: str
    title: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line after `$`, without its comment, and the lines of output that the page shows below it."""

    line: str
    shown: tuple[str, ...]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """In the order of the page."""
    return [Block(language=language, title=title, text=text) for language, title, text in _fences(page)]


def _fences(page: Path) -> list[tuple[str, str | None, str]]:
    return [(found[1], found[2], found[3]) for found in _FENCE.finditer(page.read_text())]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a `console` block."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        yield Command(line=re.sub(r" {2,}#.*", "", line).strip(), shown=tuple(shown))


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text())


def paragraphs(page: Path) -> list[str]:
    """Paragraphs and the items of lists, each in one line; no headings, no tables."""
    found: list[str] = []
    for part in re.split(r"\n\s*\n", prose(page)):
        lines = [line for line in part.strip().split("\n") if line and not line.startswith(("#", "|", "<"))]
        for line in lines:
            starts = line is lines[0] or re.match(r"\s*(?:[-*]|\d+\.) ", line)
            if starts:
                found.append(line.strip())
            else:
                found[-1] += f" {line.strip()}"
    return found


def rendered(paragraph: str) -> str:
    """What a reader sees of it: links without their targets."""
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"<[^>]+>", "", paragraph))


def anchors(page: Path) -> set[str]:
    """What may stand after `#` in a link to a page, as GitHub makes it of headings, and the ids given by hand."""
    text = prose(page)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'id="([^"]+)"', text))


def links(page: Path) -> list[tuple[str, str]]:
    """Targets of the links inside the repository, as (path, anchor); the path is empty for the page itself."""
    targets = [target for pair in re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"", prose(page)) for target in pair if target]
    parted = (target.partition("#") for target in targets if not target.startswith(("http://", "https://")))
    return [(path, anchor) for path, _, anchor in parted]


def table(page: Path, heading: str | None = None) -> list[list[str]]:
    """The cells of the first table after a heading (None: of the page), without its head."""
    text = page.read_text()
    if heading is not None:
        text = text[text.index(f"\n{heading}\n") :]
    found = re.search(r"^\|.*\n\|[-|: ]+\n((?:\|.*\n)*)", text, re.MULTILINE)
    assert found is not None, f"{name(page)} has no table after {heading}"
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in found[1].strip().split("\n")]
