"""Subset: a JSON Schema -> the form of it that a service takes if it enforces the schema.

The rules of each service are data beside its dialect (`providers/dialects/`); this is the one tree walk that applies them.  A rule that a
service does not take is left out of what is sent, written for the model into the description, and checked by the decoder as before: what is
sent may ask for less than the schema, never for something else.  If no such form exists, the SchemaError names the field.  The user's schema
is not changed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import msgspec

from keld.errors import SchemaError
from keld.schema.node import JsonSchema
from keld.schema.reference import inlined, is_null, kinds_of, merged, resolve
from keld.schema.variant import decimal_of

# Keywords that say nothing about a value, or that are handled elsewhere.
_SILENT = frozenset(
    ("type", "properties", "required", "additionalProperties", "items", "enum", "const", "title", "description", "$defs", "definitions"),
).union(("discriminator", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id", "$ref"))
_CONTAINERS = ("object", "array")
_DEFINITIONS = ("$defs", "definitions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """What one service takes of JSON Schema; by default very little: types, enums, `anyOf`, objects whose properties are all required.

    Args:
        whose: for messages: "<whose> does not take ...".
        rules: by type, the keywords that it takes; of `format`, `pattern` and `minItems` only some values, see below.
        formats: the values of `format` that it takes.
        pattern: True if it takes a `pattern`.
        most_min_items: the largest `minItems` that it takes; None: any.
        all_required: every property must be `required`.
        typed_literals: `enum` and `const` are written beside a type, with values of one type; else they are written alone.
        type_lists: it takes a list of types.
        recursion: it takes a `$ref` that leads back to itself.
        first_keys_differ: the objects of an `anyOf` must not begin with the same key, unless each has another single value for it.
        levels, properties, characters, values, long_enum: the largest sizes it takes; None: not known.
            `long_enum` is (values, characters): an enum of more values may have at most this many characters in total.
        optional: the largest number of optional properties that it takes; if there are more, all of them become required.
        unions: the largest number of `anyOf` and lists of types that it takes.
    """

    whose: str = "a strict mode"
    rules: Mapping[str, frozenset[str]] = field(default_factory=dict)
    formats: frozenset[str] = frozenset()
    pattern: Callable[[str], bool] = field(default=lambda pattern: False)
    most_min_items: int | None = None
    all_required: bool = True
    typed_literals: bool = True
    type_lists: bool = False
    recursion: bool = False
    first_keys_differ: bool = True
    levels: int | None = None
    properties: int | None = None
    characters: int | None = None
    values: int | None = None
    long_enum: tuple[int, int] | None = None
    optional: int | None = None
    unions: int | None = None

    def form(self, schema: JsonSchema) -> JsonSchema:
        """The form of a schema that the service takes.

        Raises:
            SchemaError: there is none; names the field and the reason.
        """
        form = _Walk(self, schema).root()
        sizes = _Sizes(form)
        if self.optional is not None and sizes.optional > self.optional:
            form = _Walk(replace(self, all_required=True), schema).root()
            sizes = _Sizes(form)
        for count, most, what in (
            (sizes.levels, self.levels, "levels of nesting"),
            (sizes.properties, self.properties, "properties"),
            (sizes.values, self.values, "enum values"),
            (sizes.characters, self.characters, "characters of names and enum values"),
        ):
            if most is not None and count > most:
                raise SchemaError(f"The output schema has {count:,} {what}, and {self.whose} takes {most:,} at most.")
        if self.unions is not None and len(sizes.unions) > self.unions:
            named = ", ".join(f"`{at}`" for at in sizes.unions[:3])
            raise SchemaError(
                f"{len(sizes.unions)} fields may be null or of several types ({named}, ...), and {self.whose} takes {self.unions} such at most."
            )
        return form


@dataclass(frozen=True, slots=True)
class _Walk:
    takes: Subset
    schema: JsonSchema
    checked: set[str] = field(default_factory=set)  # definitions that a field refers to and that have a form

    def root(self) -> JsonSchema:
        """The form of the whole schema; a `$ref` at the top is replaced by its target, since no service takes one there."""
        top = inlined(self.schema, self.schema)
        refs = (self.schema["$ref"],) if "$ref" in self.schema else ()
        form = self.form({key: part for key, part in top.items() if key not in _DEFINITIONS}, "$", refs)
        for group in _DEFINITIONS:
            places = {name: f"#/{group}/{name}" for name in self.schema.get(group, ())}
            used = [name for name, place in places.items() if self._is_used(form, place, set())]
            if used:
                form |= {group: {name: self.form(self.schema[group][name], places[name], (places[name],)) for name in used}}
        return form

    def _is_used(self, node: Any, ref: str, seen: set[str]) -> bool:
        """True if `node`, or a definition that it refers to, refers to a definition."""
        for found in references(node):
            if found == ref:
                return True
            if found not in seen:
                seen.add(found)
                if self._is_used(resolve(self.schema, found), ref, seen):
                    return True
        return False

    def form(self, node: Any, at: str, refs: tuple[str, ...] = ()) -> JsonSchema:
        if not isinstance(node, dict):
            raise self._refused(at, "has no type", "Give it one.")
        if "$ref" in node:
            return self._reference(node, at, refs)
        if "allOf" in node:
            return self.form(merged(node, self.schema), at, refs)
        if "const" in node or "enum" in node:
            return self._literals(node, at)
        kinds = kinds_of(node)
        if kinds:
            return self._typed(node, kinds, at, refs)
        keyword = "anyOf" if "anyOf" in node else "oneOf"
        if keyword in node:
            return self._variants(node, keyword, at, refs)
        raise self._refused(at, "has no type", "Give it one.")

    def _reference(self, node: JsonSchema, at: str, refs: tuple[str, ...]) -> JsonSchema:
        ref = node["$ref"]
        if ref in refs or self._leads_back(ref):
            if not self.takes.recursion:
                raise self._refused(at, "refers to itself", "Write out as many levels as are needed.")
            return {"$ref": ref}  # keywords beside it are only a description
        if len(node) > 1 or not ref.startswith(("#/$defs/", "#/definitions/")):
            return self.form(inlined(node, self.schema), at, (*refs, ref))
        if ref not in self.checked:
            self.form(resolve(self.schema, ref), at, (*refs, ref))  # here, so that an error names the field, not the definition
            self.checked.add(ref)
        return {"$ref": ref}

    def _leads_back(self, ref: str) -> bool:
        return self._is_used(resolve(self.schema, ref), ref, set())

    def _literals(self, node: JsonSchema, at: str) -> JsonSchema:
        values = [node["const"]] if "const" in node else list(node["enum"])
        if any(isinstance(value, dict | list) for value in values):
            raise self._refused(at, "has an enum of objects or lists", "Use texts or numbers.")
        if "type" in node and None in values and "null" not in kinds_of(node):
            values = [value for value in values if value is not None]
        described = self._described(node, ("const", "enum"))
        kinds = list(dict.fromkeys(map(_kind, values)))
        kinds = ["number" if kind == "integer" and "number" in kinds else kind for kind in kinds]
        some = [kind for kind in dict.fromkeys(kinds) if kind != "null"]
        if self.takes.long_enum is not None:
            self._check_long(values, *self.takes.long_enum, at)
        same = {"const": values[0]} if "const" in node else {"enum": values}
        if not self.takes.typed_literals:
            return same | described
        if len(some) > 1:
            each = [{"type": kind, "enum": [value for value in values if _is(value, kind)]} for kind in dict.fromkeys(kinds)]
            return {"anyOf": each} | described
        return {"type": kinds[0] if len(set(kinds)) == 1 else [*some, "null"]} | same | described

    def _check_long(self, values: list[Any], most: int, most_characters: int, at: str) -> None:
        texts = [value for value in values if isinstance(value, str)]
        size = sum(map(len, texts))
        if len(texts) > most and size > most_characters:
            raise self._refused(at, f"has an enum of {len(texts):,} values with {size:,} characters", f"It takes {most_characters:,}.")

    def _typed(self, node: JsonSchema, kinds: list[str], at: str, refs: tuple[str, ...]) -> JsonSchema:
        if len(kinds) > 1 and (not self.takes.type_lists or set(kinds) & set(_CONTAINERS)):
            bare = {key: part for key, part in node.items() if key not in ("title", "description")}
            parts = [self._typed({**bare, "type": kind}, [kind], at, refs) for kind in kinds]
            return {"anyOf": parts} | self._annotations(node)
        form: JsonSchema = {"type": kinds[0] if len(kinds) == 1 else kinds}
        taken = frozenset[str]().union(*(self.takes.rules.get(kind, frozenset()) for kind in kinds))
        form |= {key: part for key, part in node.items() if key in taken and self._takes(key, part)}
        if "object" in kinds:
            form |= self._object(node, at, refs)
        if "array" in kinds:
            form |= self._array(node, at, refs)
        return form | self._described(node, {*form, *(("prefixItems",) if len(_kinds_of_items(node)) == 1 else ())})

    def _takes(self, key: str, value: Any) -> bool:
        match key:
            case "format":
                return value in self.takes.formats
            case "pattern":
                return self.takes.pattern(value)
            case "minItems":
                return self.takes.most_min_items is None or value <= self.takes.most_min_items
        return True

    def _object(self, node: JsonSchema, at: str, refs: tuple[str, ...]) -> JsonSchema:
        properties = node.get("properties") or {}
        if not properties and node.get("additionalProperties") is not False:
            raise self._refused(at, "is a map with free keys", "Use a list of {key, value} objects for it.")
        forms = {name: self.form(child, f"{at}.{name}", refs) for name, child in properties.items()}
        if self.takes.first_keys_differ:  # so that tagged objects begin with their tag key
            forms = dict(sorted(forms.items(), key=lambda item: _only_value(item[1]) is None))
        required = list(forms) if self.takes.all_required else [name for name in node.get("required", ()) if name in forms]
        return {"properties": forms, "required": required, "additionalProperties": False}

    def _array(self, node: JsonSchema, at: str, refs: tuple[str, ...]) -> JsonSchema:
        items = [item for item in _kinds_of_items(node) if item is not False]
        if not items or items[-1] in (True, {}):
            raise self._refused(at, "is a list of anything", "Give its items a type.")
        # The order of a tuple is written into the description, and checked by the decoder.
        return {"items": self.form(items[0] if len(items) == 1 else {"anyOf": items}, f"{at}[...]", refs)}

    def _variants(self, node: JsonSchema, keyword: str, at: str, refs: tuple[str, ...]) -> JsonSchema:
        variants = list(node[keyword])
        number = decimal_of(variants)
        if number is not None:  # one of the two forms that Pydantic takes; as a JSON text a number keeps all its digits
            variants = [number, *filter(is_null, variants)]
        forms = [self.form(variant, at, refs) for variant in variants]
        if self.takes.first_keys_differ and self._clash(forms):
            forms = self._with_distinct_keys([self.form(inlined(variant, self.schema), at, refs) for variant in variants], at)
        described = self._described(node, (keyword,))
        return forms[0] | described if len(forms) == 1 and "$ref" not in forms[0] else {"anyOf": forms} | described

    def _clash(self, forms: list[JsonSchema]) -> bool:
        """True if two of the objects begin with the same key and the same values are possible for it."""
        first = [next(iter(properties.items())) for form in forms if (properties := self._properties(form))]
        keys = [(key, _only_value(form)) for key, form in first]
        return any(one == other or (one[0] == other[0] and None in (one[1], other[1])) for one, other in combinations(keys, 2))

    def _properties(self, form: JsonSchema) -> JsonSchema:
        found = self.form(resolve(self.schema, form["$ref"]), form["$ref"], (form["$ref"],)) if "$ref" in form else form
        properties: JsonSchema = found.get("properties", {})
        return properties

    def _with_distinct_keys(self, forms: list[JsonSchema], at: str) -> list[JsonSchema]:
        """The same forms, each object beginning with a key that distinguishes it."""
        made = []
        for form in forms:
            others = {name for other in forms if other is not form for name in other.get("properties", ())}
            own = sorted(form.get("properties", ()), key=lambda name: name in others)
            made.append(form | {"properties": {name: form["properties"][name] for name in own}} if own else form)
        if self._clash(made):
            raise self._refused(
                at, "has alternatives that cannot be distinguished by their first key", "Give each a Literal field with a value of its own."
            )
        return made

    def _annotations(self, node: JsonSchema) -> JsonSchema:
        return {key: node[key] for key in ("title", "description") if key in node}

    def _described(self, node: JsonSchema, said: Collection[str]) -> JsonSchema:
        """Title and description, with the rules that no keyword of the form expresses."""
        silent = _SILENT | {"default"} if self.takes.all_required else _SILENT
        if "prefixItems" in node and "prefixItems" not in said:
            silent -= {"items"}  # those after the first ones
            said = set(said) - {"items"}
        unexpressed = {key: part for key, part in node.items() if key not in said and key not in silent}
        unexpressed = {key: part for key, part in unexpressed.items() if not key.startswith("x-")}
        found = self._annotations(node)
        if not unexpressed:
            return found
        described = "{" + ", ".join(f"{key}: {msgspec.json.encode(part).decode()}" for key, part in unexpressed.items()) + "}"
        return found | {"description": f"{found['description']}\n\n{described}" if "description" in found else described}

    def _refused(self, at: str, what: str, advice: str) -> SchemaError:
        return SchemaError(f"`{at}` {what}, which {self.takes.whose} does not take. {advice}", at=at)


class _Sizes:
    """The counts, in a form, of everything that a service limits.

    A definition's properties count once, but for the levels it is followed from every place that refers to it.
    """

    def __init__(self, form: JsonSchema) -> None:
        self._form = form
        self.levels = self.properties = self.values = self.characters = self.optional = 0
        self.unions: list[str] = []
        self._followed: dict[str, int] = {}  # the deepest level at which each `$ref` was followed
        self._count(form, "$", 0, ())
        for group in _DEFINITIONS:
            for name, node in form.get(group, {}).items():
                self.characters += len(name)
                self._count(node, name, 0, (f"#/{group}/{name}",))

    def _count(self, node: JsonSchema, at: str, level: int, refs: tuple[str, ...]) -> None:
        self._deep(node, level, refs)
        for path, part in _parts(node, at):
            properties = part.get("properties", {})
            self.properties += len(properties)
            self.optional += len(properties.keys() - set(part.get("required", ())))
            self.values += len(part.get("enum", ()))
            literals = [*part.get("enum", ()), part.get("const")]
            self.characters += sum(map(len, properties)) + sum(len(value) for value in literals if isinstance(value, str))
            self.unions += [path] if "anyOf" in part or isinstance(part.get("type"), list) else []

    def _deep(self, node: JsonSchema, level: int, refs: tuple[str, ...]) -> None:
        self.levels = max(self.levels, level)
        ref = node.get("$ref")
        if ref is not None and ref not in refs and self._followed.get(ref, -1) < level:
            self._followed[ref] = level
            self._deep(resolve(self._form, ref), level, (*refs, ref))
        for child in [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]:
            self._deep(child, level + 1, refs)
        for variant in node.get("anyOf", ()):
            self._deep(variant, level, refs)


def _kinds_of_items(node: JsonSchema) -> list[Any]:
    """The schemas that an array's items may have, each once: of the first ones, then of those after them, if there may be any.

    False: there are none after the first ones.
    """
    first = node.get("prefixItems", [])
    after = [node.get("items", True)] if node.get("maxItems", len(first) + 1) > len(first) else []
    return list({msgspec.json.encode(item): item for item in [*first, *after]}.values())


def _parts(node: JsonSchema, at: str) -> Iterator[tuple[str, JsonSchema]]:
    """A form and all its parts but definitions, each with its path."""
    yield at, node
    for name, child in node.get("properties", {}).items():
        yield from _parts(child, f"{at}.{name}")
    if "items" in node:
        yield from _parts(node["items"], f"{at}[...]")
    for variant in node.get("anyOf", ()):
        yield from _parts(variant, at)


def references(node: Any) -> Iterator[str]:
    """Every `$ref` in a part of a schema, without those in definitions."""
    if isinstance(node, list):
        for part in node:
            yield from references(part)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for key, part in node.items():
            if key not in _DEFINITIONS:
                yield from references(part)


def _only_value(form: JsonSchema) -> bytes | None:
    values = [form["const"]] if "const" in form else form.get("enum", ())
    return msgspec.json.encode(values[0]) if len(values) == 1 else None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
    return "string"


def _is(value: Any, kind: str) -> bool:
    return _kind(value) == kind or (kind == "number" and _kind(value) == "integer")
