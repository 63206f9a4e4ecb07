"""Log: which log records of other libraries are left out, since a key, a prompt or an answer may be in them.

Beside `provider`.  Only what Keld's own calls go through, and the SDKs that read the same bodies: a user's application may turn on DEBUG for all of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Loggers that write a response's headers at DEBUG; a hostile provider can put a key or a prompt there (in the location of a redirect).
_LOG_HEADERS = ("httpcore2.http11", "httpcore2.http2", "anthropic._base_client", "openai._base_client")
# A logger that writes each URL at INFO: an address may have a password before its host, and a query may be a key, a signature or an upload's token.
_LOG_URLS = "httpx2"
# Loggers that write bodies, canonical requests or tokens below WARNING: response bodies (botocore.parsers), the request with its signature
# (botocore.auth, botocore.endpoint, botocore.hooks), chunks of streams (google_genai), token requests (google.auth, msal, azure.identity).
_LOG_BODIES = (
    "botocore.auth", "botocore.endpoint", "botocore.hooks", "botocore.parsers", "google_genai._api_client", "google_genai.live",
    "google_genai.models", "google.auth._helpers", "google.auth.aio.transport.aiohttp", "google.auth.transport.requests", "mistralai.client",
    "msal.application", "msal.token_cache", "azure.core.pipeline.policies.http_logging_policy", "azure.core.pipeline.policies._universal",
)  # fmt: skip
# The same for all that these libraries log, in modules that are imported later or renamed; unless the application has chosen a level itself.
_LIBRARIES = ("azure", "botocore", "google.auth", "google_genai", "mistralai", "msal", "obstore")


_elsewhere: ContextVar[bool] = ContextVar("keld_elsewhere", default=False)


@contextmanager
def hiding_urls() -> Iterator[None]:
    """Within the block, no URL is logged: a host chose it, and may have quoted a key or a prompt anywhere in it."""
    token = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def hide_secrets() -> None:
    """Removes what may hold a secret from the log of other libraries from now on; a second call changes nothing."""
    for name in _LOG_HEADERS:
        logging.getLogger(name).addFilter(_without_headers)
    logging.getLogger(_LOG_URLS).addFilter(_without_secrets_in_url)
    for name in _LOG_BODIES:
        logging.getLogger(name).addFilter(_warnings_only)
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _without_headers(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not said.startswith("receive_response_headers.complete") and not (said.startswith("HTTP Response:") and "Headers(" in said)


def _without_secrets_in_url(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or not (_elsewhere.get() or re.search(r"://[^/\s]*@|\?", record.getMessage()))


def _warnings_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
