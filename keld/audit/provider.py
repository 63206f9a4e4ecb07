"""Provider: the names that logs use for who answered and for a model -> an account of Keld's and the name in its price list."""

from __future__ import annotations

import re

# What logs call a provider (in small letters, up to the first mark) -> the kind of account, which is also the name of its price list.
_KINDS = {
    "openai": "openai", "text-completion-openai": "openai", "azure": "azure", "azure_ai": "azure", "anthropic": "anthropic",
    "bedrock": "bedrock", "bedrock_converse": "bedrock", "aws": "bedrock", "amazon": "bedrock", "vertex_ai": "vertex", "vertex": "vertex",
    "gcp": "vertex", "gcp.gemini": "gemini", "vertex_ai_beta": "vertex", "az": "azure", "azureopenai": "azure", "azure_openai": "azure",
    "gemini": "gemini", "google": "gemini", "google_ai_studio": "gemini", "google-ai-studio": "gemini", "mistral": "mistral",
    "mistralai": "mistral", "mistral_ai": "mistral", "groq": "groq", "together": "together", "together_ai": "together",
    "together-ai": "together", "fireworks": "fireworks", "fireworks_ai": "fireworks", "deepinfra": "deepinfra", "xai": "xai", "x_ai": "xai",
    "x-ai": "xai", "openrouter": "openrouter",
}  # fmt: skip
_PRICES = {"xai": "x-ai", "gemini": "google"}  # where the list is not called as the kind
_BY_MODEL = (
    (re.compile(r"(gpt-|o\d|chatgpt|text-embedding-)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"(gemini|text-embedding-00)"), "gemini"),
    (re.compile(r"(mistral|ministral|codestral|magistral|pixtral)"), "mistral"),
    (re.compile(r"(us\.|eu\.|apac\.|jp\.|global\.)?(anthropic|amazon|meta|cohere)\.[a-z]"), "bedrock"),
    (re.compile(r"grok"), "xai"),
)
_DISPLAYED = re.compile(r"claude (opus|sonnet|haiku) ([\d.]+)", re.IGNORECASE)  # Anthropic's console names models for people


def account_of(provider: str, model: str) -> tuple[str, str]:
    """(the account's name or "", the model's name as its price list has it) of what a log says.

    >>> account_of("OpenAI", "openai/gpt-5-mini")
    ('openai', 'gpt-5-mini')
    >>> account_of("", "Claude Haiku 4.5")
    ('anthropic', 'claude-haiku-4-5')
    >>> account_of("openrouter", "anthropic/claude-sonnet-4.5")
    ('anthropic', 'claude-sonnet-4-5')
    >>> account_of("openrouter", "deepseek/deepseek-v4")
    ('openrouter', 'deepseek/deepseek-v4')
    >>> account_of("vertex_ai-anthropic_models", "claude-haiku-4-5"), account_of("google", "models/gemini-2.5-flash")
    (('vertex', 'claude-haiku-4-5'), ('gemini', 'gemini-2.5-flash'))
    >>> account_of("vllm", "our-own")
    ('vllm', 'our-own')
    """
    name = model.strip().removeprefix("models/")
    if displayed := _DISPLAYED.match(name):
        name = f"claude-{displayed[1].lower()}-{displayed[2].replace('.', '-')}"
    before, mark, after = name.partition("/")
    said = provider.strip().lower()
    kind = _KINDS.get(said) or _KINDS.get(re.split(r"[.:/ -]", said)[0])
    if kind == "openrouter":
        return _maker_of(name, before.lower(), after)
    if mark and before.lower() in _KINDS:
        name, kind = after, kind or _KINDS[before.lower()]
    if name.startswith("arn:"):
        name = name.rpartition("/")[2]
    if kind is None and not said:
        kind = next((kind for begin, kind in _BY_MODEL if begin.match(name)), None)
    return kind or said, name


def _maker_of(name: str, maker: str, after: str) -> tuple[str, str]:
    """Whose model OpenRouter passed a call on to: its price is the maker's, who sells batches where OpenRouter does not."""
    plain, _, routed = after.partition(":")  # `:nitro`, `:free`
    if maker not in _KINDS or routed == "free":
        return "openrouter", name
    return _KINDS[maker], plain.replace(".", "-") if maker == "anthropic" else plain


def price_list_of(account: str) -> str:
    return _PRICES.get(account, account)
