"""Identity: whose job it is, what it asks, and of which source; and what follows for a job run that is there already.

On the road: `job` + `request` -> **`identity`** -> `environment`.  Pure.  A job run is (namespace, job, partition); two declarations may
come by the same name: after an edit, after a rename, or by accident in two code locations.  The rule:

- The same question of the same source, whoever asks: it is the same job run, and its owner is whoever asked last.
- The same owner asks otherwise (a changed prompt, schema, model or source): what was not sent is planned anew; what was sent is finished,
  told as `outdated`, and the new question is asked next.  Rows that ask the same as before are never bought again.
- Another owner asks otherwise: that is another job.  It is refused, and nothing is sent.

A path names its source by itself; a table in memory has a name only where its caller gives one, and without a name its owner decides.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import msgspec

from keld.job import Column, Job, Prompt
from keld.request import Question

_CREDENTIALS = re.compile(r"//[^/@]*@")
_WORDS = {
    "prompt": "the prompt",
    "system": "the system prompt",
    "output": "the output type",
    "models": "the models",
    "params": "the params",
    "max_output_tokens": "max_output_tokens",
    "endpoint": "the endpoint",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks, what, of which source."""

    owner: str
    source: str | None
    fingerprint: str  # of the question and the models, as `request.fingerprint`
    declared: Mapping[str, str]  # a digest of each part of the question; of a prompt, too

    def changed_since(self, fingerprint: str, declared: Mapping[str, str] | None, source: str | None) -> str | None:
        """What is declared otherwise than it was, in words; None where it is the same, as far as it is known."""
        changed = [word for part, word in _WORDS.items() if declared is not None and declared.get(part) != self.declared.get(part)]
        if not changed and fingerprint != self.fingerprint:
            changed.append("the question")
        if None not in (source, self.source) and source != self.source:
            changed.append("the source")
        return " and ".join([", ".join(changed[:-1]), changed[-1]] if len(changed) > 1 else changed) or None

    def is_anothers(self, owner: str | None, fingerprint: str, declared: Mapping[str, str] | None, source: str | None) -> bool:
        """Whether a job of this name is somebody else's: another owner's, and not known to be the same question of the same source."""
        if owner is None or owner == self.owner:
            return False
        return source is None or source != self.source or self.changed_since(fingerprint, declared, source) is not None


def key_of(partition: str | None) -> str:
    """The partition's key as the ledger has it; empty for a table without partitions."""
    return partition or ""


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
    return {name: hashlib.sha256(msgspec.json.encode(part, order="deterministic")).hexdigest()[:16] for name, part in parts.items()}


def name_of(source: Any, partition: str) -> str | None:
    """What a source calls itself, the same for every partition: a path or URI, without credentials; None for what lies in memory."""
    if not isinstance(source, str | os.PathLike) and not (hasattr(source, "protocol") and hasattr(source, "path")):
        return None
    text = os.fspath(source) if isinstance(source, os.PathLike) else str(source)
    text = _CREDENTIALS.sub("//", text).partition("?")[0] if "://" in text else os.path.abspath(os.path.expanduser(text))
    return text.replace(partition, "{partition}") if partition else text


def _prompt(prompt: Prompt) -> Any:
    """What tells one prompt from another; of a function its code, so that an edit is seen, but not what it reads from elsewhere."""
    if isinstance(prompt, str):
        return ["template", prompt]
    if isinstance(prompt, Column):
        return ["column", prompt.name, prompt.json]
    function = getattr(prompt, "__wrapped__", prompt)
    function = getattr(function, "func", function)  # of a `functools.partial`
    code = getattr(function, "__code__", None)
    return ["function", getattr(function, "__qualname__", type(prompt).__qualname__), None if code is None else _code(code)]


def _code(code: CodeType) -> list[Any]:
    """What a function does, wherever its file lies."""
    return [code.co_code.hex(), list(code.co_names), [_constant(one) for one in code.co_consts]]


def _constant(one: Any) -> Any:
    if isinstance(one, CodeType):
        return _code(one)
    return sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)  # a set has another order in each process
