"""Ambient: the headers that the environment adds to every call of a vendor's SDK, for the vendor and for the gateway that its variables name.

A part of the transports of OpenAI and Anthropic: what runs behind a company's gateway with their SDKs runs there with Keld.  A host of another company
gets none of it, though it has the vendor's API: the headers may hold a credential.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from keld.providers.account import origin


def is_host_of(base_url: str, domain: str) -> bool:
    """True if a URL leads to a vendor's domain or below it."""
    return f".{urlsplit(base_url).hostname}".endswith(f".{domain}")


def custom_headers(base_url: str, *, domain: str, host_in: str, headers_in: str) -> dict[str, str]:
    """The lines `name: value` of a variable, for a base URL at the vendor's domain or at the host that another variable names; else none."""
    named = os.environ.get(host_in, "")
    if not is_host_of(base_url, domain) and not (named and origin(named) == origin(base_url)):
        return {}
    pairs = (line.partition(":") for line in os.environ.get(headers_in, "").splitlines())
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon and name.strip()}
