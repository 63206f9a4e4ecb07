"""Schema: what an answer must look like: an output type -> Arrow columns, and the strict decoder of answers.

On the road: `job` -> **`schema`** -> `request` (asks for it) -> ... -> `answer` (reads it).  Pure.
A schema is compiled once to a tree of nodes: the Arrow type of a value, and the msgspec type that parses and checks it
in one pass (3x a `json.loads` loop).  What msgspec has no word for (maps, unions, recursion) is held back as
`msgspec.Raw`, checked by a reader of its own, and becomes a column of JSON text, as the model wrote it.
A rule that nobody checks is named in `OutputSchema.unchecked`.  A reason names the path and the rule, never the value:
answers may be private.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from operator import attrgetter
from types import GenericAlias
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from keld.errors import InvalidAnswer, SchemaError

JsonSchema: TypeAlias = dict[str, Any]
Decoded: TypeAlias = Any  # opaque: what a decoder gives and `to_arrow` takes
Array: TypeAlias = "pa.Array[Any]"  # pyarrow's own is not subscriptable at run time
Reader: TypeAlias = Callable[[str | bytes], Any]

_INT64 = (-(2**63), 2**63 - 1)
_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\r?\n(.*?)\s*```\s*", re.DOTALL | re.IGNORECASE)
_KEY_END = re.compile(r'"\s*:')
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"),
).union(("type", "$comment", "$schema", "$id", "$defs", "definitions"))
_CHECKED = {
    "string": frozenset(("minLength", "maxLength", "pattern")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "boolean": frozenset[str](),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "object": frozenset(("properties", "required", "additionalProperties", "minProperties", "maxProperties")),
}
_APPLIES_TO_SOME = frozenset[str]().union(*_CHECKED.values())


@dataclass(frozen=True, slots=True)
class Embedding:
    """An output type: one vector of `dimensions` float32 a row."""

    dimensions: int

    def __post_init__(self) -> None:
        if type(self.dimensions) is not int or not 1 <= self.dimensions <= 65536:
            raise SchemaError(f"Embedding(dimensions={self.dimensions!r}): give a whole number from 1 to 65536. Nothing was sent.")


@dataclass(frozen=True, slots=True)
class Decoder:
    """`decode(answer)`: one answer as `to_arrow` takes it.

    Takes the model's text; for an embedding its list of floats, that list as JSON text, or base64 of little-endian
    float32.

    Raises:
        InvalidAnswer: the answer breaks the schema; the reason holds the path and the rule, never the value.
    """

    decode: Callable[[str | bytes | Sequence[float]], Decoded]


@dataclass(frozen=True, slots=True)
class _Codec:
    """The two ways between an answer and its columns."""

    decode: Callable[[str | bytes | Sequence[float]], Decoded]
    arrays: Callable[[Sequence[Decoded | None]], list[Array]]


@dataclass(frozen=True, kw_only=True)
class OutputSchema:
    """The form of a job's answers; equal ones decode alike, and one made again by `from_json` is equal.

    Args:
        kind: what an answer is: a JSON object, free text, or a vector.
        name: for the provider's schema name, `[A-Za-z0-9_-]{1,64}`.
        json_schema: as the user gave it; None unless `kind` is "object".
        columns: one a top-level property, `prefix` + its name; all nullable, since a row may have no answer.
        unchecked: `path: keyword` of every rule of the schema that the decoder does not hold answers to.
    """

    kind: Literal["object", "text", "embedding"]
    name: str
    prefix: str
    json_schema: JsonSchema | None
    dimensions: int | None
    columns: pa.Schema
    unchecked: tuple[str, ...]
    _codec: _Codec = field(repr=False, compare=False)

    def decoder(self) -> Decoder:
        """The decoder; cheap to ask for, safe to share between threads."""
        return Decoder(self._codec.decode)

    def to_arrow(self, decoded: Sequence[Decoded | None]) -> pa.RecordBatch:
        """N x `columns`, in the order of `decoded`; nulls where it is None."""
        return pa.RecordBatch.from_arrays(self._codec.arrays(decoded), schema=self.columns)

    def strict_json_schema(self) -> JsonSchema:
        """The form OpenAI's strict mode needs: no extra properties, all required, no defaults, no `$ref` with siblings.

        Raises:
            SchemaError: there is none (a free-form map, an untyped value, a real `allOf`); ask with `json_schema`,
                without strict.
        """
        if self.json_schema is None:
            raise SchemaError(f"{self.name}: this output is {self.kind}, which has no JSON Schema. Nothing was sent.")
        return _Strict(self.json_schema, self.name).form(self.json_schema, "$")

    def to_json(self) -> dict[str, Any]:
        """JSON values that hold everything `from_json` needs, so that it can do without the user's Python class."""
        return {
            "kind": self.kind,
            "name": self.name,
            "prefix": self.prefix,
            "json_schema": self.json_schema,
            "dimensions": self.dimensions,
            "validators": [note for note in self.unchecked if note.startswith("validator ")],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "OutputSchema":
        """The equal of the schema whose `to_json` this is."""
        return _assemble(**data)

    def __reduce__(self) -> tuple[Any, ...]:
        return OutputSchema.from_json, (self.to_json(),)


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
            found = {"name": output_type.__name__, "json_schema": _schema_of(output_type), "validators": validators}
            return _assemble(**parts | {"kind": "object"} | found)
    raise SchemaError(
        f"output_type is {type(output_type).__name__}. Nothing was sent. "
        "Give a Pydantic model class, a JSON Schema (a dict), str, or Embedding(dimensions=...)."
    )


def _schema_of(model: type) -> JsonSchema:
    # Here, not above: a job with a JSON Schema, or a worker that rebuilds from a staging file, needs no pydantic.
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(model).json_schema()
    except PydanticUserError as error:
        raise SchemaError(f"{model.__name__} has no JSON Schema: {error.message} Nothing was sent.") from error


def _validators(model: type) -> list[str]:
    """Python validators are code, which a JSON Schema cannot carry: they are named as unchecked, not forgotten."""
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
) -> OutputSchema:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "answer"
    unchecked: list[str] = []
    match kind:
        case "text":
            columns, codec = pa.schema([(f"{prefix}answer", pa.string())]), _text_codec()
        case "embedding":
            assert dimensions is not None  # `output_schema` and `to_json` write both together
            vector = pa.list_(pa.float32(), dimensions)
            columns, codec = pa.schema([(f"{prefix}embedding", vector)]), _embedding_codec(dimensions)
        case "object":
            json_schema, compiled = _compiled(json_schema, name)
            columns = pa.schema([(prefix + column, node.arrow) for column, node in compiled.properties.items()])
            codec, unchecked = compiled.codec, compiled.unchecked
    return OutputSchema(
        kind=kind,
        name=name,
        prefix=prefix,
        json_schema=json_schema,
        dimensions=dimensions,
        columns=columns,
        unchecked=(*dict.fromkeys(unchecked), *validators),
        _codec=codec,
    )


