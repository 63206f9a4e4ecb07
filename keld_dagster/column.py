"""Column: the columns of a result as Dagster's UI shows them: their types, descriptions and rules, and the columns they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from keld import Job, answer_columns

if TYPE_CHECKING:
    import pyarrow as pa

_OURS = {
    "keld_outcome": "answered, or the reason why not, in a word",
    "keld_error": "the error, if there is no answer",
    "keld_model": "the model that was asked",
    "keld_lane": "the lane in which it was asked: batch, flex or standard",
    "keld_cost_usd": "the cost of the row in US dollars, all attempts together",
}
_PLAIN = {"string": "string", "large_string": "string", "string_view": "string", "double": "float64", "float": "float32", "bool": "boolean"}


def column_metadata(job: Job, source: dg.AssetKey | None, schema: pa.Schema) -> dict[str, Any]:
    """The schema of a result, and its lineage from the source asset, if the source is one."""
    found: dict[str, Any] = {"dagster/column_schema": _table_schema(job, schema)}
    if source is not None:
        found["dagster/column_lineage"] = _lineage(job, source, schema)
    return found


def _table_schema(job: Job, schema: pa.Schema) -> dg.TableSchema:
    answers = {column.name: column for column in answer_columns(job.output_type, job.output_prefix)}
    columns = []
    for field in schema:
        answer = answers.get(field.name)
        constraints = dg.TableColumnConstraints(
            nullable=field.name != job.key, unique=field.name == job.key, other=list(answer.rules) if answer is not None else None
        )
        description = answer.description if answer is not None else _OURS.get(field.name)
        columns.append(dg.TableColumn(field.name, type_name(field.type), description=description, constraints=constraints))
    return dg.TableSchema(columns=columns)


def _lineage(job: Job, source: dg.AssetKey, schema: pa.Schema) -> dg.TableColumnLineage:
    """An answer comes from the columns of the prompt (unknown if a function makes it), every other column of the source from itself."""
    answers = {column.name for column in answer_columns(job.output_type, job.output_prefix)}
    asked = [dg.TableColumnDep(source, name) for name in job.prompt_columns or ()]
    deps: dict[str, list[dg.TableColumnDep]] = {}
    for name in schema.names:
        if name in answers:
            deps[name] = asked
        elif name not in _OURS:
            deps[name] = [dg.TableColumnDep(source, name)]
    return dg.TableColumnLineage({name: columns for name, columns in deps.items() if columns})


def type_name(kind: pa.DataType) -> str:
    """An Arrow type in words that a person reads, `list<string>` rather than `large_list<item: string_view>`."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return type_name(kind.value_type)
    if types.is_fixed_size_list(kind):
        return f"list<{type_name(kind.value_type)}>[{kind.list_size}]"
    if types.is_list(kind) or types.is_large_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {type_name(field.type)}' for field in kind)}>"
    if types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if types.is_timestamp(kind):
        return f"timestamp{f' {kind.tz}' if kind.tz else ''}"
    return _PLAIN.get(str(kind), str(kind))
