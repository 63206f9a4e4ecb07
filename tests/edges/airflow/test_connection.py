"""Connections and what Airflow is told of the package: whose keys, which ledger, what the UI may show."""

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from keld import Account, AzureAccount, BedrockAccount, Keld, SelfHostedAccount, VertexAccount, account_fields, kinds
from keld.emulator import Emulator
from keld_airflow.provider import CONNECTION_FIELDS, get_provider_info
from tests.edges.airflow.airflow_worker import ROWS, Worker, job, since
from tests.support.documents import DOCS, ROOT, blocks


def connection(monkeypatch: pytest.MonkeyPatch, name: str = "keld_default", **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "keld", **fields}))


def opened(conn_id: str = "keld_default") -> Keld:
    from keld_airflow import KeldHook

    return KeldHook(conn_id).open()


# --- the hook ---------------------------------------------------------------------------------------------------------


def test_without_a_connection_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`pip install`, a key in the environment, and it runs."""
    monkeypatch.delenv("KELD_HOME", raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    with opened() as keld:
        assert keld.home == tmp_path / "keld"
        assert set(keld.accounts) == set(kinds())


class SealedVault:
    """A secrets backend that is there and does not answer."""

    def get_connection(self, conn_id: str, **_: Any) -> None:
        raise RuntimeError("Vault is sealed: token s.CANARY")


def test_without_an_answer_of_the_secrets_backend_the_environment_does_not_decide(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow says "not defined" of every connection while a vault is sealed (apache/airflow#68301); the ledger that one names has what was paid."""
    from airflow.providers.common.compat.sdk import AirflowFailException
    from airflow.sdk.execution_time import supervisor

    from keld_airflow import KeldBatchOperator

    monkeypatch.setattr(supervisor, "ensure_secrets_backend_loaded", lambda: [SealedVault()])
    ended = worker.run(KeldBatchOperator(task_id="label", job=job(), source=lambda: ROWS))
    assert "connection keld_default could not be asked: SealedVault failed with RuntimeError. Nothing was sent" in str(ended.error)
    assert not isinstance(ended.error, AirflowFailException), "a later try may succeed"
    assert "CANARY" not in ended.kept + str(ended.error)
    assert provider.requests() == []


def test_without_an_answer_of_airflows_database_the_environment_does_not_decide(worker: Worker, provider: Emulator) -> None:
    """A failover of the metadata database takes seconds, in which a task may begin."""
    from keld_airflow import KeldBatchOperator

    label = KeldBatchOperator(task_id="label", job=job(), source=lambda: ROWS)
    worker.database_is_away = True
    ended = worker.run(label)
    assert "connection keld_default could not be asked: ExecutionAPISecretsBackend failed" in str(ended.error)
    assert provider.requests() == []
    worker.database_is_away = False
    assert worker.run(label).state == "deferred"


@since("3.2")
def test_a_connection_that_airflow_denies_to_a_callback_is_told_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in Airflow 3.3.2: a `SyncCallback` of a `DeadlineAlert` has a token that opens no connection, whether there is one or not."""
    from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied
    from airflow.sdk.execution_time import supervisor

    class ForTasksOnly:
        def get_connection(self, conn_id: str, **_: Any) -> None:
            raise AirflowSecretsBackendAccessDenied(conn_id)

    monkeypatch.setattr(supervisor, "ensure_secrets_backend_loaded", lambda: [ForTasksOnly()])
    with pytest.raises(
        Exception, match=r"denies the connection keld_default .* as an AsyncCallback, or the connection as AIRFLOW_CONN_KELD_DEFAULT"
    ):
        opened()


def test_a_connection_that_was_named_must_be_there() -> None:
    with pytest.raises(Exception, match="no connection keld_typo, which keld_conn_id names"):
        opened("keld_typo")


def test_a_key_comes_from_the_connection_and_stands_in_no_text(provider: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    base_url = provider.env()["OPENAI_BASE_URL"]
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    connection(monkeypatch, host=base_url, password="sk-CANARY")
    with opened() as keld:
        keld.provider("openai").newest()
        assert "CANARY" not in repr(keld.accounts)


def test_one_connection_may_name_others_for_further_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's models may be of several providers."""
    connection(monkeypatch, extra={"more_accounts": "keld_claude, keld_own"})
    connection(monkeypatch, "keld_claude", password="k", extra={"provider": "anthropic"})
    connection(monkeypatch, "keld_own", host="vllm.internal", port=8443, schema="v1", extra={"account": "own"})
    with opened() as keld:
        assert keld.accounts["anthropic"].kind == "anthropic"
        assert keld.accounts["own"].base_url == "https://vllm.internal:8443/v1"