def _compiled(schema: object, name: str) -> tuple[JsonSchema, "_Compiled"]:
    """A copy of `schema` that nobody else holds, and what it compiles to; what is wrong with it is a SchemaError."""
    try:
        copy: JsonSchema = msgspec.json.decode(msgspec.json.encode(schema))
        return copy, _Compiler(copy).compile()
    except SchemaError as error:
        raise SchemaError(f"{name}: {error} Nothing was sent.") from None
    except RecursionError:
        raise SchemaError(f"{name}: the JSON Schema is nested too deeply. Nothing was sent.") from None
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise SchemaError(f"{name}: not a JSON Schema that Keld can read ({error!r}). Nothing was sent.") from error


# ---- text and vectors


def _text_codec() -> _Codec:
    def decode(answer: str | bytes | Sequence[float]) -> str:
        if isinstance(answer, bytes):
            return _utf8(answer)
        if not isinstance(answer, str):
            raise InvalidAnswer("Expected text")
        try:
            answer.encode()  # a lone surrogate would fail later, in Arrow, and take the whole block with it
        except UnicodeError:
            raise InvalidAnswer("The text is not valid Unicode (a lone surrogate)") from None
        return answer

    return _Codec(decode, lambda decoded: [pa.array(decoded, type=pa.string())])


def _utf8(answer: bytes) -> str:
    try:
        return str(answer, "utf-8")
    except UnicodeError:
        raise InvalidAnswer("The text is not valid UTF-8") from None


def _embedding_codec(dimensions: int) -> _Codec:
    def decode(answer: str | bytes | Sequence[float]) -> np.ndarray[Any, Any]:
        vector = _vector(answer)
        if vector.shape != (dimensions,):
            raise InvalidAnswer(f"Expected a vector of {dimensions} numbers, got {vector.size}")
        if not np.isfinite(vector).all():
            raise InvalidAnswer("Expected finite float32 numbers, got infinity or not-a-number")
        return vector

    def arrays(decoded: Sequence[Decoded | None]) -> list[Array]:
        missing = np.fromiter((vector is None for vector in decoded), dtype=bool, count=len(decoded))
        values = np.zeros((len(decoded), dimensions), dtype=np.float32)
        for position, vector in enumerate(decoded):
            if vector is not None:
                values[position] = vector
        return [pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dimensions, mask=pa.array(missing))]

    return _Codec(decode, arrays)


