"""Accounts: the provider accounts of an environment, by name, each connected at its first use.

Beside the road, above `providers`; `environment` has one, and the runner gets its providers from it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from keld.errors import InvalidJob
from keld.patience import Patience
from keld.price import Lane, Rates
from keld.providers.account import ACCOUNTS, Account, account_names

if TYPE_CHECKING:
    from keld.providers.provider import Provider


class Accounts:
    """The known accounts, and those that an environment adds or replaces.

    Args:
        given: by the name before the colon in a job's `models`.
        patience: how long one call to a provider may take.

    Raises:
        InvalidJob: one of them is no `Account`.
    """

    def __init__(self, given: Mapping[str, Account], patience: Patience) -> None:
        for name, account in given.items():
            if not isinstance(account, Account):  # the message does not show it: it may hold a key
                raise InvalidJob(
                    f"accounts[{name!r}] is a {type(account).__name__}, not a keld.Account. Nothing was sent. "
                    "Give e.g. keld.Account(kind='openai', base_url='https://llm.example/v1').",
                    field="accounts",
                )
        self.known = ACCOUNTS | dict(given)
        self.connected: dict[str, Provider] = {}
        self._patience = patience
        self._lock = threading.Lock()

    def provider(self, name: str) -> Provider:
        """The provider of an account.

        Raises:
            InvalidJob: no account has that name.
        """
        with self._lock:
            if name not in self.connected:
                if name not in self.known:
                    raise InvalidJob(
                        f"models names the account {name!r}; {account_names(name, self.known)}. Nothing was sent. "
                        "Correct models=, or give one of that name in Python: keld.Keld(accounts={...}).",
                        field="models",
                    )
                from keld.providers.provider import connect  # loads the HTTP client: only where an account is used

                self.connected[name] = connect(name, self.known[name], self._patience)
            return self.connected[name]

    def prices(self, name: str) -> str | None:
        """The name of the price list for an account's models, for an unknown account its own name; None: there is no list."""
        from keld.providers.provider import price_list

        return price_list(name, self.known[name]) if name in self.known else name

    def rates(self, name: str, model: str, lane: Lane, at: datetime) -> Rates | None:
        """What a model of an account costs; of an unknown account, by the price list of that name."""
        from keld.pricing import rates
        from keld.providers.provider import rates_of

        if name not in self.known:
            return rates(name, model, lane, at)
        try:
            return self.provider(name).rates(model, lane, at)
        except InvalidJob:  # it lacks a region, a project or a bucket: its price is shown nevertheless
            return rates_of(name, self.known[name], model, lane, at)

    def close(self) -> None:
        """Closes the clients; the next use connects again."""
        for provider in self.connected.values():
            provider.close()
        self.connected.clear()
