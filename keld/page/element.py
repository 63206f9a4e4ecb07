"""Element: elements of a page, every text in them escaped by the standard library."""

from __future__ import annotations

from xml.etree.ElementTree import Element, tostring


def tag(name: str, /, *children: Element | str | None, **attributes: object) -> Element:
    """An element.

    Args:
        children: in their order; a text is escaped, None is left out.
        attributes: by name, `aria_label` for `aria-label` and `class_` for `class`; one that is None is left out.
    """
    made = Element(name, {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items() if value is not None})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif child is not None and last is None:
            made.text = (made.text or "") + child
        elif child is not None and last is not None:
            last.tail = (last.tail or "") + child
    return made


def document(root: Element) -> str:
    """The text of a page."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
