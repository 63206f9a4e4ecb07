"""Kinds: the kinds of providers, built in and from other packages.

Below `provider`.  Another package adds a kind by an entry point of the group `keld.providers`, whose name is the kind and whose object is its `Preset`.
Light: a kind is imported when an account of it connects.  Another package cannot replace a built-in kind.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from keld.errors import InvalidJob

if TYPE_CHECKING:
    from keld.providers.part import Preset

GROUP = "keld.providers"
BUILT_IN = (  # a file of `presets` each
    "anthropic",
    "azure",
    "bedrock",
    "deepinfra",
    "fireworks",
    "groq",
    "gemini",
    "mistral",
    "openai",
    "openai_compatible",
    "openrouter",
    "self_hosted",
    "together",
    "xai",
    "vertex",
)

# By the official host of a built-in kind.  Here, and not in its preset: a status shows the link, and would load every SDK to find it.
_BATCH_PAGES = {"https://api.openai.com": "https://platform.openai.com/batches/{id}"}


def kinds() -> tuple[str, ...]:
    """The values that `Account.kind` may have, in alphabetical order."""
    return tuple(sorted({*BUILT_IN, *_found()}))


def preset_of(kind: str, account: str) -> Preset:
    """The preset of a kind.

    Args:
        account: the name of an account of this kind, for the error.

    Raises:
        InvalidJob: there is no such kind, or the entry point of another package gives no `Preset`.
    """
    from keld.providers.part import Preset

    if kind in BUILT_IN:
        found = import_module(f"keld.providers.presets.{kind}").PRESET
    elif (entry_point := _found().get(kind)) is not None:
        found = entry_point.load()
    else:
        raise InvalidJob(f"Account {account!r} is of kind {kind!r}; the kinds are {', '.join(kinds())}. Nothing was sent. Correct kind=.")
    if not isinstance(found, Preset):
        raise InvalidJob(f"The entry point {kind!r} of the group {GROUP} gives a {type(found).__name__}, not a Preset. Nothing was sent.")
    return found


def batch_page(host: str, batch_id: str) -> str | None:
    """The URL of a batch in the dashboard of its host, for people; None if no kind has such pages for that host.

    Args:
        host: `scheme://host[:port]`.
    """
    page = _BATCH_PAGES.get(host) or _pages_of_others(tuple(sorted(_found()))).get(host)
    return page.format(id=batch_id) if page is not None else None


@cache
def _pages_of_others(among: tuple[str, ...]) -> dict[str, str]:
    """By official host, the page of a batch there, of each of these kinds of other packages that has such pages."""
    from keld.providers.account import origin

    pages: dict[str, str] = {}
    for kind in among:
        with suppress(Exception):  # a broken package of a kind that this status may not concern: it is reported when an account connects
            preset = preset_of(kind, kind)
            if isinstance(preset.base_url, str) and preset.batch_page is not None:
                pages.setdefault(origin(preset.base_url), preset.batch_page)
    return pages


def _found() -> dict[str, EntryPoint]:
    return _found_in(tuple(sys.path))


@cache
def _found_in(folders: tuple[str, ...]) -> dict[str, EntryPoint]:
    """The entry points of the packages in the folders of `sys.path`, by kind; reading the metadata of all packages takes some 20 ms."""
    return {one.name: one for one in entry_points(group=GROUP)}
