"""Connections that were made for other provider packages of Airflow's: read as their own hooks read them, or refused in words.

The notations are those that the documentation of the provider packages shows: openai 2.2, anthropic 1.2, common-ai 1.0, amazon 9.39, google 22.8,
microsoft-azure 15.2.
"""

import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keld import Account, Keld
from keld.emulator import Emulator
from keld.providers.account import key_of
from tests.edges.airflow.airflow_worker import Worker


def _needs(module: str, extra: str) -> pytest.MarkDecorator:
    """For a test of a cloud whose library an environment of an older Airflow does not have."""
    lacks = importlib.util.find_spec(module.partition(".")[0]) is None or importlib.util.find_spec(module) is None
    return pytest.mark.skipif(lacks, reason=f"{module} is not installed: pip install 'keld[{extra}]'")


AWS_KEY = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
ROLE = "arn:aws:iam::123456789012:role/analysts"
# What Keld needs beside what the other hooks read.
BATCHES = {"bucket": "s3://b/keld", "role": "arn:aws:iam::123456789012:role/keld"}
DAY = {"partition_key": "2026-11-19"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key in the environment: what is found comes from the connection."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_REGION", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def opened(monkeypatch: pytest.MonkeyPatch, notation: str | dict[str, Any]) -> Keld:
    from keld_airflow import KeldHook

    monkeypatch.setenv("AIRFLOW_CONN_SHARED", notation if isinstance(notation, str) else json.dumps(notation))
    return KeldHook("shared").open()


def account(monkeypatch: pytest.MonkeyPatch, notation: str | dict[str, Any], name: str) -> Account:
    with opened(monkeypatch, notation) as keld:
        return keld.accounts[name]


# --- a key and an address ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notation", "kind", "base_url", "key"),
    [
        ({"conn_type": "openai", "password": "sk-1"}, "openai", None, "sk-1"),
        ("openai://:sk-1@", "openai", None, "sk-1"),
        ({"conn_type": "openai", "password": "sk-1", "host": "https://eu.api.openai.com/v1"}, "openai", "https://eu.api.openai.com/v1", "sk-1"),
        (  # the arguments of the client win over password and host
            {
                "conn_type": "openai", "password": "sk-1", "host": "https://a/v1",
                "extra": {"openai_client_kwargs": {"timeout": 10, "api_key": "sk-2", "base_url": "https://b/v1"}},
            },
            "openai", "https://b/v1", "sk-2",
        ),
        ({"conn_type": "openai", "password": "sk-1", "extra": {"auth_type": "api_key"}}, "openai", None, "sk-1"),
        ({"conn_type": "openai", "password": "gsk", "host": "https://api.groq.com/openai/v1", "extra": {"provider": "groq"}}, "groq", "https://api.groq.com/openai/v1", "gsk"),
        ({"conn_type": "anthropic", "password": "sk-ant", "extra": {"model": "claude-opus-4-8", "platform": "anthropic"}}, "anthropic", None, "sk-ant"),
        (
            {"conn_type": "anthropic", "password": "sk-ant", "extra": {"anthropic_client_kwargs": {"timeout": 30, "max_retries": 5}, "region": "us-east5"}},
            "anthropic", None, "sk-ant",
        ),
        ({"conn_type": "pydanticai", "password": "sk-1", "extra": {"model": "openai:gpt-5", "fallback_conn_ids": ["b"]}}, "openai", None, "sk-1"),
        ({"conn_type": "pydanticai", "password": "sk-1", "extra": {"model": "openai-responses:gpt-5"}}, "openai", None, "sk-1"),
        ({"conn_type": "pydanticai", "password": "sk-ant", "extra": {"model": "anthropic:claude-sonnet-5"}}, "anthropic", None, "sk-ant"),
        ({"conn_type": "pydanticai", "password": "key-1", "extra": {"model": "mistral:mistral-small-latest"}}, "mistral", None, "key-1"),
        ({"conn_type": "pydanticai", "password": "key-1", "host": "http://localhost:11434/v1", "extra": {"model": "ollama:qwen3"}}, "self_hosted", "http://localhost:11434/v1", "key-1"),
        ({"conn_type": "pydanticai", "password": "key-1", "extra": {"provider": "xai"}}, "xai", None, "key-1"),
        (
            {"conn_type": "pydanticai_azure", "password": "key-1", "host": "https://r.openai.azure.com/openai/v1", "extra": {"model": "azure:gpt-5"}},
            "azure", "https://r.openai.azure.com/openai/v1", "key-1",
        ),
        ({"conn_type": "pydanticai_bedrock", "extra": {"model": "bedrock:us.anthropic.claude-opus-4-5", "api_key": "bearer", **BATCHES}}, "bedrock", None, "bearer"),
        ({"conn_type": "pydanticai_vertex", "extra": {"model": "google:gemini-2.5-flash", "api_key": "AIza"}}, "gemini", None, "AIza"),
    ],
)  # fmt: skip
def test_a_key_is_read_where_its_own_hook_reads_it(
    monkeypatch: pytest.MonkeyPatch, notation: str | dict[str, Any], kind: str, base_url: str | None, key: str
) -> None:
    found = account(monkeypatch, notation, kind)
    assert (found.kind, found.base_url, key_of(kind, found, "NO_SUCH_VARIABLE"), found.credentials) == (kind, base_url, key, None)
    assert key not in repr(found)


