"""Kind: which services there are, by the kind of the accounts that lead to them.

Those that come with Keld are named here; another package brings one by an entry point of the group `keld.emulator`, whose name is the
kind and whose object makes the service:

    [project.entry-points."keld.emulator"]
    acme = "keld_acme.emulator:Acme"

or a test gives it to `Emulator(services={"acme": Acme})`.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from .answer import Answerer
from .service import Service
from .services.anthropic import Anthropic
from .services.openai import OpenAI
from .services.openai_realtime import OpenAIRealtime
from .store import Store

Factory = Callable[[Store, Answerer], Service]
"""Makes a service of one emulator; usually the class itself."""

GROUP = "keld.emulator"
_OWN: tuple[type[Service], ...] = (OpenAI, Anthropic, OpenAIRealtime)


def factories(given: Mapping[str, Factory] | None = None) -> dict[str, Factory]:
    """What makes each service, by kind: Keld's own, those of other packages, those given; of the same kind the last one counts."""
    found: dict[str, Factory] = {service.kind: service for service in _OWN}
    for point in entry_points(group=GROUP):
        found[point.name] = point.load()
    return found | dict(given or {})
