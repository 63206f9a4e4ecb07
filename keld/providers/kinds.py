"""Kinds: which kinds of providers there are, built in and from other packages.

Below `provider`.  Another package brings one by an entry point of the group `keld.providers`, whose name is the kind and whose object is its `Preset`.
Light: a kind is imported when an account of it connects.  A built-in kind's name cannot be taken by another package.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from keld.errors import InvalidJob

if TYPE_CHECKING:
    from keld.providers.part import Preset

GROUP = "keld.providers"
BUILT_IN = {"anthropic": "ANTHROPIC", "openai": "OPENAI", "openai_compatible": "OPENAI_COMPATIBLE"}  # in `presets`


def kinds() -> tuple[str, ...]:
    """The kinds of providers that an account may be of, as `Account.kind`, in alphabetical order."""
    return tuple(sorted({*BUILT_IN, *_found()}))


def preset_of(kind: str, account: str) -> Preset:
    """What a kind is made of.

    Args:
        account: the name of an account of it, for the error.

    Raises:
        InvalidJob: there is no such kind, or what another package brings for it is no `Preset`.
    """
    from keld.providers.part import Preset

    if kind in BUILT_IN:
        found = getattr(import_module("keld.providers.presets"), BUILT_IN[kind])
    elif (entry_point := _found().get(kind)) is not None:
        found = entry_point.load()
    else:
        raise InvalidJob(f"Account {account!r} is of kind {kind!r}; the kinds are {', '.join(kinds())}. Nothing was sent.")
    if not isinstance(found, Preset):
        raise InvalidJob(f"The entry point {kind!r} of the group {GROUP} gives a {type(found).__name__}, not a Preset. Nothing was sent.")
    return found


def batch_page(host: str, batch_id: str) -> str | None:
    """A batch in the dashboard of its host, for people, by the built-in kinds; None where there is no page for each.

    Args:
        host: `scheme://host[:port]`.
    """
    return next((page.format(id=batch_id) for official, page in _batch_pages().items() if official == host), None)


def _batch_pages() -> dict[str, str]:
    from keld.providers.account import origin

    presets = [preset_of(kind, kind) for kind in BUILT_IN]
    return {origin(preset.base_url): preset.batch_page for preset in presets if preset.base_url and preset.batch_page}


def _found() -> dict[str, EntryPoint]:
    return {one.name: one for one in entry_points(group=GROUP)}
