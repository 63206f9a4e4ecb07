"""Mistral schema: what structured outputs refuse in a JSON Schema, as people quoted the service's replies.

The subset is documented nowhere.  Quoted: "Missing `additionalProperties: False` in object schema" in strict mode
(github.com/mistralai/client-ts/issues/107, June 2025) and "Grammar error: ... failed to compile JSON schema" for `$id` and `$schema`
(github.com/BerriAI/litellm/pull/13389, Aug 2025).
"""

from functools import lru_cache
from typing import Any

import msgspec

from ..error import ApiError

_ANNOTATIONS = ("$id", "$schema")


@lru_cache(maxsize=1_024)
def refusal(schema: bytes, strict: bool) -> ApiError | None:
    """Why the service would not take a schema; None where it would."""
    try:
        said = _complaint(msgspec.json.decode(schema), strict)
    except RecursionError:
        said = "Grammar error: the JSON schema is nested too deeply"
    return None if said is None else ApiError(status=400, message=said)


def _complaint(node: Any, strict: bool) -> str | None:
    if isinstance(node, list):
        return next(filter(None, (_complaint(part, strict) for part in node)), None)
    if not isinstance(node, dict):
        return None
    if any(isinstance(node.get(name), str) for name in _ANNOTATIONS):
        return "Grammar error: at 3(11): failed to compile JSON schema"
    if strict and node.get("type") == "object" and node.get("additionalProperties") is not False:
        return "Missing `additionalProperties: False` in object schema"
    return next(filter(None, (_complaint(part, strict) for part in node.values())), None)