def test_a_task_runs_with_the_connection_that_is_already_there(worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with a second one, of another type, for its other model."""
    from keld_airflow import KeldBatchOperator

    env = provider.env()
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name)
    openai = {"conn_type": "openai", "password": "sk-CANARY", "host": env["OPENAI_BASE_URL"], "extra": {"more_accounts": "claude"}}
    claude = {"conn_type": "anthropic", "password": "sk-CANARY", "host": env["ANTHROPIC_BASE_URL"], "extra": {"account": "claude"}}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(openai))
    monkeypatch.setenv("AIRFLOW_CONN_CLAUDE", json.dumps(claude))
    for model in ("openai:gpt-5-mini", "claude:claude-haiku-4-5"):
        task = KeldBatchOperator(
            task_id="label", source=lambda: [{"id": 1, "body": "b"}], keld_conn_id="openai_default", name=model.partition(":")[0], key="id",
            prompt="{body}", model=model,
        )  # fmt: skip
        ended = worker.through(task, provider, **DAY)
        assert ended.state == "success", ended.error
        assert "CANARY" not in ended.kept
    assert [entry.provider for entry in provider.bill()] == ["openai", "anthropic"]


# --- an identity in a cloud -------------------------------------------------------------------------------------------


class Identities(http.server.ThreadingHTTPServer):
    """Who gives out roles and tokens: AWS' security token service, and Google's."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, list[str]]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Identities

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        self.server.asked.append(asked | {"authorization": [self.headers.get("authorization", "")]})
        answer = json.dumps({"access_token": "google-token", "token_type": "Bearer", "expires_in": 3600})
        if "Action" in asked:
            answer = (
                '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>'
                "<SecretAccessKey>role-secret</SecretAccessKey><SessionToken>role-token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
                "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
            )
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def identities(monkeypatch: pytest.MonkeyPatch) -> Iterator[Identities]:
    made = Identities()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", made.url)
    yield made
    made.shutdown()
    made.server_close()


def aws(**fields: Any) -> dict[str, Any]:
    extra = {"region_name": "eu-central-1", **BATCHES, **fields.pop("extra", {})}
    return {"conn_type": "aws", **fields, "extra": extra}


@pytest.mark.parametrize(
    "notation",
    [
        aws(login=AWS_KEY[0], password=AWS_KEY[1], extra={"aws_session_token": "t"}),
        aws(extra={"aws_access_key_id": AWS_KEY[0], "aws_secret_access_key": AWS_KEY[1], "aws_session_token": "t"}),
        f"aws://{AWS_KEY[0]}:{quote(AWS_KEY[1], safe='')}@/?" + urlencode({"region_name": "eu-central-1", "aws_session_token": "t", **BATCHES}),
        {
            "conn_type": "pydanticai_bedrock",
            "extra": {
                "region_name": "eu-central-1", "aws_access_key_id": AWS_KEY[0], "aws_secret_access_key": AWS_KEY[1], "aws_session_token": "t", **BATCHES,
            },
        },
    ],
    ids=["login", "extra", "uri", "pydantic ai"],
)  # fmt: skip
def test_a_key_of_aws_signs_for_bedrock_whatever_the_environment_holds(
    monkeypatch: pytest.MonkeyPatch, notation: str | dict[str, Any]
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "somebody-elses")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-elses")
    found = account(monkeypatch, notation, "bedrock")
    assert found.credentials is not None
    assert tuple(found.credentials().get_frozen_credentials())[:3] == (*AWS_KEY, "t")
    assert getattr(found, "region", None) == "eu-central-1"
    assert AWS_KEY[1] not in repr(found)


def test_a_role_of_aws_is_assumed_by_the_key_of_the_connection(monkeypatch: pytest.MonkeyPatch, identities: Identities) -> None:
    """As the hook of the Amazon package does, renewed before it expires."""
    role = {"role_arn": ROLE, "assume_role_kwargs": {"ExternalId": "external", "RoleSessionName": "airflow"}}
    found = account(monkeypatch, aws(login=AWS_KEY[0], password=AWS_KEY[1], extra=role), "bedrock")
    assert found.credentials is not None
    assert identities.asked == [], "not before it is used"
    assert tuple(found.credentials().get_frozen_credentials())[:3] == ("ASIAROLE", "role-secret", "role-token")
    [asked] = identities.asked
    assert (asked["RoleArn"], asked["ExternalId"], asked["RoleSessionName"]) == ([ROLE], ["external"], ["airflow"])
    assert AWS_KEY[0] in asked["authorization"][0]


def test_an_empty_connection_of_aws_is_the_role_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert account(monkeypatch, "aws://@/?" + urlencode({"region_name": "eu-central-1", **BATCHES}), "bedrock").credentials is None


def test_bedrock_is_called_with_the_connection_of_aws(monkeypatch: pytest.MonkeyPatch, provider: Emulator) -> None:
    from keld_airflow import KeldHook

    notation = aws(
        login=AWS_KEY[0],
        password=AWS_KEY[1],
        extra={"service_config": {"bedrock": {"endpoint_url": provider.env()["AWS_ENDPOINT_URL_BEDROCK"]}}},
    )
    monkeypatch.setenv("AIRFLOW_CONN_SHARED", json.dumps(notation))
    good, said = KeldHook("shared").test_connection()
    assert good, said


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


@_needs("google.auth", "vertex")
@pytest.mark.parametrize("form", ["object", "text", "path", "uri", "old name", "pydantic ai"])
def test_a_key_of_google_gives_the_token_for_vertex(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, identities: Identities, private_key: str, form: str
) -> None:
    """Its project is the account's where the connection names none."""
    from keld.patience import Patience
    from keld.providers.part import Connection
    from keld.providers.transports.vertex_auth import auth

    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "somebody-elses")
    key = {
        "type": "service_account", "project_id": "of-the-key", "client_email": "keld@p.iam.gserviceaccount.com", "private_key": private_key,
        "token_uri": f"{identities.url}/token",
    }  # fmt: skip
    (tmp_path / "key.json").write_text(json.dumps(key))
    place = {"location": "europe-west1", "bucket": "gs://b/keld"}
    extras: dict[str, dict[str, Any]] = {
        "object": {"keyfile_dict": key, "num_retries": 5}, "text": {"keyfile_dict": json.dumps(key)}, "uri": {"keyfile_dict": json.dumps(key)},
        "path": {"key_path": str(tmp_path / "key.json"), "project": "of-the-key", "scope": "https://www.googleapis.com/auth/cloud-platform"},
        "old name": {"extra__google_cloud_platform__keyfile_dict": json.dumps(key)}, "pydantic ai": {"service_account_info": key},
    }  # fmt: skip
    extra = extras[form] | place
    conn_type = "pydanticai_vertex" if form == "pydantic ai" else "google_cloud_platform"
    found = account(
        monkeypatch, f"google-cloud-platform://?{urlencode(extra)}" if form == "uri" else {"conn_type": conn_type, "extra": extra}, "vertex"
    )
    assert (getattr(found, "project", None), getattr(found, "location", None)) == ("of-the-key", "europe-west1")
    made = auth(Connection(account=found, base_url="http://127.0.0.1:1", key=lambda: "", patience=Patience()))
    assert made.token().value == "google-token"
    assert "PRIVATE KEY" not in repr(found)


