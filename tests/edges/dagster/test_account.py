"""The accounts of a `KeldResource`: the fields of each kind, from Python, from run configuration and from environment variables."""

from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from keld import Account, AzureAccount, BedrockAccount, InvalidJob, SelfHostedAccount, VertexAccount
from keld_dagster import KeldAccount, KeldResource
from tests.support.documents import DOCS, blocks

TEST_ENV = {"TEST_REGION": "eu-central-1", "TEST_FACTOR": "1.1", "TEST_COUNT": "64", "TEST_DEPLOYMENT": "mini-batch"}


def account_in_a_run(home: Path, resource: KeldResource, config: dict[str, Any] | None = None) -> Account:
    """The account `x`, as an asset sees it."""
    seen: list[Account] = []

    @dg.asset
    def look(keld: KeldResource) -> None:
        seen.append(keld.get().accounts["x"])

    run_config = None if config is None else {"resources": {"keld": {"config": {"home": str(home), "accounts": {"x": config}}}}}
    dg.materialize([look], resources={"keld": resource}, run_config=run_config)
    return seen[0]


@pytest.mark.parametrize(
    ("given", "account"),
    [
        (
            KeldAccount(kind="azure", deployments={"gpt-5-mini": dg.EnvVar("TEST_DEPLOYMENT")}, price_factor=dg.EnvVar("TEST_FACTOR")),
            AzureAccount(deployments={"gpt-5-mini": "mini-batch"}, price_factor=Decimal("1.1")),
        ),
        (
            KeldAccount(kind="bedrock", region=dg.EnvVar("TEST_REGION"), bucket="s3://b/keld", role="arn:aws:iam::123456789012:role/r"),
            BedrockAccount(region="eu-central-1", bucket="s3://b/keld", role="arn:aws:iam::123456789012:role/r"),
        ),
        (
            KeldAccount(kind="vertex", project="p", location="global", bucket="gs://b"),
            VertexAccount(project="p", location="global", bucket="gs://b"),
        ),
        (
            KeldAccount(kind="self_hosted", gpu_hour_usd=Decimal("2.49"), most_at_once=dg.EnvVar.int("TEST_COUNT"), base_url="http://h/v1"),
            SelfHostedAccount(gpu_hour_usd="2.49", most_at_once=64, base_url="http://h/v1"),
        ),
        (KeldAccount(kind="groq", prices="groq", api_key_env="EU_KEY"), Account(kind="groq", prices="groq", api_key_env="EU_KEY")),
    ],
)
def test_an_account_of_a_resource_has_the_fields_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: KeldAccount, account: Account
) -> None:
    for name, value in TEST_ENV.items():
        monkeypatch.setenv(name, value)
    assert account_in_a_run(tmp_path, KeldResource(home=str(tmp_path), accounts={"x": given})) == account


def test_the_account_that_the_documentation_shows_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [shown] = [block.text for block in blocks(DOCS / "how-to" / "dagster.md") if "KeldAccount(" in block.text]
    names: dict[str, Any] = {"dg": dg, "KeldResource": KeldResource}
    exec(shown, names)
    monkeypatch.setenv("EU_REGION", "eu-central-1")
    seen = account_in_a_run(tmp_path, KeldResource(home=str(tmp_path), accounts={"x": names["resource"].accounts["bedrock-eu"]}))
    assert seen == BedrockAccount(region="eu-central-1", bucket="s3://my-bucket-eu/keld", price_factor=Decimal("1.1"))


def test_run_configuration_may_have_the_fields_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REGION", "eu-central-1")
    config = {"kind": "bedrock", "region": {"env": "TEST_REGION"}, "price_factor": "1.1"}
    seen = account_in_a_run(tmp_path, KeldResource.configure_at_launch(), config)
    assert seen == BedrockAccount(region="eu-central-1", price_factor=Decimal("1.1"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"kind": "openai", "region": "us-east-1"},
            "field 'region', which an account of kind openai does not have; it is a field of bedrock",
        ),
        ({"kind": "bedrock", "region": "Frankfurt"}, "is 'Frankfurt'.* Write it like 'us-east-1'"),
        ({"kind": "azure", "price_factor": "10 %"}, "price_factor='10 %'.* Write a number above 0"),
        ({"kind": "azure", "price_factor": 5000}, "price_factor= of an account of kind azure is .*5000"),
        ({"kind": "azure", "deployments": {"gpt-5-mini": ""}}, "deployments=.* Write a JSON object"),
        ({"kind": "self_hosted", "most_at_once": 0}, "most_at_once=0.* Write a whole number"),
    ],
)
def test_a_field_of_another_kind_or_a_wrong_value_is_refused(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidJob, match=says) as refused:
        account_in_a_run(tmp_path, KeldResource(home=str(tmp_path), accounts={"eu": KeldAccount(**given)}))
    assert "The account 'eu' of the KeldResource" in str(refused.value)
    assert "Nothing was sent" in str(refused.value)


def test_a_field_that_no_account_has_is_refused_and_its_value_not_quoted() -> None:
    """It may be a key in the wrong place; passed over, it would be a key that is not used."""
    with pytest.raises(ValidationError, match="api_key") as refused:
        KeldAccount(kind="openai", api_key="sk-CANARY")
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize("account", [Account, AzureAccount, BedrockAccount, SelfHostedAccount, VertexAccount])
def test_every_field_of_every_account_can_be_given(account: type[Account]) -> None:
    """Except functions, and the words that stand for a missing key."""
    assert {field.name for field in fields(account)} - {"api_key", "credentials", "keyless"} <= set(KeldAccount.model_fields)
