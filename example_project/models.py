"""Models: which ones the demo asks: by default OpenAI's, else those that `KELD_DEMO_MODELS` names, e.g. `bedrock:amazon.nova-lite-v1:0`.

In your own project you write the names into the jobs; this file is there so that the demo can show each kind of provider.
"""

import os
from typing import Any

TRIAGE = [name.strip() for name in os.environ.get("KELD_DEMO_MODELS", "openai:gpt-5-mini").split(",")]

# A kind without embeddings has OpenAI's beside it: the jobs of a pipeline may ask different providers.
_EMBEDDING = {
    "azure": "azure:text-embedding-3-small",
    "gemini": "gemini:gemini-embedding-001",
    "mistral": "mistral:codestral-embed",
}
_KINDS = [name.partition(":")[0] for name in TRIAGE]
EMBEDDINGS = [next((_EMBEDDING[kind] for kind in _KINDS if kind in _EMBEDDING), "openai:text-embedding-3-small")]
ASKED = ", ".join([*TRIAGE, *EMBEDDINGS])

# No list has the price of a server of your own; here it is that of a small one.  With `gpu_hour_usd` of the account, time is paid instead of tokens.
PRICES = {name: {"input": "0.05", "output": "0.20"} for name in TRIAGE if name.startswith("self_hosted:")}
# A parameter of OpenAI's reasoning models: other models would refuse it.
PARAMS: dict[str, Any] = {"reasoning_effort": "minimal"} if all(":gpt-5" in name for name in TRIAGE) else {}