def test_a_region_is_read_wherever_the_connection_has_it_and_two_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two would win in silence, and the rows go to the other region."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    keys = {"conn_type": "aws", "login": "AKIA", "password": "secret"}
    found = account(monkeypatch, {**keys, "extra": {"config_kwargs": {"region_name": "eu-west-1"}}}, "bedrock")
    assert getattr(found, "region", None) == "eu-west-1"
    with pytest.raises(AirflowFailException, match="region_name='eu-west-1' and region='us-east-1'"):
        account(monkeypatch, {**keys, "extra": {"region_name": "eu-west-1", "region": "us-east-1"}}, "bedrock")


@pytest.mark.parametrize("old_first", [True, False])
def test_a_field_wins_over_the_same_one_with_an_old_prefix(monkeypatch: pytest.MonkeyPatch, old_first: bool) -> None:
    """As in Google's hook; else the order in the extra would decide whose project pays."""
    fields = {"extra__google_cloud_platform__project": "old", "project": "new", "location": "global", "bucket": "gs://b/keld"}
    extra = fields if old_first else dict(reversed(fields.items()))
    found = account(monkeypatch, {"conn_type": "google_cloud_platform", "extra": extra}, "vertex")
    assert getattr(found, "project", None) == "new"


@_needs("google.auth", "vertex")
def test_a_connection_of_google_may_stand_for_another_service_account(
    monkeypatch: pytest.MonkeyPatch, identities: Identities, private_key: str
) -> None:
    key = {"type": "service_account", "project_id": "p", "client_email": "a@p", "private_key": private_key, "token_uri": identities.url}
    extra = {"keyfile_dict": key, "impersonation_chain": "b@p, c@p", "quota_project_id": "paying"}
    found = account(monkeypatch, {"conn_type": "google_cloud_platform", "extra": extra}, "vertex")
    assert found.credentials is not None
    made = found.credentials()
    assert (made.service_account_email, made._delegates, made.quota_project_id) == ("c@p", ["b@p"], "paying")


