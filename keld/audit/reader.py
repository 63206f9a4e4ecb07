"""Reader: a chunk of a log and the table of names of its format -> calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from keld.audit import body, column
from keld.audit.chunk import Chunk, opened, top, values_at, where
from keld.audit.column import Values
from keld.audit.format import Format
from keld.audit.provider import account_of
from keld.audit.record import NONE, UNKNOWN, Calls, Floats, Ints, Small, Text

_MINUTE_US, _DAY_US = 60_000_000, 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a chunk held: its calls, the rows that are no calls, and those that could not be read."""

    calls: Calls
    other: int
    bad: int


def paths_of(form: Format) -> list[str]:
    """The fields of a row that a format looks at."""
    wanted = [path for paths in form.names.values() for path in paths] + list(form.only)
    return [*dict.fromkeys(wanted), *dict.fromkeys(top(path) for path in wanted)]


class _Columns:
    """The fields of a record by name, each as it is logged."""

    def __init__(self, chunk: Chunk, form: Format) -> None:
        self._chunk, self._form, self.rows = chunk, form, len(chunk)

    def get(self, name: str) -> Values | None:
        paths = self._form.names.get(name)
        return None if paths is None else values_at(self._chunk, paths)

    def counts(self, name: str) -> Ints:
        found = self.get(name)
        return np.zeros(self.rows, dtype=np.int64) if found is None else column.counts(found)

    def numbers(self, name: str) -> Floats:
        found = self.get(name)
        return np.full(self.rows, np.nan) if found is None else column.numbers(found)

    def instants(self, name: str) -> Ints:
        found = self.get(name)
        return np.full(self.rows, NONE, dtype=np.int64) if found is None else column.instants(found)

    def hashes(self, name: str) -> Ints:
        found = self.get(name)
        return np.zeros(self.rows, dtype=np.int64) if found is None else column.hashes(found)

    def labels(self, name: str) -> Text:
        """Texts, of which some are lists or tables of labels in JSON, as in a cell of CSV."""
        found = self.text(name)
        read = (word if (value := opened(word)) is None else column.plain(value) for word in found.words)
        return replace(found, words=list(read))

    def text(self, name: str) -> Text:
        found = self.get(name)
        return Text(codes=np.zeros(self.rows, dtype=np.int64), words=("",)) if found is None else column.texts(found)


def read(chunk: Chunk, form: Format) -> Read:
    """The calls of a chunk; a row without an instant is one that could not be read."""
    columns = _Columns(chunk, form)
    at, calls = columns.instants("at"), np.ones(len(chunk), dtype=np.bool_)
    for path, wanted in form.only.items():
        kept = where(chunk, path, wanted)
        if kept is not None:
            calls &= kept
    found = _calls(columns, form, at)
    if form.buckets:
        calls &= ~_is_empty(found, columns)
    good = calls & (at != NONE)
    return Read(calls=taken(found, good), other=int((~calls).sum()), bad=int((calls & (at == NONE)).sum()))


def _is_empty(found: Calls, columns: _Columns) -> NDArray[np.bool_]:
    """True for a bucket in which there was no call."""
    usd = np.where(np.isfinite(found.usd), found.usd, 0)
    empty: NDArray[np.bool_] = (columns.counts("requests") == 0) & (found.input + found.output == 0) & (usd == 0)
    return empty


def _calls(columns: _Columns, form: Format, at: Ints) -> Calls:
    end = _end(columns, at)
    tokens = _tokens(columns)
    bodies = _bodies(columns.get("request"))
    provider, model = _named(columns, form)
    usd = columns.numbers("usd") if "usd" in form.names else columns.numbers("usd_cents") / 100
    requests = columns.counts("requests") if "requests" in form.names else np.ones(columns.rows, dtype=np.int64)
    buckets = form.buckets
    return Calls(
        at=at,
        end=np.full_like(end, NONE) if buckets else end,
        width=np.where(end == NONE, _step(at), np.maximum(end - at, _MINUTE_US)) if buckets else np.zeros_like(at),
        requests=np.maximum(requests, 1) if buckets else requests,
        usd=usd,
        streamed=_streamed(columns, at, end, bodies),
        failed=_failed(columns),
        id=columns.hashes("id"),
        user=columns.hashes("user"),
        session=columns.hashes("session"),
        trace=columns.hashes("trace"),
        provider=provider,
        model=model,
        service=columns.text("service"),
        job=columns.labels("job"),
        operation=columns.text("operation"),
        lane=_lane(columns),
        prompt=_prompt(bodies, columns.rows),
        tags=columns.labels("tags"),
        bodies=bodies,
        **tokens,
    )


def _step(at: Ints) -> int:
    """The width of buckets without an end: what lies between the nearest two; a day at most, and for a single one."""
    steps = np.diff(np.unique(at[at != NONE]))
    return min(int(steps.min()), _DAY_US) if len(steps) else _DAY_US


