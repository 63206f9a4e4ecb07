"""Hint: what a Pydantic model knows about its fields and its JSON Schema does not say.

Which fields are Decimals (their JSON Schema is that of `float | str`), and what a `default_factory` of an empty container makes.
Hints are kept beside the JSON Schema, not in it: they decide how an answer is read, not what is asked, so they are not part of a
fingerprint.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from keld.errors import SchemaError
from keld.schema.definition import own_names, renamed
from keld.schema.node import JsonSchema
from keld.schema.variant import DECIMAL

if TYPE_CHECKING:
    from pydantic.json_schema import GenerateJsonSchema

Hints: TypeAlias = dict[str, dict[str, Any]]
"""By the JSON pointer of a part of the schema: the keywords to add there."""

_EMPTY = {list: [], set: [], frozenset: [], tuple: [], dict: {}, str: ""}


@lru_cache(maxsize=64)  # a job's is asked three times, and takes a millisecond
def schema_of(model: type) -> tuple[JsonSchema, Hints]:
    """The JSON Schema of a Pydantic model, dataclass or TypedDict, and the hints that go with it.

    Raises:
        SchemaError: it has none.
    """
    # Imported here: a job with a JSON Schema, or a worker that reads the schema from staging, does not need pydantic.
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        plain, hinted = adapter.json_schema(), adapter.json_schema(schema_generator=_hinting())
    except PydanticUserError as error:
        raise SchemaError(f"{model.__name__} has no JSON Schema: {error.message} Nothing was sent.") from error
    names = own_names(plain)
    plain, hinted = renamed(plain, names), renamed(hinted, names)
    hints: Hints = {}
    _compare(plain, hinted, "", hints)
    return plain, hints


def with_hints(schema: JsonSchema, hints: Hints) -> JsonSchema:
    """A copy of `schema` with the hints added."""
    if not hints:
        return schema
    copy: JsonSchema = msgspec.json.decode(msgspec.json.encode(schema))
    for pointer, keywords in hints.items():
        place: Any = copy
        for part in pointer.split("/")[1:]:
            place = place[int(part)] if isinstance(place, list) else place[part.replace("~1", "/").replace("~0", "~")]
        place.update(keywords)
    return copy


def _hinting() -> "type[GenerateJsonSchema]":
    from pydantic.json_schema import GenerateJsonSchema

    class Hinting(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> JsonSchema:
            made = super().decimal_schema(schema)
            for variant in made.get("anyOf", ()):
                if variant.get("type") == "string":
                    variant[DECIMAL] = True
            return made

        def default_schema(self, schema: Any) -> JsonSchema:
            made = super().default_schema(schema)
            empty = _EMPTY.get(schema.get("default_factory")) if "default" not in schema else None
            return made if empty is None or "$ref" in made else {**made, "default": empty}

    return Hinting


def _compare(plain: Any, hinted: Any, pointer: str, hints: Hints) -> None:
    if isinstance(plain, dict) and isinstance(hinted, dict):
        more = {key: part for key, part in hinted.items() if key not in plain}
        if more:
            hints[pointer] = more
        for key, part in plain.items():
            _compare(part, hinted.get(key), f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", hints)
    elif isinstance(plain, list) and isinstance(hinted, list) and len(plain) == len(hinted):
        for n, part in enumerate(plain):
            _compare(part, hinted[n], f"{pointer}/{n}", hints)
