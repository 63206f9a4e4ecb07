"""Client: where an account is and whose key it takes, without ever showing the key.

Beside `base`.
"""

from __future__ import annotations

import logging
import os
from urllib.parse import urlsplit

from keld.errors import AccessRefused

# Those that tell a response's headers at DEBUG, which a hostile provider may have quote a key or a prompt (a redirect's location).
_TELL_HEADERS = ("httpcore2.http11", "httpcore2.http2", "anthropic._base_client", "openai._base_client")


def hush_headers() -> None:
    """From now on no log record of the transports tells a response's headers; asked twice, it is the same."""
    for name in _TELL_HEADERS:
        logging.getLogger(name).addFilter(_without_headers)


def _without_headers(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not said.startswith("receive_response_headers.complete") and not (said.startswith("HTTP Response:") and "Headers(" in said)


def origin(url: str) -> str:
    """`scheme://host[:port]` of a base URL, without user, password or path."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def environment_key(name: str, variable: str | None, default: str) -> str:
    """The key an account names, from the environment.

    Raises:
        AccessRefused: it is not set.
    """
    key = os.environ.get(variable or default, "").strip()
    if not key:
        raise AccessRefused(
            f"No key for {name}: the environment variable {variable or default} is not set. Nothing was sent. Set it and run again."
        )
    return key
