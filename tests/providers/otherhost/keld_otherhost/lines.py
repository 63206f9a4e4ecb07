"""Lines: the lines of the inputs and results of otherhost, and its errors, which stand in both (the wire is described in `emulator`)."""

from dataclasses import dataclass

import msgspec

from keld.emulator import ApiError
from keld.emulator.batch import Batch, Problem
from keld.emulator.dialect import Made
from keld.emulator.life import Status
from keld.emulator.row import Rows

MAX_REQUESTS = 20_000
STATES: dict[Status, str] = {
    "validating": "CHECKING", "in_progress": "RUNNING", "finalizing": "WRITING", "cancelling": "STOPPING",
    "completed": "DONE", "failed": "FAILED", "expired": "EXPIRED", "cancelled": "STOPPED",
}  # fmt: skip
_CODES = {400: "BAD_REQUEST", 401: "NO_KEY", 404: "UNKNOWN", 409: "ALREADY_OVER", 413: "TOO_LARGE", 429: "SLOW_DOWN"}


class Line(msgspec.Struct):
    label: str
    request: msgspec.Raw


_line = msgspec.json.Decoder(Line)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Envelope:
    """All rows stand in one file, which is cut into objects when the job has ended."""

    one_file: bool = True
    id_field: str = "label"

    def read(self, row: bytes) -> tuple[str, bytes]:
        line = _line.decode(row)
        return line.label, bytes(line.request)

    def answered(self, batch: Batch, rank: int, custom_id: str, made: Made) -> bytes:
        return _encode({"label": custom_id, "status": 200, "answer": msgspec.Raw(made.body.encode())})

    def refused(self, batch: Batch, rank: int, custom_id: str, error: ApiError) -> bytes:
        return _encode({"label": custom_id, "status": error.status, **error_object(error)})

    def unanswered(self, custom_id: str, status: Status) -> bytes:
        fault = {"code": STATES[status], "text": "The job ended before this request was reached."}
        return _encode({"label": custom_id, "status": 0, "fault": fault})


def error_object(error: ApiError) -> dict[str, dict[str, str]]:
    default = "BROKEN" if error.status >= 500 else "BAD_REQUEST"
    return {"fault": {"code": error.code or _CODES.get(error.status, default), "text": error.message}}


def problem_of(rows: Rows) -> Problem | None:
    """Why an input fails its check."""
    if not 1 <= len(rows) <= MAX_REQUESTS:
        return Problem(code="BAD_SIZE", message=f"A job has from 1 to {MAX_REQUESTS} requests; this one has {len(rows)}.")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            label = _line.decode(row).label
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Problem(code="BAD_LINE", message=str(error), line=number)
        if label in seen:
            return Problem(code="SAME_LABEL", message=f"The label {label} stands twice.", line=number)
        seen.add(label)
    return None