def _end(columns: _Columns, at: Ints) -> Ints:
    end = columns.instants("end")
    for name, micros in (("duration_s", 1e6), ("duration_ms", 1e3)):
        length = columns.numbers(name)
        known = (end == NONE) & (at != NONE) & np.isfinite(length) & (length >= 0) & (length < 1e7)
        end = np.where(known, at + np.rint(np.where(known, length, 0) * micros).astype(np.int64), end)
    return np.where(end < at, NONE, end)


def _tokens(columns: _Columns) -> dict[str, Ints]:
    cached, written_1h = columns.counts("cached"), columns.counts("written_1h")
    written = np.maximum(columns.counts("written"), written_1h)
    tokens = columns.counts("input")
    apart = columns.counts("fresh") + (cached + written) * (tokens == 0) if "fresh" in columns._form.names else 0
    tokens = np.maximum(tokens, apart)
    # A log that counts the cached ones apart although its kind does not: they cannot be more than all.
    tokens = np.where(cached + written > tokens, tokens + cached + written, tokens)
    return {"input": tokens, "cached": cached, "written": written, "written_1h": written_1h, "output": columns.counts("output")}


def _streamed(columns: _Columns, at: Ints, end: Ints, bodies: list[Any] | None) -> Small:
    flags = columns.get("streamed")
    found = np.full(columns.rows, UNKNOWN, dtype=np.int8) if flags is None else column.flags(flags)
    first = columns.instants("first_at")
    if (first != NONE).any():
        known = (found == UNKNOWN) & (end != NONE)
        found = np.where(known, (at < first) & (first < end), found).astype(np.int8)
    for name in ("ttft_s", "ttft_ms"):
        length = columns.numbers(name)
        found = np.where((found == UNKNOWN) & (length > 0), 1, found).astype(np.int8)
    if bodies is not None:
        said = np.fromiter((UNKNOWN if (one := body.streamed(request)) is None else one for request in bodies), np.int8, columns.rows)
        found = np.where(found == UNKNOWN, said, found).astype(np.int8)
    return found


def _failed(columns: _Columns) -> Small:
    ok, status = columns.get("ok"), columns.get("status")
    if ok is not None:
        flags = column.flags(ok)
        return np.where(flags == UNKNOWN, flags, 1 - flags).astype(np.int8)
    return np.full(columns.rows, UNKNOWN, dtype=np.int8) if status is None else column.failures(status)


def _lane(columns: _Columns) -> Text:
    """Batch and flex by what the tier or the operation is called; anything else is the standard lane."""
    tier, operation = columns.text("lane"), columns.text("operation")
    lanes = np.array([_lane_of(word) for word in tier.words], dtype=np.int64)[tier.codes]
    batches = np.array(["batch" in word.lower() for word in operation.words], dtype=np.bool_)[operation.codes]
    return Text(codes=np.where(batches, 1, lanes), words=("standard", "batch", "flex"))


def _lane_of(word: str) -> int:
    said = word.lower()
    return 1 if said in ("true", "1") or ("batch" in said and said != "nonbatch") else 2 if "flex" in said else 0


def _named(columns: _Columns, form: Format) -> tuple[Text, Text]:
    """Provider and model as Keld's price lists have them; each pair is looked up once."""
    said, model = columns.text("provider"), columns.text("model")
    pair = said.codes * len(model.words) + model.codes
    unique, inverse = np.unique(pair, return_inverse=True)
    named = [account_of(said.words[code // len(model.words)] or form.provider, model.words[code % len(model.words)]) for code in unique]
    return _text_of([one[0] for one in named], inverse), _text_of([one[1] for one in named], inverse)


def _text_of(words: list[str], codes: NDArray[Any]) -> Text:
    each = list(dict.fromkeys(words))
    place = {word: position for position, word in enumerate(each)}
    return Text(codes=np.array([place[word] for word in words], dtype=np.int64)[codes], words=each)


def _bodies(logged: Values | None) -> list[Any] | None:
    if logged is None:
        return None
    values = logged.to_pylist() if isinstance(logged, pa.Array) else logged
    found = [body.as_request(opened(value)) for value in values]
    return found if any(found) else None


def _prompt(bodies: list[Any] | None, rows: int) -> Text:
    if bodies is None:
        return Text(codes=np.zeros(rows, dtype=np.int64), words=("",))
    return column.texts([body.fingerprint(request) for request in bodies])


def taken(calls: Calls, which: NDArray[np.bool_]) -> Calls:
    """Only those calls."""
    if which.all():
        return calls
    rows = np.flatnonzero(which)
    found: dict[str, Any] = {}
    for name in Calls.__dataclass_fields__:
        value = getattr(calls, name)
        if isinstance(value, Text):
            found[name] = replace(value, codes=value.codes[rows])
        elif isinstance(value, np.ndarray):
            found[name] = value[rows]
        else:
            found[name] = value if value is None else [value[row] for row in rows]
    return Calls(**found)
