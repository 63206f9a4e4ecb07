"""Error: one refusal, before a service gives it its shape.

Raised by any route and by the reading of any row; each service shows it in its own shape (`Service.error_body`).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ApiError(Exception):
    """What a service answers instead of doing what was asked."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


STATUS_MESSAGES: dict[int, str] = {
    400: "Invalid request.",
    401: "Invalid authentication.",
    403: "You do not have permission to do this.",
    404: "Not found.",
    408: "Request timed out.",
    409: "Conflict.",
    413: "Request too large.",
    422: "Unprocessable request.",
    429: "Rate limit reached. Please try again later.",
    500: "The server had an error while processing your request. Sorry about that!",
    502: "Bad gateway.",
    503: "The engine is currently overloaded, please try again later.",
    504: "Gateway timeout.",
    529: "Overloaded",
}


def error_of(status: int, message: str | None = None, code: str | None = None) -> ApiError:
    """The error for an HTTP status without details."""
    return ApiError(status=status, message=message or STATUS_MESSAGES.get(status, f"HTTP {status}"), code=code)
