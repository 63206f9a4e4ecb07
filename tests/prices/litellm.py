"""litellm: the entries of its file `model_prices_and_context_window.json` -> the tables of `keld/prices.toml`.

The file (MIT) is the most complete public list of what the clouds charge.  An entry is named `azure/gpt-5-mini`, has a `litellm_provider` and
rates in USD per token, one field for each lane and length of request: `input_cost_per_token_above_272k_tokens_batches`.
Taken: models that give text or embeddings, with their standard, batch and flex rates, as they are.  Nothing is derived here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Any

Entries = Mapping[str, Mapping[str, Any]]
Rates = dict[str, Any]  # by kind of token in USD per million; "long": those of long requests, each with "above"
Models = dict[str, dict[str, Any]]  # by model and lane

_MODES = {"chat", "responses", "embedding"}
_LANES = {"standard": "", "batch": "_batches", "flex": "_flex"}
_FIELDS = {
    "input": "input_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "output": "output_cost_per_token",
}
_LONG = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_SAME = {"text-embedding-ada-002-v2": "text-embedding-ada-002"}  # one model under two names, of which the second has no batch rate
_NO_TEXT = re.compile(r"-tts|-audio|realtime|transcribe|-image|/sora|computer-use")  # named chat models, priced by tokens of another kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table of `prices.toml`.

    Attributes:
        prices: the name of the price list.
        genai_prices: the name of the same vendor's list in genai-prices.
        providers: the values of `litellm_provider` whose models are taken.
        prefix: what litellm writes before a model's name.
        lanes: those that are taken; the rest genai-prices has.
    """

    prices: str
    genai_prices: str
    providers: frozenset[str]
    prefix: str = ""
    lanes: frozenset[str] = frozenset(_LANES)


SECTIONS = (
    # OpenAI, Anthropic and Mistral are in genai-prices, except for these lanes of OpenAI's embeddings.
    Section(prices="openai", genai_prices="openai", providers=frozenset({"openai"}), lanes=frozenset({"batch"})),
    Section(prices="azure", genai_prices="azure", providers=frozenset({"azure"}), prefix="azure/"),
    Section(prices="bedrock", genai_prices="aws", providers=frozenset({"bedrock", "bedrock_converse"}), prefix="bedrock/"),
    Section(prices="gemini", genai_prices="google", providers=frozenset({"gemini"}), prefix="gemini/"),
    Section(
        prices="vertex",
        genai_prices="google",
        providers=frozenset({"vertex_ai", "vertex_ai-language-models", "vertex_ai-embedding-models", "vertex_ai-anthropic_models"}),
        prefix="vertex_ai/",
    ),
)


def models(entries: Entries, section: Section) -> Models:
    """The models of a section, by name; retired ones too, since the file's `deprecation_date` is of many the earliest day that was announced."""
    found: Models = {}
    for full, entry in sorted(entries.items()):
        name = _SAME.get(full, full).removeprefix(section.prefix)
        if not _taken(full, name, entry, section):
            continue
        lanes = {lane: rates for lane in _LANES if lane in section.lanes and (rates := _rates(entry, lane)) is not None}
        if "regional_endpoint_uplift_multiplier" in entry:
            lanes["regional"] = _number(entry["regional_endpoint_uplift_multiplier"])
        if not any(lane in lanes for lane in _LANES):
            continue
        if name in found:  # the same model with and without the prefix: the two are one
            lanes = _both(found[name], lanes)
        found[name] = lanes
    return _without_repeated_regions(found) if section.prices == "bedrock" else found


def _taken(full: str, name: str, entry: Mapping[str, Any], section: Section) -> bool:
    return (
        entry.get("litellm_provider") in section.providers
        and entry.get("mode") in _MODES
        and not _NO_TEXT.search(full)
        and (section.prices != "openai" or entry["mode"] == "embedding")
        and _known_name(section.prices, name)
    )


def _known_name(prices: str, name: str) -> bool:
    """False for names that no account of ours has: another API, a rented capacity, a data zone (`price_factor` of the account)."""
    if prices == "bedrock":  # `model` or `region/model`
        return "@" not in name and re.fullmatch(r"([a-z]+(-gov)?-[a-z]+-\d/)?[^/.]+\.[^/]+", name) is not None
    return "/" not in name or (prices == "vertex" and name.startswith("xai/"))


def _rates(entry: Mapping[str, Any], lane: str) -> Rates | None:
    """None: the entry has no rate of the lane, or not for both directions."""
    found = _given(entry, lane, "")
    if "input" not in found or ("output" not in found and entry["mode"] != "embedding"):
        return None
    limits = sorted({int(match[1]) for field in entry if (match := _LONG.match(field))})
    long = [(limit * 1000, _given(entry, lane, f"_above_{limit}k_tokens")) for limit in limits]
    if told := [{"above": above, **rates} for above, rates in long if "input" in rates and "output" in rates]:
        found["long"] = told
    return found


def _given(entry: Mapping[str, Any], lane: str, length: str) -> Rates:
    named = {kind: entry.get(f"{field}{length}{_LANES[lane]}") for kind, field in _FIELDS.items()}
    found = {kind: _number(Decimal(repr(value)) * 10**6) for kind, value in named.items() if value is not None}
    return found


def _number(value: Any) -> Decimal:
    """Rounded up to what Keld counts: the file has the noise of binary floats (1.0000000000000001e-07)."""
    return Decimal(str(value)).quantize(Decimal("0.00000001")).quantize(Decimal("0.000001"), ROUND_CEILING).normalize()


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two entries of one model; where both have a lane, the one that costs more."""
    return one | other | {lane: max(one[lane], other[lane], key=_weight) for lane in one.keys() & other.keys() & _LANES.keys()}


def _weight(rates: Rates) -> tuple[Decimal, Decimal, int]:
    return rates["input"], rates.get("output", Decimal(0)), len(rates)


def _without_repeated_regions(found: Models) -> Models:
    """Without the regions that charge what the model's plain name says."""
    return {name: lanes for name, lanes in found.items() if "/" not in name or lanes != found.get(name.partition("/")[2])}


# -- as TOML --------------------------------------------------------------------------------------------------


def written(prices: Section, found: Models, source: str, day: date) -> Iterator[str]:
    """The lines of a section; numbers as they are, so that they are read back exactly."""
    yield f"[{prices.prices}]"
    yield f'genai_prices = "{prices.genai_prices}"'
    yield f'source = "{source}"'
    yield f"read = {day}"
    yield f"[{prices.prices}.models]"
    for name, lanes in found.items():
        yield f'"{name}" = {{ {", ".join(f"{lane} = {_value(value)}" for lane, value in lanes.items())} }}'


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_value(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:d}" if isinstance(value, int) else f"{value:f}"  # a number of tokens, or a rate
