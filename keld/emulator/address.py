"""Address: shorthands for the addresses that tests ask for most; `Emulator.url_of` knows those of all kinds."""

from abc import ABC, abstractmethod


class Addresses(ABC):
    """Where the best-known services are."""

    @abstractmethod
    def url_of(self, kind: str) -> str:
        """The URL to which a client of this kind is pointed."""

    @property
    def openai_url(self) -> str:
        return self.url_of("openai")

    @property
    def anthropic_url(self) -> str:
        return self.url_of("anthropic")
