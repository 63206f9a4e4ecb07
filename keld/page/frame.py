"""Frame: a whole page, with the strictest policy in its head: nothing is loaded and nothing runs.

Its one style sheet is allowed by its hash.  Where a server forbids that too, the tables and the drawings are still there.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple
from xml.etree.ElementTree import Element

from keld.page.element import document, tag


class Section(NamedTuple):
    """A part of a page with a heading, to which the page's contents lead."""

    title: str
    anchor: str
    content: Sequence[Element]


class Figure(NamedTuple):
    """A large number: what it is, its value, a note below; `bad` is shown in another colour."""

    name: str
    value: str
    note: str = ""
    bad: bool = False


def frame(title: str, top: Sequence[Element], sections: Sequence[Section]) -> str:
    """The text of a page: `top`, which begins with its heading, then a list of the sections, then these."""
    style = (files("keld.page") / "sheet.css").read_text()
    policy = (
        f"default-src 'none'; style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    main = tag(
        "main",
        *top,
        tag("nav", tag("ul", *(tag("li", tag("a", one.title, href=f"#{one.anchor}")) for one in sections)), aria_label="Sections"),
        *(tag("section", tag("h2", one.title), *one.content, id=one.anchor) for one in sections),
    )
    return document(tag("html", head, tag("body", main), lang="en"))


def figures(shown: Sequence[Figure]) -> Element:
    """Large numbers, side by side."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", one.name), tag("dd", one.value, tag("small", one.note), class_="late" if one.bad else None))
            for one in shown
        ),
    )


def muted(text: str) -> Element:
    """A paragraph that says less than the others."""
    return tag("p", text, class_="muted")