@pytest.mark.parametrize(
    ("notation", "kind", "base_url", "key"),
    [
        ("keld://:sk-abc%2F%2Bx@", "openai", None, "sk-abc/+x"),
        ("keld://:sk-abc@/?provider=anthropic", "anthropic", None, "sk-abc"),
        ("keld://:sk-abc@http%3A%2F%2F127.0.0.1%3A8700%2Fv1", "openai", "http://127.0.0.1:8700/v1", "sk-abc"),
        ("keld://:sk-abc@llm.internal:8443/v1", "openai", "https://llm.internal:8443/v1", "sk-abc"),
        ("keld://http://:sk-abc@127.0.0.1:8700/v1?provider=openai", "openai", "http://127.0.0.1:8700/v1", "sk-abc"),
        (
            '{"conn_type": "keld", "password": "sk-abc", "host": "http://llm/", "port": 80, "schema": "http"}',
            "openai",
            "http://llm:80",
            "sk-abc",
        ),
        ('{"conn_type": "keld", "password": " sk-abc \\n", "host": " llm.internal "}', "openai", "https://llm.internal", "sk-abc"),
        ('{"conn_type": "keld", "password": "sk-abc", "host": "llm", "port": 80, "schema": "http"}', "openai", "http://llm:80", "sk-abc"),
    ],
)
def test_a_connection_may_be_written_in_airflows_ways(
    monkeypatch: pytest.MonkeyPatch, notation: str, kind: str, base_url: str | None, key: str
) -> None:
    from keld.providers.account import key_of

    monkeypatch.setenv("AIRFLOW_CONN_KELD_DEFAULT", notation)
    with opened() as keld:
        account = keld.accounts[kind]
        assert (account.kind, account.base_url, key_of(kind, account, "NO_SUCH_VARIABLE")) == (kind, base_url, key)


