"""Definition: the names of a Pydantic model's definitions, without the modules of their classes.

Where two classes have one name, Pydantic puts their modules before it.  A module's name may change though nothing that is asked does: Airflow makes it of the
whole path of a Dag's file, which each version of a bundle has of its own, and a script is `__main__`.  The schema is asked and is part of the
fingerprint, so with another name every row would be asked, and paid, once more.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from keld.schema.node import JsonSchema

_PREFIX = "#/$defs/"
_NUMBER = re.compile(r"(?:-Input|-Output)?(?:__\d+)?$")  # how Pydantic tells those apart whose modules do not


def own_names(schema: JsonSchema) -> dict[str, str]:
    """The new name of each definition: its class's, with a number in the order in which they are referred to where several have that."""
    definitions = schema.get("$defs", {})
    groups: dict[str, list[str]] = {}
    for name in _in_order(schema, definitions):
        groups.setdefault(_NUMBER.sub("", name).rpartition("__")[2], []).append(name)
    names = dict[str, str]()
    for own, alike in groups.items():
        names |= {alike[0]: alike[0]} if len(alike) == 1 else {name: f"{own}__{n}" for n, name in enumerate(alike, 1)}
    return names


def renamed(schema: JsonSchema, names: Mapping[str, str]) -> JsonSchema:
    """A copy of a schema whose definitions have other names; the same one if none has."""
    if all(name == own for name, own in names.items()):
        return schema
    copy: JsonSchema = _renamed(schema, {_PREFIX + name: _PREFIX + own for name, own in names.items()})
    copy["$defs"] = dict(sorted((names.get(name, name), part) for name, part in copy["$defs"].items()))
    return copy


def _renamed(part: Any, references: Mapping[str, str]) -> Any:
    if isinstance(part, list):
        return [_renamed(each, references) for each in part]
    if not isinstance(part, dict):
        return part
    copy = {key: _renamed(value, references) for key, value in part.items()}
    if isinstance(reference := part.get("$ref"), str):
        copy["$ref"] = references.get(reference, reference)
    if isinstance(chosen := part.get("discriminator"), dict) and isinstance(mapping := chosen.get("mapping"), dict):
        copy["discriminator"] = chosen | {"mapping": {tag: references.get(reference, reference) for tag, reference in mapping.items()}}
    return copy


def _in_order(schema: JsonSchema, definitions: Mapping[str, Any]) -> list[str]:
    """The names of the definitions, in the order in which they are first referred to."""
    seen = dict[str, None]()
    waiting = list(_references({key: part for key, part in schema.items() if key != "$defs"}))
    while waiting:
        name = waiting.pop(0)
        if name in definitions and name not in seen:
            seen[name] = None
            waiting = [*_references(definitions[name]), *waiting]
    return list(seen)


def _references(part: Any) -> Iterator[str]:
    """The names of the definitions to which a part of a schema refers."""
    if isinstance(part, list):
        for each in part:
            yield from _references(each)
    elif isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str) and reference.startswith(_PREFIX):
            yield reference.removeprefix(_PREFIX)
        for value in part.values():
            yield from _references(value)
