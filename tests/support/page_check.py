"""Page check: what every page of Keld's must be, whoever made it."""

from html.parser import HTMLParser


class Seen(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def assert_still(text: str) -> None:
    """The page loads nothing and runs nothing, whatever a reader's program allows."""
    seen = Seen(text)
    assert {tag for tag, _ in seen.tags} & {"script", "link", "img", "iframe", "object", "form", "base"} == set()
    names = {name for _, attributes in seen.tags for name in attributes}
    assert [name for name in names if name.startswith("on") or name in ("style", "src", "xlink:href")] == []
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in seen.tags)
    assert "url(" not in text
    assert "@import" not in text


def assert_drawings_are_told(text: str) -> None:
    """Each drawing has a name for screen readers, or stands beside its numbers."""
    drawings = [attributes for tag, attributes in Seen(text).tags if tag == "svg" and attributes.get("class")]
    assert drawings
    assert all((one.get("role") == "img" and one.get("aria-label")) or one.get("aria-hidden") == "true" for one in drawings)
