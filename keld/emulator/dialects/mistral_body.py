"""Mistral body: what the bodies of chat completions and embeddings have in common: reading them, and complaints in the service's words.

Unknown fields are refused: `{"detail": [{"type": "extra_forbidden", "loc", "msg"}]}` with 422, as people quote it all over 2026
(github.com/1jehuang/jcode/issues/261).  In an `ApiError` of status 422, `code` is the type and `param` the dotted place.
"""

from typing import TypeVar

import msgspec

from ..dialect import Conditions, Lane
from ..error import ApiError

Body = TypeVar("Body")


def read(decoder: "msgspec.json.Decoder[Body]", body: bytes) -> Body:
    """The body, typed.

    Raises:
        ApiError: it is no JSON, or a field is missing, unknown or of the wrong type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=422, message="JSON decode error", code="json_invalid", param="body") from error


def invalid(said: str) -> ApiError:
    """Msgspec's complaint in Mistral's words."""
    inside = said.rpartition("`$")[2].rstrip("`").strip(".").replace("[", ".").replace("]", "") if "`$" in said else ""
    name = said.split("`")[1] if "field `" in said else ""
    place = ".".join(filter(None, ("body", inside, name)))
    if "missing required field" in said:
        return ApiError(status=422, message="Field required", code="missing", param=place)
    if "unknown field" in said:
        return ApiError(status=422, message="Extra inputs are not permitted", code="extra_forbidden", param=place)
    return ApiError(status=422, message=said.partition(" - at")[0], code="type_error", param=place)


def check_number(name: str, value: float | None, *, above: float | None = None, least: float | None = None, most: float) -> None:
    """Raises:
    ApiError: a number is outside its bounds.
    """
    if value is None:
        return
    if above is not None and value <= above:
        raise ApiError(status=422, message=f"Input should be greater than {above:g}", code="greater_than", param=f"body.{name}")
    if least is not None and value < least:
        raise ApiError(
            status=422, message=f"Input should be greater than or equal to {least:g}", code="greater_than_equal", param=f"body.{name}"
        )
    if value > most:
        raise ApiError(status=422, message=f"Input should be less than or equal to {most:g}", code="less_than_equal", param=f"body.{name}")


def checked_lane(model: str, conditions: Conditions) -> Lane:
    """The lane in which the request runs.

    Raises:
        ApiError: there is no such model.
    """
    if conditions.fate == "model_not_found" or "does-not-exist" in model:
        raise invalid_model(model)
    return "batch" if conditions.batch else "standard"


def invalid_model(model: str) -> ApiError:
    return ApiError(status=400, message=f"Invalid model: {model}", code="1500")