@pytest.mark.parametrize(
    ("notation", "says"),
    [
        ("keld://sk-CANARY@", "the API key is its password"),
        ('{"conn_type": "keld", "extra": {"api_key": "sk-CANARY"}}', "a field 'api_key'.* the API key is the password"),
        (
            '{"conn_type": "keld", "password": "sk-CANARY", "extra": {"provider": "nobody"}}',
            "the providers are anthropic, .*openai, openai_compatible",
        ),
        ('{"conn_type": "keld", "password": "sk-CANARY", "extra": {"more_account": "b"}}', "Is more_accounts meant"),
        ('{"conn_type": "keld", "password": "sk-CANARY", "extra": {"account": "a:b"}}', "account='a:b'"),
        ('{"conn_type": "keld", "password": "sk-CANARY", "port": 8443}', "a port or a schema, and no host"),
        ('{"conn_type": "keld", "password": "sk-CANARY", "host": "http://llm:80", "port": 8443}', "a port or a schema beside a base URL"),
        ('{"conn_type": "keld", "password": "sk-CANARY", "host": "http://llm/v1", "schema": "v2"}', "a port or a schema beside a base URL"),
        ('{"conn_type": "http", "password": "sk-CANARY"}', "is of type http, which holds no account"),
        ('{"conn_type": "keld", "password": "sk-CANARY", "extra": {"more_accounts": "keld_other"}}', "are both the account 'openai'"),
        ('{"conn_type": "keld", "password": "sk-CANARY", "extra": "provider=anthropic"}', "no JSON object|cannot read what"),
        ('{"conn_type": "keld", "password": "sk-CANARY", "extra": "[]"}', "no JSON object|cannot read what"),
        ('{"conn_type": "keld", "password": "sk-CANARY"', "cannot read what the environment variable AIRFLOW_CONN_KELD_DEFAULT holds"),
    ],
)
def test_what_a_connection_says_is_read_or_refused(monkeypatch: pytest.MonkeyPatch, notation: str, says: str) -> None:
    """Passed over, it would be a key that is not used, or another ledger than the one that was meant."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    connection(monkeypatch, "keld_other", password="sk-CANARY")
    monkeypatch.setenv("AIRFLOW_CONN_KELD_DEFAULT", notation)
    with pytest.raises(AirflowFailException, match=says) as refused:
        opened()
    assert "Nothing was sent" in str(refused.value)
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize(
    ("extra", "account"),
    [
        (
            {"provider": "azure", "deployments": {"gpt-5-mini": "mini-batch"}, "fast_deployments": None, "price_factor": 1.1},
            AzureAccount(deployments={"gpt-5-mini": "mini-batch"}, price_factor=Decimal("1.1")),
        ),
        (
            {"provider": "bedrock", "region": "eu-central-1", "bucket": "s3://b/keld", "role": "arn:aws:iam::123456789012:role/r"},
            BedrockAccount(region="eu-central-1", bucket="s3://b/keld", role="arn:aws:iam::123456789012:role/r"),
        ),
        ({"provider": "vertex", "project": "p", "location": "", "bucket": "gs://b"}, VertexAccount(project="p", bucket="gs://b")),
        (
            {"provider": "self_hosted", "gpu_hour_usd": "2.49", "most_at_once": 64, "length_field": "max_completion_tokens"},
            SelfHostedAccount(gpu_hour_usd="2.49", most_at_once=64, length_field="max_completion_tokens"),
        ),
        ({"provider": "openai_compatible", "prices": "groq"}, Account(kind="openai_compatible", prices="groq")),
    ],
)
def test_the_extra_has_the_fields_of_its_kind(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], account: Account) -> None:
    """As JSON, and in a URI, which holds texts only."""
    uri = "keld://?" + urlencode(
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in extra.items() if value is not None}
    )
    for notation in (json.dumps({"conn_type": "keld", "extra": extra}), uri):
        monkeypatch.setenv("AIRFLOW_CONN_KELD_DEFAULT", notation)
        with opened() as keld:
            assert replace(keld.accounts[account.kind], api_key=None, keyless=None) == account


def test_the_extra_that_the_documentation_shows_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    [shown] = [block.text for block in blocks(DOCS / "how-to" / "airflow.md") if block.language == "json"]
    connection(monkeypatch, extra=json.loads(shown))
    with opened() as keld:
        account = replace(keld.accounts["azure-eu"], api_key=None, keyless=None)
        assert account == AzureAccount(deployments={"gpt-5-mini": "mini-batch"}, price_factor=Decimal("1.1"))


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"region": "us-east-1"}, "field 'region', which an account of kind openai does not have; it is a field of bedrock"),
        ({"provider": "vertex", "role": "r"}, "field 'role', which an account of kind vertex .* vertex has .*project, location, bucket"),
        ({"provider": "bedrock", "regoin": "us-east-1"}, "a field 'regoin', which Keld does not know.* Is region meant"),
        ({"provider": "bedrock", "api_key_env": "KEY"}, "a field 'api_key_env', which Keld does not know.* the API key is the password"),
        ({"provider": "bedrock", "region": "Frankfurt"}, "The region .* is 'Frankfurt'.* Write it like 'us-east-1'"),
        ({"provider": "vertex", "project": 7}, "project=7.* Write a text"),
        ({"provider": "azure", "deployments": "mini-batch"}, "deployments='mini-batch'.* Write a JSON object"),
        ({"provider": "azure", "deployments": {"gpt-5-mini": 1}}, "deployments=.* Write a JSON object"),
        ({"provider": "azure", "price_factor": "10 %"}, "price_factor='10 %'.* Write a number above 0"),
        ({"provider": "azure", "price_factor": "nan"}, "price_factor='nan'.* Write a number above 0"),
        ({"provider": "self_hosted", "gpu_hour_usd": True}, "gpu_hour_usd=True.* Write a number above 0"),
        ({"provider": "self_hosted", "most_at_once": 1.5}, "most_at_once=1.5.* Write a whole number"),
        ({"provider": "self_hosted", "most_at_once": "1e999999"}, "most_at_once='1e999999'.* Write a whole number"),
        ({"provider": "self_hosted", "length_field": "tokens"}, "length_field='tokens'.* Write max_tokens or max_completion_tokens"),
    ],
)
def test_a_field_of_another_kind_or_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], says: str) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    connection(monkeypatch, password="sk-CANARY", extra=extra)
    with pytest.raises(AirflowFailException, match=says) as refused:
        opened()
    assert "The connection keld_default" in str(refused.value)
    assert "Nothing was sent" in str(refused.value)
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize("field", ["more_accounts", "ledger_conn_id"])
def test_a_connection_that_names_one_which_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """A secrets backend that is away looks the same to Airflow, so that it is tried again."""
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    connection(monkeypatch, "keld_default", password="sk-CANARY", extra={field: "keld_nowhere"})
    with pytest.raises(AirflowNotFoundException, match=f"no connection keld_nowhere, which {field} of the connection keld_default names"):
        opened()


@pytest.mark.parametrize("key", ["sk-CANARY\u00fc", "sk-CANARY\nBearer", "sk-CANARY x", "sk-CANARY\u200b"])
def test_a_key_that_no_header_takes_is_refused_and_not_quoted(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pasted with what stood beside it; the errors of HTTP libraries quote it."""
    from tests.edges.airflow.test_operator import DAY, operator

    connection(monkeypatch, "keld_default", password=key)
    ended = worker.run(operator(), **DAY)
    assert "The key of openai holds a space" in str(ended.error)
    assert "keld_default" in str(ended.error)
    assert provider.requests() == []
    assert "CANARY" not in ended.kept + "".join(capfd.readouterr())


