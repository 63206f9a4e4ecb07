"""Ambient: the headers that the environment adds to every call of a vendor's SDK, for the vendor and for the gateway that its variables name.

A part of the transports of OpenAI and Anthropic: what runs behind a company's gateway with their SDKs runs there with Keld.  A host of another company
gets none of it, though it has the vendor's API: the headers may hold a credential.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from keld.errors import AccessRefused

_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII).fullmatch
# Each call sets these for its own body and reply: another type of content would hide the boundary of an upload's parts from the host.
_OF_EACH_CALL = frozenset(
    ("content-type", "content-length", "content-encoding", "transfer-encoding", "accept-encoding", "range", "if-range", "connection")
)


def is_meant(base_url: str, *, domain: str, host_in: str) -> bool:
    """True if a URL leads to a vendor's domain or below it, or to the host that the SDK's variable for its address names."""
    named = os.environ.get(host_in, "")
    return f".{urlsplit(base_url).hostname}".endswith(f".{domain}") or bool(named and _host_of(named) == _host_of(base_url))


def _host_of(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL, whether or not it writes the port that the scheme has."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def custom_headers(base_url: str, *, domain: str, host_in: str, headers_in: str) -> dict[str, str]:
    """The lines `name: value` of a variable, for a base URL at the vendor's domain or at the host that another variable names; else none.

    What each call says of its own body is left out, as the SDKs do.

    Raises:
        AccessRefused: a line cannot be sent as a header.
    """
    if not is_meant(base_url, domain=domain, host_in=host_in):
        return {}
    vendor, found = domain.partition(".")[0], {}
    for n, line in enumerate(os.environ.get(headers_in, "").splitlines(), 1):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if colon and name and name.lower() not in _OF_EACH_CALL:
            if not _NAME(name):
                raise _unsendable(f"The name of the header in line {n} of the environment variable {headers_in}", vendor)
            found[name.lower()] = _checked(value, f"The header {name} in the environment variable {headers_in}", vendor)
    return found


def named_headers(variables: Mapping[str, str], vendor: str) -> dict[str, str]:
    """The headers whose values the environment has; `variables` has the variable of each.

    Raises:
        AccessRefused: a value cannot be sent.
    """
    found = {header: os.environ.get(variable, "").strip() for header, variable in variables.items()}
    return {header: _checked(value, f"The environment variable {variables[header]}", vendor) for header, value in found.items() if value}


def _checked(value: str, what: str, vendor: str) -> str:
    """Raises:
    AccessRefused: the value of a header has characters that HTTP cannot carry.
    """
    if not value.isascii() or not value.replace("\t", " ").isprintable():
        raise _unsendable(what, vendor)
    return value


def _unsendable(what: str, vendor: str) -> AccessRefused:
    # It is not shown: it may hold a credential.
    return AccessRefused(
        f"{what} has a character that no HTTP header can carry. No call was made. Correct that variable, or unset it.", account=vendor
    )
