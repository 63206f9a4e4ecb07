"""Output: what an answer must look like: an output type -> Arrow columns, and the strict decoder of answers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import msgspec
import pyarrow as pa

from keld.errors import SchemaError
from keld.job import Embedding
from keld.schema.codec import Codec, Decoder, embedding_codec, text_codec
from keld.schema.compiler import Compiled, Compiler
from keld.schema.hint import Hints, schema_of, with_hints
from keld.schema.node import Decoded, JsonSchema
from keld.schema.subset import Subset

_STRICTEST = Subset()


@dataclass(frozen=True, kw_only=True)
class OutputSchema:
    """The form of a job's answers; equal schemas decode equally, and `from_json` of `to_json` gives an equal one.

    Args:
        kind: what an answer is: a JSON object, free text, or a vector.
        name: for the provider's schema name, `[A-Za-z0-9_-]{1,64}`.
        json_schema: as the user gave it; None unless `kind` is "object".
        hints: what a Pydantic model knows about its fields and its JSON Schema does not say; see `hint`.
        columns: one for each top-level property, `prefix` + its name; all nullable, since a row may have no answer.
        unchecked: `path: keyword` of every rule of the schema that the decoder does not check.
    """

    kind: Literal["object", "text", "embedding"]
    name: str
    prefix: str
    json_schema: JsonSchema | None
    hints: Hints
    dimensions: int | None
    columns: pa.Schema
    unchecked: tuple[str, ...]
    _codec: Codec = field(repr=False, compare=False)

    def decoder(self) -> Decoder:
        """The decoder; cheap to get, safe to share between threads."""
        return Decoder(self._codec.decode)

    def to_arrow(self, decoded: Sequence[Decoded | None]) -> pa.RecordBatch:
        """N x `columns`, in the order of `decoded`; nulls where it is None."""
        return pa.RecordBatch.from_arrays(self._codec.arrays(decoded), schema=self.columns)

    def strict_json_schema(self, subset: Subset = _STRICTEST) -> JsonSchema:
        """The form of the JSON Schema that a service takes if it enforces the schema.

        Raises:
            SchemaError: there is none; names the field and the reason.
        """
        if self.json_schema is None:
            raise SchemaError(f"{self.name}: this output is {self.kind}, which has no JSON Schema. Nothing was sent.")
        return subset.form(with_hints(self.json_schema, self.hints))

    def to_json(self) -> dict[str, Any]:
        """JSON values with everything that `from_json` needs, so that it does not need the user's Python class."""
        return {
            "kind": self.kind,
            "name": self.name,
            "prefix": self.prefix,
            "json_schema": self.json_schema,
            "dimensions": self.dimensions,
            "validators": [note for note in self.unchecked if note.startswith("validator ")],
        } | ({"hints": self.hints} if self.hints else {})

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "OutputSchema":
        """The schema whose `to_json` this is."""
        # A job run reads its own some thirty times; to compile one takes a millisecond.
        return _from_text(msgspec.json.encode(data))

    def __reduce__(self) -> tuple[Any, ...]:
        return OutputSchema.from_json, (self.to_json(),)


@lru_cache(maxsize=64)
def _from_text(stored: bytes) -> OutputSchema:
    return _assemble(**msgspec.json.decode(stored))


def output_schema(output_type: object, *, prefix: str = "") -> OutputSchema:
    """The form of the answers of a job with this `output_type`.

    Args:
        output_type: a Pydantic model (or dataclass, or TypedDict), a JSON Schema whose top level is an object, `str`,
            or an `Embedding`.
        prefix: put before every column's name.

    Raises:
        SchemaError: it has no form as columns; the message names the part and what to do.
    """
    parts: dict[str, Any] = {"prefix": prefix, "json_schema": None, "dimensions": None, "validators": []}
    match output_type:
        case Embedding():
            return _assemble(**parts | {"kind": "embedding", "name": "embedding", "dimensions": output_type.dimensions})
        case Mapping():
            name = str(output_type.get("title", "answer"))
            return _assemble(**parts | {"kind": "object", "name": name, "json_schema": dict(output_type)})
        case type() if output_type is str:
            return _assemble(**parts | {"kind": "text", "name": "answer"})
        case type():
            validators = _validators(output_type)
            plain, hints = schema_of(output_type)
            found = {"name": output_type.__name__, "json_schema": plain, "hints": hints, "validators": validators}
            return _assemble(**parts | {"kind": "object"} | found)
    raise SchemaError(
        f"output_type is {type(output_type).__name__}. Nothing was sent. "
        "Give a Pydantic model class, a JSON Schema (a dict), str, or Embedding(dimensions=...)."
    )


def _validators(model: type) -> list[str]:
    """The names of a model's Python validators: a JSON Schema cannot hold code, so they are listed as unchecked."""
    decorators = getattr(model, "__pydantic_decorators__", None)
    if decorators is None:
        return []
    return [f"validator {model.__name__}.{name}" for name in (*decorators.field_validators, *decorators.model_validators)]


def _assemble(
    *,
    kind: Literal["object", "text", "embedding"],
    name: str,
    prefix: str,
    json_schema: JsonSchema | None,
    dimensions: int | None,
    validators: list[str],
    hints: Hints | None = None,  # earlier versions staged none
) -> OutputSchema:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "answer"
    unchecked: list[str] = []
    match kind:
        case "text":
            columns, codec = pa.schema([(f"{prefix}answer", pa.string())]), text_codec()
        case "embedding":
            assert dimensions is not None  # `output_schema` and `to_json` write both together
            vector = pa.list_(pa.float32(), dimensions)
            columns, codec = pa.schema([(f"{prefix}embedding", vector)]), embedding_codec(dimensions)
        case "object":
            json_schema, compiled = _compiled(json_schema, hints or {}, name)
            columns = pa.schema([(prefix + column, node.arrow) for column, node in compiled.properties.items()])
            codec, unchecked = compiled.codec, compiled.unchecked
    return OutputSchema(
        kind=kind,
        name=name,
        prefix=prefix,
        json_schema=json_schema,
        hints=hints or {},
        dimensions=dimensions,
        columns=columns,
        unchecked=(*dict.fromkeys(unchecked), *validators),
        _codec=codec,
    )


def _compiled(schema: object, hints: Hints, name: str) -> tuple[JsonSchema, "Compiled"]:
    """(a private copy of `schema`, what it compiles to); raises SchemaError if it is not valid."""
    try:
        copy: JsonSchema = msgspec.json.decode(msgspec.json.encode(schema))
        return copy, Compiler(with_hints(copy, hints)).compile()
    except SchemaError as error:
        raise SchemaError(f"{name}: {error} Nothing was sent.", at=error.at) from None
    except RecursionError:
        raise SchemaError(f"{name}: the JSON Schema is nested too deeply. Nothing was sent.") from None
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise SchemaError(f"{name}: not a JSON Schema that Keld can read ({error!r}). Nothing was sent.") from error
