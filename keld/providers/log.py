"""Log: which log records of the SDKs are left out.

Beside `provider`.
"""

from __future__ import annotations

import logging

# Loggers that write a response's headers at DEBUG; a hostile provider can put a key or a prompt there (in the location of a redirect).
_LOG_HEADERS = ("httpcore2.http11", "httpcore2.http2", "anthropic._base_client", "openai._base_client")


def hide_headers() -> None:
    """Removes response headers from the log of the HTTP libraries from now on; a second call changes nothing."""
    for name in _LOG_HEADERS:
        logging.getLogger(name).addFilter(_without_headers)


def _without_headers(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not said.startswith("receive_response_headers.complete") and not (said.startswith("HTTP Response:") and "Headers(" in said)
