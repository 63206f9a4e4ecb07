"""Mapped: any CSV, JSON Lines or Parquet file by a mapping of the user's own, a TOML file given to `--format`.

title = "our gateway"
[names]
at = "ts"
model = ["model_name", "meta/model"]
duration_ms = "latency"
[only]
kind = ["llm"]
"""

import tomllib
from pathlib import Path
from typing import Any

from keld.audit.format import FIELDS, Format
from keld.errors import InvalidJob


def mapped(path: str) -> Format:
    """The format that a mapping file describes.

    Raises:
        InvalidJob: it cannot be read, or names what no record has.
    """
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidJob(f"The mapping {path} cannot be read: {error}.", field="format") from None
    names, only = given.get("names", {}), given.get("only", {})
    if set(given) - {"title", "names", "only", "buckets"}:
        raise InvalidJob(f"The mapping {path} has {sorted(given)}; it may have title, names, only and buckets.", field="format")
    if unknown := sorted(set(names) - set(FIELDS)):
        known = "; ".join(f"{name}: {what}" for name, what in FIELDS.items())
        raise InvalidJob(f"The mapping {path} names {', '.join(unknown)}, which no call has. It may name {known}.", field="format")
    if "at" not in names:
        raise InvalidJob(f'The mapping {path} does not say where the instant of a call is: [names] at = "COLUMN".', field="format")
    return Format(
        name=Path(path).stem,
        title=str(given.get("title", Path(path).name)),
        needs=(),
        names={name: _paths(where) for name, where in names.items()},
        only={where: frozenset(str(value).lower() for value in _paths(values)) for where, values in only.items()},
        buckets=bool(given.get("buckets", False)),
    )


def _paths(given: Any) -> tuple[str, ...]:
    return tuple(map(str, given)) if isinstance(given, list) else (str(given),)
