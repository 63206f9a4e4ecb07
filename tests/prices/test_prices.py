"""`prices.toml`: made from litellm's entries as they are, from a wheel that is the pinned one, and near to what genai-prices says."""

import io
import tomllib
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from keld import pricing
from keld.price import Lane, Rates
from tests.prices.__main__ import RELEASE, SNAPSHOT, price_file, refuse_compromised
from tests.prices.litellm import SECTIONS, models, written

DAY = datetime(2026, 11, 29, tzinfo=UTC)
TABLE: dict[str, Any] = tomllib.loads((files("keld") / "prices.toml").read_text(), parse_float=Decimal)
AZURE, BEDROCK = (next(section for section in SECTIONS if section.prices == name) for name in ("azure", "bedrock"))


def _entry(provider: str = "azure", **rates: float) -> dict[str, Any]:
    return {"litellm_provider": provider, "mode": "chat", "input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, **rates}


# --- what is in the list -----------------------------------------------------------------------------------------------


def _priced() -> Iterator[tuple[str, str, Lane, Rates]]:
    for prices, section in TABLE.items():
        for model in section["models"]:
            for lane in Lane:
                if (found := pricing.rates(prices, model, lane, DAY)) is not None:
                    yield prices, model, lane, found


# Who differs, and why the higher rate is right or at least harmless: looked at on 29 Nov 2026.
DIFFERING = {
    "azure": {"ada", "gpt-4-turbo", "gpt-4-turbo-2024-04-09", "text-embedding-3-large", "text-embedding-3-small", "text-embedding-ada-002"},
    "vertex": {"gemini-2.0-flash", "gemini-3.5-flash-lite", "gemini-3.8-flash-cyber", "claude-3-5-haiku", "claude-3-5-haiku@20241022"},
}


def test_where_litellm_and_genai_prices_both_know_a_rate_they_agree_or_are_known_to_differ() -> None:
    """On Bedrock genai-prices has one entry, `regional.`, for every profile that is not global; the plain name costs a tenth more there."""
    compared, differing = 0, set()
    for prices, model, lane, found in _priced():
        compared += "; genai-prices" in found.source
        if found.conflict is not None:
            differing.add((prices, model, lane, "aws regional." in found.source))
    assert compared > 300
    unknown = [
        (prices, model, lane)
        for prices, model, lane, regional in differing
        if model not in DIFFERING.get(prices, set()) and not (prices == "bedrock" and (regional or "/" in model))
    ]
    assert not unknown


def test_no_lane_is_dearer_than_the_standard_one() -> None:
    """A rate that was put into the wrong field would show here."""
    for prices, model, lane, found in _priced():
        standard = pricing.rates(prices, model, Lane.STANDARD, DAY)
        assert standard is not None, (prices, model)
        assert found.base.input <= standard.base.input, (prices, model, lane)
        assert found.base.output <= standard.base.output, (prices, model, lane)


def test_a_cached_token_costs_no_more_than_any_other_input() -> None:
    assert not [(prices, model, lane) for prices, model, lane, found in _priced() if found.base.cached > found.base.input]


def test_a_profile_of_a_region_costs_no_less_than_the_plain_name() -> None:
    """So a model in a region of which no list says the rate may be priced as the region's profile."""
    cheaper = [
        (model, lane)
        for prices, model, lane, profile in _priced()
        if prices == "bedrock" and model.partition(".")[0] in ("us", "us-gov", "eu", "jp", "au", "apac")
        and (plain := pricing.rates(prices, model.partition(".")[2], lane, DAY)) is not None and profile.base.input < plain.base.input
    ]  # fmt: skip
    assert not cheaper


@pytest.mark.parametrize("prices", ["openai", "azure", "bedrock", "gemini", "vertex"])
def test_each_section_names_its_source_and_the_day_of_its_snapshot(prices: str) -> None:
    section = TABLE[prices]
    assert (section["source"], section["read"]) == (f"litellm {RELEASE}", SNAPSHOT)
    assert section["genai_prices"]
    assert section["models"]


def test_both_embeddings_and_chat_of_every_cloud_are_listed() -> None:
    for prices, models_ in {
        "azure": ("gpt-5.4-mini", "text-embedding-3-small"),
        "bedrock": ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "amazon.titan-embed-text-v2:0", "amazon.nova-lite-v1:0"),
        "gemini": ("gemini-3.8-flash", "gemini-embedding-001"),
        "vertex": ("gemini-3.8-flash", "claude-haiku-5-5", "gemini-embedding-001"),
    }.items():
        assert set(models_) <= TABLE[prices]["models"].keys()


