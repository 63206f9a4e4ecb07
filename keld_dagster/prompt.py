"""Prompt: the text of a prompt in YAML -> a template of `str.format`, as `keld.Job` takes it.

Below `component`.  Two languages meet in such a text: `{{ }}` and `{% %}` are Dagster's and are rendered first, when the definitions load; in what
is left `{column}` is the row's.  All other braces are text, since prompts show JSON, and doubling its braces would make them Dagster's.
A brace without its other half is refused: it is most often a column that was not closed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# A column's name, perhaps with a conversion and a format: {body}, {order id}, {price:.2f}.  Not: {"a": 1}, {a: 1}, {1,3}, {}.
_COLUMN = r"""\{[^\W\d][\w .-]*(?:![rsa])?(?::[^\s{}"'][^{}"'\n]*)?\}"""
_TOKEN = re.compile(rf"{{{{|{_COLUMN}|[{{}}]")


def rendered(text: str, scope: Mapping[str, Any]) -> str:
    """The text with Dagster's templates rendered; unlike Dagster's own rendering, the result is always text, with its last line break.

    Raises:
        ValueError: a template that is not one, or names what is not there.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError  # at its first use, as in Dagster

    try:
        # No HTML is made, so nothing is escaped.
        return Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False).from_string(text).render(scope)  # noqa: S701
    except TemplateError as error:
        raise ValueError(
            f"what stands in {{{{ }}}} is Dagster's template, and cannot be rendered: {error}. There is {', '.join(sorted(scope))}. "
            "A column is {body}, and the braces of JSON are written once."
        ) from None


def template_of(text: str) -> str:
    """The template of `str.format` for a rendered text.

    Raises:
        ValueError: a brace without its other half.
    """
    made: list[str] = []
    opened: list[tuple[str, int]] = []  # braces that are text, and where
    at = 0
    while found := _TOKEN.search(text, at):
        made.append(text[at : found.start()])
        brace, at = found.group(), found.end()
        if brace in ("{", "{{"):
            opened.append((brace, found.start()))
            made.append("{{")
        elif brace != "}":
            made.append(brace)  # a column
        elif opened and opened[-1][0] == "{":
            opened.pop()
            made.append("}}")
        elif text.startswith("}", at):  # the second half of a brace that was written twice, as for `str.format`
            opened = opened[:-1]
            made.append("}}")
            at += 1
        else:
            raise ValueError(_unbalanced(text, found.start(), "closes a brace that was not opened"))
    made.append(text[at:])
    never = next((start for brace, start in opened if brace == "{"), None)
    if never is not None:
        raise ValueError(_unbalanced(text, never, "opens a brace that is never closed"))
    return "".join(made)


def _unbalanced(text: str, at: int, what: str) -> str:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return f"line {line}, character {column} of the text {what}. A column is {{body}}; a lone brace is written twice, by {{{{ '{{{{' }}}}."