def test_ledger_home_and_namespace_come_from_the_connection_or_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW__KELD__HOME", str(tmp_path / "configured"))
    monkeypatch.setenv("AIRFLOW__KELD__NAMESPACE", "support")
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", "postgres://keld:secret@db:5432/ledger")
    connection(monkeypatch, extra={"ledger_conn_id": "ledger", "namespace": "search"})
    with opened() as keld:
        assert (keld.home, keld.namespace) == (tmp_path / "configured", "search")
        assert keld.ledger_url == "postgresql://keld:secret@db:5432/ledger"


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("postgres://keld:p%40ss%2Fw%25@db/ledger", "postgresql://keld:p%40ss%2Fw%25@db/ledger"),
        ({"host": "db", "port": 6432, "schema": "ledger"}, "postgresql://keld:p%40ss%2Fw%25@db:6432/ledger"),
        # With a number among them, Airflow's URI has the extra as one field `__extra__`, which libpq refuses.
        (
            {
                "host": "db",
                "schema": "ledger",
                "extra": {"sslmode": "require", "keepalives_idle": 30, "cursor": "dictcursor", "iam": False},
            },
            "postgresql://keld:p%40ss%2Fw%25@db/ledger?keepalives_idle=30&sslmode=require",
        ),
        ({"host": "/run/pg", "schema": "ledger"}, "postgresql://keld:p%40ss%2Fw%25@/ledger?host=%2Frun%2Fpg"),
        ({"schema": "ledger"}, "postgresql://keld:p%40ss%2Fw%25@/ledger"),
    ],
)
def test_a_ledger_is_where_airflows_own_postgres_hook_would_connect(monkeypatch: pytest.MonkeyPatch, written: Any, url: str) -> None:
    import sqlalchemy as sa

    if isinstance(written, dict):
        written = json.dumps({"conn_type": "postgres", "login": "keld", "password": "p@ss/w%", **written})
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", written)
    connection(monkeypatch, extra={"ledger_conn_id": "ledger"})
    with opened() as keld:
        assert sa.make_url(keld.ledger_url) == sa.make_url(url)