@_needs("azure.identity", "azure")
def test_a_service_principal_of_azure_is_the_one_that_signs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.identity import ClientSecretCredential, DefaultAzureCredential

    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "somebody-elses")
    notation = "azure://client:s%2Fcret@?tenantId=11111111-1111-1111-1111-111111111111&subscriptionId=x"
    found = account(monkeypatch, notation, "azure")
    assert found.credentials is not None
    made = found.credentials()
    assert isinstance(made, ClientSecretCredential)
    assert (made._tenant_id, made._client_id) == ("11111111-1111-1111-1111-111111111111", "client")
    ambient = account(monkeypatch, {"conn_type": "azure", "extra": {"managed_identity_client_id": "m"}}, "azure")
    assert ambient.credentials is not None
    assert isinstance(ambient.credentials(), DefaultAzureCredential)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notation", "says"),
    [
        ({"conn_type": "openai", "extra": {"auth_type": "workload_identity"}}, "auth_type='workload_identity'"),
        ({"conn_type": "openai", "password": "CANARY", "extra": {"openai_client_kwargs": {"organization": "org-CANARY"}}}, "'organization' in openai_client_kwargs"),
        ({"conn_type": "openai", "password": "CANARY", "extra": {"openai_client_kwargs": "CANARY"}}, "no JSON object"),
        ({"conn_type": "openai", "password": "CANARY", "extra": {"provider": "nobody"}}, "provider='nobody'"),
        ({"conn_type": "anthropic", "extra": {"platform": "bedrock"}}, "Give a connection of type aws"),
        ({"conn_type": "anthropic", "extra": {"workload_identity": {"identity_token_file": "/CANARY"}}}, "'workload_identity', by which its own hook"),
        ({"conn_type": "pydanticai", "password": "CANARY"}, "names no provider that Keld knows"),
        ({"conn_type": "pydanticai", "password": "CANARY", "extra": {"model": "cohere:command"}}, "begins with 'cohere'"),
        ({"conn_type": "pydanticai_bedrock", "extra": {"base_url": "https://x"}}, "address of Bedrock's runtime"),
        ({"conn_type": "pydanticai_vertex", "extra": {"api_key": "CANARY"}}, "'api_key', by which its own hook"),
        (aws(login="CANARY"), "a login or a password alone"),
        (aws(extra={"aws_access_key_id": "CANARY"}), "a part of an access key"),
        (aws(extra={"role_arn": ROLE, "assume_role_method": "assume_role_with_saml"}), "assumes a role by assume_role_with_saml"),
        (aws(extra={"session_kwargs": {"profile_name": "CANARY"}}), "'session_kwargs'"),
        (aws(extra={"region_name": "Frankfurt"}), "Write it like 'us-east-1'"),
        (aws(extra={"rolearn": ROLE}), "a field 'rolearn'"),
        ({"conn_type": "google_cloud_platform", "extra": {"key_secret_name": "CANARY"}}, "'key_secret_name'"),
        ({"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True}}, "is anonymous"),
        ({"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": "CANARY"}}, "no JSON object"),
        ({"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": {"a": "CANARY"}, "key_path": "/k"}}, "more than one key"),
        ({"conn_type": "azure", "login": "CANARY", "password": "CANARY"}, "a part of a service principal"),
        ({"conn_type": "azure", "extra": {"cloud_environment": "AzureChinaCloud"}}, "Keld calls AzurePublicCloud"),
        ({"conn_type": "azure", "extra": {"key_json": {"clientSecret": "CANARY"}}}, "'key_json'"),
        ({"conn_type": "postgres", "password": "CANARY"}, "is of type postgres, which holds no account"),
    ],
)  # fmt: skip
def test_what_would_be_another_account_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, notation: dict[str, Any], says: str) -> None:
    """Passed over, it would be paid by somebody else, or be sent to another region."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    with pytest.raises(AirflowFailException) as refused:
        opened(monkeypatch, notation)
    assert says in str(refused.value)
    assert "The connection shared" in str(refused.value)
    assert "Nothing was sent" in str(refused.value)
    assert "CANARY" not in str(refused.value)


@_needs("google.auth", "vertex")
def test_a_key_that_google_cannot_read_is_told_without_quoting_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from keld import AccessRefused

    key = {"type": "service_account", "private_key": "CANARY", "client_email": "a@p", "token_uri": "https://t", "project_id": "p"}
    found = account(monkeypatch, {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": key}}, "vertex")
    assert found.credentials is not None
    with pytest.raises(AccessRefused, match="cannot be read") as refused:
        found.credentials()
    assert "CANARY" not in str(refused.value)
