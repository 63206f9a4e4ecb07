"""Client: where an account is and whose key it takes, without ever showing the key.

Beside `base`.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keld.errors import AccessRefused, InvalidJob

if TYPE_CHECKING:
    from keld.providers.base import Account

# Those that tell a response's headers at DEBUG, which a hostile provider may have quote a key or a prompt (a redirect's location).
_TELL_HEADERS = ("httpcore2.http11", "httpcore2.http2", "anthropic._base_client", "openai._base_client")


def hush_headers() -> None:
    """From now on no log record of the transports tells a response's headers; asked twice, it is the same."""
    for name in _TELL_HEADERS:
        logging.getLogger(name).addFilter(_without_headers)


def _without_headers(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not said.startswith("receive_response_headers.complete") and not (said.startswith("HTTP Response:") and "Headers(" in said)


def check_url(url: str, whose: str) -> None:
    """Passes if calls can be made to `url`.

    Raises:
        InvalidJob: they cannot; `whose` is what the message begins with.  It never shows a user or a password.
    """
    shown = url.rpartition("@")[2]
    try:
        parts = urlsplit(url)
        told = None if parts.hostname and (parts.port is None or parts.port) else "names no host"
        scheme = parts.scheme.lower()
    except ValueError:
        told, scheme = "cannot be read", "http"
    if any(char.isspace() or not char.isprintable() for char in url):
        told = "has a blank or a line end in it"
    elif scheme not in ("http", "https") or "://" not in url:
        told = "does not begin with https:// or http://"
    if told is not None:
        raise InvalidJob(f"{whose}, {shown!a}, {told}. Nothing was sent. Write it whole, e.g. https://api.openai.com/v1.")


def url_of(account: Account, variable: str) -> str | None:
    """Where an account's calls go, by its own setting or by the environment `variable`; None: the SDK's own way.

    Raises:
        InvalidJob: the environment variable holds nothing that calls can be made to.
    """
    if account.base_url is not None:
        return account.base_url
    url = os.environ.get(variable) or None
    if url is not None:
        check_url(url, f"The environment variable {variable}")
    return url


def origin(url: str) -> str:
    """`scheme://host[:port]` of a base URL, without user, password or path."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def key_of(name: str, account: Account, default: str) -> str:
    """The key of an account, without the spaces and line ends it was pasted with: what it gives itself, else the environment variable it
    names, else `default`.

    Raises:
        AccessRefused: it is not set, or cannot be one.
    """
    variable = account.api_key_env or default
    key = (account.api_key() if account.api_key is not None else os.environ.get(variable, "")).strip()
    if key and (not key.isascii() or not key.isprintable() or " " in key):  # the errors of HTTP libraries quote such a one
        raise AccessRefused(
            f"The key of {name} holds a space, a line end or a character that is not ASCII, which no provider's key does. Nothing was sent. "
            "Copy it again, and nothing beside it.",
            account=name,
        )
    if key:
        return key
    unset = None if account.api_key is not None else f"the environment variable {variable} is not set"
    why = ", and ".join(filter(None, (account.keyless or (None if unset else "its api_key gives none"), unset)))
    raise AccessRefused(f"No key for {name}: {why}. Nothing was sent. Give one and run again.", account=name)