_floats = msgspec.json.Decoder(list[float])


def _vector(answer: str | bytes | Sequence[float]) -> np.ndarray[Any, Any]:
    try:
        if isinstance(answer, (str, bytes)):
            text = (_utf8(answer) if isinstance(answer, bytes) else answer).strip()
            if not text.startswith("["):
                return np.frombuffer(base64.b64decode(text.strip('"'), validate=True), dtype="<f4")
            answer = _floats.decode(text)
        with np.errstate(over="ignore"):  # becomes infinite, which is refused above
            return np.array(answer, dtype=np.float32)
    except (msgspec.MsgspecError, binascii.Error, ValueError, TypeError):
        raise InvalidAnswer("Expected a vector: a list of numbers, or base64 of little-endian float32") from None


# ---- objects: a schema compiled to a tree of nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """One place of the schema.

    Args:
        wire: the msgspec type that parses and checks it.
        settle: what msgspec parsed -> the value, where a part of it is still `Raw`; raises InvalidAnswer.
        arrays: values (None where null) -> an array of `arrow`; None when `pa.array` can do it by itself.
        least: how many object members an accepted value has at least.
    """

    arrow: pa.DataType
    wire: Any
    settle: Callable[[Any], Any] | None = None
    arrays: Callable[[list[Any]], Array] | None = None
    least: int = 0

    def array(self, values: list[Any]) -> Array:
        return pa.array(values, type=self.arrow) if self.arrays is None else self.arrays(values)


@dataclass(frozen=True, slots=True)
class _Compiled:
    properties: dict[str, _Node]
    codec: _Codec
    unchecked: list[str]


class _Compiler:
    """A JSON Schema -> nodes.  Keeps what no node can: the root that `$ref` points into, the rules left unchecked."""

    def __init__(self, root: JsonSchema) -> None:
        self._root = root
        self._unchecked: list[str] = []
        self._definitions: dict[str, Reader] = {}  # of recursive `$ref`s: readers that the text columns call by name
        self._recursive: list[str] = []

    def compile(self) -> _Compiled:
        top = _inlined(self._root, self._root)
        if top.get("type", "object") != "object" or not top.get("properties"):
            raise SchemaError(
                "the top level must be an object with properties, which become the columns. "
                "Wrap the value: {'type': 'object', 'properties': {...}}."
            )
        refs = (self._root["$ref"],) if "$ref" in self._root else ()
        properties, root = self._struct(top, "$", refs)
        self._note(top, "object", "$")
        if top.get("additionalProperties", False) is not False:
            self._unchecked.append("$: additionalProperties (accepted, and dropped)")
        while self._recursive:
            ref = self._recursive.pop()
            if ref not in self._definitions:
                self._definitions[ref] = _read_nothing  # a place holder, so that the definition's own recursion ends
                self._definitions[ref] = _reader(self._node(_resolve(self._root, ref), ref, (ref,)), ref)
        columns = partial(_columns, tuple(properties.values()), _blank(root.wire))
        return _Compiled(properties, _Codec(_object_decoder(root), columns), self._unchecked)

    def _node(self, schema: Any, at: str, refs: tuple[str, ...]) -> _Node:
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise SchemaError(f"`{at}` is {schema!r}, which admits no value. Remove it.")
        if "$ref" in schema:
            return self._reference(schema, at, refs)
        if "const" in schema or "enum" in schema:
            return self._choice(schema, at)
        kinds = _kinds(schema)
        if not kinds:
            return self._untyped(schema, at, refs)
        some = [kind for kind in kinds if kind != "null"]
        if len(some) > 1:
            return self._either("anyOf", [{**schema, "type": kind} for kind in kinds], at, refs)
        node = self._of_kind(some[0], schema, at, refs) if some else _Node(arrow=pa.string(), wire=None)
        return _or_null(node) if some and "null" in kinds else node

    def _of_kind(self, kind: str, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> _Node:
        self._note(schema, kind, at)
        match kind:
            case "string":
                return self._string(schema, at)
            case "integer":
                return _Node(arrow=pa.int64(), wire=_ruled(int, _integer_rules(schema) | self._step(schema, at)))
            case "number":
                return _Node(arrow=pa.float64(), wire=_ruled(float, _float_rules(schema) | self._step(schema, at)))
            case "boolean":
                return _Node(arrow=pa.bool_(), wire=bool)
            case "array":
                return self._array(schema, at, refs)
            case "object":
                return self._object(schema, at, refs)
        raise SchemaError(f"`{at}` has the type {kind!r}, which JSON Schema does not know. Correct it.")

    def _note(self, schema: JsonSchema, kind: str, at: str) -> None:
        """Remembers rules that nothing here checks; one for another kind (`minimum` of a string) rules nothing."""
        rest = schema.keys() - _ANNOTATIONS - _CHECKED.get(kind, frozenset()) - _APPLIES_TO_SOME
        self._unchecked.extend(f"{at}: {keyword}" for keyword in sorted(rest))

    def _step(self, schema: JsonSchema, at: str) -> dict[str, Any]:
        step = schema.get("multipleOf")
        if step is None:
            return {}
        if step == int(step) and 0 < step <= _INT64[1]:
            return {"multiple_of": int(step)}
        self._unchecked.append(f"{at}: multipleOf")  # in binary floats 0.3 is no multiple of 0.1
        return {}

    def _string(self, schema: JsonSchema, at: str) -> _Node:
        pattern = schema.get("pattern")
        try:
            re.compile(pattern or "")
        except re.error:  # ECMA-262 has forms that Python's `re` lacks
            self._unchecked.append(f"{at}: pattern")
            pattern = None
        return _Node(arrow=pa.string(), wire=_ruled(str, _size_rules(schema, "Length") | {"pattern": pattern}))

    def _choice(self, schema: JsonSchema, at: str) -> _Node:
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        some = [value for value in values if value is not None]
        self._note({key: value for key, value in schema.items() if key not in ("const", "enum")}, "", at)
        if not some:
            return _Node(arrow=pa.string(), wire=None)
        if all(isinstance(value, str) for value in some):
            node = _Node(arrow=pa.string(), wire=Literal[tuple(some)])
        elif all(_is_integer(value) for value in some):
            node = _Node(arrow=pa.int64(), wire=Literal[tuple(int(value) for value in some)])
        else:
            node = self._loose_choice(some, at)
        nullable = len(some) < len(values) and ("type" not in schema or "null" in _kinds(schema))
        return _or_null(node) if nullable else node

    def _loose_choice(self, values: list[Any], at: str) -> _Node:
        """Booleans, floats and mixtures: msgspec has no Literal of them, so only the type is held."""
        if set(map(type, values)) == {bool}:
            if len(set(values)) == 1:
                self._unchecked.append(f"{at}: enum")
            return _Node(arrow=pa.bool_(), wire=bool)
        self._unchecked.append(f"{at}: enum")
        if all(type(value) in (int, float) for value in values):
            return _Node(arrow=pa.float64(), wire=float)
        return _json_text(_reader(_ANYTHING, at))

    def _untyped(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> _Node:
        keyword = next((keyword for keyword in ("anyOf", "oneOf", "allOf") if keyword in schema), None)
        rest = {key: value for key, value in schema.items() if key != keyword}
        if keyword == "allOf" and len(schema["allOf"]) == 1:
            return self._node({**schema["allOf"][0], **rest}, at, refs)
        self._unchecked.extend(f"{at}: {key}" for key in sorted(rest.keys() - _ANNOTATIONS))
        if keyword is None:
            return _json_text(_reader(_ANYTHING, at))
        return self._either(keyword, schema[keyword], at, refs)

    def _either(self, keyword: str, variants: list[Any], at: str, refs: tuple[str, ...]) -> _Node:
        some = [variant for variant in variants if not _is_null(variant)]
        nodes = [self._node(variant, at, refs) for variant in some]
        if not nodes:
            return _Node(arrow=pa.string(), wire=None)
        node = nodes[0] if len(nodes) == 1 else _union(keyword, nodes, at)
        return _or_null(node) if len(some) < len(variants) else node

    def _reference(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> _Node:
        ref = schema["$ref"]
        if ref not in refs:
            return self._node(_inlined(schema, self._root), at, (*refs, ref))
        self._recursive.append(ref)
        # No Arrow type contains itself: the inner one stays JSON text.  Its rules hold all the same, at any depth.
        return _json_text(lambda raw: self._definitions[ref](raw))  # noqa: PLW0108  # not compiled yet: look it up late

    def _array(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> _Node:
        size = _size_rules(schema, "Items")
        if "prefixItems" in schema:
            return self._tuple(schema, at, refs)
        if schema.get("items", True) is True:
            return _json_text(_reader(_Node(arrow=pa.string(), wire=_ruled(list[Any], size)), at))
        item = self._node(schema["items"], f"{at}[...]", refs)
        return _Node(
            arrow=pa.list_(item.arrow),
            wire=_ruled(GenericAlias(list, (item.wire,)), size),
            settle=None if item.settle is None else partial(_settled_items, item.settle),
            arrays=None if item.arrays is None else partial(_list_array, item),
        )

    def _tuple(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> _Node:
        items = [self._node(item, f"{at}[{index}]", refs) for index, item in enumerate(schema["prefixItems"])]
        fixed = schema.get("minItems") == schema.get("maxItems") == len(items)
        if not fixed or any(item.settle is not None for item in items):
            self._unchecked.append(f"{at}: prefixItems")
            return _json_text(_reader(_Node(arrow=pa.string(), wire=list[Any]), at))
        node = _Node(arrow=pa.list_(items[0].arrow), wire=GenericAlias(tuple, tuple(item.wire for item in items)))
        alike = all(item.arrow == items[0].arrow and item.arrays is None for item in items)
        return node if alike else _json_text(_reader(node, at))

    def _object(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> _Node:
        extra = schema.get("additionalProperties", {})
        if not schema.get("properties") and extra is not False:
            return self._map(schema, extra, at, refs)
        self._unchecked.extend(f"{at}: {key}" for key in ("minProperties", "maxProperties") if key in schema)
        properties, node = self._struct(schema, at, refs)
        if "additionalProperties" not in schema or extra is False:
            return node if properties else _json_text(_reader(node, at))  # Parquet knows no struct without fields
        self._unchecked.extend([f"{at}: additionalProperties"] if extra is not True else [])
        return _json_text(_reader(node, at))  # what comes beside the properties has no column: keep the whole text

    def _map(self, schema: JsonSchema, extra: Any, at: str, refs: tuple[str, ...]) -> _Node:
        self._unchecked.extend([f"{at}: required"] if schema.get("required") else [])
        value = self._node(extra, f"{at}[...]", refs)
        wire = _ruled(GenericAlias(dict, (str, value.wire)), _size_rules(schema, "Properties"))
        settle = None if value.settle is None else partial(_settled_values, value.settle)
        return _json_text(_reader(_Node(arrow=pa.string(), wire=wire, settle=settle), at))

    def _struct(self, schema: JsonSchema, at: str, refs: tuple[str, ...]) -> tuple[dict[str, _Node], _Node]:
        required = frozenset(schema.get("required", ()))
        children = schema.get("properties", {})
        properties = {name: self._node(child, f"{at}.{name}", refs) for name, child in children.items()}
        self._unchecked.extend(f"{at}: required {name}" for name in sorted(required - properties.keys()))
        # A default is not checked, so that an optional one may be absent (None) but not null.
        fields = [
            (f"f{index}", node.wire, msgspec.field(name=name, **({} if name in required else {"default": None})))
            for index, (name, node) in enumerate(properties.items())
        ]
        closed = schema.get("additionalProperties") is False
        # JSON is a tree: the garbage collector has nothing to find among its structs.
        wire = msgspec.defstruct("Answer", fields, kw_only=True, gc=False, forbid_unknown_fields=closed)
        settles = [(f"f{index}", node.settle) for index, node in enumerate(properties.values()) if node.settle]
        node = _Node(
            arrow=pa.struct([(name, node.arrow) for name, node in properties.items()]),
            wire=wire,
            settle=partial(_settled_fields, settles) if settles else None,
            arrays=partial(_struct_array, properties, _blank(wire)),
            least=sum(1 + node.least for name, node in properties.items() if name in required),
        )
        return properties, node


def _kinds(schema: JsonSchema) -> list[str]:
    kind = schema.get("type")
    if kind is not None:
        return [kind] if isinstance(kind, str) else list(kind)
    if "properties" in schema:
        return ["object"]
    return ["array"] if "items" in schema or "prefixItems" in schema else []


def _is_integer(value: Any) -> bool:
    return type(value) in (int, float) and value == int(value) and _INT64[0] <= value <= _INT64[1]


def _is_null(variant: Any) -> bool:
    return isinstance(variant, dict) and (variant.get("type") == "null" or variant.get("const", 0) is None)


def _ruled(kind: Any, rules: dict[str, Any]) -> Any:
    return Annotated[kind, msgspec.Meta(**rules)]


def _size_rules(schema: JsonSchema, of: str) -> dict[str, Any]:
    return {"min_length": schema.get(f"min{of}"), "max_length": schema.get(f"max{of}")}


def _integer_rules(schema: JsonSchema) -> dict[str, Any]:
    """Bounds as msgspec takes them for integers: inclusive, whole, and never outside of int64, the column's type."""
    low = [_INT64[0], math.ceil(schema.get("minimum", _INT64[0]))]
    high = [_INT64[1], math.floor(schema.get("maximum", _INT64[1]))]
    if "exclusiveMinimum" in schema:
        low.append(math.floor(schema["exclusiveMinimum"]) + 1)
    if "exclusiveMaximum" in schema:
        high.append(math.ceil(schema["exclusiveMaximum"]) - 1)
    return {"ge": min(max(low), _INT64[1]), "le": max(min(high), _INT64[0])}


