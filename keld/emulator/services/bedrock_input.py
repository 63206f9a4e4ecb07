"""Bedrock input: what the validation of a job finds in its input.  It happens after the create was answered: the job is then `Failed`.

Whether a `modelInput` is a good body is not looked at here, as at the service: such a row gets an error of its own.
"""

import msgspec

from ..batch import Problem
from ..row import Rows
from .bedrock_envelope import Line

# docs.aws.amazon.com/general/latest/gr/bedrock.html, "Batch inference", Nov 2026: the minimum cannot be raised.
LEAST_RECORDS, MOST_RECORDS = 100, 100_000
MOST_BYTES = 1 << 30

_line = msgspec.json.Decoder(Line)


def problem_of(rows: Rows | None, arn: str, uri: str) -> Problem | None:
    """Why a job fails; `rows`: None if its input cannot be read."""
    if rows is None:
        return _problem(f"Failed to read the input of batch job {arn}: {uri} does not exist or cannot be read with the role of the job.")
    if len(rows) < LEAST_RECORDS:
        return _problem(f"Batch job {arn} contains less records ({len(rows)}) than the required minimum of: {LEAST_RECORDS}")
    if len(rows) > MOST_RECORDS:
        return _problem(f"Batch job {arn} contains more records ({len(rows)}) than the allowed maximum of: {MOST_RECORDS}")
    if rows.path.stat().st_size > MOST_BYTES:
        return _problem(f"Batch job {arn} has an input file that is larger than the allowed maximum of: 1 GB")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            record = _line.decode(row).recordId
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _problem(f"Batch job {arn} has an invalid record in line {number} of its input file.", number)
        if record in seen:
            return _problem(f"Batch job {arn} contains the record id {record} more than once.", number)
        if not record.isalnum():
            return _problem(f"Batch job {arn} contains the record id {record}, which is not alphanumeric.", number)
        seen.add(record)
    return None


def _problem(message: str, line: int | None = None) -> Problem:
    return Problem(code="ValidationException", message=message, line=line)
