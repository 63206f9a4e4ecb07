"""Bedrock parameter: what the parameters of a call must be, and the service's words where they are not.

Patterns and bounds are those of botocore 1.43's service model, Nov 2026.
"""

import binascii
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NoReturn

import msgspec
from starlette.requests import Request

from ..error import ApiError

ACCOUNT = "123456789012"
_NAME = r"[a-zA-Z0-9]{1,63}(-*[a-zA-Z0-9\+\-\.]){0,63}"
_S3_URI = r"s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](?:/[-!_*'().a-z0-9A-Z]+(?:/[-!_*'().a-z0-9A-Z]+)*)?/?"
_STATUSES = (
    "Submitted", "InProgress", "Completed", "Failed", "Stopping", "Stopped", "PartiallyCompleted", "Expired", "Validating", "Scheduled",
)  # fmt: skip
_PATTERNS = {  # by field: most characters, pattern
    "jobName": (63, _NAME),
    "clientRequestToken": (256, r"[a-zA-Z0-9]{1,256}(-*[a-zA-Z0-9]){0,256}"),
    "roleArn": (2048, r"arn:aws(-[^:]+)?:iam::([0-9]{12})?:role/.+"),
    "modelId": (2048, r"arn:aws(-[^:]+)?:bedrock:.+|[a-z0-9-]{1,63}[.]{1}[a-z0-9-]{1,63}([.]?[a-z0-9-]{1,63})([:][a-z0-9-]{1,63}){0,2}"),
    "inputDataConfig.s3InputDataConfig.s3Uri": (1024, _S3_URI),
    "outputDataConfig.s3OutputDataConfig.s3Uri": (1024, _S3_URI),
}
_REGION = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/[0-9]+/([a-z0-9-]+)/bedrock/")


class Create(msgspec.Struct):
    """The body of a create."""

    jobName: str  # noqa: N815  the names of the wire
    roleArn: str  # noqa: N815
    modelId: str  # noqa: N815
    inputDataConfig: dict[str, dict[str, str]]  # noqa: N815
    outputDataConfig: dict[str, dict[str, str]]  # noqa: N815
    clientRequestToken: str | None = None  # noqa: N815
    timeoutDurationInHours: int | None = None  # noqa: N815
    modelInvocationType: Literal["InvokeModel", "Converse"] = "InvokeModel"  # noqa: N815
    tags: list[dict[str, str]] | None = None
    vpcConfig: dict[str, Any] | None = None  # noqa: N815

    @property
    def input_uri(self) -> str:
        return self.inputDataConfig["s3InputDataConfig"]["s3Uri"]

    @property
    def output_uri(self) -> str:
        return self.outputDataConfig["s3OutputDataConfig"]["s3Uri"]


@dataclass(frozen=True, kw_only=True)
class ListQuery:
    """What a list is asked for; `after` and `before` are unix seconds."""

    after: float
    before: float
    status: str | None
    name: str
    most: int
    token: str | None
    ascending: bool


def create_body(body: bytes) -> Create:
    try:
        asked = msgspec.json.decode(body, type=Create)
    except msgspec.ValidationError as error:
        said = str(error)
        if "missing required field" in said:
            _refuse("null", said.split("`")[1], "Member must not be null")
        raise ApiError(status=400, message=said, code="ValidationException") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=400, message="The request body is not valid JSON", code="SerializationException") from error
    for name, (most, pattern) in _PATTERNS.items():
        value = _value(asked, name)
        if value is not None and (len(value) > most or not re.fullmatch(pattern, value)):
            _refuse(value, name, f"Member must satisfy regular expression pattern: {pattern}, and have at most {most} characters")
    hours = asked.timeoutDurationInHours
    if hours is not None and not 24 <= hours <= 168:
        _refuse(str(hours), "timeoutDurationInHours", "Member must have value between 24 and 168")
    if asked.input_uri.endswith("/"):
        raise ApiError(status=400, message="keld emulator: name one object as input, not a folder.", code="ValidationException")
    return asked


def list_query(request: Request) -> ListQuery:
    query = request.query_params
    most, status, order = query.get("maxResults", "1000"), query.get("statusEquals"), query.get("sortOrder", "Descending")
    name, token = query.get("nameContains", ""), query.get("nextToken")
    if not most.isdigit() or not 1 <= int(most) <= 1_000:
        _refuse(most, "maxResults", "Member must have value between 1 and 1000")
    if status is not None and status not in _STATUSES:
        _refuse(status, "statusEquals", f"Member must satisfy enum value set: [{', '.join(_STATUSES)}]")
    if order not in ("Ascending", "Descending"):
        _refuse(order, "sortOrder", "Member must satisfy enum value set: [Ascending, Descending]")
    if query.get("sortBy", "CreationTime") != "CreationTime":
        _refuse(query["sortBy"], "sortBy", "Member must satisfy enum value set: [CreationTime]")
    if name and not re.fullmatch(_NAME, name):
        _refuse(name, "nameContains", f"Member must satisfy regular expression pattern: {_NAME}")
    if token is not None:
        try:
            urlsafe_b64decode(token).decode()
        except (binascii.Error, UnicodeDecodeError):
            _refuse(token, "nextToken", "The token is not valid")
    return ListQuery(
        after=_second(query, "submitTimeAfter", 0.0),
        before=_second(query, "submitTimeBefore", float("inf")),
        status=status,
        name=name,
        most=int(most),
        token=token,
        ascending=order == "Ascending",
    )


def is_signed(request: Request) -> bool:
    """True for a signature, False for an API key of Bedrock."""
    return _REGION.match(request.headers.get("authorization", "")) is not None


def region_of(request: Request) -> str:
    """The region that a request was signed for."""
    found = _REGION.match(request.headers.get("authorization", ""))
    return found[1] if found else "us-east-1"


def _value(asked: Create, name: str) -> str | None:
    if "." not in name:
        value: str | None = getattr(asked, name)
        return value
    config, inner, field = name.split(".")
    found: str | None = getattr(asked, config).get(inner, {}).get(field)
    if found is None:
        _refuse("null", name, "Member must not be null")
    return found


def _second(query: Any, name: str, default: float) -> float:
    given = query.get(name)
    if given is None:
        return default
    try:
        return datetime.fromisoformat(given).timestamp()
    except ValueError:
        _refuse(given, name, "Member must be a timestamp in ISO 8601")


def _refuse(value: str, name: str, must: str) -> NoReturn:
    message = f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {must}"
    raise ApiError(status=400, message=message, code="ValidationException")
