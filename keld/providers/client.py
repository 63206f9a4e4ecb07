"""Client: where an account is and whose key it takes, without ever showing the key.

Beside `base`.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from keld.errors import AccessRefused


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