# --- how it is made ----------------------------------------------------------------------------------------------------


def test_an_entry_becomes_a_line_with_its_lanes_and_long_requests() -> None:
    long = {
        "input_cost_per_token_above_272k_tokens": 4e-06, "output_cost_per_token_above_272k_tokens": 1.2e-05,
        "input_cost_per_token_batches": 1e-06, "output_cost_per_token_batches": 4e-06, "cache_read_input_token_cost_batches": 1e-07,
    }  # fmt: skip
    found = models({"azure/m": _entry(**long)}, AZURE)
    text = "\n".join(written(AZURE, found, "litellm 1", SNAPSHOT))
    assert "above = 272000," in text, "a number of tokens, as `keld prices` shows it"
    assert tomllib.loads(text, parse_float=Decimal)["azure"] == {
        "genai_prices": "azure", "source": "litellm 1", "read": SNAPSHOT,
        "models": {"m": {"standard": {"input": 2, "output": 8, "long": [{"above": 272_000, "input": 4, "output": 12}]},
                         "batch": {"input": 1, "cached": Decimal("0.1"), "output": 4}}},
    }  # fmt: skip


def test_the_noise_of_binary_floats_is_left_out_and_what_is_finer_than_keld_counts_is_rounded_up() -> None:
    found = models({"azure/m": _entry(cache_read_input_token_cost=1.0000000000000001e-07, output_cost_per_token=1.23456789e-06)}, AZURE)
    assert found["m"]["standard"] == {"input": Decimal(2), "cached": Decimal("0.1"), "output": Decimal("1.234568")}


def test_a_lane_with_only_half_of_its_rates_is_left_out() -> None:
    found = models({"azure/m": _entry(input_cost_per_token_batches=1e-06)}, AZURE)
    assert found["m"].keys() == {"standard"}


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("azure/m", {**_entry(), "mode": "image_generation"}),
        ("azure/gpt-audio", _entry() | {"mode": "realtime"}),
        ("azure/eu/m", _entry()),
        ("openai/m", _entry("openai")),
        ("azure/m", {"litellm_provider": "azure", "mode": "chat", "input_cost_per_second": 1.0}),
    ],
    ids=("no text", "realtime", "data zone", "another vendor", "no tokens"),
)
def test_what_no_account_can_ask_is_left_out(name: str, entry: dict[str, Any]) -> None:
    assert models({name: entry}, AZURE) == {}


def test_a_region_that_charges_what_the_plain_name_says_has_no_line() -> None:
    entries = {
        "vendor.m-v1:0": _entry("bedrock_converse"),
        "bedrock/us-east-1/vendor.m-v1:0": _entry("bedrock"),
        "bedrock/sa-east-1/vendor.m-v1:0": _entry("bedrock", input_cost_per_token=3e-06),
        "bedrock/us-east-1/1-month-commitment/vendor.m-v1:0": _entry("bedrock"),
    }
    assert models(entries, BEDROCK).keys() == {"vendor.m-v1:0", "sa-east-1/vendor.m-v1:0"}


# --- from which file ---------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("litellm/model_prices_and_context_window_backup.json", '{"azure/m": {"mode": "chat"}}')
        archive.writestr("litellm/__init__.py", "raise SystemExit('imported')")
    path = tmp_path / "litellm-9.9.9-py3-none-any.whl"
    path.write_bytes(made.getvalue())
    return path


def test_the_price_file_is_read_out_of_the_pinned_wheel_and_nothing_of_it_runs(wheel: Path) -> None:
    assert price_file(wheel, "9.9.9", sha256(wheel.read_bytes()).hexdigest()) == {"azure/m": {"mode": "chat"}}


@pytest.mark.parametrize(("release", "right"), [("9.9.9", False), ("9.9.8", True)], ids=("another hash", "another release"))
def test_a_wheel_that_is_not_the_pinned_one_is_not_opened(wheel: Path, release: str, right: bool) -> None:
    pinned = sha256(wheel.read_bytes()).hexdigest() if right else "0" * 64
    with pytest.raises(SystemExit, match="not opened"):
        price_file(wheel, release, pinned)


def test_the_release_that_was_compromised_is_refused_before_anything_is_downloaded(wheel: Path) -> None:
    with pytest.raises(SystemExit, match=r"1\.107\.0 was compromised. Nothing was downloaded"):
        refuse_compromised("1.107.0")
    with pytest.raises(SystemExit, match="compromised"):
        price_file(wheel, "1.107.0", sha256(wheel.read_bytes()).hexdigest())


def test_the_day_of_the_snapshot_is_not_in_the_future() -> None:
    assert date.today() >= SNAPSHOT