@pytest.mark.parametrize("extra", [{"iam": True}, {"options": {"statement_timeout": 5}}])
def test_a_ledger_that_cannot_be_reached_as_its_connection_says_is_refused(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", json.dumps({"conn_type": "postgres", "password": "CANARY", "host": "db", "extra": extra}))
    connection(monkeypatch, extra={"ledger_conn_id": "ledger"})
    with pytest.raises(Exception, match=r"The connection ledger .* Nothing was sent") as refused:
        opened()
    assert "CANARY" not in str(refused.value)


@since("3.2")  # before, Airflow reads no command for a setting of a provider, and Keld refuses to go on without
@pytest.mark.parametrize("command", ["echo postgresql://keld:secret@db/ledger", "printf postgresql://keld:secret@db/ledger"])
def test_the_ledger_may_be_told_by_a_command(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """As the address of Airflow's own database: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD."""
    monkeypatch.setenv("AIRFLOW__KELD__LEDGER_URL_CMD", command)
    with opened() as keld:
        assert keld.ledger_url == "postgresql://keld:secret@db/ledger"


@pytest.mark.parametrize(("way", "value"), [("CMD", "true"), ("CMD", "cat /nowhere/CANARY"), ("SECRET", "keld/ledger-CANARY")])
def test_a_ledger_whose_command_or_secret_gives_nothing_is_not_replaced_by_a_file(
    monkeypatch: pytest.MonkeyPatch, way: str, value: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW__KELD__LEDGER_URL_{way}", value)
    with pytest.raises(Exception, match=rf"AIRFLOW__KELD__LEDGER_URL_{way} (gave nothing|failed).* Nothing was sent") as refused:
        opened()
    assert "CANARY" not in str(refused.value)


def test_a_percent_sign_in_airflows_file_of_settings_is_told_with_what_to_write(tmp_path: Path) -> None:
    """Airflow's own message is a traceback of the file's parser; of `ledger_url`, Airflow itself does not start."""
    (tmp_path / "airflow.cfg").write_text("[keld]\nhome = /data/100%/keld\n")
    opens = "from keld_airflow import KeldHook; KeldHook().open()"
    ended = subprocess.run(
        [sys.executable, "-c", opens], env={**os.environ, "AIRFLOW_HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert "home in the section [keld] of airflow.cfg. Nothing was sent. In that file a % is written %%" in ended.stderr


@pytest.mark.parametrize(("variable", "home"), [("KELD_HOME", "keld"), ("AIRFLOW_HOME", "airflow/keld")])
def test_a_home_is_the_same_directory_in_each_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, home: str) -> None:
    """A `~` in a file of variables, as of Docker or systemd, is read by no shell; and each process has its own working directory."""
    monkeypatch.delenv("KELD_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, f"~/{variable.partition('_')[0].lower()}")
    with opened() as keld:
        assert keld.home == tmp_path / home
    monkeypatch.setenv(variable, "data/keld")
    with pytest.raises(Exception, match=f"The {variable} is 'data/keld', which is another directory"):
        opened()


def test_a_connection_is_tested_by_a_list_which_costs_nothing(provider: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    from keld_airflow import KeldHook

    connection(monkeypatch, host=provider.env()["OPENAI_BASE_URL"], password="sk-any")
    good, said = KeldHook().test_connection()
    assert good, said
    assert said == f"openai at {provider.env()['OPENAI_BASE_URL'].removesuffix('/v1')} answers; its list shows 0 batches."
    provider.faults({"rules": [{"at": "any", "do": "status", "status": 401, "times": None, "message": "no"}]})
    good, said = KeldHook().test_connection()
    assert not good
    assert "sk-any" not in said


def test_a_provider_is_reached_by_the_region_bucket_and_role_of_the_connection(provider: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment has none of them."""
    from keld_airflow import KeldHook

    for name in ("AWS_REGION", "KELD_BEDROCK_BUCKET", "KELD_BEDROCK_ROLE"):
        monkeypatch.delenv(name, raising=False)
    place = {"region": "eu-central-1", "bucket": "s3://keld/batches", "role": "arn:aws:iam::123456789012:role/keld"}
    connection(monkeypatch, host=provider.env()["AWS_ENDPOINT_URL_BEDROCK"], password="key-CANARY", extra={"provider": "bedrock", **place})
    good, said = KeldHook().test_connection()
    assert good, said
    assert "eu-central-1" in said
    connection(monkeypatch, host=provider.env()["AWS_ENDPOINT_URL_BEDROCK"], password="key-CANARY", extra={"provider": "bedrock"})
    good, said = KeldHook().test_connection()
    assert not good
    assert "needs region= (or AWS_REGION), bucket=" in said
    assert "the extra of an Airflow connection" in said


# --- what Airflow is told ---------------------------------------------------------------------------------------------


def test_what_airflow_is_told_is_of_its_own_form() -> None:
    """Also of the stricter one that its own providers are held to, but for what only a release manager of theirs writes."""
    import airflow
    from jsonschema import Draft7Validator

    schemas = Path(airflow.__file__).parent
    info = Draft7Validator(json.loads((schemas / "provider_info.schema.json").read_text()))
    assert [error.message for error in info.iter_errors(get_provider_info())] == []
    strict = Draft7Validator(json.loads((schemas / "provider.yaml.schema.json").read_text()))
    told = get_provider_info() | {"state": "ready", "source-date-epoch": 0}
    assert [
        error.message for error in strict.iter_errors(told) if "conn-fields" not in error.message or find_spec("airflow.sdk.serde")
    ] == []
    guides = [guide for one in told["integrations"] for guide in one["how-to-guide"]]
    assert [guide for guide in guides if not (ROOT / guide.removeprefix("/")).exists()] == []


def test_everything_it_names_can_be_imported() -> None:
    from pkgutil import resolve_name

    told = get_provider_info()
    named = [*told["extra-links"], *told["notifications"], told["connection-types"][0]["hook-class-name"]]
    named += [decorator["class-name"] for decorator in told["task-decorators"]]
    assert all(resolve_name(name) for name in named)
    modules = [module for kind in ("operators", "sensors", "hooks", "triggers") for module in told[kind][0]["python-modules"]]
    assert all(__import__(module) for module in modules)


def test_no_field_of_the_form_holds_a_secret() -> None:
    """Airflow's API hides an extra only by its name; the key is the connection's password."""
    [form] = get_provider_info()["connection-types"]
    assert set(form["conn-fields"]) == {"provider", "account", "more_accounts", "ledger_conn_id", "home", "namespace"}
    assert not form["conn-fields"].keys() & account_fields().keys()
    assert get_provider_info()["config"]["keld"]["options"]["ledger_url"]["sensitive"] is True


# What an Airflow finds that has started just now; each printed by itself, so that one that fails takes no other with it.
ASKED = {
    "references": "from airflow.plugins_manager import get_deadline_references_plugins as refs; print(list(refs()))",
    "form": (
        "import json; from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService;"
        "[keld] = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == 'keld'];"
        "print('META', keld.model_dump_json())"
    ),
    "providers": (
        "from airflow.providers_manager import ProvidersManager as M; from airflow.sdk import task;"
        "from importlib.metadata import entry_points as points;"
        "[plugin] = [point.load() for point in points(group='airflow.plugins') if point.name == 'keld'];"
        "print(sorted(M().providers), M().hooks['keld'].hook_name, task.keld_batch, plugin)"
    ),
}
ASK = """
import contextlib, io, json, sys, traceback
for name, code in json.loads(sys.argv[1]).items():
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            exec(code, {})
        except Exception:
            said.write(traceback.format_exc())
    print("ANSWER", json.dumps([name, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def fresh_airflow() -> dict[str, str]:
    """What a new process says to each of `ASKED`: as installed, by the entry points.  To start it takes three seconds, so there is one."""
    ended = subprocess.run([sys.executable, "-c", ASK, json.dumps(ASKED)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(line.removeprefix("ANSWER ")) for line in ended.stdout.splitlines() if line.startswith("ANSWER "))


def test_airflow_finds_the_connection_type_the_decorator_and_the_plugin(fresh_airflow: dict[str, str]) -> None:
    said = fresh_airflow["providers"]
    assert "'keld'" in said
    assert "keld_batch_task" in said
    assert "keld_airflow.plugin.KeldPlugin" in said


@since("3.2")
def test_airflow_finds_the_reference_of_deadlines(fresh_airflow: dict[str, str]) -> None:
    assert "keld_airflow.deadline.PartitionEnd" in fresh_airflow["references"]


@pytest.mark.wide
def test_an_airflow_that_asks_the_hook_for_the_form_of_a_connection_is_given_the_same_fields(fresh_airflow: dict[str, str]) -> None:
    """Airflow 3.1 makes the form by `wtforms`, or by a stand-in that its API server has for them; a later one reads the provider's metadata."""
    said = fresh_airflow["form"]
    assert "META" in said, said
    form = json.loads(said.partition("META")[2])
    assert set(form["extra_fields"]) == set(CONNECTION_FIELDS)
    assert form["extra_fields"]["provider"]["schema"]["enum"] == list(kinds())
    assert form["extra_fields"]["account"]["description"] == CONNECTION_FIELDS["account"]["description"]
    assert (form["standard_fields"]["password"]["title"], form["standard_fields"]["login"]["hidden"]) == ("API key", True)


# --- partitions -------------------------------------------------------------------------------------------------------

MIDNIGHT = datetime(2026, 11, 19, tzinfo=UTC)
RUN = SimpleNamespace(run_after=datetime(2026, 11, 20, 6, tzinfo=UTC))


def interval(start: datetime, span: timedelta) -> dict[str, Any]:
    return {"data_interval_start": start, "data_interval_end": start + span, "dag_run": RUN}


@pytest.mark.parametrize(
    ("context", "key", "ends_at"),
    [
        (interval(MIDNIGHT, timedelta(days=1)), "2026-11-19", MIDNIGHT + timedelta(days=1)),
        (interval(MIDNIGHT, timedelta(0)), "2026-11-19", MIDNIGHT),  # "@daily" without an interval
        (interval(MIDNIGHT, timedelta(hours=1)), "2026-11-19-00:00", MIDNIGHT + timedelta(hours=1)),
        (interval(MIDNIGHT.replace(hour=8, minute=30), timedelta(0)), "2026-11-19-08:30", MIDNIGHT.replace(hour=8, minute=30)),
        (interval(MIDNIGHT.replace(second=7), timedelta(0)), "2026-11-19T00:00:07+00:00", MIDNIGHT.replace(second=7)),  # by hand
        ({"partition_key": "2026-11-19", "partition_date": MIDNIGHT, "dag_run": RUN}, "2026-11-19", None),
        ({"partition_key": "eu", "dag_run": RUN}, "eu", None),
        ({"dag_run": RUN}, None, RUN.run_after),  # by an asset, or by hand without a date
    ],
)
def test_the_partition_of_a_run_is_what_it_stands_for(context: dict[str, Any], key: str | None, ends_at: datetime | None) -> None:
    from keld_airflow.partition import partition_of

    found = partition_of(context)
    assert (found.key, found.ends_at) == (key, ends_at)


@since("3.2")
def test_a_partition_lasts_to_the_next_tick_of_its_dag() -> None:
    """Airflow knows only its beginning; a day in Paris is 25 hours long in October."""
    from airflow.sdk import DAG, CronPartitionTimetable

    from keld_airflow.partition import partition_of

    daily = CronPartitionTimetable("0 0 * * *", timezone="Europe/Paris", run_offset=-1, key_format="%Y-%m-%d")
    begins = datetime(2026, 10, 24, 22, tzinfo=UTC)
    context = {"partition_key": "2026-10-25", "partition_date": begins, "dag": DAG("paris", schedule=daily), "dag_run": RUN}
    assert partition_of(context).ends_at == datetime(2026, 10, 25, 23, tzinfo=UTC)
    assert partition_of(context, window=timedelta(hours=1)).ends_at == begins + timedelta(hours=1)
    assert partition_of(context, key="eu|2026-10-25").key == "eu|2026-10-25"


# --- people -----------------------------------------------------------------------------------------------------------


def test_people_are_told_which_job_runs_are_late_and_how_far_they_are(worker: Worker, provider: Emulator) -> None:
    from keld_airflow import KeldBatchOperator, KeldLateNotifier

    assert "no job run is late" in KeldLateNotifier().text()
    task = KeldBatchOperator(task_id="label", job=job(deadline=timedelta(microseconds=1)), source=lambda: [{"id": 1, "body": "CANARY"}])
    worker.until_sent(task, partition_key="2026-11-19")
    said = KeldLateNotifier().text()
    assert "labels[2026-11-19] was due" in said
    assert "CANARY" not in said


@pytest.fixture
def chat() -> Iterator[tuple[int, list[str]]]:
    """A chat's webhook on this machine: its port, and the paths that were posted to; it knows no others than those with `B0` in them."""
    posted: list[str] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200 if "B0" in self.path else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, posted
        server.shutdown()


@pytest.mark.parametrize(
    "written",
    [
        {"conn_type": "slackwebhook", "host": "http://127.0.0.1:PORT/services"},
        {"conn_type": "http", "host": "127.0.0.1", "port": "PORT", "schema": "http"},
    ],
)
def test_people_are_told_by_the_webhook_that_a_connection_names(
    provider: Emulator, monkeypatch: pytest.MonkeyPatch, chat: tuple[int, list[str]], written: dict[str, Any]
) -> None:
    from keld_airflow import KeldLateNotifier

    port, posted = chat
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps({**written, "password": "T0/B0/CANARY"}).replace("PORT", str(port)))
    KeldLateNotifier(webhook_conn_id="chat").notify({})
    assert [path.removeprefix("/services") for path in posted] == ["/T0/B0/CANARY"]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('{"conn_type": "slackwebhook", "host": "http://127.0.0.1:PORT/services", "password": "CANARY"}', "chat answered 404"),
        ('{"conn_type": "slackwebhook", "host": "http://127.0.0.1:1/services", "password": "CANARY"}', "could not be called: ConnectError"),
        ("http://:CANARY@127.0.0.1:PORT/services", "chat is no webhook: its host is no URL"),
    ],
)
def test_a_webhook_that_does_not_take_a_message_is_told_without_its_secret_end(
    provider: Emulator, monkeypatch: pytest.MonkeyPatch, chat: tuple[int, list[str]], written: str, says: str
) -> None:
    """The client's own error quotes the whole address, which is all that anybody needs to post there."""
    from keld_airflow import KeldLateNotifier

    monkeypatch.setenv("AIRFLOW_CONN_CHAT", written.replace("PORT", str(chat[0])))
    with pytest.raises(Exception, match=says) as refused:
        KeldLateNotifier(webhook_conn_id="chat").notify({})
    assert "CANARY" not in "".join(traceback.format_exception(refused.value))


def test_a_page_of_the_batch_is_linked_where_the_provider_has_one(worker: Worker, provider: Emulator) -> None:
    from keld_airflow import KeldBatchOperator
    from keld_airflow.link import KeldBatchLink

    task = KeldBatchOperator(task_id="label", job=job(), source=lambda: [{"id": 1, "body": "b"}])
    sent = worker.until_sent(task, partition_key="2026-11-19")
    assert sent.xcoms["_link_KeldBatchLink"] == ""
    task.batch_page = "https://platform.openai.com/batches/batch_1"
    assert KeldBatchLink().get_link(task, ti_key=None) == task.batch_page  # type: ignore[arg-type]


@since("3.2")
def test_a_deadline_from_the_partitions_end_survives_airflows_serialisation() -> None:
    """The scheduler meets it in the serialised Dag, and knows it by the plugin."""
    from airflow.sdk import AsyncCallback, DeadlineAlert
    from airflow.serialization.decoders import decode_deadline_alert
    from airflow.serialization.encoders import encode_deadline_alert

    from keld_airflow import KeldLateNotifier, PartitionEnd

    late = AsyncCallback(KeldLateNotifier, {"job": "labels"})
    alert = DeadlineAlert(reference=PartitionEnd(window=timedelta(hours=1)), interval=timedelta(hours=6), callback=late)
    reference = decode_deadline_alert(encode_deadline_alert(alert)).reference
    assert reference.inner_ref == PartitionEnd(window=timedelta(hours=1))
    assert reference.inner_ref != PartitionEnd()


def test_everything_public_can_be_imported_or_says_which_airflow_it_needs() -> None:
    import keld_airflow

    later = (
        set() if find_spec("airflow.sdk.serde") else {"PartitionEnd"}
    )  # what Airflow 3.1 has no place for; here, since it imports Airflow
    there = set(keld_airflow.__all__) - later
    assert [name for name in there if not hasattr(keld_airflow, name)] == []
    for name in later:
        with pytest.raises(ImportError, match=f"{name} needs Airflow 3.2 or later"):
            getattr(keld_airflow, name)