def _float_rules(schema: JsonSchema) -> dict[str, Any]:
    """msgspec takes one bound a side: of two the tighter."""
    rules: dict[str, Any] = {}
    above, at_least = schema.get("exclusiveMinimum"), schema.get("minimum")
    if above is not None and (at_least is None or above >= at_least):
        rules["gt"] = above
    elif at_least is not None:
        rules["ge"] = at_least
    below, at_most = schema.get("exclusiveMaximum"), schema.get("maximum")
    if below is not None and (at_most is None or below <= at_most):
        rules["lt"] = below
    elif at_most is not None:
        rules["le"] = at_most
    return rules


def _resolve(root: JsonSchema, ref: str) -> JsonSchema:
    if ref != "#" and not ref.startswith("#/"):
        raise SchemaError(f"the $ref {ref!r} points outside of the schema. Put the definition under $defs.")
    found: Any = root
    for part in ref.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if part not in found:
            raise SchemaError(f"the $ref {ref!r} points to nothing. Put the definition under $defs.")
        found = found[part]
    return found if isinstance(found, dict) else {}


def _inlined(schema: JsonSchema, root: JsonSchema) -> JsonSchema:
    """`schema` with its `$ref`, if any, replaced by what it points to; the keys beside it win, as in openai's SDK."""
    seen: set[str] = set()
    while "$ref" in schema:
        ref = schema["$ref"]
        if ref in seen:
            raise SchemaError(f"the $ref {ref!r} leads back to itself.")
        seen.add(ref)
        schema = {**_resolve(root, ref), **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


# ---- nodes that msgspec alone cannot check

_ANYTHING = _Node(arrow=pa.string(), wire=Any)


def _read_nothing(text: str | bytes) -> None:
    raise AssertionError("read before it was compiled")


def _json_text(check: Reader) -> _Node:
    """A string column that holds the JSON text, once `check` has accepted it; JSON's null is null."""

    def settle(raw: Any) -> str | None:
        document = bytes(raw)
        check(document)
        return None if document == b"null" else document.decode()

    return _Node(arrow=pa.string(), wire=msgspec.Raw, settle=settle)


def _union(keyword: str, nodes: list[_Node], at: str) -> _Node:
    """Variants of one Arrow type share it (integer and number are float64); others become JSON text."""
    readers = [_reader(node, at) for node in nodes]
    common = _common_type([node.arrow for node in nodes if node.wire is not msgspec.Raw], len(nodes))

    def settle(raw: Any) -> Any:
        document = bytes(raw)
        values = [value for reader in readers for value in _accepted(reader, document)]
        wanted = {"anyOf": max(len(values), 1), "oneOf": 1, "allOf": len(readers)}[keyword]
        if len(values) != wanted:
            raise InvalidAnswer(f"Matches {len(values)} of the {len(readers)} variants of {keyword} - at `{at}`")
        if common is None:
            return None if document == b"null" else document.decode()
        return float(values[0]) if common == pa.float64() and values[0] is not None else values[0]

    if common is None:
        return _Node(arrow=pa.string(), wire=msgspec.Raw, settle=settle)
    return _Node(arrow=common, wire=msgspec.Raw, settle=settle, arrays=nodes[0].arrays)


def _common_type(types: list[pa.DataType], variants: int) -> pa.DataType | None:
    if len(types) < variants:
        return None
    if all(kind == types[0] for kind in types):
        return types[0]
    return pa.float64() if all(kind in (pa.int64(), pa.float64()) for kind in types) else None


def _accepted(reader: Reader, document: bytes) -> Iterator[Any]:
    try:
        yield reader(document)
    except InvalidAnswer:
        return


def _or_null(node: _Node) -> _Node:
    if node.wire is None:
        return node
    if node.wire is not msgspec.Raw:  # by itself Raw accepts null, and in an Optional msgspec reads it as nothing else
        return replace(node, wire=node.wire | None, least=0)
    settle = node.settle
    return replace(node, settle=lambda raw: None if settle is None or bytes(raw) == b"null" else settle(raw))


def _settled_fields(settles: list[tuple[str, Callable[[Any], Any]]], value: Any) -> Any:
    for name, settle in settles:
        part = getattr(value, name)
        if part is not None:
            setattr(value, name, settle(part))
    return value


def _settled_items(settle: Callable[[Any], Any], values: list[Any]) -> list[Any]:
    return [None if value is None else settle(value) for value in values]


def _settled_values(settle: Callable[[Any], Any], values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value is None else settle(value) for key, value in values.items()}


# ---- values -> arrays


def _blank(struct: Any) -> Any:
    return struct(**dict.fromkeys(struct.__struct_fields__))


def _columns(nodes: tuple[_Node, ...], blank: Any, values: Sequence[Any | None]) -> list[Array]:
    rows = [blank if value is None else value for value in values]
    return [node.array(list(map(attrgetter(f"f{index}"), rows))) for index, node in enumerate(nodes)]


def _struct_array(properties: dict[str, _Node], blank: Any, values: list[Any]) -> Array:
    fields = [pa.field(name, node.arrow) for name, node in properties.items()]
    missing = pa.array([value is None for value in values], type=pa.bool_())
    return pa.StructArray.from_arrays(_columns(tuple(properties.values()), blank, values), fields=fields, mask=missing)


def _list_array(item: _Node, values: list[Any]) -> Array:
    offsets = accumulate((0 if value is None else len(value) for value in values), initial=0)
    flat = item.array([part for value in values if value is not None for part in value])
    missing = pa.array([value is None for value in values], type=pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), flat, type=pa.list_(item.arrow), mask=missing)


