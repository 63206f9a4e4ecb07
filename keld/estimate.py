"""Estimate: how many tokens a row is expected to take: by a prior, by what the provider reported, by the model's own vocabulary.

On the road: `request` -> **`estimate`** -> `plan`.  Pure: what was seen comes in as an argument.
Only the expected cost is learned.  The worst case, which is reserved under the ceiling, never falls because rows were cheap so far.
A prior weighs as much as fifty rows: one unusual row changes little, a whole partition outweighs it.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

TOKENS_A_MESSAGE = 8  # the envelope around a message
WORST_BYTES_A_TOKEN = 2  # UTF-8; never much less but for base64 (docs/notes/measurements.md)
_BYTES_A_TOKEN = 4.0  # in most languages (docs/notes/measurements.md)
_MOST_BYTES_A_TOKEN = 16.0  # a report of fewer tokens than that is no report
_OUTPUT_TOKENS = {"object": 60.0, "text": 150.0, "embedding": 0.0}  # a row
_PRIOR_ROWS = 50


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens a row is expected to take.

    Args:
        bytes_a_token: UTF-8 bytes of prompt, system prompt and schema to one token of input.
        rows: whose reported usage it was learned from.
        counted_rows: of these rows the input was counted by the model's own vocabulary; 0: of none.
        input_error: the half width of the 95 % interval of the input tokens, as a part of them, since not all rows were counted.
    """

    bytes_a_token: float = _BYTES_A_TOKEN
    output_tokens_a_row: float
    rows: int = 0
    counted_rows: int = 0
    input_error: float = 0.0

    @property
    def counted(self) -> bool:
        """True if the input was counted, in some or all of the rows."""
        return self.counted_rows > 0


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider reported of rows that it billed, summed."""

    rows: float = 0
    size_bytes: float = 0  # of their request lines
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # of the input


def prior(output_kind: str) -> Estimate:
    """The estimate before anything was seen."""
    return Estimate(output_tokens_a_row=_OUTPUT_TOKENS[output_kind])


def learned(before: Estimate, seen: Observed, envelope_bytes: int) -> Estimate:
    """`before`, corrected by what was seen, in proportion to its rows.

    Args:
        envelope_bytes: the bytes of each request line that the model does not read as text.

    >>> seen = Observed(rows=150, size_bytes=150 * 500, input_tokens=150 * 208, output_tokens=150 * 20)
    >>> learned(prior("object"), seen, 100)
    Estimate(bytes_a_token=2.2857142857142856, output_tokens_a_row=30.0, rows=150, counted_rows=0, input_error=0.0)
    """
    text_bytes = seen.size_bytes - seen.rows * envelope_bytes
    if seen.rows <= 0 or text_bytes <= 0 or seen.input_tokens <= 0:
        return before
    share = seen.rows / (seen.rows + _PRIOR_ROWS)
    tokens_a_byte = max(seen.input_tokens - seen.rows * TOKENS_A_MESSAGE, text_bytes / _MOST_BYTES_A_TOKEN) / text_bytes
    return replace(
        before,
        bytes_a_token=1 / ((1 - share) / before.bytes_a_token + share * tokens_a_byte),
        output_tokens_a_row=(1 - share) * before.output_tokens_a_row + share * seen.output_tokens / seen.rows,
        rows=round(seen.rows),
    )


def counted(before: Estimate, text_bytes: int, tokens: int, rows: int, error: float = 0.0) -> Estimate:
    """`before`, with the input tokens as counted.

    Args:
        text_bytes, tokens: of all rows, as reckoned from those that were counted.
        rows: were counted.
        error: see `Estimate.input_error`.
    """
    if tokens <= 0 or text_bytes <= 0:
        return before
    return replace(before, bytes_a_token=text_bytes / tokens, counted_rows=rows, input_error=error)
