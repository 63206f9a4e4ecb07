"""OpenAI parameter: what the parameters of a call must be, and the service's words where they are not."""

from collections.abc import Iterable
from typing import NoReturn

import msgspec
from starlette.requests import Request

from ..error import ApiError


class Create(msgspec.Struct):
    """The body of POST /batches; wrongly typed or missing fields are named by `create_body`."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: dict[str, str | int] | None = None


def create_body(body: bytes, endpoints: Iterable[str], windows: tuple[str, ...]) -> Create:
    try:
        asked = msgspec.json.decode(body, type=Create)
    except msgspec.ValidationError as error:
        said = str(error)
        if "missing required field" in said:
            missing(said.split("`")[1])
        raise ApiError(status=400, message=f"Invalid type: {said}", code="invalid_type") from error
    except msgspec.DecodeError as error:
        raise ApiError(status=400, message="We could not parse the JSON body of your request.") from error
    _one_of("endpoint", asked.endpoint, tuple(endpoints))
    _one_of("completion_window", asked.completion_window, windows)
    metadata = asked.metadata or {}
    if len(metadata) > 16:
        message = f"Invalid 'metadata': too many properties. Expected at most 16, but got {len(metadata)}."
        raise ApiError(status=400, message=message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        if len(key) > 64 or len(value) > 512:
            message = f"Invalid 'metadata.{key}': string too long. Keys have at most 64 characters, values 512."
            raise ApiError(status=400, message=message, param="metadata", code="string_above_max_length")
    return asked


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        supported = " and ".join(f"'{one}'" for one in allowed)
        message = f"Invalid value: '{value}'. Supported values are: {supported}."
        raise ApiError(status=400, message=message, param=name, code="invalid_value")


def missing(name: str) -> NoReturn:
    message = f"Missing required parameter: '{name}'."
    raise ApiError(status=400, message=message, param=name, code="missing_required_parameter")


def limit_of(request: Request, default: int, most: int) -> int:
    given = request.query_params.get("limit")
    if given is None:
        return default
    if not given.isdigit() or not 1 <= int(given) <= most:
        message = f"Invalid 'limit': must be an integer between 1 and {most}."
        raise ApiError(status=400, message=message, param="limit", code="invalid_value")
    return int(given)