# ---- reading a document


def _object_decoder(root: _Node) -> Callable[[str | bytes | Sequence[float]], Decoded]:
    # The good answer's way is written out, without the calls below: it is taken by nearly every row.
    parse, settle, least = msgspec.json.Decoder(root.wire).decode, root.settle, root.least
    read = _reader(root, "$")

    def decode(answer: str | bytes | Sequence[float]) -> Decoded:
        if isinstance(answer, bytes):
            answer = _utf8(answer)
        if not isinstance(answer, str):
            raise InvalidAnswer("Expected text that holds a JSON object")
        try:
            try:
                value = parse(answer)
            except (msgspec.MsgspecError, UnicodeError):
                value = None
            if value is None:
                value = _read_plain_or_fenced(read, answer)
            elif settle is not None:
                value = settle(value)
            # As many colons as members there must be: no key twice.  Only when that cheap proof fails, look closely.
            if answer.count(":") != least and _repeats_a_key(answer, least):
                raise InvalidAnswer("An object has a key twice, so that what it says is open")
        except RecursionError:
            raise InvalidAnswer("The JSON is nested too deeply") from None
        return value

    return decode


def _read_plain_or_fenced(read: Reader, answer: str) -> Decoded:
    # Models without structured output wrap the document in a ```json block.  Nothing cleverer than this is tried.
    fenced = _FENCE.fullmatch(answer)
    return read(fenced[1] if fenced else answer)


