"""Account: where a provider is and whose key it takes, without ever showing the key.

Below `provider`.  `Account(kind=...)` is enough for every kind that needs no more than an address and a key.  A kind that needs more (a region,
a project, a bucket, a role) has a class of its own, as frozen as this one, with these as its fields.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from keld.errors import AccessRefused, InvalidJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where a provider is and where its key is found; never the key itself.

    Args:
        kind: whose API it speaks; `keld.kinds()` lists them.
        base_url: None means the kind's own way (an environment variable such as `OPENAI_BASE_URL`, else the official host).
        api_key_env: None means the kind's own way (an environment variable such as `OPENAI_API_KEY`).
        api_key: gives the key, where it is in no environment variable but in a vault, or an orchestrator's connection; "" where it has none.
        keyless: why it may have no key, in words for people, where more than an environment variable could give one.
        prices: the price list of its models, e.g. `groq`; None: the list that has the account's name, else the kind's.

    Raises:
        InvalidJob: `base_url` is no URL, or `api_key` is no function.
    """

    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    api_key: Callable[[], str] | None = field(default=None, repr=False)
    keyless: str | None = None
    prices: str | None = None

    def __post_init__(self) -> None:
        if self.base_url is not None:
            check_url(self.base_url, f"The base URL of an account of kind {self.kind}")
        if self.api_key is not None and not callable(self.api_key):  # the message does not show it: it may be the key
            raise InvalidJob(
                f"api_key= of an account of kind {self.kind} is a {type(self.api_key).__name__}; it must be a function that returns the key. "
                "Nothing was sent. Put the key in an environment variable and name that in api_key_env=, or give a function."
            )


def check_url(url: str, whose: str) -> None:
    """Passes if calls can be made to `url`.

    Raises:
        InvalidJob: they cannot; `whose` is what the message begins with.  It never shows a user or a password.
    """
    shown = url.rpartition("@")[2]
    try:
        parts = urlsplit(url)
        wrong = None if parts.hostname and (parts.port is None or parts.port) else "names no host"
        scheme = parts.scheme.lower()
    except ValueError:
        wrong, scheme = "cannot be read", "http"
    if any(char.isspace() or not char.isprintable() for char in url):
        wrong = "has a blank or a line end in it"
    elif scheme not in ("http", "https") or "://" not in url:
        wrong = "does not begin with https:// or http://"
    if wrong is not None:
        raise InvalidJob(f"{whose}, {shown!a}, {wrong}. Nothing was sent. Write it whole, e.g. https://api.openai.com/v1.")


def url_of(account: Account, variable: str | None, official: str | None) -> str:
    """Where an account's calls go: by its own setting, by the environment `variable`, or to the `official` host.

    Raises:
        InvalidJob: the environment variable holds nothing that calls can be made to, or nothing names a host.
    """
    if account.base_url is not None:
        return account.base_url
    url = os.environ.get(variable or "") or None
    if url is not None:
        check_url(url, f"The environment variable {variable}")
    if url is None and official is None:
        raise InvalidJob(
            f"An account of kind {account.kind} needs base_url=, the address of its host. Nothing was sent. "
            f"Give e.g. Account(kind={account.kind!r}, base_url='https://llm.example/v1')."
        )
    return url or official or ""


def origin(url: str) -> str:
    """`scheme://host[:port]` of a base URL, without user, password or path."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def key_of(name: str, account: Account, default: str | None) -> str:
    """The key of an account, without the spaces and line ends it was pasted with: what it gives itself, else what the environment
    variable holds that it names, else `default`; "" where no key is needed (`default` is None) and none is given.

    Raises:
        AccessRefused: it is not set, or cannot be one.
    """
    variable = account.api_key_env or default
    key = (account.api_key() if account.api_key is not None else os.environ.get(variable or "", "")).strip()
    if key and (not key.isascii() or not key.isprintable() or " " in key):  # the errors of HTTP libraries quote such a one
        raise AccessRefused(
            f"The key of {name} holds a space, a line end or a character that is not ASCII, which no provider's key does. Nothing was sent. "
            "Copy it again, and nothing beside it.",
            account=name,
        )
    if key or variable is None:
        return key
    unset = None if account.api_key is not None else f"the environment variable {variable} is not set"
    why = ", and ".join(filter(None, (account.keyless or (None if unset else "its api_key gives none"), unset)))
    raise AccessRefused(f"No key for {name}: {why}. Nothing was sent. Give one and run again.", account=name)
