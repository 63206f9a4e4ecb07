"""Kind: which services there are, by the kind of the accounts that lead to them.

Those that come with Keld are named here; another package adds one by an entry point of the group `keld.emulator`, whose name is the
kind and whose object makes the service:

    [project.entry-points."keld.emulator"]
    acme = "keld_acme.emulator:Acme"

or a test gives it to `Emulator(services={"acme": Acme})`.
"""

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from .answer import Answerer
from .service import Service
from .services.anthropic import Anthropic
from .services.azure import Azure
from .services.bedrock import Bedrock
from .services.gcs import Gcs
from .services.gcs_json import GcsJson
from .services.gemini import Gemini
from .services.mistral import Mistral
from .services.openai import OpenAI
from .services.openai_compatible import OpenAICompatible
from .services.openai_hosts import XAI, DeepInfra, Fireworks, Groq, OpenRouter, Together
from .services.s3 import S3
from .services.self_hosted import SelfHosted
from .services.vertex import Vertex
from .store import Store

Factory = Callable[[Store, Answerer], Service]
"""Makes a service of one emulator; usually the class itself."""

GROUP = "keld.emulator"
_OWN: tuple[type[Service], ...] = (
    OpenAI,
    Anthropic,
    OpenAICompatible,
    Groq,
    Together,
    OpenRouter,
    XAI,
    Fireworks,
    DeepInfra,
    SelfHosted,
    Azure,
    Gemini,
    Mistral,
    S3,
    Gcs,
    GcsJson,
    Bedrock,
    Vertex,
)


def factories(given: Mapping[str, Factory] | None = None) -> dict[str, Factory]:
    """What makes each service, by kind: Keld's own first, then those of other packages, then those given.

    Another package cannot take the name of a kind of Keld's own; what is given replaces the one of that kind.
    """
    own: dict[str, Factory] = {service.kind: service for service in _OWN}
    from_packages = {point.name: point.load() for point in _entry_points(tuple(sys.path)) if point.name not in own}
    return own | from_packages | dict(given or {})


@lru_cache
def _entry_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Kept for as long as Python looks for packages in the same places: a search takes a tenth of a second, and a test suite starts
    hundreds of emulators.
    """
    return tuple(entry_points(group=GROUP))