def _repeats_a_key(answer: str, least: int) -> bool:
    if len(_KEY_END.findall(answer)) <= least:  # every member has one; prose with colons seldom has any
        return False
    repeated = False

    def look(members: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len(dict(members)) < len(members)

    fenced = _FENCE.fullmatch(answer)
    document = fenced[1] if fenced else answer
    # Numbers do not matter here, and Python refuses to make an int of more than 4,300 digits: only a length is taken.
    json.loads(document, object_pairs_hook=look, parse_int=len, parse_float=len, strict=False)
    return repeated


def _reader(node: _Node, at: str) -> Reader:
    """Reads a whole document as `node`; raises InvalidAnswer, its path under `at`, or RecursionError; nothing else."""
    decode = msgspec.json.Decoder(node.wire).decode
    settle = node.settle

    def read(text: str | bytes) -> Any:
        # `from None`, everywhere: msgspec's own message may quote the answer, and a traceback would print it.
        try:
            value = decode(text)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise InvalidAnswer(_reason(str(error), at)) from None
            value = _read_integral(decode, text, at)
        except (msgspec.DecodeError, UnicodeError):
            raise InvalidAnswer(f"Not valid JSON, or cut off - at `{at}`") from None
        return value if settle is None or value is None else settle(value)

    return read


def _read_integral(decode: Reader, text: str | bytes, at: str) -> Any:
    """A second chance for `3.0` where an integer is due: JSON Schema calls it one, msgspec does not."""
    try:
        return decode(msgspec.json.encode(_integral(msgspec.json.decode(text))))
    except msgspec.ValidationError as error:
        raise InvalidAnswer(_reason(str(error), at)) from None
    except (msgspec.MsgspecError, OverflowError, UnicodeError):
        raise InvalidAnswer(f"Integer value out of range - at `{at}`") from None


def _integral(value: Any) -> Any:
    match value:
        case float() if abs(value) < 2**63 and value == int(value):
            return int(value)
        case list():
            return [_integral(item) for item in value]
        case dict():
            return {key: _integral(item) for key, item in value.items()}
    return value


_SAYS_NO_VALUE = ("Expected `", "Object missing required field `", "Number out of range", "Integer value out of range")
# A quoted value could pose as a path: one that holds a backtick is reported without.
_NOT_ALLOWED = re.compile(r"Invalid enum value (?:'[^`]*'|-?\d+) - at `\$([^`]*)`", re.DOTALL)


def _reason(message: str, at: str) -> str:
    """msgspec's message without what the answer said, its path put under `at`."""
    if message.startswith(_SAYS_NO_VALUE):
        rule, _, path = message.rpartition(" - at `$")
        return f"{rule} - at `{at}{path}" if rule else f"{message} - at `{at}`"
    if message.startswith("Invalid enum value"):
        found = _NOT_ALLOWED.fullmatch(message)
        return f"Not one of the allowed values - at `{at}{found[1]}`" if found else f"Not an allowed value - below `{at}`"
    if message.startswith("Object contains unknown field"):
        return f"A field the schema does not have - below `{at}`"
    return f"Does not fit the schema - below `{at}`"


# ---- OpenAI's strict form

# Refused with a 400: https://developers.openai.com/api/docs/guides/structured-outputs, and for `uniqueItems`
# github.com/mastra-ai/mastra/issues/23321 (2026-11-21).  Without them less is asked; the decoder checks as before.
_STRICT_DROPS = frozenset(
    ("default", "discriminator", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
).union(("unevaluatedProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties"))


@dataclass(frozen=True, slots=True)
class _Strict:
    """Walks a schema as `openai.lib._pydantic.to_strict_json_schema` does, but makes a new one, changing nothing."""

    root: JsonSchema
    name: str

    def form(self, schema: Any, at: str, refs: tuple[str, ...] = ()) -> JsonSchema:
        if not isinstance(schema, dict):
            raise self._none(at, "an untyped value")
        if "$ref" in schema:
            ref = schema["$ref"]
            if len(schema) == 1 or ref in refs:  # what stands beside a recursive one is only a description
                return {"$ref": ref}
            return self.form(_inlined(schema, self.root), at, (*refs, ref))
        if len(schema.get("allOf", ())) == 1:
            rest = {key: value for key, value in schema.items() if key != "allOf"}
            return self.form({**schema["allOf"][0], **rest}, at, refs)
        self._refuse(schema, at)
        kept = {key: self._part(key, value, at, refs) for key, value in schema.items() if key not in _STRICT_DROPS}
        strict = {"anyOf" if key == "oneOf" else key: part for key, part in kept.items()}
        if "properties" in schema or schema.get("type") == "object":
            strict |= {"additionalProperties": False, "required": list(schema.get("properties", ()))}
        return strict

    def _part(self, key: str, value: Any, at: str, refs: tuple[str, ...]) -> Any:
        match key:
            case "properties":
                return {name: self.form(child, f"{at}.{name}", refs) for name, child in value.items()}
            case "$defs" | "definitions":
                places = {name: f"#/{key}/{name}" for name in value}
                return {name: self.form(child, places[name], (*refs, places[name])) for name, child in value.items()}
            case "items":
                return self.form(value, f"{at}[...]", refs)
            case "anyOf" | "oneOf":
                return [self.form(variant, at, refs) for variant in value]
        return msgspec.json.decode(msgspec.json.encode(value))

    def _refuse(self, schema: JsonSchema, at: str) -> None:
        if "allOf" in schema or "not" in schema or "if" in schema or "prefixItems" in schema:
            raise self._none(at, "allOf, not, if or prefixItems")
        if not schema.keys() & {"type", "enum", "const", "anyOf", "oneOf", "properties"}:
            raise self._none(at, "an untyped value")
        closed = schema.get("properties") or schema.get("additionalProperties") is False
        if schema.get("type") == "object" and not closed:
            raise self._none(at, "a map with free keys")

    def _none(self, at: str, what: str) -> SchemaError:
        return SchemaError(
            f"{self.name}: {what} (at `{at}`) has no form in OpenAI's strict mode. Nothing was sent. "
            "Use typed properties (a list of {key, value} objects for a map), or ask without strict."
        )
