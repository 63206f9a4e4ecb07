"""Providers: one file each behind the Protocol of `base`; this one only knows which file speaks whose wire."""

from __future__ import annotations

from keld.errors import InvalidJob
from keld.http import Patience
from keld.providers.base import Account, Provider

ACCOUNTS = {"openai": Account(kind="openai"), "anthropic": Account(kind="anthropic")}


def connect(name: str, account: Account, patience: Patience | None = None) -> Provider:
    """The provider behind an account; its SDK is imported now, not before.

    Raises:
        InvalidJob: no such kind.
        AccessRefused: the account's key is not set.
    """
    match account.kind:
        case "openai":
            from keld.providers.openai import OpenAI

            return OpenAI(name, account, patience or Patience())
        case "anthropic":
            from keld.providers.anthropic import Anthropic

            return Anthropic(name, account, patience or Patience())
        case kind:
            raise InvalidJob(f"Account {name!r} is of kind {kind!r}; the kinds are openai and anthropic.")
