"""Identity: whose job it is, what it asks, and of which source; and what follows for a job run that exists already.

On the road: `job` + `request` -> **`identity`** -> `environment`.  Pure.  A job run is (namespace, job, partition); two declarations may
have the same name: after an edit, after a rename, or by accident in two code locations.  The rule:

- The same question of the same source, from any owner: it is the same job run, and its owner is the one that asked last.
- The same owner asks something else (a changed prompt, schema, model or source): what was not sent is planned again; what was sent is
  finished and reported as `outdated`, and the new question is asked next.  Rows whose question did not change are never paid again.
- The same owner gives the answers other names (`output_prefix`): likewise, but the next job run takes all answers and asks nothing.
- Another owner asks something else: that is another job.  It is refused, and nothing is sent.

A path is its source's name; a table in memory has a name only if its caller gives one, and without a name the owner decides.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from types import CellType, CodeType, FunctionType
from typing import Any

import msgspec

from keld.job import Column, Job, PerRow, Prompt
from keld.request import Question
from keld.schema import OutputSchema, output_schema

_CREDENTIALS = re.compile(r"//[^/@]*@")
_WORDS = {
    "prompt": "the prompt",
    "system": "the system prompt",
    "output": "the output type",
    "prefix": "output_prefix",
    "models": "the models",
    "params": "the params",
    "max_output_tokens": "max_output_tokens",
    "endpoint": "the endpoint",
}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The owner, the question and the source of a job run."""

    owner: str
    source: str | None
    fingerprint: str  # of the question and the models, as `request.fingerprint`
    declared: Mapping[str, str]  # a digest of each part of the question; of a prompt, too

    def changed_since(self, fingerprint: str, declared: Mapping[str, str] | None, source: str | None) -> str | None:
        """What changed in the declaration, in words; None if nothing is known to have changed."""
        changed = [word for part, word in _WORDS.items() if declared is not None and declared.get(part) != self.declared.get(part)]
        if not changed and fingerprint != self.fingerprint:
            changed.append("the question")
        if None not in (source, self.source) and source != self.source:
            changed.append("the source")
        return " and ".join([", ".join(changed[:-1]), changed[-1]] if len(changed) > 1 else changed) or None

    def belongs_to_another(self, owner: str | None, fingerprint: str, declared: Mapping[str, str] | None, source: str | None) -> bool:
        """True if a job of this name belongs to another owner and is not known to ask the same question of the same source."""
        if owner is None or owner == self.owner:
            return False
        return source is None or source != self.source or self.changed_since(fingerprint, declared, source) is not None


def key_of(partition: str | None) -> str:
    """The partition's key as the ledger has it; empty for a table without partitions."""
    return partition or ""


def question_of_job(job: Job) -> tuple[OutputSchema, Question]:
    """The schema of an answer, and the question that a job asks about every row."""
    output = output_schema(job.output_type, prefix=job.output_prefix)
    return output, Question(
        system=job.system,
        output=output.to_json(),
        params=dict(job.params),
        max_output_tokens=job.max_output_tokens,
        endpoint=job.endpoint,
    )


def fingerprint_of(job: Job) -> str:
    """A hash of what a job asks: prompt, system, output type, models, params, max_output_tokens, endpoint; the same in every process.

    It changes if and only if the answers of an earlier job run are those of another question, or have other names (`output_prefix`, which buys
    nothing); it does not change with deadline, ceiling, lane, tags or name.  Of a prompt function it is the code, as this version of Python
    compiles it, and the texts that it reads from its module.
    """
    _, question = question_of_job(job)
    return _digest(declared(job, question))


def declared(job: Job, question: Question) -> dict[str, str]:
    """A digest of each part of what a job asks; none of them holds a text."""
    parts = {
        "prompt": _prompt(job.prompt) if job.missing is None else [*_prompt(job.prompt), job.missing],
        "system": question.system,
        "output": question.asked_output,
        "models": list(job.acceptable),
        "params": question.params,
        "max_output_tokens": question.max_output_tokens,
        "endpoint": question.endpoint,
    }
    if job.output_prefix:  # of a job without one, `fingerprint_of` stays what it was before prefixes were a part
        parts["prefix"] = job.output_prefix
    return {name: _digest(part) for name, part in parts.items()}


def _digest(part: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(part, order="deterministic")).hexdigest()[:16]


def name_of(source: Any, partition: str) -> str | None:
    """The name of a source, the same for every partition: a path or URI, without credentials; None for a table in memory."""
    if not isinstance(source, str | os.PathLike) and not (hasattr(source, "protocol") and hasattr(source, "path")):
        return None
    text = os.fspath(source) if isinstance(source, os.PathLike) else str(source)
    text = _CREDENTIALS.sub("//", text).partition("?")[0] if "://" in text else os.path.abspath(os.path.expanduser(text))
    return text.replace(partition, "{partition}") if partition else text


def _prompt(prompt: Prompt) -> Any:
    """What distinguishes one prompt from another; of a function its code and the texts that it reads, so that an edit is seen."""
    match prompt:
        case str():
            return ["template", prompt]
        case Column():
            return ["column", prompt.name, prompt.json]
        case PerRow():
            return ["row", *_function(prompt.function)]
        case _:
            return ["function", *_function(prompt)]


def _function(function: Any) -> list[Any]:
    """The name of a function, its code, and what it reads from elsewhere; without code (a builtin, an object) only the name of its type."""
    name = type(function).__qualname__
    while (inner := getattr(function, "__wrapped__", None) or getattr(function, "func", None)) is not None:  # decorated, or partial
        function = inner
    code = getattr(function, "__code__", None)
    described = [getattr(function, "__qualname__", name), None if code is None else _code(code)]
    reads = {} if code is None else _reads(getattr(function, "__func__", function), {code})
    return [*described, reads] if reads else described


def _reads(function: Any, seen: set[CodeType]) -> dict[str, Any]:
    """What a function reads that is text, or a function of the same module, by name: from the module, its closure and its defaults.

    Prompts are often kept in a constant beside the function.  Only these: other values may differ in each process.
    """
    names, variables = _names(function.__code__), function.__globals__
    around = {name: variables[name] for name in names if name in variables}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    around |= {name: cell.cell_contents for name, cell in cells if cell != CellType()}
    around |= {f"default {n}": value for n, value in enumerate(function.__defaults__ or ())} | (function.__kwdefaults__ or {})
    found: dict[str, Any] = {name: value for name, value in around.items() if isinstance(value, str)}
    for name, value in around.items():
        if isinstance(value, FunctionType) and value.__module__ == function.__module__ and value.__code__ not in seen:
            seen.add(value.__code__)
            found[name] = [_code(value.__code__), _reads(value, seen)]
    return found


def _names(code: CodeType) -> list[str]:
    """The names that a function and the functions in it use, of variables and attributes."""
    inner = [name for one in code.co_consts if isinstance(one, CodeType) for name in _names(one)]
    return sorted({*code.co_names, *inner})


def _code(code: CodeType) -> list[Any]:
    """The code of a function, independent of its file's location."""
    return [code.co_code.hex(), list(code.co_names), [_constant(one) for one in code.co_consts]]


def _constant(one: Any) -> Any:
    if isinstance(one, CodeType):
        return _code(one)
    return sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)  # a set has another order in each process
